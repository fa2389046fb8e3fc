"""Draw short trainings beside each other, a colour a setting, with the spread between seeds."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bratskit.visualize.curves import METHOD_COLOURS, style_axes
from bratskit.visualize.frame import PAPER_DPI, Picture

__all__ = ["draw_trials"]

Rows = Sequence[Mapping[str, object]]
TITLES = {"dice_mean": "mean of WT, TC, ET", "loss": "training loss"}


def draw_trials(
    trials: Mapping[str, Sequence[Rows]],
    *,
    columns: Sequence[str] = ("dice_WT", "dice_TC", "dice_ET"),
) -> Picture:
    """Draw one panel a column: each run a thin line, the mean of a setting's runs a thick one.

    Args:
        trials: Histories of a setting by its name, one for each seed, all of the same length.
        columns: Numbers of the rows to draw, for example `dice_ET` or `loss`.

    Returns:
        A figure. The band runs from the lowest seed to the highest: it is all that was seen, no
        interval of confidence.

    Raises:
        ValueError: There is no trial, or a setting's histories differ in length.
    """
    if not trials or not all(trials.values()):
        msg = f"trials must hold at least one history each; got {dict(trials)}. Train first."
        raise ValueError(msg)
    figure = Picture(figsize=(8.8, 2.9), dpi=PAPER_DPI, layout="constrained")
    panels = figure.subplots(1, len(columns), squeeze=False, sharey="loss" not in columns)[0]
    for ax, column in zip(panels, columns, strict=True):
        title = TITLES.get(column, column.replace("dice_", "") + " Dice")
        style_axes(ax, title=f"validation: {title}" if column != "loss" else title)
        for place, (name, runs) in enumerate(trials.items()):
            _draw_setting(ax, runs, column, name=name, colour=METHOD_COLOURS[place % 6])
    panels[0].set_ylim(bottom=0)
    n_seeds = max(len(runs) for runs in trials.values())
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(trials),
        fontsize=8, frameon=False,
    )  # fmt: skip
    figure.suptitle(
        f"thin: one run each of {n_seeds} seeds · thick: their mean · band: lowest to highest",
        fontsize=7.5, color="#555555",
    )  # fmt: skip
    return figure


def _draw_setting(ax: Axes, runs: Sequence[Rows], column: str, *, name: str, colour: str) -> None:
    epochs, values = _stack(runs, column, name=name)
    ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
    ax.plot(epochs, values.T, color=colour, linewidth=0.7, alpha=0.7)
    ax.plot(epochs, values.mean(axis=0), color=colour, linewidth=2.2, label=name)


def _stack(runs: Sequence[Rows], column: str, *, name: str) -> tuple[NDArray, NDArray]:
    """Return the epochs that have a number, and `(runs, epochs)` numbers."""
    if len({len(rows) for rows in runs}) > 1:
        lengths = [len(rows) for rows in runs]
        msg = f"histories of {name!r} must be equally long; got {lengths} rows. Train all to an end"
        raise ValueError(msg)
    rows = [row for row in zip(*runs, strict=True) if all(r.get(column) is not None for r in row)]
    epochs = np.array([row[0]["epoch"] for row in rows], dtype=float)
    values = np.array([[run[column] for run in row] for row in rows], dtype=float)
    return epochs, values.reshape(len(rows), len(runs)).T
