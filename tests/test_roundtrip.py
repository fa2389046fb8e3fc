"""Promise: a mask goes file -> prepared grid -> file and comes back on the very same grid.

Voxel for voxel where nothing is resampled, at the reported ceiling otherwise; every header field
is the original's; and nibabel, SimpleITK and we see the same voxels at the same place.
"""

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody uses
from hypothesis import given, settings
from hypothesis import strategies as st
from test_chain import affines

from bratskit.cases import Case, find_cases, load_labels, load_scan, write_labels
from bratskit.evaluate import ceiling, dice
from bratskit.labels import MODALITIES, REGIONS, get_schema
from bratskit.preprocess import Crop, Geometry, prepare_scan
from bratskit.preprocess.tumour import count_lost
from bratskit.settings import GeometrySettings, Recipe, get_recipe

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # SimpleITK's world against NIfTI's
SCHEMA = get_schema("brats2017-2021")
GRIDS = {
    "native": GeometrySettings(spacing_mm=None),
    "1 mm": GeometrySettings(),
    "2 mm": GeometrySettings(spacing_mm=(2, 2, 2)),
    "resized": GeometrySettings(size_vox=(24, 17, 20)),
    "middle": GeometrySettings(spacing_mm=None, region="grid", crop_vox=(18, 24, 16)),
    "1 mm middle": GeometrySettings(region="grid", crop_vox=(32, 32, 32)),
}
# The fields of a written mask that need not be the original's, and why.
MAY_DIFFER = {
    "vox_offset": "header extensions are not copied",
    "scl_slope": "integers are written as they are",
    "scl_inter": "the same",
    "cal_max": "the display window of other voxels",
    "cal_min": "the same",
}
quick = settings(max_examples=20, derandomize=True, deadline=None, database=None)
thorough = settings(max_examples=600, deadline=None, database=None)


@st.composite
def files(draw):
    """Draw what a scanner and its tools may have put into one mask file."""
    return {
        "shape": tuple(draw(st.integers(9, 40)) for _ in range(3)),
        "affine": draw(affines()),
        "codes": draw(st.sampled_from([(1, 1), (2, 1), (1, 0), (0, 2), (4, 3)])),
        "units": draw(st.sampled_from([0, 2, 10])),
        "dtype": draw(st.sampled_from([np.uint8, np.int16, np.int32])),
        "endian": draw(st.sampled_from(["<", ">"])),
        "seed": draw(st.integers(0, 999)),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


def draw_tumour(shape, seed):
    """Draw a brain box and an off-centre tumour of three tissues, asymmetric along every axis."""
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 3, 3)
    high = np.array(shape) - rng.integers(0, 3, 3)
    brain, labels = np.zeros(shape, bool), np.zeros(shape, np.uint8)
    brain[tuple(map(slice, low, high))] = True
    middle = low + (high - low) * rng.uniform(0.3, 0.7, 3)
    away = np.abs(np.moveaxis(np.indices(shape), 0, -1) - middle) / (high - low)
    for value, reach in ((2, 0.3), (4, 0.2), (1, 0.1)):
        labels[(away * [1.0, 1.3, 0.8]).max(axis=-1) < reach] = value
    labels[tuple(low)] = 4  # one voxel in one corner of the brain
    return brain, np.where(brain, labels, 0).astype(np.uint8)


def write_case(folder, file):
    """Write one mask and one image that serves as all four modalities."""
    brain, labels = draw_tumour(file["shape"], file["seed"])
    header = nib.Nifti1Header(endianness=file["endian"])
    header.set_data_dtype(file["dtype"])
    mask = nib.Nifti1Image(labels, None, header)
    mask.set_qform(file["affine"], file["codes"][0])
    mask.set_sform(file["affine"], file["codes"][1])
    mask.header["xyzt_units"] = file["units"]
    mask.header["descrip"], mask.header["aux_file"] = b"drawn by hand", b"none"
    mask.header["intent_name"], mask.header["toffset"] = b"label", 2.5
    mask.header["pixdim"][4] = 0
    nib.save(mask, folder / "pat_seg.nii.gz")
    rng = np.random.default_rng(file["seed"])
    image = np.where(brain, rng.integers(50, 900, brain.shape), 0).astype(np.int16)
    header = mask.header.copy()
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(image, None, header), folder / "pat_t1.nii.gz")
    paths = dict.fromkeys(MODALITIES, folder / "pat_t1.nii.gz")
    return Case(id="pat", paths=paths, labels_path=folder / "pat_seg.nii.gz", schema=SCHEMA)


