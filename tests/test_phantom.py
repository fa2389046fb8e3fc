"""Phantoms: the same seed gives the same patient, truth is exact, and the tumour looks like one."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import load_scan
from bratskit.cases.phantom import Phantom, make_cohort, make_phantom, write_phantom
from bratskit.labels import MODALITIES

COARSE = (4.0, 4.0, 4.0)  # 60x60x39 voxels: a phantom in a fraction of a second


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(3, spacing_mm=COARSE)


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_workers(tmp_path: Path):
    make_cohort(tmp_path / "one", n_cases=2, seed=5, spacing_mm=COARSE, workers=1)
    make_cohort(tmp_path / "two", n_cases=2, seed=5, spacing_mm=COARSE, workers=2)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_a_script_without_a_guard_gets_its_workers(tmp_path: Path):
    script = (
        "from bratskit.cases import make_cohort\n"
        f"make_cohort({str(tmp_path / 'piped')!r}, n_cases=2, spacing_mm=(8, 8, 8), workers=2)"
    )
    subprocess.run([sys.executable], input=script, text=True, check=True, capture_output=True)
    assert len(list((tmp_path / "piped").glob("Phantom_0000?/*_seg.nii.gz"))) == 2


def test_another_seed_gives_another_patient(phantom: Phantom):
    other = make_phantom(4, spacing_mm=COARSE)
    assert (other.scan.labels != phantom.scan.labels).any()


def test_a_case_does_not_depend_on_how_many_others_there_are(tmp_path: Path):
    make_cohort(tmp_path / "a", n_cases=1, seed=1, spacing_mm=COARSE, workers=1)
    make_cohort(tmp_path / "b", n_cases=2, seed=1, spacing_mm=COARSE, workers=1)
    one, two = hashes(tmp_path / "a"), hashes(tmp_path / "b")
    assert one.items() <= two.items()


def test_background_is_exactly_zero_and_the_brain_is_not(phantom: Phantom):
    brain = (phantom.scan.image > 0).all(0)
    assert (phantom.scan.image[:, ~brain] == 0).all()
    assert 900 < brain.sum() * 4**3 / 1000 < 2000  # ml, an adult brain


def test_volumes_match_voxels_counted_by_hand(phantom: Phantom):
    labels, volumes = phantom.scan.labels, phantom.truth["volumes_ml"]
    voxel_ml = 4 * 4 * 4 / 1000
    for value, name in ((1, "NCR"), (2, "ED"), (3, "ET")):
        assert volumes["labels"][name] == pytest.approx((labels == value).sum() * voxel_ml)
    assert volumes["regions"]["WT"] == pytest.approx((labels > 0).sum() * voxel_ml)
    assert volumes["regions"]["TC"] == pytest.approx(
        ((labels == 1) | (labels == 3)).sum() * voxel_ml
    )


@pytest.mark.parametrize("seed", range(4))
def test_enhancement_and_oedema_show_where_the_mask_says(seed: int):
    scan = make_phantom(seed, spacing_mm=COARSE).scan
    flair, t1, t1ce, _ = scan.image
    brain = flair > 0
    z = [(c - c[brain].mean()) / c[brain].std() for c in (flair, t1, t1ce)]
    healthy = brain & (scan.labels == 0)
    assert np.median(z[0][scan.labels == 2]) > np.median(z[0][healthy]) + 0.3
    if (scan.labels == 3).sum() > 10:
        gain = [np.median((z[2] - z[1])[scan.labels == label]) for label in (1, 2, 3)]
        assert gain[2] > max(gain[:2])


def test_a_coarse_phantom_is_the_same_patient_as_a_finer_one():
    coarse = make_phantom(7, spacing_mm=(6.0, 6.0, 6.0)).truth
    fine = make_phantom(7, spacing_mm=COARSE).truth
    assert coarse["growth"] == fine["growth"]
    whole = [t["volumes_ml"]["regions"]["WT"] for t in (coarse, fine)]
    assert whole[0] == pytest.approx(whole[1], rel=0.1)


def test_thick_slices_have_the_grid_that_was_asked_for():
    scan = make_phantom(7, spacing_mm=(4.0, 5.0, 8.0)).scan
    assert scan.labels.shape == (60, 48, 19)
    assert scan.spacing_mm == (4.0, 5.0, 8.0)


def test_written_files_load_as_the_scan_that_was_made(tmp_path: Path, phantom: Phantom):
    case = write_phantom(phantom, tmp_path)
    scan = load_scan(case)
    np.testing.assert_array_equal(scan.image, phantom.scan.image)
    np.testing.assert_array_equal(scan.labels, phantom.scan.labels)
    np.testing.assert_allclose(scan.affine, phantom.scan.affine)
    stored = nib.load(case.paths["t1"])
    assert stored.get_data_dtype() == np.int16
    assert nib.aff2axcodes(stored.affine) == ("L", "P", "S")  # as BraTS has it


def test_each_edition_gets_its_own_integers_and_names(tmp_path: Path, phantom: Phantom):
    old = write_phantom(phantom, tmp_path / "old")
    new = write_phantom(phantom, tmp_path / "new", edition="brats2023-gli")
    assert np.unique(np.asarray(nib.load(old.labels_path).dataobj)).tolist() == [0, 1, 2, 4]
    assert np.unique(np.asarray(nib.load(new.labels_path).dataobj)).tolist() == [0, 1, 2, 3]
    assert new.paths["flair"].name.endswith("-t2f.nii.gz")


def test_a_cohort_goes_on_where_it_stopped(tmp_path: Path):
    cases = make_cohort(tmp_path, n_cases=1, spacing_mm=COARSE, workers=1)
    before = cases[0].labels_path.stat().st_mtime_ns
    cases = make_cohort(tmp_path, n_cases=2, spacing_mm=COARSE, workers=1)
    assert cases[0].labels_path.stat().st_mtime_ns == before
    assert set(cases[1].paths) == set(MODALITIES)
    assert json.loads((tmp_path / "Phantom_00001/Phantom_00001_truth.json").read_text())[
        "seed"
    ] == [0, 1]


def test_a_folder_with_another_cohort_is_refused(tmp_path: Path):
    make_cohort(tmp_path, n_cases=1, seed=0, spacing_mm=COARSE, workers=1)
    with pytest.raises(ValueError, match=r"has seed \[0, 0\], not \[1, 0\]"):
        make_cohort(tmp_path, n_cases=1, seed=1, spacing_mm=COARSE, workers=1)


def test_no_case_at_all_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="n_cases must be 1 or more; got 0"):
        make_cohort(tmp_path, n_cases=0)


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="Choose another"):
        make_cohort(tmp_path / "file", n_cases=1)


def test_a_spacing_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be three numbers"):
        make_phantom(0, spacing_mm=(1.0, 0.0, 1.0))


def test_phantoms_of_an_older_generator_are_not_mixed_with_new_ones(tmp_path):
    make_cohort(tmp_path, n_cases=1, spacing_mm=(4.0, 4.0, 4.0), workers=1)
    path = tmp_path / "Phantom_00000" / "Phantom_00000_truth.json"
    path.write_text(path.read_text().replace('"generator": 1', '"generator": 0'))
    with pytest.raises(ValueError, match="generator 0, not 1"):
        make_cohort(tmp_path, n_cases=1, spacing_mm=(4.0, 4.0, 4.0), workers=1)
