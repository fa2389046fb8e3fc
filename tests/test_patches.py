"""Patches lie where they were drawn, show tumour as often as asked, and repeat from a state."""

from collections import Counter

import numpy as np
import pytest
import torch
from training import SHAPE, fill_store, make_prepared

from bratskit.preprocess import open_prepared, save_prepared, store
from bratskit.train import PatchPlace, PatchSampler


def make_sampler(prepared: list, **changes: object) -> PatchSampler:
    settings = {"patch_vox": (16, 16, 16), "tumour_share": 0.5} | changes
    return PatchSampler(prepared, rng=np.random.default_rng(7), **settings)


def test_a_patch_holds_the_voxels_of_its_place():
    prepared = make_prepared()
    image, labels = make_sampler([prepared]).cut([PatchPlace(0, (3, 5, 7))])
    expected = prepared.image[:, 3:19, 5:21, 7:23]
    assert image.shape == (1, 4, 16, 16, 16)
    assert image.dtype == torch.float32
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(image[0], expected)
    np.testing.assert_array_equal(labels[0], prepared.labels[3:19, 5:21, 7:23])


def test_a_patch_larger_than_the_case_is_padded_with_zeros():
    prepared = make_prepared()
    image, labels = make_sampler([prepared], patch_vox=(48, 48, 48)).sample(1)
    assert image[0].abs().sum().item() == pytest.approx(np.abs(prepared.image).sum(), rel=1e-4)
    assert labels.sum().item() == prepared.labels.sum()


def test_patches_stay_inside_a_case_that_is_large_enough():
    places = make_sampler([make_prepared()]).draw(300)
    for axis, length in enumerate(SHAPE):
        starts = [place.start[axis] for place in places]
        assert min(starts) == 0
        assert max(starts) == length - 16


def test_every_tumour_patch_shows_tumour():
    sampler = make_sampler([make_prepared()], tumour_share=1.0)
    _, labels = sampler.sample(60)
    assert (labels.flatten(1) > 0).any(dim=1).all()


def test_labels_are_centred_on_equally_often_however_small():
    prepared = make_prepared()  # NCR has 1/30 of the voxels of ED
    sampler = make_sampler([prepared], tumour_share=1.0, patch_vox=(2, 2, 2))
    centres = Counter()
    for place in sampler.draw(900):  # a jitter of 2 // 4 = 0 voxels leaves the drawn one
        centres[int(prepared.labels[tuple(np.array(place.start) + 1)])] += 1
    assert set(centres) == {1, 2, 3}
    assert min(centres.values()) > 240


def test_a_case_without_tumour_gives_uniform_patches():
    healthy = make_prepared()
    healthy = type(healthy)(**(vars(healthy) | {"labels": np.zeros_like(healthy.labels)}))
    image, labels = make_sampler([healthy], tumour_share=1.0).sample(3)
    assert labels.sum() == 0
    assert torch.isfinite(image).all()


def test_a_sampler_goes_on_from_its_state(tmp_path):
    ids = fill_store(tmp_path)
    prepared = [open_prepared(tmp_path / name) for name in ids]
    sampler = make_sampler(prepared)
    sampler.draw(5)
    state = sampler.state_dict()
    expected = sampler.draw(20)
    other = make_sampler(prepared)
    other.load_state_dict(state)
    assert other.draw(20) == expected


def test_a_compact_store_gives_the_patches_of_a_fast_one(tmp_path):
    batches = []
    for form in ("fast", "compact"):
        names = ["a", "b"]
        for seed, name in enumerate(names):
            save_prepared(make_prepared(name, seed=seed), tmp_path / form, form=form)
        sampler = make_sampler([open_prepared(tmp_path / form / name) for name in names])
        batches.append(sampler.sample(6))
    torch.testing.assert_close(batches[0][0], batches[1][0], atol=0.05, rtol=0)
    assert torch.equal(batches[0][1], batches[1][1])


def test_no_cases_are_refused():
    with pytest.raises(ValueError, match="Prepare the training cases first"):
        make_sampler([])


def test_a_case_without_labels_is_refused_by_name():
    blind = make_prepared("BraTS_blind")
    blind = type(blind)(**(vars(blind) | {"labels": None}))
    with pytest.raises(ValueError, match="BraTS_blind"):
        make_sampler([blind])


