"""What is kept as the best, when training ends early, and what a run that goes on does then."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from test_step import Full
from training import fill_store, small_recipe, small_split, weight_hash

from bratskit.cli import main
from bratskit.networks import load_checkpoint, network_of
from bratskit.runtime import RunFolder
from bratskit.settings import Recipe, TrainingSettings
from bratskit.train import History, Learner, train
from bratskit.train.track import find_best, stopped_early

CPU = torch.device("cpu")
DICE = ("dice_WT", "dice_TC", "dice_ET")


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=4)


@pytest.fixture
def judged(monkeypatch):
    """Return the scores that validations give one after another, and what they were given."""
    scores, networks = [], []

    def validate(network, prepared, recipe, **_):
        row = dict.fromkeys((*DICE, "dice_mean", "hd95_WT"))
        if prepared:
            networks.append({name: v.clone() for name, v in network.state_dict().items()})
            row = dict.fromkeys(row, scores[len(networks) - 1])
        return row | {"dice_grid": "prepared"}

    monkeypatch.setattr("bratskit.train.loop.validate", validate)
    return scores, networks


def go(store, run: RunFolder, recipe: Recipe, **changes: object) -> History:
    folder, ids = store
    settings = {"split": small_split(ids), "device": CPU, "deterministic": True} | changes
    return train(folder, run, recipe=recipe, **settings)


def recipe_of(**training: object) -> Recipe:
    settings = {"epochs": 6, "steps_per_epoch": 1, "validate_every": 1} | training
    return small_recipe(**settings)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


# -- the average


def test_the_average_is_what_is_validated_and_kept_and_last_holds_both(store, tmp_path, judged):
    judged[0][:] = [0.1, 0.3, 0.2]
    run = RunFolder(tmp_path / "run")
    go(store, run, recipe_of(ema_decay=0.5, epochs=3))
    best, last = load_checkpoint(run.best), load_checkpoint(run.last)
    assert best.card["epoch"] == 2
    assert same(best.network.state_dict(), judged[1][1])
    average = last.training["learner"]["average"]
    assert same(average, judged[1][2])
    assert not same(average, last.network.state_dict())


def test_a_run_with_an_average_begins_it_at_the_weights_it_starts_from(store, tmp_path, judged):
    judged[0][:] = [0.1]
    run = RunFolder(tmp_path / "run")
    go(store, run, recipe_of(epochs=1, learning_rate=1e-30))
    nearly = {"epochs": 1, "learning_rate": 1e-30, "start_from": str(run.best), "seed": 1}
    seed = nearly.pop("seed")
    recipe = dataclasses.replace(recipe_of(ema_decay=0.999, **nearly), seed=seed)
    judged[1].clear()
    go(store, RunFolder(tmp_path / "next"), recipe)
    start = dict(load_checkpoint(run.best).network.named_parameters())
    for name, value in start.items():
        torch.testing.assert_close(judged[1][0][name], value)


# -- the metric that chooses


@pytest.mark.parametrize(("select_by", "epoch"), [("dice_ET", 2), ("hd95_WT", 3)])
def test_the_best_is_the_best_of_the_named_metric(store, tmp_path, judged, select_by, epoch):
    judged[0][:] = [0.2, 0.4, 0.1, 0.4]
    run = RunFolder(tmp_path / "run")
    go(store, run, recipe_of(epochs=4, select_by=select_by))
    card = load_checkpoint(run.best).card
    assert card["epoch"] == epoch  # distances: less is better; of equals, the first
    assert card[select_by] == judged[0][epoch - 1]
    assert same(load_checkpoint(run.best).network.state_dict(), judged[1][epoch - 1])


def test_a_metric_that_is_not_measured_is_refused_before_anything_is_learned(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"select_by must be one of \['dice_WT'.*got 'dice_wt'"):
        go(store, run, recipe_of(select_by="dice_wt"))
    assert not run.path.exists()


def test_patience_without_validation_patients_is_refused(store, tmp_path):
    split = dataclasses.replace(small_split(store[1]), validation=())
    with pytest.raises(ValueError, match="patience must be 0 without validation patients; got 3"):
        go(store, RunFolder(tmp_path / "run"), recipe_of(patience=3), split=split)


# -- ending early


def test_training_ends_when_validations_no_longer_improve_and_a_rerun_leaves_it(
    store, tmp_path, judged, capsys
):
    judged[0][:] = [0.1, 0.5, 0.4, 0.5]
    run, recipe = RunFolder(tmp_path / "run"), recipe_of(patience=2)
    assert len(go(store, run, recipe)) == 4
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == (
        "stopped early after epoch 4 of 6: 2 validations no better than dice_mean 0.500 at epoch 2"
    )
    before = run.last.read_bytes()
    assert len(go(store, run, recipe)) == 4
    assert f"{line}, nothing to train" in capsys.readouterr().out
    assert run.last.read_bytes() == before


def test_a_run_that_goes_on_stops_early_where_the_whole_one_does(store, tmp_path, judged):
    judged[0][:] = [0.1, 0.5, 0.4, 0.5]
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    go(store, whole, recipe_of(patience=2))
    judged[1].clear()
    for expected in (1, 2, 3, 4, 4):
        assert len(go(store, parts, recipe_of(patience=2), max_minutes=0)) == expected
    assert weight_hash(parts.last) == weight_hash(whole.last)
    assert weight_hash(parts.best) == weight_hash(whole.best)


def test_time_that_is_up_when_training_ends_early_asks_for_no_next_command(
    store, tmp_path, judged, capsys
):
    judged[0][:] = [0.5, 0.4]
    folder, run = store[0], RunFolder(tmp_path / "run")
    go(store, run, recipe_of(patience=1), max_minutes=0)
    said = capsys.readouterr().out
    assert "time is up after epoch 1 of 6. Go on by calling train again, or: bratskit" in said
    torch.use_deterministic_algorithms(False)
    go(store, run, recipe_of(patience=1), max_minutes=0)
    said = capsys.readouterr().out
    assert "stopped early after epoch 2 of 6" in said
    assert "time is up" not in said
    assert folder.is_dir()


def test_the_command_that_is_printed_goes_on_and_exits_with_nothing_wrong(store, tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    go(store, run, recipe_of(patience=2, epochs=2), max_minutes=0, deterministic=False)
    words = capsys.readouterr().out.split("or: bratskit ")[1].split()
    assert main([*words, "--max-minutes", "0"]) == 0
    assert len(History.load(run.history)) == 2


def test_patience_counts_validations_not_epochs_by_hand():
    training = TrainingSettings(patience=2, epochs=9)
    values = [0.1, None, 0.4, None, 0.3, None, None, 0.4]
    rows = [{"epoch": n, "dice_mean": value} for n, value in enumerate(values, start=1)]
    assert find_best(History(rows), "dice_mean")["epoch"] == 3
    ends = [bool(stopped_early(History(rows[:n]), training)) for n in range(len(rows) + 1)]
    assert ends == [False] * 8 + [True]
    assert not stopped_early(History(rows), dataclasses.replace(training, patience=0))
    nothing = History([{"dice_mean": np.nan}, {"dice_mean": None}])
    assert find_best(nothing, "dice_mean") is None


# -- memory that ran out


def test_less_memory_is_told_in_the_history_and_a_run_goes_on_with_it(store, tmp_path, monkeypatch):
    recipe = recipe_of(epochs=3, batch=2, validate_every=3)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    real, seen = Learner._loss, []

    def loss(self: Learner, image: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(len(image))
        if self.step_number >= 1 and len(image) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(self, image, labels)

    monkeypatch.setattr(Learner, "_loss", loss)
    with pytest.warns(RuntimeWarning, match="out of memory at step 2; going on with 1 of 2"):
        history = go(store, whole, recipe)
    assert [row.get("fallback") for row in history] == [None, *2 * ["1 of 2 patches at a time"]]
    assert seen == [2, 2, 1, 1, 1, 1]
    go(store, parts, recipe, max_minutes=0)
    with pytest.warns(RuntimeWarning, match="at step 2"):
        go(store, parts, recipe, max_minutes=0)
    seen.clear()
    go(store, parts, recipe)  # no warning: it begins with one patch at a time
    assert seen == [1, 1]
    assert weight_hash(parts.last) == weight_hash(whole.last)
    assert json.loads(parts.history.read_text().splitlines()[2])["fallback"]


def test_memory_for_no_patch_ends_the_command_in_one_line(store, tmp_path, monkeypatch, capsys):
    run = RunFolder(tmp_path / "run")
    go(store, run, recipe_of(batch=1), max_minutes=0, deterministic=False)
    before = run.last.read_bytes()
    monkeypatch.setattr(
        "bratskit.train.loop.network_of", lambda recipe: Full(network_of(recipe), holds=0)
    )
    monkeypatch.setattr(Full, "load_state_dict", lambda self, w: self.inner.load_state_dict(w))
    capsys.readouterr()
    assert main(["train", str(store[0]), str(run.path), "--resume"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory must hold one patch; it ran out at step 2 (CUDA out of memory" in line
    assert run.last.read_bytes() == before
