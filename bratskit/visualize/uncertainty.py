"""Draw how sure a network is and whether that may be believed; measures nothing itself."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.evaluate import Reliability, RiskCoverage
from bratskit.visualize.curves import METHOD_COLOURS, REGION_COLOURS, style_axes
from bratskit.visualize.frame import (
    INK,
    PALE,
    PAPER_DPI,
    Picture,
    draw_panel,
    error_handles,
    grey_slice,
    label_handles,
    make_panels,
    paint,
    title_figure,
)
from bratskit.visualize.slices import (
    CONVENTIONS,
    ERROR_COLOURS,
    MODALITY_NAMES,
    Axis,
    Convention,
    check_on_grid,
    error_map,
    intensity_window,
    make_plane,
    modality_index,
)

if TYPE_CHECKING:
    from bratskit.predict import Prediction, Volume

__all__ = ["draw_reliability", "draw_risk_coverage", "draw_sureness", "draw_uncertainty"]

HEAT = "inferno"  # rises evenly in lightness, also for colour-blind readers and in print
DIMMED = 0.55  # as in an error map: the image is the ground, not the message
FEWEST_VOX = 100  # a bin with fewer voxels is left out: its share is noise
MAPS = {"entropy": "entropy", "mutual_information": "mutual information"}


def draw_uncertainty(
    scan: Scan,
    prediction: "Prediction",
    *,
    name: str = "entropy",
    modality: str = "flair",
    axis: Axis = "axial",
    index: int | None = None,
    convention: Convention = "radiological",
) -> Figure:
    """Draw one slice four times: image, prediction, how unsure it is, and where it is wrong.

    Args:
        scan: The patient, native grid. Without labels there is no fourth panel.
        prediction: Made with `uncertainty=True`.
        name: "entropy" or "mutual_information". Of regions the most unsure one is shown.
        modality: What lies underneath.
        axis: "axial", "coronal" or "sagittal".
        index: Slice number; None takes the slice with the most predicted tumour.
        convention: Which side of the picture is the patient's left.

    Raises:
        ValueError: The prediction came without uncertainty or is on another grid, or a choice is
            unknown.
    """
    unsure = _map_of(prediction, name)
    check_on_grid(prediction.labels, scan, name="prediction")
    plane = make_plane(scan, axis, index, labels=prediction.labels, convention=convention)
    volume = scan.image[modality_index(modality)]
    grey = grey_slice(plane, volume, intensity_window(volume))
    pred, heat = plane.cut(prediction.labels), plane.cut(unsure)
    norm = Normalize(0, max(float(unsure.max()), 1e-6))
    panels = {
        MODALITY_NAMES[modality]: paint(grey),
        "prediction": paint(grey, pred),
        f"{MAPS[name]}, bits": _glow(grey, norm(heat)),
    }
    if scan.labels is not None:
        errors = error_map(pred=pred, truth=plane.cut(scan.labels))
        dimmed = (grey * DIMMED).astype(np.uint8)
        panels["errors"] = paint(dimmed, errors, opacity=0.8, colours=ERROR_COLOURS)
    figure, axes = make_panels(1, [plane] * len(panels), width_in=2.2 * len(panels))
    for ax, (title, rgb) in zip(axes.flat, panels.items(), strict=True):
        draw_panel(ax, plane, rgb, title=title, is_annotated=ax is axes.flat[0])
    _draw_bar(figure, axes.flat[2], norm)
    handles = label_handles() + (error_handles() if scan.labels is not None else [])
    title_figure(figure, f"{scan.id}  ·  {plane.caption}", CONVENTIONS[convention], handles)
    return figure


def draw_reliability(
    before: Mapping[str, Reliability], after: Mapping[str, Reliability] | None = None
) -> Picture:
    """Draw what probabilities promise against what came true, a panel a region.

    Args:
        before: By region.
        after: The same with a temperature; None draws one curve.

    Raises:
        ValueError: There is no region.
    """
    if not before:
        msg = "before must hold at least one region; got none. Measure with `reliability`."
        raise ValueError(msg)
    figure = Picture(figsize=(2.9 * len(before), 2.9), dpi=PAPER_DPI, layout="constrained")
    axes = figure.subplots(1, len(before), squeeze=False)[0]
    for ax, name in zip(axes, before, strict=True):
        _draw_promise(ax, name, before[name], after[name] if after else None)
    axes[0].set_ylabel("share that is in the region", fontsize=7.5, color="#555555")
    return figure


def draw_risk_coverage(curves: Mapping[str, RiskCoverage]) -> Picture:
    """Draw the error rate of the voxels that are kept, between a random and the ideal order.

    Args:
        curves: By name of what voxels were ordered by. Random and ideal are those of the first.

    Raises:
        ValueError: There is no curve.
    """
    if not curves:
        msg = "curves must hold at least one; got none. Measure with `risk_coverage`."
        raise ValueError(msg)
    figure = Picture(figsize=(4.2, 3.0), dpi=PAPER_DPI, layout="constrained")
    _draw_risk(figure.subplots(), curves)
    return figure


def draw_sureness(
    before: Mapping[str, Reliability],
    after: Mapping[str, Reliability],
    curves: Mapping[str, RiskCoverage],
    volumes: Mapping[str, Mapping[str, tuple["Volume", float]]],
    *,
    title: str = "",
) -> Picture:
    """Draw on one page whether a network's certainty may be believed.

    Args:
        before: Reliability by region at temperature 1.
        after: The same at the temperature that was fitted on other patients.
        curves: Risk-coverage by name of what voxels were ordered by.
        volumes: By region and patient, the volume with its interval and the true one, ml.
        title: Said above, for example which patients these are.

    Returns:
        Reliability of each region above, risk-coverage and volumes below.
    """
    figure = Picture(figsize=(8.8, 6.0), dpi=PAPER_DPI, layout="constrained")
    top, low = figure.subfigures(2, 1, height_ratios=(1, 1.05))
    axes = top.subplots(1, len(before), squeeze=False)[0]
    for ax, name in zip(axes, before, strict=True):
        _draw_promise(ax, name, before[name], after[name])
    axes[0].set_ylabel("share that is in the region", fontsize=7.5, color="#555555")
    risk, volume = low.subplots(1, 2, width_ratios=(1, 1.15))
    _draw_risk(risk, curves)
    _draw_volumes(volume, volumes)
    figure.suptitle(title, fontsize=8.5, color=INK)
    return figure


def _map_of(prediction: "Prediction", name: str) -> NDArray[np.float32]:
    if name not in MAPS:
        msg = f"name must be one of {tuple(MAPS)}; got {name!r}."
        raise ValueError(msg)
    unsure = getattr(prediction, name)
    if unsure is None:
        msg = (
            f"prediction of {prediction.id} must hold {name}; got none. "
            "Predict with uncertainty=True."
        )
        raise ValueError(msg)
    return unsure.max(axis=0)


def _glow(grey: NDArray[np.uint8], share: NDArray) -> NDArray[np.uint8]:
    """Let what is unsure glow over a dimmed image: the surer, the more of the image is seen."""
    share = np.ma.filled(share, 0)[..., None]
    colour = colormaps[HEAT](share[..., 0])[..., :3] * 255
    opacity = np.sqrt(share)
    return ((1 - opacity) * (DIMMED * grey[..., None]) + opacity * colour).astype(np.uint8)


def _draw_bar(figure: Figure, ax: Axes, norm: Normalize) -> None:
    """Put the scale inside the panel, so that all panels stay of one size."""
    place = ax.inset_axes((0.3, 0.06, 0.4, 0.025))
    bar = figure.colorbar(ScalarMappable(norm, HEAT), cax=place, orientation="horizontal")
    bar.set_ticks([0, norm.vmax], labels=["0", f"{norm.vmax:.2g}"])
    bar.ax.tick_params(labelsize=6.5, length=0, colors=PALE, pad=1)
    bar.outline.set_visible(False)


def _draw_promise(ax: Axes, name: str, before: Reliability, after: Reliability | None) -> None:
    style_axes(ax, title=name)
    ax.plot([0, 1], [0, 1], ":", color="#888888", linewidth=1)
    colour = REGION_COLOURS.get(name, INK)
    styles = [(before, "before", "#888888", "o--", "white")]
    if after is not None:
        styles.append((after, "after", colour, "o-", colour))
    for found, when, line, style, face in styles:
        told = np.where(found.count >= FEWEST_VOX, found.observed, np.nan)
        ax.plot(found.promised, told, style, color=line, markerfacecolor=face, markersize=3.5,
                linewidth=1.2, label=f"{when}, ECE {found.ece:.4f}")  # fmt: skip
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_xlabel("promised probability", fontsize=7.5, color="#555555")
    ax.legend(fontsize=7, frameon=False, loc="upper left", labelcolor=INK)


def _draw_risk(ax: Axes, curves: Mapping[str, RiskCoverage]) -> None:
    style_axes(ax, title="share wrong of the voxels kept")
    first = next(iter(curves.values()))
    ax.axhline(first.error_rate, color="#888888", linestyle="--", linewidth=1)
    ax.annotate("random order", (0.02, first.error_rate), xytext=(0, 3), fontsize=7,
                textcoords="offset points", color="#666666")  # fmt: skip
    ax.plot(first.coverage, first.ideal_risk, ":", color="#888888", linewidth=1.2)
    for (name, curve), colour in zip(curves.items(), METHOD_COLOURS, strict=False):
        ax.plot(curve.coverage, curve.risk, color=colour, linewidth=1.4,
                label=f"{name} ({curve.distance:.2f})")  # fmt: skip
    handles, _ = ax.get_legend_handles_labels()
    handles.append(Line2D([], [], color="#888888", linestyle=":", label="ideal order (0)"))
    ax.legend(handles=handles, fontsize=7, frameon=False, labelcolor=INK, loc="upper left",
              bbox_to_anchor=(0, 0.88), title="area: 0 ideal, 1 random",
              title_fontsize=7)  # fmt: skip
    ax.set(xlim=(0, 1), ylim=(0, 1.15 * first.error_rate))
    ax.set_xlabel("share of voxels kept, the surest first", fontsize=7.5, color="#555555")


def _draw_volumes(ax: Axes, volumes: Mapping[str, Mapping[str, tuple["Volume", float]]]) -> None:
    style_axes(ax, title="volume with a 90 % interval, ml")
    ax.plot([0.01, 1000], [0.01, 1000], ":", color="#888888", linewidth=1)
    for name, pairs in volumes.items():
        inside = [volume.low_ml <= ml <= volume.high_ml for volume, ml in pairs.values()]
        colour = REGION_COLOURS.get(name, INK)
        for (volume, ml), is_in in zip(pairs.values(), inside, strict=True):
            told = np.maximum([volume.low_ml, volume.ml, volume.high_ml], 0.1)
            ax.plot([max(ml, 0.1)] * 2, told[[0, 2]], color=colour, linewidth=1.4, alpha=0.8)
            ax.plot(max(ml, 0.1), told[1], "o", color=colour, markersize=4,
                    markerfacecolor=colour if is_in else "white")  # fmt: skip
        ax.plot([], [], "o-", color=colour, label=f"{name}: {sum(inside)} of {len(pairs)} inside")
    ax.set(xscale="log", yscale="log", xlim=(0.07, 400), ylim=(0.07, 400))
    ax.set_xlabel("expert's volume, ml (0.1 and less at the edge)", fontsize=7.5, color="#555555")
    ax.set_ylabel("network's", fontsize=7.5, color="#555555")
    ax.legend(fontsize=7, frameon=False, loc="upper left", labelcolor=INK)
