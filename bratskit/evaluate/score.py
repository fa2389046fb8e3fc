"""Score one predicted label map against its reference: every region and every label, a row each."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bratskit.evaluate.metrics import (
    BRATS_EMPTY_HD95_MM,
    Triple,
    confusion_table,
    crop_to_tumour,
    hausdorff95,
)
from bratskit.evaluate.table import Score
from bratskit.labels import LABELS, REGIONS

__all__ = ["EMPTY_RULES", "EmptyMasks", "get_empty_rule", "score_masks"]


@dataclass(frozen=True, kw_only=True)
class EmptyMasks:
    """What a case scores in a region that a mask does not have.

    Attributes:
        name: Written into the `empty_rule` column of every row.
        dice_both: Dice where neither mask has the region.
        dice_one: Dice where only one has it.
        hd95_both_mm: HD95 where neither mask has the region, mm.
        hd95_one_mm: HD95 where only one has it, mm.
    """

    name: str
    dice_both: float
    dice_one: float
    hd95_both_mm: float
    hd95_one_mm: float


EMPTY_RULES = {
    rule.name: rule
    for rule in (
        EmptyMasks(  # BraTS 2017-2021 online evaluation
            name="brats",
            dice_both=1.0,
            dice_one=0.0,
            hd95_both_mm=0.0,
            hd95_one_mm=BRATS_EMPTY_HD95_MM,
        ),
        EmptyMasks(  # 0/0 is left out of means, as in nnU-Net; a false alarm costs Dice
            name="nan",
            dice_both=math.nan,
            dice_one=0.0,
            hd95_both_mm=math.nan,
            hd95_one_mm=math.nan,
        ),
    )
}

_TARGETS = {
    **{("region", name): labels for name, labels in REGIONS.items()},
    **{("label", name): (label,) for label, name in LABELS.items() if label},
}


def get_empty_rule(name: str) -> EmptyMasks:
    """Look a convention for empty masks up by name.

    Raises:
        ValueError: The name is unknown; the message lists the names that exist.

    Examples:
        >>> get_empty_rule("brats").hd95_one_mm
        373.13
    """
    if name not in EMPTY_RULES:
        msg = f"empty_rule must be one of {sorted(EMPTY_RULES)}; got {name!r}."
        raise ValueError(msg)
    return EMPTY_RULES[name]


def score_masks(
    pred: NDArray[np.integer],
    truth: NDArray[np.integer],
    *,
    spacing_mm: Triple,
    case: str,
    method: str = "network",
    empty_rule: str = "brats",
) -> list[Score]:
    """Score regions WT, TC, ET and labels NCR, ED, ET of one case on its native grid.

    All overlaps and volumes come from one table of voxel counts; distances are measured in the
    smallest box that holds both masks.

    Args:
        pred: Predicted label map, `(I, J, K)`, internal labels 0-3.
        truth: Reference label map on the same grid.
        spacing_mm: Voxel size along I, J, K, mm.
        case: Case id, for the rows.
        method: Who made the prediction, for the rows.
        empty_rule: `"brats"`: nothing in both masks scores Dice 1 and 0 mm, in one of them 0 and
            373.13 mm. `"nan"`: nothing in both scores NaN, in one of them Dice 0 and HD95 NaN.

    Returns:
        Six rows, regions first. `kind` keeps regions and labels apart.

    Raises:
        TypeError: A label map is not of integers.
        ValueError: The label maps differ in shape, are not 3D or hold an unknown value; a spacing
            is not positive; or there is no such empty rule.

    Examples:
        >>> truth = np.zeros((4, 4, 4), dtype=np.uint8)
        >>> truth[1:3, 1:3, 1:3] = 2
        >>> pred = np.where(truth, 3, 0)  # the right voxels, the wrong tissue
        >>> rows = score_masks(pred, truth, spacing_mm=(1, 1, 1), case="A")
        >>> {row.name: row.dice for row in rows if row.kind == "region"}
        {'WT': 1.0, 'TC': 0.0, 'ET': 0.0}
    """
    rule = get_empty_rule(empty_rule)
    pred, truth = crop_to_tumour(pred, truth)
    table = confusion_table(pred, truth)
    distances_mm: dict[tuple[int, ...], float] = {}
    rows = []
    for (kind, name), labels in _TARGETS.items():
        if labels not in distances_mm:  # region ET and label ET are one mask
            distances_mm[labels] = hausdorff95(
                _select(pred, labels),
                _select(truth, labels),
                spacing_mm=spacing_mm,
                when_both_empty=rule.hd95_both_mm,
                when_one_empty=rule.hd95_one_mm,
            )
        counted = _count(table, labels, rule=rule, voxel_ml=float(np.prod(spacing_mm)) / 1000)
        rows.append(
            Score(
                method=method,
                case=case,
                kind=kind,
                name=name,
                hd95_mm=distances_mm[labels],
                empty_rule=rule.name,
                **counted,
            )
        )
    return rows


def _select(labels: NDArray[np.integer], wanted: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.logical_or.reduce([labels == label for label in wanted])


def _count(
    table: NDArray[np.int64], labels: tuple[int, ...], *, rule: EmptyMasks, voxel_ml: float
) -> dict[str, float | bool]:
    """Take every overlap of one region from the table of a case (row = pred, column = truth)."""
    both = int(table[np.ix_(labels, labels)].sum())
    in_pred = int(table[list(labels), :].sum())
    in_truth = int(table[:, list(labels)].sum())
    if in_pred and in_truth:
        overlap = 2 * both / (in_pred + in_truth)
    else:
        overlap = rule.dice_one if in_pred or in_truth else rule.dice_both
    return {
        "dice": overlap,
        "sensitivity": both / in_truth if in_truth else math.nan,
        "precision": both / in_pred if in_pred else math.nan,
        "pred_ml": in_pred * voxel_ml,
        "truth_ml": in_truth * voxel_ml,
        "pred_empty": not in_pred,
        "truth_empty": not in_truth,
    }
