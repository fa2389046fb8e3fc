"""One patient is one group, whether the names say so or only the voxels, across editions."""

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import check_folders, find_cases, load_scan, patients
from bratskit.cases.facts import CaseFacts, edition_of, read_facts
from bratskit.cases.patients import (
    group_patients,
    patient_of,
    read_fingerprints,
    same_patients,
)


@pytest.mark.parametrize(
    ("case_id", "patient"),
    [
        ("Brats17_TCIA_135_1", "TCIA_135"),
        ("Brats18_TCIA02_135_1", "TCIA_135"),
        ("brats_tcia_pat135_0109", "TCIA_135"),
        ("Brats18_2013_20_1", "2013_20"),
        ("BraTS19_2013_20_1", "2013_20"),
        ("BraTS20_Training_355", "BraTS20_Training_355"),
        ("BraTS2021_01482", "BraTS2021_01482"),
        ("BraTS-GLI-01482-000", "BraTS2021_01482"),
        ("BraTS-PED-00012-001", "BraTS-PED-00012"),
        ("BRATS_001", "BRATS_001"),
        ("brats-gli-01482-001", "BraTS2021_01482"),
        ("brats2021_01482", "BraTS2021_01482"),
        ("brats-met-00012-001", "BraTS-MET-00012"),
        ("BRATS18_tcia02_135_1", "TCIA_135"),
        ("Brats_TCIA_Pat135_0001", "TCIA_135"),
        ("UCSF-PDGM-0431", "UCSF-PDGM-0431"),
        ("UCSF-PDGM-431", "UCSF-PDGM-0431"),
        ("UCSF-PDGM-0431_FU001d_nifti", "UCSF-PDGM-0431"),
        ("UPENN-GBM-00001_11", "UPENN-GBM-00001"),
        ("UPENN-GBM-00001_21", "UPENN-GBM-00001"),
        ("TCGA-02-0006_1996.08.23", "TCGA-02-0006"),
        ("TCGA_CS_4941_19960909", "TCGA-CS-4941"),
    ],
)
def test_patient_is_read_from_the_conventions_of_the_editions(case_id, patient):
    assert patient_of(case_id) == patient


def test_links_join_what_names_have_joined():
    ids = ["Brats17_X_1_1", "Brats18_X_1_1", "BRATS_001", "BRATS_002", "BRATS_003"]
    assert group_patients(ids, [("BRATS_001", "Brats18_X_1_1"), ("BRATS_002", "BRATS_001")]) == {
        "BRATS_001": ["BRATS_001", "BRATS_002", "Brats17_X_1_1", "Brats18_X_1_1"],
        "BRATS_003": ["BRATS_003"],
    }


def test_a_link_over_a_case_that_is_not_there_still_holds():
    assert group_patients(["a", "c"], [("a", "b"), ("b", "c")]) == {"a": ["a", "c"]}


def brain_of(shape):
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    return sum(axis**2 for axis in grid) < 0.8


def copy_as(case, folder, case_id, change):
    """Write a case again under another name, its voxels changed."""
    (folder / case_id).mkdir(parents=True)
    for modality, path in case.paths.items():
        file = nib.load(path)
        values = change(np.asarray(file.dataobj))
        nib.save(
            nib.Nifti1Image(values, file.affine), folder / case_id / f"{case_id}_{modality}.nii.gz"
        )


def test_one_patient_is_found_across_folders_and_editions(tmp_path, write_case, rng):
    texture = rng.normal(0, 60, (3, 4, 24, 28, 20))
    for number in range(3):
        image = np.where(brain_of((24, 28, 20)), 400 + texture[number], 0)
        write_case(tmp_path / "one", f"Brats18_X_{number}_1", image=image)
    cases = find_cases(tmp_path / "one")
    copy_as(cases[1], tmp_path / "two", "BRATS_001", lambda voxels: (voxels * 3).astype(np.int32))
    copy_as(cases[2], tmp_path / "two", "BRATS_002", lambda voxels: voxels.astype(np.float32))
    both = [*cases, *find_cases(tmp_path / "two")]
    assert same_patients(both) == (
        ("BRATS_001", "Brats18_X_1_1"),
        ("BRATS_002", "Brats18_X_2_1"),
    )


def test_fingerprints_that_the_doctor_has_taken_are_not_taken_again(
    tmp_path, write_case, monkeypatch
):
    monkeypatch.setenv("BRATSKIT_CACHE", str(tmp_path / "cache"))
    cases = [write_case(tmp_path / "data", f"BraTS2021_0000{n}") for n in range(2)]
    fresh = read_fingerprints(cases)
    check_folders([tmp_path / "data"], journal="auto")
    loaded = []
    monkeypatch.setattr(
        patients, "load_scan", lambda case, **_: loaded.append(case.id) or load_scan(case)
    )
    known = read_fingerprints(cases, folders=[tmp_path / "data"], threads=1)
    assert (known, loaded) == (fresh, [])
    assert all(np.array_equal(a.look, b.look) for a, b in zip(known, fresh, strict=True))
    write_case(tmp_path / "data", "BraTS2021_00001", shape=(20, 20, 20))
    read_fingerprints(cases, folders=[tmp_path / "data"], threads=1)
    assert loaded == ["BraTS2021_00001"]


def test_facts_are_read_by_the_schema_of_the_case(tmp_path, write_case):
    spacing = np.diag([-2.0, -1.0, 0.5, 1.0])  # a voxel of 1 mm3
    small = {"shape": (12, 12, 12), "affine": spacing}
    full = write_case(tmp_path / "in", "Brats18_full_1", **small)
    newer = write_case(tmp_path, "BraTS-GLI-00001-000", schema="brats2023-gli", **small)
    empty = write_case(tmp_path, "empty", labels=np.full((12, 12, 12), 2), **small)
    bare = write_case(tmp_path, "bare", labels=None, **small)
    found = read_facts([full, newer, empty, bare], threads=2)
    # the ED box has 8 x 8 x 8 voxels, and the others lie in it
    ml, here = 512 / 1000, str(tmp_path)
    assert list(found) == ["Brats18_full_1", "BraTS-GLI-00001-000", "empty", "bare"]
    assert found["Brats18_full_1"] == CaseFacts(
        edition="Brats18", has_et=True, tumour_ml=ml, folder=str(tmp_path / "in")
    )
    assert found["BraTS-GLI-00001-000"] == CaseFacts(
        edition="BraTS-GLI", has_et=True, tumour_ml=ml, folder=here
    )
    assert (found["empty"].has_et, found["empty"].tumour_ml) == (False, 12**3 / 1000)
    assert found["bare"] == CaseFacts(edition="bare", folder=here)


def test_edition_is_the_series_of_the_name():
    assert [edition_of(name) for name in ("Phantom_00001", "BraTS-MET-00001-000")] == [
        "Phantom",
        "BraTS-MET",
    ]
    assert edition_of("brats-met-00001-000") == "BraTS-MET"


@pytest.mark.slow
def test_real_patients_are_each_their_own(real_cases):
    assert same_patients(find_cases(real_cases)) == ()
