"""Promise: the form of a store is chosen by the space there is, and a full disk breaks nothing."""

import contextlib
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from bratskit.cases import find_cases
from bratskit.cli import main
from bratskit.preprocess import list_prepared, load_prepared, open_prepared, prepare_cohort
from bratskit.preprocess.budget import (
    CASE_BYTES,
    FullDiskError,
    Space,
    choose_form,
    estimate_bytes,
    find_space,
)
from bratskit.preprocess.store import read_receipt
from bratskit.settings import GeometrySettings, Recipe, get_recipe

resource = pytest.importorskip("resource")  # limits of a process; not on Windows
RECIPE = Recipe(name="test", geometry=GeometrySettings())
GB = 1e9
TWENTY = Space(total_bytes=18 * GB, reason="20.0 GB free - 2.0 GB to work")


def disk(monkeypatch, free_bytes):
    usage = shutil._ntuple_diskusage(10**12, 0, int(free_bytes))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_fast_is_taken_where_it_fits():
    form, line = choose_form({"fast": 17 * GB, "compact": 3 * GB}, TWENTY, wanted="auto")
    assert form == "fast"
    assert line == (
        "store needs about 17.0 GB fast or 3.0 GB compact, "
        "may take 18.0 GB (20.0 GB free - 2.0 GB to work): fast"
    )


def test_compact_is_taken_where_fast_does_not_fit():
    needed = {"fast": 47 * GB, "compact": 8.5 * GB}
    assert choose_form(needed, TWENTY, wanted="auto")[0] == "compact"


def test_the_form_that_is_there_is_kept_to_while_it_fits():
    needed = {"fast": 17 * GB, "compact": 3 * GB}
    assert choose_form(needed, TWENTY, wanted="auto", there="compact")[0] == "compact"
    needed = {"fast": 19 * GB, "compact": 3 * GB}
    assert choose_form(needed, TWENTY, wanted="auto", there="fast")[0] == "compact"


@pytest.mark.parametrize("wanted", ["auto", "fast", "compact"])
def test_what_fits_in_no_form_is_refused_with_the_need_of_each(wanted):
    needed = {"fast": 99 * GB, "compact": 19 * GB}
    with pytest.raises(FullDiskError, match=r"99\.0 GB fast or 19\.0 GB compact, may take 18"):
        choose_form(needed, TWENTY, wanted=wanted)


def test_fast_asked_for_in_vain_is_told_of_compact():
    needed = {"fast": 99 * GB, "compact": 8 * GB}
    with pytest.raises(FullDiskError, match=r"compact form would fit.*--form compact"):
        choose_form(needed, TWENTY, wanted="fast")


def test_room_to_work_is_a_tenth_at_most_two_gigabytes(tmp_path, monkeypatch):
    for free, room in ((10 * GB, 9 * GB), (100 * GB, 98 * GB)):
        disk(monkeypatch, free)
        assert find_space(tmp_path, present_bytes=0, budget_gb=None).total_bytes == room


def test_what_is_there_counts_as_room_and_a_budget_holds_for_the_whole_store(tmp_path, monkeypatch):
    disk(monkeypatch, 10 * GB)
    assert find_space(tmp_path, present_bytes=5e9, budget_gb=None).total_bytes == 14 * GB
    assert find_space(tmp_path, present_bytes=5e9, budget_gb=12).total_bytes == 12 * GB
    assert find_space(tmp_path, present_bytes=5e9, budget_gb=50).total_bytes == 14 * GB
    with pytest.raises(ValueError, match="budget_gb must be above 0; got 0"):
        find_space(tmp_path, present_bytes=0, budget_gb=0)


