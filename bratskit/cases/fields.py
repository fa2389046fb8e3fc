"""Make smooth random fields and soft thresholds on a voxel grid; knows nothing of brains."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["sigmoid", "smooth_noise", "spline_upsample", "threshold_for_count", "uniform"]

Array = NDArray[np.float32]

# Mean over t of the sum of squared cubic B-spline weights: the variance one axis leaves.
_SPLINE_VARIANCE = 0.479365


def _taps(positions: NDArray[np.floating]) -> tuple[NDArray[np.int64], Array]:
    """Return the four coefficient indices and cubic B-spline weights of positions in knots."""
    first = np.floor(positions).astype(np.int64)
    t = positions - first
    weights = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]
    )
    return first + np.arange(4)[:, None], (weights / 6).astype(np.float32)


def spline_upsample(coefficients: Array, positions: list[NDArray[np.floating]]) -> Array:
    """Evaluate a cubic B-spline on a grid, axis by axis, with the same rounding everywhere.

    Args:
        coefficients: `(a, b, c)`.
        positions: Positions of the voxels along each axis, in knots, 0 or more and below the
            number of coefficients less 3.

    Returns:
        `(I, J, K)` float32, twice continuously differentiable: no seams, no blocks.
    """
    field = coefficients
    for axis in (2, 1):
        index, weights = _taps(positions[axis])
        weights = weights[:, :, None] if axis == 1 else weights
        field = sum(np.take(field, index[tap], axis=axis) * weights[tap] for tap in range(4))
    index, weights = _taps(positions[0])
    whole = np.empty((len(positions[0]), *field.shape[1:]), np.float32)
    part = np.empty_like(whole[0])
    for i, plane in enumerate(whole):  # plane by plane stays in the processor's cache
        np.multiply(field[index[0, i]], weights[0, i], out=plane)
        for tap in range(1, 4):
            np.multiply(field[index[tap, i]], weights[tap, i], out=part)
            plane += part
    return whole


def smooth_noise(
    rng: np.random.Generator,
    lines_mm: list[NDArray[np.floating]],
    *,
    knots_mm: float,
    extent_mm: tuple[float, float, float],
) -> Array:
    """Draw a smooth random field of mean 0 and variance 1, the same whatever the voxel size.

    Args:
        rng: Source of the coefficients; how many are drawn depends on the last two arguments only.
        lines_mm: Coordinates of the voxels along each axis, from 0 to `extent_mm`.
        knots_mm: Distance of the knots; structures are about twice as large.
        extent_mm: Extent of the whole field of view.
    """
    size = [int(np.ceil(extent / knots_mm)) + 4 for extent in extent_mm]
    coefficients = rng.standard_normal(size, dtype=np.float32) / np.float32(_SPLINE_VARIANCE**1.5)
    return spline_upsample(coefficients, [line / knots_mm for line in lines_mm])


def sigmoid(x: Array) -> Array:
    """Map distances to weights in [0, 1]: 0.5 at 0, without overflow."""
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x)


def threshold_for_count(values: Array, count: int) -> float:
    """Return the value below which `count` of the values lie.

    Returns:
        -inf for a count of 0 or fewer, inf where there are not that many values.
    """
    if count <= 0:
        return -np.inf
    if count >= values.size:
        return np.inf
    return float(np.partition(values, count)[count])


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw one Python float."""
    return float(rng.uniform(low, high))
