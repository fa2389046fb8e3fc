"""Measure one predicted mask against one reference mask; knows nothing of files or methods."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from bratskit.labels import LABELS

__all__ = [
    "BRATS_EMPTY_HD95_MM",
    "EmptyRule",
    "confusion_table",
    "dice",
    "hausdorff95",
    "precision",
    "sensitivity",
    "volume_ml",
]

EmptyRule = Literal["nan", "one", "error"]
Triple = tuple[float, float, float]
Mask = NDArray[np.bool_]

# Diagonal of the BraTS grid, sqrt(240^2 + 240^2 + 155^2) = 373.13 mm: the HD95 of a region that
# only one of the two masks has (BraTS 2017-2021 online evaluation).
BRATS_EMPTY_HD95_MM = 373.13


def dice(pred: Mask, truth: Mask, *, when_both_empty: EmptyRule = "nan") -> float:
    r"""Measure the volume overlap of two masks of one region.

    $$\mathrm{Dice} = \frac{2\,|P \cap T|}{|P| + |T|}$$

    Args:
        pred: Predicted mask, `(I, J, K)` bool, on the same voxel grid as `truth`.
        truth: Reference mask, `(I, J, K)` bool.
        when_both_empty: What 0/0 means. `"nan"` leaves the case out of means,
            `"one"` counts it as a perfect score, as the BraTS scorers do.

    Returns:
        Overlap in [0, 1], no unit (a ratio of voxel counts, so voxel spacing
        cancels). One empty mask gives 0.0; two give `when_both_empty`.

    Raises:
        TypeError: A mask is not bool (a label map was passed by mistake).
        ValueError: The masks differ in shape or are not 3D, or both are empty and
            `when_both_empty` is `"error"`.

    Examples:
        >>> truth = np.zeros((4, 4, 4), dtype=bool)
        >>> truth[0, 0, :3] = True
        >>> pred = np.roll(truth, 1, axis=2)  # 2 of 3 voxels still overlap
        >>> round(dice(pred, truth), 4)
        0.6667

    Source:
        Dice (1945), Ecology 26(3):297-302.
    """
    _check_masks(pred, truth)
    if when_both_empty not in ("nan", "one", "error"):
        msg = f"when_both_empty must be 'nan', 'one' or 'error'; got {when_both_empty!r}."
        raise ValueError(msg)
    total = _size(pred) + _size(truth)
    if total:
        return 2 * _size(pred & truth) / total
    if when_both_empty == "error":
        msg = (
            "pred and truth must not both be empty; got no voxel in either. "
            "Choose what 0/0 means: when_both_empty='nan' or 'one'."
        )
        raise ValueError(msg)
    return 1.0 if when_both_empty == "one" else float("nan")


def sensitivity(pred: Mask, truth: Mask) -> float:
    r"""Measure the share of the reference that was found, $|P \cap T| / |T|$.

    Args:
        pred: Predicted mask, `(I, J, K)` bool.
        truth: Reference mask, `(I, J, K)` bool.

    Returns:
        Share in [0, 1]; NaN where `truth` is empty.

    Raises:
        TypeError: A mask is not bool.
        ValueError: The masks differ in shape or are not 3D.

    Examples:
        >>> truth = np.ones((1, 1, 4), dtype=bool)
        >>> pred = np.array([[[True, True, True, False]]])
        >>> sensitivity(pred, truth)
        0.75
    """
    _check_masks(pred, truth)
    size = _size(truth)
    return _size(pred & truth) / size if size else float("nan")


def precision(pred: Mask, truth: Mask) -> float:
    r"""Measure the share of the prediction that is right, $|P \cap T| / |P|$.

    Args:
        pred: Predicted mask, `(I, J, K)` bool.
        truth: Reference mask, `(I, J, K)` bool.

    Returns:
        Share in [0, 1]; NaN where `pred` is empty.

    Raises:
        TypeError: A mask is not bool.
        ValueError: The masks differ in shape or are not 3D.
    """
    return sensitivity(truth, pred)  # the same share with the roles exchanged


def hausdorff95(
    pred: Mask,
    truth: Mask,
    *,
    spacing_mm: Triple,
    when_both_empty: float = 0.0,
    when_one_empty: float = BRATS_EMPTY_HD95_MM,
) -> float:
    r"""Measure how far apart two outlines are, leaving out the worst 5 % of each.

    $$\mathrm{HD95} = \max\bigl(Q_{95}\{d(p, \partial T) : p \in \partial P\},\;
    Q_{95}\{d(t, \partial P) : t \in \partial T\}\bigr)$$

    The outline of a mask is the set of its voxels that have one of six face neighbours outside;
    beyond the edge of the image is outside. Distances run between voxel centres. This is the
    maximum of the two directed percentiles, as in BraTS and MONAI; MedPy pools both directions.

    Args:
        pred: Predicted mask, `(I, J, K)` bool, on the same voxel grid as `truth`.
        truth: Reference mask, `(I, J, K)` bool.
        spacing_mm: Voxel size along I, J, K, mm.
        when_both_empty: Returned where neither mask has a voxel, mm. BraTS says 0.
        when_one_empty: Returned where only one mask has a voxel, mm. BraTS says the diagonal of
            its grid, 373.13.

    Returns:
        Distance in mm, 0 for equal masks. Percentiles interpolate linearly (NumPy's default).

    Raises:
        TypeError: A mask is not bool (a label map was passed by mistake).
        ValueError: The masks differ in shape or are not 3D, or a spacing is not positive.

    Examples:
        >>> pred, truth = np.zeros((2, 4, 5, 5), dtype=bool)
        >>> pred[0, 0, 0] = truth[2, 3, 4] = True
        >>> hausdorff95(pred, truth, spacing_mm=(3, 1, 0.5))  # sqrt(6^2 + 3^2 + 2^2)
        7.0

    Source:
        Huttenlocher et al. (1993), IEEE TPAMI 15(9):850-863; Bakas et al. (2018), arXiv:1811.02629.
    """
    _check_masks(pred, truth)
    _check_spacing(spacing_mm)
    box = box_of(pred | truth)
    if box is None:
        return float(when_both_empty)
    pred, truth = _outline(pred[box]), _outline(truth[box])
    if not pred.any() or not truth.any():
        return float(when_one_empty)
    return max(_directed95(pred, truth, spacing_mm), _directed95(truth, pred, spacing_mm))


def volume_ml(mask: Mask, spacing_mm: Triple) -> float:
    """Measure the volume of a mask.

    Args:
        mask: `(I, J, K)` bool.
        spacing_mm: Voxel size along I, J, K, mm.

    Returns:
        Volume in ml (1 ml = 1000 mm^3); 0.0 where the mask is empty.

    Raises:
        TypeError: The mask is not bool.
        ValueError: The mask is not 3D, or a spacing is not positive.

    Examples:
        >>> volume_ml(np.ones((10, 10, 10), dtype=bool), (1, 1, 3))
        3.0
    """
    _check_masks(mask, mask)
    _check_spacing(spacing_mm)
    return _size(mask) * float(np.prod(spacing_mm)) / 1000


def confusion_table(pred: NDArray[np.integer], truth: NDArray[np.integer]) -> NDArray[np.int64]:
    """Count voxels by predicted and true label; every overlap of a case follows from this table.

    Args:
        pred: Predicted label map, `(I, J, K)`, internal labels 0-3 of `bratskit.labels.LABELS`.
        truth: Reference label map on the same grid.

    Returns:
        `(4, 4)` voxel counts, row = label in `pred`, column = label in `truth`.

    Raises:
        TypeError: A label map is not of integers.
        ValueError: The label maps differ in shape, are not 3D, or hold another value.

    Examples:
        >>> pred, truth = np.array([[[0, 1, 3]]]), np.array([[[0, 1, 1]]])
        >>> confusion_table(pred, truth)[3, 1]  # one voxel of label 1 was called 3
        np.int64(1)
    """
    inside = crop_to_tumour(pred, truth)
    for name, labels in zip(("pred", "truth"), inside, strict=True):
        _check_values(labels, name=name)
    n_labels = len(LABELS)
    codes = inside[0].astype(np.uint8) * np.uint8(n_labels) + inside[1].astype(np.uint8)
    table = np.bincount(codes.ravel(), minlength=n_labels**2).reshape(n_labels, n_labels)
    table[0, 0] += pred.size - codes.size
    return table


def crop_to_tumour(
    pred: NDArray[np.integer], truth: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Crop two label maps to the smallest box that holds every voxel that either of them labels.

    Args:
        pred: Predicted label map, `(I, J, K)`.
        truth: Reference label map on the same grid.

    Returns:
        Views of both; of one voxel where neither labels anything.

    Raises:
        TypeError: A label map is not of integers.
        ValueError: The label maps differ in shape or are not 3D.
    """
    for name, labels in (("pred", pred), ("truth", truth)):
        _check_integers(labels, name=name)
    _check_same_grid(pred, truth)
    box = box_of((pred | truth) != 0) or (slice(0, 1),) * 3
    return pred[box], truth[box]


def _size(mask: Mask) -> int:
    return int(np.count_nonzero(mask))


def _directed95(source: Mask, target: Mask, spacing_mm: Triple) -> float:
    """Return the 95th percentile of the distances from one outline to the nearest of the other."""
    distances_mm = np.zeros(_size(source))
    apart = np.argwhere(source & ~target) * np.asarray(spacing_mm, dtype=float)
    if len(apart):  # shared points are at distance 0 and need no search
        tree = cKDTree(
            np.argwhere(target) * np.asarray(spacing_mm, dtype=float),
            leafsize=64,  # with unbalanced nodes a third faster than the default on outlines
            compact_nodes=False,
            balanced_tree=False,
        )
        distances_mm[: len(apart)] = tree.query(apart)[0]
    return float(np.percentile(distances_mm, 95))


def _outline(mask: Mask) -> Mask:
    """Keep the voxels that have a face neighbour outside the mask."""
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1, 1:-1]
    interior = padded[:-2, 1:-1, 1:-1] & padded[2:, 1:-1, 1:-1]
    interior &= padded[1:-1, :-2, 1:-1] & padded[1:-1, 2:, 1:-1]
    interior &= padded[1:-1, 1:-1, :-2] & padded[1:-1, 1:-1, 2:]
    return inner & ~interior


