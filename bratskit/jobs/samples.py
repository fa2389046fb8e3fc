"""Take the README's pictures out of a stored notebook: `python -m bratskit.jobs.samples`."""

import base64
import sys
from pathlib import Path

from bratskit.jobs.notebooks import find_notebooks
from bratskit.jobs.parameters import code_cells
from bratskit.runtime import write_atomically

__all__ = ["SAMPLES", "main", "read_picture", "write_samples"]

# File of `samples/`, and the cell of notebook 05 that shows it; stored runs are on phantoms only.
SAMPLES = {"comparison.png": "compare", "viewer.png": "viewer", "flythrough.gif": "fly"}


def read_picture(notebook: Path | str, cell_id: str) -> bytes:
    """Return the picture that a cell of a stored notebook shows.

    Raises:
        FileNotFoundError: There is no such notebook.
        ValueError: It has no such cell, or the cell was stored without a picture.
    """
    for cell in code_cells(notebook):
        shown = [output.get("data", {}).get("image/png") for output in cell["outputs"]]
        if cell.get("id") == cell_id and any(shown):
            return base64.b64decode("".join(next(filter(None, shown))))
    msg = (
        f"{notebook} must show a picture in its cell {cell_id!r}; got none. Run and store it: "
        f"`python -m bratskit.jobs.store {notebook}`."
    )
    raise ValueError(msg)


def write_samples(folder: Path | str, *, notebook: Path | str) -> list[Path]:
    """Write the pictures of `SAMPLES` as the stored notebook shows them.

    Args:
        folder: Usually `samples/`; made if absent.
        notebook: Notebook 05, stored as run on phantoms.

    Returns:
        The paths written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, cell_id in SAMPLES.items():
        data = read_picture(notebook, cell_id)
        write_atomically(folder / name, lambda path, data=data: path.write_bytes(data))
    return [folder / name for name in SAMPLES]


def main() -> int:
    """Write `samples/` beside the notebooks; return 2 where the notebook shows no pictures."""
    (notebook,) = find_notebooks("05_*.ipynb")
    try:
        paths = write_samples(notebook.parents[1] / "samples", notebook=notebook)
    except ValueError as error:
        sys.stderr.write(f"samples: {error}\n")
        return 2
    for path in paths:
        sys.stdout.write(f"{path} {path.stat().st_size / 1000:.0f} kB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
