"""Promise: a prepared case is stored whole or not at all, and read back patch by patch."""

import contextlib
import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.labels import MODALITIES
from bratskit.preprocess import Geometry, Prepared, list_prepared, open_prepared, read_patch
from bratskit.preprocess.budget import FORMS
from bratskit.preprocess.store import foreground_index, read_receipt, save_prepared
from bratskit.settings import GeometrySettings

SHAPE = (11, 9, 10)


def make_prepared(case_id="Phantom_00000", *, with_labels=True, modalities=MODALITIES):
    rng = np.random.default_rng(0)
    mask = np.ones(SHAPE, bool)
    mask[0, 0, 0] = False
    image = (rng.normal(size=(len(modalities), *SHAPE)) * mask).astype(np.float32)
    labels = np.where(mask, rng.integers(0, 3, SHAPE), 0).astype(np.uint8)
    geometry = Geometry.plan(np.ones(SHAPE, bool), GeometrySettings(), affine=np.eye(4))
    return Prepared(
        id=case_id,
        image=image,
        labels=labels if with_labels else None,
        mask=mask,
        geometry=geometry,
        modalities=modalities,
    )


@pytest.fixture(params=FORMS)
def form(request):
    """Run a test once a form."""
    return request.param


def test_what_was_saved_is_read_back(tmp_path):
    prepared = make_prepared()
    stored = open_prepared(save_prepared(prepared, tmp_path))
    assert (stored.id, stored.geometry) == (prepared.id, prepared.geometry)
    assert isinstance(stored.image, np.memmap)
    assert stored.image.dtype == np.float16
    np.testing.assert_allclose(stored.image, prepared.image, rtol=1 / 2048, atol=1e-7)
    np.testing.assert_array_equal(stored.labels, prepared.labels)
    np.testing.assert_array_equal(stored.mask, prepared.mask)
    assert (stored.image[:, ~stored.mask] == 0).all()


def test_a_compact_case_reads_like_an_array_of_float32(tmp_path):
    prepared = make_prepared()
    stored = open_prepared(save_prepared(prepared, tmp_path, form="compact"))
    image = np.asarray(stored.image)
    assert (stored.image.shape, stored.image.dtype, len(stored.image)) == ((4, *SHAPE), "f4", 4)
    assert image.dtype == np.float32
    assert np.abs(image - prepared.image).max() < 0.02
    assert ((image == 0) == (prepared.image == 0)).all()
    np.testing.assert_array_equal(stored.labels, prepared.labels)
    np.testing.assert_array_equal(stored.mask, prepared.mask)
    assert (stored.labels.dtype, stored.mask.dtype) == (np.uint8, np.bool_)


@pytest.mark.parametrize(
    "key",
    [
        2,
        -1,
        (1, 3),
        (slice(1, 3), slice(None), 4),
        (slice(None), slice(2, 8), slice(-4, None), slice(1, 2)),
        (slice(None), slice(5, 5)),
        (..., 3),
        (slice(None), slice(None, None, 2)),
        ([0, 2],),
        None,
        (0, 1, 2, 3),
    ],
    ids=str,
)
def test_any_index_of_a_compact_image_is_that_of_the_array(tmp_path, key):
    image = open_prepared(save_prepared(make_prepared(), tmp_path, form="compact")).image
    np.testing.assert_array_equal(image[key], np.asarray(image)[key])


def test_an_index_outside_a_compact_image_is_refused(tmp_path):
    image = open_prepared(save_prepared(make_prepared(), tmp_path, form="compact")).image
    with pytest.raises(IndexError, match=r"must be in \[-11, 11\); got 11"):
        image[0, 11]


def test_channel_names_and_absent_labels_survive(tmp_path, form):
    prepared = make_prepared(with_labels=False, modalities=("t1ce", "flair"))
    stored = open_prepared(save_prepared(prepared, tmp_path, form=form))
    assert stored.modalities == ("t1ce", "flair")
    assert stored.labels is None
    assert stored.foreground == {}
    assert read_patch(stored, (0, 0, 0), (4, 4, 4))[1] is None


def test_foreground_points_at_its_label(tmp_path, form):
    prepared = make_prepared()
    stored = open_prepared(save_prepared(prepared, tmp_path, form=form))
    assert sorted(stored.foreground) == [1, 2]  # 3 does not occur
    for label, voxels in stored.foreground.items():
        assert voxels.dtype == np.int32
        np.testing.assert_array_equal(voxels, np.argwhere(prepared.labels == label))
        np.testing.assert_array_equal(voxels, prepared.foreground[label])


def test_a_capped_foreground_is_spread_and_repeats():
    labels = np.ones((20, 20, 20), np.uint8)
    index = foreground_index(labels, case_id="a", most=100)
    assert index[1].shape == (100, 3)
    assert len(np.unique(index[1], axis=0)) == 100
    assert index[1].mean() == pytest.approx(9.5, abs=1)
    np.testing.assert_array_equal(foreground_index(labels, case_id="a", most=100)[1], index[1])
    assert not np.array_equal(foreground_index(labels, case_id="b", most=100)[1], index[1])


