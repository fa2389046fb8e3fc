"""Phantoms made while a network learns: the patches of stored ones, and the same after a kill."""

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from training import fill_store, make_prepared, small_recipe, weight_hash

from bratskit.cases import Split, make_phantom
from bratskit.cases.phantoms import GENERATOR, Ingredients
from bratskit.cases.phantoms.frame import STREAM_SEED
from bratskit.cli import main
from bratskit.jobs import begin_run
from bratskit.networks import load_checkpoint
from bratskit.preprocess import prepare_scan, save_prepared
from bratskit.runtime import RunFolder
from bratskit.settings import RECIPES, GeometrySettings, Recipe, TrainingSettings, get_recipe
from bratskit.train import Learner, PatchSampler, PhantomStream, open_sampler, train
from bratskit.train.state import make_card

CPU = torch.device("cpu")
COARSE = GeometrySettings(spacing_mm=(8.0, 8.0, 8.0))  # a brain of 18 x 22 x 17 voxels


def stream_recipe(**training: object) -> Recipe:
    """Return a recipe that learns from coarse phantoms alone."""
    settings = {"phantom_share": 1.0, "phantom_pool": 2, "phantom_reuse": 3}
    settings |= {"epochs": 3, "steps_per_epoch": 2} | training
    recipe = small_recipe(dropout=0.2, **settings)
    return dataclasses.replace(recipe, geometry=COARSE)


def open_stream(**training: object) -> PhantomStream:
    return PhantomStream(stream_recipe(**training), device=CPU)


NOBODY = Split(train=(), validation=(), test=())


def test_a_stream_holds_what_prepare_makes_of_the_stored_phantom():
    recipe = get_recipe("smoke")
    made = PhantomStream(recipe, device=CPU)._make(5)
    scan = make_phantom((recipe.seed + STREAM_SEED, 5), spacing_mm=(4.0, 4.0, 4.0)).scan
    expected = prepare_scan(scan, recipe)
    np.testing.assert_array_equal(made.image, expected.image)
    np.testing.assert_array_equal(made.labels, expected.labels)
    np.testing.assert_array_equal(made.mask, expected.mask)
    assert made.geometry.spacing_mm == expected.geometry.spacing_mm


def test_a_phantom_made_at_the_scanners_voxels_is_resampled_as_a_stored_one_is():
    made = open_stream(phantom_spacing_mm=(4.0, 4.0, 4.0))._make(2)
    scan = make_phantom((STREAM_SEED, 2), spacing_mm=(4.0, 4.0, 4.0)).scan
    np.testing.assert_array_equal(made.image, prepare_scan(scan, stream_recipe()).image)
    assert made.geometry.is_resampling
    assert made.geometry.spacing_native_mm == (4.0, 4.0, 4.0)


def test_an_ingredient_of_the_recipe_is_left_out_of_the_phantoms():
    usual, plain = open_stream(), open_stream(phantom_ingredients={"bias": 0, "cavity": 1})
    scan = make_phantom(
        (STREAM_SEED, 1), spacing_mm=(8.0, 8.0, 8.0), ingredients=Ingredients(bias=0, cavity=1)
    ).scan
    made = plain._make(1)
    np.testing.assert_array_equal(made.image, prepare_scan(scan, stream_recipe()).image)
    assert not np.array_equal(made.image, usual._make(1).image)


def test_a_recipe_of_the_scanners_whole_grid_gets_it():
    whole = GeometrySettings(region="grid", spacing_mm=(8.0, 8.0, 8.0), crop_vox=(16, 16, 16))
    recipe = dataclasses.replace(stream_recipe(), geometry=whole)
    scan = make_phantom((STREAM_SEED, 0), spacing_mm=(8.0, 8.0, 8.0)).scan
    made, expected = PhantomStream(recipe, device=CPU)._make(0), prepare_scan(scan, recipe)
    assert made.geometry.native_shape == scan.labels.shape
    np.testing.assert_array_equal(made.image, expected.image)
    np.testing.assert_array_equal(made.labels, expected.labels)


