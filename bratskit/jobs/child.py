"""Be the process that one notebook runs in: `python -m bratskit.jobs.child`, job on stdin.

The first line of stdin is the job (JSON). Stdin stays open while the caller lives: its end means
that the caller is gone or wants the work stopped, and takes the kernel along.
"""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
import types
from pathlib import Path

from bratskit.jobs.status import Status

__all__ = ["main"]


class Job:
    """Run one notebook and write its status, once, whoever ends it."""

    def __init__(self, values: dict[str, object]) -> None:
        self.notebook = Path(values["notebook"])
        self.output = Path(values["output"])
        self.status_file = Path(values["status_file"])
        self.options = values["options"]
        self.status = Status(**{**values["status"], "process": os.getpid()})
        self.partial = self.output.with_name(f".{self.output.stem}.partial.ipynb")
        self.started = time.monotonic()
        self.ending = threading.Lock()

    def run(self) -> None:
        """Run papermill and end the process."""
        try:
            self.execute()
        except BaseException as error:
            self.end("failed", **describe(error))
        else:
            self.end("done")

    def execute(self) -> None:
        """Run every cell; output of the cells goes to stdout as it comes."""
        import papermill

        papermill.execute_notebook(
            str(self.notebook).replace("{", "{{").replace("}", "}}"),
            str(self.partial).replace("{", "{{").replace("}", "}}"),
            parameters=self.status.parameters,
            cwd=self.notebook.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stdout,
            store_widget_state=False,  # 9.5 MB of it seen in one notebook
            **self.options,
        )
        refuse_gaps(self.partial)

    def end(self, state: str, **details: object) -> None:
        """Kill the kernel, put the executed notebook in place, write the status and exit."""
        if not self.ending.acquire(blocking=False):
            return
        end_children()
        place = None
        if self.partial.exists():
            if state == "done":
                place = self.partial.replace(self.output)
            elif state == "failed":  # kept to be read, under a name that cannot pass for done
                place = self.partial.replace(self.output.with_suffix(".failed.ipynb"))
            else:
                self.partial.unlink()
        seconds = round(time.monotonic() - self.started, 2)
        output = None if place is None else str(place)
        dataclasses.replace(
            self.status, state=state, seconds=seconds, output=output, **details
        ).save(self.status_file)
        sys.stdout.flush()
        os._exit({"done": 0, "failed": 1}.get(state, 130))

    def stop(self, *_: object) -> None:
        """End because somebody outside asked for it."""
        self.end("stopped", error="stopped from outside")


def describe(error: BaseException) -> dict[str, object]:
    """Return the failing cell's execution count and the last line of its error."""
    if hasattr(error, "ename"):  # papermill's own error knows the cell
        lines = str(error.evalue).strip().splitlines() or [""]
        return {
            "cell": error.exec_count,
            "error": f"{error.ename}: {lines[-1].strip()}".rstrip(": "),
        }
    lines = str(error).strip().splitlines() or [""]
    return {"error": f"{type(error).__name__}: {lines[-1]}"}


def refuse_gaps(path: Path) -> None:
    """Refuse an executed notebook with a cell that did not run.

    papermill's metadata says "completed" after a kernel death and a timeout too.
    """
    from bratskit.jobs.parameters import code_cells

    counts = [cell["execution_count"] for cell in code_cells(path) if cell["source"].strip()]
    if None in counts:
        msg = f"only {counts.index(None)} of {len(counts)} cells ran; the kernel died."
        raise RuntimeError(msg)


def end_children() -> None:
    """Kill the kernel and everything it started."""
    import psutil

    children = psutil.Process().children(recursive=True)
    for child in children:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(children, timeout=5)


def main() -> None:
    """Read the job from stdin, run it in a thread and wait for its end or the caller's."""
    job = Job(json.loads(sys.stdin.readline()))

    def on_signal(_number: int, _frame: types.FrameType | None) -> None:
        job.stop()

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    job.status.save(job.status_file)
    threading.Thread(target=job.run, daemon=True).start()
    sys.stdin.read()  # returns when the caller closes it, or dies
    job.stop()
    threading.Event().wait()  # an end is under way in the other thread; it exits the process


if __name__ == "__main__":
    main()