@given(
    where=st.sampled_from(["memory", *FORMS]),
    start=st.tuples(*[st.integers(-14, 14)] * 3),
    size=st.tuples(*[st.integers(1, 16)] * 3),
)
@settings(max_examples=80, derandomize=True, deadline=None)
def test_a_patch_is_the_padded_volume_cut(tmp_path_factory, where, start, size):
    prepared = make_prepared()
    if where != "memory":
        folder = tmp_path_factory.getbasetemp() / where
        place = folder / prepared.id
        prepared = open_prepared(
            place if place.exists() else save_prepared(prepared, folder, form=where)
        )
    image, labels = read_patch(prepared, start, size)
    cut = tuple(slice(s + 32, s + 32 + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_array_equal(labels, np.pad(prepared.labels, 32)[cut])
    whole = np.asarray(prepared.image, dtype=np.float32)
    padded = np.pad(whole, [(0, 0), (32, 32), (32, 32), (32, 32)])
    np.testing.assert_array_equal(image, padded[(slice(None), *cut)])
    assert image.dtype == np.float32


def test_a_patch_is_a_copy(tmp_path, form):
    prepared = make_prepared()
    stored = open_prepared(save_prepared(prepared, tmp_path, form=form))
    for case in (prepared, stored):
        before = np.array(case.image)
        image, labels = read_patch(case, (0, 0, 0), SHAPE)
        image[...], labels[...] = 9, 9
        np.testing.assert_array_equal(case.image, before)
        assert case.labels.max() < 9


def test_a_stored_case_travels_to_a_worker_as_a_path(tmp_path, form):
    stored = open_prepared(save_prepared(make_prepared(), tmp_path, form=form))
    sent = pickle.dumps(stored)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).image[:], stored.image[:])


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to count open files")  # noqa: PTH112
def test_open_cases_hold_no_open_files(tmp_path, form):
    place = save_prepared(make_prepared(), tmp_path, form=form)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    cases = [open_prepared(place) for _ in range(20)]
    for case in cases:
        read_patch(case, (0, 0, 0), (4, 4, 4))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_saving_again_replaces_the_case(tmp_path, form):
    save_prepared(make_prepared(), tmp_path)
    place = save_prepared(make_prepared(with_labels=False), tmp_path, form=form)
    assert open_prepared(place).image.shape == (4, *SHAPE)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Phantom_00000"]
    assert not (place / "labels.npy").exists()


def test_a_kill_leaves_no_case_that_lists(tmp_path, monkeypatch, form):
    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bratskit.preprocess.store.write_receipt", die)
    with pytest.raises(KeyboardInterrupt):
        save_prepared(make_prepared(), tmp_path, form=form)
    assert list_prepared(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("when", ["removal", "rename"])
def test_a_kill_while_a_case_is_replaced_leaves_whole_ones(tmp_path, monkeypatch, when):
    """Half an old case beside its receipt would pass for a whole one."""
    place = save_prepared(make_prepared(), tmp_path)
    before = {path.name: path.read_bytes() for path in place.iterdir()}

    def die(path, **kwargs):
        if path != place:
            return remove(path, **kwargs)
        (place / "image.npy").unlink()  # begun to remove the case, then stopped
        raise KeyboardInterrupt

    def stop(*_args):
        raise KeyboardInterrupt

    remove = shutil.rmtree
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        patch.setattr(Path, "rename", stop if when == "rename" else Path.rename)
        with contextlib.suppress(KeyboardInterrupt):
            save_prepared(make_prepared(), tmp_path)
    for case_id in list_prepared(tmp_path):
        after = {path.name: path.read_bytes() for path in (tmp_path / case_id).iterdir()}
        before.pop("receipt.json", None), after.pop("receipt.json")  # it holds the time
        assert after == before


def test_leftovers_of_a_kill_are_not_listed_and_then_cleared(tmp_path):
    place = save_prepared(make_prepared(), tmp_path)
    shutil.copytree(place, tmp_path / ".Phantom_00000.partial")
    assert list_prepared(tmp_path) == ["Phantom_00000"]
    save_prepared(make_prepared(), tmp_path)
    assert not (tmp_path / ".Phantom_00000.partial").exists()


def test_the_receipt_says_who_made_it(tmp_path, form):
    receipt = json.loads(
        (save_prepared(make_prepared(), tmp_path, form=form) / "receipt.json").read_text()
    )
    assert "commit" in receipt["made_by"]
    assert receipt["geometry"]["spacing_mm"] == [1.0, 1.0, 1.0]


def test_values_beyond_half_precision_are_held_finite(tmp_path, form):
    prepared = make_prepared()
    prepared.image[0, 1, 1, 1] = 1e6
    stored = open_prepared(save_prepared(prepared, tmp_path, form=form))
    assert np.isfinite(stored.image).all()


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(100, 100, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"must have 0\.1 MB free for Phantom_00000; got 0\.0 MB"):
        save_prepared(make_prepared(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_case_is_refused_with_the_command(tmp_path):
    save_prepared(make_prepared(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"bratskit prepare DATA .*\['Phantom_00000'\]"):
        open_prepared(tmp_path / "Phantom_00001")


@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", "mask.b2nd", "levels.npy"])
@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_the_command(tmp_path, name, share):
    path = save_prepared(make_prepared(), tmp_path, form="compact") / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=rf"{name} must be a whole file.*Delete .*prepare DATA"):
        [getattr(open_prepared(path.parent), what) for what in ("image", "labels", "mask")]


def test_a_store_may_hold_both_forms(tmp_path):
    for case_id, kind in (("a", "fast"), ("b", "compact")):
        save_prepared(make_prepared(case_id), tmp_path, form=kind)
    fast, compact = (open_prepared(tmp_path / name) for name in list_prepared(tmp_path))
    np.testing.assert_allclose(fast.image, compact.image, atol=0.02)
    assert [read_receipt(tmp_path / name)["form"] for name in "ab"] == ["fast", "compact"]


def test_the_receipt_says_what_a_case_weighs(tmp_path, form):
    place = save_prepared(make_prepared(), tmp_path, form=form)
    files = [path for path in place.iterdir() if path.name != "receipt.json"]
    assert read_receipt(place)["bytes"] == sum(path.stat().st_size for path in files)


def test_another_form_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"one of \['fast', 'compact'\]; got 'small'"):
        save_prepared(make_prepared(), tmp_path, form="small")