def test_prepared_phantoms_have_mean_0_and_deviation_1_over_the_brain():
    made = open_stream()._make(0)
    for channel in made.image:
        inside = channel[channel != 0].astype(np.float64)
        assert inside.mean() == pytest.approx(0, abs=1e-3)
        assert inside.std() == pytest.approx(1, abs=1e-3)
    assert not made.image[:, ~made.mask].any()


def test_a_stream_gives_the_channels_and_the_scale_of_its_recipe():
    recipe = dataclasses.replace(stream_recipe(), modalities=("t2", "flair"), normalise="minmax")
    made = PhantomStream(recipe, device=CPU)._make(0)
    whole = open_stream()._make(0)
    assert made.modalities == ("t2", "flair")
    assert (made.image.min(), made.image.max()) == (0, 1)
    correlation = np.corrcoef(made.image[1][made.mask], whole.image[0][whole.mask])[0, 1]
    assert correlation == pytest.approx(1, abs=1e-4)


def test_made_at_the_recipes_voxels_a_phantom_looks_as_one_resampled_to_them():
    recipe = get_recipe("smoke")
    training = dataclasses.replace(recipe.training, phantom_spacing_mm=(2.0, 2.0, 2.0))
    finer = PhantomStream(dataclasses.replace(recipe, training=training), device=CPU)._make(3)
    made = PhantomStream(recipe, device=CPU)._make(3)
    np.testing.assert_allclose(made.image.shape, finer.image.shape, atol=1)
    assert made.mask.sum() == pytest.approx(finer.mask.sum(), rel=0.05)
    for label in range(1, 4):
        ours, theirs = made.labels == label, finer.labels == label
        assert ours.sum() == pytest.approx(theirs.sum(), rel=0.2, abs=10)
        if min(ours.sum(), theirs.sum()) > 30:
            means = made.image[:, ours].mean(1), finer.image[:, theirs].mean(1)
            most = 0.8 if label == 3 else 0.3  # deviations of the brain; a resample thins a rim
            np.testing.assert_allclose(*means, atol=most)


@pytest.mark.parametrize(("pool", "reuse"), [(1, 1), (2, 3), (8, 8), (5, 2)])
def test_each_phantom_is_used_as_often_as_asked_and_never_twice_in_a_row(pool, reuse):
    stream = open_stream(phantom_pool=pool, phantom_reuse=reuse)
    order = [stream.phantom_of(number) for number in range(20 * pool * reuse)]
    uses = Counter(order)
    settled = [uses[phantom] for phantom in uses if pool <= phantom < max(uses) - pool]
    assert set(settled) == {reuse}
    for first in range(len(order) - pool):
        assert len(set(order[first : first + pool])) == pool
    new = [number for number, phantom in enumerate(order) if phantom not in order[:number]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(new[2 * pool :])]
    assert np.mean(gaps) == pytest.approx(reuse, rel=0.1)
    assert max(gaps) < 2 * max(pool, reuse)  # made one by one, not all at once


def test_a_patch_follows_from_its_number_alone():
    in_order, astray = open_stream(patch_vox=(8, 8, 8)), open_stream(patch_vox=(8, 8, 8))
    first = [in_order.cut(number) for number in range(9)]
    for number in (7, 2, 2, 8):
        image, labels = astray.cut(number)
        np.testing.assert_array_equal(image, first[number][0])
        np.testing.assert_array_equal(labels, first[number][1])
    assert not np.array_equal(first[0][0], first[2][0])  # one phantom, two places


def test_a_stream_holds_no_more_phantoms_than_its_pool():
    stream = open_stream()
    for number in range(12):
        stream.cut(number)
        assert len(stream._pool) == 2
    stream.close()
    assert not stream._pool


def test_another_seed_gives_other_phantoms():
    recipe = stream_recipe()
    other = PhantomStream(dataclasses.replace(recipe, seed=1), device=CPU)._make(0)
    assert other.image.shape != open_stream()._make(0).image.shape


