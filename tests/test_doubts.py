"""What would give a wrong mask silently is noticed before a mask is made; sound cases pass."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import find_doubts, find_exchange, find_scans, load_scan, make_cohort
from bratskit.cases.doubts import MOST_BRAIN_ML
from bratskit.labels import MODALITIES

SPACING_MM = (4.0, 4.0, 4.0)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Return four phantoms of 60 x 60 x 39 voxels; read-only."""
    folder = tmp_path_factory.mktemp("cohort")
    return make_cohort(folder, n_cases=4, seed=7, spacing_mm=SPACING_MM, workers=1)


def exchange(case, one, other):
    held = {one: other, other: one}
    return replace(case, paths={name: case.paths[held.get(name, name)] for name in case.paths})


def changed(case, folder, **changes):
    """Copy a case with functions applied to the arrays of some modalities."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name in MODALITIES:
        file = nib.load(case.paths[name])
        array = changes.get(name, lambda array: array)(np.asarray(file.dataobj))
        paths[name] = folder / f"{case.id}_{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, file.affine, file.header), paths[name])
    return replace(case, paths=paths, labels_path=None)


def kinds(case, severity="problem"):
    return [one.kind for one in find_doubts(case) if one.severity == severity]


def test_sound_phantoms_raise_no_doubt_but_a_note_on_their_spacing(cases):
    for case in cases:
        (only,) = find_doubts(case)
        assert (only.kind, only.severity) == ("spacing", "note")
        assert "4 x 4 x 4 mm, not 1 mm" in only.what
    assert find_exchange(cases) is None


def test_a_mask_is_not_opened(cases, tmp_path):
    (tmp_path / "seg.nii.gz").write_text("no mask")
    assert kinds(replace(cases[0], labels_path=tmp_path / "seg.nii.gz")) == []


@pytest.mark.parametrize("pair", [("t1", "t2"), ("flair", "t2"), ("t1ce", "t2")])
def test_two_modalities_under_each_others_names_are_a_problem_that_names_both(cases, pair):
    for case in cases:
        (problem,) = (one for one in find_doubts(exchange(case, *pair)) if one.kind != "spacing")
        assert (problem.kind, problem.severity) == ("swapped", "problem")
        assert all(f"{name} holds" in problem.what for name in pair)


def test_an_exchange_too_faint_for_one_case_is_told_by_the_folder(cases):
    turned = [exchange(case, "t1", "t1ce") for case in cases]
    found = find_exchange(turned)
    assert (found.kind, found.severity) == ("exchanged", "problem")
    assert "t1 holds t1ce, t1ce holds t1" in found.what
    assert find_exchange(turned[:2]) is None  # two are no folder


def test_a_faint_sign_in_one_case_is_a_warning(cases):
    found = [find_doubts(exchange(case, "flair", "t1"))[0] for case in cases]
    told = {(one.kind, one.severity) for one in found}
    assert told <= {("swapped", "problem"), ("maybe-swapped", "warning")}


def test_one_image_under_two_names_is_a_problem(cases, tmp_path):
    flair = np.asarray(nib.load(cases[0].paths["flair"]).dataobj)
    twice = changed(cases[0], tmp_path, t2=lambda _: flair)
    assert "same-image" in kinds(twice)


def test_a_modality_that_lies_elsewhere_is_a_problem_with_a_way_out(cases, tmp_path):
    moved = changed(cases[0], tmp_path, t2=lambda array: np.roll(array, 3, axis=1))
    (problem,) = (one for one in find_doubts(moved) if one.severity == "problem")
    assert problem.kind == "misplaced"
    assert "shifted by" in problem.what
    assert "bratskit register" in problem.mend


def test_another_grid_is_a_problem_with_the_same_way_out(cases, tmp_path):
    cut = changed(cases[0], tmp_path, t2=lambda array: array[..., 1:])
    (problem,) = (one for one in find_doubts(cut) if one.severity == "problem")
    assert problem.kind == "grid"
    assert "bratskit register" in problem.mend


def wear_skull(array):
    """Put a brain into a head: half as wide again, and not dark between."""
    inside = [slice(3, length - 3) for length in array.shape]
    head = np.zeros_like(array)
    head[tuple(inside)] = 60
    head[array > 0] = array[array > 0]
    return head


def test_a_head_with_its_skull_is_a_problem_whatever_fills_the_air(cases, tmp_path, rng):
    skulls = dict.fromkeys(MODALITIES, wear_skull)
    (problem,) = (
        one
        for one in find_doubts(changed(cases[0], tmp_path / "skull", **skulls))
        if one.severity == "problem"
    )
    assert problem.kind in ("head", "background")
    assert "hd-bet" in problem.mend

    def add_noise(array):
        return array + rng.integers(1, 9, array.shape).astype(array.dtype)

    noisy = changed(cases[0], tmp_path / "noise", **dict.fromkeys(MODALITIES, add_noise))
    assert "background" in kinds(noisy)


def test_the_large_brain_of_an_atlas_is_no_head(tmp_path, write_case):
    """The template in nilearn's wheel is larger than the people it was made of: 1.9 l."""
    nilearn = pytest.importorskip("nilearn.datasets")
    (path,) = (Path(nilearn.__file__).parent / "data").glob("mni_icbm152_t1*.nii.gz")
    brain = np.asarray(nib.load(path).dataobj)[::2, ::2, ::2]
    four = np.stack([brain] * 4)
    case = write_case(tmp_path, shape=brain.shape, affine=np.diag([2.0, 2, 2, 1]), image=four)
    assert 1700 < np.count_nonzero(brain) * 8 / 1000 < MOST_BRAIN_ML
    assert not {"head", "background"} & {*kinds(case)}


