"""Turn one scan into the array a network sees."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES
from bratskit.preprocess.geometry import Crop, Geometry
from bratskit.preprocess.steps import NORMALISE, brain_box, brain_mask
from bratskit.preprocess.store import Prepared
from bratskit.preprocess.tumour import count_lost
from bratskit.settings import Recipe

__all__ = ["allowed_cores", "prepare_channels", "prepare_scan"]


def prepare_scan(scan: Scan, recipe: Recipe) -> Prepared:
    """Prepare a scan in memory; `prepare_channels` says how.

    Args:
        scan: The scan, native grid.
        recipe: `recipe.geometry` sets the grid, `recipe.modalities` the channels and
            `recipe.normalise` their scale.

    Raises:
        ValueError: The scan holds no brain.
    """
    return prepare_channels(
        scan.image, scan.labels, case_id=scan.id, affine=scan.affine, recipe=recipe
    )


def prepare_channels(
    channels: Sequence[NDArray],
    labels: NDArray[np.uint8] | None,
    *,
    case_id: str,
    affine: ArrayLike,
    recipe: Recipe,
    threads: int | None = None,
) -> Prepared:
    """Crop to the brain, normalise each modality, resample if the recipe asks for another grid.

    The brain mask and its box come from all modalities, on the native grid and before anything is
    resampled, so that the geometry does not depend on which ones the network sees. Intensities are
    normalised on measured voxels before the resample; the image is masked again after it.

    Args:
        channels: One array `(I, J, K)` a modality in the order of `MODALITIES`, of any real type
            and memory order, in any unit whose zero means that nothing was measured.
        labels: Internal labels `(I, J, K)`, or None.
        case_id: Name of the case.
        affine: Voxel to world `(4, 4)`, mm.
        recipe: Grid, modalities and scale.
        threads: Modalities normalised at once; None means one a core.

    Raises:
        ValueError: No channel has a voxel other than zero, or a centre crop misses them all.
    """
    native_mask = brain_mask(channels)
    try:
        geometry = Geometry.plan(native_mask, recipe.geometry, affine=affine)
    except ValueError as error:
        msg = f"{case_id}: {error}"
        raise ValueError(msg) from error
    brain = Crop(brain_box(native_mask))  # all of it, so that no crop moves the statistics
    inner = geometry.after_crop(brain.box)
    mask = inner.apply_mask(brain.cut(native_mask))
    boxes = [brain.cut(channels[MODALITIES.index(name)]) for name in recipe.modalities]
    image = inner.apply_image(_normalise(boxes, recipe, threads))
    if geometry.is_resampling:
        np.copyto(image, 0, where=~mask)
    return Prepared(
        id=case_id,
        image=image,
        labels=None if labels is None else geometry.apply_labels(labels),
        mask=mask,
        geometry=geometry,
        modalities=recipe.modalities,
        lost_vox={} if labels is None else count_lost(labels, geometry),
    )


def allowed_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _normalise(
    boxes: Sequence[NDArray], recipe: Recipe, threads: int | None
) -> NDArray[np.float32]:
    """Normalise each modality on a thread of its own, straight into the image."""
    image = np.empty((len(boxes), *boxes[0].shape), dtype=np.float32)

    def write(box: NDArray, out: NDArray[np.float32]) -> None:
        NORMALISE[recipe.normalise]([box], out=out[None])

    with ThreadPoolExecutor(threads or min(len(boxes), allowed_cores())) as pool:
        list(pool.map(write, boxes, image))
    return image
