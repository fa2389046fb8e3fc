"""Promise: a step and its inverse agree, on every voxel and on where in the world it lies."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.preprocess import Crop, Orient, Resize
from bratskit.preprocess.grid import simplify, step_from_dict
from bratskit.preprocess.resample import resample_values

few = settings(max_examples=40, derandomize=True, deadline=None)
LENGTHS = st.tuples(*[st.integers(2, 7)] * 3)


@st.composite
def crops(draw, shape):
    """Draw a box that overlaps the grid and may reach past it on any side."""
    box = []
    for length in shape:
        start = draw(st.integers(-3, length - 1))
        box.append((start, draw(st.integers(max(start, 0) + 1, length + 3))))
    return Crop(tuple(box))


def orients():
    flips = st.tuples(*[st.booleans()] * 3)
    return st.builds(Orient, st.permutations((0, 1, 2)).map(tuple), flips)


def steps(shape):
    return st.one_of(crops(shape), orients(), st.builds(Resize, LENGTHS))


def coordinates(shape):
    """Return an image whose three channels say which voxel each one is, 1 being the first."""
    return np.indices(shape).astype(np.float32) + 1


def test_padding_by_hand():
    line = np.array([5.0, 6.0]).reshape(1, 1, 1, 2)
    padded = Crop(((0, 1), (0, 1), (-1, 4))).apply(line, resample_values, outside=9)
    assert padded.ravel().tolist() == [9, 5, 6, 9, 9]
    assert Crop(((0, 1), (0, 1), (1, 4))).apply(line, resample_values).ravel().tolist() == [6, 0, 0]


def test_the_middle_of_a_brats_grid_is_the_one_that_tutorials_cut():
    middle = Crop.middle((240, 240, 155), (128, 128, 128))
    assert middle.box == ((56, 184), (56, 184), (13, 141))
    assert Crop.middle((10, 11, 7), (16, 16, 4)).box == ((-3, 13), (-3, 13), (1, 5))


def test_a_resample_keeps_the_voxels_whose_centres_it_holds():
    resize = Resize((4, 4, 4))  # of 6 voxels each: faces of 1..3 lie at 1.5 and 4.5
    assert resize.keeps(((1, 3), (0, 4), (3, 4)), (6, 6, 6)) == ((1, 4), (0, 6), (4, 6))


def test_turning_by_hand():
    turn = Orient.to_ras(np.array([[0, 0, 2, 0], [-1, 0, 0, 9], [0, 3, 0, 0], [0, 0, 0, 1]]))
    assert turn == Orient((2, 0, 1), (False, True, False))
    turned = turn.apply(np.arange(24).reshape(2, 3, 4), resample_values)
    assert turned.shape == (4, 2, 3)
    assert turned[3, 0, 2] == np.arange(24).reshape(2, 3, 4)[1, 2, 3]


@given(st.data(), LENGTHS)
@few
def test_a_step_and_back_and_again_is_the_step(data, shape):
    step = data.draw(steps(shape))
    after = step.shape_after(shape)
    back = step.inverse(shape)
    assert back.shape_after(after) == shape
    assert back.inverse(after) == step
    there_and_back = step.to_before(shape) @ back.to_before(after)
    np.testing.assert_allclose(there_and_back, np.eye(4), atol=1e-12)


@given(st.data(), LENGTHS)
@few
def test_the_matrix_says_which_voxel_it_was(data, shape):
    step = data.draw(st.one_of(crops(shape), orients()))
    moved = step.apply(coordinates(shape), resample_values)
    for voxel in np.ndindex(step.shape_after(shape)):
        before = (step.to_before(shape) @ [*voxel, 1])[:3]
        inside = ((before >= 0) & (before < shape)).all()
        assert (
            moved[(slice(None), *voxel)].tolist() == (before + 1 if inside else before * 0).tolist()
        )


@given(st.data(), LENGTHS)
@few
def test_what_a_crop_or_a_turn_reaches_comes_back(data, shape):
    step = data.draw(st.one_of(crops(shape), orients()))
    image = coordinates(shape)
    there = step.apply(image, resample_values)
    back = step.inverse(shape).apply(there, resample_values, outside=-1)
    kept = np.full_like(image, -1)
    whole = tuple((0, length) for length in there.shape[1:])
    box = Crop(step.reach(whole, shape))
    box.cut(kept)[...] = box.cut(image)
    np.testing.assert_array_equal(back, kept)


@given(st.data(), LENGTHS)
@few
def test_a_simpler_chain_does_the_same(data, shape):
    chain, before = [], shape
    for _ in range(data.draw(st.integers(0, 4))):
        chain.append(data.draw(st.one_of(crops(before), crops(before), orients())))
        before = chain[-1].shape_after(before)
    slow = fast = coordinates(shape)
    for step in chain:
        slow = step.apply(slow, resample_values)
    for step in simplify(chain, shape) if slow.any() else chain:
        fast = step.apply(fast, resample_values)
    np.testing.assert_array_equal(fast, slow)


def test_two_crops_are_one_only_where_nothing_cut_off_comes_back():
    shape = (8, 8, 8)
    first, second = Crop(((2, 6),) * 3), Crop(((1, 3),) * 3)
    assert simplify((first, second), shape) == (Crop(((3, 5),) * 3),)
    padded = (first, Crop(((-1, 5),) * 3))
    assert simplify(padded, shape) == padded
    assert simplify((first, first.inverse(shape)), shape) == (first, first.inverse(shape))


def test_steps_that_change_nothing_are_dropped():
    shape = (4, 5, 6)
    whole = Crop(((0, 4), (0, 5), (0, 6)))
    turn = Orient((1, 0, 2), (True, False, False))
    assert simplify((whole, Resize(shape), Orient((0, 1, 2), (False,) * 3)), shape) == ()
    assert simplify((turn, whole.inverse(shape)), shape)[0] == turn


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"must overlap .*\(4, 4, 4\); got .* Count voxels from"):
        Crop(((4, 6), (0, 4), (0, 4))).shape_after((4, 4, 4))
    with pytest.raises(ValueError, match=r"shape must be positive; got \(0, 4, 4\)"):
        Resize((0, 4, 4)).shape_after((4, 4, 4))
    with pytest.raises(ValueError, match=r"got \(0, 0, 2\)\. Try Orient\.to_ras"):
        Orient((0, 0, 2), (False,) * 3).shape_after((4, 4, 4))
    with pytest.raises(ValueError, match=r"one of crop, resize, orient; got \{'warp'"):
        step_from_dict({"warp": 3})
