"""Run many things: notebooks through papermill, and the five of them as one demo."""

from typing import TYPE_CHECKING

from bratskit.jobs.notebooks import find_notebooks, run_notebook
from bratskit.jobs.parameters import check_parameters, read_parameters
from bratskit.jobs.status import Status, read_status, status_path
from bratskit.jobs.structure import check_structure

if TYPE_CHECKING:
    from bratskit.jobs.begin import Run, begin_run

__all__ = [
    "Run",
    "Status",
    "begin_run",
    "check_parameters",
    "check_structure",
    "find_notebooks",
    "read_parameters",
    "read_status",
    "run_notebook",
    "status_path",
]


def __getattr__(name: str) -> object:
    """Import what opens a run only when asked: it needs torch, and running notebooks does not."""
    if name in ("Run", "begin_run"):
        from bratskit.jobs import begin

        return getattr(begin, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