def box_of(mask: Mask) -> tuple[slice, slice, slice] | None:
    """Return the smallest box that holds every voxel of the mask, or None where it has none."""
    plane = mask.any(axis=2)
    spans = (plane.any(axis=1), plane.any(axis=0), mask.any(axis=(0, 1)))
    found = [np.flatnonzero(span) for span in spans]
    if not len(found[0]):
        return None
    box_i, box_j, box_k = (slice(int(at[0]), int(at[-1]) + 1) for at in found)
    return box_i, box_j, box_k


def _check_masks(pred: Mask, truth: Mask) -> None:
    for name, mask in (("pred", pred), ("truth", truth)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
            kind = f"dtype {mask.dtype}" if hasattr(mask, "dtype") else type(mask).__name__
            msg = (
                f"{name} must be a bool mask of one region; got {kind}. "
                "Select a region first, for example `labels == 3`."
            )
            raise TypeError(msg)
        _check_3d(mask, name=name)
    _check_same_grid(pred, truth)


def _check_integers(labels: NDArray[np.integer], *, name: str) -> None:
    if not isinstance(labels, np.ndarray) or not np.issubdtype(labels.dtype, np.integer):
        kind = f"dtype {labels.dtype}" if hasattr(labels, "dtype") else type(labels).__name__
        msg = (
            f"{name} must be an integer label map; got {kind}. "
            "Read one with `bratskit.cases.load_labels`, or `.astype('uint8')` an argmax."
        )
        raise TypeError(msg)
    _check_3d(labels, name=name)


def _check_values(labels: NDArray[np.integer], *, name: str) -> None:
    if labels.size and (labels.min() < 0 or labels.max() >= len(LABELS)):
        unknown = [int(value) for value in np.unique(labels) if value not in LABELS]
        msg = (
            f"{name} must hold internal labels {LABELS}; got {unknown}. "
            "Read the file with `bratskit.cases.load_labels(path, schema=...)`, which maps them."
        )
        raise ValueError(msg)


def _check_3d(array: NDArray, *, name: str) -> None:
    if array.ndim != 3:
        msg = f"{name} must be (I, J, K); got shape {array.shape}. Pass one case without a batch."
        raise ValueError(msg)


def _check_same_grid(pred: NDArray, truth: NDArray) -> None:
    if pred.shape != truth.shape:
        msg = (
            f"pred must have the shape of truth, {truth.shape}; got {pred.shape}. "
            "Bring the prediction back to the native grid first (`Geometry.invert_labels`)."
        )
        raise ValueError(msg)


def _check_spacing(spacing_mm: Triple) -> None:
    if len(spacing_mm) != 3 or not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        msg = (
            f"spacing_mm must be three positive lengths along I, J, K; got {tuple(spacing_mm)}. "
            "Use `scan.spacing_mm`, or (1.0, 1.0, 1.0) for BraTS."
        )
        raise ValueError(msg)
