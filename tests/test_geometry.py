"""Promise: what goes to the prepared grid comes back to the right voxel, exactly where it can."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bratskit.preprocess import Geometry
from bratskit.settings import GeometrySettings

NATIVE = GeometrySettings(spacing_mm=None)
few = settings(max_examples=25, derandomize=True, deadline=None)


def box_mask(shape, box):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(*ends) for ends in box)] = True
    return mask


def plan(shape, box, spacing_native_mm=(1, 1, 1), wanted=NATIVE):
    return Geometry.plan(box_mask(shape, box), wanted, affine=np.diag([*spacing_native_mm, 1]))


@st.composite
def native_grids(draw):
    """Draw a grid of odd and even sizes, a box in it and an anisotropic spacing."""
    shape = tuple(draw(st.integers(5, 14)) for _ in range(3))
    box = []
    for length in shape:
        start = draw(st.integers(0, length - 2))
        box.append((start, draw(st.integers(start + 1, length))))
    spacing_mm = tuple(draw(st.sampled_from([0.9, 1.0, 1.3, 3.0])) for _ in range(3))
    return shape, tuple(box), spacing_mm


def test_spacing_is_what_is_and_not_what_was_asked_for():
    geometry = plan((20, 20, 20), ((2, 12), (0, 11), (5, 20)), (1, 1, 3), GeometrySettings())
    assert geometry.shape == (10, 11, 45)
    halved = plan((20,) * 3, ((2, 12), (0, 11), (5, 20)), (1, 1, 3), _at_mm(2))
    assert halved.shape == (5, 6, 22)
    assert halved.spacing_mm == pytest.approx((2, 11 / 6, 45 / 22))


def _at_mm(length):
    return GeometrySettings(spacing_mm=(length,) * 3)


@pytest.mark.parametrize("native_mm", [1.0, 0.99999994, 1.002])
def test_data_at_the_wanted_spacing_passes_bit_for_bit(rng, native_mm):
    geometry = plan((200, 9, 9), ((0, 200), (1, 8), (2, 9)), (native_mm,) * 3, _at_mm(1))
    image = rng.normal(size=(2, 200, 9, 9)).astype(np.float32)
    assert not geometry.is_resampling
    np.testing.assert_array_equal(geometry.apply_image(image), image[:, :, 1:8, 2:9])


def test_a_finer_spacing_than_the_wanted_one_is_not_taken_for_it():
    assert plan((200, 9, 9), ((0, 200), (1, 8), (2, 9)), (0.9, 1, 1), _at_mm(1)).shape[0] == 180


def test_spacing_is_decided_from_an_oblique_flipped_affine():
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, -1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.3, 0.9, 3])
    geometry = Geometry.plan(np.ones((10, 10, 10), bool), GeometrySettings(), affine=affine)
    assert geometry.spacing_native_mm == pytest.approx((1.3, 0.9, 3))
    assert geometry.shape == (13, 9, 30)


def test_size_has_the_last_word_over_spacing():
    wanted = GeometrySettings(spacing_mm=(1, 1, 1), size_vox=(16, 17, 18))
    geometry = plan((30, 30, 30), ((0, 24), (3, 30), (1, 29)), (1, 1, 2), wanted)
    assert geometry.shape == (16, 17, 18)
    assert geometry.spacing_mm == pytest.approx((24 / 16, 27 / 17, 56 / 18))


def test_two_voxels_become_their_mean():
    geometry = plan((4, 2, 2), ((0, 4), (0, 2), (0, 2)), wanted=_at_mm(2))
    image = np.repeat(np.array([1, 3, 10, 20], np.float32), 4).reshape(1, 4, 2, 2)
    assert geometry.apply_image(image).ravel().tolist() == [2.0, 15.0]


def test_trilinear_agrees_with_scipy_at_voxel_centres(rng):
    geometry = plan((9, 12, 7), ((1, 9), (0, 11), (2, 7)), (1.3, 0.9, 3), _at_mm(1.1))
    image = rng.normal(size=(1, 9, 12, 7)).astype(np.float32)
    centres = [
        start + (np.arange(n) + 0.5) * (stop - start) / n - 0.5
        for (start, stop), n in zip(geometry.box, geometry.shape, strict=True)
    ]
    box = geometry.crop(image)[0]
    grid = np.meshgrid(*centres, indexing="ij")
    local = [axis - start for axis, (start, _) in zip(grid, geometry.box, strict=True)]
    second = ndimage.map_coordinates(box, local, order=1, mode="nearest")
    np.testing.assert_allclose(geometry.apply_image(image)[0], second, atol=1e-5)


def test_a_ramp_in_mm_stays_a_ramp_in_mm():
    geometry = plan((12, 12, 12), ((1, 11), (2, 12), (0, 12)), (1.3, 0.9, 3), _at_mm(1.7))
    native = np.moveaxis(np.indices((12, 12, 12)), 0, -1) * np.array([1.3, 0.9, 3])
    ramp = native.sum(axis=-1)[None].astype(np.float32)
    voxels = np.moveaxis(np.indices(geometry.shape), 0, -1)
    world = voxels @ geometry.affine[:3, :3].T + geometry.affine[:3, 3]
    inner = (slice(1, -1),) * 3  # the outermost half voxel is held constant
    got = geometry.apply_image(ramp)[0]
    np.testing.assert_allclose(got[inner], world.sum(axis=-1)[inner], rtol=1e-5)


@given(native_grids(), st.integers(0, 99))
@few
def test_labels_come_back_voxel_for_voxel_without_resampling(grid, seed):
    shape, box, spacing_mm = grid
    labels = np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)
    labels *= box_mask(shape, box)
    geometry = plan(shape, box, spacing_mm)
    prepared = geometry.apply_labels(labels)
    probs = (prepared == np.arange(4).reshape(4, 1, 1, 1)).astype(np.float32)
    for back in (geometry.invert_labels(prepared), geometry.invert_to_labels(probs)):
        np.testing.assert_array_equal(back, labels)
    assert geometry.invert(probs).sum(axis=0).tolist() == np.ones(shape).tolist()


@given(native_grids(), st.integers(0, 99), st.sampled_from([0.7, 1.0, 2.0]))
@few
def test_fast_labels_equal_argmax_of_inverted_probabilities(grid, seed, length_mm):
    geometry = plan(*grid, _at_mm(length_mm))
    probs = np.random.default_rng(seed).dirichlet(np.ones(4), geometry.shape)
    probs = np.moveaxis(probs, -1, 0).astype(np.float32)
    native = geometry.invert(probs)
    np.testing.assert_array_equal(geometry.invert_to_labels(probs), native.argmax(axis=0))
    np.testing.assert_allclose(native.sum(axis=0), 1, atol=1e-5)
    outside = ~box_mask(geometry.native_shape, geometry.box)
    assert (native[0][outside] == 1).all()


@given(native_grids(), st.sampled_from([0.7, 1.0, 2.0]))
@few
def test_a_constant_image_stays_constant_both_ways(grid, length_mm):
    geometry = plan(*grid, _at_mm(length_mm))
    image = np.full((1, *geometry.native_shape), 7, np.float32)
    there = geometry.apply_image(image)
    np.testing.assert_allclose(there, 7, rtol=1e-6)
    np.testing.assert_allclose(geometry.crop(geometry.invert(there)), 7, rtol=1e-6)


@given(native_grids(), st.sampled_from([0.7, 1.0, 2.0]))
@few
def test_the_receipt_survives_json(grid, length_mm):
    geometry = plan(*grid, _at_mm(length_mm))
    assert Geometry.from_dict(json.loads(json.dumps(geometry.to_dict()))) == geometry


def test_nearest_takes_the_voxel_under_the_new_centre():
    geometry = plan((3, 3, 4), ((0, 3), (0, 3), (0, 4)), wanted=_at_mm(1.5))
    labels = np.zeros((3, 3, 4), np.uint8)
    labels[0], labels[1], labels[2] = 1, 2, 3  # new centres at 0.25 and 1.75 of 0, 1, 2
    assert geometry.apply_labels(labels, how="nearest")[:, 0, 0].tolist() == [1, 3]
    back = geometry.round_trip(labels, how="nearest")
    assert back[:, 0, 0].tolist() == [1, 3, 3]


def test_an_asymmetric_marker_keeps_its_corner():
    geometry = plan((16, 12, 20), ((2, 14), (1, 11), (4, 18)), wanted=_at_mm(2))
    labels = np.zeros((16, 12, 20), np.uint8)
    labels[2:4, 1:5, 14:18] = 3
    prepared = geometry.apply_labels(labels)
    assert np.argwhere(prepared == 3).tolist() == [[0, j, k] for j in (0, 1) for k in (5, 6)]
    assert set(np.unique(prepared)) == {0, 3}


def test_labels_are_never_blended_into_a_third_one():
    geometry = plan((12, 4, 4), ((0, 12), (0, 4), (0, 4)), wanted=_at_mm(1.5))
    labels = np.repeat(np.array([1] * 6 + [3] * 6, np.uint8), 16).reshape(12, 4, 4)
    for how in ("linear", "nearest"):
        prepared = geometry.apply_labels(labels, how=how)
        assert set(np.unique(prepared)) == {1, 3}
        assert set(np.unique(geometry.invert_labels(prepared, how=how))) == {1, 3}


def test_a_tie_goes_to_the_larger_label():
    geometry = plan((2, 2, 2), ((0, 2),) * 3, wanted=_at_mm(2))
    labels = np.array([0, 0, 0, 0, 3, 3, 3, 3], np.uint8).reshape(2, 2, 2)
    assert geometry.apply_labels(labels).item() == 3


def test_a_read_only_half_precision_volume_is_taken(rng):
    geometry = plan((6, 6, 6), ((0, 6), (1, 6), (2, 6)), wanted=_at_mm(2))
    probs = rng.random((4, *geometry.shape)).astype(np.float16)
    probs.flags.writeable = False
    assert geometry.invert_to_labels(probs).shape == (6, 6, 6)


def test_another_scans_array_is_refused():
    geometry = plan((6, 6, 6), ((0, 6), (1, 6), (2, 6)))
    with pytest.raises(ValueError, match=r"native_shape \(6, 6, 6\); got \(1, 6, 6, 7\)"):
        geometry.apply_image(np.zeros((1, 6, 6, 7), np.float32))
    with pytest.raises(ValueError, match="planned for this very scan"):
        geometry.invert(np.zeros((4, 6, 6, 6), np.float32))


def test_a_mask_without_an_affine_is_refused():
    with pytest.raises(ValueError, match=r"Pass affine=scan\.affine"):
        Geometry.plan(np.ones((3, 3, 3), bool), NATIVE)


def test_an_empty_brain_is_refused():
    with pytest.raises(ValueError, match="must hold a brain"):
        plan((3, 3, 3), ((0, 0), (0, 0), (0, 0)))
