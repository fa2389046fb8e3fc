"""Hold what is known of one notebook run, in a small JSON file that is always whole."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bratskit.runtime import write_atomically

__all__ = ["Status", "read_status", "status_path"]

State = Literal["running", "done", "failed", "stopped"]


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far one run of a notebook came.

    Attributes:
        notebook: Path of the notebook that was run.
        state: "done" only after every cell ran without an error; "failed" after an error of the
            notebook; "stopped" after Ctrl-C or a kill from outside.
        output: Executed notebook; None until the state is "done" or "failed".
        parameters: Values it was run with, beside the defaults of its parameters cell.
        seconds: Wall time.
        cell: Execution count of the cell that failed.
        error: Last line of its error.
        source: Fingerprint of the notebook's code, to see whether it changed since.
        process: Id of the process that runs it.
        made_by: Version, commit and time.
    """

    notebook: str
    state: State = "running"
    output: str | None = None
    parameters: dict[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    cell: int | None = None
    error: str | None = None
    source: str = ""
    process: int = 0
    made_by: dict[str, str] = field(default_factory=dict)

    def save(self, path: Path | str) -> None:
        """Write the status as JSON, whole or not at all."""
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def __str__(self) -> str:
        """Say it in one line."""
        name = Path(self.notebook).stem
        where = f" in cell [{self.cell}]" if self.cell is not None else ""
        why = f"{where}: {self.error}" if self.error else ""
        return f"{name} {self.state} after {self.seconds:.0f} s{why}"


def status_path(out: Path | str, notebook: Path | str) -> Path:
    """Return where the status of a notebook run into the folder `out` stands."""
    return Path(out) / f"{Path(notebook).stem}.status.json"


def read_status(path: Path | str) -> Status | None:
    """Read a status file, or None where there is none that can be read.

    A run that says "running" while its process is gone (power cut, `kill -9`) is "stopped".
    """
    path = Path(path)
    if not path.is_file():
        return None
    try:
        status = Status(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError):  # of another version, or damaged: it proves nothing
        return None
    if status.state == "running" and not _is_alive(status.process):
        error = "its process was killed (out of memory?) or the machine went down"
        return dataclasses.replace(status, state="stopped", error=error)
    return status


def _is_alive(process: int) -> bool:
    import psutil

    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and "bratskit" in " ".join(found.cmdline())
    except psutil.Error:
        return False
