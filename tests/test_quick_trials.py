"""Experiments of minutes: equal but for what is changed, and for the seed."""

import dataclasses

import pytest

from bratskit.jobs import begin_run, quick_recipe, run_trials
from bratskit.settings import LossSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return a run of five phantoms at 8 mm, prepared for `smoke`."""
    folder = tmp_path_factory.mktemp("trials") / "run"
    return begin_run(folder, recipe_name="smoke", n_cases=5, phantom_spacing_mm=8.0, epochs=1)


def losses(history):
    return history.column("loss").tolist()


def test_trials_of_one_seed_are_equal_and_of_another_are_not(run, capsys):
    quick = quick_recipe(run.recipe)
    trials = run_trials(run, quick, {"one": {}, "same": {}}, seeds=(3, 4))
    assert [losses(rows) for rows in trials["one"]] == [losses(rows) for rows in trials["same"]]
    assert losses(trials["one"][0]) != losses(trials["one"][1])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit(":")[0] for line in lines if "seed" in line] == [
        "one, seed 3", "same, seed 3", "one, seed 4", "same, seed 4",
    ]  # fmt: skip
    assert not any(line.startswith("epoch") for line in lines)


def test_a_change_reaches_its_trial_alone(run):
    quick = quick_recipe(run.recipe)
    changes = {"both": {}, "dice": {"loss": LossSettings(name="dice")}}
    trials = run_trials(run, quick, changes, seeds=(3,))
    assert losses(trials["dice"][0]) < losses(trials["both"][0])  # a term less


def test_a_quick_recipe_keeps_what_the_cases_were_prepared_for(run):
    wide = dataclasses.replace(run.recipe, modalities=("flair", "t1ce"), targets="regions",
        loss=LossSettings(name="dice_bce"))  # fmt: skip
    quick = quick_recipe(wide)
    assert (quick.geometry, quick.modalities) == (wide.geometry, wide.modalities)
    assert (quick.targets, quick.loss) == ("labels", LossSettings())
    assert quick.training.epochs <= 6
    assert max(quick.training.patch_vox) <= 32
