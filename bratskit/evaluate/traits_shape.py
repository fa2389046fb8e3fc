"""Measure a mask in its brain: sizes, parts, rims, roundness and place; looks at no intensity."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bratskit.evaluate.metrics import box_of
from bratskit.labels import LABELS, REGIONS

__all__ = ["coarse_step", "measure_shape"]

Triple = tuple[float, float, float]
Mask = NDArray[np.bool_]

_CRUMB_ML = 0.05  # parts below it are counted apart: 50 voxels of BraTS
_AT_SURFACE_MM = 4.0  # how near to the outside of the brain is at its surface
_COARSE_MM = 2.0  # voxel size at which depths are measured


def measure_shape(
    labels: NDArray[np.uint8], brain: Mask, *, spacing_mm: Triple
) -> dict[str, float]:
    """Measure sizes, shares, parts, rim, roundness and place of one tumour.

    Args:
        labels: Internal labels `(I, J, K)`, with tumour, inside the brain.
        brain: Brain mask on the same grid.
        spacing_mm: Voxel size.

    Returns:
        Numbers by name. `*_ml` volumes; `TC_of_WT` and `ET_of_TC` shares of volume; `*_parts`
        connected parts (corners count) of 0.05 ml or more and `*_crumbs` smaller ones; `*_largest`
        the largest part's share; `*_sphericity` 1 for a ball, less for what is ragged; `rim_mm`
        mean thickness of ET; `NCR_in_ET`, `TC_in_ED` share of the border of one that touches the
        other; `WT_depth_mm` median distance to the outside of the brain; `WT_at_surface` share
        within 4 mm of it; `WT_midline_mm` of its centre; `WT_crosses` share on the lesser side;
        `WT_front` and `WT_height` place of the centre in the brain's box, 0 to 1.
    """
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    box = box_of(labels > 0)
    inside = np.pad(labels[box], 1)
    masks = {name: np.isin(inside, members) for name, members in REGIONS.items()}
    numbers = {"brain_ml": np.count_nonzero(brain) * voxel_ml}
    counts = np.bincount(inside.ravel(), minlength=len(LABELS))
    numbers |= {f"{LABELS[label]}_ml": counts[label] * voxel_ml for label in (1, 2, 3)}
    sizes_ml = {name: np.count_nonzero(mask) * voxel_ml for name, mask in masks.items()}
    numbers |= {"WT_ml": sizes_ml["WT"], "TC_ml": sizes_ml["TC"]}
    numbers["TC_of_WT"] = sizes_ml["TC"] / sizes_ml["WT"]
    numbers["ET_of_TC"] = sizes_ml["ET"] / sizes_ml["TC"] if sizes_ml["TC"] else np.nan
    for name, mask in masks.items():
        numbers |= _measure_parts(name, mask, voxel_ml)
        if name != "ET":
            numbers[f"{name}_sphericity"] = _sphericity(mask, spacing_mm)
    numbers["rim_mm"] = _thickness_mm(masks["ET"], spacing_mm)
    numbers["NCR_in_ET"] = _share_touching(inside == 1, inside == 3)
    numbers["TC_in_ED"] = _share_touching(masks["TC"], inside == 2)
    return numbers | _measure_place(labels > 0, brain, spacing_mm)


def coarse_step(spacing_mm: Triple, coarse_mm: float = _COARSE_MM) -> tuple[int, int, int]:
    """Say how many voxels along each axis make about `coarse_mm`; 1 or more.

    Examples:
        >>> coarse_step((1.0, 1.0, 5.0), 2.0)
        (2, 2, 1)
    """
    i, j, k = (max(1, round(coarse_mm / s)) for s in spacing_mm)
    return i, j, k


def _measure_parts(name: str, mask: Mask, voxel_ml: float) -> dict[str, float]:
    parts, _ = ndi.label(mask, np.ones((3, 3, 3)))
    sizes_ml = np.bincount(parts.ravel())[1:] * voxel_ml
    large = sizes_ml >= _CRUMB_ML
    return {
        f"{name}_parts": float(large.sum()),
        f"{name}_crumbs": float((~large).sum()),
        f"{name}_largest": sizes_ml.max() / sizes_ml.sum() if sizes_ml.size else np.nan,
    }


def _sphericity(mask: Mask, spacing_mm: Triple) -> float:
    """Compare the surface of a ball as large with that of the mask, 2/3 of its voxels' faces.

    Faces stand for 3/2 of a surface that looks in all directions alike (Cauchy's formula).
    """
    if not mask.any():
        return np.nan
    volume_mm3 = np.count_nonzero(mask) * float(np.prod(spacing_mm))
    faces_mm2 = sum(
        np.count_nonzero(np.diff(mask, axis=axis)) * float(np.prod(spacing_mm)) / spacing_mm[axis]
        for axis in range(3)
    )
    return float(np.pi ** (1 / 3) * (6 * volume_mm3) ** (2 / 3) / (faces_mm2 * 2 / 3))


def _thickness_mm(mask: Mask, spacing_mm: Triple) -> float:
    """Take four times the mean depth, which in a slab of thickness t is t / 4."""
    if not mask.any():
        return np.nan
    depth_mm = ndi.distance_transform_edt(mask, sampling=spacing_mm)[mask]
    return 4 * max(float(depth_mm.mean()) - 0.5 * min(spacing_mm), 0.0)


def _share_touching(mask: Mask, other: Mask) -> float:
    """Return the share of a mask's faces behind which lies the other mask."""
    faces = touching = 0
    for axis in range(3):
        for side in (1, -1):
            beyond = ~np.roll(mask, side, axis) & mask
            faces += np.count_nonzero(beyond)
            touching += np.count_nonzero(beyond & np.roll(other, side, axis))
    return touching / faces if faces else np.nan


def _measure_place(whole: Mask, brain: Mask, spacing_mm: Triple) -> dict[str, float]:
    step = coarse_step(spacing_mm)
    thin = tuple(slice(n // 2, None, n) for n in step)
    size_mm = [n * s for n, s in zip(step, spacing_mm, strict=True)]
    depth_mm = ndi.distance_transform_edt(np.pad(brain[thin], 1), sampling=size_mm)
    depth_mm = depth_mm[1:-1, 1:-1, 1:-1]
    places = np.argwhere(whole) * np.asarray(spacing_mm)
    across, along, up = places.mean(axis=0)
    lengths_mm = np.array(brain.shape) * spacing_mm
    area = brain.sum(axis=(1, 2))  # of all voxels: those of `thin` have another middle
    middle_mm = float((area * np.arange(area.size)).sum() / area.sum() * spacing_mm[0])
    in_tumour = depth_mm[whole[thin]] if whole[thin].any() else np.array([np.nan])
    right = float((places[:, 0] > middle_mm).mean())
    return {
        "WT_depth_mm": float(np.median(in_tumour)),
        "WT_at_surface": float((in_tumour < _AT_SURFACE_MM).mean()),
        "WT_midline_mm": abs(float(across) - middle_mm),
        "WT_crosses": min(right, 1 - right),
        "WT_front": float(along / lengths_mm[1]),
        "WT_height": float(up / lengths_mm[2]),
    }
