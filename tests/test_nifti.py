"""Values arrive in RAS+ unchanged, masks go back on their own grid, damage is refused by name."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everybody uses
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import rewrite

from bratskit.cases import Case, Scan, load_labels, load_scan, write_labels, write_volume
from bratskit.labels import MODALITIES, get_schema

SHAPE = (7, 5, 6)
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # SimpleITK's world against NIfTI's


def oblique_affine(order=(2, 0, 1), signs=(-1, 1, -1), spacing_mm=(1.3, 0.9, 3.0), turn=0.3):
    """Tilt a permuted, flipped, anisotropic grid by `turn` radians about x and z."""
    cos, sin = np.cos(turn), np.sin(turn)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    about_z = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.eye(3)[:, list(order)] @ np.diag(signs)
    affine[:3, :3] *= np.array(spacing_mm)
    affine[:3, 3] = (12.5, -7.25, 3.0)
    return affine


@pytest.fixture
def case(tmp_path, write_case):
    return write_case(tmp_path, "pat7", shape=SHAPE)


@pytest.fixture
def scan(case):
    return load_scan(case)


def test_one_voxel_lands_where_a_pencil_says(tmp_path, write_case):
    # BraTS's disk grid runs right to left and front to back: i -> 6 - i, j -> 4 - j, k stays
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 0, 2] = 4
    scan = load_scan(write_case(tmp_path, shape=SHAPE, labels=labels))
    assert np.argwhere(scan.labels).tolist() == [[5, 4, 2]]
    assert scan.labels[5, 4, 2] == 3
    assert np.allclose(scan.affine @ [5, 4, 2, 1], [-1, 239, 2, 1])


def test_channels_come_in_the_order_of_modalities(tmp_path, write_case):
    image = np.stack([np.full(SHAPE, 10 * channel + 1) for channel in range(4)])
    scan = load_scan(write_case(tmp_path, shape=SHAPE, image=image))
    assert scan.image[:, 0, 0, 0].tolist() == [1, 11, 21, 31]
    assert scan.image.dtype == np.float32
    assert scan.image.flags.c_contiguous
    assert scan.labels.dtype == np.uint8


def test_spacing_follows_the_axes_into_ras(tmp_path, write_case):
    affine = oblique_affine(order=(2, 0, 1), spacing_mm=(1.3, 0.9, 3.0))
    scan = load_scan(write_case(tmp_path, shape=SHAPE, affine=affine))
    assert np.allclose(scan.spacing_mm, (0.9, 3.0, 1.3), atol=1e-5)
    assert scan.image.shape == (4, 5, 6, 7)


GRIDS = st.builds(
    oblique_affine,
    order=st.permutations((0, 1, 2)),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    spacing_mm=st.tuples(*[st.sampled_from((0.9, 1.0, 1.3, 3.0))] * 3),
    turn=st.sampled_from((0.0, 0.1, 0.6)),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("round_trip")


@settings(max_examples=25, derandomize=True, deadline=None, database=None)
@given(
    affine=GRIDS,
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    codes=st.sampled_from([(1, 1), (2, 1), (1, 0), (0, 3)]),
)
def test_mask_goes_back_bit_for_bit_on_any_grid(folder, affine, shape, codes):
    labels = np.random.default_rng(sum(shape)).choice([0, 1, 2, 4], shape).astype(np.int16)
    mask = nib.Nifti1Image(labels, affine)
    mask.set_qform(affine, codes[0])
    mask.set_sform(affine, codes[1])
    mask.header.set_xyzt_units("mm", "sec")
    nib.save(mask, folder / "pat_seg.nii.gz")
    nib.save(nib.Nifti1Image(labels.astype(np.float32), None, mask.header), folder / "pat_t1.nii")
    scan = load_scan(case_of(folder))

    path = write_labels(scan.labels, folder / "out.nii.gz", like=scan)

    old, new = nib.load(folder / "pat_seg.nii.gz"), nib.load(path)
    assert np.array_equal(np.asarray(new.dataobj), labels)
    assert_same_header(new.header, old.header)
    assert_same_for_simpleitk(path, folder / "pat_seg.nii.gz")
    back, ras_affine = load_labels(path, schema="brats2017-2021")
    assert np.array_equal(back, scan.labels)
    assert np.array_equal(ras_affine, scan.affine)
    assert nib.aff2axcodes(ras_affine) == ("R", "A", "S")


def case_of(folder):
    paths = dict.fromkeys(MODALITIES, folder / "pat_t1.nii")
    schema = get_schema("brats2017-2021")
    return Case(id="pat", paths=paths, labels_path=folder / "pat_seg.nii.gz", schema=schema)


def assert_same_header(new, old):
    fields = ("dim", "datatype", "bitpix", "xyzt_units", "qform_code", "sform_code", "srow_x")
    fields += ("srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y")
    for name in (*fields, "qoffset_z"):
        assert np.array_equal(new[name], old[name]), name
    assert new.get_zooms() == old.get_zooms()
    assert new["pixdim"][0] == old["pixdim"][0]


def assert_same_for_simpleitk(path, other):
    new, old = sitk.ReadImage(str(path)), sitk.ReadImage(str(other))
    assert new.GetSize() == old.GetSize()
    assert new.GetPixelID() == old.GetPixelID()
    assert new.GetSpacing() == old.GetSpacing()
    assert new.GetOrigin() == old.GetOrigin()
    assert new.GetDirection() == old.GetDirection()
    assert np.array_equal(sitk.GetArrayViewFromImage(new), sitk.GetArrayViewFromImage(old))


def test_simpleitk_puts_a_voxel_where_our_affine_does(case, scan, tmp_path):
    path = write_labels(scan.labels, tmp_path / "out.nii.gz", like=scan)
    image = sitk.ReadImage(str(path))
    ijk_disk = (1, 3, 2)
    world = LPS[:3, :3] @ image.TransformIndexToPhysicalPoint(ijk_disk)
    assert np.allclose(world, (scan.disk_affine @ [*ijk_disk, 1])[:3])


def test_float_map_goes_back_on_the_disk_grid(tmp_path, write_case, rng):
    scan = load_scan(write_case(tmp_path, shape=SHAPE, affine=oblique_affine()))
    values = rng.normal(size=scan.image.shape[1:]).astype(np.float32)
    image = nib.load(write_volume(values, tmp_path / "map.nii.gz", like=scan))
    assert image.get_data_dtype() == np.float32
    assert np.allclose(image.affine, scan.disk_affine)
    assert np.array_equal(nib.as_closest_canonical(image).get_fdata(dtype=np.float32), values)


def test_prediction_is_written_in_the_edition_asked_for(scan, tmp_path):
    def values(edition):
        path = write_labels(scan.labels, tmp_path / "out.nii.gz", like=scan, edition=edition)
        return set(np.unique(np.asarray(nib.load(path).dataobj)).tolist())

    assert values(None) == values("brats2017-2021") == {1, 2, 4}
    assert values("brats2023-gli") == {1, 2, 3}


def test_scan_without_mask_gets_a_uint8_prediction_without_scaling(tmp_path, write_case):
    case = write_case(tmp_path, shape=SHAPE, labels=None)
    rewrite(case.paths["flair"], change={"scl_slope": 2.5, "scl_inter": 1, "cal_max": 300})
    scan = load_scan(case)
    assert scan.labels is None
    path = write_labels(np.ones(SHAPE, np.int64), tmp_path / "new" / "out.nii.gz", like=scan)
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8
    assert np.unique(image.get_fdata()).tolist() == [1]
    assert image.header["cal_max"] == 0


def test_same_labels_give_the_same_file_and_nothing_is_left_beside_it(scan, tmp_path):
    one = write_labels(scan.labels, tmp_path / "o" / "a.nii.gz", like=scan)
    two = write_labels(scan.labels, tmp_path / "o" / "b.nii.gz", like=scan)
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["a.nii.gz", "b.nii.gz"]


def test_scan_shows_its_shape_and_not_its_voxels(scan):
    assert repr(scan) == "<Scan pat7: 4 x 7 x 5 x 6 voxels of 1 x 1 x 1 mm, labels brats2017-2021>"


# ----------------------------------------------------------------------------------- refusals


def test_missing_modality_is_refused(case):
    case = replace(case, paths={"t1": case.paths["t1"]})
    with pytest.raises(ValueError, match=r"got none for flair, t1ce, t2\. Add pat7_flair\.nii\.gz"):
        load_scan(case)


@pytest.mark.parametrize("shift_mm", [0.1, 30])
def test_mask_on_a_shifted_grid_is_refused(case, shift_mm):
    affine = nib.load(case.labels_path).affine.copy()
    affine[1, 3] += shift_mm
    rewrite(case.labels_path, affine=affine)
    with pytest.raises(ValueError, match=rf"pat7_seg.*{shift_mm:.2f} mm away\. Resample it"):
        load_scan(case)


def test_interpolated_mask_is_refused(case):
    rewrite(case.labels_path, array=np.full(SHAPE, 1.5, np.float32))
    with pytest.raises(ValueError, match=r"case pat7\) must be integers; got 1\.5.* nearest"):
        load_scan(case)


def test_integers_stored_as_floats_are_a_mask(case, scan):
    rewrite(case.labels_path, array=np.asarray(nib.load(case.labels_path).dataobj).astype("f8"))
    again = load_scan(case)
    assert np.array_equal(again.labels, scan.labels)
    path = write_labels(again.labels, case.labels_path.parent / "out.nii.gz", like=again)
    assert nib.load(path).get_data_dtype() == np.uint8


@pytest.mark.parametrize("value", [3, 255, 256, -1])
def test_unknown_label_is_refused_with_the_schemas_that_know_it(case, value):
    labels = np.asarray(nib.load(case.labels_path).dataobj).astype(np.int16)
    labels[labels == 4] = value
    rewrite(case.labels_path, array=labels)
    with pytest.raises(ValueError, match=rf"pat7_seg.* got \[{value}\]") as refusal:
        load_scan(case)
    assert ("brats2023-gli" in str(refusal.value)) == (value == 3)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(case, value):
    image = np.ones(SHAPE, np.float32)
    image[0, 0, :2] = value
    rewrite(case.paths["t1ce"], array=image)
    with pytest.raises(ValueError, match=r"pat7_t1ce.*infinity in 2 voxels\. Set them to 0"):
        load_scan(case)


def test_writing_refuses_what_does_not_fit(scan: Scan, tmp_path):
    path = tmp_path / "out.nii.gz"
    with pytest.raises(ValueError, match="geometry's inverse"):
        write_labels(scan.labels[1:], path, like=scan)
    with pytest.raises(ValueError, match=r"got \[4\]\. Internally they mean"):
        write_labels(np.full_like(scan.labels, 4), path, like=scan)
    with pytest.raises(TypeError, match="argmax"):
        write_labels(scan.image[0], path, like=scan)
    with pytest.raises(ValueError, match=r"Try .*out\.nii\.gz"):
        write_labels(scan.labels, tmp_path / "out.png", like=scan)
    assert not list(tmp_path.glob("out*"))


def test_folder_that_cannot_be_written_is_refused(scan, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"output folder must be writable.* Choose another"):
        write_labels(scan.labels, tmp_path / "file" / "out.nii.gz", like=scan)


def test_writing_that_fails_leaves_the_old_file_and_nothing_beside_it(scan, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = write_labels(scan.labels, tmp_path / "o" / "out.nii.gz", like=scan)
    before = path.read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PermissionError, match="No space left on device"):
        write_labels(np.zeros_like(scan.labels), path, like=scan)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["out.nii.gz"]


def test_numbers_that_a_3d_volume_leaves_unused_come_back_as_they_were(scan, tmp_path):
    scan.header["pixdim"][4:] = 0  # as many real files have it; nibabel writes 1
    written = write_labels(scan.labels, tmp_path / "out.nii.gz", like=scan)
    assert nib.load(written).header["pixdim"][4:].tolist() == [0, 0, 0, 0]
