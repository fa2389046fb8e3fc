"""Small islands of tumour go, everything else stays as it was."""

import numpy as np
import pytest

from bratskit.predict import remove_small_components


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


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="Use 0 to keep everything"):
        remove_small_components(np.zeros((2, 2, 2), dtype=np.uint8), -1)
