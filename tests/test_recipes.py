"""Each reference recipe is what its table says, and learns from the command line."""

import ast
import dataclasses
import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import bratskit.settings
from bratskit.cases.phantoms import make_cohort
from bratskit.cli import main
from bratskit.networks import load_checkpoint, network_of
from bratskit.preprocess import list_prepared, open_prepared
from bratskit.runtime import RunFolder, seed_everything
from bratskit.settings import RECIPES, NetworkSettings, Recipe, get_recipe, miniature
from bratskit.train import PatchSampler, make_loss

REFERENCES = ("unet-a", "unet-b", "segresnet-c", "unet-d", "unet-e")
TABLES = Path(bratskit.settings.__file__).parent / "RECIPES.md"
KEPT = ("modalities", "normalise", "targets", "loss", "augmentation", "seed")
SHRUNK = {"patch_vox", "epochs", "steps_per_epoch", "validate_every", "extra_phantoms"}


def rows_of(title):
    """Return the rows of one table as (stated, setting, value, how), backticks taken off."""
    (section,) = re.findall(rf"^## {title}.*?$(.*?)(?=^## |\Z)", TABLES.read_text(), re.M | re.S)
    lines = [line for line in section.split("\n") if line.startswith("|")][2:]  # below the header
    found = [re.split(r"\s*\|\s*", line.strip("| ")) for line in lines]
    assert found
    assert all(len(row) == 4 for row in found)
    return [(stated, name.strip("`"), value.strip("`"), how) for stated, name, value, how in found]


def look_up(recipe, path):
    """Follow a path of settings; it may begin with the name of another recipe."""
    if ": " in path:
        name, path = path.split(": ")
        recipe = get_recipe(name)
    for name in path.split("."):
        recipe = getattr(recipe, name)
    return recipe


def flatten(settings, before=""):
    """List the settings of all stages by their paths."""
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{before}{item.name}.")
        else:
            yield before + item.name, value


TITLES = {name: f"{letter} · " for name, letter in zip(REFERENCES, "ABCDE", strict=True)}


@pytest.mark.parametrize("name", REFERENCES)
def test_each_value_of_a_table_is_the_recipes(name):
    for _, setting, value, how in rows_of(TITLES[name]) + rows_of("What A to E plan"):
        assert how.split()[0].strip(":,.;") in ("as", "differs", "chosen", "comes")
        if value:
            assert look_up(get_recipe(name), setting) == ast.literal_eval(value), setting


@pytest.mark.parametrize("name", REFERENCES)
def test_what_holds_for_all_five_holds_for_each(name):
    training = get_recipe(name).training
    for _, setting, value, _ in rows_of("All five"):
        if setting == "patches a step":
            assert training.batch * training.accumulate == int(value)
        elif value:
            assert look_up(get_recipe(name), setting) == ast.literal_eval(value), setting


@pytest.mark.parametrize("name", REFERENCES)
def test_each_setting_that_is_no_default_stands_in_the_table(name):
    named = {setting for _, setting, *_ in rows_of(TITLES[name]) + rows_of("All five")}
    usual = dict(flatten(Recipe(name=name)))
    changed = {path for path, value in flatten(get_recipe(name)) if value != usual[path]}
    assert changed <= named


def test_what_a_table_points_to_exists():
    pointers = [
        setting
        for title in (*TITLES.values(), "What A to E plan")
        for _, setting, _, _ in rows_of(title)
        if setting.startswith("bratskit.")
    ]
    assert len(pointers) > 8
    for pointer in pointers:
        module, name = pointer.rsplit(".", 1)
        assert hasattr(importlib.import_module(module), name), pointer


def test_each_recipe_stands_in_the_first_table():
    listed = {
        name
        for line in TABLES.read_text().split("## All five")[0].splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`([\w-]+)`", line.split(" | ")[0])
    }
    assert listed == set(RECIPES)


def test_the_name_that_c_had_is_still_understood():
    assert get_recipe("unet-c") is RECIPES["segresnet-c"]


