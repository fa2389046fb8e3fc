"""A run is shown while it learns, and whatever shows it never stops it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from training import fill_store, make_prepared, small_recipe, small_split

from bratskit.runtime import RunFolder
from bratskit.settings import Recipe
from bratskit.train import History, train
from bratskit.train.pictures import COLOURS, draw_curves, draw_overlay
from bratskit.train.trackers import TensorBoardTracker, TrackerGroup, make_trackers


class Notes:
    """Write down what a tracker is told; fail at one call where asked to."""

    def __init__(self, fail_at: str = "") -> None:
        self.told, self.fail_at = [], fail_at

    def _note(self, what: str, *facts: object) -> None:
        if what == self.fail_at:
            raise ConnectionError("no network\nat all")
        self.told.append((what, *facts))

    def begin(self, run: RunFolder, recipe: Recipe, card: Mapping[str, object]) -> None:
        self._note("begin", recipe.name, sorted(card["trained_on"]))

    def log(self, row: Mapping[str, object]) -> None:
        self._note("log", row["epoch"])

    def picture(self, name: str, path: Path, step: int) -> None:
        self._note("picture", name, path.suffix, step)

    def checkpoint(self, path: Path) -> None:
        self._note("checkpoint", path.name)

    def end(self) -> None:
        self._note("end")


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=3)


def go(store: tuple[Path, list[str]], run: RunFolder, **changes: object) -> History:
    folder, ids = store
    return train(folder, run, recipe=small_recipe(), split=small_split(ids), **changes)


def test_a_tracker_is_told_of_every_epoch_picture_and_best_checkpoint(store, tmp_path):
    notes = Notes()
    history = go(store, RunFolder(tmp_path / "run"), trackers=[notes])
    told = [fact[0] for fact in notes.told]
    assert (told[0], told[-1]) == ("begin", "end")
    assert [fact[1] for fact in notes.told if fact[0] == "log"] == [1, 2, 3, 4]
    pictures = [fact[1:] for fact in notes.told if fact[0] == "picture"]
    assert pictures == [("overlay", kind, at) for at in (2, 4) for kind in (".png", ".gif")]
    dice = history.column("dice_mean")[[1, 3]]
    assert told.count("checkpoint") == 1 + int(dice[1] > dice[0])


@pytest.mark.parametrize("at", ["begin", "log", "picture", "checkpoint", "end"])
def test_a_tracker_that_fails_says_so_once_and_training_goes_on(store, tmp_path, at, capsys):
    after = Notes()
    history = go(store, RunFolder(tmp_path / "run"), trackers=[Notes(fail_at=at), after])
    assert len(history) == 4
    said = [line for line in capsys.readouterr().err.splitlines() if "Notes" in line]
    assert said == [f"Notes failed ({at}: no network at all); training goes on without it"]
    assert [fact[0] for fact in after.told].count("log") == 4


def test_the_run_folder_always_gets_curves_and_overlays(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    go(store, run)
    found = sorted(path.name for path in (run.figures / "training").iterdir())
    overlays = [f"overlay_epoch_{at:04d}.{kind}" for at in (2, 4) for kind in ("gif", "png")]
    assert found == ["curves.png", *overlays]
    assert all(path.stat().st_size < 500_000 for path in (run.figures / "training").iterdir())


def test_a_full_disk_costs_a_picture_and_not_the_run(store, tmp_path, monkeypatch, capsys):
    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("bratskit.train.trackers.draw_overlay", fail)
    assert len(go(store, RunFolder(tmp_path / "run"))) == 4
    assert "no picture of epoch 2 (no space left)" in capsys.readouterr().err


def test_a_run_that_goes_on_draws_all_its_epochs(store, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "bratskit.train.trackers.draw_curves", lambda rows, _: drawn.append(len(rows))
    )
    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    go(store, run)
    assert drawn == [1, 2, 3, 4]


def test_each_region_is_drawn_where_it_is_patient_left_on_the_right(tmp_path):
    prepared = make_prepared(shape=(32, 32, 8))
    image, truth = np.full((4, 32, 32, 8), 1.0, np.float32), np.zeros((32, 32, 8), np.uint8)
    truth[4:8, 20:24, 3] = 2  # oedema on the patient's left (low I), in front (high J)
    prepared = type(prepared)(**(vars(prepared) | {"image": image, "labels": truth}))
    still, moving = draw_overlay(prepared, truth, tmp_path, epoch=3)
    page = np.asarray(Image.open(still)).astype(int)
    wt, tc = page[14:-14, :176], page[14:-14, 176:352]
    outline = np.argwhere((wt == 255).all(axis=2))
    with Image.open(moving) as animation:
        assert animation.n_frames == 1
    rows, columns = outline[:, 0].mean() / 176, outline[:, 1].mean() / 176
    assert rows < 0.4  # in front is up
    assert columns > 0.6  # low I, drawn on the right
    coloured = (wt[..., 2] - wt[..., 0]) > 30
    assert coloured.any()
    assert not ((tc[..., 0] - tc[..., 1]) > 30).any()  # there is no core


def test_curves_bend_where_the_numbers_do(tmp_path):
    rows = [{"epoch": at, "loss": 1 / at, "dice_WT": 0.1 * at} for at in range(1, 9)]
    page = np.asarray(Image.open(draw_curves(rows, tmp_path / "a" / "curves.png"))).astype(int)
    found = {
        name: np.argwhere(np.abs(page - colour).sum(axis=2) < 10)
        for name, colour in COLOURS.items()
    }
    loss = found["loss"][(found["loss"][:, 1] < 300) & (found["loss"][:, 0] > 24)]
    first, last = loss[loss[:, 1].argmin()], loss[loss[:, 1].argmax()]
    assert first[0] < last[0]  # falls
    assert len(found["WT"]) > 0
    assert len(found["TC"]) == 0


WANDB_RUN = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from training import small_recipe, small_split
from bratskit.preprocess import list_prepared
from bratskit.runtime import RunFolder
from bratskit.train import train
from bratskit.train.trackers import make_trackers
folder, run = Path({folder!r}), RunFolder(Path({run!r}))
train(folder, run, recipe=small_recipe(), split=small_split(list_prepared(folder)),
      max_minutes=0, trackers=make_trackers(["wandb"]))
"""


