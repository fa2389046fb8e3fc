"""Promise: a scan becomes what the recipe says; a cohort is prepared once, whole, in parallel."""

import dataclasses
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch

from bratskit.cases import load_scan
from bratskit.cases.case import Scan
from bratskit.labels import get_schema
from bratskit.preprocess import (
    list_prepared,
    load_prepared,
    open_prepared,
    prepare_cohort,
    prepare_scan,
)
from bratskit.preprocess.lock import locked
from bratskit.settings import GeometrySettings, Recipe


def recipe_at(*, modalities=("flair", "t1", "t1ce", "t2"), **geometry):
    return Recipe(name="test", modalities=modalities, geometry=GeometrySettings(**geometry))


NATIVE = recipe_at()


@pytest.fixture
def scan(rng):
    """Return a scan of 24x20x22 voxels at 1 mm whose brain is a box with a three-tissue tumour."""
    image = np.zeros((4, 24, 20, 22), np.float32)
    image[:, 3:21, 2:17, 4:20] = rng.uniform(100, 900, size=(4, 18, 15, 16))
    labels = np.zeros((24, 20, 22), np.uint8)
    labels[6:14, 5:12, 8:16], labels[8:12, 6:11, 9:14], labels[9:11, 7:9, 10:12] = 2, 3, 1
    return Scan(
        id="Hand_001",
        image=image,
        labels=labels,
        affine=np.eye(4),
        schema=get_schema("brats2017-2021"),
        header=nib.Nifti1Header(),
        disk_affine=np.diag([-1.0, -1, 1, 1]),
    )


def test_a_native_recipe_crops_and_normalises_and_nothing_else(scan):
    prepared = prepare_scan(scan, NATIVE)
    brain = scan.image[:, 3:21, 2:17, 4:20].astype(np.float64)
    mean, deviation = (f(brain, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.std))
    np.testing.assert_allclose(prepared.image, (brain - mean) / deviation, atol=1e-5)
    np.testing.assert_array_equal(prepared.labels, scan.labels[3:21, 2:17, 4:20])
    assert prepared.image.dtype == np.float32
    assert prepared.mask.all()


def test_truth_goes_through_a_native_recipe_and_back_voxel_for_voxel(scan):
    prepared = prepare_scan(scan, NATIVE)
    np.testing.assert_array_equal(prepared.geometry.invert_labels(prepared.labels), scan.labels)


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [({"spacing_mm": (2, 2, 2)}, (9, 8, 8)), ({"size_vox": (16, 18, 20)}, (16, 18, 20))],
)
def test_a_resampling_recipe_masks_again(scan, wanted, shape):
    scan.image[:, 3:9, 2:7] = 0  # a corner of the box is background; its faces cut voxels
    prepared = prepare_scan(scan, recipe_at(**wanted))
    assert prepared.image.shape == (4, *shape)
    assert not prepared.mask.all()
    assert (prepared.image[:, ~prepared.mask] == 0).all()
    assert (prepared.image[:, prepared.mask] != 0).mean() > 0.99


def test_the_recipe_chooses_and_orders_channels_but_not_the_grid(scan):
    scan.image[2, :, :, :6] = 0
    scan.image[0, :, :, 18:] = 0
    whole = prepare_scan(scan, NATIVE)
    chosen = prepare_scan(scan, recipe_at(modalities=("t2", "flair")))
    assert chosen.geometry == whole.geometry
    assert chosen.modalities == ("t2", "flair")
    np.testing.assert_array_equal(chosen.image, whole.image[[3, 0]])


def test_a_modality_the_recipe_leaves_out_still_rules_the_grid(write_case, tmp_path, rng):
    """Only t1 reaches the ends; a box of the others alone would be smaller on every side."""
    image = np.zeros((4, 24, 20, 22), np.int16)
    image[:, 6:18, 5:14, 7:16] = rng.integers(100, 900, size=(4, 12, 9, 9))
    image[1, 3:21, 2:17, 4:20] = rng.integers(100, 900, size=(18, 15, 16))
    labels = np.zeros((24, 20, 22), np.uint8)
    labels[8:10, 8:10, 9:11] = 4
    case = write_case(tmp_path, image=image, labels=labels)
    chosen = recipe_at(modalities=("flair", "t1ce", "t2"))
    whole, part = load_prepared(case, NATIVE), load_prepared(case, chosen)
    assert whole.geometry.shape == (18, 15, 16)
    for prepared in (part, prepare_scan(load_scan(case), chosen)):
        assert prepared.geometry == whole.geometry
        np.testing.assert_array_equal(prepared.mask, whole.mask)
        np.testing.assert_array_equal(prepared.image, whole.image[[0, 2, 3]])


def test_a_slab_missing_in_one_modality_is_zero_there_and_nowhere_else(scan):
    broken = dataclasses.replace(scan, image=scan.image.copy())
    broken.image[0, :, :, :12] = 0
    prepared, intact = prepare_scan(broken, NATIVE), prepare_scan(scan, NATIVE)
    assert prepared.geometry == intact.geometry
    assert (prepared.image[0, :, :, :8] == 0).all()
    assert prepared.image[0, :, :, 8:].std() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(prepared.image[1:], intact.image[1:])


