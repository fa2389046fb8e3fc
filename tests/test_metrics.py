"""Dice, HD95, volume and the table of counts give the numbers a pencil gives, and SciPy's."""

import math
from fractions import Fraction

import numpy as np
import pytest
from scipy import ndimage

from bratskit.evaluate import (
    confusion_table,
    dice,
    hausdorff95,
    precision,
    sensitivity,
    volume_ml,
)

ANISOTROPIC_MM = (1.0, 2.0, 5.0)


def box(*spans: tuple[int, int], shape: tuple[int, int, int] = (12, 12, 12)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*span) for span in spans)] = True
    return mask


def blobs(rng: np.random.Generator, *, shape: tuple[int, int, int] = (14, 11, 9)) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 1.2)
    return noise > np.quantile(noise, rng.uniform(0.6, 0.97))


def brute_hausdorff95(pred: np.ndarray, truth: np.ndarray, spacing_mm: tuple) -> float:
    """Measure the same from whole-volume distance transforms of eroded outlines."""
    outlines = [mask & ~ndimage.binary_erosion(mask) for mask in (pred, truth)]
    to_pred, to_truth = (
        ndimage.distance_transform_edt(~outline, sampling=spacing_mm) for outline in outlines
    )
    return max(np.percentile(to_truth[outlines[0]], 95), np.percentile(to_pred[outlines[1]], 95))


# By hand: Dice


def test_dice_of_a_cube_in_a_larger_cube_is_a_fraction():
    pred, truth = box((0, 2), (0, 2), (0, 2)), box((0, 4), (0, 4), (0, 4))
    assert dice(pred, truth) == float(Fraction(2 * 8, 8 + 64))


def test_dice_of_equal_masks_is_one_and_of_disjoint_masks_zero():
    truth = box((0, 3), (0, 3), (0, 3))
    assert dice(truth, truth) == 1
    assert dice(box((6, 9), (0, 3), (0, 3)), truth) == 0


@pytest.mark.parametrize(("rule", "wanted"), [("one", 1.0), ("nan", math.nan)])
def test_both_empty_is_the_callers_choice(rule, wanted):
    empty = np.zeros((3, 3, 3), dtype=bool)
    assert dice(empty, empty, when_both_empty=rule) == pytest.approx(wanted, nan_ok=True)


def test_both_empty_can_be_an_error_that_says_what_to_choose():
    empty = np.zeros((3, 3, 3), dtype=bool)
    with pytest.raises(ValueError, match="when_both_empty='nan' or 'one'"):
        dice(empty, empty, when_both_empty="error")


@pytest.mark.parametrize("rule", ["one", "nan", "error"])
def test_one_empty_mask_scores_zero_whatever_the_rule_for_both(rule):
    empty, full = np.zeros((3, 3, 3), dtype=bool), np.ones((3, 3, 3), dtype=bool)
    assert dice(empty, full, when_both_empty=rule) == dice(full, empty, when_both_empty=rule) == 0


def test_sensitivity_divides_by_the_truth_and_precision_by_the_prediction():
    pred, truth = box((0, 2), (0, 2), (0, 3)), box((0, 2), (0, 2), (1, 6))
    assert sensitivity(pred, truth) == float(Fraction(2, 5))
    assert precision(pred, truth) == float(Fraction(2, 3))


def test_sensitivity_without_truth_and_precision_without_prediction_are_nan():
    empty, full = np.zeros((2, 2, 2), dtype=bool), np.ones((2, 2, 2), dtype=bool)
    assert math.isnan(sensitivity(full, empty))
    assert math.isnan(precision(empty, full))


# By hand: HD95


def test_two_single_voxels_are_as_far_apart_as_pythagoras_says():
    pred, truth = box((0, 1), (0, 1), (0, 1)), box((2, 3), (3, 4), (1, 2))
    expected_mm = math.sqrt((2 * 1.0) ** 2 + (3 * 2.0) ** 2 + (1 * 5.0) ** 2)
    assert hausdorff95(pred, truth, spacing_mm=ANISOTROPIC_MM) == pytest.approx(expected_mm)


@pytest.mark.parametrize(("axis", "expected_mm"), [(0, 1.0), (1, 2.0), (2, 5.0)])
def test_a_shift_by_one_voxel_costs_the_spacing_of_its_axis(axis, expected_mm):
    truth = box((4, 5), (4, 5), (4, 5))
    pred = np.roll(truth, 1, axis=axis)
    assert hausdorff95(pred, truth, spacing_mm=ANISOTROPIC_MM) == expected_mm


def test_the_percentile_is_interpolated_between_the_farthest_voxels():
    truth, pred = box((0, 1), (0, 1), (0, 1)), box((0, 1), (0, 1), (0, 11))  # distances 0, 1 ... 10
    assert hausdorff95(pred, truth, spacing_mm=(1, 1, 1)) == pytest.approx(0.95 * 10)


