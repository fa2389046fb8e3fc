"""Resample values, masks and labels to another number of voxels, outer faces kept in place."""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from bratskit.labels import LABELS

__all__ = [
    "largest",
    "resample_labels",
    "resample_mask",
    "resample_nearest",
    "resample_values",
]

Triple = tuple[int, int, int]


def resample_values(array: NDArray[np.floating], shape: Triple) -> NDArray[np.float32]:
    """Interpolate `(C, I, J, K)` or `(I, J, K)` trilinearly; outer faces of both grids coincide."""
    tensor = torch.from_numpy(np.require(array, dtype=np.float32, requirements="CW"))
    channels = tensor.reshape(1, -1, *array.shape[-3:])
    new = F.interpolate(channels, size=shape, mode="trilinear", align_corners=False)
    return new.numpy().reshape(*array.shape[:-3], *shape)


def resample_mask(mask: NDArray[np.bool_], shape: Triple) -> NDArray[np.bool_]:
    """Mark the new voxels of which at least half is covered."""
    return resample_values(mask.astype(np.float32), shape) >= 0.5


def resample_labels(labels: NDArray, shape: Triple) -> NDArray[np.uint8]:
    """Interpolate each label's own mask `(I, J, K)` trilinearly and take the largest.

    Ties, frequent where 8 voxels become one, go to the larger label: a thin enhancing rim would
    suffer most from the other rule (Dice there and back at 2 mm .888 against .880, mean of 8 real
    cases).
    """
    present = np.flatnonzero(np.bincount(labels.ravel(), minlength=len(LABELS)))
    return largest((v, resample_values(labels == v, shape)) for v in present[::-1])


def resample_nearest(labels: NDArray, shape: Triple) -> NDArray:
    """Take the voxel `(I, J, K)` whose extent holds each new voxel's centre."""
    return labels[np.ix_(*(_nearest(a, b) for a, b in zip(labels.shape, shape, strict=True)))]


def largest(scores: Iterable[tuple[int, NDArray[np.float32]]]) -> NDArray[np.uint8]:
    """Name the label of the largest score at each voxel; the one that comes first wins a tie."""
    best, labels = None, None
    for label, score in scores:
        if best is None:
            best = score.copy()
            labels = np.full(score.shape, label, dtype=np.uint8)
            continue
        np.copyto(labels, np.uint8(label), where=score > best)
        np.maximum(best, score, out=best)
    return labels


def _nearest(length: int, wanted: int) -> NDArray[np.intp]:
    return ((np.arange(wanted) + 0.5) * length / wanted).astype(np.intp)