def test_the_scan_itself_is_left_alone(scan):
    image, labels = scan.image.copy(), scan.labels.copy()
    prepare_scan(scan, recipe_at(spacing_mm=(2, 2, 2))).image[...] = -1
    prepare_scan(scan, NATIVE).labels[...] = 3
    np.testing.assert_array_equal(scan.image, image)
    np.testing.assert_array_equal(scan.labels, labels)


def test_an_empty_scan_is_refused_by_name(scan):
    scan.image[...] = 0
    with pytest.raises(ValueError, match="Hand_001: image must hold a brain"):
        prepare_scan(scan, NATIVE)


@pytest.fixture
def cohort(write_case, tmp_path):
    """Return three small cases on disk."""
    return [write_case(tmp_path / "data", f"BraTS20_Training_{n:03d}") for n in range(1, 4)]


def stamps(store):
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/receipt.json")}


def test_a_cohort_equals_its_cases_one_by_one(cohort, tmp_path):
    ids = prepare_cohort(cohort, tmp_path / "store", recipe=NATIVE, workers=2)
    assert ids == [case.id for case in cohort] == list_prepared(tmp_path / "store")
    for case in cohort:
        alone = prepare_scan(load_scan(case), NATIVE)
        stored = open_prepared(tmp_path / "store" / case.id)
        np.testing.assert_array_equal(stored.image, alone.image.astype(np.float16))
        np.testing.assert_array_equal(stored.labels, alone.labels)


def test_torch_keeps_its_threads(cohort, tmp_path, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(2)
    prepare_cohort(cohort, tmp_path / "store", recipe=recipe_at(spacing_mm=(2, 2, 2)))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 2


def test_a_second_call_keeps_what_is_there_and_says_so(cohort, tmp_path, capsys):
    store = tmp_path / "store"
    prepare_cohort(cohort[:2], store, recipe=NATIVE)
    before = stamps(store)
    capsys.readouterr()
    prepare_cohort(cohort, store, recipe=NATIVE)
    assert before.items() <= stamps(store).items()
    assert "prepare: 2 kept, 1 to make" in capsys.readouterr().out


def test_other_settings_are_made_again(cohort, tmp_path):
    store = tmp_path / "store"
    prepare_cohort(cohort[:1], store, recipe=NATIVE)
    prepare_cohort(cohort[:1], store, recipe=recipe_at(modalities=("flair",)))
    assert open_prepared(store / cohort[0].id).image.shape[0] == 1


def test_settings_that_do_not_touch_the_arrays_keep_them(cohort, tmp_path):
    store = tmp_path / "store"
    prepare_cohort(cohort[:1], store, recipe=NATIVE)
    before = stamps(store)
    prepare_cohort(cohort[:1], store, recipe=dataclasses.replace(NATIVE, seed=7, name="other"))
    assert stamps(store) == before


def test_a_changed_source_file_is_made_again(cohort, write_case, tmp_path):
    store = tmp_path / "store"
    prepare_cohort(cohort[:1], store, recipe=NATIVE)
    changed = write_case(tmp_path / "data", cohort[0].id, shape=(20, 20, 24))
    prepare_cohort([changed], store, recipe=NATIVE)
    assert open_prepared(store / changed.id).geometry.native_shape == (20, 20, 24)


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_a_stored_file_that_was_cut_short_or_lost_is_made_again(cohort, tmp_path, form):
    store = tmp_path / "store"
    prepare_cohort(cohort, store, recipe=NATIVE, form=form)
    before = stamps(store)
    image = next((store / cohort[0].id).glob("image.*"))
    image.write_bytes(image.read_bytes()[:-10])
    next((store / cohort[1].id).glob("labels.*")).unlink()
    prepare_cohort(cohort, store, recipe=NATIVE, form=form)
    made = [name for name, stamp in stamps(store).items() if stamp != before[name]]
    assert sorted(made) == [case.id for case in cohort[:2]]
    assert all(open_prepared(store / case.id).labels is not None for case in cohort)


def test_bad_cases_are_listed_at_the_end_and_the_others_done(cohort, tmp_path):
    for case in cohort[1:]:
        path = case.paths["t1"]
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="2 of 3 cases could not be prepared") as caught:
        prepare_cohort(cohort, tmp_path / "store", recipe=NATIVE)
    assert all(case.id in str(caught.value) for case in cohort[1:])
    assert len(str(caught.value).splitlines()) == 3
    assert list_prepared(tmp_path / "store") == [cohort[0].id]


def test_one_bad_case_alone_is_one_line_with_its_name(cohort, tmp_path):
    path = cohort[0].paths["flair"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=cohort[0].id) as caught:
        prepare_cohort(cohort[:1], tmp_path / "store", recipe=NATIVE)
    assert "\n" not in str(caught.value)


