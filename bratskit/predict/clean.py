"""Tidy a label map after the argmax; what counts as too small is the caller's setting."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["remove_small_components"]

NEIGHBOURS = np.ones((3, 3, 3), dtype=bool)  # 26-connected, as the BraTS 2023 scorer counts


def remove_small_components(labels: NDArray[np.uint8], smallest_vox: int) -> NDArray[np.uint8]:
    """Remove islands of tumour, whatever their tissue, that are smaller than a size.

    The whole tumour is judged, not each tissue: a small ET inside a large oedema stays.

    Args:
        labels: Internal labels `(I, J, K)`.
        smallest_vox: Islands (26-connected) with fewer voxels become background; 0 and 1 keep all.

    Returns:
        A new label map. It is all background where every island was too small.

    Raises:
        ValueError: `smallest_vox` is negative.

    Examples:
        >>> labels = np.zeros((4, 4, 4), dtype=np.uint8)
        >>> labels[0, 0, :3], labels[3, 3, 3] = 2, 3
        >>> remove_small_components(labels, 2).sum().item()
        6
    """
    if smallest_vox < 0:
        msg = f"smallest_vox must be at least 0; got {smallest_vox}. Use 0 to keep everything."
        raise ValueError(msg)
    kept = labels.copy()
    found = ndimage.find_objects((labels > 0).view(np.uint8))
    if smallest_vox <= 1 or not found:
        return kept
    box = kept[found[0]]  # a view: the tumour's bounding box
    islands, _ = ndimage.label(box, structure=NEIGHBOURS)
    is_small = np.bincount(islands.ravel()) < smallest_vox
    box[is_small[islands]] = 0
    return kept
