"""Decide the steps from one scan's grid to the grid that a recipe asks for."""

import numpy as np
from numpy.typing import NDArray

from bratskit.preprocess.grid import Box, Crop, Resize, Step, Triple, whole_box
from bratskit.settings import GeometrySettings

__all__ = ["plan_steps", "spacing_of"]


def plan_steps(
    shape: Triple, brain: Box, affine: NDArray[np.float64], settings: GeometrySettings
) -> tuple[Step, ...]:
    """Cut the region, resample it at most once, cut or pad its middle.

    Args:
        shape: Shape of the scan.
        brain: Box of the brain in it; without one there is nothing to prepare on any grid.
        affine: Voxel to world `(4, 4)`, mm.
        settings: What is wanted.

    Raises:
        ValueError: The middle misses the brain.
    """
    region = Crop(brain if settings.region == "brain" else whole_box(shape))
    resize = _plan_resize(region.shape_after(shape), spacing_of(affine), settings)
    if settings.crop_vox is None:
        return region, resize
    middle = Crop.middle(resize.shape, settings.crop_vox)
    kept = middle.keeps(whole_box(settings.crop_vox), resize.shape)
    kept = resize.keeps(kept, region.shape_after(shape))
    _refuse_empty(region.keeps(kept, shape), brain, settings)
    return region, resize, middle


def spacing_of(affine: NDArray[np.float64]) -> tuple[float, float, float]:
    """Measure the voxel size along I, J, K that an affine `(4, 4)` gives, mm."""
    first, second, third = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return first, second, third


def _plan_resize(
    shape: Triple, spacing_mm: tuple[float, float, float], settings: GeometrySettings
) -> Resize:
    if settings.size_vox is not None:
        return Resize(tuple(settings.size_vox))
    if settings.spacing_mm is None:
        return Resize(shape)
    # Whole voxels are the tolerance: a header's 0.99999994 or 1.002 mm moves no face of the box by
    # half a voxel, so the data is at the wanted spacing already and passes untouched.
    wanted = np.array(shape) * spacing_mm / np.array(settings.spacing_mm)
    first, second, third = (max(1, round(float(length))) for length in wanted)
    return Resize((first, second, third))


def _refuse_empty(kept: Box, brain: Box, settings: GeometrySettings) -> None:
    if any(max(a, c) >= min(b, d) for (a, b), (c, d) in zip(kept, brain, strict=True)):
        msg = (
            f"crop_vox must hold some of the brain; got {settings.crop_vox}, which keeps {kept} of "
            f"the scan where the brain is at {brain}. Take a larger one, or region='brain'."
        )
        raise ValueError(msg)