def test_every_tumour_patch_of_a_stream_shows_tumour():
    stream = open_stream(tumour_share=1.0, patch_vox=(8, 8, 8))
    assert all(stream.cut(number)[1].any() for number in range(12))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.7])
def test_patients_and_phantoms_are_mixed_in_their_shares(share):
    recipe = stream_recipe(phantom_share=share)
    sampler = open_sampler([make_prepared("BraTS_1")], recipe, device=CPU)
    names = [sampler.ids([place])[0] for place in sampler.draw(200)]
    streamed = [name.startswith("StreamPhantom_") for name in names]
    assert sum(streamed) == pytest.approx(200 * share, abs=1)
    for first in range(180):  # evenly: any twenty in a row have their share too
        assert sum(streamed[first : first + 20]) == pytest.approx(20 * share, abs=1)


def test_a_mixed_batch_holds_the_patches_of_both():
    recipe = stream_recipe(phantom_share=0.5)
    sampler = open_sampler([make_prepared("BraTS_1")], recipe, device=CPU)
    places = sampler.draw(4)
    image, labels = sampler.cut(places)
    assert image.shape == (4, 4, 16, 16, 16)
    assert sampler.ids(places)[::2] == ["BraTS_1"] * 2
    for at, number in ((1, 0), (3, 1)):
        expected, truth = open_stream().cut(number)
        np.testing.assert_array_equal(image[at], expected)
        np.testing.assert_array_equal(labels[at], truth)


def test_without_a_share_the_sampler_is_that_of_the_store():
    assert isinstance(open_sampler([make_prepared()], small_recipe(), device=CPU), PatchSampler)


def stop_after(epoch: int):
    """Interrupt the run, as Ctrl-C does, when an epoch is done."""

    def interrupt(history: list) -> None:
        if len(history) == epoch:
            raise KeyboardInterrupt

    return interrupt


def go(folder: Path, share: float) -> dict[str, object]:
    """Return what `train` is called with: two patients of the store and a stream, or that alone."""
    recipe = stream_recipe(phantom_share=share, phantom_reuse=4, batch=2)
    ids = fill_store(folder, n_cases=2) if share < 1 else []
    split = dataclasses.replace(NOBODY, train=tuple(ids))
    return {"recipe": recipe, "split": split, "deterministic": True, "device": CPU}


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_interrupted_run_ends_with_the_same_bits(tmp_path, share):
    folder, words = tmp_path / "prepared", go(tmp_path / "prepared", share)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    expected = train(folder, whole, **words)
    with pytest.raises(KeyboardInterrupt):
        train(folder, parts, on_epoch=stop_after(1), **words)
    again = train(folder, parts, **words)
    assert again.column("loss").tolist() == expected.column("loss").tolist()
    assert weight_hash(parts.last) == weight_hash(whole.last)


