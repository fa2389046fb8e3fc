"""A run that is stopped anywhere, however rudely, ends with the weights of one that was not."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from training import fill_store, small_recipe, small_split, weight_hash

from bratskit.runtime import RunFolder
from bratskit.settings import Recipe
from bratskit.train import History, Learner, train

TESTS = Path(__file__).parent

KILLED_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from training import small_recipe, small_split
from bratskit.preprocess import list_prepared
from bratskit.runtime import RunFolder
from bratskit.settings import Recipe
from bratskit.train import train
folder = Path({folder!r})
train(folder, RunFolder(Path({run!r})), recipe=small_recipe(dropout=0.2, epochs={epochs}),
      split=small_split(list_prepared(folder)), deterministic=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=4)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the killed process: sums in another order round otherwise
    yield
    torch.set_num_threads(before)


def go(store: tuple[Path, list[str]], run: RunFolder, **changes: object) -> History:
    folder, ids = store
    settings = {"recipe": small_recipe(dropout=0.2), "deterministic": True} | changes
    return train(folder, run, split=small_split(ids), **settings)


def untimed(history: History) -> list[dict[str, object]]:
    return [{name: row[name] for name in row if name != "seconds"} for row in history]


def stop_after(epoch: int) -> Callable[[History], None]:
    """Interrupt the run, as Ctrl-C does, when an epoch is done."""

    def interrupt(history: History) -> None:
        if len(history) == epoch:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("at", [1, 2, 3])
def test_an_interrupted_run_ends_with_the_same_bits(store, tmp_path, at: int, capsys):
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    expected = go(store, whole)
    with pytest.raises(KeyboardInterrupt):
        go(store, parts, on_epoch=stop_after(at))
    assert f"stopped after epoch {at} of 4. Go on by calling train again" in capsys.readouterr().out
    assert untimed(go(store, parts)) == untimed(expected)
    assert weight_hash(parts.last) == weight_hash(whole.last)
    assert weight_hash(parts.best) == weight_hash(whole.best)


def test_generators_that_only_libraries_draw_from_go_on_too(store, tmp_path, monkeypatch):
    drawn, real = [], Learner.step

    def step(self: Learner, *inputs: object, **names: object) -> float:
        drawn.append((random.random(), np.random.normal()))  # noqa: NPY002
        return real(self, *inputs, **names)

    monkeypatch.setattr(Learner, "step", step)
    recipe = small_recipe(epochs=3, steps_per_epoch=1, validate_every=9)
    go(store, RunFolder(tmp_path / "whole"), recipe=recipe)
    whole = [*drawn]
    drawn.clear()
    for _ in range(3):
        go(store, RunFolder(tmp_path / "parts"), recipe=recipe, max_minutes=0)
    assert drawn == whole
    assert len(set(drawn)) == 3


def test_an_interrupt_inside_an_epoch_repeats_that_epoch(store, tmp_path, monkeypatch):
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    go(store, whole)
    real = Learner.step

    def stop_at_eight(self: Learner, *inputs: object, **names: object) -> float:
        if self.step_number == 7:
            raise KeyboardInterrupt
        return real(self, *inputs, **names)

    monkeypatch.setattr(Learner, "step", stop_at_eight)
    with pytest.raises(KeyboardInterrupt):
        go(store, parts)
    monkeypatch.setattr(Learner, "step", real)
    assert len(History.load(parts.history)) == 2
    go(store, parts)
    assert weight_hash(parts.last) == weight_hash(whole.last)


def test_a_killed_process_leaves_a_run_that_ends_with_the_same_bits(store, tmp_path):
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed").create()
    recipe = small_recipe(dropout=0.2, epochs=8)
    code = KILLED_RUN.format(tests=str(TESTS), folder=str(store[0]), run=str(killed.path), epochs=8)
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=TESTS.parent
    )
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    time.sleep(0.02)  # somewhere inside the next epoch or its files
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert 3 <= len(History.load(killed.history)) < 8
    expected = go(store, whole, recipe=recipe)
    assert untimed(go(store, killed, recipe=recipe)) == untimed(expected)
    assert weight_hash(killed.last) == weight_hash(whole.last)
    assert not list(killed.path.glob(".*"))


@pytest.mark.parametrize("gpus_before", [1, 2])
def test_a_run_from_a_machine_with_two_gpus_goes_on_with_one(
    store, tmp_path, monkeypatch, gpus_before
):
    states = [torch.full((16,), number, dtype=torch.uint8) for number in range(gpus_before)]
    restored, run = [], RunFolder(tmp_path / "run")
    monkeypatch.setattr("bratskit.train.state._is_cuda", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: states[0])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *given: restored.append(given))
    go(store, run, max_minutes=0, device=torch.device("cpu"))
    last = torch.load(run.last, weights_only=True)
    assert len(last["training"]["cuda_rng"]) == 1
    last["training"]["cuda_rng"] = states  # as every older version wrote it
    torch.save(last, run.last)
    assert len(go(store, run, device=torch.device("cpu"))) == 4
    ((state, device),) = restored
    assert torch.equal(state, states[0])
    assert device.type == "cpu"  # the learner's own


def test_a_row_written_after_the_checkpoint_is_not_kept_twice(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        go(store, run, on_epoch=stop_after(2))
    with run.history.open("a") as file:
        file.write(json.dumps({"epoch": 3, "loss": 9.0}) + "\n")
    go(store, run)
    assert [row["epoch"] for row in History.load(run.history)] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["last.pt", "history.jsonl", "settings.json", "split.json"])
def test_half_a_file_of_a_killed_process_is_swept_away(store, tmp_path, name):
    run = RunFolder(tmp_path / "run").create()
    (run.path / f".1234-{name}").write_text("half")
    go(store, run, max_minutes=0)
    assert not list(run.path.glob(".*"))


def test_a_finished_run_is_left_alone_and_says_so(store, tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    first = go(store, run)
    before = run.last.read_bytes()
    assert go(store, run) == first
    assert "all 4 epochs are done already, nothing to train" in capsys.readouterr().out
    assert run.last.read_bytes() == before


def test_a_history_that_lost_its_last_row_to_a_kill_is_completed(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    expected = go(store, run)
    History(expected[:-1]).save(run.history)  # killed between last.pt and history.jsonl
    go(store, run)
    assert History.load(run.history) == expected


def test_a_session_that_is_over_stops_with_a_checkpoint_and_says_how_to_go_on(
    store, tmp_path, capsys
):
    run = RunFolder(tmp_path / "run")
    assert len(go(store, run, max_minutes=0)) == 1
    said = capsys.readouterr().out
    assert f"bratskit train {store[0]} {run.path} --resume --deterministic" in said
    assert len(go(store, run, recipe=Recipe.load(run.settings))) == 4


def test_another_setting_is_refused_by_name(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    with pytest.raises(ValueError, match=r"training\.learning_rate must be 0\.001.*got 0\.01"):
        go(store, run, recipe=small_recipe(dropout=0.2, learning_rate=0.01))
    recipe = small_recipe(dropout=0.2)
    network = dataclasses.replace(recipe.network, norm="instance")
    other = dataclasses.replace(recipe, network=network)
    with pytest.raises(ValueError, match=r"network\.norm must be batch.*Choose another run folder"):
        go(store, run, recipe=other)
    with pytest.raises(ValueError, match="deterministic must be True"):
        go(store, run, deterministic=False)


def test_another_split_is_refused_by_name(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    with pytest.raises(ValueError, match=r"split\.train must be"):
        train(
            store[0],
            run,
            recipe=small_recipe(dropout=0.2),
            split=small_split([store[1][0], *store[1][2:]]),
            deterministic=True,
        )


def test_resume_false_begins_anew(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    first = go(store, run, max_minutes=0)
    again = go(store, run, resume=False, max_minutes=0)
    assert untimed(again) == untimed(first)
