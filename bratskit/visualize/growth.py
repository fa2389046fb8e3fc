"""Draw one phantom's tumour at several ages, its volume against time, and what voxels make of it.

What it shows is the plan of a generator, not how a patient's tumour will grow.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.labels import REGIONS
from bratskit.visualize.curves import REGION_COLOURS, style_axes
from bratskit.visualize.frame import (
    INK,
    PAPER_DPI,
    Picture,
    draw_panel,
    grey_slice,
    label_handles,
    paint,
    title_figure,
)
from bratskit.visualize.slices import (
    CONVENTIONS,
    Plane,
    brain_box,
    intensity_window,
    make_plane,
    modality_index,
)

if TYPE_CHECKING:  # it brings torch, a second or two; a figure does not need it
    from bratskit.cases.phantoms import Phantom
    from bratskit.cases.phantoms.growth import Growth

__all__ = [
    "MOST_ML",
    "Curve",
    "describe_rates",
    "draw_curve",
    "draw_growth",
    "growth_curve",
]

MOST_ML = 260.0  # a little above the largest whole tumour that is drawn (240 ml)
_ROWS = (("flair", "FLAIR"), ("t1ce", "T1ce"), ("t1ce", "mask"))
_PANEL_IN = 1.76  # width of a panel; five fill a notebook's cell
_AHEAD = 1.25  # the curve goes on beyond the last age, for one sees there where it leads
_N_POINTS = 60


class Curve(NamedTuple):
    """Volumes aimed at over the life of one tumour.

    Attributes:
        days: Ages `(n,)`.
        ml: WT, TC and ET, `(n,)` each.
    """

    days: NDArray[np.float64]
    ml: Mapping[str, NDArray[np.float64]]


def growth_curve(growth: "Growth", *, until_days: float) -> Curve:
    """Ask a plan for its volumes from nearly nothing to an age; room in the brain is not asked.

    Args:
        growth: The plan.
        until_days: Where the curve ends; earlier where the whole tumour exceeds `MOST_ML`.

    Raises:
        ValueError: The age is not above 0.
    """
    from bratskit.cases.phantoms.growth import at_age

    if not until_days > 0:
        msg = f"until_days must be above 0; got {until_days}. Detected at {growth.age_days:.0f}."
        raise ValueError(msg)
    largest_mm = (750 * MOST_ML / np.pi) ** (1 / 3)
    last = min(until_days, largest_mm / growth.speed_mm_day)
    days = np.linspace(last / _N_POINTS, last, _N_POINTS)
    ml = np.array([at_age(growth, float(day)).seen_ml() for day in days])
    return Curve(days=days, ml=dict(zip(REGIONS, ml.T, strict=True)))


def draw_curve(
    ax: Axes,
    curve: Curve,
    points: Sequence[tuple[float, Mapping[str, float]]] = (),
    *,
    colours: Mapping[str, str] = REGION_COLOURS,
    title: str = "volume against age",
) -> None:
    """Draw volumes against age: the plan as lines, what was grown as dots.

    Args:
        ax: Where to draw.
        curve: From `growth_curve`.
        points: Age in days and volumes in ml of each tumour that was grown.
        colours: Of WT, TC and ET.
        title: Said above.
    """
    style_axes(ax, title=title)
    top = max(curve.ml["WT"].max(), *(ml["WT"] for _, ml in points), 1e-3)
    height = -1.0
    for name in ("ET", "TC", "WT"):  # names are put from below upwards
        line = curve.ml[name]
        ax.plot(curve.days, line, color=colours[name], linewidth=1.4)
        ax.plot(
            [days for days, _ in points], [ml[name] for _, ml in points], "o",
            color=colours[name], markersize=4.5, clip_on=False,
        )  # fmt: skip
        height = max(float(line[-1]), height + 0.09 * top)  # readable where curves meet
        ax.annotate(name, (curve.days[-1], height), xytext=(4, 0), textcoords="offset points",
                    fontsize=8, color=colours[name], va="center",
                    annotation_clip=False)  # fmt: skip
    ax.set_xlim(0, curve.days[-1])
    ax.set_ylim(0, 1.05 * top)
    ax.set_xlabel("age of the tumour, days", fontsize=7.5, color="#555555")
    ax.set_ylabel("volume, ml", fontsize=7.5, color="#555555")


def draw_growth(stages: Sequence["Phantom"]) -> Picture:
    """Draw the tumour of one patient at several ages, and its volume against time.

    Args:
        stages: The same seed grown to several ages: `make_phantom(seed, growth=at_age(...))`.

    Returns:
        A column an age: FLAIR, T1ce and the mask over it, all on the slice in which the youngest
        core is largest. Underneath the volumes: the plan as lines, counted voxels as dots.

    Raises:
        ValueError: There is no stage, or they are not one tumour at several ages.
    """
    plans = _refuse_different(stages)
    plane = _plane_of(stages[0].scan)
    height_in = _PANEL_IN / plane.size_mm[1] * plane.size_mm[0] + 0.02
    parts_in = (len(_ROWS) * height_in + 0.2, 1.75)
    size = (_PANEL_IN * len(stages), sum(parts_in) + 0.95)
    figure = Picture(figsize=size, dpi=PAPER_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)
    upper, lower = figure.add_gridspec(2, 1, height_ratios=parts_in)
    panels = upper.subgridspec(len(_ROWS), len(stages)).subplots()
    for column, stage in enumerate(stages):
        _draw_stage(
            np.reshape(panels, (len(_ROWS), -1))[:, column], stage, plane, is_first=column == 0
        )
    points = [
        (_age_of(plan), _volumes_ml(stage)) for plan, stage in zip(plans, stages, strict=True)
    ]
    curve = growth_curve(plans[0], until_days=_AHEAD * max(days for days, _ in points))
    draw_curve(figure.add_subplot(lower), curve, points, title=describe_rates(plans[0]))
    note = f"{CONVENTIONS['radiological']} · window: 1st to 99.5th percentile of each scan"
    title = f"{stages[0].scan.id}, {plane.caption}: one tumour at {len(stages)} ages"
    title_figure(figure, title, note, label_handles())
    return figure


def _plane_of(scan: Scan) -> Plane:
    """Cut through the middle of the core, or of the whole tumour where there is no core yet."""
    core = np.isin(scan.labels, REGIONS["TC"])
    guide = core if core.any() else scan.labels
    return make_plane(scan, labels=guide, box=brain_box(scan.image, margin_vox=0))


def _volumes_ml(stage: "Phantom") -> Mapping[str, float]:
    return stage.truth["volumes_ml"]["regions"]


def _say_ml(volume_ml: float) -> str:
    return f"{volume_ml:.2g}" if volume_ml < 10 else f"{volume_ml:.0f}"


def _refuse_different(stages: Sequence["Phantom"]) -> list["Growth"]:
    if not stages:
        msg = "stages must hold at least one phantom; got none. Try make_phantom(0, growth=...)."
        raise ValueError(msg)
    plans = [stage.growth for stage in stages]
    names = {stage.scan.id for stage in stages}
    if len(names) > 1 or len({replace(plan, seen_days=None) for plan in plans}) > 1:
        msg = (
            f"stages must be one tumour at several ages; got {len(plans)} plans of "
            f"{', '.join(sorted(names))} that differ in more. Change a plan with `at_age` only."
        )
        raise ValueError(msg)
    return plans


def _age_of(growth: "Growth") -> float:
    return growth.age_days if growth.seen_days is None else growth.seen_days


def _draw_stage(axes: NDArray, stage: "Phantom", plane: Plane, *, is_first: bool) -> None:
    said = f"{_age_of(stage.growth):.0f} days: {_say_ml(_volumes_ml(stage)['WT'])} ml"
    for row, (ax, (modality, name)) in enumerate(zip(axes, _ROWS, strict=True)):
        volume = stage.scan.image[modality_index(modality)]
        grey = grey_slice(plane, volume, intensity_window(volume))
        codes = plane.cut(stage.scan.labels) if "mask" in name else None
        is_annotated = is_first and row == 0
        draw_panel(ax, plane, paint(grey, codes), is_annotated=is_annotated)
        if row == 0:
            ax.set_title(said, fontsize=8, color=INK, pad=3)
        if is_first:
            ax.text(0.98, 0.985, name, transform=ax.transAxes, fontsize=7.5, color="white",
                    ha="right", va="top")  # fmt: skip


def describe_rates(growth: "Growth", *, is_plain: bool = False) -> str:
    """Say kind and rates of a tumour in one line, in plain text or with mathematical signs."""
    year_mm = 365.25 * growth.speed_mm_day
    square, rho = ("mm2", "rho") if is_plain else ("mm$^2$", "$\\rho$")
    return (
        f"{growth.kind}: D = {growth.diffusion_white_mm2_day:.3g} {square}/day in white matter, "
        f"{rho} = {growth.proliferation_per_day:.3g} /day, front {year_mm:.0f} mm a year"
    )
