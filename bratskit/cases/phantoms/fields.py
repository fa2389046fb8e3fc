"""Make smooth random fields, samples and blurs on a voxel grid; knows nothing of brains.

The bits are the same on every machine: see `exact`, whose functions are handed on from here.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bratskit.cases.phantoms.exact import (
    chunks,
    exp,
    hypot,
    sigmoid,
    sqrt,
    tanh,
    threshold_for_count,
    total,
    uniform,
    white_noise,
)

__all__ = [
    "FIELD_OF_VIEW_MM",
    "Grid",
    "block_mean",
    "blur",
    "draw_coefficients",
    "enlarge",
    "exp",
    "hypot",
    "sample",
    "sigmoid",
    "sqrt",
    "tanh",
    "threshold_for_count",
    "total",
    "uniform",
    "white_noise",
]

Array = Tensor

FIELD_OF_VIEW_MM = (244.0, 244.0, 160.0)  # the BraTS grid of 240x240x155 mm, with room to round
# Mean over t of the sum of squared cubic B-spline weights, 151 / 315: what one axis leaves.
_SPLINE_VARIANCE = 151 / 315


def block_mean(x: Array, step: tuple[int, int, int]) -> Array:
    """Average blocks of `step` voxels, the last ones padded by repetition."""
    out = x.to(torch.float32)
    for axis, s in enumerate(step):
        if s == 1:
            continue
        n = out.shape[axis]
        if n % s:
            lines = torch.arange(-(-n // s) * s, device=x.device).clamp_(max=n - 1)
            out = out.index_select(axis, lines)
        parts = out.unflatten(axis, (-1, s)).unbind(axis + 1)
        mean = parts[0] + parts[1]
        for part in parts[2:]:
            mean += part
        # Divided by a tensor: CUDA replaces division by a Python number by another rounding.
        out = mean / torch.full((1,), float(s), device=x.device)
    return out


def enlarge(small: Array, step: tuple[int, int, int], shape: tuple[int, int, int]) -> Array:
    """Interpolate block means back to voxels, linearly; beyond the outer centres they repeat."""
    for axis in (2, 1, 0):
        n, s, m = shape[axis], step[axis], small.shape[axis]
        line = np.clip((np.arange(n) + 0.5) / s - 0.5, 0, m - 1)
        low = np.minimum(line.astype(np.int64), max(m - 2, 0))
        form = [1, 1, 1]
        form[axis] = -1
        share = torch.from_numpy((line - low).astype(np.float32)).to(small.device).reshape(form)
        low_line = torch.from_numpy(low).to(small.device)
        first = small.index_select(axis, low_line)
        second = small.index_select(axis, (low_line + 1).clamp_(max=m - 1))
        small = second.sub_(first).mul_(share).add_(first)
    return small


def draw_coefficients(rng: np.random.Generator, *, knots_mm: float) -> NDArray[np.float32]:
    """Draw the knots of one smooth field over the whole field of view, `(a, b, c)`.

    They are rounded to 1/4096, so that a libm's last bit in the generator's tail is lost.
    """
    size = [math.ceil(extent / knots_mm) + 4 for extent in FIELD_OF_VIEW_MM]
    drawn = np.rint(rng.standard_normal(size, dtype=np.float32) * np.float32(4096))
    return drawn * np.float32(1 / 4096 / _SPLINE_VARIANCE**1.5)


def _taps(line_mm: NDArray[np.float64], knots_mm: float) -> tuple[NDArray[np.int64], Array]:
    """Return the first of four knots, `(n,)`, and the cubic B-spline's weights, `(4, n)`."""
    positions = line_mm / knots_mm
    first = np.floor(positions)
    t = positions - first
    tt, s = t * t, 1 - t
    cubes = [s * s * s, 3 * tt * t - 6 * tt + 4, 3 * (tt + t - tt * t) + 1, tt * t]
    return first.astype(np.int64), torch.from_numpy((np.stack(cubes) / 6).astype(np.float32))


def _along(field: Array, axis: int, first: NDArray[np.int64], weights: Array) -> Array:
    """Evaluate a spline along one axis at all its voxels."""
    form = [1] * field.ndim
    form[axis] = -1
    index = torch.from_numpy(first).to(field.device)
    weights = weights.to(field.device)
    out = field.index_select(axis, index).mul_(weights[0].reshape(form))
    for tap in range(1, 4):
        out += field.index_select(axis, index + tap).mul_(weights[tap].reshape(form))
    return out


