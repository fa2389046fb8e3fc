"""Draw cases as figures: modalities, overlays, slices side by side, truth against prediction."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES
from bratskit.visualize.frame import (
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
    Plane,
    check_on_grid,
    error_map,
    intensity_window,
    make_plane,
    modality_index,
    spread_indices,
)

__all__ = ["draw_comparison", "draw_modalities", "draw_overlay", "draw_slices"]

DIMMED = 0.55  # an error map lies over a darker image, so that pale means right


def draw_modalities(
    scan: Scan,
    *,
    labels: NDArray | None = None,
    axis: Axis = "axial",
    index: int | None = None,
    opacity: float = 0.45,
    convention: Convention = "radiological",
    modalities: Sequence[str] = MODALITIES,
) -> Figure:
    """Draw the modalities of one slice beside each other.

    Args:
        scan: The patient, native grid.
        labels: Internal labels `(I, J, K)` laid over each modality; None lays nothing over.
        axis: "axial", "coronal" or "sagittal".
        index: Slice number; None takes the slice with the most tumour.
        opacity: Of the labels, 0 to 1.
        convention: Which side of the picture is the patient's left.
        modalities: Those shown.

    Returns:
        A figure of a panel each. A scan without tumour is shown at the middle of the brain.

    Raises:
        ValueError: The labels are not on the grid of the scan, or a choice is unknown.
    """
    if labels is not None:
        check_on_grid(labels, scan, name="labels")
    plane = make_plane(scan, axis, index, labels=labels, convention=convention)
    figure, axes = make_panels(1, [plane] * len(modalities), width_in=2.2 * len(modalities))
    codes = None if labels is None else plane.cut(labels)
    for ax, modality in zip(axes.flat, modalities, strict=True):
        grey, window = _grey(scan, plane, modality)
        title = f"{MODALITY_NAMES[modality]}  window {_range(window)}"
        draw_panel(ax, plane, paint(grey, codes, opacity=opacity), title=title)
    title_figure(figure, *_heading(scan, plane), label_handles() if labels is not None else ())
    return figure


def draw_overlay(
    scan: Scan,
    labels: NDArray,
    *,
    modality: str = "flair",
    indices: Mapping[Axis, int] | None = None,
    opacity: float = 0.55,
    convention: Convention = "radiological",
) -> Figure:
    """Draw labels over one modality, cut along all three axes.

    Args:
        scan: The patient, native grid.
        labels: Internal labels `(I, J, K)`.
        modality: What lies underneath.
        indices: Slice number by axis; an axis left out takes its busiest slice.
        opacity: Of the labels, 0 to 1.
        convention: Which side of the picture is the patient's left.

    Returns:
        A figure of two rows: the image alone, and the image under its labels.
    """
    check_on_grid(labels, scan, name="labels")
    window = intensity_window(scan.image[modality_index(modality)])
    planes = [
        make_plane(scan, axis, (indices or {}).get(axis), labels=labels, convention=convention)
        for axis in ("axial", "coronal", "sagittal")
    ]
    figure, axes = make_panels(2, planes, width_in=7.4)
    height_mm = max(plane.size_mm[0] for plane in planes)
    for column, plane in enumerate(planes):
        grey = grey_slice(plane, scan.image[modality_index(modality)], window)
        draw_panel(axes[0, column], plane, paint(grey), title=plane.caption,
                   height_mm=height_mm)  # fmt: skip
        painted = paint(grey, plane.cut(labels), opacity=opacity)
        draw_panel(axes[1, column], plane, painted, is_annotated=False, height_mm=height_mm)
    note = f"{MODALITY_NAMES[modality]}, window {_range(window)}  ·  {CONVENTIONS[convention]}"
    title_figure(figure, scan.id, note, label_handles())
    return figure


def draw_slices(
    scan: Scan,
    *,
    pred: NDArray,
    truth: NDArray | None = None,
    modality: str = "flair",
    axis: Axis = "axial",
    n_slices: int = 5,
    opacity: float = 0.55,
    convention: Convention = "radiological",
) -> Figure:
    """Draw truth and prediction on slices spread over the tumour.

    Args:
        scan: The patient, native grid.
        pred: Predicted internal labels `(I, J, K)`.
        truth: Reference labels; None takes `scan.labels`.
        modality: What lies underneath.
        axis: "axial", "coronal" or "sagittal".
        n_slices: Slices shown; fewer where the tumour is thinner.
        opacity: Of the labels, 0 to 1.
        convention: Which side of the picture is the patient's left.

    Returns:
        A figure with a row of the image, of the truth (where there is one), of the prediction and
        of the error map (where there is a truth); a column a slice.
    """
    truth = scan.labels if truth is None else truth
    for name, labels in (("pred", pred), ("truth", truth)):
        if labels is not None:
            check_on_grid(labels, scan, name=name)
    first = make_plane(scan, axis, labels=pred, convention=convention)
    guide = truth if truth is not None and truth.any() else pred
    indices = spread_indices(guide, axis, box=first.box, n_slices=n_slices)
    rows = ["image", "prediction"] if truth is None else ["image", "truth", "prediction", "errors"]
    window = intensity_window(scan.image[modality_index(modality)])
    figure, axes = make_panels(len(rows), [first] * len(indices), width_in=7.2, left_in=0.25)
    for column, index in enumerate(indices):
        plane = make_plane(scan, axis, index, box=first.box, convention=convention)
        panels = _columns(scan, plane, modality, pred=pred, truth=truth, opacity=opacity)
        for row, name in enumerate(rows):
            title = plane.caption if row == 0 else ""
            draw_panel(axes[row, column], plane, panels[name], title=title, is_annotated=row == 0)
    for row, name in enumerate(rows):
        axes[row, 0].set_ylabel(name, fontsize=8)
    note = f"{MODALITY_NAMES[modality]}, window {_range(window)}  ·  {CONVENTIONS[convention]}"
    handles = label_handles() + (error_handles() if truth is not None else [])
    title_figure(figure, scan.id, note, handles)
    return figure


def draw_comparison(
    pairs: Sequence[tuple[Scan, NDArray]],
    *,
    notes: Sequence[str] | None = None,
    axis: Axis = "axial",
    opacity: float = 0.55,
    convention: Convention = "radiological",
) -> Figure:
    """Draw a grid: a row a case; FLAIR, T1ce, truth, prediction and error map across.

    Args:
        pairs: Scans that carry labels, each with its predicted internal labels `(I, J, K)`.
        notes: Said beside each row, for example its Dice.
        axis: "axial", "coronal" or "sagittal"; each case is cut at its busiest slice.
        opacity: Of the labels, 0 to 1.
        convention: Which side of the picture is the patient's left.

    Raises:
        ValueError: There are no pairs, a scan has no labels, or a prediction is on another grid.
    """
    _check_pairs(pairs)
    planes = [
        make_plane(scan, axis, labels=scan.labels if scan.labels.any() else pred,
                   convention=convention)
        for scan, pred in pairs
    ]  # fmt: skip
    columns = ("flair", "t1ce", "truth", "prediction", "errors")
    height_mm = max(plane.size_mm[0] for plane in planes)
    tallest = max(planes, key=lambda plane: plane.size_mm[0])
    figure, axes = make_panels(len(pairs), [tallest] * len(columns), width_in=8.2, left_in=0.7)
    for row, ((scan, pred), plane) in enumerate(zip(pairs, planes, strict=True)):
        panels = _columns(scan, plane, "flair", pred=pred, truth=scan.labels, opacity=opacity)
        panels["flair"] = panels["image"]
        panels["t1ce"] = paint(_grey(scan, plane, "t1ce")[0])
        for column, name in enumerate(columns):
            title = MODALITY_NAMES.get(name, name) if row == 0 else ""
            draw_panel(axes[row, column], plane, panels[name], title=title,
                       is_annotated=column == 0, height_mm=height_mm)  # fmt: skip
        lines = [scan.id, plane.caption, *([notes[row]] if notes else [])]
        axes[row, 0].set_ylabel("\n".join(lines), fontsize=7.5, linespacing=1.3)
    windows = "windows: 1st to 99.5th percentile of each brain"
    note = f"{CONVENTIONS[convention]}  ·  {windows}"
    title_figure(figure, "Truth and prediction on the busiest slice of each case", note,
                 label_handles() + error_handles())  # fmt: skip
    return figure


def _columns(
    scan: Scan,
    plane: Plane,
    modality: str,
    *,
    pred: NDArray,
    truth: NDArray | None,
    opacity: float,
) -> dict[str, NDArray]:
    grey, _ = _grey(scan, plane, modality)
    pred_slice = plane.cut(pred)
    panels = {"image": paint(grey), "prediction": paint(grey, pred_slice, opacity=opacity)}
    if truth is not None:
        truth_slice = plane.cut(truth)
        panels["truth"] = paint(grey, truth_slice, opacity=opacity)
        errors = error_map(pred=pred_slice, truth=truth_slice)
        dimmed = (grey * DIMMED).astype("uint8")
        panels["errors"] = paint(dimmed, errors, opacity=0.8, colours=ERROR_COLOURS)
    return panels


def _grey(scan: Scan, plane: Plane, modality: str) -> tuple[NDArray, tuple[float, float]]:
    volume = scan.image[modality_index(modality)]
    window = intensity_window(volume)
    return grey_slice(plane, volume, window), window


def _heading(scan: Scan, plane: Plane) -> tuple[str, str]:
    return f"{scan.id}  ·  {plane.caption}", CONVENTIONS[plane.convention]


def _range(window: tuple[float, float]) -> str:
    decimals = 0 if window[1] - window[0] >= 20 else 1
    return f"{window[0]:.{decimals}f} to {window[1]:.{decimals}f}"


def _check_pairs(pairs: Sequence[tuple[Scan, NDArray]]) -> None:
    if not pairs:
        msg = "pairs must name at least one case; got none. Pass `[(scan, pred)]`."
        raise ValueError(msg)
    for scan, pred in pairs:
        if scan.labels is None:
            msg = f"scan {scan.id} must carry labels; got none. Use draw_slices for it instead."
            raise ValueError(msg)
        check_on_grid(pred, scan, name="pred")
