"""A run opened from any notebook is begun once, and keeps what it was begun with."""

import json
import shutil

import numpy as np
import pytest

from bratskit.cases import Split, check_folders, find_cases, load_scan, make_split
from bratskit.jobs import begin, begin_run
from bratskit.jobs.begin import _split
from bratskit.runtime import RunFolder
from bratskit.settings import Recipe, get_recipe


@pytest.fixture
def real_like(write_case, tmp_path):
    """Make four small cases that stand for a cohort of patients."""
    folder = tmp_path / "cohort"
    for number in range(4):
        write_case(folder, f"BraTS2021_0000{number}")
    return folder


def test_a_second_call_opens_the_same_run(real_like, tmp_path):
    first = begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke")
    again = begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke")
    assert again.split == first.split
    assert again.recipe == first.recipe
    assert {
        case.id for part in ("train", "validation", "test") for case in again.part(part)
    } == set(again.cases)


def test_a_run_refuses_another_recipe_by_name(real_like, tmp_path):
    begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)
    with pytest.raises(ValueError, match=r"recipe_name must be 'smoke'.*another run_dir"):
        begin_run(tmp_path / "run", data_dir=real_like, recipe_name="tiny")


def test_a_run_refuses_other_data_by_name(real_like, tmp_path):
    begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)
    with pytest.raises(ValueError, match="data_dir must be"):
        begin_run(tmp_path / "run", recipe_name="smoke")


def test_epochs_override_the_recipe_of_a_new_run_only(real_like, tmp_path):
    begin_run(
        tmp_path / "run", data_dir=real_like, recipe_name="smoke", epochs=7, is_prepared=False
    )
    run = begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)
    assert run.recipe.training.epochs == 7


def test_extra_phantoms_are_trained_on_and_never_scored(real_like, tmp_path):
    own = find_cases(real_like)
    extra = find_cases(real_like)[:1]
    object.__setattr__(extra[0], "id", "ExtraPhantom_00000")
    split = _split(RunFolder(tmp_path / "run").create(), own, extra, recipe=get_recipe("smoke"))
    assert "ExtraPhantom_00000" in split.train
    assert "ExtraPhantom_00000" not in {*split.validation, *split.test}


def test_extra_phantoms_are_other_phantoms_than_a_cohort_of_the_same_seed(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(begin, "make_cohort", lambda folder, **words: asked.update(words) or [])
    recipe = get_recipe("laptop")
    begin._extra_phantoms(RunFolder(tmp_path), recipe)
    assert asked["seed"] != recipe.seed
    assert asked["prefix"] != "Phantom"


def with_twins(folder, write_case):
    """Make four patients, and each of them again under a name that does not tell."""
    twins = []
    for number in range(4):
        case = write_case(folder, f"BraTS2021_0000{number}")
        other = folder / f"BRATS_10{number}"
        other.mkdir()
        for path in (*case.paths.values(), case.labels_path):
            shutil.copy(path, other / path.name.replace(case.id, other.name))
        twins.append((other.name, case.id))
    return twins


def test_a_patient_under_two_names_is_in_one_part(write_case, tmp_path, capsys):
    twins = with_twins(tmp_path / "cohort", write_case)
    words = {"data_dir": tmp_path / "cohort", "recipe_name": "smoke", "is_prepared": False}
    run = begin_run(tmp_path / "run", **words)
    parts = run.split.part_of
    assert [parts[one] for one, _ in twins] == [parts[other] for _, other in twins]
    assert run.split.same_patient == tuple(twins)
    assert "kept in one part: BRATS_100 = BraTS2021_00000; BRATS_101" in capsys.readouterr().out


def test_a_run_whose_split_was_drawn_blindly_is_refused(write_case, tmp_path):
    (one, other), *_ = with_twins(tmp_path / "cohort", write_case)
    cases = find_cases(tmp_path / "cohort")
    run = RunFolder(tmp_path / "run").create()
    ids = [case.id for case in cases if case.id not in (one, other)]
    Split(train=(one, *ids[2:]), validation=(other,), test=tuple(ids[:2])).save(run.split)
    words = {"data_dir": tmp_path / "cohort", "recipe_name": "smoke", "is_prepared": False}
    begin_run(run.path, **words)  # nobody has read the scans, and that takes long
    check_folders([tmp_path / "cohort"], journal="auto")
    msg = rf"got {one} in train and {other} in validation .*Choose another run_dir"
    with pytest.raises(ValueError, match=msg):
        begin_run(run.path, **words)


def test_patients_without_twins_are_drawn_as_ever(real_like, tmp_path):
    run = begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)
    assert run.split == make_split(list(run.cases), seed=0)
    assert run.split.same_patient == ()


