"""`bratskit tune` chooses on validation patients only, keeps what it tried, and goes on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bratskit.cases import Split, load_scan
from bratskit.cli import main
from bratskit.evaluate import dice
from bratskit.jobs.tune import tune, validation_cases
from bratskit.labels import REGIONS
from bratskit.networks import build_network, load_checkpoint, save_checkpoint
from bratskit.predict import predict_case
from bratskit.runtime import RunFolder
from bratskit.settings import (
    GeometrySettings,
    InferenceSettings,
    NetworkSettings,
    Recipe,
    TrainingSettings,
)

IDS = [f"BraTS20_Training_{number:03d}" for number in range(5)]
SPLIT = Split(train=tuple(IDS[:2]), validation=tuple(IDS[2:4]), test=(IDS[4],))
RECIPE = Recipe(
    name="test",
    geometry=GeometrySettings(spacing_mm=None),
    network=NetworkSettings(channels=(4, 8)),
    training=TrainingSettings(patch_vox=(16, 16, 16)),
    inference=InferenceSettings(mode="single", window_vox=(16, 16, 16), smallest_et_vox=7),
)


@pytest.fixture
def cases(tmp_path, write_case):
    return {name: write_case(tmp_path / "cases", name, shape=(16, 18, 14)) for name in IDS}


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "run").create()
    SPLIT.save(run.split)
    torch.manual_seed(0)
    network = build_network(RECIPE.network, in_channels=4, out_channels=4)
    with torch.no_grad():  # so that a random network says tumour here and there, not everywhere
        list(network.parameters())[-1].copy_(torch.tensor([0.3, 0.0, 0.1, 0.0]))
    card = {"trained_on": IDS[:2], "selected_on": IDS[2:4], "dice_mean": 0.1, "epoch": 1}
    save_checkpoint(run.best, network=network, recipe=RECIPE, card=card)
    return run


def chosen_of(cases):
    return [cases[name] for name in IDS[2:4]]


def test_the_tuned_network_scores_what_the_choice_says(run, cases):
    choice = tune(run, chosen_of(cases))
    model = load_checkpoint(run.tuned)
    found = []
    for case in chosen_of(cases):
        pred, truth = predict_case(case, model=model).labels, load_scan(case).labels
        pairs = [(np.isin(pred, r), np.isin(truth, r)) for r in REGIONS.values()]
        found.append([dice(*pair, when_both_empty="one") for pair in pairs])
    assert list(choice.dice["chosen"].values()) == pytest.approx(np.mean(found, axis=0).tolist())
    assert model.recipe.inference == choice.settings
    assert replace(model.recipe, inference=RECIPE.inference) == RECIPE


def test_card_and_file_say_who_chose_what_and_what_it_was_worth(run, cases):
    choice = tune(run, chosen_of(cases))
    card, best = load_checkpoint(run.tuned).card, load_checkpoint(run.best)
    kept = json.loads(run.tuning.read_text())
    assert card["tuned"]["patients"] == kept["patients"] == IDS[2:4]
    assert card["tuned"]["from"] == kept["model"] == best.checksum
    assert card["tuned"]["dice"] == kept["dice"] == choice.dice
    assert list(kept["dice"]) == ["without", "recipe", "chosen", "left out"]
    assert {trial["setting"] for trial in kept["trials"]} == set(choice.values)
    assert {name: card[name] for name in best.card if name != "made_by"} == {
        name: best.card[name] for name in best.card if name != "made_by"
    }


@pytest.mark.parametrize(("number", "part"), [(0, "learned from"), (4, "test")])
def test_patients_that_must_choose_nothing_are_refused_by_name(run, cases, number, part):
    with pytest.raises(ValueError, match=rf"validation patients of .*{IDS[number]} \({part}\)"):
        tune(run, [*chosen_of(cases), cases[IDS[number]]])
    assert not run.tuned.exists()


def test_strangers_and_nobody_are_refused(run, cases):
    stranger = replace(cases[IDS[2]], id="BraTS20_Training_300")
    with pytest.raises(ValueError, match=r"300 \(not of this run\)"):
        tune(run, [stranger])
    with pytest.raises(ValueError, match="got none"):
        tune(run, [])


def test_a_second_call_predicts_nobody_again_and_says_the_same(run, cases, monkeypatch):
    first = tune(run, chosen_of(cases))

    def fail(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("bratskit.predict.folder.predict_scan", fail)
    monkeypatch.setattr("bratskit.jobs.tune.fit_temperature", fail)
    assert tune(run, chosen_of(cases)) == first


def test_without_temperature_the_recipes_own_stays(run, cases):
    fitted = tune(run, chosen_of(cases)).settings.temperature
    assert fitted != 1
    assert tune(run, chosen_of(cases), with_temperature=False).settings.temperature == 1


def test_only_validation_patients_are_taken_from_a_folder(run, cases, tmp_path):
    found = validation_cases(run, tmp_path / "cases", schema="brats2017-2021")
    assert [case.id for case in found] == IDS[2:4]
    cases[IDS[3]].labels_path.unlink()
    with pytest.raises(ValueError, match=rf"got none for {IDS[3]} \(1 of 2\)"):
        validation_cases(run, tmp_path / "cases", schema="brats2017-2021")


def test_the_command_says_scores_without_and_with(run, cases, tmp_path, capsys):
    assert len(cases) == len(IDS)
    assert main(["tune", str(run.path), str(tmp_path / "cases"), "--no-temperature"]) == 0
    said = capsys.readouterr().out
    assert "without" in said
    assert "left out" in said
    assert f"Tuned: {run.tuned}" in said


def test_a_run_that_does_not_know_its_cases_asks_for_them(run, capsys):
    assert main(["tune", str(run.path)]) == 2
    assert "DIR must be given" in capsys.readouterr().err
