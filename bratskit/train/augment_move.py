"""Mirror, turn, zoom and bend one patch, all in one resampling; it changes no intensity.

`index_select` from a padded patch, tile by tile, takes two thirds of the time of `grid_sample` on a
CPU, which asks of each corner of each voxel whether it lies outside; the same code runs on a GPU.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Warp", "move_patch"]

Array = NDArray[np.float64]
PAD = (1, 2)  # zeros before and after each axis: what lies outside a patch is background
TILE_VOX = 32  # edge along I and J: what a tile reads and writes stays in the cache of a CPU core


def move_patch(
    image: Tensor,
    labels: Tensor,
    *,
    flips: NDArray[np.bool_],
    rotation_rad: Array,
    zoom: float,
    bend: Array | None = None,
    out: tuple[Tensor, Tensor],
) -> None:
    """Move one patch and its labels alike.

    Each voxel of the image becomes the mean of the eight around the point that it comes from,
    weighted by nearness; each of the labels that of the nearest. Both are 0 where it lies outside.

    Args:
        image: `(C, I, J, K)`; not modified.
        labels: `(I, J, K)`, from 0 to 255; not modified.
        flips: Axes to mirror; the turn follows. A mirror alone moves voxels and mixes none.
        rotation_rad: Angles about I, J, K.
        zoom: Factor by which content grows.
        bend: `(3, n, n, n)` displacements of knots, as a share of the distance between two.
        out: Image and labels to fill, of the same shapes.
    """
    if zoom == 1 and not rotation_rad.any() and (bend is None or not bend.any()):
        axes = [axis - 3 for axis in np.flatnonzero(flips)]
        out[0].copy_(image.flip(axes))
        out[1].copy_(labels.flip(axes))
        return
    matrix = _turn(rotation_rad) / zoom * np.where(flips, -1, 1)[:, None]
    _sample(image, labels, Warp(labels.shape, matrix, bend, like=image), out=out)


class Warp:
    """Say where each voxel of a moved patch comes from: a matrix about its centre, then a bend.

    The bend is a cubic B-spline of few knots, turned and zoomed with the patch.

    Args:
        shape: Size of the patch.
        matrix: `(3, 3)`, from the moved patch to the patch.
        bend: As of `move_patch`.
        like: A tensor on the device that points are wanted on, of their type.
    """

    def __init__(
        self, shape: Sequence[int], matrix: Array, bend: Array | None, *, like: Tensor
    ) -> None:
        centre = (np.array(shape) - 1) / 2
        self.shape = shape
        self._lines = [
            [
                like.new_tensor(weight * (np.arange(n) - c) + (middle if axis == 1 else 0))
                for axis, (weight, n, c) in enumerate(zip(row, shape, centre, strict=True))
            ]
            for row, middle in zip(matrix, centre, strict=True)
        ]
        self._rows, self._last = None, None
        if bend is not None and bend.any():
            n = bend.shape[-1]
            turned = np.einsum("ab,bijk->aijk", matrix * np.array(shape) / (n - 3), bend)
            first, second, last = (like.new_tensor(_spline(length, n)) for length in shape)
            rows = torch.einsum("jb,dabc->dajc", second, like.new_tensor(turned))
            self._rows = torch.einsum("ia,dajc->dijc", first, rows)
            self._last = last.T

    def points(self, i: slice = slice(None), j: slice = slice(None)) -> list[Tensor]:
        """Return one `(I, J, K)` tensor an axis for a part of the patch.

        Unit: voxels; 0 is the middle of the patch's first voxel.
        """
        points = []
        for axis, (first, second, third) in enumerate(self._lines):
            point = (first[i, None] + second[j])[..., None] + third
            if self._rows is not None:
                rows = self._rows[axis, i, j]
                point.view(-1, len(third)).addmm_(rows.flatten(0, 1), self._last)
            points.append(point)
        return points


def _turn(angles_rad: Array) -> Array:
    """Multiply the turns about I, J and K."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        first, second = (other for other in range(3) if other != axis)
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    return turn


def _spline(length: int, n: int) -> Array:
    """Weigh `n` knots at the middle of each voxel, `(length, n)`; rows sum to 1."""
    place = (np.arange(length) + 0.5) / length * (n - 3)
    first = np.floor(place).astype(int)
    t = place - first
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 0 * t, t**3]) / 6
    weights[2] = 1 - weights.sum(axis=0)
    basis = np.zeros((length, n))
    for step, weight in enumerate(weights):
        basis[np.arange(length), first + step] = weight
    return basis


def _sample(image: Tensor, labels: Tensor, warp: Warp, *, out: tuple[Tensor, Tensor]) -> None:
    """Read image and labels where the warp points to; see `move_patch`."""
    padded, padded_labels = (F.pad(item, PAD * 3) for item in (image, labels.to(torch.uint8)))
    strides = padded_labels.stride()
    channels, flat_labels = padded.flatten(1), padded_labels.flatten()
    for i, j in _tiles(warp.shape, on_cpu=image.device.type == "cpu"):
        points = warp.points(i, j)
        shape = points[0].shape
        index = torch.zeros(points[0].numel(), dtype=torch.int32, device=image.device)
        nearest, shares = index.clone(), []
        for point, length, stride in zip(points, warp.shape, strides, strict=True):
            point = point.flatten().add_(PAD[0]).clamp_(0, length + 1)
            index.add_(point.int(), alpha=stride)
            nearest.add_(point.round().int(), alpha=stride)
            shares.append(point.frac_())
        for channel, moved in zip(channels, out[0], strict=True):
            moved[i, j] = _mix(channel, index, shares, strides).view(shape)
        out[1][i, j] = flat_labels.index_select(0, nearest).view(shape)


def _tiles(shape: Sequence[int], *, on_cpu: bool) -> Iterator[tuple[slice, slice]]:
    """Cut a patch along I and J where that is faster."""
    edges = [TILE_VOX if on_cpu else length for length in shape[:2]]
    starts = (range(0, length, edge) for length, edge in zip(shape[:2], edges, strict=True))
    for i, j in product(*starts):
        yield slice(i, i + edges[0]), slice(j, j + edges[1])


def _mix(flat: Tensor, index: Tensor, shares: list[Tensor], strides: Sequence[int]) -> Tensor:
    """Interpolate along the first axis between what the other axes give; read after the last."""
    if not strides:
        return flat.index_select(0, index)
    low = _mix(flat, index, shares[1:], strides[1:])
    return low.lerp_(_mix(flat[strides[0] :], index, shares[1:], strides[1:]), shares[0])
