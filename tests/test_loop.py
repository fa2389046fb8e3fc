"""Training learns, averages what it accumulates, stops at NaN by name, and says what it does."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training import (
    fill_store,
    gradients,
    make_prepared,
    small_recipe,
    small_split,
    weight_hash,
    weights,
)

from bratskit.networks import UNet, load_checkpoint, save_checkpoint
from bratskit.preprocess import Geometry, Prepared, Resize, save_prepared
from bratskit.runtime import RunFolder
from bratskit.settings import AugmentationSettings, NetworkSettings, Recipe
from bratskit.train import (
    History,
    Learner,
    PatchSampler,
    feed_epoch,
    learning_rate,
    train,
    validate,
)

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=4)


def test_thirty_steps_on_one_phantom_beat_predicting_nothing():
    recipe = small_recipe(epochs=1, steps_per_epoch=30, learning_rate=1e-2)
    phantom = make_prepared()
    torch.manual_seed(0)
    network = UNet(4, 4, channels=(8, 16, 32))
    learner = Learner(network, recipe.training, device=CPU)
    sampler = PatchSampler(
        [phantom], patch_vox=(16, 16, 16), tumour_share=0.67, rng=np.random.default_rng(0)
    )
    for _, batches in feed_epoch(sampler, recipe.training, device=CPU):
        learner.step(batches)
    assert torch.isfinite(gradients(network)).all()
    scores = validate(network, [phantom], recipe, device=CPU)
    assert scores["dice_mean"] > 0.5  # predicting nothing scores 0 in all three regions


class Copy(torch.nn.Module):
    """Answer with what it is shown: an image that holds its own truth is scored 1."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image


@pytest.mark.parametrize(("smallest_vox", "dice_wt"), [(8 * 64, 1.0), (8 * 64 + 8, 0.0)])
def test_validation_counts_small_components_in_voxels_of_the_scanner(smallest_vox, dice_wt):
    shape = (16, 16, 16)  # at 2 mm: a cube of 4^3 voxels is one of 8 x 64 at the scanner's 1 mm
    labels = np.zeros(shape, np.uint8)
    labels[4:8, 4:8, 4:8] = 2
    geometry = Geometry(
        native_shape=(32, 32, 32),
        native_affine=tuple(tuple(row) for row in np.eye(4).tolist()),
        steps=(Resize(shape),),
    )
    image = 9 * (labels == np.arange(4)[:, None, None, None]).astype(np.float32)
    mask = np.ones(shape, bool)
    prepared = Prepared(id="Cube", image=image, labels=labels, mask=mask, geometry=geometry)
    recipe = small_recipe()
    inference = dataclasses.replace(recipe.inference, smallest_component_vox=smallest_vox)
    recipe = dataclasses.replace(recipe, inference=inference)
    assert validate(Copy(), [prepared], recipe, device=CPU)["dice_WT"] == dice_wt


def test_a_run_leaves_history_last_and_best(store, tmp_path, capsys):
    folder, ids = store
    run = RunFolder(tmp_path / "run")
    seen = []
    history = train(
        folder,
        run,
        recipe=small_recipe(),
        split=small_split(ids),
        device=CPU,
        on_epoch=lambda rows: seen.append(len(rows)),
    )
    assert seen == [1, 2, 3, 4]
    assert [row["step"] for row in history] == [3, 6, 9, 12]
    rate = {"total": 12, "peak": 1e-3, "warmup": 0.05}
    assert history.column("lr") == pytest.approx(
        [learning_rate(at, **rate) for at in (2, 5, 8, 11)]
    )
    assert np.isnan(history.column("dice_mean")).tolist() == [True, False, True, False]
    assert history[1]["dice_grid"] == "prepared"
    assert [json.loads(line) for line in run.history.read_text().splitlines()] == list(history)
    best = load_checkpoint(run.best).card
    assert best["dice_mean"] == np.nanmax(history.column("dice_mean"))
    assert best["trained_on"] == ids[:2]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["epoch", f"{at}/4"] for at in range(1, 5)]
    assert "dice WT" in lines[1]
    assert "min left" in lines[1]


def test_the_last_epoch_is_validated_even_when_not_due(store, tmp_path):
    folder, ids = store
    recipe = small_recipe(epochs=3, validate_every=2, steps_per_epoch=1)
    history = train(folder, RunFolder(tmp_path / "run"), recipe=recipe, split=small_split(ids))
    assert history[-1]["dice_mean"] is not None