def test_bytes_are_estimated_from_the_header(write_case, tmp_path):
    case = write_case(tmp_path, shape=(24, 28, 20))  # 13,440 mm3, less than a brain box
    assert estimate_bytes([case], RECIPE)["fast"] == pytest.approx(13_440 * 10 + CASE_BYTES)
    two_mm = Recipe(name="test", geometry=GeometrySettings(spacing_mm=(2, 2, 2)))
    assert estimate_bytes([case, case], two_mm)["fast"] == pytest.approx(
        2 * (1680 * 10 + CASE_BYTES)
    )
    cropped = Recipe(name="test", geometry=GeometrySettings(crop_vox=(16, 16, 32)))
    assert estimate_bytes([case], cropped)["fast"] == 16 * 16 * 32 * 10 + CASE_BYTES
    one = Recipe(name="test", modalities=("t2",), geometry=GeometrySettings())
    assert estimate_bytes([case], one)["fast"] == pytest.approx(13_440 * 4 + CASE_BYTES)


def test_background_of_a_whole_grid_costs_the_compact_form_nothing(write_case, tmp_path):
    affine = np.diag([10.0, 10, 10, 1])  # 13,440 ml: far more than any brain box
    case = write_case(tmp_path, shape=(24, 28, 20), affine=affine)
    whole = Recipe(name="test", geometry=GeometrySettings(region="grid", spacing_mm=None))
    brain = Recipe(name="test", geometry=GeometrySettings(spacing_mm=None))
    needed, boxed = estimate_bytes([case], whole), estimate_bytes([case], brain)
    assert needed["compact"] == boxed["compact"]
    assert needed["fast"] - CASE_BYTES > 3 * (boxed["fast"] - CASE_BYTES)


def test_a_grid_of_mostly_brain_is_counted_dearer_in_the_compact_form(write_case, tmp_path):
    """0.56 bytes of each of four modalities, 0.03 of labels and mask, and 80 kB a case."""
    case = write_case(tmp_path, shape=(24, 28, 20))
    for fixed in ({"crop_vox": (32, 32, 32)}, {"size_vox": (32, 32, 32)}):
        recipe = Recipe(name="test", geometry=GeometrySettings(**fixed))
        needed = estimate_bytes([case], recipe)["compact"]
        assert needed == pytest.approx(32**3 * (4 * 0.56 + 0.03) + 80_000)
    needed = estimate_bytes([case], RECIPE)["compact"]
    assert needed == pytest.approx(13_440 * (4 * 0.43 + 0.03) + 80_000)


@pytest.fixture
def cohort(write_case, tmp_path):
    """Return three cases of 13,440 voxels on disk: by estimate 0.21 MB fast, 0.10 compact."""
    return [write_case(tmp_path / "data", f"BraTS20_Training_{n:03d}") for n in range(1, 4)]


def forms(store):
    return {name: read_receipt(store / name)["form"] for name in list_prepared(store)}


def test_a_budget_chooses_the_form_and_says_why(cohort, tmp_path, capsys):
    prepare_cohort(cohort, tmp_path / "a", recipe=RECIPE, budget_gb=0.0008)
    assert "store needs about 0.6 MB fast or 0.3 MB compact, may take 0.8 MB" in (
        capsys.readouterr().out
    )
    assert set(forms(tmp_path / "a").values()) == {"fast"}
    prepare_cohort(cohort, tmp_path / "b", recipe=RECIPE, budget_gb=0.0004)
    assert set(forms(tmp_path / "b").values()) == {"compact"}
    with pytest.raises(FullDiskError, match=r"may take 0\.0 MB"):
        prepare_cohort(cohort, tmp_path / "c", recipe=RECIPE, budget_gb=0.00001)
    assert list_prepared(tmp_path / "c") == []


def test_a_form_asked_for_is_made_and_auto_keeps_what_is_there(cohort, tmp_path, capsys):
    prepare_cohort(cohort, tmp_path, recipe=RECIPE)
    assert set(forms(tmp_path).values()) == {"fast"}
    prepare_cohort(cohort[:2], tmp_path, recipe=RECIPE, form="compact")
    mixed = forms(tmp_path)
    assert sorted(mixed.values()) == ["compact", "compact", "fast"]
    capsys.readouterr()
    prepare_cohort(cohort, tmp_path, recipe=RECIPE)
    assert forms(tmp_path) == mixed
    assert "3 kept, 0 to make" in capsys.readouterr().out