def test_an_interrupt_inside_an_epoch_repeats_its_phantoms(tmp_path, monkeypatch):
    folder, words = tmp_path / "prepared", go(tmp_path / "prepared", 0.5)
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    train(folder, whole, **words)
    real = Learner.step

    def stop_at_four(self: Learner, *inputs: object, **names: object) -> float:
        if self.step_number == 3:
            raise KeyboardInterrupt
        return real(self, *inputs, **names)

    monkeypatch.setattr(Learner, "step", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        train(folder, parts, **words)
    monkeypatch.setattr(Learner, "step", real)
    train(folder, parts, **words)
    assert weight_hash(parts.last) == weight_hash(whole.last)


def test_a_run_without_patients_says_it_has_seen_none(tmp_path):
    ids = fill_store(tmp_path, n_cases=2)
    split = Split(train=(ids[0],), validation=(), test=())
    run = RunFolder(tmp_path / "run")
    recipe = stream_recipe(epochs=1, steps_per_epoch=1)
    train(tmp_path, run, recipe=recipe, split=split)
    assert load_checkpoint(run.last).card["trained_on"] == []
    assert load_checkpoint(run.last).recipe == recipe


def test_a_share_of_patients_needs_patients(tmp_path):
    said = r"split\.train must hold at least one patient.*phantom_share=1"
    with pytest.raises(ValueError, match=said):
        train(
            tmp_path,
            RunFolder(tmp_path / "run"),
            recipe=stream_recipe(phantom_share=0.9),
            split=NOBODY,
        )


def test_another_pool_or_ingredient_is_another_run(tmp_path):
    run = RunFolder(tmp_path / "run")
    recipe = stream_recipe(epochs=2, steps_per_epoch=1)
    train(tmp_path, run, recipe=recipe, split=NOBODY, max_minutes=0)
    other = dataclasses.replace(recipe.training, phantom_ingredients={"noise": 0})
    with pytest.raises(ValueError, match=r"phantom_ingredients must be .*as the run in"):
        train(tmp_path, run, recipe=dataclasses.replace(recipe, training=other), split=NOBODY)


def test_a_stream_of_another_generator_is_another_run(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    recipe = stream_recipe(epochs=2, steps_per_epoch=1)
    train(tmp_path, run, recipe=recipe, split=NOBODY, max_minutes=0)
    assert load_checkpoint(run.last).card["generator"] == GENERATOR
    monkeypatch.setattr("bratskit.train.state.GENERATOR", GENERATOR + 1)
    said = f"generator must be {GENERATOR}, as the run in .*got {GENERATOR + 1}.*another run folder"
    with pytest.raises(ValueError, match=said):
        train(tmp_path, run, recipe=recipe, split=NOBODY)


def test_a_stream_from_before_the_card_named_the_generator_goes_on(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    words = {"recipe": stream_recipe(epochs=2, steps_per_epoch=1), "split": NOBODY}

    def old_card(*inputs: object) -> dict[str, object]:
        card = make_card(*inputs)
        return {name: card[name] for name in card if name != "generator"}

    monkeypatch.setattr("bratskit.train.loop.make_card", old_card)
    train(tmp_path, run, max_minutes=0, **words)
    assert "generator" not in load_checkpoint(run.last).card
    assert len(train(tmp_path, run, **words)) == 2


def test_without_a_stream_the_generator_does_not_matter(tmp_path, monkeypatch):
    split = Split(train=tuple(fill_store(tmp_path, n_cases=2)), validation=(), test=())
    run = RunFolder(tmp_path / "run")
    words = {"recipe": small_recipe(epochs=2, steps_per_epoch=1), "split": split}
    train(tmp_path, run, max_minutes=0, **words)
    monkeypatch.setattr("bratskit.train.state.GENERATOR", GENERATOR + 1)
    assert len(train(tmp_path, run, **words)) == 2
    assert load_checkpoint(run.last).card["generator"] is None


@pytest.mark.parametrize("spacing_mm", [(0.3, 0.3, 0.3), (12.0, 12.0, 12.0)])
def test_voxels_that_no_phantom_has_are_refused_before_a_run_folder_is_made(tmp_path, spacing_mm):
    geometry = GeometrySettings(spacing_mm=spacing_mm)  # phantoms would be made at the recipe's own
    recipe = dataclasses.replace(stream_recipe(), geometry=geometry)
    run = RunFolder(tmp_path / "run")
    with pytest.raises(ValueError, match=r"spacing_mm must be three numbers from 0\.5 to 10"):
        train(tmp_path, run, recipe=recipe, split=NOBODY)
    assert not run.path.exists()


def test_a_seed_whose_stream_another_recipe_has_is_refused():
    recipe = dataclasses.replace(stream_recipe(), seed=20_000)
    with pytest.raises(ValueError, match=r"seed must be 0 to 19999 .*got 20000"):
        PhantomStream(recipe, device=CPU)


def test_ingredients_survive_the_disk_whatever_they_came_as(tmp_path):
    named = TrainingSettings(phantom_ingredients={"noise": 0, "bias": 2})
    assert named.phantom_ingredients == (("bias", 2.0), ("noise", 0.0))
    assert named == TrainingSettings(phantom_ingredients=[["noise", 0.0], ["bias", 2]])
    recipe = dataclasses.replace(stream_recipe(), training=named)
    recipe.save(tmp_path / "settings.json")
    assert Recipe.load(tmp_path / "settings.json") == recipe


@pytest.mark.parametrize(
    ("ingredients", "said"),
    [
        ({"moise": 0}, "ingredient must be one of bends, .*got 'moise'"),
        ({"noise": 3}, "noise must be from 0 to 2; got 3"),
        ("noise", "must be numbers by name, each once; got 'noise'"),
        ((("noise", 0), ("noise", 1)), "must be numbers by name, each once; got .*noise.*noise"),
        ({"noise": True}, "must be numbers by name.*got .*True"),
        ({"noise": "much"}, "must be numbers by name.*much.*Try"),
    ],
)
def test_ingredients_that_do_not_exist_are_refused(ingredients, said):
    with pytest.raises(ValueError, match=said):
        open_stream(phantom_ingredients=ingredients)


@pytest.mark.parametrize(
    ("setting", "value"), [("phantom_pool", 0), ("phantom_reuse", 0), ("phantom_share", 1.1)]
)
def test_a_stream_that_cannot_flow_is_refused(setting, value):
    with pytest.raises(ValueError, match=f"{setting} must be .*got {value}"):
        TrainingSettings(**{setting: value})


def test_a_recipe_from_before_the_stream_loads_and_means_no_stream():
    values = json.loads(json.dumps(get_recipe("laptop").to_dict()))
    for name in [name for name in values["training"] if name.startswith("phantom_")]:
        del values["training"][name]
    assert Recipe.from_dict(values) == get_recipe("laptop")


def test_the_recipe_phantom_differs_from_laptop_in_what_it_learns_from_alone():
    laptop, phantom = get_recipe("laptop"), get_recipe("phantom")
    assert phantom.training.phantom_share == 1
    for part in ("geometry", "network", "inference", "modalities", "normalise"):
        assert getattr(phantom, part) == getattr(laptop, part)


@pytest.fixture
def streaming(monkeypatch) -> Recipe:
    """Give the coarse recipe a name that a run can be begun with."""
    recipe = dataclasses.replace(
        stream_recipe(epochs=2, validate_every=1), name="streaming", seed=0
    )
    monkeypatch.setitem(RECIPES, "streaming", recipe)
    return recipe


def test_a_run_on_the_stream_needs_cases_for_validation_only(
    streaming, tmp_path, write_case, capsys
):
    for number in range(4):
        write_case(tmp_path / "data", f"BraTS2021_0000{number}")
    words = {"data_dir": tmp_path / "data", "recipe_name": "streaming"}
    run = begin_run(tmp_path / "run", **words)
    assert (len(run.split.train), len(run.split.validation), len(run.split.test)) == (0, 1, 3)
    assert begin_run(tmp_path / "run", **words).split == run.split
    assert main(["train", str(run.folder.prepared), str(run.folder.path)]) == 0
    assert "2 of 2 epochs are done; best weights" in capsys.readouterr().out
    best = load_checkpoint(run.folder.best).card
    assert best["trained_on"] == []
    assert best["selected_on"] == list(run.split.validation)


def test_the_shell_draws_no_training_part_for_a_stream(streaming, tmp_path, capsys):
    prepared = tmp_path / "prepared"
    for seed, name in enumerate([f"Phantom_{number:05d}" for number in range(4)]):
        scan = dataclasses.replace(make_phantom(seed, spacing_mm=(8.0, 8.0, 8.0)).scan, id=name)
        save_prepared(prepare_scan(scan, streaming), prepared)
    words = ["train", prepared, tmp_path / "run", "--recipe", "streaming", "--max-minutes", "0"]
    assert main([str(word) for word in words]) == 0
    split = Split.load(tmp_path / "run" / "split.json")
    assert (len(split.train), len(split.validation), len(split.test)) == (0, 1, 3)