# -- a stated mix of labels


def centres_of(sampler: PatchSampler, prepared, n_patches: int) -> Counter:
    """Count the label each patch of 2^3 voxels is centred on: its jitter is 2 // 4 = 0 voxels."""
    places = [np.array(place.start) + 1 for place in sampler.draw(n_patches)]
    return Counter(int(prepared.labels[tuple(place)]) for place in places)


def test_labels_are_centred_on_as_often_as_stated():
    prepared = make_prepared()
    mix = (("NCR", 0.1), ("ED", 0.2), ("ET", 0.7))
    sampler = make_sampler([prepared], tumour_share=1.0, patch_vox=(2, 2, 2), label_share=mix)
    centres = centres_of(sampler, prepared, 2000)
    for label, share in ((1, 0.1), (2, 0.2), (3, 0.7)):
        assert abs(centres[label] / 2000 - share) < 4 * np.sqrt(share * (1 - share) / 2000)


def test_the_stated_mix_is_one_of_the_tumour_patches_only():
    prepared = make_prepared()
    sampler = make_sampler(
        [prepared], tumour_share=0.5, patch_vox=(2, 2, 2), label_share=(("ET", 1.0),)
    )
    by_chance = np.isin(prepared.labels, 3).mean()
    share = centres_of(sampler, prepared, 2000)[3] / 2000
    assert share == pytest.approx(0.5 + 0.5 * by_chance, abs=0.05)


@pytest.mark.parametrize(
    ("mix", "expected"), [({"NCR": 0.5, "ED": 0.5}, {2}), ({"NCR": 1}, {2, 3})]
)
def test_a_case_that_lacks_a_label_shares_among_those_it_has(mix, expected):
    prepared = make_prepared()
    labels = np.where(prepared.labels == 1, 0, prepared.labels)
    prepared = type(prepared)(**(vars(prepared) | {"labels": labels}))
    sampler = make_sampler(
        [prepared], tumour_share=1.0, patch_vox=(2, 2, 2), label_share=tuple(mix.items())
    )
    assert set(centres_of(sampler, prepared, 200)) == expected


def test_without_a_stated_mix_the_draws_are_those_of_before():
    prepared = make_prepared()
    first, second = (make_sampler([prepared], label_share=mix) for mix in ((), []))
    assert first.draw(50) == second.draw(50)


# -- what is read


class Counting:
    """Stand before an array and count the bytes that are taken from it; refuse to be whole."""

    def __init__(self, array: np.ndarray, taken: list[int]) -> None:
        self.array, self.taken = array, taken
        self.shape, self.ndim, self.dtype = array.shape, array.ndim, array.dtype

    def __getitem__(self, part: object) -> np.ndarray:
        values = self.array[part]
        self.taken.append(values.nbytes)
        return values

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("the whole volume was asked for")


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_a_patch_reads_its_own_bytes_and_no_whole_volume(tmp_path, monkeypatch, form):
    save_prepared(make_prepared("big", shape=(64, 64, 64)), tmp_path, form=form)
    prepared, taken, opened = open_prepared(tmp_path / "big"), [], Counter()
    real_map, real_cut = type(prepared)._map, store.read_compact

    def read_compact(path, part=None):
        assert part is not None, f"{path.name} was read whole"
        values = real_cut(path, part)
        taken.append(values.nbytes)
        return values

    monkeypatch.setattr(
        type(prepared), "_map", lambda self, name: Counting(real_map(self, name), taken)
    )
    monkeypatch.setattr(store, "read_compact", read_compact)
    real_load = np.load
    monkeypatch.setattr(
        np, "load", lambda file, **named: opened.update([str(file)]) or real_load(file, **named)
    )
    sampler = make_sampler([prepared], tumour_share=0.67, label_share=(("ET", 1.0),))
    places = sampler.draw(30)
    assert taken == []  # drawing reads the foreground index, once, and no volume
    assert len(opened) == 1
    assert "foreground" in str(*opened)
    sampler.cut(places)
    voxels = 16**3
    a_patch = voxels * (4 * (2 if form == "fast" else 1) + 1)  # float16 or codes; labels uint8
    assert sum(taken) == 30 * a_patch
    assert a_patch < 64**3 * 9 / 50
