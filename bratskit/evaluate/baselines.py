"""Label a scan without learning: nothing at all, or what one brightness threshold finds.

A network that does not beat both has learned nothing of use. They run on the native grid, need a
second a case, and share no code with the preprocessing that a network sees.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from bratskit.cases.case import Scan
from bratskit.evaluate.metrics import box_of, dice
from bratskit.labels import MODALITIES, REGIONS

__all__ = ["fit_flair_threshold", "predict_nothing", "threshold_flair"]

THRESHOLDS = tuple(round(0.5 + 0.25 * step, 2) for step in range(11))  # 0.5 to 3 brain z-scores
SMOOTHING_MM = 1.5  # a little over one voxel: removes speckle, keeps a 5 mm lesion
# The next two did best of 0.5-1.5 and of 3-14 mm on six real cases; they are not fitted again.
ENHANCEMENT = 0.75  # z-score of T1ce minus that of T1 above which contrast agent is assumed
CLOSING_MM = 14.0  # gaps this wide in an enhancing rim are bridged before it is filled


def predict_nothing(scan: Scan) -> NDArray[np.uint8]:
    """Call every voxel healthy: the score that an empty mask gets for free.

    Args:
        scan: The case to label.

    Returns:
        Internal labels `(I, J, K)` uint8, all 0.
    """
    return np.zeros(scan.image.shape[1:], dtype=np.uint8)


def threshold_flair(scan: Scan, *, threshold: float) -> NDArray[np.uint8]:
    """Label what is bright on FLAIR as tumour, and what took up contrast in it as its core.

    1. FLAIR becomes a brain z-score, smoothed by a Gaussian of 1.5 mm inside the brain.
    2. WT is the largest connected part (sharing faces) above `threshold`, its holes filled.
    3. ET is the part of WT where the z-score of T1ce exceeds that of T1 by more than 0.75.
    4. TC is ET, closed over gaps of 14 mm and its holes filled, inside WT; what that adds is NCR.

    Args:
        scan: The case to label.
        threshold: FLAIR brain z-score, see `fit_flair_threshold`.

    Returns:
        Internal labels `(I, J, K)` uint8, all 0 where nothing is bright enough.

    Examples:
        Choose the threshold on training cases only, then label any other:

            threshold = fit_flair_threshold(load_scan(case) for case in training)
            labels = threshold_flair(scan, threshold=threshold)
    """
    labels = predict_nothing(scan)
    brain = (scan.image != 0).any(axis=0)
    box = box_of(brain)
    if box is None:
        return labels
    image, brain = scan.image[(slice(None), *box)], brain[box]
    tumour = _tumour(_smooth_z(image, "flair", brain, scan.spacing_mm), threshold)
    inner = box_of(tumour)
    if inner is None:
        return labels
    uptake = _smooth_z(image, "t1ce", brain, scan.spacing_mm)
    uptake -= _smooth_z(image, "t1", brain, scan.spacing_mm)
    tumour = tumour[inner]
    enhancing = tumour & (uptake[inner] > ENHANCEMENT)
    core = tumour & ndimage.binary_fill_holes(_close(enhancing, scan.spacing_mm))
    labels[box][inner] = np.select([enhancing, core, tumour], [3, 1, 2], 0)
    return labels


def fit_flair_threshold(scans: Iterable[Scan]) -> float:
    """Choose the FLAIR threshold of `threshold_flair` by mean WT Dice; give training cases only.

    Args:
        scans: Training cases with labels; a generator is enough, one scan is held at a time.

    Returns:
        The best of the brain z-scores 0.5, 0.75, ... 3 (the lowest of equals).

    Raises:
        ValueError: There is no scan, or one has no labels.
    """
    scores = []
    for scan in scans:
        if scan.labels is None:
            msg = (
                f"scans must have labels to choose a threshold on; got none for {scan.id}. "
                "Find such cases with `find_cases(folder, require_labels=True)`."
            )
            raise ValueError(msg)
        scores.append(_dice_by_threshold(scan))
    if not scores:
        msg = "scans must hold at least one training case; got none. Load some with `load_scan`."
        raise ValueError(msg)
    return THRESHOLDS[int(np.argmax(np.mean(scores, axis=0)))]


def _dice_by_threshold(scan: Scan) -> list[float]:
    brain = (scan.image != 0).any(axis=0)
    truth = np.isin(scan.labels, REGIONS["WT"])
    box = box_of(brain | truth)
    if box is None:
        return [1.0] * len(THRESHOLDS)
    flair = _smooth_z(scan.image[(slice(None), *box)], "flair", brain[box], scan.spacing_mm)
    return [
        dice(_tumour(flair, threshold), truth[box], when_both_empty="one")
        for threshold in THRESHOLDS
    ]


def _smooth_z(
    image: NDArray[np.float32],
    modality: str,
    brain: NDArray[np.bool_],
    spacing_mm: tuple[float, float, float],
) -> NDArray[np.float32]:
    """Return one modality as a brain z-score, smoothed; 0, the brain's mean, outside the brain."""
    channel = image[MODALITIES.index(modality)]
    inside = channel[brain]
    spread = float(inside.std(dtype=np.float64)) or 1.0  # a flat image has nothing bright
    z = np.where(brain, (channel - inside.mean(dtype=np.float64)) / spread, 0)
    sigma_vox = [SMOOTHING_MM / length for length in spacing_mm]
    return ndimage.gaussian_filter(z.astype(np.float32), sigma_vox, truncate=2) * brain


def _tumour(flair_z: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Keep the largest connected part above the threshold, and fill its holes."""
    parts, n_parts = ndimage.label(flair_z > threshold)
    if not n_parts:
        return parts != 0
    sizes = np.bincount(parts.ravel())
    tumour = parts == 1 + int(np.argmax(sizes[1:]))
    box = box_of(tumour)
    tumour[box] = ndimage.binary_fill_holes(tumour[box])
    return tumour


def _close(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float]) -> NDArray[np.bool_]:
    """Bridge gaps up to `CLOSING_MM` wide: grow by half of it, then shrink by the same."""
    if not mask.any():
        return mask
    reach_mm = CLOSING_MM / 2
    margin = [int(np.ceil(reach_mm / length)) + 1 for length in spacing_mm]
    padded = np.pad(mask, [(side, side) for side in margin])
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= reach_mm
    closed = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > reach_mm
    inner = tuple(slice(side, -side) for side in margin)
    return closed[inner] | mask