def _planes(field: Array, first: NDArray[np.int64], weights: Array, out: Array | None) -> Iterator:
    """Evaluate a spline along axis 0, plane by plane; each plane is used before the next comes."""
    plane = torch.empty(field.shape[1:], dtype=torch.float32) if out is None else None
    part = torch.empty(field.shape[1:], dtype=torch.float32)
    numbers = weights.tolist()
    for i, knot in enumerate(first.tolist()):
        here = out[i] if plane is None else plane
        torch.mul(field[knot], numbers[0][i], out=here)
        for tap in range(1, 4):
            torch.mul(field[knot + tap], numbers[tap][i], out=part)
            here += part
        yield here


@dataclass(frozen=True)
class Grid:
    """Sample space in a box of the phantom's field of view.

    Attributes:
        shape: Voxels of the box.
        spacing_mm: Voxel size.
        start_vox: First voxel of the box in the whole field of view.
        device: Where its arrays live.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    start_vox: tuple[int, int, int]
    device: str | torch.device = "cpu"

    def lines_mm(self) -> list[NDArray[np.float64]]:
        """Return voxel-centre coordinates along each axis; 1 mm voxel 0 has its centre at 0.5."""
        parts = zip(self.shape, self.start_vox, self.spacing_mm, strict=True)
        return [(np.arange(n) + first + 0.5) * s for n, first, s in parts]

    def axes_mm(self) -> list[Array]:
        """Return the lines as float32 tensors that broadcast to `shape`."""
        lines = np.ix_(*(line.astype(np.float32) for line in self.lines_mm()))
        return [torch.from_numpy(line.copy()).to(self.device) for line in lines]

    def points_mm(self, voxels: Array) -> list[Array]:
        """Return the coordinates of voxels given by flat index, three `(N,)` tensors."""
        rest = voxels.to(torch.int32)
        indices = []
        for n in self.shape[:0:-1]:
            whole = torch.div(rest, n, rounding_mode="floor")
            indices.insert(0, rest - whole * n)
            rest = whole
        lines = [axis.reshape(-1) for axis in self.axes_mm()]
        found = zip(lines, [rest, *indices], strict=True)
        return [line.index_select(0, index) for line, index in found]

    def noise(self, rng: np.random.Generator, *, knots_mm: float) -> Array:
        """Draw a smooth field of mean 0 and variance 1, the same whatever the voxel size.

        Args:
            rng: Source of the knots; how many are drawn depends on `knots_mm` only.
            knots_mm: Distance of the knots; structures are about twice as large. The field is
                twice continuously differentiable: no seams, no blocks.
        """
        return self.spline(draw_coefficients(rng, knots_mm=knots_mm), knots_mm=knots_mm)

    def noise_at(self, rng: np.random.Generator, *, knots_mm: float, voxels: Array) -> Array:
        """Draw the same field as `noise` at voxels given by flat index, in ascending order."""
        coefficients = draw_coefficients(rng, knots_mm=knots_mm)
        return self.spline(coefficients, knots_mm=knots_mm, voxels=voxels)

    def spline(
        self, coefficients: NDArray[np.float32], *, knots_mm: float, voxels: Array | None = None
    ) -> Array:
        """Evaluate a cubic B-spline on the grid, or at voxels of it in ascending order.

        Returns:
            `shape`, or `(N,)` where voxels are given.
        """
        taps = [_taps(line, knots_mm) for line in self.lines_mm()]
        lows = [int(first.min()) for first, _ in taps]
        cut = tuple(slice(a, int(f.max()) + 4) for a, (f, _) in zip(lows, taps, strict=True))
        field = torch.from_numpy(np.ascontiguousarray(coefficients[cut])).to(self.device)
        taps = [(first - low, w) for low, (first, w) in zip(lows, taps, strict=True)]
        field = _along(_along(field, 2, *taps[2]), 1, *taps[1])
        if field.device.type != "cpu":
            whole = _along(field, 0, *taps[0])
            return whole if voxels is None else whole.view(-1).index_select(0, voxels)
        if voxels is None:
            whole = torch.empty(self.shape, dtype=torch.float32)
            for _ in _planes(field, *taps[0], whole):
                pass
            return whole
        return self._at(_planes(field, *taps[0], None), voxels)

    def _at(self, planes: Iterator, voxels: Array) -> Array:
        """Take voxels from planes, each while it is in the cache."""
        size = self.shape[1] * self.shape[2]
        starts = torch.arange(self.shape[0] + 1) * size
        cuts = torch.searchsorted(voxels, starts).tolist()
        out = torch.empty(voxels.shape, dtype=torch.float32)
        for i, plane in enumerate(planes):
            a, b = cuts[i], cuts[i + 1]
            if b > a:
                torch.index_select(plane.view(-1), 0, voxels[a:b] - i * size, out=out[a:b])
        return out


def sample(maps: Array, points: list[Array]) -> Array:
    """Interpolate maps between their voxels, linearly; beyond the edge they repeat.

    Args:
        maps: `(X, Y, Z, C)` float32 or uint8; fastest as a permuted `(C, X, Y, Z)`.
        points: Three `(N,)` tensors, in voxels of the maps.

    Returns:
        `(N, C)` float32, each channel contiguous: take them by `unbind(1)`.
    """
    sizes, channels = maps.shape[:3], maps.shape[3]
    planar = maps.permute(3, 0, 1, 2).reshape(channels, -1)
    count, device = points[0].numel(), points[0].device
    out = torch.empty((channels, count), dtype=torch.float32, device=device)
    steps = (sizes[1] * sizes[2], sizes[2], 1)
    for part in chunks(count, device):
        base, shares = _corner([p[part] for p in points], sizes, steps)
        for channel in range(channels):
            cells = planar[channel]
            values = [cells.index_select(0, base + offset) for offset in _corners(sizes, steps)]
            for share in (shares[2], shares[1], shares[0]):
                values = [
                    _between(values[i], values[i + 1], share) for i in range(0, len(values), 2)
                ]
            out[channel, part] = values[0]
    return out.t()


def _corners(sizes: tuple[int, ...], steps: tuple[int, ...]) -> list[int]:
    """Return how far the eight corners of a cell lie from its first, z fastest."""
    far = [step if n > 1 else 0 for n, step in zip(sizes, steps, strict=True)]
    return [x + y + z for x in (0, far[0]) for y in (0, far[1]) for z in (0, far[2])]


def _corner(
    points: list[Array], sizes: tuple[int, ...], steps: tuple[int, ...]
) -> tuple[Array, list[Array]]:
    """Return the flat index of each point's cell, and where in it the point lies."""
    base, shares = None, []
    for point, n, step in zip(points, sizes, steps, strict=True):
        inside = point.clamp(0, n - 1)
        low = inside.floor().clamp_(max=max(n - 2, 0))
        shares.append(inside - low)
        index = low.to(torch.int64) * step
        base = index if base is None else base + index
    return base, shares


