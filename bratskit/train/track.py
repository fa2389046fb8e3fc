"""Keep what training saw, one row an epoch, in memory and as JSON lines; it draws nothing."""

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bratskit.runtime import write_atomically

__all__ = ["History"]

Row = dict[str, object]


class History(list[Row]):
    """List one row an epoch: epoch, step, loss, lr, seconds and, where validated, Dice.

    Rows carry `dice_WT`, `dice_TC`, `dice_ET` and `dice_mean` (None between validations) and
    `dice_grid`, which names the voxel grid they were measured on.
    """

    @classmethod
    def load(cls, path: Path | str) -> "History":
        """Read rows that `save` wrote; no file gives no rows."""
        path = Path(path)
        if not path.exists():
            return cls()
        lines = path.read_text(encoding="utf-8").splitlines()
        return cls(json.loads(line) for line in lines if line.strip())

    def save(self, path: Path | str) -> None:
        """Write all rows as JSON lines, atomically, so that a kill never leaves half a row."""
        text = "".join(json.dumps(row) + "\n" for row in self)
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one number an epoch, NaN where a row has none.

        Examples:
            >>> History([{"loss": 2.0}, {"loss": None}]).column("loss")
            array([ 2., nan])
        """
        values = [row.get(name) for row in self]
        return np.array([np.nan if value is None else value for value in values], dtype=float)
