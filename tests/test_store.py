"""Promise: a prepared case is stored whole or not at all, and read back patch by patch."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.labels import MODALITIES
from bratskit.preprocess import Geometry, Prepared, list_prepared, open_prepared, read_patch
from bratskit.preprocess.store import foreground_index, save_prepared
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


def test_channel_names_and_absent_labels_survive(tmp_path):
    prepared = make_prepared(with_labels=False, modalities=("t1ce", "flair"))
    stored = open_prepared(save_prepared(prepared, tmp_path))
    assert stored.modalities == ("t1ce", "flair")
    assert stored.labels is None
    assert stored.foreground == {}
    assert read_patch(stored, (0, 0, 0), (4, 4, 4))[1] is None


def test_foreground_points_at_its_label(tmp_path):
    prepared = make_prepared()
    stored = open_prepared(save_prepared(prepared, tmp_path))
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
    st.tuples(*[st.integers(-14, 14)] * 3),
    st.tuples(*[st.integers(1, 16)] * 3),
)
@settings(max_examples=40, derandomize=True, deadline=None)
def test_a_patch_is_the_padded_volume_cut(start, size):
    prepared = make_prepared()
    image, labels = read_patch(prepared, start, size)
    cut = tuple(slice(s + 32, s + 32 + n) for s, n in zip(start, size, strict=True))
    np.testing.assert_array_equal(labels, np.pad(prepared.labels, 32)[cut])
    padded = np.pad(prepared.image, [(0, 0), (32, 32), (32, 32), (32, 32)])
    np.testing.assert_array_equal(image, padded[(slice(None), *cut)])
    assert image.dtype == np.float32


def test_a_stored_case_travels_to_a_worker_as_a_path(tmp_path):
    stored = open_prepared(save_prepared(make_prepared(), tmp_path))
    sent = pickle.dumps(stored)
    assert len(sent) < 2000
    np.testing.assert_array_equal(pickle.loads(sent).image, stored.image)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to count open files")  # noqa: PTH112
def test_open_cases_hold_no_open_files(tmp_path):
    place = save_prepared(make_prepared(), tmp_path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    cases = [open_prepared(place) for _ in range(20)]
    for case in cases:
        read_patch(case, (0, 0, 0), (4, 4, 4))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_saving_again_replaces_the_case(tmp_path):
    save_prepared(make_prepared(), tmp_path)
    place = save_prepared(make_prepared(with_labels=False), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Phantom_00000"]
    assert not (place / "labels.npy").exists()


def test_a_kill_leaves_no_case_that_lists(tmp_path, monkeypatch):
    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("bratskit.preprocess.store._write_receipt", die)
    with pytest.raises(KeyboardInterrupt):
        save_prepared(make_prepared(), tmp_path)
    assert list_prepared(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_kill_are_not_listed_and_then_cleared(tmp_path):
    place = save_prepared(make_prepared(), tmp_path)
    shutil.copytree(place, tmp_path / ".Phantom_00000.partial")
    assert list_prepared(tmp_path) == ["Phantom_00000"]
    save_prepared(make_prepared(), tmp_path)
    assert not (tmp_path / ".Phantom_00000.partial").exists()


def test_the_receipt_says_who_made_it(tmp_path):
    receipt = json.loads((save_prepared(make_prepared(), tmp_path) / "receipt.json").read_text())
    assert "commit" in receipt["made_by"]
    assert receipt["geometry"]["spacing_mm"] == [1.0, 1.0, 1.0]


def test_values_beyond_half_precision_are_held_finite(tmp_path):
    prepared = make_prepared()
    prepared.image[0, 1, 1, 1] = 1e6
    stored = open_prepared(save_prepared(prepared, tmp_path))
    assert np.isfinite(stored.image).all()


def test_a_full_disk_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(100, 100, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"must have 0\.0 MB free for Phantom_00000; got 0\.0 MB"):
        save_prepared(make_prepared(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_case_is_refused_with_the_command(tmp_path):
    save_prepared(make_prepared(), tmp_path)
    with pytest.raises(FileNotFoundError, match=r"bratskit prepare DATA .*\['Phantom_00000'\]"):
        open_prepared(tmp_path / "Phantom_00001")
