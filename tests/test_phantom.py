"""Phantoms: the same seed gives the same patient, truth is exact, and the tumour looks like one."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import find_cases, load_scan
from bratskit.cases.phantoms import (
    GENERATOR,
    Ingredients,
    Phantom,
    make_cohort,
    make_phantom,
    write_phantom,
)
from bratskit.cases.phantoms.frame import COHORT_SEEDS, EXTRA_SEED, FIT_SEED, STREAM_SEED
from bratskit.cases.phantoms.simulate import aged, simulate
from bratskit.cli import main
from bratskit.labels import MODALITIES

COARSE = (4.0, 4.0, 4.0)  # 60x60x39 voxels: a phantom in a fraction of a second


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return make_phantom(5, spacing_mm=COARSE)


HASH = (
    "import hashlib, torch\n"
    "from bratskit.cases.phantoms.simulate import simulate\n"
    "made = simulate((1, 2), spacing_mm=(6.0, 6.0, 6.0))\n"
    "parts = [made.image, made.labels, made.tumour.oedema]\n"
    "content = b''.join(part.numpy().tobytes() for part in parts)\n"
    "print(torch.backends.cpu.get_cpu_capability(), hashlib.sha256(content).hexdigest())"
)


def test_a_processor_of_another_age_makes_the_same_bits():
    made = {}
    for words in ({"ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "2"}, {}):
        ran = subprocess.run(
            [sys.executable, "-c", HASH],
            env=os.environ | words,
            capture_output=True,
            text=True,
            check=True,
        )
        used, digest = ran.stdout.split()
        made[used] = digest
    assert "DEFAULT" in made
    assert len(set(made.values())) == 1, made


def test_two_workers_of_a_script_without_a_guard_write_what_one_writes_here(tmp_path: Path):
    words = {"n_cases": 2, "seed": 5, "spacing_mm": (8.0, 8.0, 8.0)}
    make_cohort(tmp_path / "one", workers=1, **words)
    script = (
        "from bratskit.cases import make_cohort\n"
        f"make_cohort({str(tmp_path / 'two')!r}, workers=2, **{words})"
    )
    subprocess.run([sys.executable], input=script, text=True, check=True, capture_output=True)
    assert len(list((tmp_path / "two").glob("Phantom_0000?/*_seg.nii.gz"))) == 2
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


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


def test_the_shell_says_how_many_phantoms_lie_in_the_folder(tmp_path: Path, capsys):
    words = ["phantom", str(tmp_path), "--workers", "1", "--spacing", "10", "10", "10", "--cases"]
    assert main([*words, "3"]) == main([*words, "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[-2:] == [f"3 phantoms in {tmp_path}", f"2 phantoms in {tmp_path}, where 3 lie"]


def test_a_folder_with_another_cohort_is_refused(tmp_path: Path):
    make_cohort(tmp_path, n_cases=1, seed=0, spacing_mm=COARSE, workers=1)
    with pytest.raises(ValueError, match=r"has seed \[0, 0\], not \[1, 0\]"):
        make_cohort(tmp_path, n_cases=1, seed=1, spacing_mm=COARSE, workers=1)


def test_no_case_at_all_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="n_cases must be 1 or more; got 0"):
        make_cohort(tmp_path, n_cases=0)


@pytest.mark.parametrize("seed", [STREAM_SEED, EXTRA_SEED, FIT_SEED + 3])
def test_a_cohort_of_phantoms_that_networks_learn_from_is_refused(tmp_path: Path, capsys, seed):
    with pytest.raises(ValueError, match=rf"seed must be 0 to 19999 .*for training\); got {seed}"):
        make_cohort(tmp_path / "made", n_cases=1, seed=seed)
    assert main(["phantom", str(tmp_path / "made"), "--cases", "1", "--seed", str(seed)]) != 0
    assert "seed must be 0 to 19999" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()


def test_extra_phantoms_have_the_seeds_kept_for_them_and_no_others(tmp_path: Path):
    for seed in (0, EXTRA_SEED - 1, STREAM_SEED):
        with pytest.raises(ValueError, match="seed must be 20000 to 39999 for training"):
            make_cohort(tmp_path, n_cases=1, seed=seed, is_for_training=True)


def test_no_two_uses_of_a_seed_meet():
    firsts = [0, EXTRA_SEED, STREAM_SEED, FIT_SEED]
    assert firsts == [0, 20_000, 40_000, 60_000]  # what was trained before stays what it was
    assert all(b - a >= COHORT_SEEDS for a, b in itertools.pairwise(firsts))


def test_a_single_seed_is_case_0_of_its_cohort():
    one, first = (make_phantom(seed, spacing_mm=(8.0, 8.0, 8.0)) for seed in (7, (7, 0)))
    assert (one.scan.image == first.scan.image).all()


@pytest.mark.parametrize("seed", [2**32, (0, 2**32 + 7), -1])
def test_a_seed_that_numpy_would_split_in_two_is_refused(seed):
    with pytest.raises(ValueError, match=r"seed must be 0 or more, and below 2\*\*32; got"):
        make_phantom(seed, spacing_mm=(8.0, 8.0, 8.0))


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
    path.write_text(path.read_text().replace(f'"generator": {GENERATOR}', '"generator": 1'))
    with pytest.raises(ValueError, match=f"generator 1, not {GENERATOR}"):
        make_cohort(tmp_path, n_cases=1, spacing_mm=(4.0, 4.0, 4.0), workers=1)


def test_other_ingredients_are_another_cohort(tmp_path: Path):
    words = {"n_cases": 1, "spacing_mm": (8.0, 8.0, 8.0), "workers": 1}
    make_cohort(tmp_path, **words)
    with pytest.raises(ValueError, match=r"has mimics 1\.0, not 0\.0"):
        make_cohort(tmp_path, ingredients=Ingredients(mimics=0), **words)


def test_a_cavity_is_written_as_4_where_the_edition_has_it_and_as_background_elsewhere(tmp_path):
    ingredients = Ingredients(cavity=2)
    made = (make_phantom(s, spacing_mm=COARSE, ingredients=ingredients) for s in range(20))
    phantom = next(one for one in made if one.cavity is not None)
    new = write_phantom(phantom, tmp_path / "new", edition="brats2024-gli")
    old = write_phantom(phantom, tmp_path / "old", edition="brats2023-gli")
    written = np.asarray(nib.load(new.labels_path).dataobj)
    assert (written == 4).sum() == phantom.cavity.sum()
    assert 4 not in np.asarray(nib.load(old.labels_path).dataobj)
    for case in (new, old):
        np.testing.assert_array_equal(load_scan(case).labels, phantom.scan.labels)


def test_a_third_or_so_of_a_2024_cohort_has_a_cavity_and_no_other_edition_has(tmp_path: Path):
    cases = make_cohort(
        tmp_path, n_cases=12, spacing_mm=(8.0, 8.0, 8.0), edition="brats2024-gli", workers=1
    )
    found = [4 in np.asarray(nib.load(case.labels_path).dataobj) for case in cases]
    assert 1 <= sum(found) <= 8
    truths = [json.loads(path.read_text()) for path in tmp_path.rglob("*_truth.json")]
    assert {truth["ingredients"]["cavity"] for truth in truths} == {1.0}


@pytest.mark.parametrize("edition", ["brats2017-2021", "msd-task01"])
def test_level_sets_lie_beside_the_truth_and_on_the_grid_of_the_labels(tmp_path, edition):
    words = {"n_cases": 1, "spacing_mm": (8.0, 8.0, 8.0), "edition": edition, "workers": 1}
    make_cohort(tmp_path, **words)
    assert not list(tmp_path.rglob("*.npz"))
    (case,) = make_cohort(tmp_path, level_sets=True, **words)  # made again: they were not there
    (path,) = tmp_path.rglob("*_truth.npz")
    assert path.with_suffix(".json").exists()
    with np.load(path) as levels:
        scan = load_scan(case)
        np.testing.assert_array_equal(levels["WT"] > 0, scan.labels > 0)
        np.testing.assert_array_equal(levels["affine"], scan.affine)
    assert [case.id for case in find_cases(tmp_path, schema=edition)] == ["Phantom_00000"]


@pytest.mark.parametrize(
    ("words", "error", "helps"),
    [
        ({"seed": "a"}, TypeError, "Take 0"),
        ({"seed": 1.5}, TypeError, "Take 0"),
        ({"spacing_mm": 4}, TypeError, r"\(1, 1, 1\)"),
        ({"ingredients": {"mimics": 0}}, TypeError, r"Ingredients\(mimics=0\)"),
    ],
)
def test_what_is_no_phantom_is_refused_with_what_would_be(words, error, helps):
    with pytest.raises(error, match=helps):
        make_phantom(**{"seed": 3, "spacing_mm": (8.0, 8.0, 8.0), **words})


@pytest.mark.parametrize(
    "change", [{"whole_ml": -5.0}, {"core_share": 1.5}, {"push": float("nan")}, {"kind": "foo"}]
)
def test_a_plan_that_is_no_tumour_is_refused_by_name(phantom: Phantom, change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"growth\.{name} must be"):
        make_phantom(3, spacing_mm=(8, 8, 8), growth=replace(phantom.growth, **change))


@pytest.mark.parametrize("centre_mm", [(1000.0, 0.0, 0.0), (2.0, 2.0, 2.0), (float("nan"),) * 3])
def test_a_tumour_outside_the_head_is_refused_with_a_place_inside(phantom: Phantom, centre_mm):
    with pytest.raises(ValueError, match=r"centre_mm must lie in this head's brain.* starts at \("):
        make_phantom(3, spacing_mm=(8, 8, 8), growth=replace(phantom.growth, centre_mm=centre_mm))


def test_white_matter_lesions_come_with_age():
    made = simulate(3, spacing_mm=(10, 10, 10))
    drawn = replace(made.contrast, confluent=1.0, punctate=0.5)
    young, old = (aged(drawn, replace(made.head, age=age)) for age in (0.0, 1.0))
    assert (young.confluent, old.confluent) == pytest.approx((0.3, 1.7))
    assert (young.punctate, old.punctate) == pytest.approx((0.15, 0.85))


def test_a_phantom_says_what_it_is_in_one_line(phantom: Phantom):
    assert len(repr(phantom)) < 220
    assert f"{phantom.growth.kind} tumour, WT " in repr(phantom)


def test_a_given_tumour_grows_in_the_head_that_the_seed_draws():
    words = {"spacing_mm": (6.0, 6.0, 6.0)}
    own = make_phantom(3, **words)
    growth = replace(own.growth, whole_ml=own.growth.whole_ml / 4)
    small = make_phantom(3, growth=growth, **words)
    assert small.truth["head"] == own.truth["head"]
    volumes = [one.truth["volumes_ml"]["continuous"]["WT"] for one in (small, own)]
    assert volumes[0] == pytest.approx(volumes[1] / 4, rel=0.35)


def test_the_seed_s_own_tumour_given_back_changes_nothing():
    own = make_phantom(3, spacing_mm=(6.0, 6.0, 6.0))
    again = make_phantom(3, spacing_mm=(6.0, 6.0, 6.0), growth=own.growth)
    np.testing.assert_array_equal(again.scan.image, own.scan.image)


def test_leaving_an_ingredient_out_keeps_the_patient():
    words = {"spacing_mm": (6.0, 6.0, 6.0)}
    with_noise = make_phantom(3, **words)
    without = make_phantom(3, ingredients=Ingredients(noise=0, bias=0), **words)
    np.testing.assert_array_equal(without.scan.labels, with_noise.scan.labels)
    assert (without.scan.image != with_noise.scan.image).any()


def test_a_killed_worker_leaves_no_half_case_and_the_cohort_goes_on(tmp_path: Path):
    unfinished = tmp_path / ".Phantom_00001-1"
    unfinished.mkdir()
    (unfinished / "Phantom_00001_t1.nii.gz").touch()
    cases = make_cohort(tmp_path, n_cases=2, spacing_mm=(8.0, 8.0, 8.0), workers=1)
    assert not unfinished.exists()
    assert len(find_cases(tmp_path)) == len(cases) == 2