def test_a_modality_without_content_is_a_problem(cases, tmp_path):
    empty = changed(cases[0], tmp_path, t1=np.zeros_like)
    assert kinds(empty) == ["constant"]
    assert not load_scan(empty).image[1].any()  # loading alone would not refuse it


def test_a_folder_is_gone_through_although_one_case_is_not_whole(write_case, tmp_path):
    for number, modalities in enumerate((MODALITIES, MODALITIES[:3], MODALITIES)):
        write_case(tmp_path, f"BraTS20_Training_{number:03d}", modalities=modalities)
    first = write_case(tmp_path, "BraTS20_Training_000")
    twin = first.paths["t1"]
    twin.with_name(twin.name.removesuffix(".gz")).write_bytes(twin.read_bytes())
    cases, faults = find_scans(tmp_path)
    assert [case.id for case in cases] == ["BraTS20_Training_002"]
    assert cases[0].labels_path is None
    assert "lacks t2. Add BraTS20_Training_001_t2.nii.gz" in faults["BraTS20_Training_001"]
    assert "must be one file" in faults["BraTS20_Training_000"]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected names"):
        find_scans(tmp_path)


@pytest.mark.slow
def test_real_cases_raise_no_doubt_but_the_one_with_its_known_gap(real_cases):
    cases, faults = find_scans(real_cases)
    found = {case.id: [one.kind for one in find_doubts(case)] for case in cases}
    assert {name: told for name, told in found.items() if told} == {"Brats18_2013_20_1": ["slab"]}
    assert (faults, find_exchange(cases)) == ({}, None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pair", "kind", "least"),
    [
        (("t1", "t2"), {"swapped"}, 22),
        (("flair", "t2"), {"swapped"}, 22),
        (("t1", "t1ce"), {"swapped", "maybe-swapped"}, 18),
        (("flair", "t1ce"), {"swapped", "maybe-swapped"}, 20),
    ],
)
def test_exchanged_real_cases_are_noticed(real_cases, pair, kind, least):
    """One has a gap, and four look like no order at all: of 30, 25 are left to be judged alone."""
    cases, _ = find_scans(real_cases)
    turned = [exchange(case, *pair) for case in cases if case.id != "Brats18_2013_20_1"]
    told = [{one.kind for one in find_doubts(case)} for case in turned]
    assert sum(bool(kind & one) for one in told) >= least
    assert find_exchange(turned) is not None
