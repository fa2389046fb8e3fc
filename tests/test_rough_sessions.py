"""A session with too little memory, another folder or half the arguments refuses or goes on."""

import dataclasses
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from training import (
    fill_store,
    make_batch,
    make_learner,
    make_prepared,
    small_recipe,
    small_split,
    weights,
)

from bratskit.cases import Split
from bratskit.networks import UNet, load_checkpoint
from bratskit.predict import predict_prepared
from bratskit.runtime import RunFolder
from bratskit.settings import NetworkSettings, Recipe
from bratskit.train import History, PatchSampler, feed_epoch, train
from bratskit.train.augment import apply_augmentation
from bratskit.train.parallel import Team, rank_here
from bratskit.train.state import restore
from bratskit.train.validate import validate

CPU = torch.device("cpu")
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nmore words")


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=4)


def recipe_of(**training: object) -> Recipe:
    settings = {"epochs": 2, "steps_per_epoch": 1, "validate_every": 2} | training
    network = NetworkSettings(channels=(4, 8), norm="instance")
    return dataclasses.replace(small_recipe(**settings), network=network)


def go(store: tuple[Path, list[str]], run: RunFolder, **changes: object) -> History:
    folder, ids = store
    settings = {"recipe": recipe_of(), "split": small_split(ids), "device": CPU} | changes
    return train(folder, run, **settings)


def sampler_of(rng: np.random.Generator) -> PatchSampler:
    return PatchSampler([make_prepared()], patch_vox=(16, 16, 16), tumour_share=1, rng=rng)


def same(image: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return image, labels


# -- two machines


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (["missing"], "got last.pt there in process 0 and missing in process 1"),
        (["there", "7 and 0123"], "got step and weights 1 and .* in process 0 and 7 and 0123 in"),
    ],
)
def test_machines_that_do_not_share_the_run_folder_are_refused(
    store, tmp_path, monkeypatch, others, said
):
    @contextmanager
    def join_team():
        yield Team(0, 2)

    def all_gather_object(everyones: list, seen: object) -> None:
        everyones[:] = [seen, others.pop(0)]

    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    monkeypatch.setattr("bratskit.train.loop.join_team", join_team)
    monkeypatch.setattr("torch.distributed.broadcast_object_list", lambda *_, **__: None)
    monkeypatch.setattr("torch.distributed.all_gather_object", all_gather_object)
    with pytest.raises(ValueError, match=f"{said}.*Choose a folder that all machines share"):
        go(store, run)


def test_only_the_first_process_writes_the_history_when_a_run_goes_on(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    run.history.unlink()
    last = load_checkpoint(run.last)
    for rank, is_written in ((1, False), (0, True)):
        learner = make_learner(UNet(4, 4, channels=(4, 8), norm="instance"))
        learner.team = Team(rank, 2)
        sampler = sampler_of(np.random.default_rng(0))
        assert len(restore(last, run, learner=learner, sampler=sampler)) == 1
        assert run.history.exists() == is_written


def test_a_rank_that_torchrun_did_not_set_silences_nobody(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "3")
    assert rank_here() == 0
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert rank_here() == 3


# -- memory that ends elsewhere than in a network that learns


def test_memory_that_ends_in_validation_costs_the_scores_and_not_the_epoch(
    store, tmp_path, monkeypatch, capsys
):
    def full_at_first(network, prepared, recipe, **options):
        if len(prepared) and not said:
            said.append("full")
            raise NO_MEMORY
        return validate(network, prepared, recipe, **options)

    said: list[str] = []
    monkeypatch.setattr("bratskit.train.loop.validate", full_at_first)
    run = RunFolder(tmp_path / "run")
    first, second = go(store, run, recipe=recipe_of(validate_every=1))
    assert first["dice_mean"] is None
    assert first["not_validated"] == "out of memory (CUDA out of memory. Tried to allocate 2 GiB)"
    assert second["dice_mean"] is not None
    assert "epoch 1 is kept without scores: validation ran out of" in capsys.readouterr().out
    assert load_checkpoint(run.best).card["epoch"] == 2


def test_memory_that_ends_while_patches_are_varied_varies_them_on_the_cpu(monkeypatch):
    def augment(image, labels, params, **options):
        if image.is_meta:  # stands for a GPU that is full
            raise NO_MEMORY
        return apply_augmentation(image, labels, params, **options)

    def feed(device: str) -> list[torch.Tensor]:
        sampler = sampler_of(np.random.default_rng(0))
        epoch = feed_epoch(sampler, recipe_of().training, device=torch.device(device))
        return [image for _, batches in epoch for image, _ in batches]

    monkeypatch.setattr("bratskit.train.batches.apply_augmentation", augment)
    expected = feed("cpu")
    with pytest.warns(RuntimeWarning, match="out of memory on meta; patches are varied on the CPU"):
        found = feed("meta")
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))


def test_memory_that_ends_in_the_optimiser_says_what_would_help(tiny_unet, monkeypatch):
    def step(*_: object) -> None:
        raise NO_MEMORY

    learner = make_learner(tiny_unet)
    before = weights(tiny_unet)
    monkeypatch.setattr(learner.optimiser, "step", step)
    said = r"what the optimiser keeps .* step 1 \(CUDA .* 2 GiB\)\. Free .*last checkpoint was kept"
    with pytest.raises(torch.OutOfMemoryError, match=said):
        learner.step([make_batch(1)])
    assert torch.equal(weights(tiny_unet), before)


# -- a run that was begun with a transform


def test_a_run_begun_with_a_transform_goes_on_only_with_one(store, tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    go(store, run, transform=same, max_minutes=0)
    said = capsys.readouterr().out
    assert "Go on by calling train again with the same transform." in said
    assert "bratskit train" not in said
    with pytest.raises(ValueError, match=r"transform must be given to train.*; got left out"):
        go(store, run)
    assert len(go(store, run, transform=same)) == 2


def test_a_run_of_before_transforms_were_kept_goes_on(store, tmp_path):
    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    content = torch.load(run.last, weights_only=True)
    del content["training"]["transform"]
    torch.save(content, run.last)
    assert len(go(store, run)) == 2


# -- a run that is thrown away


def test_a_run_begun_anew_keeps_neither_split_nor_pictures_of_the_old_one(store, tmp_path):
    run, ids = RunFolder(tmp_path / "run"), store[1]
    go(store, run)
    pictures = run.figures / "training"
    assert (pictures / "overlay_epoch_0002.png").exists()
    other = Split(train=(ids[3], ids[2]), validation=(ids[1],), test=(ids[0],))
    go(store, run, resume=False, split=other, max_minutes=0)
    assert Split.load(run.split) == other
    assert not list(pictures.glob("overlay*"))


def test_before_the_first_validation_the_weights_to_predict_with_are_named(store, tmp_path, capsys):
    run = RunFolder(tmp_path / "run")
    go(store, run, max_minutes=0)
    said = f"no best.pt before the first validation; until then predict with {run.last}"
    assert capsys.readouterr().out.splitlines()[-1] == said
    with pytest.raises(FileNotFoundError, match=r"best\.pt\. Until it is there take .*last\.pt"):
        load_checkpoint(run.best)
    last = load_checkpoint(run.last)
    assert predict_prepared(last.network, make_prepared(), last.recipe, device=CPU).shape[0] == 4