def go_there_and_back(folder, file, wanted):
    """Return the scan, its geometry and the file that a network without a mistake would write."""
    scan = load_scan(write_case(folder, file))
    prepared = prepare_scan(scan, Recipe(name="test", geometry=wanted))
    back = prepared.geometry.invert_labels(prepared.labels)
    return scan, prepared.geometry, write_labels(back, folder / "out.nii.gz", like=scan)


def check_voxels(scan, geometry, original, written):
    truth, pred = (np.asarray(nib.load(path).dataobj) for path in (original, written))
    back = load_labels(written, schema=SCHEMA)[0]
    if not geometry.is_resampling and sum(count_lost(scan.labels, geometry).values()) == 0:
        np.testing.assert_array_equal(pred, truth)
        return
    np.testing.assert_array_equal(back, geometry.round_trip(scan.labels))
    reported = ceiling(scan.labels, geometry.round_trip, spacing_mm=scan.spacing_mm)
    for region, members in REGIONS.items():
        (row,) = reported.scores.pick(kind="region", name=region)
        masks = (np.isin(labels, members) for labels in (back, scan.labels))
        assert dice(*masks, when_both_empty="one") == row.dice
    if not geometry.is_resampling:
        kept = Crop(geometry.kept)
        np.testing.assert_array_equal(kept.cut(back), kept.cut(scan.labels))


def check_header(original, written):
    old, new = (nib.load(path).header for path in (original, written))
    assert type(old) is type(new)
    for name in old.structarr.dtype.names:
        if name not in MAY_DIFFER:
            np.testing.assert_array_equal(new[name], old[name], err_msg=name)
    assert new.get_slope_inter() in ((None, None), (1, 0))


def check_simpleitk(path):
    """Compare SimpleITK's view of a file with nibabel's: voxel values, and where they lie.

    Where a file has both forms, SimpleITK may take the qform and nibabel takes the sform. Near a
    half turn the float32 quaternion of NIfTI-1 loses half its digits, so that these two differ by
    themselves, here by up to a hundredth of a millimetre: a search over many files found it.
    """
    ours, theirs = nib.load(path), sitk.ReadImage(str(path))
    array = np.asarray(ours.dataobj)
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(theirs).T, array)
    for voxel in [(0, 0, 0), tuple(n - 1 for n in array.shape), (1, 3, 2)]:
        world = LPS[:3, :3] @ theirs.TransformIndexToPhysicalPoint([int(n) for n in voxel])
        here = (ours.affine @ [*voxel, 1])[:3]
        if ours.header["qform_code"] > 0 and not np.allclose(world, here, atol=1e-3):
            by_qform = (ours.header.get_qform() @ [*voxel, 1])[:3]
            np.testing.assert_allclose(here, by_qform, atol=0.05)
            here = by_qform
        np.testing.assert_allclose(world, here, atol=1e-3)


def check_orientation(path, scan):
    """Compare our RAS+ view with nibabel's, and with the chain of steps that turns a disk grid."""
    disk = nib.load(path)
    turn = Geometry.orient(disk.shape, disk.affine)
    stored = np.asarray(disk.dataobj)
    ras = nib.as_closest_canonical(disk)
    values = SCHEMA.to_source
    lookup = np.array([values[label] for label in range(4)])
    np.testing.assert_array_equal(lookup[scan.labels], np.asarray(ras.dataobj))
    np.testing.assert_array_equal(turn.apply_labels(stored), np.asarray(ras.dataobj))
    np.testing.assert_array_equal(turn.invert_labels(turn.apply_labels(stored)), stored)
    np.testing.assert_allclose(turn.affine, scan.affine, atol=1e-9)
    np.testing.assert_allclose(ras.affine, scan.affine, atol=1e-9)


def check(folder, file, wanted):
    scan, geometry, written = go_there_and_back(folder, file, wanted)
    original = folder / "pat_seg.nii.gz"
    check_voxels(scan, geometry, original, written)
    check_header(original, written)
    check_orientation(original, scan)
    for path in (original, written):
        check_simpleitk(path)


@given(files(), st.sampled_from(sorted(GRIDS)))
@quick
def test_a_mask_comes_back_on_its_own_grid(folder, file, grid):
    check(folder, file, GRIDS[grid])


