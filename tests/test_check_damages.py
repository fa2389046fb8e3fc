"""Each of more than a hundred damages is named, with its file, and nothing else is said."""

import shutil
from itertools import count, islice
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from damages import Damage, damages, with_paths_in

from bratskit.cases import (
    check_case,
    check_folder,
    find_cases,
    make_cohort,
    make_phantom,
    write_phantom,
)

SPACING_MM = (4.0, 4.0, 4.0)
DAMAGES = list(damages())
REAL = ("BraTS2021_00006", "Brats18_CBICA_ABM_1", "Brats18_TCIA02_135_1", "Brats18_2013_21_1")


@pytest.fixture(scope="session")
def coarse(tmp_path_factory):
    """Return the first three phantoms, of 60 x 60 x 39 voxels, with much ET; read-only."""
    folder = tmp_path_factory.mktemp("coarse")
    made = (make_phantom(seed, spacing_mm=SPACING_MM) for seed in count())
    ringed = (one for one in made if one.truth["voxels"]["labels"]["ET"] > 100)
    return [write_phantom(one, folder) for one in islice(ringed, 3)]


def damaged(damage: Damage, whole, tmp_path):
    """Copy a case, damage the copy and return what the doctor says of it."""
    shutil.copytree(Path(whole.labels_path).parent, tmp_path / whole.id)
    case = with_paths_in(whole, tmp_path / whole.id)
    for path in (tmp_path / whole.id).iterdir():
        path.chmod(0o644)
    damage.apply(case, np.random.default_rng(DAMAGES.index(damage)))
    findings = check_folder(tmp_path)
    return [one for one in findings if not one.what.startswith("spacing 4 x 4 x 4 mm")]


def assert_named(damage: Damage, findings, case_id: str):
    told = {one.kind: one for one in findings}
    if damage.name in ("few-et", "no-et"):  # ET is called NCR there, which looks odd, and is
        told.pop("odd-labels", None)
    assert set(told) == {damage.kind}, [(one.where, one.what) for one in findings]
    finding = told[damage.kind]
    assert damage.says in finding.what
    assert finding.severity == damage.severity
    assert finding.mend
    for kind in damage.where:
        assert (f"_{kind}.nii" if kind else case_id) in finding.where


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_is_named_with_its_file_and_nothing_else(damage, coarse, tmp_path):
    whole = coarse[DAMAGES.index(damage) % len(coarse)]
    assert_named(damage, damaged(damage, whole, tmp_path), whole.id)


def test_the_damages_are_more_than_a_hundred_of_more_than_25_kinds():
    assert len({damage.name for damage in DAMAGES}) == len(DAMAGES) >= 100
    assert len({getattr(damage.apply, "func", damage.apply) for damage in DAMAGES}) >= 25
    assert len({damage.kind for damage in DAMAGES}) >= 20


@pytest.mark.slow
def test_thirty_phantoms_leave_the_doctor_silent_and_each_damage_makes_it_speak(tmp_path):
    """The seed is the first, 0, not one that was looked for."""
    cases = make_cohort(tmp_path / "whole", n_cases=30, seed=0, spacing_mm=SPACING_MM)
    findings = [one for one in check_folder(tmp_path / "whole") if one.kind != "spacing"]
    ets = {
        case.id: int((np.asarray(nib.load(case.labels_path).dataobj) == 4).sum()) for case in cases
    }
    for finding in findings:  # what is true of a tumour is no complaint
        assert finding.kind in {"no-et", "tiny-et"}, finding
        assert ets[finding.case] < 50
    whole = [case for case in cases if ets[case.id] > 100]
    for number, damage in enumerate(DAMAGES):
        case = whole[number % len(whole)]
        folder = tmp_path / f"damaged-{number}"
        told = {one.kind for one in damaged(damage, case, folder)}
        assert damage.kind in told, (damage.name, case.id, told)
        shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_each_damage_is_named_in_a_copy_of_a_real_case(damage, real_cases, tmp_path):
    name = REAL[DAMAGES.index(damage) % len(REAL)]
    (whole,) = find_cases(real_cases / name)
    assert_named(damage, damaged(damage, whole, tmp_path), name)
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize(("whole_ml", "is_told"), [(5.0, False), (60.0, True)])
def test_a_spot_brighter_than_a_small_tumour_that_shines_is_no_better_place(
    whole_ml, is_told, write_case, tmp_path
):
    mm_of = np.indices((40, 40, 40)) * 4.0 - 80
    radius_mm = (whole_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    tumour = np.linalg.norm(mm_of - np.reshape((-35, 0, 0), (3, 1, 1, 1)), axis=0) < radius_mm
    spot = np.linalg.norm(mm_of - np.reshape((35, 0, 0), (3, 1, 1, 1)), axis=0) < radius_mm
    brain = np.linalg.norm(mm_of, axis=0) < 75
    noise = np.random.default_rng(0).normal(0, 30, (4, *brain.shape))
    image = np.where(brain, 500 + noise, 0)
    image[0] += brain * (60 * tumour + 150 * spot)
    case = write_case(
        tmp_path,
        shape=brain.shape,
        affine=np.diag([4.0, 4, 4, 1]),
        image=image,
        labels=2 * tumour,
    )
    told = {one.kind for one in check_case(case)}
    assert ("mask-place" in told) == is_told
    if not is_told:  # where it does not shine, it is told
        image[0] -= brain * 70 * tumour
        case = write_case(
            tmp_path / "faint",
            shape=brain.shape,
            affine=np.diag([4.0, 4, 4, 1]),
            image=image,
            labels=2 * tumour,
        )
        assert "mask-place" in {one.kind for one in check_case(case)}