def _between(first: Array, second: Array, share: Array) -> Array:
    first = first.to(torch.float32)
    return (second - first).mul_(share).add_(first)


def _gaussian(sigma_vox: float) -> list[float]:
    """Return half the taps of a Gaussian cut at four sigma, the middle one first; sum 1."""
    reach = int(4 * sigma_vox + 0.5)
    shape = [math.exp(-0.5 * (k / sigma_vox) ** 2) for k in range(reach + 1)]
    norm = shape[0] + 2 * sum(shape[1:])
    side = [round(value / norm, 7) for value in shape[1:]]
    return [1 - 2 * sum(side), *side]


def _blur_along(volume: Array, axis: int, taps: list[float]) -> Array:
    """Blur one axis; the edge repeats."""
    n, reach = volume.shape[axis], len(taps) - 1
    lines = torch.arange(-reach, n + reach, device=volume.device).clamp_(0, n - 1)
    padded = volume.index_select(axis, lines)
    out = volume * taps[0]
    for k in range(1, reach + 1):
        pair = padded.narrow(axis, reach - k, n) + padded.narrow(axis, reach + k, n)
        out += pair.mul_(taps[k])
    return out


def blur(volume: Array, sigma_vox: tuple[float, float, float]) -> Array:
    """Blur with a Gaussian along each axis; the edge repeats, an axis of sigma 0 is left."""
    taps = [_gaussian(sigma) if sigma * 4 >= 0.5 else [1.0] for sigma in sigma_vox]
    out = torch.empty_like(volume)
    for rows in chunks(len(volume), volume.device, each=volume[0].numel()):
        part = volume[rows]
        for axis in (2, 1):
            part = _blur_along(part, axis, taps[axis]) if len(taps[axis]) > 1 else part
        out[rows] = part
    return out if len(taps[0]) == 1 else _blur_planes(out, taps[0])


def _blur_planes(volume: Array, taps: list[float]) -> Array:
    """Blur along axis 0, plane by plane on a CPU."""
    if volume.device.type != "cpu":
        return _blur_along(volume, 0, taps)
    out = torch.empty_like(volume)
    last = len(volume) - 1
    pair = torch.empty_like(volume[0])
    for i in range(last + 1):
        torch.mul(volume[i], taps[0], out=out[i])
        for k in range(1, len(taps)):
            torch.add(volume[max(i - k, 0)], volume[min(i + k, last)], out=pair)
            out[i] += pair.mul_(taps[k])
    return out
