"""Run one notebook with checked parameters in a process of its own, and say how it went."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import bratskit
from bratskit.jobs.parameters import Value, check_parameters, code_cells, read_parameters
from bratskit.jobs.status import Status, read_status, status_path
from bratskit.runtime import RunFolder, made_by

__all__ = ["find_notebooks", "fingerprint", "run_notebook", "write_line"]

HEARTBEAT_S = 30.0  # a line after this long without one, so that nobody takes slow for stuck
POLL_S = 0.5
GRACE_S = 15.0  # time a child gets to take its kernel down before it is killed


def write_line(line: str) -> None:
    """Show a line of progress at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def find_notebooks(pattern: str = "0*.ipynb") -> list[Path]:
    """List the notebooks of the checkout that this package is installed from.

    Raises:
        FileNotFoundError: bratskit was installed without its notebooks.
    """
    folder = Path(bratskit.__file__).resolve().parents[1] / "notebooks"
    found = sorted(folder.glob(pattern))
    if not found:
        msg = (
            f"notebooks must stand beside the package; got no {pattern} in {folder}. "
            "Clone the repository and run `pip install -e .` in it."
        )
        raise FileNotFoundError(msg)
    return found


def fingerprint(path: Path | str) -> str:
    """Return a hash of a notebook's code; outputs and prose do not count."""
    sources = json.dumps([cell["source"] for cell in code_cells(path)])
    return hashlib.sha256(sources.encode()).hexdigest()[:16]


def run_notebook(
    path: Path | str,
    *,
    out: Path | str,
    parameters: Mapping[str, Value | Path] | None = None,
    timeout_s: float | None = None,
    on_line: Callable[[str], None] = write_line,
    options: Mapping[str, Value] | None = None,
) -> Status:
    """Run a notebook in a fresh kernel, in its own process, from its own folder.

    `<out>/<name>.ipynb` exists only when every cell ran; after an error the half that ran is
    `<name>.failed.ipynb`. `<out>/<name>.status.json` says how it went.

    Args:
        path: Notebook to run; it is not written to.
        out: Folder for the executed notebook and the status, made if absent.
        parameters: Values for its parameters cell, by name. Paths should be absolute: the
            kernel works in the notebook's folder.
        timeout_s: Longest time for the whole notebook, seconds; None sets no limit.
        on_line: Called with each line that a cell prints, while it runs.
        options: Passed on to papermill, for example `{"record_timing": False}`.

    Returns:
        How it went; a failing cell is no exception here, so that a chain can say what it means.

    Raises:
        ValueError: A parameter's name is not declared, or `out` is the notebook's own folder.
        TypeError: A parameter is of another type than its default.
        FileNotFoundError: There is no such notebook.
        RuntimeError: The same notebook is running into `out` already, or papermill is missing.
        KeyboardInterrupt: Ctrl-C; the kernel is gone and the status says "stopped" by then.
    """
    path = Path(path).resolve()
    checked = check_parameters(read_parameters(path), parameters or {}, where=path.stem)
    _refuse_without_papermill()
    if Path(out).resolve() == path.parent:
        msg = f"out must not be the notebook's own folder; got {out}. Try {out}/runs."
        raise ValueError(msg)
    folder = RunFolder(Path(out)).create().path.resolve()
    status_file = status_path(folder, path)
    before = read_status(status_file)
    if before is not None and before.state == "running":
        msg = f"{path.stem} is running into {folder} already (process {before.process})."
        raise RuntimeError(msg)
    for name in (f"{path.stem}.ipynb", f"{path.stem}.failed.ipynb"):
        (folder / name).unlink(missing_ok=True)
    status = Status(
        notebook=str(path),
        parameters=checked,
        source=fingerprint(path),
        process=os.getpid(),
        made_by=made_by(),
    )
    job = {
        "notebook": str(path),
        "output": str(folder / path.name),
        "status_file": str(status_file),
        "status": dataclasses.asdict(status),
        "options": dict(options or {}),
    }
    return _watch(job, timeout_s=timeout_s, on_line=on_line)


