"""Promise: a chain of any steps leads there and back, and its receipt and its joints hold."""

import json

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from test_grid import crops, orients, steps

from bratskit.cases import Scan
from bratskit.labels import get_schema
from bratskit.preprocess import Crop, Geometry, Orient, Resize, prepare_scan
from bratskit.preprocess.tumour import count_lost
from bratskit.settings import GeometrySettings, Recipe

few = settings(max_examples=30, derandomize=True, deadline=None)
HOW = st.sampled_from(["linear", "nearest"])


@st.composite
def affines(draw):
    """Draw an oblique, anisotropic and perhaps mirrored voxel to world matrix."""
    turn = Rotation.from_euler("xyz", [draw(st.floats(-3, 3)) for _ in range(3)]).as_matrix()
    signs = [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = turn * signs * [draw(st.floats(0.7, 3)) for _ in range(3)]
    affine[:3, 3] = [draw(st.integers(-200, 200)) for _ in range(3)]
    return affine


@st.composite
def geometries(draw, shape=None, affine=None, *, some=steps):
    """Draw a grid and up to four steps that keep something of it."""
    shape = draw(st.tuples(*[st.integers(3, 9)] * 3)) if shape is None else shape
    affine = draw(affines()) if affine is None else affine
    chain, before = [], shape
    for _ in range(draw(st.integers(0, 4))):
        chain.append(draw(some(before)))
        before = chain[-1].shape_after(before)
    rows = tuple(tuple(row) for row in affine.tolist())
    try:
        return Geometry(native_shape=shape, native_affine=rows, steps=tuple(chain))
    except ValueError as error:  # one crop kept just what another cut off
        if "must keep some of" not in str(error):
            raise
        return Geometry(native_shape=shape, native_affine=rows)


@pytest.fixture
def make_scan(rng):
    """Return a function that draws a scan whose brain is a box off the centre of its grid."""

    def make(shape):
        image, inside = (
            np.zeros((4, *shape), np.float32),
            (slice(2, -4), slice(1, -5), slice(3, -1)),
        )
        image[(slice(None), *inside)] = rng.uniform(9, 99, size=image[(slice(None), *inside)].shape)
        return Scan(
            id="Hand",
            image=image,
            labels=draw_labels(shape, 0) * (image[0] > 0),
            affine=np.eye(4),
            schema=get_schema("brats2017-2021"),
            header=nib.Nifti1Header(),
            disk_affine=np.eye(4),
        )

    return make


def exact(shape):
    return st.one_of(crops(shape), orients())


def draw_labels(shape, seed):
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def draw_probs(shape, seed):
    probs = np.random.default_rng(seed).dirichlet(np.ones(4), shape)
    return np.ascontiguousarray(np.moveaxis(probs, -1, 0), dtype=np.float32)


@given(geometries())
@few
def test_the_receipt_survives_json(geometry):
    receipt = json.loads(json.dumps(geometry.to_dict()))
    assert Geometry.from_dict(receipt) == geometry
    assert tuple(receipt["shape"]) == geometry.shape


@given(st.data(), geometries(), st.integers(0, 99), HOW)
@few
def test_two_geometries_are_one_after_the_other(data, first, seed, how):
    second = data.draw(geometries(first.shape, first.affine))
    try:
        both = first.then(second)
    except ValueError as error:  # the second keeps nothing but the padding of the first
        if "must keep some" not in str(error) and "must overlap" not in str(error):
            raise
        return
    image = np.random.default_rng(seed).normal(size=(2, *first.native_shape)).astype(np.float32)
    labels, probs = draw_labels(first.native_shape, seed), draw_probs(second.shape, seed)
    prepared, mask = draw_labels(second.shape, seed), image[0] > 0
    equal = np.testing.assert_array_equal
    equal(both.apply_image(image), second.apply_image(first.apply_image(image)))
    equal(both.apply_mask(mask), second.apply_mask(first.apply_mask(mask)))
    there = second.apply_labels(first.apply_labels(labels, how=how), how=how)
    equal(both.apply_labels(labels, how=how), there)
    back = first.invert_labels(second.invert_labels(prepared, how=how), how=how)
    equal(both.invert_labels(prepared, how=how), back)
    equal(both.invert(probs), first.invert(second.invert(probs)))
    equal(both.invert_image(probs), first.invert_image(second.invert_image(probs)))
    np.testing.assert_allclose(both.affine, second.affine, atol=1e-9)
    assert Geometry.from_dict(json.loads(json.dumps(both.to_dict()))) == both


@given(geometries(), st.integers(0, 99))
@few
def test_a_reader_that_crops_first_gets_the_same(geometry, seed):
    image = np.random.default_rng(seed).normal(size=(2, *geometry.native_shape)).astype(np.float32)
    whole = geometry.apply_image(image)
    assert whole.flags.c_contiguous
    inner = geometry.after_crop(geometry.box)
    np.testing.assert_array_equal(inner.apply_image(geometry.crop(image)), whole)
    np.testing.assert_allclose(inner.affine, geometry.affine)


@given(st.data(), geometries(), st.integers(0, 99))
@few
def test_what_is_zero_outside_a_box_need_not_be_put_back(data, geometry, seed):
    box = data.draw(crops(geometry.native_shape))
    whole = tuple((0, length) for length in geometry.native_shape)
    box = Crop(Crop(box.box).reach(tuple((0, b - a) for a, b in box.box), geometry.native_shape))
    image = np.zeros((1, *geometry.native_shape), np.float32)
    inside = box.cut(image)
    inside[...] = np.random.default_rng(seed).normal(size=inside.shape)
    try:
        inner = geometry.after_crop(box.box)
    except ValueError:
        assert not geometry.apply_image(image).any()
        return
    np.testing.assert_array_equal(inner.apply_image(inside), geometry.apply_image(image))
    assert geometry.after_crop(whole).apply_image(image).shape == (1, *geometry.shape)


@given(geometries(some=exact), st.integers(0, 99))
@few
def test_without_resampling_what_is_kept_comes_back_voxel_for_voxel(geometry, seed):
    labels = draw_labels(geometry.native_shape, seed)
    expected = np.zeros_like(labels)
    Crop(geometry.kept).cut(expected)[...] = Crop(geometry.kept).cut(labels)
    assert not geometry.is_resampling
    assert geometry.kept == geometry.box
    prepared = geometry.apply_labels(labels)
    one_hot = (prepared == np.arange(4).reshape(4, 1, 1, 1)).astype(np.float32)
    for back in (geometry.round_trip(labels), geometry.invert_to_labels(one_hot)):
        np.testing.assert_array_equal(back, expected)
    image = labels[None].astype(np.float32)
    np.testing.assert_array_equal(geometry.invert_image(geometry.apply_image(image))[0], expected)
    lost = np.bincount(labels.ravel(), minlength=4) - np.bincount(expected.ravel(), minlength=4)
    assert list(count_lost(labels, geometry).values()) == lost[1:].tolist()


@given(geometries(), st.integers(0, 99))
@few
def test_probabilities_stay_probabilities(geometry, seed):
    probs = draw_probs(geometry.shape, seed)
    native = geometry.invert(probs)
    np.testing.assert_allclose(native.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(geometry.invert_to_labels(probs), native.argmax(axis=0))
    outside = np.ones(geometry.native_shape, bool)
    geometry.crop(outside)[...] = False
    assert (native[0][outside] == 1).all()


@given(geometries(some=exact))
@few
def test_each_prepared_voxel_lies_where_its_affine_says(geometry):
    voxels = np.moveaxis(np.indices(geometry.native_shape), 0, -1)
    native = np.array(geometry.native_affine)
    world = np.moveaxis(voxels @ native[:3, :3].T + native[:3, 3], -1, 0).astype(np.float32)
    there, reached = (
        geometry.apply_image(world),
        geometry.apply_mask(np.ones(voxels.shape[:3], bool)),
    )
    for voxel in np.argwhere(reached):
        expected = (geometry.affine @ [*voxel, 1])[:3]
        np.testing.assert_allclose(there[(slice(None), *voxel)], expected, atol=1e-3)


def test_a_turn_a_crop_a_resample_and_padding_keep_a_ramp_in_mm():
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [0.2, -0.1, 2.8]).as_matrix() * [1.3, -0.9, 3]
    disk = Geometry.orient((13, 11, 9), affine)
    wanted = GeometrySettings(region="grid", spacing_mm=(1.1, 1.4, 2.0), crop_vox=(16, 16, 16))
    plan = Geometry.plan(np.ones(disk.shape, bool), wanted, affine=disk.affine)
    geometry = disk.then(plan)
    assert [type(step) for step in geometry.steps] == [Orient, Resize, Crop]
    voxels = np.moveaxis(np.indices((13, 11, 9)), 0, -1)
    ramp = (voxels @ affine[:3, :3].T).sum(axis=-1)[None].astype(np.float32)
    there = geometry.apply_image(ramp)[0]
    found = np.moveaxis(np.indices(geometry.shape), 0, -1) @ geometry.affine[:3, :3].T
    found = (found + geometry.affine[:3, 3]).sum(axis=-1)
    reached = geometry.apply_mask(np.ones((13, 11, 9), bool))
    inner = np.roll(reached, 1, 0) & np.roll(reached, -1, 0) & np.roll(reached, 1, 1)
    inner &= np.roll(reached, -1, 1) & np.roll(reached, 1, 2) & np.roll(reached, -1, 2)
    assert inner.sum() > 500
    assert (there[~reached] == 0).all()
    np.testing.assert_allclose(there[inner], found[inner], atol=1e-4)


def test_the_middle_of_a_resampled_grid_says_what_it_keeps():
    wanted = GeometrySettings(region="grid", spacing_mm=(2, 2, 2), crop_vox=(16, 16, 16))
    geometry = Geometry.plan(np.ones((40, 40, 30), bool), wanted, affine=np.eye(4))
    assert geometry.box == ((0, 40), (0, 40), (0, 30))  # every voxel is read, to resample
    assert geometry.kept == ((4, 36), (4, 36), (0, 30))
    labels = np.zeros((40, 40, 30), np.uint8)
    labels[:8, 5, 5], labels[20, 20, 20] = 2, 3
    assert count_lost(labels, geometry) == {"NCR": 0, "ED": 4, "ET": 0}
    reached = geometry.round_trip(np.ones_like(labels), how="nearest")
    assert np.argwhere(reached).min(axis=0).tolist() == [4, 4, 0]
    assert np.argwhere(reached).max(axis=0).tolist() == [35, 35, 29]


def test_a_centre_crop_moves_no_statistics(make_scan):
    scan = make_scan((40, 24, 18))
    whole = Recipe(name="a", geometry=GeometrySettings(region="grid"))
    middle = Recipe(name="b", geometry=GeometrySettings(region="grid", crop_vox=(20, 16, 32)))
    big, small = prepare_scan(scan, whole), prepare_scan(scan, middle)
    assert small.image.shape == (4, 20, 16, 32)
    np.testing.assert_array_equal(small.image[..., 7:25], big.image[:, 10:30, 4:20])
    np.testing.assert_array_equal(small.labels[..., 7:25], scan.labels[10:30, 4:20])
    assert not small.image[..., :7].any()
    assert not small.mask[..., 25:].any()
    assert (big.image[:, scan.image[0] == 0] == 0).all()


def test_padding_a_small_brain_box_reads_no_voxel_off_it(make_scan):
    scan = make_scan((24, 24, 24))
    recipe = Recipe(name="a", geometry=GeometrySettings(crop_vox=(32, 16, 32)))
    prepared = prepare_scan(scan, recipe)
    assert prepared.image.shape == (4, 32, 16, 32)
    inside = prepared.geometry.invert_labels(prepared.mask)
    kept = np.zeros_like(inside)
    cut = Crop(prepared.geometry.kept)
    cut.cut(kept)[...] = cut.cut(scan.image[0] != 0)
    np.testing.assert_array_equal(inside, kept)


def test_refusals_say_what_to_do():
    corner = np.zeros((60, 60, 60), bool)
    corner[:5, :5, :5] = True
    wanted = GeometrySettings(region="grid", crop_vox=(16, 16, 16))
    with pytest.raises(
        ValueError, match=r"keeps .*\(22, 38\).* the brain is at \(\(0, 5\).*region="
    ):
        Geometry.plan(corner, wanted, affine=np.eye(4))
    grid = Geometry.plan(np.ones((16, 16, 16), bool), GeometrySettings(), affine=np.eye(4))
    moved = Geometry.plan(np.ones((16, 16, 16), bool), GeometrySettings(), affine=np.eye(4) * 2)
    with pytest.raises(ValueError, match=r"25\.98 mm away\. Plan it with affine=geometry\.affine"):
        grid.then(moved)
    with pytest.raises(ValueError, match=r"must hold \['steps'\].*bratskit prepare"):
        Geometry.from_dict({"native_shape": 1, "native_affine": 1, "box": 1, "shape": 1})
    steps = (Crop(((0, 2), (0, 4), (0, 4))), Crop(((-2, 2), (0, 4), (0, 4))), Crop(((0, 2),) * 3))
    rows = tuple(map(tuple, np.eye(4).tolist()))
    with pytest.raises(ValueError, match=r"must keep some of native_shape \(4, 4, 4\)"):
        Geometry(native_shape=(4, 4, 4), native_affine=rows, steps=steps)
