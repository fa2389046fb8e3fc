"""Draw what a score gains with the number of patients that were learned from; shows no image."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from bratskit.evaluate import Estimate
from bratskit.labels import REGIONS
from bratskit.visualize.curves import style_axes
from bratskit.visualize.frame import INK, PAPER_DPI, Picture

__all__ = ["draw_patients"]

Points = Mapping[int, Mapping[str, Estimate]]

_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")  # Okabe and Ito (2008)
_MARKERS = ("o", "^", "s", "D")  # told apart without colour too
_APART = 0.35  # patients that the series stand apart, so that no bar hides another


def draw_patients(
    series: Mapping[str, Points], *, levels: Mapping[str, Mapping[str, float]], note: str = ""
) -> Picture:
    """Draw mean Dice against the number of real patients learned from, a panel a region.

    Args:
        series: For each way of training, by number of patients, the Dice of WT, TC and ET with its
            interval; a number of patients may be missing.
        levels: Dice by region of what needs no patient, drawn as dotted lines, by name.
        note: Said above the panels: what was trained, how long, on whom it was scored.

    Returns:
        Three panels with one legend. Bars are the intervals of the estimates.

    Raises:
        ValueError: There is no point to draw.
    """
    if not any(series.values()):
        msg = "series must have at least one point; got none. Score a trained network first."
        raise ValueError(msg)
    figure = Picture(figsize=(8.8, 3.5), dpi=PAPER_DPI, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(REGIONS), sharey=True)
    counts = sorted({count for points in series.values() for count in points})
    for ax, region in zip(axes, REGIONS, strict=True):
        style_axes(ax, title=region)
        for place, points in enumerate(series.values()):
            _draw_series(ax, points, region, place=place)
        for place, level in enumerate(levels.values()):
            ax.axhline(level[region], color=INK, linewidth=1, linestyle=((0, (1, 1 + 2 * place))))
        ax.set(ylim=(0, 1), xticks=counts)
        ax.set_xlabel("real patients learned from", fontsize=7.5, color="#555555")
    axes[0].set_ylabel("Dice, mean and 95 % interval", fontsize=7.5, color="#555555")
    figure.legend(
        handles=_handles(series, levels), loc="outside lower center", fontsize=8, frameon=False,
        ncols=len(series) + len(levels),
    )  # fmt: skip
    if note:
        figure.suptitle(note, fontsize=7.5, color="#555555")
    return figure


def _draw_series(ax: Axes, points: Points, region: str, *, place: int) -> None:
    counts = sorted(points)
    estimates = [points[count][region] for count in counts]
    at = [count + _APART * place for count in counts]
    means = [estimate.mean for estimate in estimates]
    ends = [
        [estimate.mean - estimate.low for estimate in estimates],
        [estimate.high - estimate.mean for estimate in estimates],
    ]
    ax.errorbar(
        at, means, yerr=ends, color=_COLOURS[place], marker=_MARKERS[place], markersize=5,
        linewidth=1.4, elinewidth=1, capsize=2.5,
    )  # fmt: skip


def _handles(series: Mapping[str, Points], levels: Mapping[str, object]) -> list[Line2D]:
    drawn = [
        Line2D([], [], color=_COLOURS[place], marker=_MARKERS[place], label=name)
        for place, name in enumerate(series)
    ]
    return drawn + [
        Line2D([], [], color=INK, linewidth=1, linestyle=(0, (1, 1 + 2 * place)), label=name)
        for place, name in enumerate(levels)
    ]
