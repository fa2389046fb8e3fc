"""Run many things: notebooks through papermill, and the five of them as one demo."""

import importlib
from typing import TYPE_CHECKING

from bratskit.jobs.notebooks import find_notebooks, run_notebook
from bratskit.jobs.parameters import check_parameters, read_parameters
from bratskit.jobs.status import Status, read_status, status_path

if TYPE_CHECKING:
    from bratskit.jobs.begin import Run, begin_run
    from bratskit.jobs.structure import check_structure
    from bratskit.jobs.trials import quick_recipe, run_trials

__all__ = [
    "Run",
    "Status",
    "begin_run",
    "check_parameters",
    "check_structure",
    "find_notebooks",
    "quick_recipe",
    "read_parameters",
    "read_status",
    "run_notebook",
    "run_trials",
    "status_path",
]


# Imported only when asked for: `begin` needs numpy and nibabel and `trials` torch, which running a
# notebook does not, and `structure` is a program too (`python -m bratskit.jobs.structure`).
_LATER = {
    "Run": "begin",
    "begin_run": "begin",
    "check_structure": "structure",
    "quick_recipe": "trials",
    "run_trials": "trials",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use."""
    if name in _LATER:
        return getattr(importlib.import_module(f"bratskit.jobs.{_LATER[name]}"), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