def test_without_validation_patients_the_last_epoch_is_the_best(store, tmp_path):
    folder, ids = store
    split = dataclasses.replace(small_split(ids), validation=())
    run = RunFolder(tmp_path / "run")
    history = train(folder, run, recipe=small_recipe(epochs=2, steps_per_epoch=1), split=split)
    assert np.isnan(history.column("dice_mean")).all()
    assert weight_hash(run.best) == weight_hash(run.last)


def test_the_same_seed_gives_the_same_history(store, tmp_path):
    folder, ids = store
    recipe = small_recipe(epochs=2)
    losses = [
        train(
            folder,
            RunFolder(tmp_path / name),
            recipe=recipe,
            split=small_split(ids),
            deterministic=True,
        ).column("loss")
        for name in ("first", "second")
    ]
    assert losses[0].tolist() == losses[1].tolist()
    assert not torch.are_deterministic_algorithms_enabled()


def test_history_reads_back_what_it_saved(tmp_path):
    rows = History([{"epoch": 1, "loss": 0.5, "dice_mean": None}])
    rows.save(tmp_path / "history.jsonl")
    assert History.load(tmp_path / "history.jsonl") == rows
    assert History.load(tmp_path / "none.jsonl") == []


def begin(folder: Path, ids: list[str], path: Path, **card: object) -> tuple[Recipe, Path]:
    """Save a network with a card and return a recipe that starts from it."""
    recipe = small_recipe(start_from=str(path), epochs=1, steps_per_epoch=1, learning_rate=1e-30)
    save_checkpoint(path, network=UNet(4, 4, channels=(4, 8, 16)), recipe=recipe, card=card)
    return recipe, path


def test_training_begins_from_a_checkpoints_weights(store, tmp_path):
    folder, ids = store
    recipe, path = begin(folder, ids, tmp_path / "start.pt", trained_on=["Elsewhere_1"])
    run = RunFolder(tmp_path / "run")
    train(folder, run, recipe=recipe, split=small_split(ids), device=CPU)
    start, last = load_checkpoint(path), load_checkpoint(run.last)
    assert torch.allclose(weights(last.network), weights(start.network))
    assert last.card["trained_on"] == ["Elsewhere_1", *ids[:2]]
    assert last.card["started_from"] == start.checksum


def test_the_shipped_network_has_a_name_to_start_from(store, tmp_path, monkeypatch):
    folder, ids = store
    recipe, path = begin(folder, ids, tmp_path / "start.pt")
    monkeypatch.setattr("bratskit.train.state.saved_model", lambda: path)
    training = dataclasses.replace(recipe.training, start_from="saved_model")
    recipe = dataclasses.replace(recipe, training=training)
    run = RunFolder(tmp_path / "run")
    train(folder, run, recipe=recipe, split=small_split(ids), device=CPU)
    assert load_checkpoint(run.last).card["started_from"] == load_checkpoint(path).checksum


@pytest.mark.parametrize(
    ("part", "at"), [("trained_on", -1), ("trained_on", -2), ("selected_on", -1)]
)
def test_weights_that_saw_held_out_patients_are_refused(store, tmp_path, part: str, at: int):
    folder, ids = store
    recipe, _ = begin(folder, ids, tmp_path / "start.pt", **{part: [ids[at]]})
    with pytest.raises(ValueError, match=f"has seen .*{ids[at]}.*Move them to the training part"):
        train(folder, RunFolder(tmp_path / "run"), recipe=recipe, split=small_split(ids))


def test_weights_of_another_network_are_refused(store, tmp_path):
    folder, ids = store
    recipe, _ = begin(folder, ids, tmp_path / "start.pt")
    wider = dataclasses.replace(recipe, network=NetworkSettings(channels=(8, 16)))
    with pytest.raises(ValueError, match=r"network\.channels must be \[4, 8, 16\]"):
        train(folder, RunFolder(tmp_path / "run"), recipe=wider, split=small_split(ids))


@pytest.mark.parametrize(
    ("field", "value"),
    [("norm", "group"), ("block", "residual"), ("attention", True), ("deep_supervision", True)],
)
def test_weights_of_the_same_network_with_another_option_are_refused(store, tmp_path, field, value):
    folder, ids = store
    recipe, _ = begin(folder, ids, tmp_path / "start.pt")
    other = dataclasses.replace(
        recipe, network=dataclasses.replace(recipe.network, **{field: value})
    )
    with pytest.raises(ValueError, match=rf"network\.{field} must be .*got {value}.*Change it"):
        train(folder, RunFolder(tmp_path / "run"), recipe=other, split=small_split(ids))


