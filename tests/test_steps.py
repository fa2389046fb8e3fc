"""Promise: intensities are normalised over the brain alone, whatever else is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.preprocess import brain_box, brain_mask, minmax, zscore


@pytest.fixture
def brain(rng):
    """Return two channels of positive intensities in a box of a 9x10x11 grid."""
    image = np.zeros((2, 9, 10, 11), np.float32)
    image[:, 2:8, 1:9, 3:10] = rng.uniform(50, 500, size=(2, 6, 8, 7))
    return image


def test_the_mask_is_the_union_of_all_modalities():
    image = np.zeros((2, 2, 2, 2))
    image[0, 0, 0, 0], image[1, 1, 1, 1] = 5, -3
    assert np.argwhere(brain_mask(image)).tolist() == [[0, 0, 0], [1, 1, 1]]


@given(st.lists(st.tuples(*[st.integers(0, 6)] * 3), min_size=1, max_size=5))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_the_box_is_the_extent_of_the_voxels(voxels):
    mask = np.zeros((7, 7, 7), bool)
    mask[tuple(np.transpose(voxels))] = True
    low, high = np.min(voxels, axis=0), np.max(voxels, axis=0) + 1
    assert brain_box(mask) == tuple((int(a), int(b)) for a, b in zip(low, high, strict=True))


def test_brain_voxels_get_mean_zero_and_deviation_one(brain):
    normal = zscore(brain, brain_mask(brain))
    for channel, source in zip(normal, brain, strict=True):
        values = channel[source != 0].astype(np.float64)
        assert values.mean() == pytest.approx(0, abs=1e-6)
        assert values.std() == pytest.approx(1, abs=1e-6)


def test_background_is_exactly_zero(brain):
    normal = zscore(brain, brain_mask(brain))
    assert (normal[brain == 0] == 0).all()


def test_scale_and_int16_do_not_matter(brain):
    whole = np.round(brain).astype(np.int16)
    expected = zscore(whole.astype(np.float32))
    np.testing.assert_allclose(zscore(whole), expected, atol=1e-6)
    np.testing.assert_allclose(zscore(whole.astype(np.float32) * 65), expected, atol=1e-5)


def test_memory_order_does_not_matter(brain):
    fortran = np.asfortranarray(brain)[:, ::-1]
    np.testing.assert_allclose(zscore(fortran), zscore(brain)[:, ::-1], atol=1e-6)


def test_sums_keep_their_digits_on_large_offsets(rng):
    image = (30_000 + rng.normal(0, 3, size=(1, 40, 40, 40))).astype(np.float32)
    assert zscore(image).std(dtype=np.float64) == pytest.approx(1, abs=1e-4)


def test_a_missing_slab_leaves_the_rest_as_it_was(brain):
    broken = brain.copy()
    broken[0, :, :, :6] = 0
    normal = zscore(broken, brain_mask(broken))
    left = broken[0] != 0
    assert (normal[0][~left] == 0).all()
    assert normal[0][left].std(dtype=np.float64) == pytest.approx(1, abs=1e-6)
    np.testing.assert_array_equal(normal[1], zscore(brain)[1])


def test_a_constant_or_empty_modality_becomes_zero(brain):
    brain[0][brain[0] != 0] = 0.1
    brain[1] = 0
    assert np.array_equal(zscore(brain), np.zeros_like(brain))


def test_voxels_off_the_mask_do_not_count(brain):
    mask = brain_mask(brain)
    stray = brain.copy()
    stray[0, 0, 0, 0] = 1e4
    normal = zscore(stray, mask)
    assert normal[0, 0, 0, 0] == 0
    np.testing.assert_array_equal(normal, zscore(brain, mask))


def test_minmax_by_hand_keeps_the_background_at_zero():
    image = np.array([[0, 5, 10, 20], [0, -4, 0, 4]], np.float32).reshape(2, 1, 1, 4)
    scaled = minmax(image).reshape(2, 4)
    assert scaled.tolist() == [[0, 0.25, 0.5, 1], [0, 0, 0, 1]]


def test_minmax_agrees_with_monai_over_the_whole_volume(brain):
    monai = pytest.importorskip("monai.transforms")
    second = monai.ScaleIntensity(channel_wise=True)(brain)
    np.testing.assert_allclose(minmax(brain), second, atol=1e-6)


def test_minmax_knows_the_zero_around_a_box_that_holds_none(brain):
    box = brain[:, 2:8, 1:9, 3:10]
    np.testing.assert_array_equal(minmax(box), minmax(brain)[:, 2:8, 1:9, 3:10])


def test_minmax_of_a_damaged_constant_or_empty_modality_is_finite(brain):
    brain[0, 3, 3, 3], brain[0, 4, 4, 4] = np.nan, np.inf
    brain[1][brain[1] != 0] = 7
    scaled = minmax(brain, brain_mask(brain))
    assert (scaled[0, 3, 3, 3], scaled[0, 4, 4, 4]) == (0, 0)
    assert scaled[0].max() == 1
    assert set(np.unique(scaled[1])) == {0, 1}
    assert not minmax(np.zeros((1, 2, 2, 2))).any()


def test_minmax_does_not_count_voxels_off_the_mask(brain):
    mask = brain_mask(brain)
    stray = brain.copy()
    stray[0, 0, 0, 0] = 1e4
    np.testing.assert_array_equal(minmax(stray, mask), minmax(brain, mask))


def test_an_image_of_zeros_is_refused_with_a_way_on():
    with pytest.raises(ValueError, match=r"zeros only.*\n?.*bratskit check"):
        brain_box(np.zeros((3, 3, 3), bool))