def test_cases_that_will_be_replaced_do_not_count_against_the_budget(cohort, tmp_path):
    """Old and new together weigh more than the budget; the store at the end does not."""
    prepare_cohort(cohort, tmp_path / "store", recipe=RECIPE)
    cropped = Recipe(name="test", geometry=GeometrySettings(crop_vox=(16, 16, 16)))
    needed = estimate_bytes(cohort, cropped)["fast"]
    there = sum(read_receipt(tmp_path / "store" / case.id)["bytes"] for case in cohort)
    assert there > 0.1 * needed
    prepare_cohort(
        cohort, tmp_path / "store", recipe=cropped, form="fast", budget_gb=1.1 * needed / 1e9
    )
    assert open_prepared(tmp_path / "store" / cohort[0].id).image.shape == (4, 16, 16, 16)


def test_another_form_is_refused_by_name(cohort, tmp_path):
    with pytest.raises(ValueError, match=r"\['auto', 'fast', 'compact'\]; got 'zip'"):
        prepare_cohort(cohort, tmp_path / "store", recipe=RECIPE, form="zip")


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_a_disk_that_fills_up_stops_cleanly_and_keeps_what_is_done(
    cohort, tmp_path, monkeypatch, form
):
    store = tmp_path / "store"

    def shrinking(_):  # full after the first case
        return shutil._ntuple_diskusage(10**9, 0, 10**9 if not list_prepared(store) else 1000)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", shrinking)
        with pytest.raises(
            FullDiskError,
            match=r"must have 0\.\d MB free for BraTS20_Training_002; got 0\.0 MB.*1 of 3 cases",
        ):
            prepare_cohort(cohort, store, recipe=RECIPE, form=form, workers=1)
    assert [path.name for path in store.iterdir()] == [cohort[0].id]
    assert open_prepared(store / cohort[0].id).image[:].shape[0] == 4
    assert prepare_cohort(cohort, store, recipe=RECIPE) == list_prepared(store)
    assert set(forms(store).values()) == {form}


