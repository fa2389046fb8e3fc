"""Keep what training saw, one row an epoch, in memory and as JSON lines; it draws nothing."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bratskit.labels import REGIONS
from bratskit.runtime import write_atomically
from bratskit.settings import TrainingSettings

__all__ = ["History", "describe_last", "find_best", "refuse_unmeasured", "stopped_early"]

SMALLER_IS_BETTER = ("loss", "hd95")  # how names of such metrics begin

Row = dict[str, object]


class History(list[Row]):
    """List one row an epoch: epoch, step, loss, lr, seconds and, where validated, Dice.

    Rows carry `dice_WT`, `dice_TC`, `dice_ET` and `dice_mean` (None between validations) and
    `dice_grid`, which names the voxel grid they were measured on. `fallback` says what was
    changed where memory ran out, and `not_validated` why an epoch that was due has no Dice.
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


def describe_last(history: History, *, epochs: int, minutes: float) -> str:
    """Say in one line how the latest epoch went and how long the others will take.

    Args:
        history: At least one row.
        epochs: How many there will be.
        minutes: Length of the session so far.
    """
    row, scores = history[-1], ""
    left = np.mean(history.column("seconds")) * (epochs - row["epoch"]) / 60
    if row["dice_mean"] is not None:
        scores = " dice " + " ".join(f"{name} {row[f'dice_{name}']:.3f}" for name in REGIONS)
    return (
        f"epoch {row['epoch']}/{epochs} loss {row['loss']:.4f}{scores} "
        f"{minutes:.1f} min, about {left:.1f} min left"
    )


def find_best(history: History, select_by: str) -> Row | None:
    """Return the row whose metric is best, the first of equals; None where none has it.

    More is better, except of distances and losses.

    Examples:
        >>> rows = History([{"dice_mean": 0.5}, {"dice_mean": None}, {"dice_mean": 0.7}])
        >>> find_best(rows, "dice_mean")
        {'dice_mean': 0.7}
    """
    values = history.column(select_by)
    if not np.isfinite(values).any():
        return None
    values = -values if select_by.startswith(SMALLER_IS_BETTER) else values
    return history[int(np.nanargmax(np.where(np.isfinite(values), values, np.nan)))]


def stopped_early(history: History, training: TrainingSettings) -> str:
    """Say why training ends before its last epoch; empty where it does not.

    Follows from the rows alone, so that a run which goes on stops where the whole one does.
    """
    best = find_best(history, training.select_by)
    if not training.patience or best is None:
        return ""
    later = History(history[history.index(best) + 1 :])
    waited = int(np.isfinite(later.column(training.select_by)).sum())
    if waited < training.patience:
        return ""
    return (
        f"stopped early after epoch {history[-1]['epoch']} of {training.epochs}: {waited} "
        f"validations no better than {training.select_by} {best[training.select_by]:.3f} at epoch "
        f"{best['epoch']}"
    )


def refuse_unmeasured(
    training: TrainingSettings, measured: Mapping[str, object], *, n_validation: int
) -> None:
    """Refuse to choose the best weights by what is never measured.

    Args:
        training: Its `select_by` and `patience`.
        measured: What a validation returns.
        n_validation: Validation patients.

    Raises:
        ValueError: Names the metrics that exist, or asks for validation patients.
    """
    names = [name for name in measured if not name.endswith("_grid")]
    if training.select_by not in names:
        msg = (
            f"training.select_by must be one of {names}; got {training.select_by!r}. "
            "These are measured on the validation patients."
        )
        raise ValueError(msg)
    if training.patience and not n_validation:
        msg = (
            f"training.patience must be 0 without validation patients; got {training.patience}. "
            "Put patients into the validation part of the split."
        )
        raise ValueError(msg)
