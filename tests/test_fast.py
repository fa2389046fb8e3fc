"""Promise: loading straight into the prepared form gives what loading, then preparing, gives."""

import dataclasses
import struct

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.cases import find_cases, load_scan
from bratskit.cases.memory import extent, forwards
from bratskit.preprocess import load_prepared, prepare_scan
from bratskit.settings import GeometrySettings, Recipe

SHAPE = (24, 28, 20)
ROUNDING = 4e-6  # of float32, on z-scores up to about ten
NATIVE = Recipe(name="test")


def recipe(*, normalise="zscore", modalities=NATIVE.modalities, **geometry):
    grid = GeometrySettings(**geometry)
    return Recipe(name="test", normalise=normalise, modalities=modalities, geometry=grid)


def assert_same(case, wanted=NATIVE, **settings):
    """Compare both ways through one case."""
    fast, slow = load_prepared(case, wanted, **settings), prepare_scan(load_scan(case), wanted)
    np.testing.assert_allclose(fast.image, slow.image, rtol=0, atol=ROUNDING)
    np.testing.assert_array_equal(fast.labels, slow.labels)
    np.testing.assert_array_equal(fast.mask, slow.mask)
    assert (fast.id, fast.geometry, fast.modalities) == (slow.id, slow.geometry, slow.modalities)
    assert fast.lost_vox == slow.lost_vox
    assert fast.image.dtype == np.float32
    return fast


def scale(path, slope, inter=0.0):
    """Declare a scale in the header of a `.nii`, its stored values untouched."""
    raw = bytearray(path.read_bytes())
    raw[112:120] = struct.pack("<ff", slope, inter)  # scl_slope and scl_inter, NIfTI-1 standard
    path.write_bytes(raw)


@pytest.fixture
def case(write_case, tmp_path):
    return write_case(tmp_path, shape=SHAPE, suffix=".nii")


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", ">i2", ">f4"])
def test_every_type_of_file_gives_the_same_numbers(case, dtype):
    kind = np.dtype(dtype)
    for path in case.paths.values():
        file = nib.load(path)
        values = np.asarray(file.dataobj).copy() // 4
        values = values - 30 * (values > 0) if kind.kind == "i" else values
        header = file.header.as_byteswapped(">") if kind.byteorder == ">" else None
        nib.save(nib.Nifti1Image(values.astype(kind), file.affine, header, dtype=kind), path)
        assert nib.load(path).header.get_data_dtype() == kind
    assert_same(case)


# Not scaled, as BraTS's own; as in shared/data; a factor that turns the brain upside down; real
# zeros elsewhere than stored ones; the standard's two ways to say that nothing is scaled.
@pytest.mark.parametrize(
    ("slope", "inter"),
    [(0, 0), (14.5669, 0), (-2.5, 0), (1, 100), (0.5, -64), (np.nan, 0)],
)
@pytest.mark.parametrize("how", ["zscore", "minmax"])
def test_a_scale_in_the_header_gives_the_same_numbers(case, slope, inter, how):
    for path in case.paths.values():
        scale(path, slope, inter)
    assert_same(case, recipe(normalise=how))


def test_one_modality_with_an_offset_counts_as_brain_everywhere(case):
    scale(case.paths["t1ce"], 1, 7)
    assert assert_same(case).geometry.shape == SHAPE


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, 1, 1), (1, -1, -1)])
def test_any_orientation_on_disk_gives_the_same_numbers(write_case, tmp_path, axes, signs):
    affine = np.eye(4)
    affine[:3, :3] = np.diag(signs)[list(axes)]
    fast = assert_same(write_case(tmp_path, shape=SHAPE, affine=affine))
    assert fast.image.flags.c_contiguous


