"""Draw what grids cost lesions of every size; computes no score."""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from bratskit.evaluate import Ceilings, Lesion
from bratskit.visualize.curves import REGION_COLOURS, style_axes
from bratskit.visualize.frame import INK, PAPER_DPI, Picture

__all__ = ["draw_ceiling"]

REGION_MARKS = {"WT": "o", "TC": "s", "ET": "^"}  # shape says what colour says
BALL_GREY = "#666666"
MOST_COLUMNS = 3
LOST = "partly cut off"


def draw_ceiling(ceilings: Ceilings, *, balls: Ceilings | None = None) -> Picture:
    """Draw Dice of truth there and back against the volume of each lesion, a panel a grid.

    Args:
        ceilings: From `ceiling`, added up over cases and grids.
        balls: From `ball_ceiling`, added up over the same grids: drawn as a line of means with a
            band from the worst to the best place, what a compact lesion of that volume scores.

    Returns:
        A panel a grid: a dot a lesion, open where the grid cuts it, a cross where nothing of it
        came back. Under each name stands the mean Dice over cases that have the region.

    Raises:
        ValueError: There is no lesion.
    """
    if not ceilings.lesions:
        msg = "ceilings must hold at least one lesion; got none. Add up `ceiling(...)` of cases."
        raise ValueError(msg)
    grids = ceilings.grids
    columns = min(len(grids), MOST_COLUMNS)
    rows = math.ceil(len(grids) / columns)
    size = (0.4 + 2.8 * columns, 0.95 + 2.15 * rows)
    figure = Picture(figsize=size, dpi=PAPER_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax, grid in zip(axes.flat, grids, strict=False):
        mine = ceilings.pick(grid=grid)
        style_axes(ax, title=f"{grid}\n{_mean_dice(mine)}")
        if balls is not None:
            _draw_balls(ax, balls.pick(grid=grid).lesions)
        for region in REGION_COLOURS:
            _draw_lesions(ax, mine.pick(region=region).lesions, region)
        _say_lost(ax, mine)
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("volume of the lesion, ml", fontsize=7.5, color="#555555")
    axes[0, 0].set(xscale="log", ylim=(-0.04, 1.04))
    axes[0, 0].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.supylabel("Dice of truth, there and back", fontsize=8, color="#555555")
    figure.suptitle(_heading(ceilings), fontsize=8.5, color=INK)
    _place_legend(figure, list(axes.flat[len(grids) :]), _handles(ceilings, balls))
    return figure


def _place_legend(figure: Picture, spare: list[Axes], handles: list[Line2D | Patch]) -> None:
    """Put the legend where a panel is left over, otherwise below all panels."""
    look = {"handles": handles, "fontsize": 7.5, "frameon": False, "labelcolor": INK}
    for ax in spare:
        ax.axis("off")
    if spare:
        spare[0].legend(loc="center left", labelspacing=0.9, **look)
    else:
        figure.legend(loc="outside lower center", ncols=6, columnspacing=1.4, **look)


def _draw_lesions(ax: Axes, lesions: tuple[Lesion, ...], region: str) -> None:
    colour, mark = REGION_COLOURS[region], REGION_MARKS[region]
    looks = {
        mark: ([one for one in lesions if not one.is_gone and not one.lost_vox], colour),
        (mark, "open"): ([one for one in lesions if not one.is_gone and one.lost_vox], "white"),
        "x": ([one for one in lesions if one.is_gone], colour),
    }
    for look, (group, face) in looks.items():
        points = [one.volume_ml for one in group], [0 if one.is_gone else one.dice for one in group]
        edge = {} if look == "x" else {"edgecolors": colour}
        ax.scatter(*points, s=15, c=face, marker=look[0], linewidths=0.9, alpha=0.8, zorder=3,
                   **edge)  # fmt: skip


def _draw_balls(ax: Axes, balls: tuple[Lesion, ...]) -> None:
    sizes: dict[float, list[float]] = {}
    for ball in balls:
        sizes.setdefault(round(ball.volume_ml, 9), []).append(ball.dice)
    volumes = sorted(sizes)
    dices = [sizes[volume] for volume in volumes]
    ax.fill_between(volumes, [min(d) for d in dices], [max(d) for d in dices], color="#DDDDDD",
                    linewidth=0, zorder=1)  # fmt: skip
    ax.plot(volumes, [np.mean(d) for d in dices], color=BALL_GREY, linewidth=1.4, zorder=2)


def _say_lost(ax: Axes, mine: Ceilings) -> None:
    tumours = mine.pick(region="WT").lesions
    lost_vox = sum(lesion.lost_vox for lesion in tumours)
    if lost_vox:
        share = lost_vox / sum(lesion.volume_vox for lesion in tumours)
        cases = len({lesion.case for lesion in tumours if lesion.lost_vox})
        said = f"{share:.1%} of the tumour is cut off,\nin {cases} case{'s' * (cases != 1)}"
        ax.text(0.97, 0.06, said, transform=ax.transAxes, ha="right", fontsize=7.5, color=INK)


def _mean_dice(mine: Ceilings) -> str:
    return "mean Dice " + "  ".join(f"{row.region} {row.dice:.3f}" for row in mine.by_region())


def _heading(ceilings: Ceilings) -> str:
    n_cases = len(ceilings.scores.cases)
    cases = f"{n_cases} case{'s' * (n_cases != 1)}"
    return f"Ceiling: what labels without a mistake score on a grid · {cases}, every lesion"


def _handles(ceilings: Ceilings, balls: Ceilings | None) -> list[Line2D | Patch]:
    dot = {"linestyle": "", "markersize": 4.5}
    handles = [
        Line2D([], [], color=colour, marker=REGION_MARKS[region], label=region, **dot)
        for region, colour in REGION_COLOURS.items()
    ]
    if any(lesion.lost_vox and not lesion.is_gone for lesion in ceilings.lesions):
        handles += [Line2D([], [], color=INK, marker="o", mfc="white", label=LOST, **dot)]
    if any(lesion.is_gone for lesion in ceilings.lesions):
        handles += [Line2D([], [], color=INK, marker="x", label="gone", **dot)]
    if balls is not None:
        handles += [Line2D([], [], color=BALL_GREY, label="ball: mean, worst to best place")]
    return handles
