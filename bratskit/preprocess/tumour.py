"""List and count tumour voxels of a mask: where to centre patches, and what a crop leaves out."""

import zlib

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.memory import extent
from bratskit.labels import LABELS
from bratskit.preprocess.geometry import Crop, Geometry

__all__ = ["count_lost", "foreground_index"]

MOST_VOXELS_A_LABEL = 2000  # plenty to centre patches on; 24 kB a case and label


def foreground_index(
    labels: NDArray[np.uint8], *, case_id: str, most: int = MOST_VOXELS_A_LABEL
) -> dict[int, NDArray[np.int32]]:
    """List voxels of each tumour label, so that a sampler need not search the volume.

    Args:
        labels: Internal labels `(i, j, k)`.
        case_id: Seeds the choice where a label has more than `most` voxels.
        most: Voxels kept a label, drawn evenly.

    Returns:
        `(N, 3)` int32 coordinates a label, sorted; labels that do not occur are absent.
    """
    rng = np.random.default_rng(zlib.crc32(case_id.encode()))
    index = {}
    for label in sorted(set(LABELS) - {0}):
        flat = np.flatnonzero(labels == label)
        if len(flat) > most:
            flat = np.sort(rng.choice(flat, size=most, replace=False))
        if len(flat):
            index[label] = np.stack(np.unravel_index(flat, labels.shape), axis=1).astype(np.int32)
    return index


def count_lost(labels: NDArray[np.uint8], geometry: Geometry) -> dict[str, int]:
    """Count the tumour voxels of a native mask that the prepared grid does not reach, by label."""
    tumour = extent(labels) or ((0, 0),) * 3
    both = zip(tumour, geometry.kept, strict=True)
    reached = tuple((max(low, first), min(high, last)) for (low, high), (first, last) in both)
    before, after = (
        np.bincount(Crop(box).cut(labels).ravel(), minlength=len(LABELS))
        for box in (tumour, reached)
    )
    return {name: int(before[v] - after[v]) for v, name in LABELS.items() if v}
