"""Clean-up does what its settings say and nothing else, and regions nest before and after."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from bratskit.labels import REGIONS
from bratskit.predict import (
    fill_holes,
    remove_small_components,
    remove_small_et,
    smooth_borders,
    tidy,
)
from bratskit.settings import InferenceSettings

ONE_MM = (1.0, 1.0, 1.0)


@pytest.fixture
def labels():
    """Draw a block of 8 voxels, a rod of 3 and a single voxel."""
    labels = np.zeros((8, 9, 10), dtype=np.uint8)
    labels[1:3, 1:3, 1:3] = 2
    labels[5, 5, 5:8] = 3
    labels[7, 0, 0] = 1
    return labels


@pytest.mark.parametrize(
    ("smallest_vox", "kept"), [(0, 12), (1, 12), (2, 11), (3, 11), (4, 8), (8, 8), (9, 0)]
)
def test_islands_below_the_size_go_and_those_of_the_size_stay(labels, smallest_vox, kept):
    cleaned = remove_small_components(labels, smallest_vox)
    assert np.count_nonzero(cleaned) == kept
    changed = cleaned != labels
    assert not cleaned[changed].any()


def test_voxels_that_touch_at_a_corner_are_one_island():
    labels = np.zeros((3, 3, 3), dtype=np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[2, 2, 2] = 1
    assert np.array_equal(remove_small_components(labels, 3), labels)


def test_a_small_tissue_inside_a_large_tumour_stays():
    labels = np.full((4, 4, 4), 2, dtype=np.uint8)
    labels[1, 1, 1] = 3
    assert np.array_equal(remove_small_components(labels, 10), labels)


def test_cleaning_twice_changes_nothing_more_and_the_input_is_left_alone(labels):
    before = labels.copy()
    once = remove_small_components(labels, 4)
    assert np.array_equal(remove_small_components(once, 4), once)
    assert np.array_equal(labels, before)


def test_no_tumour_stays_no_tumour():
    assert not remove_small_components(np.zeros((3, 4, 5), dtype=np.uint8), 50).any()


@pytest.mark.parametrize(
    "refused",
    [
        lambda labels: remove_small_components(labels, -1),
        lambda labels: remove_small_et(labels, -1),
        lambda labels: smooth_borders(labels, -0.5, spacing_mm=ONE_MM),
    ],
)
def test_a_negative_size_is_refused(refused):
    with pytest.raises(ValueError, match="Use 0 to keep everything"):
        refused(np.zeros((2, 2, 2), dtype=np.uint8))


def test_too_little_et_of_a_whole_case_becomes_necrosis(labels):
    labels[2, 2, 2] = 3  # 4 voxels in all, in two islands
    assert np.array_equal(remove_small_et(labels, 4), labels)
    without = remove_small_et(labels, 5)
    assert np.array_equal(without, np.where(labels == 3, 1, labels))


def test_a_case_without_et_stays_as_it_was():
    labels = np.full((3, 3, 3), 2, dtype=np.uint8)
    assert np.array_equal(remove_small_et(labels, 1000), labels)


def test_a_hole_in_the_core_is_necrosis_and_one_outside_it_is_edema():
    labels = np.zeros((7, 7, 14), dtype=np.uint8)
    labels[1:6, 1:6, 1:13] = 2
    labels[2:5, 2:5, 2:5] = 3
    labels[3, 3, 3] = labels[3, 3, 9] = 0
    filled = fill_holes(labels)
    assert (filled[3, 3, 3], filled[3, 3, 9]) == (1, 2)
    assert np.count_nonzero(filled != labels) == 2


def test_a_bay_that_opens_through_a_face_is_no_hole_but_one_open_at_a_corner_is():
    labels = np.zeros((5, 5, 5), dtype=np.uint8)
    labels[1:4, 1:4, 1:4] = 2
    labels[2, 2, 2] = 0
    corner = labels.copy()
    corner[1, 1, 1] = 0  # touches the hole by a corner only
    assert fill_holes(corner)[2, 2, 2] == 2
    labels[2, 2, 3] = 0
    assert np.array_equal(fill_holes(labels), labels)


def test_edema_inside_the_core_is_no_hole():
    labels = np.full((5, 5, 5), 3, dtype=np.uint8)
    labels[2, 2, 2] = 2
    assert np.array_equal(fill_holes(labels), labels)


def test_a_sheet_thinner_than_the_smoothing_goes_and_the_unit_is_mm():
    labels = np.zeros((9, 9, 9), dtype=np.uint8)
    labels[:, :, 4] = 2  # one voxel thick: 1 mm at first, then 3 mm
    middle = (4, 4, 4)
    # a sheet of t mm keeps erf(t / (2 sqrt(2) sigma)) of itself: .38 and .86 for sigma = 1
    assert smooth_borders(labels, 1.0, spacing_mm=ONE_MM)[middle] == 0
    assert smooth_borders(labels, 1.0, spacing_mm=(1.0, 1.0, 3.0))[middle] == 2


def test_a_flat_border_stays_where_it_is():
    labels = np.zeros((20, 20, 20), dtype=np.uint8)
    labels[:, :, 10:] = 2
    labels[:, :, 15:] = 3
    middle = (10, 10, slice(2, 18))  # away from the ends of the volume
    assert np.array_equal(smooth_borders(labels, 1.0, spacing_mm=ONE_MM)[middle], labels[middle])


def drawn(rng: np.random.Generator) -> np.ndarray:
    """Draw blobs of all three tissues, with holes, crumbs and rough borders."""
    noise = ndimage.gaussian_filter(rng.standard_normal((24, 20, 22)), 1.5)
    levels = np.quantile(noise, [0.7, 0.85, 0.93])
    return np.array([0, 2, 1, 3], np.uint8)[np.digitize(noise, levels)]


@pytest.mark.parametrize("seed", range(4))
def test_smoothing_one_region_is_the_same_as_smoothing_it_alone_on_the_whole_volume(seed: int):
    labels = drawn(np.random.default_rng(seed))
    sigma_mm, spacing_mm = 1.2, (1.0, 0.8, 2.0)
    smoothed = smooth_borders(labels, sigma_mm, spacing_mm=spacing_mm)
    for members in REGIONS.values():
        padded = np.pad(np.isin(labels, members).astype(float), 12)
        alone = ndimage.gaussian_filter(padded, [sigma_mm / side for side in spacing_mm]) > 0.5
        assert np.array_equal(np.isin(smoothed, members), alone[12:-12, 12:-12, 12:-12])


EVERYTHING = InferenceSettings(
    smooth_mm=0.8, fill_holes=True, smallest_component_vox=40, smallest_et_vox=30
)


@pytest.mark.parametrize("seed", range(4))
def test_mirror_and_axes_do_not_matter(seed: int):
    labels = drawn(np.random.default_rng(seed))
    tidied = tidy(labels, EVERYTHING, spacing_mm=(1.0, 0.8, 2.0))
    assert np.array_equal(tidy(labels[::-1], EVERYTHING, spacing_mm=(1.0, 0.8, 2.0)), tidied[::-1])
    turned = tidy(labels.transpose(2, 0, 1), EVERYTHING, spacing_mm=(2.0, 1.0, 0.8))
    assert np.array_equal(turned, tidied.transpose(2, 0, 1))


def test_the_order_is_smooth_fill_islands_then_et():
    labels = drawn(np.random.default_rng(7))
    by_hand = smooth_borders(labels, 0.8, spacing_mm=ONE_MM)
    by_hand = remove_small_et(remove_small_components(fill_holes(by_hand), 40), 30)
    assert np.array_equal(tidy(labels, EVERYTHING, spacing_mm=ONE_MM), by_hand)
    assert not np.array_equal(by_hand, labels)


def test_et_of_an_island_that_goes_does_not_count(labels):
    rule = InferenceSettings(smallest_component_vox=4, smallest_et_vox=3)
    labels[1, 1, 1] = 3  # one voxel in the block that stays, three in the rod that goes
    assert not (tidy(labels, rule, spacing_mm=ONE_MM) == 3).any()


def test_the_defaults_change_nothing_and_return_a_copy(labels):
    tidied = tidy(labels, InferenceSettings(), spacing_mm=ONE_MM)
    assert np.array_equal(tidied, labels)
    assert not np.shares_memory(tidied, labels)


def test_nothing_is_written_outside_the_brain():
    labels = np.full((6, 6, 6), 2, dtype=np.uint8)
    labels[2, 2, 2] = 0
    brain = labels > 0  # the hole has no signal: a cavity that was skull-stripped away
    filling = dataclasses.replace(EVERYTHING, smooth_mm=0.0)
    assert tidy(labels, filling, spacing_mm=ONE_MM)[2, 2, 2] == 2
    assert tidy(labels, filling, spacing_mm=ONE_MM, brain=brain)[2, 2, 2] == 0
