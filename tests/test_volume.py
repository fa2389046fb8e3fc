"""Any honest NIfTI is decoded to the numbers nibabel gives, any damaged one is refused by name."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import load_labels, load_scan, volume, write_labels

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