@contextlib.contextmanager
def largest_file(n_bytes):
    """Let the system refuse longer files, as a quota would: "File too large"."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("form", "limit"), [("fast", 150_000), ("compact", 50_000)])
def test_a_write_the_system_refuses_leaves_nothing_half_written(
    cohort, write_case, tmp_path, form, limit
):
    store = tmp_path / "store"
    large = write_case(tmp_path / "data", "BraTS20_Training_009", shape=(60, 60, 60))
    with (
        largest_file(limit),
        pytest.raises(FullDiskError, match=r"free for BraTS20_Training_009; got .* 3 of 4 cases"),
    ):
        prepare_cohort([*cohort, large], store, recipe=RECIPE, form=form, workers=1)
    assert sorted(path.name for path in store.iterdir()) == [case.id for case in cohort]
    prepare_cohort([*cohort, large], store, recipe=RECIPE)
    assert len(list_prepared(store)) == 4


def test_a_crop_that_loses_tumour_is_counted_and_said(cohort, write_case, tmp_path, capsys):
    """The brain reaches from 2 to 21 along I, a crop of 16 from 4 to 19."""
    labels = np.zeros((24, 28, 20), np.uint8)
    labels[[2, 3, 12], 14, 10], labels[18:24, 14, 10] = 1, 4
    case = write_case(tmp_path / "data", "BraTS20_Training_007", labels=labels)
    recipe = Recipe(name="tight", geometry=GeometrySettings(crop_vox=(16, 16, 16)))
    for _ in range(2):  # made, then kept
        prepare_cohort([*cohort, case], tmp_path / "store", recipe=recipe)
        assert (
            "prepare: the crop of recipe 'tight' loses tumour in 1 of 4 cases, most in "
            "BraTS20_Training_007: 6 voxels (NCR 2, ED 0, ET 4)"
        ) in capsys.readouterr().out
    assert open_prepared(tmp_path / "store" / case.id).lost_vox == {"NCR": 2, "ED": 0, "ET": 4}


def test_a_whole_brain_loses_none_and_says_nothing(cohort, tmp_path, capsys):
    prepare_cohort(cohort, tmp_path / "store", recipe=RECIPE)
    assert "loses" not in capsys.readouterr().out
    assert read_receipt(tmp_path / "store" / cohort[0].id)["lost_vox"] == dict.fromkeys(
        ("NCR", "ED", "ET"), 0
    )


def test_labels_that_the_images_contradict_stop_the_work(write_case, tmp_path, monkeypatch):
    """Every case is written as if edema were the core; nothing may be prepared from that."""

    def refuse(cases, *, most):
        msg = f"{len(cases)} cases, {most} looked at: another schema fits"
        raise ValueError(msg)

    cohort = [write_case(tmp_path / "data", f"BraTS20_Training_{n:03d}") for n in range(3)]
    monkeypatch.setattr("bratskit.preprocess.cohort.refuse_contradiction", refuse)
    with pytest.raises(ValueError, match="3 cases, 24 looked at: another schema fits"):
        prepare_cohort(cohort, tmp_path / "store", recipe=RECIPE)
    assert list_prepared(tmp_path / "store") == []
    assert len(prepare_cohort(cohort[:2], tmp_path / "store", recipe=RECIPE)) == 2  # too few to say


def test_a_stray_mask_is_named_before_all_are_prepared(cohort, tmp_path, monkeypatch, capsys):
    said = SimpleNamespace(message="labels look like ET. Look at its overlay.")
    monkeypatch.setattr(
        "bratskit.preprocess.cohort.refuse_contradiction", lambda *_, **__: {"stray": said}
    )
    prepare_cohort(cohort, tmp_path / "store", recipe=RECIPE)
    assert "prepare: warning: stray: labels look like ET. Look" in capsys.readouterr().out


def test_the_shell_chooses_the_form_and_refuses_in_one_line(cohort, tmp_path, capsys):
    words = ["prepare", str(tmp_path / "data"), str(tmp_path / "store"), "--recipe", "tiny"]
    assert main([*words, "--form", "compact"]) == 0
    assert set(forms(tmp_path / "store").values()) == {"compact"}
    words[2] = str(tmp_path / "none")
    capsys.readouterr()
    assert main([*words, "--budget-gb", "0.000001"]) == 2
    error = capsys.readouterr().err
    assert re.search(r"bratskit prepare: store needs about .* may take 0\.0 MB", error)
    assert error.count("\n") == 1


@pytest.mark.slow
def test_real_cases_take_at_most_eight_megabytes_compact(real_cases, tmp_path):
    """1,251 of them then fit into Kaggle's 20 GB with half of it to spare."""
    int16 = ("BraTS2021_00000", "BraTS2021_01482")  # 20,000 grey values; the others have 256
    cases = [case for case in find_cases(real_cases) if case.id in (*int16, "Brats18_2013_20_1")]
    prepare_cohort(cases, tmp_path, recipe=RECIPE, form="compact")
    estimate = estimate_bytes(cases, RECIPE)["compact"]
    sizes = [read_receipt(tmp_path / case.id)["bytes"] for case in cases]
    assert max(sizes) < 8e6
    assert sum(sizes) < estimate < 1.5 * sum(sizes)
    for case in cases:
        prepared, stored = load_prepared(case, RECIPE), open_prepared(tmp_path / case.id)
        error = np.abs(np.asarray(stored.image) - prepared.image)
        assert error[np.abs(prepared.image) < 2].max() < 0.05
        assert error.max() == 0 or case.id in int16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smoke", "unet-a", "unet-b", "unet-d", "unet-e"])
def test_real_cases_weigh_no_more_than_estimated_and_not_far_less(real_cases, tmp_path, name):
    recipe, cases = get_recipe(name), find_cases(real_cases)[::2]
    prepare_cohort(cases, tmp_path, recipe=recipe, form="compact")
    weight = sum(read_receipt(tmp_path / case.id)["bytes"] for case in cases)
    assert weight <= estimate_bytes(cases, recipe)["compact"] <= 1.6 * weight