def test_only_a_recipe_of_more_than_one_patch_in_a_batch_keeps_batch_norm():
    for name in (*REFERENCES, "t4", "best"):
        recipe = get_recipe(name)
        assert recipe.network.norm != "batch" or recipe.training.batch > 1, name


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"smoke"}))
def test_a_miniature_learns_what_the_recipe_learns(name):
    recipe, small = get_recipe(name), miniature(get_recipe(name))
    assert all(getattr(small, key) == getattr(recipe, key) for key in KEPT)
    kept = dataclasses.asdict(small.training).items() - dataclasses.asdict(recipe.training).items()
    assert {key for key, _ in kept} <= SHRUNK
    assert replace(small.network, channels=recipe.network.channels) == recipe.network
    assert small.inference.mode == recipe.inference.mode
    for key in ("size_vox", "crop_vox"):
        assert (getattr(small.geometry, key) is None) == (getattr(recipe.geometry, key) is None)
    assert max(small.training.patch_vox) <= 48


def test_a_miniature_is_no_enlargement_and_names_a_network_it_cannot_narrow():
    with pytest.raises(ValueError, match=r"spacing_mm must be at least .*\(4.0, 4.0, 4.0\).*2.0"):
        miniature(get_recipe("smoke"), spacing_mm=2.0)
    swin = NetworkSettings(name="swin_unetr", channels=(24, 48, 96, 192, 384), norm="instance")
    with pytest.raises(ValueError, match=r"network must be one of .*got 'swin_unetr'"):
        miniature(replace(get_recipe("unet-a"), network=swin))


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Make four phantoms in voxels of 4 mm: the smallest cohort that can be split in three."""
    folder = tmp_path_factory.mktemp("phantoms")
    make_cohort(folder, n_cases=4, seed=3, spacing_mm=(4.0, 4.0, 4.0), workers=1)
    return folder


def train_from_shell(recipe, data, work, monkeypatch):
    """Prepare and train; return the loss of a fixed batch before and after."""
    monkeypatch.setitem(RECIPES, recipe.name, recipe)
    prepared, run = work / "prepared", RunFolder(work / "run")
    assert main(["prepare", str(data), str(prepared), "--recipe", recipe.name]) == 0
    assert main(["train", str(prepared), str(run.path), "--recipe", recipe.name]) == 0
    cases = [open_prepared(prepared / name) for name in list_prepared(prepared)]
    sampler = PatchSampler(
        cases,
        patch_vox=recipe.training.patch_vox,
        tumour_share=1.0,
        rng=np.random.default_rng(1),
    )
    batch = sampler.cut(sampler.draw(recipe.training.batch))
    seed_everything(recipe.seed)
    untrained = network_of(recipe)
    trained = load_checkpoint(run.last).network
    return [loss_of(network, batch, recipe) for network in (untrained, trained)]


def loss_of(network, batch, recipe):
    image, labels = batch
    with torch.no_grad():
        return float(make_loss(recipe)(network.eval()(image.float()), labels))


@pytest.mark.parametrize("name", [*REFERENCES, "tiny"])
def test_a_recipe_learns_from_the_command_line(name, phantoms, tmp_path, monkeypatch):
    """Its miniature: voxels of 4 mm, patches of 32, a quarter of the channels, 10 steps."""
    if get_recipe(name).network.name == "segresnet":
        pytest.importorskip("monai", reason="pip install 'bratskit[monai]'")
    before, after = train_from_shell(miniature(get_recipe(name)), phantoms, tmp_path, monkeypatch)
    assert after < before - 0.01


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", [*REFERENCES, "tiny"])
def test_a_recipe_of_full_size_learns_from_the_command_line(name, tmp_path, monkeypatch):
    """Its own grid, patch, channels; what is short is the training: three steps."""
    if get_recipe(name).network.name == "segresnet":
        pytest.importorskip("monai", reason="pip install 'bratskit[monai]'")
    recipe = get_recipe(name)
    short = replace(recipe.training, epochs=1, steps_per_epoch=3, validate_every=1, warmup=0.0)
    make_cohort(tmp_path / "data", n_cases=4, seed=3, workers=1)
    recipe = replace(recipe, training=short)
    before, after = train_from_shell(recipe, tmp_path / "data", tmp_path, monkeypatch)
    assert after < before
