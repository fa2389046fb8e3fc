"""Keep the page beside each stored case that says what it is and what it was made from."""

import json
from collections.abc import Mapping
from pathlib import Path

from bratskit.runtime import made_by, write_atomically

__all__ = ["damaged", "list_prepared", "read_receipt", "weigh", "write_receipt"]

RECEIPT = "receipt.json"
FILES = (  # of a stored case, in either form, beside its receipt
    *("image.npy", "labels.npy", "mask.npy"),
    *("image.b2nd", "labels.b2nd", "mask.b2nd", "levels.npy"),
    "foreground.npz",
)


def list_prepared(folder: Path | str) -> list[str]:
    """Name the finished cases of a store, sorted; unfinished ones are not listed."""
    return sorted(
        path.parent.name
        for path in Path(folder).glob("*/receipt.json")
        if not path.parent.name.startswith(".")
    )


def read_receipt(folder: Path | str) -> dict[str, object]:
    """Read what was written beside a stored case.

    Raises:
        FileNotFoundError: There is no receipt; names the command that makes one.
        ValueError: It is damaged.
    """
    path = Path(folder) / RECEIPT
    if not path.is_file():
        store = path.parent.parent
        msg = (
            f"folder must be a prepared case; got {path.parent} without receipt.json. "
            f"Make it with `bratskit prepare DATA {store}`; it holds {list_prepared(store)[:5]}."
        )
        raise FileNotFoundError(msg)
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise damaged(path) from error
    if not isinstance(receipt, dict):
        raise damaged(path)
    return receipt


def write_receipt(folder: Path, facts: Mapping[str, object]) -> None:
    """Write down the facts of a case, what the files beside them weigh, and who made them."""
    receipt = {**facts, "bytes": weigh(folder), "made_by": made_by()}
    text = json.dumps(receipt, indent=2) + "\n"
    write_atomically(folder / RECEIPT, lambda path: path.write_text(text, encoding="utf-8"))


def weigh(folder: Path) -> int:
    """Add up the bytes of a stored case, without its receipt and what others put beside it."""
    paths = (folder / name for name in FILES)
    return sum(path.stat().st_size for path in paths if path.is_file())


def damaged(path: Path) -> ValueError:
    """Word the refusal of a file that is not whole, for the caller to raise."""
    return ValueError(
        f"{path} must be a whole file of a prepared case; got a missing or damaged one. "
        f"Delete {path.parent}, then `bratskit prepare DATA {path.parent.parent}` makes it again."
    )
