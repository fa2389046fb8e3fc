"""Two processes learn what one learns from the same patches, and stop and go on together."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import fill_store, small_recipe, small_split, weight_hash

from bratskit.networks import UNet, load_checkpoint
from bratskit.runtime import RunFolder
from bratskit.settings import NetworkSettings, Recipe, TrainingSettings
from bratskit.train import History, train
from bratskit.train.parallel import Share, Team, shell_words

TESTS = Path(__file__).parent

RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from test_parallel import recipe_of
from training import small_split
from bratskit.preprocess import list_prepared
from bratskit.runtime import RunFolder
from bratskit.train import train
folder = Path({folder!r})
train(folder, RunFolder(Path({run!r})), recipe=recipe_of(**json.loads({settings!r})),
      split=small_split(list_prepared(folder)), deterministic=True, max_minutes={minutes})
"""


def recipe_of(*, norm: str = "instance", dropout: float = 0.0, **training: object) -> Recipe:
    recipe = small_recipe(**({"epochs": 3, "steps_per_epoch": 2, "validate_every": 1} | training))
    network = NetworkSettings(channels=(4, 8, 16), norm=norm, dropout=dropout)
    return dataclasses.replace(recipe, network=network)


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=4)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def go_alone(store: tuple[Path, list[str]], run: Path, **settings: object) -> History:
    folder, ids = store
    recipe = recipe_of(**settings)
    return train(folder, RunFolder(run), recipe=recipe, split=small_split(ids), deterministic=True)


def go_in_two(store: tuple[Path, list[str]], run: Path, minutes: object = None, **settings) -> str:
    """Run the same training in two processes that meet by gloo; return what they said."""
    code = RUN.format(
        tests=str(TESTS),
        folder=str(store[0]),
        run=str(run),
        settings=json.dumps(settings),
        minutes=minutes,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ
            | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
            | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[1][0] == ""  # the second is silent
    return said[0][0]


def weights(path: Path) -> torch.Tensor:
    network = load_checkpoint(path).network
    return torch.cat([item.detach().flatten() for item in network.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"batch": 1, "accumulate": 4, "optimiser": "sgd", "learning_rate": 0.01},
        pytest.param({"batch": 2, "accumulate": 1, "ema_decay": 0.9}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_learns(store, tmp_path, settings):
    alone = go_alone(store, tmp_path / "one", **settings)
    said = go_in_two(store, tmp_path / "two", **settings)
    together = History.load(RunFolder(tmp_path / "two").history)
    assert said.count("epoch ") >= 3
    for name in ("epoch", "step", "lr", "loss"):
        assert together.column(name) == pytest.approx(alone.column(name), rel=1e-4, abs=1e-5)
    # a voxel whose two likeliest labels are equal to rounding flips, and Dice jumps by it
    assert together.column("dice_WT") == pytest.approx(alone.column("dice_WT"), abs=1e-3)
    one, two = (weights(tmp_path / name / "last.pt") for name in ("one", "two"))
    begun = torch.cat([item.detach().flatten() for item in begin_weights(settings)])
    moved = (one - begun).abs().mean()
    # rounding moves features over the kink of their LeakyReLU, and Adam divides small gradients by
    # themselves; a share that is not learned from moves the weights by tenths
    assert (one - two).abs().mean() < 1e-2 * moved


def begin_weights(settings: dict[str, object]) -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [*UNet(4, 4, channels=(4, 8, 16), norm="instance").parameters()]


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_same_bits(store, tmp_path):
    settings = {"batch": 2, "accumulate": 2, "dropout": 0.2}
    go_in_two(store, tmp_path / "whole", **settings)
    said = go_in_two(store, tmp_path / "parts", minutes=0, **settings)
    assert "time is up after epoch 1 of 3" in said
    assert "going on after epoch 1" in go_in_two(store, tmp_path / "parts", **settings)
    assert weight_hash(tmp_path / "parts" / "last.pt") == weight_hash(
        tmp_path / "whole" / "last.pt"
    )


def test_every_patch_of_a_step_is_learned_by_one_process():
    for training in (TrainingSettings(batch=1, accumulate=6), TrainingSettings(batch=6)):
        shares = [Team(rank, 3).share(training) for rank in range(3)]
        seen = [
            (at, patch)
            for share in shares
            for at in share.batches
            for patch in range(training.batch)[share.part]
        ]
        assert sorted(seen) == [
            (at, patch) for at in range(training.accumulate) for patch in range(training.batch)
        ]
    assert Team().share(TrainingSettings(batch=2)) == Share.whole(TrainingSettings(batch=2))


def test_a_step_that_cannot_be_shared_is_refused_with_one_that_can():
    with pytest.raises(ValueError, match=r"got accumulate 1 and batch 3.*accumulate=2"):
        Team(0, 2).share(TrainingSettings(batch=3))


def test_batch_norm_is_refused_in_two_processes_and_taken_in_one():
    network = UNet(4, 4, channels=(4, 8), norm="batch")
    Team().refuse_batch_norm(network)
    with pytest.raises(ValueError, match="'instance' or 'group' in 2 processes"):
        Team(0, 2).refuse_batch_norm(network)
    Team(0, 2).refuse_batch_norm(UNet(4, 4, channels=(4, 8), norm="instance"))


def test_a_training_of_two_processes_is_gone_on_with_in_two(monkeypatch):
    assert shell_words() == ["bratskit"]
    for name, value in {"WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert shell_words() == ["torchrun", "--nproc-per-node", "2", "-m", "bratskit"]
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert shell_words() == ["torchrun", "--nnodes", "2", "--nproc-per-node", "2", "-m", "bratskit"]


@pytest.mark.slow
def test_torchrun_trains_from_the_shell(store, tmp_path):
    recipe = tmp_path / "two" / "settings.json"
    recipe.parent.mkdir()
    recipe_of(batch=1, accumulate=2).save(recipe)
    small_split(store[1]).save(recipe.parent / "split.json")
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    words += ["--master-addr", "127.0.0.1", "-m", "bratskit", "train"]
    ran = subprocess.run(
        [*words, str(store[0]), str(recipe.parent)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("epoch 3/3") == 1
    assert ran.stdout.count("3 of 3 epochs are done") == 1