def test_the_larger_of_the_two_directions_counts_not_both_pooled():
    truth, pred = box((0, 1), (0, 1), (0, 11)), box((0, 1), (0, 1), (0, 1))
    assert hausdorff95(pred, truth, spacing_mm=(1, 1, 2)) == pytest.approx(0.95 * 20)  # misses
    assert hausdorff95(truth, pred, spacing_mm=(1, 1, 2)) == pytest.approx(0.95 * 20)  # invents


def test_a_hole_in_the_middle_is_an_outline_too():
    truth = box((0, 7), (0, 7), (0, 7), shape=(7, 7, 7))
    pred = truth.copy()
    pred[1:6, 1:6, 1:6] = False  # 218 voxels of shell, each on the outline of truth
    assert hausdorff95(pred, truth, spacing_mm=(1, 1, 1)) == 0
    pred[3, 3, 3] = True  # one stray voxel of 219 is among the 5 % left out
    assert hausdorff95(pred, truth, spacing_mm=(1, 1, 1)) == 0


def test_the_edge_of_the_image_is_outline():
    full = np.ones((5, 1, 1), dtype=bool)
    middle = box((2, 3), (0, 1), (0, 1), shape=(5, 1, 1))  # distances 2 1 0 1 2
    assert hausdorff95(middle, full, spacing_mm=(3, 1, 1)) == pytest.approx(6)


def test_empty_masks_score_what_brats_says_unless_told_otherwise():
    empty, full = np.zeros((3, 3, 3), dtype=bool), np.ones((3, 3, 3), dtype=bool)
    diagonal_mm = round(math.sqrt(240**2 + 240**2 + 155**2), 2)
    assert hausdorff95(empty, empty, spacing_mm=(1, 1, 1)) == 0
    assert hausdorff95(empty, full, spacing_mm=(1, 1, 1)) == diagonal_mm == 373.13
    assert hausdorff95(full, empty, spacing_mm=(1, 1, 1)) == diagonal_mm
    assert hausdorff95(empty, full, spacing_mm=(1, 1, 1), when_one_empty=374) == 374
    assert math.isnan(hausdorff95(empty, empty, spacing_mm=(1, 1, 1), when_both_empty=math.nan))


# By hand: volume and counts


def test_volume_is_voxels_times_spacing_in_millilitres():
    assert volume_ml(box((0, 10), (0, 10), (0, 3)), ANISOTROPIC_MM) == pytest.approx(3.0)
    assert volume_ml(np.zeros((4, 4, 4), dtype=bool), ANISOTROPIC_MM) == 0


def test_the_table_counts_every_voxel_once_with_the_prediction_in_rows():
    truth, pred = np.zeros((2, 6, 7, 8), dtype=np.uint8)
    truth[2, 2, 1:4] = 1
    pred[2, 2, 1:3] = 3
    table = confusion_table(pred, truth)
    assert table[3, 1] == 2
    assert table[0, 1] == 1
    assert table[1, 3] == 0
    assert table.sum() == 6 * 7 * 8


def test_the_table_of_two_empty_maps_is_all_background():
    empty = np.zeros((3, 4, 5), dtype=np.uint8)
    assert confusion_table(empty, empty).tolist() == [[60, 0, 0, 0], *[[0] * 4] * 3]


# Property


@pytest.mark.parametrize("seed", range(5))
def test_dice_and_hd95_do_not_care_who_is_called_truth(seed):
    rng = np.random.default_rng(seed)
    a, b = blobs(rng), blobs(rng)
    assert dice(a, b) == dice(b, a)
    assert hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM) == pytest.approx(
        hausdorff95(b, a, spacing_mm=ANISOTROPIC_MM)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flipping_both_masks_changes_nothing(rng, axis):
    a, b = blobs(rng), blobs(rng)
    flipped = np.flip(a, axis), np.flip(b, axis)
    assert dice(*flipped) == dice(a, b)
    assert hausdorff95(*flipped, spacing_mm=ANISOTROPIC_MM) == pytest.approx(
        hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM)
    )


def test_permuting_axes_and_spacing_together_changes_nothing(rng):
    a, b = blobs(rng), blobs(rng)
    turned = hausdorff95(a.transpose(2, 0, 1), b.transpose(2, 0, 1), spacing_mm=(5.0, 1.0, 2.0))
    assert turned == pytest.approx(hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM))


def test_a_wider_field_of_view_changes_nothing(rng):
    a, b = (np.pad(blobs(rng), 1) for _ in range(2))
    wide = [np.pad(mask, ((5, 0), (0, 7), (3, 2))) for mask in (a, b)]
    assert dice(*wide) == dice(a, b)
    assert hausdorff95(*wide, spacing_mm=ANISOTROPIC_MM) == pytest.approx(
        hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM)
    )


def test_voxels_three_times_as_large_are_three_times_as_far_apart(rng):
    a, b = blobs(rng), blobs(rng)
    large_mm = tuple(3 * length for length in ANISOTROPIC_MM)
    assert hausdorff95(a, b, spacing_mm=large_mm) == pytest.approx(
        3 * hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM)
    )


