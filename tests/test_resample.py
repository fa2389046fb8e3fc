"""Promise: the fast way to resample gives what torch's trilinear mode gives, label by label too."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.preprocess.resample import largest, resample_labels, resample_mask, resample_values

SHAPES = [(9, 14, 11), (5, 3, 7), (18, 12, 22), (9, 12, 11), (1, 24, 5)]


def by_torch(array, shape):
    """Interpolate by torch's own trilinear mode."""
    tensor = torch.from_numpy(np.array(array, dtype=np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, size=shape, mode="trilinear")[0, 0].numpy()


@pytest.mark.parametrize("shape", SHAPES)
def test_values_are_those_of_torch(rng, shape):
    array = rng.normal(size=(9, 12, 11)).astype(np.float32)
    np.testing.assert_allclose(resample_values(array, shape), by_torch(array, shape), atol=2e-6)


def test_channels_do_not_mix(rng):
    image = rng.normal(size=(3, 8, 9, 10)).astype(np.float32)
    both = resample_values(image, (5, 12, 7))
    for channel, new in zip(image, both, strict=True):
        np.testing.assert_allclose(new, resample_values(channel, (5, 12, 7)), atol=2e-6)


def test_half_a_voxel_over_is_the_mean_of_two():
    ramp = np.arange(8.0).reshape(8, 1, 1)
    assert resample_values(ramp, (4, 1, 1)).ravel().tolist() == [0.5, 2.5, 4.5, 6.5]


@pytest.mark.parametrize("shape", SHAPES)
def test_labels_are_the_largest_of_torch_s_masks(rng, shape):
    labels = np.zeros((9, 12, 11), np.uint8)
    labels[3:7, 2:6, 5:11] = rng.choice([0, 1, 2, 3], p=[0.1, 0.2, 0.4, 0.3], size=(4, 4, 6))
    expected = largest((v, by_torch(labels == v, shape)) for v in (3, 2, 1, 0))
    np.testing.assert_array_equal(resample_labels(labels, shape), expected)


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 16)] * 3))
@settings(max_examples=25, derandomize=True, deadline=None)
def test_a_label_that_covers_more_than_half_is_taken(seed, shape):
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 4, size=(6, 5, 7)).astype(np.uint8)
    new = resample_labels(small, shape)
    masks = {v: resample_mask(small == v, shape) for v in range(4)}
    for v, mask in masks.items():
        others = sum(masks[w] for w in masks if w != v)
        assert (new[mask & (others == 0)] == v).all()


@given(*[st.tuples(*[st.integers(1, 13)] * 3)] * 2, st.sampled_from([0.01, 0.1, 1]))
@settings(max_examples=50, derandomize=True, deadline=None)
def test_labels_far_and_few_are_torch_s_too(before, after, share):
    rng = np.random.default_rng(sum(before + after))
    labels = (rng.integers(0, 4, before) * (rng.random(before) < share)).astype(np.uint8)
    scores = np.stack([by_torch(labels == v, after) for v in range(4)])
    first, second = np.sort(scores, axis=0)[[-1, -2]]
    clear = first - second > 1e-5  # the rest are ties
    np.testing.assert_array_equal(resample_labels(labels, after)[clear], scores.argmax(0)[clear])


def test_a_voxel_between_the_new_centres_is_lost_and_nothing_else_happens():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[0, 20, 20] = 3  # new centres lie at 1.5, 5.5, ...
    assert not resample_labels(labels, (10, 10, 10)).any()


def test_an_empty_mask_stays_empty_and_a_full_one_full():
    assert not resample_labels(np.zeros((4, 5, 6), np.uint8), (7, 3, 6)).any()
    assert (resample_labels(np.full((4, 5, 6), 2, np.uint8), (7, 3, 6)) == 2).all()