def go_with_wandb(store: tuple[Path, list[str]], run: Path, **environment: str) -> str:
    code = WANDB_RUN.format(tests=str(Path(__file__).parent), folder=str(store[0]), run=str(run))
    home = {"WANDB_CACHE_DIR": str(run.parent), "WANDB_CONFIG_DIR": str(run.parent)}
    home |= {"WANDB_DATA_DIR": str(run.parent), "HOME": str(run.parent)}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | home | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stderr


def test_wandb_offline_keeps_metrics_pictures_and_checkpoints_under_one_id(store, tmp_path):
    pytest.importorskip("wandb")
    run = tmp_path / "run"
    for _ in range(2):  # two sessions of an epoch each
        said = go_with_wandb(store, run, WANDB_MODE="offline")
        assert "failed" not in said
    known = json.loads((run / "trackers.json").read_text())["wandb"]
    sessions = sorted((run / "wandb").glob("offline-run-*"))
    assert len(sessions) == 2
    assert all(path.name.endswith(known) for path in sessions)
    logs = [next(path.glob("*.wandb")).read_bytes() for path in sessions]
    assert all(b"loss" in log for log in logs)
    assert b"model" in logs[1]
    assert b"best" in logs[1]
    media = [path.suffix for path in (sessions[1] / "files" / "media").rglob("overlay*")]
    assert sorted(media) == [".gif", ".png"]


def test_wandb_without_a_login_costs_one_line(store, tmp_path):
    pytest.importorskip("wandb")
    said = go_with_wandb(
        store, tmp_path / "run", WANDB_MODE="online", WANDB_BASE_URL="http://127.0.0.1:9"
    )
    lines = [line for line in said.splitlines() if "WandbTracker failed (begin" in line]
    assert len(lines) == 1
    assert (tmp_path / "run" / "last.pt").exists()


def test_tensorboard_holds_numbers_and_pictures(store, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunFolder(tmp_path / "run")
    history = go(store, run, max_minutes=0, trackers=[TensorBoardTracker()])
    history = go(store, run, trackers=[TensorBoardTracker()])
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert [step for step, _ in losses] == [1, 2, 3, 4]
    assert [value for _, value in losses] == pytest.approx(history.column("loss").tolist())
    assert [event.step for event in events.Images("overlay")] == [2, 4]


def test_a_library_that_is_not_installed_is_named_with_its_cure(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    group = TrackerGroup(make_trackers(["wandb"]))
    group.begin(RunFolder(tmp_path), small_recipe(), {})
    assert 'pip install "bratskit[wandb]"' in capsys.readouterr().err


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="one of \\['tensorboard', 'wandb'\\]; got 'mlflow'"):
        make_trackers(["mlflow"])
