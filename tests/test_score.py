"""A case is scored region by region and label by label, and each row says by which rule."""

import math
import subprocess
import sys

import numpy as np
import pytest

from bratskit.evaluate import Score, dice, hausdorff95, score_masks, volume_ml
from bratskit.labels import LABELS, REGIONS

SPACING_MM = (1.0, 2.0, 3.0)


def labels_of(ncr: slice, ed: slice, et: slice) -> np.ndarray:
    """Lay the three tissues in one row of 20 voxels, later ones over earlier ones."""
    labels = np.zeros((20, 4, 4), dtype=np.uint8)
    for value, span in ((2, ed), (1, ncr), (3, et)):
        labels[span, 1, 1] = value
    return labels


TRUTH = labels_of(ncr=slice(4, 6), ed=slice(0, 12), et=slice(6, 10))
PRED = labels_of(ncr=slice(4, 6), ed=slice(0, 8), et=slice(6, 8))
EMPTY = np.zeros_like(TRUTH)


def score(pred: np.ndarray, truth: np.ndarray, **options: str) -> dict[tuple[str, str], Score]:
    rows = score_masks(pred, truth, spacing_mm=SPACING_MM, **{"case": "A", **options})
    return {(row.kind, row.name): row for row in rows}


# By hand


def test_region_and_label_dices_are_the_fractions_on_paper():
    rows = score(PRED, TRUTH)
    found = {key: item.dice for key, item in rows.items()}
    assert found == pytest.approx(
        {
            ("region", "WT"): 2 * 8 / (8 + 12),
            ("region", "TC"): 2 * 4 / (4 + 6),
            ("region", "ET"): 2 * 2 / (2 + 4),
            ("label", "NCR"): 1.0,
            ("label", "ED"): 2 * 4 / (4 + 6),
            ("label", "ET"): 2 * 2 / (2 + 4),
        }
    )


def test_volumes_sensitivity_and_precision_are_those_of_the_region():
    whole = score(PRED, TRUTH)["region", "WT"]
    assert (whole.pred_ml, whole.truth_ml) == pytest.approx((8 * 6 / 1000, 12 * 6 / 1000))
    assert (whole.sensitivity, whole.precision) == pytest.approx((8 / 12, 1.0))


def test_the_brats_rule_rewards_silence_and_punishes_false_alarm():
    without_et = np.where(TRUTH == 3, 1, TRUTH)
    silent, alarm = score(without_et, without_et), score(TRUTH, without_et)
    missed = score(without_et, TRUTH)
    assert (silent["region", "ET"].dice, silent["region", "ET"].hd95_mm) == (1, 0)
    assert (alarm["region", "ET"].dice, alarm["region", "ET"].hd95_mm) == (0, 373.13)
    assert (missed["region", "ET"].dice, missed["region", "ET"].hd95_mm) == (0, 373.13)


def test_the_nan_rule_leaves_out_what_is_undefined_but_counts_a_false_alarm():
    without_et = np.where(TRUTH == 3, 1, TRUTH)
    silent = score(without_et, without_et, empty_rule="nan")["region", "ET"]
    alarm = score(TRUTH, without_et, empty_rule="nan")["region", "ET"]
    assert math.isnan(silent.dice)
    assert math.isnan(silent.hd95_mm)
    assert alarm.dice == 0
    assert math.isnan(alarm.hd95_mm)


def test_rows_say_which_mask_was_empty_and_by_which_rule():
    rows = score(EMPTY, TRUTH, empty_rule="nan", method="predict nothing")
    assert all(item.pred_empty and not item.truth_empty for item in rows.values())
    assert {item.empty_rule for item in rows.values()} == {"nan"}
    assert {item.method for item in rows.values()} == {"predict nothing"}


def test_two_empty_maps_score_without_a_box():
    assert score(EMPTY, EMPTY)["region", "WT"].dice == 1


# Second opinion and property


@pytest.mark.parametrize("seed", range(3))
def test_every_row_agrees_with_measuring_each_mask_alone(seed):
    rng = np.random.default_rng(seed)
    pred, truth = rng.choice(4, size=(2, 9, 8, 7), p=(0.9, 0.04, 0.03, 0.03)).astype(np.uint8)
    members = {("region", name): labels for name, labels in REGIONS.items()}
    members |= {("label", name): (label,) for label, name in LABELS.items() if label}
    for key, found in score(pred, truth).items():
        one, other = np.isin(pred, members[key]), np.isin(truth, members[key])
        assert found.dice == pytest.approx(dice(one, other, when_both_empty="one"))
        assert found.hd95_mm == pytest.approx(hausdorff95(one, other, spacing_mm=SPACING_MM))
        assert found.pred_ml == pytest.approx(volume_ml(one, SPACING_MM))


def test_a_perfect_mask_scores_one_and_zero_everywhere():
    for item in score(TRUTH, TRUTH).values():
        assert (item.dice, item.hd95_mm, item.sensitivity, item.precision) == (1, 0, 1, 1)


def test_swapping_prediction_and_truth_swaps_sensitivity_and_precision():
    there, back = score(PRED, TRUTH), score(TRUTH, PRED)
    for key in there:
        assert there[key].dice == back[key].dice
        assert there[key].sensitivity == back[key].precision
        assert there[key].pred_ml == back[key].truth_ml


# Refusal


def test_an_unknown_empty_rule_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"one of \['brats', 'nan'\]"):
        score(PRED, TRUTH, empty_rule="kaggle")


def test_scoring_imports_no_torch():
    code = "import sys, bratskit.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
