"""Run notebooks again in a fresh kernel and store them as run: `python -m bratskit.jobs.store`."""

import json
import sys
import tempfile
from pathlib import Path

from bratskit.jobs.notebooks import run_notebook, write_line
from bratskit.jobs.structure import check_structure
from bratskit.runtime import write_atomically

__all__ = ["clean", "main", "store_notebook"]

KEPT_CELL_METADATA = ("tags", "jupyter", "collapsed")


def clean(book: dict) -> dict:
    """Return a notebook without what a run leaves behind and no reader wants.

    Papermill's and the widgets' metadata, timings and the kernel's version go; cell ids, tags,
    sources and outputs stay. Printed lines that came one by one are joined into one block.
    """
    cells = []
    for cell in book["cells"]:
        tags = cell["metadata"].get("tags", [])
        if "injected-parameters" in tags:
            continue
        kept = {
            key: cell["metadata"][key] for key in KEPT_CELL_METADATA if cell["metadata"].get(key)
        }
        outputs = {"outputs": _join_streams(cell["outputs"])} if "outputs" in cell else {}
        cells.append({**cell, **outputs, "metadata": kept})
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return {**book, "cells": cells, "metadata": metadata}


def _join_streams(outputs: list[dict]) -> list[dict]:
    joined: list[dict] = []
    for output in outputs:
        before = joined[-1] if joined else {}
        if output["output_type"] == "stream" and output["name"] == before.get("name"):
            text = "".join(before["text"]) + "".join(output["text"])
            joined[-1] = {**before, "text": text}
        else:
            joined.append(output)
    return joined


def store_notebook(path: Path | str) -> None:
    """Run a notebook with its own default parameters and put the result in its place.

    The stored file changes only when the run is whole and its form is right.

    Args:
        path: Notebook to run and to replace.

    Raises:
        RuntimeError: A cell failed, or the result breaks a rule of `check_structure`.
    """
    path = Path(path).resolve()
    with tempfile.TemporaryDirectory(prefix="bratskit-store-") as folder:
        status = run_notebook(path, out=folder, options={"record_timing": False})
        if status.state != "done":
            msg = f"{path.name} was not stored: {status}."
            raise RuntimeError(msg)
        run = Path(status.output)
        book = clean(json.loads(run.read_text(encoding="utf-8")))
        text = json.dumps(book, indent=1, ensure_ascii=False) + "\n"
        run.write_text(text, encoding="utf-8")
        problems = check_structure(run)
    if problems:
        msg = f"{path.name} was not stored: {'; '.join(problems)}."
        raise RuntimeError(msg)
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def main(paths: list[str] | None = None) -> int:
    """Store the given notebooks one after the other; return 2 at the first that fails."""
    for path in sys.argv[1:] if paths is None else paths:
        write_line(f"== {path}")
        try:
            store_notebook(path)
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            sys.stderr.write(f"make notebooks: {error}\n")
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
