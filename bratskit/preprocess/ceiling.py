"""Say what a geometry costs before any network is trained: send truth there and back, score it."""

import numpy as np
from numpy.typing import NDArray

from bratskit.labels import REGIONS
from bratskit.preprocess.geometry import Crop, Geometry, Interpolation

__all__ = ["ceiling", "lost_voxels"]


def ceiling(
    labels: NDArray[np.uint8], geometry: Geometry, *, how: Interpolation = "linear"
) -> dict[str, float]:
    """Measure the best Dice that any network on this prepared grid can reach.

    Args:
        labels: Expert mask `(I, J, K)`, internal labels, native grid.
        geometry: The grid in question.
        how: Interpolation of labels, both ways: "linear" is one-hot, linear, argmax.

    Returns:
        Dice of WT, TC and ET on the native grid, in [0, 1]; exactly 1.0 where nothing is
        resampled and nothing lies outside the box; NaN for a region the mask does not have.
    """
    back = geometry.invert_labels(geometry.apply_labels(labels, how=how), how=how)
    pairs = np.bincount((back.astype(np.intp) * 4 + labels).ravel(), minlength=16).reshape(4, 4)
    return {name: _dice(pairs, list(members)) for name, members in REGIONS.items()}


def lost_voxels(labels: NDArray[np.uint8], geometry: Geometry) -> int:
    """Count the tumour voxels outside the brain box, which no prediction can reach."""
    return int(np.count_nonzero(labels) - np.count_nonzero(Crop(geometry.kept).cut(labels)))


def _dice(pairs: NDArray[np.intp], members: list[int]) -> float:
    both = pairs[np.ix_(members, members)].sum()
    total = pairs[members].sum() + pairs[:, members].sum()
    return float(2 * both / total) if pairs[:, members].sum() else float("nan")
