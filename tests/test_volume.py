"""Any honest NIfTI is decoded to the numbers nibabel gives, any damaged one is refused by name."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from tasks import write_mha

from bratskit.cases import load_labels, load_scan, volume, write_labels
from bratskit.cases.mha import read_mha
from bratskit.cases.mha import write_mha as write_own_mha
from bratskit.cases.volume import read_channels, read_grid, read_volume

SHAPE = (7, 5, 6)


def rewrite(path, *, array=None, affine=None, change=None):
    """Replace a file by one with other voxels, another affine or changed header fields."""
    old = nib.load(path)
    array = np.asarray(old.dataobj) if array is None else array
    new = nib.Nifti1Image(array, old.affine if affine is None else affine)
    raw = bytearray(new.to_bytes())
    if change:
        header = nib.Nifti1Header(bytes(raw[:348]), check=False)
        for name, value in change.items():
            header[name] = value
        raw[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(raw)))


@pytest.fixture
def case(tmp_path, write_case):
    return write_case(tmp_path, "pat7", shape=SHAPE)


@pytest.fixture
def scan(case):
    return load_scan(case)


@pytest.mark.parametrize(("slope", "inter"), [(0.5, 0.0), (3.25, -7.0), (0.0, 9.0)])
def test_scaling_agrees_with_nibabel(case, slope, inter):
    path = case.paths["t1"]
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(np.uint8)
    rewrite(path, array=array, change={"scl_slope": slope, "scl_inter": inter})
    expected = nib.as_closest_canonical(nib.load(path)).get_fdata(dtype=np.float32)
    assert np.array_equal(load_scan(case).image[1], expected)


def test_big_endian_float_nifti2_and_trailing_axes_are_read(case):
    array = np.linspace(0, 9, np.prod(SHAPE)).reshape(*SHAPE, 1).astype(">f4")
    image = nib.Nifti2Image(array, nib.load(case.paths["t2"]).affine)
    nib.save(
        image.__class__(array, image.affine, image.header.as_byteswapped(">")), case.paths["t2"]
    )
    expected = nib.as_closest_canonical(nib.load(case.paths["t2"])).get_fdata(dtype=np.float32)
    assert np.array_equal(load_scan(case).image[3], expected[..., 0])


def test_modality_stored_in_another_orientation_of_the_same_grid_fits(case):
    before = load_scan(case).image[2]
    path = case.paths["t1ce"]
    nib.save(nib.as_closest_canonical(nib.load(path)), path)
    assert np.array_equal(load_scan(case).image[2], before)


def test_standard_library_decodes_the_same_and_several_gzip_members_too(case, scan, monkeypatch):
    raw = gzip.decompress(case.paths["flair"].read_bytes())
    half = len(raw) // 2
    case.paths["flair"].write_bytes(gzip.compress(raw[:half]) + gzip.compress(raw[half:]))
    assert np.array_equal(load_scan(case, threads=1).image, scan.image)
    monkeypatch.setattr(volume, "fast_zlib", zlib)
    assert np.array_equal(load_scan(case).image, scan.image)
    written = write_labels(scan.labels, case.labels_path.parent / "std.nii.gz", like=scan)
    assert np.array_equal(load_labels(written, schema=scan.schema)[0], scan.labels)


def test_uncompressed_file_with_a_gz_name_is_read(case, scan):
    path = case.paths["flair"]
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert np.array_equal(load_scan(case).image, scan.image)


def test_vanished_file_is_refused(case):
    case.paths["t2"].unlink()
    with pytest.raises(FileNotFoundError, match=r"pat7_t2\.nii\.gz of case pat7 must exist"):
        load_scan(case)


@pytest.mark.parametrize("keep", [3, 60, 0.5, -9])
def test_truncated_gzip_is_refused(case, keep):
    raw = case.paths["flair"].read_bytes()
    case.paths["flair"].write_bytes(raw[: int(len(raw) * keep) if keep == 0.5 else keep])
    with pytest.raises(ValueError, match=r"pat7_flair\.nii\.gz of case pat7 .*again"):
        load_scan(case)


def test_flipped_byte_in_a_gzip_is_refused(case):
    raw = bytearray(case.paths["flair"].read_bytes())
    raw[-6] ^= 1
    case.paths["flair"].write_bytes(raw)
    with pytest.raises(ValueError, match=r"damaged .* Copy or download"):
        load_scan(case)


def test_truncated_plain_nifti_is_refused(tmp_path, write_case):
    case = write_case(tmp_path, "pat7", shape=SHAPE, suffix=".nii")
    case.paths["t1"].write_bytes(case.paths["t1"].read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"must hold 420 bytes .* got 419: it is truncated"):
        load_scan(case)


@pytest.mark.parametrize("content", [b"PNG whatever" * 90, gzip.compress(b"DICM" * 200)])
def test_file_that_is_no_nifti_is_refused(case, content):
    case.paths["t1"].write_bytes(content)
    with pytest.raises(ValueError, match=r"pat7_t1\.nii\.gz of case pat7 must be .* NIfTI .*dcm2"):
        load_scan(case)


def test_4d_file_is_refused(case):
    rewrite(case.paths["t1"], array=np.zeros((*SHAPE, 2), np.int16))
    with pytest.raises(ValueError, match=r"one 3D volume; got shape \(7, 5, 6, 2\)\. Save the vol"):
        load_scan(case)


def test_modality_or_mask_of_another_shape_is_refused(case):
    rewrite(case.paths["t1"], array=np.zeros((7, 5, 7), np.int16))
    with pytest.raises(ValueError, match=r"pat7_t1.* grid of pat7_flair.*got shape \(7, 5, 7\)"):
        load_scan(case)


def test_rounding_of_an_affine_is_not_another_grid(case, scan):
    affine = nib.load(case.labels_path).affine + 1e-4
    rewrite(case.labels_path, affine=affine)
    assert np.array_equal(load_scan(case).labels, scan.labels)


@pytest.mark.parametrize("pixdim", [0, -1, np.nan])
def test_spacing_that_is_not_positive_is_refused(case, pixdim):
    change = {"pixdim": [1, 1, pixdim, 1, 1, 1, 1, 1]}
    rewrite(case.paths["t2"], change=change)
    with pytest.raises(ValueError, match=r"pat7_t2.*above 0 mm; got \(1, .*, 1\)\. Repair pixdim"):
        load_scan(case)


def test_flat_affine_is_refused(case):
    rewrite(case.paths["t2"], change={"srow_z": [0, 0, 0, 0], "sform_code": 1})
    with pytest.raises(ValueError, match=r"pat7_t2.* affine that can be inverted.*Copy qform"):
        load_scan(case)


def test_colours_are_refused(case):
    array = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rewrite(case.paths["t2"], array=array)
    with pytest.raises(ValueError, match=r"data type 128\. Save it as int16"):
        load_scan(case)


# -- 4D --------------------------------------------------------------------------------------------


@pytest.fixture
def image_4d(tmp_path):
    """Write (I, J, K, 3) on a flipped grid; channel c holds c at voxel 0 and counts up from it."""
    array = np.arange(np.prod(SHAPE) * 3, dtype=np.int16).reshape(3, *SHAPE)
    image = nib.Nifti1Image(np.moveaxis(array, 0, -1), np.diag([-1.0, -2.0, 3.0, 1.0]))
    image.header["pixdim"][4] = 2.5  # seconds
    nib.save(image, tmp_path / "a.nii.gz")
    return tmp_path / "a.nii.gz", array


def test_each_channel_is_the_volume_that_nibabel_slices(image_4d):
    path, _ = image_4d
    canonical = nib.as_closest_canonical(nib.load(path))
    for at, channel in enumerate(read_channels(path, case_id="x")):
        np.testing.assert_array_equal(channel.data, canonical.dataobj[..., at])
        np.testing.assert_array_equal(channel.affine, canonical.affine)
        one = read_volume(path, case_id="x", channel=at)
        np.testing.assert_array_equal(one.data, channel.data)


def test_a_channel_has_the_header_of_a_3d_file(image_4d):
    path, _ = image_4d
    header = read_volume(path, case_id="x", channel=1).header
    assert header.get_data_shape() == SHAPE
    assert header["dim"].tolist() == [3, *SHAPE, 1, 1, 1, 1]
    assert nib.load(path).header.get_data_shape() == (*SHAPE, 3)


def test_a_4d_file_is_decoded_once_for_all_its_channels(image_4d, monkeypatch):
    calls = []
    decode = volume._decompress
    monkeypatch.setattr(volume, "_decompress", lambda raw: calls.append(1) or decode(raw))
    assert len(read_channels(image_4d[0], case_id="x")) == 3
    assert len(calls) == 1


def test_a_3d_file_is_its_own_only_channel(case):
    (only,) = read_channels(case.paths["t1"], case_id="x")
    np.testing.assert_array_equal(only.data, read_volume(case.paths["t1"], case_id="x").data)


def test_a_channel_that_is_not_there_is_refused(image_4d):
    for channel in (3, -1):
        with pytest.raises(ValueError, match=r"a\.nii\.gz of case x must have a channel .*got 3"):
            read_volume(image_4d[0], case_id="x", channel=channel)


def test_five_axes_and_truncated_channels_are_refused(tmp_path):
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 2, 2), np.int16), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"one 4D volume; got shape \(2, 3, 4, 2, 2\)"):
        read_channels(path, case_id="x")
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 2), np.int16), np.eye(4)), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"must hold 96 bytes .* got 95: it is truncated"):
        read_channels(path, case_id="x")


# -- MetaImage -------------------------------------------------------------------------------------

TILTED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, -1.0)  # columns are unit axes; K runs down


def test_a_metaimage_lies_where_itk_says_x_and_y_turned_round(tmp_path, rng):
    array = rng.integers(0, 900, SHAPE, dtype=np.int16)
    path = write_mha(tmp_path / "a.mha", array)
    found = read_volume(path, case_id="x")
    # ITK: voxel 0 at (0, -239, 0) mm to left, back, up; x and y run right to left, front to back
    assert found.disk_affine.tolist() == [
        [-1, 0, 0, 0], [0, -2, 0, 239], [0, 0, 3, 0], [0, 0, 0, 1]
    ]  # fmt: skip
    np.testing.assert_array_equal(found.data, array[::-1, ::-1])
    np.testing.assert_array_equal(found.header.get_best_affine(), found.disk_affine)


@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), TILTED])
def test_a_metaimage_and_the_nifti_that_itk_makes_of_it_are_one_volume(tmp_path, rng, direction):
    array = rng.integers(0, 900, SHAPE, dtype=np.int16)
    path = write_mha(tmp_path / "a.mha", array, direction=direction)
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(path)), str(tmp_path / "a.nii.gz"))
    meta = read_volume(path, case_id="x")
    nifti = read_volume(tmp_path / "a.nii.gz", case_id="x")
    np.testing.assert_array_equal(meta.data, nifti.data)
    np.testing.assert_allclose(meta.affine, nifti.affine, atol=1e-4)  # NIfTI keeps float32


@settings(max_examples=25, deadline=None)
@given(
    spacing_mm=st.tuples(*[st.floats(0.3, 5)] * 3),
    quaternion=st.tuples(*[st.floats(-1, 1)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_what_is_written_as_a_metaimage_reads_back_on_any_grid(
    tmp_path_factory, spacing_mm, quaternion, flips
):
    turned = nib.quaternions.quat2mat(quaternion) * flips * spacing_mm
    affine = nib.affines.from_matvec(turned, (3.5, -120, 7))
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    path = tmp_path_factory.mktemp("mha") / "a.mha"
    write_own_mha(path, array, affine)
    values, header, found = read_mha(path, "a.mha")
    np.testing.assert_array_equal(values, array)
    np.testing.assert_allclose(found, affine, atol=1e-5)
    np.testing.assert_allclose(header.get_best_affine(), affine, atol=1e-4)


@pytest.mark.parametrize("keep", [0, 20, 200, -1])
def test_a_truncated_metaimage_is_refused(tmp_path, keep):
    path = write_mha(tmp_path / "a.mha", np.zeros(SHAPE, np.int16))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"a\.mha of case x must .*opy or download"):
        read_volume(path, case_id="x")


def test_shape_and_spacing_are_read_without_the_voxels(tmp_path, image_4d):
    path = write_mha(tmp_path / "a.mha", np.zeros(SHAPE, np.int16))
    assert read_grid(path) == (SHAPE, (1, 2, 3))
    assert read_grid(image_4d[0]) == (SHAPE, (1, 2, 3))
    for name in ("b.mha", "b.nii"):
        (tmp_path / name).write_bytes(b"nothing" * 100)
        with pytest.raises(ValueError, match=rf"{name} must be .*Copy or download"):
            read_grid(tmp_path / name)


def test_a_metaimage_that_is_gone_or_has_channels_or_two_axes_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.mha of case x must exist"):
        read_volume(tmp_path / "a.mha", case_id="x")
    vectors = SimpleITK.GetImageFromArray(np.zeros((4, 5, 6, 3), np.int16), isVector=True)
    flat = SimpleITK.GetImageFromArray(np.zeros((4, 5), np.int16))
    for image in (vectors, flat):
        SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
        with pytest.raises(ValueError, match="must be one 3D volume"):
            read_volume(tmp_path / "a.mha", case_id="x")
