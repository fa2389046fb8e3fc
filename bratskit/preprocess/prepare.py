"""Turn one scan into the array a network sees."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES
from bratskit.preprocess.geometry import Box, Geometry
from bratskit.preprocess.steps import NORMALISE, Measured, union_box
from bratskit.preprocess.store import Prepared
from bratskit.preprocess.tumour import count_lost
from bratskit.settings import Recipe

__all__ = ["allowed_cores", "prepare_measured", "prepare_scan"]


def prepare_scan(scan: Scan, recipe: Recipe) -> Prepared:
    """Prepare a scan in memory; `prepare_measured` says how.

    Args:
        scan: The scan, native grid.
        recipe: `recipe.geometry` sets the grid, `recipe.modalities` the channels and
            `recipe.normalise` their scale.

    Raises:
        ValueError: The scan holds no brain.
    """
    return prepare_measured(
        [Measured.cut(channel) for channel in scan.image],
        scan.labels,
        case_id=scan.id,
        affine=scan.affine,
        recipe=recipe,
    )


def prepare_measured(
    channels: Sequence[Measured],
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
        channels: Each modality in the order of `MODALITIES`, in any unit whose zero means that
            nothing was measured.
        labels: Internal labels `(I, J, K)`, or None.
        case_id: Name of the case.
        affine: Voxel to world `(4, 4)`, mm.
        recipe: Grid, modalities and scale.
        threads: Modalities normalised at once; None means one a core.

    Raises:
        ValueError: No channel has a voxel other than zero, or a centre crop misses them all.
    """
    try:
        brain = union_box(channels)  # all of it, so that no crop moves the statistics
        geometry = Geometry.around(
            brain, channels[0].shape, affine=affine, settings=recipe.geometry
        )
    except ValueError as error:
        msg = f"{case_id}: {error}"
        raise ValueError(msg) from error
    inner = geometry.after_crop(brain)
    mask = inner.apply_mask(_mask(channels, brain))
    image = np.empty((len(recipe.modalities), *geometry.shape), dtype=np.float32)

    def write(name: str, out: NDArray[np.float32]) -> None:
        _write_channel(channels[MODALITIES.index(name)], recipe.normalise, inner, brain, mask, out)

    with ThreadPoolExecutor(threads or min(len(image), allowed_cores())) as pool:
        list(pool.map(write, recipe.modalities, image))
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


def _mask(channels: Sequence[Measured], brain: Box) -> NDArray[np.bool_]:
    mask = np.zeros([stop - start for start, stop in brain], dtype=np.bool_)
    for channel in channels:
        mask[channel.place_in(brain)] |= channel.values != 0
    return mask


def _write_channel(
    channel: Measured,
    how: str,
    inner: Geometry,
    brain: Box,
    mask: NDArray[np.bool_],
    out: NDArray[np.float32],
) -> None:
    """Normalise one modality, straight into the image where its grid is the brain box itself."""
    box = np.empty(inner.native_shape, dtype=np.float32) if inner.steps else out
    part = box[channel.place_in(brain)]
    if part.shape != box.shape:
        box[...] = 0
    NORMALISE[how]([channel.values], out=part[None])
    if inner.steps:
        out[...] = inner.apply_image(box[None])[0]
    if inner.is_resampling:
        out *= mask  # a tenth of the time of writing by mask
        out += 0  # -0 becomes 0
