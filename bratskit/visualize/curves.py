"""Draw what training saw and how every case scored; computes no score."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bratskit.evaluate import Scores
from bratskit.labels import LABELS, REGIONS
from bratskit.visualize.frame import INK, PAPER_DPI, Picture

__all__ = ["draw_history", "draw_scores"]

# Okabe and Ito (2008); none of them means a tissue here, so other colours than the labels'
REGION_COLOURS = {"WT": "#0072B2", "TC": "#CC79A7", "ET": "#E69F00"}
METHOD_COLOURS = ("#0072B2", "#999999", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
METRICS = {"dice": ("Dice (higher is better)", None), "hd95_mm": ("HD95, mm (lower is better)", 0)}


def draw_history(history: Sequence[Mapping[str, object]]) -> Picture:
    """Draw loss, validation Dice and learning rate against the epoch.

    Args:
        history: One row an epoch with `epoch`, `loss`, `lr` and, where validated, `dice_WT`,
            `dice_TC`, `dice_ET` and the `dice_grid` they were measured on.

    Returns:
        Three panels; a panel whose numbers are missing says so.

    Raises:
        ValueError: There is no row.
    """
    if not history:
        msg = "history must have at least one row; got none. Train first: `bratskit train`."
        raise ValueError(msg)
    figure = Picture(figsize=(8.8, 2.7), dpi=PAPER_DPI, layout="constrained")
    loss, dice, rate = figure.subplots(1, 3, width_ratios=(1, 1.25, 0.8))
    epochs = _column(history, "epoch", default=np.arange(1, len(history) + 1))
    _draw_curve(loss, epochs, _column(history, "loss"), title="training loss", colour=INK)
    _draw_curve(rate, epochs, _column(history, "lr"), title="learning rate", colour=INK)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.yaxis.get_offset_text().set_fontsize(7)
    _draw_validation(dice, history, epochs)
    return figure


def _draw_validation(
    ax: Axes, history: Sequence[Mapping[str, object]], epochs: NDArray[np.float64]
) -> None:
    grids = {str(row["dice_grid"]) for row in history if row.get("dice_grid")}
    on_grid = f" ({', '.join(sorted(grids))} grid)" if grids else ""
    style_axes(ax, title=f"validation Dice{on_grid}")
    ends = []
    for region, colour in REGION_COLOURS.items():
        dice = _column(history, f"dice_{region}")
        known = ~np.isnan(dice)
        if known.any():
            ax.plot(epochs[known], dice[known], "o-", color=colour, markersize=3, linewidth=1.4)
            ends.append((dice[known][-1], epochs[known][-1], region, colour))
    if not ends:
        _say_nothing(ax)
        return
    ax.set_ylim(0, 1)
    height = -1.0
    for value, epoch, region, colour in sorted(ends):
        height = max(value, height + 0.075)  # names stay readable where curves meet
        ax.annotate(f"{region} {value:.2f}", (epoch, height), xytext=(5, 0), fontsize=7.5,
                    textcoords="offset points", color=colour, va="center",
                    annotation_clip=False)  # fmt: skip
    _mark_best(ax, history, epochs)


def _mark_best(
    ax: Axes, history: Sequence[Mapping[str, object]], epochs: NDArray[np.float64]
) -> None:
    mean = _column(history, "dice_mean")
    if np.isnan(mean).all():
        return
    best = epochs[int(np.nanargmax(mean))]
    ax.axvline(best, color="#999999", linewidth=0.8, linestyle=":")
    ax.annotate(f"best, epoch {best:.0f}", (best, 0.02), xytext=(-3, 0), fontsize=7,
                textcoords="offset points", color="#666666", rotation=90, va="bottom",
                ha="right")  # fmt: skip


def draw_scores(
    scores: Scores, *, metric: Literal["dice", "hd95_mm"] = "dice", kind: str = "region"
) -> Picture:
    """Draw every case as a dot, a column a method and a panel a region, with mean and interval.

    Args:
        scores: The table, from `bratskit.evaluate`.
        metric: "dice" or "hd95_mm".
        kind: "region" for WT, TC, ET or "label" for NCR, ED, ET.

    Returns:
        One panel a region. Open dots are cases where the truth has none of that region.

    Raises:
        ValueError: The metric is unknown, or the table holds no row of this kind.
    """
    if metric not in METRICS:
        msg = f"metric must be one of {tuple(METRICS)}; got {metric!r}."
        raise ValueError(msg)
    rows = [row for row in scores if row.kind == kind]
    if not rows:
        msg = f"scores must have rows of kind {kind!r}; got none. Score first: `bratskit evaluate`."
        raise ValueError(msg)
    names = list(dict.fromkeys(row.name for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    figure = Picture(figsize=(8.8, 0.85 + 0.42 * len(methods)), dpi=PAPER_DPI, layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, sharex=True, squeeze=False)[0]
    means = {(row.method, row.name): row for row in scores.summary() if row.kind == kind}
    for ax, name in zip(axes, names, strict=True):
        style_axes(ax, title=_describe(name) if kind == "region" else name)
        for place, method in enumerate(methods):
            colour = METHOD_COLOURS[place % len(METHOD_COLOURS)]
            mine = [row for row in rows if row.method == method and row.name == name]
            _draw_dots(ax, mine, metric, place=place, colour=colour)
            if (method, name) in means:
                _draw_mean(ax, getattr(means[method, name], metric), place=place, colour=colour)
        ax.set_yticks(range(len(methods)), methods, fontsize=8)
        ax.set_ylim(len(methods) - 0.45, -0.55)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel(METRICS[metric][0], fontsize=7.5, color="#555555")
    if metric == "dice":
        axes[0].set_xlim(-0.03, 1.03)
    rules = ", ".join(sorted({row.empty_rule for row in rows}))
    figure.suptitle(
        f"{len(scores.cases)} cases · bar: mean and 95 % bootstrap interval over patients · "
        f"open dot: region absent from the truth (empty rule: {rules})",
        fontsize=7.5, color="#555555",
    )  # fmt: skip
    return figure


def _draw_dots(ax: Axes, rows: list, metric: str, *, place: int, colour: str) -> None:
    values = np.array([getattr(row, metric) for row in rows], dtype=float)
    empty = np.array([row.truth_empty for row in rows], dtype=bool)
    spread = np.random.default_rng(0).uniform(-0.13, 0.13, len(rows))  # same picture every time
    faces = ["white" if is_empty else colour for is_empty in empty]
    ax.scatter(values, place - 0.1 + spread, s=14, c=faces, edgecolors=colour, linewidths=0.8,
               alpha=0.75)  # fmt: skip


def _draw_mean(ax: Axes, estimate: object, *, place: int, colour: str) -> None:
    if np.isnan(estimate.mean):
        return
    below = place + 0.24
    if not np.isnan(estimate.low):
        ax.plot([estimate.low, estimate.high], [below, below], color=colour, linewidth=2.2)
    ax.plot([estimate.mean], [below], "|", color=INK, markersize=9, markeredgewidth=1.6)


def _draw_curve(ax: Axes, epochs: NDArray, values: NDArray, *, title: str, colour: str) -> None:
    style_axes(ax, title=title)
    known = ~np.isnan(values)
    if not known.any():
        _say_nothing(ax)
        return
    ax.plot(epochs[known], values[known], "o-", color=colour, markersize=2.5, linewidth=1.2)
    ax.set_ylim(bottom=0 if values[known].min() >= 0 else None)


def style_axes(ax: Axes, *, title: str) -> None:
    """Give a panel the plain look that all curves share."""
    ax.set_title(title, fontsize=8.5, color=INK)
    ax.tick_params(labelsize=7.5, length=2, color="#AAAAAA")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#AAAAAA")
    ax.grid(visible=True, color="#EEEEEE", linewidth=0.8)
    ax.set_axisbelow(True)
    if "loss" in title or "rate" in title or "validation" in title:
        ax.set_xlabel("epoch", fontsize=7.5, color="#555555")
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))


def _say_nothing(ax: Axes) -> None:
    ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", color="#888888",
            fontsize=8)  # fmt: skip


def _column(
    history: Sequence[Mapping[str, object]], name: str, *, default: NDArray | None = None
) -> NDArray[np.float64]:
    values = [row.get(name) for row in history]
    if default is not None and None in values:
        return default.astype(float)
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _describe(region: str) -> str:
    tissues = " + ".join(LABELS[label] for label in REGIONS[region])
    return region if tissues == region else f"{region} = {tissues}"