@pytest.mark.parametrize(
    "wanted",
    [
        recipe(size_vox=(16, 18, 20)),
        recipe(spacing_mm=(2, 2, 2)),
        recipe(crop_vox=(16, 16, 16)),
        recipe(crop_vox=(32, 16, 32), spacing_mm=(0.8, 1, 1.2)),
        recipe(region="grid"),
        recipe(modalities=("t2", "flair")),
        recipe(normalise="minmax", size_vox=(16, 16, 16)),
    ],
)
def test_every_kind_of_grid_goes_through_the_same_door(case, wanted):
    assert_same(case, wanted)


def test_a_missing_slab_and_an_empty_modality_are_zero_there(case):
    for name, keep in (("flair", slice(12, None)), ("t2", slice(0, 0))):
        file = nib.load(case.paths[name])
        values = np.zeros_like(np.asarray(file.dataobj).copy())
        values[:, :, keep] = np.asarray(file.dataobj).copy()[:, :, keep]
        nib.save(nib.Nifti1Image(values, file.affine), case.paths[name])
    fast = assert_same(case)
    assert not fast.image[3].any()
    assert not fast.image[0, :, :, :5].any()
    assert fast.image[0].any()


def test_the_number_of_threads_changes_nothing(case):
    one = load_prepared(case, NATIVE, threads=1)
    np.testing.assert_array_equal(one.image, load_prepared(case, NATIVE, threads=4).image)


def test_a_case_without_a_mask_has_no_labels(write_case, tmp_path):
    case = write_case(tmp_path, shape=SHAPE, labels=None)
    assert load_prepared(case, NATIVE).labels is None


def truncate(case):
    case.paths["t1"].write_bytes(case.paths["t1"].read_bytes()[:-500])


def spoil(case):
    file = nib.load(case.paths["t2"])
    values = np.asarray(file.dataobj).astype(np.float32)
    values[10, 10, 10] = np.nan
    nib.save(nib.Nifti1Image(values, file.affine), case.paths["t2"])


def shift(case):
    file = nib.load(case.paths["t1ce"])
    nib.save(
        nib.Nifti1Image(np.asarray(file.dataobj).copy(), file.affine + 3 * np.eye(4, k=3)),
        case.paths["t1ce"],
    )


def empty(case):
    for path in case.paths.values():
        nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), nib.load(path).affine), path)


def mislabel(case):
    file = nib.load(case.labels_path)
    nib.save(nib.Nifti1Image(np.full(SHAPE, 9, np.uint8), file.affine), case.labels_path)


def overflow(case):
    scale(case.paths["flair"], 1e37)


@pytest.mark.parametrize("damage", [truncate, spoil, shift, empty, mislabel, overflow])
def test_it_refuses_what_loading_refuses_in_the_same_words(case, damage):
    damage(case)
    with pytest.raises(ValueError, match=case.id) as slow:
        prepare_scan(load_scan(case), NATIVE)
    with pytest.raises(ValueError, match=case.id) as fast:
        load_prepared(case, NATIVE)
    assert str(fast.value) == str(slow.value)


def test_a_modality_that_is_not_there_is_refused_by_name(case):
    paths = {name: path for name, path in case.paths.items() if name != "t2"}
    with pytest.raises(ValueError, match="got none for t2"):
        load_prepared(dataclasses.replace(case, paths=paths), NATIVE)


@given(
    st.lists(st.tuples(*[st.integers(0, 5)] * 3), max_size=4),
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_the_extent_is_that_of_the_voxels_in_any_memory_order(voxels, axes, signs):
    array = np.zeros((6, 6, 6), np.int16)
    for voxel in voxels:
        array[voxel] = -1
    view = array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    found = np.nonzero(view)
    expected = tuple((int(at.min()), int(at.max()) + 1) for at in found) if voxels else None
    assert extent(view) == expected
    assert all(stride > 0 for stride in view[forwards(view)].strides)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case_id", ["BraTS2021_00000", "BraTS2021_01482", "BraTS2021_00006", "Brats18_2013_20_1"]
)
def test_real_cases_give_the_same_numbers(real_cases, case_id):
    case = next(case for case in find_cases(real_cases) if case.id == case_id)
    assert_same(case)
    assert_same(case, recipe(size_vox=(128, 128, 128)))