@pytest.mark.slow
@given(files(), st.sampled_from(sorted(GRIDS)))
@thorough
def test_no_file_of_many_fails_to_come_back(folder, file, grid):
    check(folder, file, GRIDS[grid])


# ----------------------------------------------------------------------------- single phantoms


def test_every_header_field_is_compared_or_excused():
    for kind in (nib.Nifti1Header, nib.Nifti2Header):
        assert set(MAY_DIFFER) <= set(kind().structarr.dtype.names)
    assert len(nib.Nifti1Header().structarr.dtype.names) == 43


PHANTOM = {
    "shape": (17, 22, 9),
    "codes": (1, 1),
    "units": 10,
    "dtype": np.uint8,
    "endian": "<",
    "seed": 5,
}


def oblique_flipped(spacing_mm):
    """Tilt a mirrored grid about two axes."""
    cos, sin = np.cos(0.3), np.sin(0.3)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-1, 1, -1]) @ np.diag(spacing_mm)
    affine[:3, 3] = (12.5, -7.25, 3.0)
    return affine


def test_an_oblique_flipped_phantom_of_1_3_by_0_9_by_3_mm_finds_its_way(tmp_path):
    file = PHANTOM | {"affine": oblique_flipped((1.3, 0.9, 3.0))}
    scan, geometry, _ = go_there_and_back(tmp_path, file, GeometrySettings())
    assert geometry.spacing_native_mm == pytest.approx((1.3, 0.9, 3.0), abs=1e-5)
    wanted = np.array(geometry.box_shape) * (1.3, 0.9, 3.0)
    assert geometry.shape == tuple(np.rint(wanted).astype(int))
    assert geometry.spacing_mm == pytest.approx((1, 1, 1), abs=0.05)
    check(tmp_path, file, GeometrySettings())
    kept = dice(geometry.round_trip(scan.labels) > 0, scan.labels > 0)
    assert kept > 0.95  # finer along I and K, a little coarser along J


@pytest.mark.parametrize("spacing_mm", [1.0, 0.99999994, 1.002])
def test_data_of_1_mm_is_handed_on_bit_for_bit_by_its_header(tmp_path, spacing_mm):
    file = PHANTOM | {"affine": oblique_flipped((spacing_mm,) * 3)}
    scan, geometry, written = go_there_and_back(tmp_path, file, GeometrySettings())
    assert not geometry.is_resampling
    cut = Crop(geometry.box).cut(scan.image)
    np.testing.assert_array_equal(geometry.apply_image(scan.image), cut)
    assert np.shares_memory(geometry.crop(scan.image), scan.image)
    original = nib.load(tmp_path / "pat_seg.nii.gz")
    np.testing.assert_array_equal(nib.load(written).dataobj, original.dataobj)


def test_image_and_labels_are_flipped_together(tmp_path):
    """A bright voxel and its label, in a corner of their own, meet on every prepared grid."""
    for signs in np.ndindex(2, 2, 2):
        affine = np.diag([*(np.array(signs) * 2 - 1), 1.0])
        case = write_case(tmp_path, PHANTOM | {"affine": affine})
        image = np.asarray(nib.load(case.paths["t1"]).dataobj).copy()
        labels = np.zeros_like(image, dtype=np.uint8)
        image[4, 17, 2], labels[4, 17, 2] = 30000, 4
        for path, array in ((case.paths["t1"], image), (case.labels_path, labels)):
            nib.save(nib.Nifti1Image(array, affine, nib.load(path).header), path)
        scan = load_scan(case)
        marker = tuple(np.argwhere(scan.labels == 3)[0])
        assert marker == tuple(
            old if sign else length - 1 - old
            for old, sign, length in zip((4, 17, 2), signs, (17, 22, 9), strict=True)
        )
        for wanted in (GRIDS["native"], GRIDS["middle"]):
            prepared = prepare_scan(scan, Recipe(name="test", geometry=wanted))
            (voxel,) = np.argwhere(prepared.labels == 3)
            assert np.unravel_index(prepared.image[0].argmax(), prepared.mask.shape) == tuple(voxel)
            back = prepared.geometry.invert_labels(prepared.labels)
            assert np.argwhere(back).tolist() == [list(marker)]