def test_missing_a_second_lesion_is_never_rewarded():
    both = box((1, 4), (1, 4), (1, 4)) | box((8, 11), (8, 11), (8, 11))
    only_first = box((1, 4), (1, 4), (1, 4))
    found = np.roll(both, 1, axis=0)
    missed = np.roll(only_first, 1, axis=0)
    assert dice(missed, both) < dice(found, both)
    assert hausdorff95(missed, both, spacing_mm=(1, 1, 1)) > hausdorff95(
        found, both, spacing_mm=(1, 1, 1)
    )


def test_masks_are_left_as_they_came(rng):
    a, b = blobs(rng), blobs(rng)
    before = a.copy(), b.copy()
    hausdorff95(a, b, spacing_mm=(1, 1, 1))
    assert np.array_equal(a, before[0])
    assert np.array_equal(b, before[1])


# Second opinion


@pytest.mark.parametrize("seed", range(20))
def test_hd95_agrees_with_brute_force_distance_transforms(seed):
    rng = np.random.default_rng(seed)
    a, b = blobs(rng), blobs(rng)
    spacing_mm = tuple(rng.uniform(0.4, 4, size=3))
    expected_mm = brute_hausdorff95(a, b, spacing_mm)
    assert hausdorff95(a, b, spacing_mm=spacing_mm) == pytest.approx(expected_mm, rel=1e-9)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # theirs
def test_dice_and_hd95_agree_with_monai(rng):
    monai = pytest.importorskip("monai.metrics")
    torch = pytest.importorskip("torch")
    a, b = blobs(rng), blobs(rng)
    one_hot = [torch.from_numpy(mask)[None, None].float() for mask in (a, b)]
    theirs = monai.compute_hausdorff_distance(
        *one_hot, include_background=True, percentile=95, spacing=list(ANISOTROPIC_MM)
    )
    assert hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM) == pytest.approx(theirs.item(), rel=1e-5)
    assert dice(a, b) == pytest.approx(monai.compute_dice(*one_hot).item(), rel=1e-6)


def test_single_voxels_agree_with_surface_distance():
    theirs = pytest.importorskip("surface_distance")
    a, b = box((2, 3), (2, 3), (2, 3)), box((6, 7), (5, 6), (4, 5))
    tables = theirs.compute_surface_distances(a, b, spacing_mm=ANISOTROPIC_MM)
    expected_mm = theirs.compute_robust_hausdorff(tables, 95)  # one voxel: areas cannot matter
    assert hausdorff95(a, b, spacing_mm=ANISOTROPIC_MM) == pytest.approx(expected_mm)


def test_the_table_agrees_with_counting_one_pair_of_labels_at_a_time(rng):
    pred, truth = rng.integers(0, 4, size=(2, 6, 5, 7)).astype(np.uint8)
    for p in range(4):
        for t in range(4):
            assert confusion_table(pred, truth)[p, t] == np.sum((pred == p) & (truth == t))


# Refusal


@pytest.mark.parametrize("measure", [dice, sensitivity, precision])
def test_a_label_map_is_refused_where_a_mask_belongs(measure):
    labels = np.ones((3, 3, 3), dtype=np.int16)
    with pytest.raises(TypeError, match=r"got dtype int16\. Select a region first"):
        measure(labels, labels == 1)


def test_hd95_and_volume_refuse_a_label_map_too():
    labels = np.ones((3, 3, 3), dtype=np.uint8)
    with pytest.raises(TypeError, match="Select a region first"):
        hausdorff95(labels == 1, labels, spacing_mm=(1, 1, 1))
    with pytest.raises(TypeError, match="Select a region first"):
        volume_ml(labels, (1, 1, 1))


def test_masks_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"got \(1, 4, 4\). Bring the prediction back"):
        dice(np.ones((1, 4, 4), dtype=bool), np.ones((4, 4, 4), dtype=bool))


def test_a_batch_is_refused():
    batch = np.ones((1, 4, 4, 4), dtype=bool)
    with pytest.raises(ValueError, match="without a batch"):
        dice(batch, batch)


@pytest.mark.parametrize("spacing_mm", [(1, 1), (1, 0, 1), (1, -1, 1), (1, math.nan, 1)])
def test_impossible_spacing_is_refused(spacing_mm):
    mask = np.ones((2, 2, 2), dtype=bool)
    with pytest.raises(ValueError, match=r"Use `scan\.spacing_mm`"):
        hausdorff95(mask, mask, spacing_mm=spacing_mm)


def test_an_unknown_rule_for_empty_masks_is_refused():
    mask = np.ones((2, 2, 2), dtype=bool)
    with pytest.raises(ValueError, match="must be 'nan', 'one' or 'error'"):
        dice(mask, mask, when_both_empty="zero")


def test_source_labels_are_refused_where_internal_ones_belong():
    labels = np.full((2, 2, 2), 4, dtype=np.uint8)
    with pytest.raises(ValueError, match=r"got \[4\]. Read the file with .*load_labels"):
        confusion_table(labels, labels)
    with pytest.raises(TypeError, match="argmax"):
        confusion_table(labels.astype(float), labels)
