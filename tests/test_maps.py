"""Maps of probabilities and entropies lie on the scan's own grid and say 0 and 1 exactly."""

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import is_map, load_scan, write_labels, write_maps
from bratskit.cases.maps import STEP

OBLIQUE = np.array([[-1.12, -0.45, 0, 10], [-0.65, 0.78, 0, -20], [0, 0, -3.0, 30], [0, 0, 0, 1.0]])


@pytest.fixture
def scan(write_case, tmp_path):
    return load_scan(write_case(tmp_path / "in", affine=OBLIQUE))


@pytest.mark.parametrize("n_maps", [None, 1, 3])
def test_values_come_back_within_half_a_step_on_the_grid_of_the_scan(scan, tmp_path, rng, n_maps):
    shape = scan.image.shape[1:] if n_maps is None else (n_maps, *scan.image.shape[1:])
    maps = rng.random(shape, dtype=np.float32)
    maps[..., 0, 0, 0], maps[..., 1, 0, 0] = 0, 1
    file = nib.load(write_maps(maps, tmp_path / "x_entropy.nii.gz", like=scan))
    canonical = nib.as_closest_canonical(file)
    back = np.moveaxis(canonical.get_fdata(), -1, 0) if n_maps else canonical.get_fdata()
    np.testing.assert_allclose(back, maps, atol=STEP / 2 + 1e-7)
    assert set(np.unique(back[..., :2, 0, 0])) == {0, 1}
    np.testing.assert_array_equal(file.affine, scan.disk_affine)


def test_the_header_says_of_the_grid_what_that_of_a_mask_does(scan, tmp_path):
    labels = np.zeros(scan.image.shape[1:], np.uint8)
    mask = nib.load(write_labels(labels, tmp_path / "x.nii.gz", like=scan)).header
    maps = nib.load(write_maps(labels.astype(float), tmp_path / "x_entropy.nii.gz", like=scan))
    other = {"datatype", "bitpix", "scl_slope", "scl_inter"}
    for name in set(mask) - other:
        np.testing.assert_array_equal(mask[name], maps.header[name], err_msg=name)


def test_what_it_cannot_hold_is_refused(scan, tmp_path):
    maps = np.zeros(scan.image.shape[1:])
    with pytest.raises(ValueError, match=r"from 0 to below 4; got -0\.5.*write_volume"):
        write_maps(maps - 0.5, tmp_path / "x.nii.gz", like=scan)
    with pytest.raises(ValueError, match="from 0 to below 4; got nan"):
        write_maps(maps * np.nan, tmp_path / "x.nii.gz", like=scan)
    with pytest.raises(ValueError, match="native shape"):
        write_maps(maps[1:], tmp_path / "x.nii.gz", like=scan)
    with pytest.raises(ValueError, match=r"Try x\.npy\.nii\.gz"):
        write_maps(maps, tmp_path / "x.npy", like=scan)


def test_a_map_is_no_mask_by_its_name():
    assert is_map("a_mutual_information.nii.gz")
    assert not is_map("a_seg.nii.gz")
