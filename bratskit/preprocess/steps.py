"""Find the brain and normalise intensities inside it; grids and files are not its job."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.memory import Box, extent, forwards

__all__ = [
    "NORMALISE",
    "Measured",
    "brain_box",
    "brain_mask",
    "minmax",
    "union_box",
    "zscore",
]


def brain_mask(image: NDArray | Sequence[NDArray]) -> NDArray[np.bool_]:
    """Mark the voxels where any modality is non-zero, on the native grid.

    The union, so that a slab missing in one modality (as in Brats18_2013_20_1) cuts nothing off
    the others. Skull-stripped input is assumed: zero means "nothing measured here".

    Args:
        image: Intensities `(C, I, J, K)`, or one array `(I, J, K)` a modality.

    Returns:
        Mask `(I, J, K)` bool, in the memory order of the image; all False for an empty image.
    """
    turn = forwards(image[0])
    mask = image[0][turn] != 0
    for channel in image[1:]:
        mask |= channel[turn] != 0
    return mask[turn]


# Not one `values @ values`: BLAS threads that wait for a busy core made a case take 12 s.
_BLOCK = 32768  # values; 256 kB of float64


@dataclass(frozen=True)
class Measured:
    """One modality, cut to the voxels other than zero: all that normalising needs of it.

    Attributes:
        values: Intensities `(i, j, k)` of the box, K innermost in memory.
        box: Where they lie in the scan; None where all of it is zero.
        shape: Shape `(I, J, K)` of the scan.
    """

    values: NDArray
    box: Box | None
    shape: tuple[int, ...]

    @classmethod
    def cut(cls, channel: NDArray) -> "Measured":
        """Cut an array `(I, J, K)` of any real type and memory order, copying the least."""
        box = extent(channel)
        part = channel[_slices(box or ((0, 0),) * 3)]
        return cls(_k_innermost(part), box, channel.shape)

    def place_in(self, box: Box) -> tuple[slice, ...]:
        """Name the part of a larger box that the values fill."""
        corner = [start for start, _ in box]
        own = self.box or ((start, start) for start in corner)
        return tuple(slice(a - c, b - c) for (a, b), c in zip(own, corner, strict=True))


def union_box(channels: Sequence[Measured]) -> Box:
    """Find the smallest box that holds all that any modality measured.

    Raises:
        ValueError: None measured anything.
    """
    boxes = [channel.box for channel in channels if channel.box]
    if not boxes:
        return _some(None)
    axes = zip(*boxes, strict=True)
    first, second, third = ((min(a for a, _ in x), max(b for _, b in x)) for x in axes)
    return first, second, third


def brain_box(mask: NDArray[np.bool_]) -> Box:
    """Find the smallest box that holds every True voxel.

    Args:
        mask: Brain mask `(I, J, K)` bool.

    Returns:
        First and past-the-last voxel along I, J, K.

    Raises:
        ValueError: The mask is empty.

    Examples:
        >>> mask = np.zeros((5, 6, 7), dtype=bool)
        >>> mask[1:4, 2, 6] = True
        >>> brain_box(mask)
        ((1, 4), (2, 3), (6, 7))
    """
    return _some(extent(mask))


def zscore(
    image: NDArray | Sequence[NDArray],
    mask: NDArray[np.bool_] | None = None,
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    r"""Give each modality mean 0 and standard deviation 1 over the brain voxels it measured.

    $$z = (x - \bar{x}) / \sigma \quad\text{where}\; x \ne 0, \qquad z = 0 \;\text{elsewhere}$$

    A modality is normalised over its own non-zero voxels, not over the union of all: where a slab
    of it is missing, the zeros would pull its mean down and blow its deviation up, and the slab
    would read as darkest tissue. This way it reads as the mean, like the background. On intact
    BraTS cases the two rules differ in fewer than one voxel in a thousand.

    Sums run in float64, exact for 8 and 16 bit integers: a float32 sum of squares over a brain is
    wrong in the third digit. A positive factor changes no z-score, so values may come as stored.

    Args:
        image: Intensities `(C, I, J, K)`, any real type and memory order, or one array a modality.
        mask: Voxels that may count, `(I, J, K)` bool; None allows all that are not zero.
        out: Where to write; None makes a new array.

    Returns:
        Normalised image `(C, I, J, K)` float32, background exactly 0. A modality without any
        brain voxel is all 0, and so is one of constant intensity (deviation 0).

    Examples:
        >>> zscore(np.array([0, 2, 4], dtype=np.float32).reshape(1, 1, 1, 3)).ravel().tolist()
        [0.0, -1.0, 1.0]
    """
    normal = _like(image) if out is None else out
    for channel, target in zip(image, normal, strict=True):
        values = _k_innermost(channel if mask is None else np.where(mask, channel, 0))
        mean, deviation = _mean_and_deviation(values)
        scale = np.float32(1 / deviation if deviation > 0 else 0.0)
        off = np.empty(values.shape[1:], dtype=np.float32)
        for plane, row in zip(values, target, strict=True):
            off[...] = plane != 0
            off *= np.float32(mean)  # the mean where measured, else 0: faster than to write by mask
            row[...] = plane
            row -= off
            row *= scale
    return normal


def minmax(
    image: NDArray | Sequence[NDArray],
    mask: NDArray[np.bool_] | None = None,
    *,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    r"""Bring each modality to 0..1 over the brain voxels it measured and the 0 around them.

    $$y = (x - l) / (h - l) \quad\text{where}\; x \ne 0, \qquad y = 0 \;\text{elsewhere}$$

    with l and h the least and the largest of the measured values and 0. Where no intensity is
    negative, as in BraTS, l is 0 and this equals `sklearn`'s `MinMaxScaler` or
    `monai.transforms.ScaleIntensity` over the whole volume. One bright vessel sets h, so two
    scanners' tissues do not meet at one value: z-scores serve better, this is for comparison.

    Args:
        image: Intensities `(C, I, J, K)`, any real type and memory order, or one array a modality.
        mask: Voxels that may count, `(I, J, K)` bool; None allows all that are not zero.
        out: Where to write; None makes a new array.

    Returns:
        Scaled image `(C, I, J, K)` float32 in [0, 1], background exactly 0. NaN and infinity count
        as not measured; a modality without any brain voxel is all 0.

    Examples:
        >>> minmax(np.array([0, 2, 4], dtype=np.float32).reshape(1, 1, 1, 3)).ravel().tolist()
        [0.0, 0.5, 1.0]
    """
    scaled = _like(image) if out is None else out
    for channel, target in zip(image, scaled, strict=True):
        target[...] = 0
        measured = np.isfinite(channel) & (channel != 0)
        if mask is not None:
            measured &= mask
        values = channel[measured].astype(np.float64)
        if values.size:
            low, high = min(values.min(), 0.0), max(values.max(), 0.0)
            target[measured] = (values - low) / (high - low)
    return scaled


NORMALISE = {"zscore": zscore, "minmax": minmax}  # by the name that a recipe calls it


def _some(box: Box | None) -> Box:
    if box is None:
        msg = (
            "image must hold a brain, voxels other than zero; got zeros only. "
            "Check that the right files were read, for example with `bratskit check`."
        )
        raise ValueError(msg)
    return box


def _slices(box: Box) -> tuple[slice, ...]:
    return tuple(slice(start, stop) for start, stop in box)


def _like(image: NDArray | Sequence[NDArray]) -> NDArray[np.float32]:
    return np.empty((len(image), *image[0].shape), dtype=np.float32)


def _k_innermost(channel: NDArray) -> NDArray:
    """Bring a channel into C order, but for flips: plane by plane, in half the time of one copy."""
    turn = forwards(channel)
    ahead = channel[turn]
    fastest = int(np.argmin(ahead.strides))
    if fastest == 2 and ahead.dtype.isnative:
        return channel
    new = np.empty(ahead.shape, ahead.dtype.newbyteorder("="))
    across = (
        0 if fastest == 1 else 1
    )  # planes that hold the axes that run fastest, before and after
    for source, target in zip(
        np.moveaxis(ahead, across, 0), np.moveaxis(new, across, 0), strict=True
    ):
        target[...] = source
    return new[turn]


def _mean_and_deviation(channel: NDArray) -> tuple[float, float]:
    """Measure the voxels that are not zero, block by block: the float64 copy stays in the cache."""
    count, total, squares = int(np.count_nonzero(channel)), 0.0, 0.0
    ahead = channel[forwards(channel)]
    values = np.empty(_BLOCK, dtype=np.float64)
    for part in [ahead] if ahead.flags.c_contiguous else ahead:
        flat = part.ravel()
        for start in range(0, flat.size, _BLOCK):
            block = values[: min(_BLOCK, flat.size - start)]
            block[...] = flat[start : start + _BLOCK]
            total += float(block.sum())
            squares += float(np.einsum("i,i->", block, block))
    if count == 0:
        return 0.0, 0.0
    mean = total / count
    variance = squares / count - mean * mean
    # Below the rounding error of the two sums, a deviation is noise about a constant.
    return mean, variance**0.5 if variance > 1e-12 * mean * mean else 0.0
