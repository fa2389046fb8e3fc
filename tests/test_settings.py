"""Settings say no to what cannot work, by name, and survive the way to disk and back."""

import dataclasses
import json
import re

import pytest

from bratskit.settings import (
    RECIPES,
    GeometrySettings,
    InferenceSettings,
    NetworkSettings,
    Recipe,
    TrainingSettings,
    change_recipe,
    get_recipe,
)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_a_recipe_survives_the_disk(recipe, tmp_path):
    recipe.save(tmp_path / "settings.json")
    assert Recipe.load(tmp_path / "settings.json") == recipe
    assert RECIPES[recipe.name] is recipe


def test_an_unknown_setting_is_refused_by_name_and_place():
    values = get_recipe("tiny").to_dict()
    values["training"]["epoch"] = 3
    with pytest.raises(ValueError, match=r"recipe\.training has no setting \['epoch'\].*'epochs'"):
        Recipe.from_dict(values)


def test_lists_of_json_come_back_as_tuples():
    values = json.loads(json.dumps(get_recipe("laptop").to_dict()))
    assert Recipe.from_dict(values).training.patch_vox == (80, 80, 80)


def test_a_recipe_from_before_a_setting_existed_still_loads():
    values = get_recipe("tiny").to_dict()
    del values["normalise"], values["geometry"]["region"], values["geometry"]["crop_vox"]
    del values["targets"], values["loss"]
    assert Recipe.from_dict(values) == get_recipe("tiny")


def test_a_stated_mix_of_labels_survives_the_disk(tmp_path):
    training = TrainingSettings(label_share={"NCR": 0.25, "ET": 0.75})
    recipe = dataclasses.replace(get_recipe("smoke"), training=training)
    recipe.save(tmp_path / "settings.json")
    assert Recipe.load(tmp_path / "settings.json").training.label_share == (
        ("ET", 0.75),
        ("NCR", 0.25),
    )


def test_a_setting_is_overridden_without_touching_the_recipe():
    before = get_recipe("tiny")
    after = dataclasses.replace(before, seed=7)
    assert (before.seed, after.seed, after.network) == (0, 7, before.network)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("tiny").seed = 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GeometrySettings(spacing_mm=(1.0, 0.0, 1.0)), r"positive; got \(1.0, 0.0, 1.0\)"),
        (lambda: GeometrySettings(size_vox=(8, 64, 64)), r"at least 16 .*got \(8, 64, 64\)"),
        (lambda: GeometrySettings(crop_vox=(64, 8, 64)), r"crop_vox .*at least 16 .*\(64, 8, 64\)"),
        (lambda: GeometrySettings(region="head"), r"region .*\('brain', 'grid'\); got 'head'"),
        (lambda: Recipe(name="a", normalise="max"), r"normalise .*'minmax'\); got 'max'"),
        (lambda: NetworkSettings(channels=(8,)), r"at least two levels; got \(8,\)"),
        (lambda: NetworkSettings(dropout=1.0), r"dropout must be in \[0, 1\); got 1.0. Try"),
        (lambda: TrainingSettings(batch=0), "batch must be a whole number, at least 1; got 0"),
        (lambda: TrainingSettings(accumulate=0), "accumulate must be .*at least 1"),
        (lambda: TrainingSettings(phantom_pool=2.5), "phantom_pool must be a whole .*got 2.5"),
        (lambda: TrainingSettings(phantom_reuse=True), "phantom_reuse must be a whole .*got True"),
        (lambda: TrainingSettings(extra_phantoms=1.5), "extra_phantoms must be .*got 1.5"),
        (lambda: TrainingSettings(phantom_spacing_mm=(1, 1, 20)), r"from 0.5 to 10.*\(1, 1, 20\)"),
        (lambda: TrainingSettings(phantom_spacing_mm=(1, 1)), r"three numbers.*got \(1, 1\)"),
        (lambda: TrainingSettings(tumour_share=1.5), r"tumour_share must be in \[0, 1\]; got 1.5"),
        (lambda: TrainingSettings(learning_rate=0.0), "learning_rate must be positive; got 0.0"),
        (lambda: TrainingSettings(optimiser="lion"), r"optimiser .*'sgd'\); got 'lion'"),
        (lambda: TrainingSettings(schedule="step"), r"schedule .*'poly', 'constant'\); got 'step'"),
        (lambda: TrainingSettings(ema_decay=1.0), r"ema_decay must be in \[0, 1\); got 1.0. Try"),
        (lambda: TrainingSettings(momentum=-0.1), r"momentum must be in \[0, 1\); got -0.1"),
        (lambda: TrainingSettings(warmup=1.5), r"warmup must be in \[0, 1\]; got 1.5"),
        (lambda: TrainingSettings(clip_norm=-1), "clip_norm must be 0 or more; got -1"),
        (lambda: TrainingSettings(weight_decay=-1), "weight_decay must be 0 or more; got -1"),
        (lambda: TrainingSettings(patience=1.5), "patience must be a whole .*got 1.5"),
        (lambda: TrainingSettings(label_share={"ET": 0.5}), "that sum to 1; got .*0.5"),
        (lambda: TrainingSettings(label_share={"TC": 1}), r"of \('NCR', 'ED', 'ET'\) that sum"),
        (lambda: TrainingSettings(label_share={"ET": 2, "ED": -1}), "shares from 0 to 1"),
        (lambda: TrainingSettings(label_share=[("ET", 1), ("ET", 0)]), "label_share .*each once"),
        (lambda: InferenceSettings(overlap=1.0), r"overlap must be in \[0, 1\); got 1.0"),
        (lambda: Recipe(name="a", modalities=("t1", "t1")), "distinct names from .*'t1ce'"),
        (lambda: Recipe(name="a", modalities=("t1gd",)), "distinct names from .*got .'t1gd'"),
    ],
)
def test_what_cannot_work_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("training.precision", "half", r"one of \('auto', 'fp32', 'bf16', 'fp16'\); got 'half'"),
        ("inference.mode", "whole", r"one of \('single', 'window'\); got 'whole'"),
        ("inference.weights", "gauss", r"one of \('gaussian', 'flat'\); got 'gauss'"),
        ("targets", "label", r"one of \('labels', 'regions'\); got 'label'"),
        ("training.batch", "2", "a whole number; got '2'. Default: 1."),
        ("training.learning_rate", "1e-3", "a number; got '1e-3'. Default: 0.001."),
        ("training.learning_rate", float("inf"), "a number; got inf"),
        ("training.augment", "no", "True or False; got 'no'. Default: True."),
        ("training.patch_vox", 64, "three whole numbers; got 64"),
        ("training.patch_vox", [64, 64], r"three whole numbers; got \(64, 64\)"),
        ("training.start_from", 3, "text, or None; got 3"),
        ("network.channels", [8, 16.5], r"whole numbers; got \(8, 16.5\)"),
        ("geometry.spacing_mm", "1", "three numbers, or None; got '1'"),
        ("loss.focal_gamma", None, "a number; got None"),
        ("augmentation.flip_axes", 0, "whole numbers; got 0"),
        ("training", 3, "settings by name; got 3"),
        ("seed", True, "a whole number; got True. Default: 0."),
        ("modalities", "t1", "a list of names; got 't1'"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused_by_its_dotted_name(name, value, said):
    values = get_recipe("tiny").to_dict()
    stage, _, own = name.rpartition(".")
    (values[stage] if stage else values)[own] = value
    with pytest.raises(ValueError, match=rf"{re.escape(name)} must be {said}") as refusal:
        Recipe.from_dict(values)
    assert "\n" not in str(refusal.value)


def test_settings_are_changed_by_dotted_names_as_json_or_text():
    words = ["network.norm=batch", "training.patch_vox=[32, 32, 32]", "training.augment=false"]
    words += ["inference.window_vox=[32, 32, 32]", "seed=7", "seed=8", 'training.start_from="a=b"']
    changed = change_recipe(get_recipe("tiny"), words)
    training = changed.training
    assert (training.patch_vox, training.augment, training.start_from) == ((32,) * 3, False, "a=b")
    assert (changed.network.norm, changed.seed) == ("batch", 8)
    assert change_recipe(get_recipe("tiny"), []) == get_recipe("tiny")


def test_changes_are_made_at_once_where_they_only_fit_together():
    changed = change_recipe(get_recipe("tiny"), ["targets=regions", "loss.name=dice_bce"])
    assert (changed.out_channels, changed.loss.name) == (3, "dice_bce")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("training.ema_decya=0.9", r"got 'training.ema_decya'. Nearest: training.ema_decay\."),
        ("ema_decay=0.9", r"Nearest: training.ema_decay\."),
        ("training=3", r"must name a setting; got 'training'"),
        ("dropout", r"must be NAME=VALUE; got 'dropout'"),
        ("training.batch=two", r"training.batch must be a whole number; got 'two'"),
    ],
)
def test_a_change_that_cannot_be_is_refused_with_the_nearest(word, said):
    with pytest.raises(ValueError, match=said):
        change_recipe(get_recipe("tiny"), [word])