def test_every_option_at_once_goes_through_training_and_comes_back(store, tmp_path):
    folder, ids = store
    network = NetworkSettings(
        channels=(4, 8, 16), norm="group", block="dense", attention=True, deep_supervision=True,
        checkpointing=True, dropout=0.1, dropout_at="levels",
    )  # fmt: skip
    recipe = dataclasses.replace(small_recipe(epochs=2, validate_every=1), network=network)
    run = RunFolder(tmp_path / "run")
    history = train(folder, run, recipe=recipe, split=small_split(ids), device=CPU)
    assert np.isfinite(history.column("loss")).all()
    last = load_checkpoint(run.last)
    assert last.recipe.network == network
    assert last.network(torch.zeros(1, 4, 16, 16, 16)).shape == (1, 4, 16, 16, 16)


def test_options_that_shape_no_weights_do_not_keep_a_network_from_beginning(store, tmp_path):
    folder, ids = store
    recipe, path = begin(folder, ids, tmp_path / "start.pt")
    network = dataclasses.replace(
        recipe.network, dropout=0.1, dropout_at="levels", checkpointing=True
    )
    run = RunFolder(tmp_path / "run")
    recipe = dataclasses.replace(recipe, network=network)
    train(folder, run, recipe=recipe, split=small_split(ids), device=CPU)
    assert load_checkpoint(run.last).card["started_from"] == load_checkpoint(path).checksum


def test_cases_prepared_for_other_channels_are_refused(store, tmp_path):
    folder, ids = store
    recipe = dataclasses.replace(small_recipe(), modalities=("flair", "t1ce"))
    with pytest.raises(ValueError, match=r"modalities of .*Prepare the cases again"):
        train(folder, RunFolder(tmp_path / "run"), recipe=recipe, split=small_split(ids))


def test_cases_prepared_on_another_grid_are_refused(store, tmp_path):
    folder, ids = store
    save_prepared(make_prepared(ids[0]), folder, settings={"geometry": {"spacing_mm": [2, 2, 2]}})
    with pytest.raises(ValueError, match=f"geometry of .*{ids[0]}.*Prepare the cases again"):
        train(folder, RunFolder(tmp_path / "run"), recipe=small_recipe(), split=small_split(ids))


@pytest.mark.parametrize(("made", "asked"), [("minmax", "zscore"), ("zscore", "minmax")])
def test_cases_prepared_to_another_scale_are_refused(store, tmp_path, made, asked):
    folder, ids = store
    save_prepared(make_prepared(ids[0]), folder, settings={"normalise": made})
    recipe = dataclasses.replace(small_recipe(), normalise=asked)
    with pytest.raises(ValueError, match=f"normalise of .*{ids[0]} must be {asked}.*got {made}"):
        train(folder, RunFolder(tmp_path / "run"), recipe=recipe, split=small_split(ids))


def test_cases_of_an_older_version_are_refused_as_such(store, tmp_path):
    folder, ids = store
    save_prepared(make_prepared(ids[0]), folder, settings={"format": 1, "geometry": {"old": 1}})
    with pytest.raises(ValueError, match=f"{ids[0]} must be of .* older version.*bratskit prepare"):
        train(folder, RunFolder(tmp_path / "run"), recipe=small_recipe(), split=small_split(ids))


def test_training_varies_patches_on_the_scale_of_the_recipe(store, tmp_path, monkeypatch):
    folder, ids = store
    seen = []

    def spy(image, labels, params, *, normalise):
        seen.append(normalise)
        assert (params.noise_std > 0).all()  # the recipe's own shares, not the usual ones
        return image, labels

    monkeypatch.setattr("bratskit.train.batches.apply_augmentation", spy)
    recipe = small_recipe(epochs=1, steps_per_epoch=1, augment=True)
    noisy = AugmentationSettings(noise_share=1.0)
    recipe = dataclasses.replace(recipe, normalise="minmax", augmentation=noisy)
    train(folder, RunFolder(tmp_path / "run"), recipe=recipe, split=small_split(ids))
    assert set(seen) == {"minmax"}


def test_a_patient_that_was_not_prepared_is_named(store, tmp_path):
    folder, ids = store
    split = dataclasses.replace(small_split(ids), train=("BraTS_missing",))
    with pytest.raises(FileNotFoundError, match=r"first BraTS_missing\. Run `bratskit prepare"):
        train(folder, RunFolder(tmp_path / "run"), recipe=small_recipe(), split=split)


@pytest.mark.parametrize("at", [0, -2])
def test_a_patient_without_a_mask_is_refused_before_anything_is_learned(store, tmp_path, at):
    folder, ids = store
    bare = dataclasses.replace(make_prepared(ids[at]), labels=None)
    save_prepared(bare, folder)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"got none for {ids[at]}\. Add the masks and run"):
        train(folder, run, recipe=small_recipe(), split=small_split(ids))
    assert not run.history.exists()