def test_an_interrupt_leaves_whole_cases_and_the_next_call_goes_on(cohort, tmp_path, monkeypatch):
    store = tmp_path / "store"

    def interrupted(items, *_args, **_kwargs):
        yield next(iter(items))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bratskit.preprocess.cohort.progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_cohort(cohort, store, recipe=NATIVE, workers=1)
    done = list_prepared(store)
    assert 1 <= len(done) <= 3
    assert sorted(path.name for path in store.iterdir()) == done
    prepare_cohort(cohort, store, recipe=NATIVE)
    assert list_prepared(store) == [case.id for case in cohort]


def test_a_full_disk_is_refused_before_the_first_case(cohort, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(100, 100, 0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"about .* fast or .* compact, may take 0\.0 MB"):
        prepare_cohort(cohort, tmp_path / "store", recipe=NATIVE)
    assert list_prepared(tmp_path / "store") == []


def test_where_all_cases_fail_none_are_said_to_be_done(cohort, tmp_path):
    whole = cohort[0].paths["t1"].read_bytes()
    for case in cohort:
        case.paths["t1"].write_bytes(case.paths["t1"].read_bytes()[:200])
    with pytest.raises(ValueError, match=r"^3 of 3 cases could not be prepared\. Mend"):
        prepare_cohort(cohort, tmp_path / "store", recipe=NATIVE)
    cohort[0].paths["t1"].write_bytes(whole)
    with pytest.raises(ValueError, match=r"^2 of 3 cases could not be prepared; the others are\. "):
        prepare_cohort(cohort, tmp_path / "store", recipe=NATIVE)


def test_a_receipt_that_is_no_receipt_is_made_again(cohort, tmp_path):
    store = tmp_path / "store"
    prepare_cohort(cohort, store, recipe=NATIVE)
    (store / cohort[0].id / "receipt.json").write_text("[]")
    with pytest.raises(ValueError, match=r"receipt\.json must be a whole file"):
        open_prepared(store / cohort[0].id)
    prepare_cohort(cohort, store, recipe=NATIVE)
    assert open_prepared(store / cohort[0].id).id == cohort[0].id


def test_a_stranger_beside_the_arrays_is_not_weighed(cohort, tmp_path, capsys):
    store = tmp_path / "store"
    prepare_cohort(cohort, store, recipe=NATIVE)
    (store / cohort[0].id / ".DS_Store").write_bytes(b"Finder")
    capsys.readouterr()
    prepare_cohort(cohort, store, recipe=NATIVE)
    assert "3 kept, 0 to make" in capsys.readouterr().out


@pytest.mark.parametrize("inside", [False, True])
def test_a_store_that_is_a_file_is_refused_in_one_line(cohort, tmp_path, inside):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "store" if inside else tmp_path / "file"
    with pytest.raises(NotADirectoryError, match=r"^folder must be .*file.* Choose another\.$"):
        prepare_cohort(cohort, place, recipe=NATIVE)
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_store_in_work_is_refused_to_a_second_process_and_left_alone(cohort, tmp_path):
    store = tmp_path / "store"
    half = store / f".{cohort[0].id}.partial"
    half.mkdir(parents=True)
    with (
        locked(store),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RuntimeError, match=rf"got process {os.getpid()} on .* at work there\. Wait"),
    ):
        pool.submit(prepare_cohort, cohort, store, recipe=NATIVE).result()
    assert half.exists()
    prepare_cohort(cohort, store, recipe=NATIVE)
    assert sorted(path.name for path in store.iterdir()) == [case.id for case in cohort]


def test_a_store_that_is_only_read_is_kept_without_a_lock(cohort, tmp_path, monkeypatch):
    store = tmp_path / "store"
    prepare_cohort(cohort, store, recipe=NATIVE)

    def refuse(path, *_):
        raise PermissionError(path)

    monkeypatch.setattr("bratskit.preprocess.lock.os.open", refuse)
    assert prepare_cohort(cohort, store, recipe=NATIVE) == [case.id for case in cohort]


def test_two_cases_of_one_id_are_refused(cohort, tmp_path):
    with pytest.raises(ValueError, match=r"different ids; got \['BraTS20_Training_001'\]"):
        prepare_cohort([cohort[0], cohort[0]], tmp_path / "store", recipe=NATIVE)


def test_a_real_case_goes_through_and_its_truth_comes_back(real_cases):
    from bratskit.cases import find_cases

    # FLAIR of this patient misses a third of the brain.
    case = next(c for c in find_cases(real_cases) if c.id == "Brats18_2013_20_1")
    scan = load_scan(case)
    prepared = prepare_scan(scan, NATIVE)
    np.testing.assert_array_equal(prepared.geometry.invert_labels(prepared.labels), scan.labels)
    for channel in prepared.image:
        measured = channel[channel != 0].astype(np.float64)
        assert measured.mean() == pytest.approx(0, abs=1e-3)
        assert measured.std() == pytest.approx(1, abs=1e-3)