def test_a_settings_file_that_is_no_recipe_is_refused(tmp_path):
    for text, said in (("[]", r"by name; got \[\]"), ("{}", "must have a name")):
        (tmp_path / "settings.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            Recipe.load(tmp_path / "settings.json")


def test_a_patch_that_does_not_halve_often_enough_names_the_nearest():
    training = TrainingSettings(patch_vox=(60, 64, 72))
    said = r"training\.patch_vox must be multiples of 16; got \(60, 64, 72\)\. Nearest: \(64, 64, "
    with pytest.raises(ValueError, match=said):
        Recipe(name="a", training=training)


def test_multiples_follow_from_the_levels():
    assert NetworkSettings(channels=(4, 8)).multiple_vox == 2
    assert NetworkSettings(channels=(4, 8, 16, 32)).multiple_vox == 8


def test_the_five_reference_formats_have_names():
    formats = {name: get_recipe(f"unet-{name}") for name in "abcde"}
    assert [name for name, recipe in formats.items() if recipe.normalise == "minmax"] == ["d"]
    assert formats["d"].modalities == ("flair", "t1ce", "t2")
    assert formats["a"].geometry.size_vox == (128, 128, 128)
    assert formats["b"].training.patch_vox == (128, 128, 64)
    assert (formats["b"].network.norm, formats["b"].network.dropout) == ("batch", 0.2)
    assert {name for name in "abcde" if formats[name].geometry.region == "grid"} == {"d", "e"}
    assert formats["d"].geometry.crop_vox == formats["e"].geometry.crop_vox == (128, 128, 128)


def test_the_five_references_have_their_targets_and_losses():
    formats = {name: get_recipe(f"unet-{name}") for name in "abcde"}
    assert {name for name in "abcde" if formats[name].targets == "regions"} == {"c"}
    losses = {name: recipe.loss.name for name, recipe in formats.items()}
    assert losses | {"c": "dice", "d": "dice_focal"} == losses
    assert {losses[name] for name in "abe"} == {"dice_ce"}


def test_an_unknown_recipe_lists_those_that_exist():
    with pytest.raises(ValueError, match=r"one of .*'laptop'.*'tiny'.*got 'huge'"):
        get_recipe("huge")