def _refuse_without_papermill() -> None:
    if importlib.util.find_spec("papermill") is None:
        msg = "running notebooks needs papermill; run `pip install 'bratskit[notebooks]'` first."
        raise RuntimeError(msg)


def _watch(
    job: dict[str, object], *, timeout_s: float | None, on_line: Callable[[str], None]
) -> Status:
    """Start the child, pass its lines on, and see to it that nothing of it is left."""
    status_file = Path(job["status_file"])
    tag = uuid.uuid4().hex
    environment = {
        **{name: value for name, value in os.environ.items() if name != "MPLBACKEND"},
        "BRATSKIT_JOB": tag,
        "JUPYTER_PREFER_ENV_PATH": "1",  # the kernel of this Python, not one of the user's others
        "PYTHONUNBUFFERED": "1",
    }
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "bratskit.jobs.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we tell the child
        )
        lines: queue.Queue[str | None] = queue.Queue()
        reader = threading.Thread(target=_read, args=(child.stdout, lines), daemon=True)
        reader.start()
        status = Status(**{**job["status"], "state": "stopped", "error": "stopped by Ctrl-C"})
        try:
            with contextlib.suppress(BrokenPipeError):  # a child that died at once says why itself
                child.stdin.write(json.dumps(job) + "\n")
                child.stdin.flush()
            in_time = _pass_lines_on(child, lines, on_line, timeout_s=timeout_s)
            error = None if in_time else f"took longer than {timeout_s:g} s"
            status = dataclasses.replace(status, state="failed", error=error)
        finally:
            _end(child, tag)
            reader.join(timeout=GRACE_S)  # nobody is left to hold the pipe
            child.stdout.close()
            status = dataclasses.replace(status, seconds=round(time.monotonic() - started, 2))
            status = _settle(status, status_file, child=child.pid, errors=errors)
    return status


def _pass_lines_on(
    child: subprocess.Popen,
    lines: queue.Queue[str | None],
    on_line: Callable[[str], None],
    *,
    timeout_s: float | None,
) -> bool:
    """Pass lines on until the child ends (True) or the time is up (False).

    The child is asked too, not only its output: what a cell started may hold the pipe open.
    """
    started = last = time.monotonic()
    while True:
        now = time.monotonic()
        if timeout_s is not None and now - started > timeout_s:
            return False
        if now - last > HEARTBEAT_S:
            on_line(f"... still running ({now - started:.0f} s)")
            last = now
        try:
            line = lines.get(timeout=POLL_S)
        except queue.Empty:
            if child.poll() is not None:
                return True
            continue
        if line is None:
            return True
        on_line(line)
        last = time.monotonic()


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _end(child: subprocess.Popen, tag: str) -> None:
    """Let the child take its kernel down, then kill whatever is left of the job."""
    import psutil

    with contextlib.suppress(BrokenPipeError):
        child.stdin.close()  # for a child that is still running: stop
    try:
        child.wait(timeout=GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    for process in psutil.process_iter():  # a kernel outlives a child that was killed with -9
        try:
            if process.environ().get("BRATSKIT_JOB") == tag:
                process.kill()
        except (psutil.Error, OSError):
            continue


def _settle(status: Status, status_file: Path, *, child: int, errors: IO[str]) -> Status:
    """Return the status that stands, filling in what a child that died could not write.

    Args:
        status: What to write where the child did not say how it ended.
        status_file: Where the child writes.
        child: Process id of the child.
        errors: What the child wrote to stderr.
    """
    written = read_status(status_file)
    mine = written is not None and written.process == child
    if mine and (written.state == "done" or status.error is None):
        status = written
    elif status.error is None:  # it never came as far as its first status
        errors.seek(0)
        said = errors.read().strip().splitlines() or ["its process ended without a word"]
        status = dataclasses.replace(status, error=said[-1])
    status.save(status_file)
    if status.state != "done":
        partial = status_file.with_name(f".{Path(status.notebook).stem}.partial.ipynb")
        partial.unlink(missing_ok=True)
    return status