@pytest.mark.parametrize("shear", [0.0, 0.2])
def test_a_file_from_simpleitk_lies_where_simpleitk_says(tmp_path, rng, shear):
    array = rng.integers(0, 3, size=(9, 11, 10)).astype(np.uint8)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((1.3, 0.9, 3.0))
    image.SetOrigin((10.0, -20.0, 5.0))
    turn = oblique_flipped((1, 1, 1))[:3, :3] @ np.array([[1, shear, 0], [0, 1, 0], [0, 0, 1]])
    image.SetDirection(turn.ravel().tolist())
    path = str(tmp_path / "pat_seg.nii.gz")
    sitk.WriteImage(image, path)
    check_simpleitk(path)  # a shear is lost on writing, in SimpleITK's eyes as in ours
    labels, affine = load_labels(path, schema=SCHEMA)
    ras = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_array_equal(labels, np.asarray(ras.dataobj))
    np.testing.assert_allclose(affine, ras.affine, atol=1e-9)
    if not shear:
        disk = LPS @ np.vstack([np.c_[turn * image.GetSpacing(), image.GetOrigin()], [0, 0, 0, 1]])
        np.testing.assert_allclose(nib.load(path).affine, disk, atol=1e-5)


@given(affines(), st.sampled_from(["2 mm", "resized", "1 mm middle"]), st.integers(0, 99))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_simpleitk_resamples_to_the_same_values_at_the_same_place(affine, grid, seed):
    shape = (15, 18, 13)
    geometry = Geometry.plan(np.ones(shape, bool), GRIDS[grid], affine=affine)
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image = as_simpleitk(values, affine)
    like = as_simpleitk(np.zeros(geometry.shape, np.float32), geometry.affine)
    second = sitk.Resample(image, like, sitk.Transform(), sitk.sitkLinear, 0.0)
    second = sitk.GetArrayFromImage(second).T
    voxels = np.moveaxis(np.indices(geometry.shape), 0, -1) @ geometry.affine[:3, :3].T
    native = np.linalg.inv(affine)
    at = (voxels + geometry.affine[:3, 3]) @ native[:3, :3].T + native[:3, 3]
    inner = ((at > 1e-3) & (at < np.array(shape) - 1.001)).all(axis=-1)  # outer half voxels clamp
    assert inner.mean() > 0.03
    np.testing.assert_allclose(
        geometry.apply_image(values[None])[0][inner], second[inner], atol=1e-4
    )


def as_simpleitk(array, affine):
    image = sitk.GetImageFromArray(array.T)
    lps = LPS @ affine
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing_mm.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing_mm).ravel().tolist())
    return image


def test_a_sheared_sform_keeps_its_shear_and_its_qform(tmp_path):
    sheared = oblique_flipped((1.3, 0.9, 3.0))
    sheared[:3, 1] += 0.2 * sheared[:3, 0]
    file = PHANTOM | {"affine": sheared}
    scan, geometry, written = go_there_and_back(tmp_path, file, GRIDS["native"])
    check_voxels(scan, geometry, tmp_path / "pat_seg.nii.gz", written)
    check_header(tmp_path / "pat_seg.nii.gz", written)
    check_orientation(tmp_path / "pat_seg.nii.gz", scan)


@pytest.mark.slow
def test_real_masks_come_back_voxel_for_voxel(real_cases, tmp_path):
    for case in find_cases(real_cases, schema=SCHEMA)[::6]:
        scan = load_scan(case)
        geometry = Geometry.plan(scan, GeometrySettings())
        path = write_labels(geometry.round_trip(scan.labels), tmp_path / "out.nii.gz", like=scan)
        check_header(case.labels_path, path)
        check_simpleitk(path)
        np.testing.assert_array_equal(
            nib.load(path).dataobj, np.asarray(nib.load(case.labels_path).dataobj)
        )


@pytest.mark.slow
def test_the_reference_formats_of_a_real_case_say_what_they_lose(real_cases):
    scan = load_scan(find_cases(real_cases, schema=SCHEMA)[0])
    for name in ("unet-a", "unet-b", "unet-c", "unet-d", "unet-e"):
        prepared = prepare_scan(scan, get_recipe(name))
        geometry = prepared.geometry
        assert len(prepared.image) == (3 if name == "unet-d" else 4)
        if name in ("unet-a", "unet-d", "unet-e"):
            assert prepared.image.shape[1:] == (128, 128, 128)
        if name == "unet-d":
            assert (prepared.image.min(), prepared.image.max()) == (0, 1)
        assert geometry.is_resampling == (name == "unet-a")
        if name != "unet-a":
            differs = geometry.round_trip(scan.labels) != scan.labels
            assert differs.sum() == sum(prepared.lost_vox.values())
