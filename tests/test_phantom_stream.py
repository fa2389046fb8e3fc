"""Phantoms made while a network learns: the patches of stored ones, and the same after a kill."""

import dataclasses
import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from training import fill_store, small_recipe, weight_hash

from bratskit.cases import Split, make_phantom
from bratskit.preprocess import prepare_scan
from bratskit.runtime import RunFolder
from bratskit.settings import GeometrySettings, Recipe, get_recipe
from bratskit.train import PatchSampler, PhantomStream, open_sampler, train
from bratskit.train.phantom_stream import STREAM_SEED

CPU = torch.device("cpu")
COARSE = GeometrySettings(spacing_mm=(8.0, 8.0, 8.0))  # a brain of 18 x 22 x 17 voxels


def stream_recipe(**training: object) -> Recipe:
    """Return a recipe that learns from coarse phantoms alone."""
    settings = {"phantom_share": 1.0, "phantom_pool": 2, "phantom_reuse": 3, "epochs": 3}
    recipe = small_recipe(dropout=0.2, steps_per_epoch=2, **(settings | training))
    return dataclasses.replace(recipe, geometry=COARSE)


def open_stream(**training: object) -> PhantomStream:
    return PhantomStream(stream_recipe(**training), device=CPU)


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=4)


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


def test_a_patch_follows_from_its_number_alone():
    in_order, astray = open_stream(), open_stream()
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
def test_patients_and_phantoms_are_mixed_in_their_shares(store, share):
    recipe = stream_recipe(phantom_share=share)
    from training import make_prepared

    sampler = open_sampler([make_prepared("BraTS_1")], recipe, device=CPU)
    names = [sampler.ids([place])[0] for place in sampler.draw(200)]
    streamed = [name.startswith("StreamPhantom_") for name in names]
    assert sum(streamed) == pytest.approx(200 * share, abs=1)
    for first in range(180):  # evenly: any twenty in a row have their share too
        assert sum(streamed[first : first + 20]) == pytest.approx(20 * share, abs=1)


def test_a_share_of_none_is_the_sampler_of_old(store):
    from training import make_prepared

    prepared = [make_prepared()]
    sampler = open_sampler(prepared, small_recipe(), device=CPU)
    assert isinstance(sampler, PatchSampler)


def stop_after(epoch: int):
    def interrupt(history: list) -> None:
        if len(history) == epoch:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_an_interrupted_run_on_a_stream_ends_with_the_same_bits(tmp_path, share):
    recipe = stream_recipe(phantom_share=share, batch=2, augment=True)
    split, folder = NOBODY, tmp_path / "prepared"
    if share < 1:
        begin = [f"BraTS_{number}" for number in range(2)]
        from training import make_prepared

        from bratskit.preprocess import save_prepared

        for seed, name in enumerate(begin):
            save_prepared(make_prepared(name, seed=seed), folder)
        split = Split(train=tuple(begin), validation=(), test=())
    whole, parts = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "parts")
    words = {"recipe": recipe, "split": split, "deterministic": True, "device": CPU}
    expected = train(folder, whole, **words)
    with pytest.raises(KeyboardInterrupt):
        train(folder, parts, on_epoch=stop_after(1), **words)
    again = train(folder, parts, **words)
    assert again.column("loss").tolist() == expected.column("loss").tolist()
    assert weight_hash(parts.last) == weight_hash(whole.last)