def test_phantoms_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(begin, "read_fingerprints", None)
    words = {"n_cases": 3, "phantom_spacing_mm": 10.0, "recipe_name": "smoke"}
    assert begin_run(tmp_path / "run", is_prepared=False, **words).is_phantom


@pytest.mark.slow
def test_the_thirty_real_patients_are_drawn_as_for_the_stored_results(real_cases, tmp_path):
    run = begin_run(tmp_path / "run", data_dir=real_cases, recipe_name="smoke", is_prepared=False)
    enhancing = {name: fact.has_et for name, fact in run.split.facts.items()}
    assert run.split == make_split(list(run.cases), seed=0, has_et=enhancing)


def test_a_manifest_of_other_cases_is_refused(real_like, tmp_path):
    run = begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)
    manifest = json.loads(run.folder.split.read_text())
    manifest["test"] = ["Nobody_1"]
    run.folder.split.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="Delete it to draw a new split"):
        begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)


def test_the_settings_of_the_run_are_a_recipe_that_loads(real_like, tmp_path):
    run = begin_run(tmp_path / "run", data_dir=real_like, recipe_name="smoke", is_prepared=False)
    assert Recipe.load(run.folder.settings) == run.recipe


def test_the_edition_is_said_once_and_kept(write_case, tmp_path):
    labels = np.zeros((24, 28, 20), np.uint8)
    labels[8:14, 8:14, 8:12] = 4  # edema of a child; enhancing tumour until 2021
    for number in range(4):
        write_case(tmp_path / "ped", f"BraTS-PED-0000{number}-000", labels=labels)
    words = {"data_dir": tmp_path / "ped", "recipe_name": "smoke", "is_prepared": False}
    first = begin_run(tmp_path / "run", edition="brats2024-ped", **words)
    again = begin_run(tmp_path / "run", **words)
    assert first.edition == again.edition == "brats2024-ped"
    assert np.unique(load_scan(next(iter(again.cases.values()))).labels).tolist() == [0, 2]
    with pytest.raises(ValueError, match="edition must be 'brats2024-ped'"):
        begin_run(tmp_path / "run", edition="brats2017-2021", **words)


def test_phantoms_are_made_in_the_edition_that_is_asked_for(tmp_path):
    words = {"recipe_name": "smoke", "n_cases": 3, "phantom_spacing_mm": 8.0, "is_prepared": False}
    first = begin_run(tmp_path / "run", edition="msd-task01", **words)
    again = begin_run(tmp_path / "run", **words)
    assert first.edition == again.edition == "msd-task01"
    assert {case.schema.name for case in again.cases.values()} == {"msd-task01"}
    assert (tmp_path / "run" / "cases" / "imagesTr").is_dir()
    with pytest.raises(ValueError, match="edition must be 'msd-task01'"):
        begin_run(tmp_path / "run", edition="brats2017-2021", **words)


def test_phantoms_of_no_named_edition_are_the_default_ones_and_name_none(tmp_path):
    words = {"recipe_name": "smoke", "n_cases": 3, "phantom_spacing_mm": 8.0, "is_prepared": False}
    run = begin_run(tmp_path / "run", **words)
    assert {case.schema.name for case in run.cases.values()} == {run.edition} == {"brats2017-2021"}
    kept = json.loads(run.folder.source.read_text())
    assert kept == {"data_dir": "", "n_cases": 3, "seed": 0, "spacing_mm": 8.0}


def test_a_run_begun_before_editions_were_kept_has_the_default(real_like, tmp_path):
    words = {"data_dir": real_like, "recipe_name": "smoke", "is_prepared": False}
    begin_run(tmp_path / "run", **words)
    assert begin_run(tmp_path / "run", edition="brats2017-2021", **words).edition
    with pytest.raises(ValueError, match="edition must be 'brats2017-2021'"):
        begin_run(tmp_path / "run", edition="brats2023-gli", **words)


def test_a_run_whose_seed_is_kept_for_training_is_refused_before_it_is_made(tmp_path):
    for begun in (begin_run, begin.refuse_other_run):
        with pytest.raises(ValueError, match=r"seed must be 0 to 19999 .*got 20000"):
            begun(tmp_path / "run", seed=20_000)
    assert not (tmp_path / "run").exists()
