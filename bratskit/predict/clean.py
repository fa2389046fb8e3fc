"""Tidy a label map after the decision; what counts as too small or too rough is the caller's.

Regions nest (ET in TC in WT) before and after each step, because a voxel carries one label. Where a
network answers regions, `bratskit.preprocess.decide` has made them nest: an outer region has the
last word.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bratskit.labels import REGIONS, paint_regions
from bratskit.settings import InferenceSettings

__all__ = ["fill_holes", "remove_small_components", "remove_small_et", "smooth_borders", "tidy"]

Labels = NDArray[np.uint8]

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # 26-connected, as the BraTS 2023 scorer counts
NCR, ED, ET = 1, 2, 3


def tidy(
    labels: Labels,
    settings: InferenceSettings,
    *,
    spacing_mm: tuple[float, float, float],
    brain: NDArray[np.bool_] | None = None,
) -> Labels:
    """Do with a label map all that a recipe asks for, in an order that is part of the result.

    1. `smooth_mm`: borders are smoothed, which may cut a thin bridge or drop a crumb;
    2. `fill_holes`: what tumour encloses becomes tumour;
    3. `smallest_component_vox`: islands go, counted with their holes filled;
    4. `smallest_et_vox`: too little ET in what is left becomes NCR.

    Args:
        labels: Internal labels `(I, J, K)`, as decided; left as it is.
        settings: `recipe.inference`; sizes count voxels of the grid that `labels` is on.
        spacing_mm: Voxel size of that grid, mm.
        brain: Where tumour may be; None is everywhere. What is outside becomes background after
            the first two steps, which might have spread to there.

    Returns:
        A new label map. With the settings' defaults it equals the one that came.

    Raises:
        ValueError: A setting is negative.

    Examples:
        >>> labels = np.zeros((5, 5, 5), dtype=np.uint8)
        >>> labels[1:4, 1:4, 1:4], labels[2, 2, 2] = 2, 0
        >>> settings = InferenceSettings(fill_holes=True, smallest_component_vox=27)
        >>> tidy(labels, settings, spacing_mm=(1, 1, 1)).sum().item()  # 27 voxels of ED
        54
    """
    tidied = smooth_borders(labels, settings.smooth_mm, spacing_mm=spacing_mm)
    if settings.fill_holes:
        tidied = fill_holes(tidied)
    if brain is not None:
        tidied[~brain] = 0
    tidied = remove_small_components(tidied, settings.smallest_component_vox)
    return remove_small_et(tidied, settings.smallest_et_vox)


def smooth_borders(
    labels: Labels, smooth_mm: float, *, spacing_mm: tuple[float, float, float]
) -> Labels:
    """Smooth the borders of WT, TC and ET by a Gaussian, cut at one half.

    A region that holds another still holds it afterwards, a flat border stays where it is, and
    nothing grows beyond the box it lay in. Corners are rounded; a sheet thinner than 1.35
    deviations is gone.

    Args:
        labels: Internal labels `(I, J, K)`.
        smooth_mm: Standard deviation, mm; 0 changes nothing.
        spacing_mm: Voxel size, mm.

    Returns:
        A new label map.

    Raises:
        ValueError: `smooth_mm` is negative.

    Examples:
        >>> labels = np.zeros((9, 9, 9), dtype=np.uint8)
        >>> labels[2:7, 2:7, 2:7], labels[8, 8, 8] = 2, 2  # a block, and a crumb beside it
        >>> smooth_borders(labels, 1.0, spacing_mm=(1, 1, 1))[[2, 2, 8], [4, 2, 8], [4, 2, 8]]
        array([2, 0, 0], dtype=uint8)
    """
    _refuse_negative("smooth_mm", smooth_mm)
    smoothed = labels.copy()
    box = _box(labels)
    if smooth_mm == 0 or box is None:
        return smoothed
    sigma_vox = [smooth_mm / length for length in spacing_mm]
    masks = (
        ndimage.gaussian_filter(
            np.isin(labels[box], members).astype(np.float32), sigma_vox, mode="constant"
        )
        > 0.5
        for members in REGIONS.values()
    )
    smoothed[box] = paint_regions(masks, np.zeros_like(labels[box]))
    return smoothed


def fill_holes(labels: Labels) -> Labels:
    """Label background that tumour encloses: as NCR where TC encloses it, else as ED.

    A hole is background that no path through voxel faces joins to the background outside.

    Args:
        labels: Internal labels `(I, J, K)`.

    Returns:
        A new label map.

    Examples:
        >>> labels = np.full((5, 5, 5), 2, dtype=np.uint8)
        >>> labels[1:4, 1:4, 1:4], labels[2, 2, 2] = 3, 0  # a hole in a rim of ET in ED
        >>> fill_holes(labels)[2, 2, 2].item()
        1
    """
    filled = labels.copy()
    box = _box(labels)
    if box is None:
        return filled
    inside = filled[box]  # a view: the tumour's bounding box
    empty = inside == 0
    core = ndimage.binary_fill_holes(np.isin(inside, REGIONS["TC"]))
    whole = ndimage.binary_fill_holes(~empty)
    inside[empty & whole] = ED
    inside[empty & core] = NCR
    return filled


def remove_small_components(labels: Labels, smallest_vox: int) -> Labels:
    """Remove islands of tumour, whatever their tissue, that are smaller than a size.

    The whole tumour is judged, not each tissue: a small ET inside a large oedema stays.

    Args:
        labels: Internal labels `(I, J, K)`.
        smallest_vox: Islands (26-connected) with fewer voxels become background; 0 and 1 keep all.

    Returns:
        A new label map. It is all background where every island was too small.

    Raises:
        ValueError: `smallest_vox` is negative.

    Examples:
        >>> labels = np.zeros((4, 4, 4), dtype=np.uint8)
        >>> labels[0, 0, :3], labels[3, 3, 3] = 2, 3
        >>> remove_small_components(labels, 2).sum().item()
        6
    """
    _refuse_negative("smallest_vox", smallest_vox)
    kept = labels.copy()
    box = _box(labels)
    if smallest_vox <= 1 or box is None:
        return kept
    inside = kept[box]  # a view: the tumour's bounding box
    islands, _ = ndimage.label(inside, structure=NEIGHBOURS)
    is_small = np.bincount(islands.ravel()) < smallest_vox
    inside[is_small[islands]] = 0
    return kept


def remove_small_et(labels: Labels, smallest_vox: int) -> Labels:
    """Call ET necrosis where a whole case has too little of it to be believed.

    A few voxels of ET in a patient who has none score 0 by the BraTS rule, and none score 1: for a
    tumour without enhancement the rule decides everything, for any other it costs little. The core
    stays as large as it was.

    Args:
        labels: Internal labels `(I, J, K)`.
        smallest_vox: Cases with fewer voxels of ET have none; 0 and 1 keep all.

    Returns:
        A new label map.

    Raises:
        ValueError: `smallest_vox` is negative.

    Examples:
        >>> remove_small_et(np.array([[[3, 3, 2, 0]]], dtype=np.uint8), 3).tolist()
        [[[1, 1, 2, 0]]]

    Source:
        Isensee et al. (2020), arXiv:2011.00848, postprocessing: ET below a size that was chosen on
        training cases becomes necrosis.
    """
    _refuse_negative("smallest_vox", smallest_vox)
    kept = labels.copy()
    if smallest_vox <= 1:
        return kept
    enhancing = kept == ET
    if np.count_nonzero(enhancing) < smallest_vox:
        kept[enhancing] = NCR
    return kept


def _box(labels: Labels) -> tuple[slice, slice, slice] | None:
    """Return the bounding box of the tumour, or None where there is none."""
    found = ndimage.find_objects((labels > 0).view(np.uint8))
    return found[0] if found else None


def _refuse_negative(name: str, value: float) -> None:
    if value < 0:
        msg = f"{name} must be at least 0; got {value}. Use 0 to keep everything."
        raise ValueError(msg)
