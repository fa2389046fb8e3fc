"""Decide one label a voxel from scores: the largest one, or regions painted over each other."""

import itertools
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from bratskit.labels import paint_regions
from bratskit.settings import Targets

__all__ = ["CERTAIN", "decide", "largest"]

CERTAIN = 0.5  # a voxel is in a region where its probability is larger than this


def decide(probs: Iterable[NDArray[np.float32]], *, targets: Targets) -> NDArray[np.uint8]:
    """Turn probabilities `(L, I, J, K)` into internal labels `(I, J, K)`, on the grid they are on.

    Args:
        probs: Of "labels", background first: the likeliest wins, ties going to the smaller label.
            Of "regions", WT, TC and ET: those larger than one half are painted, see
            `bratskit.labels.paint_regions`. An iterator is taken one channel at a time.
        targets: What the channels are: `recipe.targets`.

    Examples:
        >>> probs = np.array([0.9, 0.8, 0.3], np.float32).reshape(3, 1, 1, 1)
        >>> decide(probs, targets="regions").item()  # WT and TC but not ET: necrosis
        1
    """
    if targets == "labels":
        return largest(enumerate(probs))
    masks = (channel > CERTAIN for channel in probs)
    whole = next(masks)
    return paint_regions(itertools.chain([whole], masks), np.zeros(whole.shape, np.uint8))


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
