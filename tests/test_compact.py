"""Promise: a byte a voxel keeps what a network needs, background and outliers exactly."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bratskit.preprocess.compact import (
    _nearest,
    choose_levels,
    decode,
    encode,
    read_compact,
    write_compact,
)


def there_and_back(image):
    return decode(*encode(image))


def brain(rng, n=40_000):
    """Draw z-scores of one modality, `(1, 1, 1, N)`, with as many different values as voxels."""
    values = rng.normal(size=n).astype(np.float32)
    return values.reshape(1, 1, 1, -1)


def test_three_values_are_kept_to_the_bit():
    image = np.array([0, -1.2247449, 0, 0.1, 1.2247449], np.float32).reshape(1, 1, 1, 5)
    codes, levels = encode(image)
    assert codes.ravel().tolist() == [0, 1, 0, 2, 3]
    np.testing.assert_array_equal(decode(codes, levels), image)


def test_a_case_stored_as_uint8_loses_nothing(rng):
    stored = rng.integers(0, 256, (2, 8, 9, 10))
    image = np.where(stored > 0, (stored - 90.0) / 31, 0).astype(np.float32)
    np.testing.assert_array_equal(there_and_back(image), image)


def test_the_step_near_the_middle_is_a_twentieth_of_the_spread(rng):
    image = brain(rng)
    error = np.abs(there_and_back(image) - image)
    middle = np.abs(image) < 2
    assert error[middle].max() < 0.03
    assert error.max() < 0.06


def test_the_largest_and_the_smallest_value_survive_exactly(rng):
    image = brain(rng)
    image[..., 7], image[..., 8] = 60, -45
    back = there_and_back(image)
    assert (back.max(), back.min()) == (60, -45)


@pytest.mark.parametrize("outlier", [100, 10_000, 1e6])
def test_one_bright_voxel_does_not_flatten_the_others(rng, outlier):
    """A rescaled case with one voxel at 32767 leaves the whole brain a few percent of the range."""
    image = brain(rng)
    image[..., 7] = outlier
    error = np.abs(there_and_back(image) - image)[np.abs(image) < 3]
    assert error.max() < 0.12


def test_a_brain_squeezed_by_outliers_keeps_its_own_contrast(rng):
    """Outliers that rule the deviation squeeze all tissue into a hundredth of it."""
    image = 0.01 * brain(rng)
    image[..., :20] = 150
    inside = np.abs(image) < 0.03
    assert np.abs(there_and_back(image) - image)[inside].max() < 0.01 * 0.1


def test_missing_and_constant_modalities_are_background(rng):
    """Their z-scores are 0 everywhere."""
    image = np.concatenate([np.zeros((1, 1, 1, 500), np.float32), brain(rng, 500)])
    codes, levels = encode(image)
    assert not codes[0].any()
    assert np.isfinite(levels).all()
    np.testing.assert_array_equal(decode(codes, levels)[0], 0)


def test_a_modality_mostly_of_one_value_has_levels(rng):
    values = np.full(40_000, 0.5, np.float32)
    values[:2000] = rng.normal(size=2000)
    image = values.reshape(1, 1, 1, -1)
    assert np.abs(there_and_back(image) - image).max() < 0.1


@given(
    arrays(
        np.float32,
        (2, 3, 4, 5),
        elements=st.floats(-(2.0**80), 2.0**80, width=32, allow_subnormal=False),
    )
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_background_and_only_background_is_code_0(image):
    codes, levels = encode(image)
    np.testing.assert_array_equal(codes == 0, image == 0)
    assert np.isfinite(levels).all()
    assert (np.diff(levels[:, 1:], axis=1) >= 0).all()


@given(
    st.lists(st.floats(-40, 400, width=32), min_size=1, max_size=60).map(np.float32),
    st.lists(st.floats(-50, 500, width=32), max_size=99).map(np.float32),
)
@settings(max_examples=200, derandomize=True, deadline=None)
def test_the_nearest_level_is_found_by_ruler_as_by_search(levels, values):
    levels = np.unique(levels)
    values = np.clip(np.concatenate([values, levels]), levels[0], levels[-1])
    expected = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
    np.testing.assert_array_equal(_nearest(values, levels), expected)


def test_coding_again_changes_nothing(rng):
    once = there_and_back(brain(rng))
    np.testing.assert_array_equal(there_and_back(once), once)


def test_order_is_kept(rng):
    image = np.sort(brain(rng).ravel()).reshape(1, 1, 1, -1)
    assert (np.diff(there_and_back(image).ravel()) >= 0).all()


def test_levels_do_not_depend_on_a_shift_or_a_scale(rng):
    values = brain(rng).ravel()
    moved = choose_levels(3 * values + 7)
    np.testing.assert_allclose(moved, 3 * choose_levels(values) + 7, atol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (4, 70, 65, 67), (2, 3, 200, 1)])
def test_a_file_gives_back_array_and_parts(tmp_path, rng, shape):
    array = rng.integers(0, 9, shape).astype(np.uint8)
    write_compact(array, tmp_path / "a.b2nd")
    np.testing.assert_array_equal(read_compact(tmp_path / "a.b2nd"), array)
    part = tuple(slice(length // 3, length // 2 + 1) for length in shape)
    np.testing.assert_array_equal(read_compact(tmp_path / "a.b2nd", part), array[part])


def test_equal_content_gives_equal_bytes(tmp_path, rng):
    array = rng.integers(0, 99, (4, 70, 65, 67)).astype(np.uint8)
    for name in "ab":
        write_compact(array, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
