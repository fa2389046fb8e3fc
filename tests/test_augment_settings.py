"""Settings say how patches are varied; the usual ones draw what older runs have drawn."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from bratskit.settings import AUGMENTATIONS, AugmentationSettings, Recipe, get_recipe
from bratskit.train import draw_augmentation

EVERYTHING = AugmentationSettings(
    flip_share=1,
    affine_share=1,
    elastic_share=1,
    gamma_share=1,
    noise_share=1,
    blur_share=1,
    low_resolution_share=1,
    channel_dropout_share=1,
)


def older_draw(rng: np.random.Generator, batch: int, channels: int) -> dict[str, Any]:
    """What was drawn before there were settings, copied from that version."""

    def each() -> np.ndarray:
        return rng.uniform(-1, 1, (batch, channels))

    turned = rng.random(batch) < 0.2
    curved = (rng.random(batch) < 0.3)[:, None]
    noisy = rng.random(batch) < 0.15
    return {
        "flips": rng.random((batch, 3)) < 0.5,
        "rotation_rad": turned[:, None] * rng.uniform(-0.26, 0.26, (batch, 3)),
        "zoom": 1 + turned * rng.uniform(-0.15, 0.15, batch),
        "scale": 1 + 0.1 * each(),
        "shift": 0.1 * each(),
        "gamma": np.exp(curved * 0.35 * each()),
        "noise_std": noisy * rng.uniform(0, 0.1, batch),
        "noise_seed": int(rng.integers(2**31)),
    }


@pytest.mark.parametrize("channels", [1, 4])
def test_the_usual_settings_draw_to_the_bit_what_older_runs_drew(channels: int):
    before, now = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(20):
        expected = older_draw(before, 3, channels)
        drawn = draw_augmentation(now, 3, channels=channels)
        for name, value in expected.items():
            np.testing.assert_array_equal(getattr(drawn, name), value, err_msg=name)
        assert drawn.bend is None
        assert not drawn.blur_vox.any()
        assert (drawn.coarse_vox == 1).all()
        assert not drawn.dropped.any()
    assert before.bit_generator.state == now.bit_generator.state


@pytest.mark.parametrize("settings", AUGMENTATIONS.values(), ids=AUGMENTATIONS)
def test_all_settings_take_as_many_numbers_so_that_patches_stay_the_same(settings):
    usual, other = np.random.default_rng(1), np.random.default_rng(1)
    draw_augmentation(usual, 2)
    draw_augmentation(other, 2, settings)
    assert usual.bit_generator.state == other.bit_generator.state


def test_turning_one_operation_off_leaves_the_draws_of_all_others():
    drawn = draw_augmentation(np.random.default_rng(0), 8, EVERYTHING)
    calmer = dataclasses.replace(EVERYTHING, elastic_share=0, blur_share=0, gamma_share=0)
    again = draw_augmentation(np.random.default_rng(0), 8, calmer)
    for name in ("flips", "zoom", "scale", "shift", "noise_std", "coarse_vox", "dropped"):
        np.testing.assert_array_equal(getattr(again, name), getattr(drawn, name), err_msg=name)
    assert drawn.bend is not None
    assert again.bend is None
    assert drawn.blur_vox.any()
    assert not again.blur_vox.any()


def test_draws_keep_to_their_ranges():
    settings = dataclasses.replace(EVERYTHING, blur_vox=1.5, low_resolution=3.0, flip_axes=(0, 2))
    drawn = draw_augmentation(np.random.default_rng(0), 200, settings)
    assert drawn.flips.all(axis=0).tolist() == [True, False, True]
    blurred, coarse = (drawn.blur_vox[drawn.blur_vox > 0], drawn.coarse_vox[drawn.coarse_vox > 1])
    assert 0.75 <= blurred.min() < 0.8
    assert 1.45 < blurred.max() <= 1.5
    assert 2.9 < coarse.max() <= 3
    assert len(blurred) / 800 == pytest.approx(0.5, abs=0.06)
    assert np.abs(drawn.bend).max() <= settings.elastic
    assert (drawn.dropped.sum(axis=1) == 1).all()
    assert set(np.flatnonzero(drawn.dropped) % 4) == {0, 1, 2, 3}


def test_shares_are_kept():
    settings = AugmentationSettings(
        elastic_share=0.25, brightness_share=0.5, contrast_share=0.1, channel_dropout_share=0.75
    )
    drawn = draw_augmentation(np.random.default_rng(0), 2000, settings, channels=2)
    assert drawn.bend.any(axis=(1, 2, 3, 4)).mean() == pytest.approx(0.25, abs=0.04)
    assert drawn.shift.any(axis=1).mean() == pytest.approx(0.5, abs=0.04)
    assert (drawn.scale != 1).any(axis=1).mean() == pytest.approx(0.1, abs=0.03)
    assert drawn.dropped.any(axis=1).mean() == pytest.approx(0.75, abs=0.04)


def test_the_only_channel_is_never_dropped():
    drawn = draw_augmentation(np.random.default_rng(0), 20, EVERYTHING, channels=1)
    assert not drawn.dropped.any()


@pytest.mark.parametrize(
    ("name", "value", "helpful"),
    [
        ("flip_share", 1.5, r"in \[0, 1\]; got 1\.5\. 0 turns it off"),
        ("elastic_share", -0.1, "0 turns it off"),
        ("zoom", 1.0, r"zoom must be in \[0, 0\.9\]; got 1\.0\. Usual: 0\.15"),
        ("rotation_deg", 200, r"rotation_deg must be in \[0, 180\]"),
        ("gamma", float("nan"), "gamma must be a number; got nan"),
        ("low_resolution", 0.5, r"must be in \[1, 8\]; got 0\.5\. Usual: 2"),
        ("elastic_knots", 3, "whole number from 4 to 32; got 3. Try 5"),
        ("flip_axes", (0, 3), r"distinct axes of 0, 1, 2; got \(0, 3\)"),
    ],
)
def test_senseless_settings_are_refused_by_name(name: str, value: object, helpful: str):
    with pytest.raises(ValueError, match=helpful):
        AugmentationSettings(**{name: value})


def test_a_recipe_from_before_augmentation_had_settings_means_the_usual_ones():
    values = get_recipe("tiny").to_dict()
    del values["augmentation"]
    assert Recipe.from_dict(values).augmentation == AugmentationSettings()


def test_a_recipe_keeps_its_augmentation_on_disk(tmp_path):
    recipe = dataclasses.replace(get_recipe("tiny"), augmentation=AUGMENTATIONS["strong"])
    recipe.save(tmp_path / "settings.json")
    assert Recipe.load(tmp_path / "settings.json") == recipe
