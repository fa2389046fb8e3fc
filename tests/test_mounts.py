"""What Kaggle or Colab has mounted is found by names alone, in bounded time, never guessed at."""

from pathlib import Path

import pytest

from bratskit.cases import find_cases, make_phantom, mounts, write_phantom
from bratskit.cases.mounts import default_roots, find_cohorts, pick_cohort
from bratskit.jobs import begin
from bratskit.jobs.begin import begin_run, resolve_data
from bratskit.labels import SCHEMAS

SHAPE = (6, 7, 5)


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def lay(folder: Path, *ids: str, seg: bool = True) -> Path:
    """Lay empty files named as a BraTS 2021 cohort: the search opens none of them."""
    kinds = ["flair", "t1", "t1ce", "t2", *(["seg"] if seg else [])]
    for case_id in ids:
        touch(folder / case_id, *(f"{case_id}_{kind}.nii.gz" for kind in kinds))
    return folder


def test_kaggle_is_known_before_colab_whose_variables_its_image_sets_too():
    both = {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "COLAB_RELEASE_TAG": "release-colab"}
    assert default_roots(both) == [Path("/kaggle/input")]
    assert default_roots({"COLAB_RELEASE_TAG": "x"}) == [Path("/content")]
    assert default_roots({}) == []


@pytest.mark.parametrize("mount", ["brats-2021-task1", "datasets/someone/brats-2021-task1"])
def test_both_forms_of_a_kaggle_mount_are_searched(tmp_path, mount):
    cohort = lay(tmp_path / mount / "BraTS2021_Training_Data", "BraTS2021_00000", "BraTS2021_00002")
    assert find_cohorts([tmp_path]) == [cohort]


@pytest.mark.parametrize("case_folder", [True, False])
def test_volumes_that_have_a_folder_each_are_one_cohort(tmp_path, case_folder):
    home = tmp_path / "brats20" / "data"
    for case_id in ("BraTS20_Training_001", "BraTS20_Training_002"):
        for kind in ("flair", "t1", "t1ce", "t2", "seg"):
            name = f"{case_id}_{kind}.nii"
            touch((home / case_id if case_folder else home) / name, name)
    assert find_cohorts([tmp_path], require_labels=True) == [home]
    assert len(find_cases(home, require_labels=True)) == 2


def test_grades_are_parts_of_one_cohort(tmp_path):
    home = tmp_path / "MICCAI_BraTS_2018_Data_Training"
    lay(home / "HGG", "Brats18_CBICA_AAB_1")
    lay(home / "LGG", "Brats18_TCIA09_141_1")
    assert find_cohorts([tmp_path]) == [home]


def test_a_flat_folder_and_the_layouts_of_other_editions_are_cohorts(tmp_path):
    flat = touch(tmp_path / "flat", "a_flair.nii", "a_t1.nii", "b_flair.nii", "b_seg.nii")
    msd = touch(tmp_path / "drive" / "Task01_BrainTumour", "dataset.json")
    for name in ("imagesTr", "labelsTr"):
        touch(msd / name, "BRATS_001.nii.gz", "._BRATS_001.nii.gz")
    case = tmp_path / "BRATS2015_Training" / "HGG" / "brats_2013_pat0001_1"
    touch(case / "VSD.Brain.XX.O.MR_T1.54513", "VSD.Brain.XX.O.MR_T1.54513.mha")
    found = [msd, flat, tmp_path / "BRATS2015_Training"]
    assert find_cohorts([tmp_path]) == sorted(found)


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(1, spacing_mm=(10.0, 10.0, 10.0), case_id="pat7")


@pytest.mark.parametrize("edition", SCHEMAS)
def test_the_folder_that_is_found_holds_the_cases_of_each_edition(tmp_path, phantom, edition):
    write_phantom(phantom, tmp_path / "slug" / "data", edition=edition)
    (found,) = find_cohorts([tmp_path], require_labels=True)
    assert [case.id for case in find_cases(found, schema=edition)] == ["pat7"]


def test_a_cohort_without_masks_is_not_one_to_train_on(tmp_path):
    train = lay(tmp_path / "train", "BraTS20_Training_001")
    lay(tmp_path / "validation", "BraTS20_Validation_001", seg=False)
    assert len(find_cohorts([tmp_path])) == 2
    assert pick_cohort([tmp_path]) == train


def test_several_cohorts_are_listed_and_none_is_picked(tmp_path):
    lay(tmp_path / "one", "BraTS20_Training_001")
    lay(tmp_path / "two", "BraTS20_Training_002")
    with pytest.raises(ValueError, match=r"got 2: .*one, .*two\. Name one of them"):
        pick_cohort([tmp_path])


def test_runs_of_ours_hidden_folders_and_missing_roots_are_passed_by(tmp_path):
    lay(touch(tmp_path / "run", "settings.json", "source.json") / "cases", "Phantom_00000")
    lay(tmp_path / ".Trash", "BraTS20_Training_001")
    assert find_cohorts([tmp_path, tmp_path / "nowhere"]) == []
    assert pick_cohort([tmp_path]) is None


def test_a_cohort_is_known_by_its_first_case(tmp_path, monkeypatch):
    opened = []
    look = mounts._contents
    monkeypatch.setattr(mounts, "_contents", lambda folder: opened.append(folder) or look(folder))
    cohort = lay(tmp_path / "slug", *(f"BraTS2021_{number:05d}" for number in range(40)))
    assert find_cohorts([tmp_path]) == [cohort]
    assert len(opened) == 3


def test_the_search_ends_in_a_drive_without_end(tmp_path, monkeypatch):
    for number in range(30):
        touch(tmp_path / "photos" / str(number))
    lay(tmp_path / "z" / "/".join("abcdefgh"), "BraTS20_Training_001")
    assert find_cohorts([tmp_path]) == []  # too deep
    monkeypatch.setattr(mounts, "MOST_FOLDERS", 10)
    lay(tmp_path / "zz" / "deep", "BraTS20_Training_002")
    assert find_cohorts([tmp_path]) == []  # too many before it


def test_auto_takes_the_one_cohort_and_says_so(tmp_path, monkeypatch, capsys, write_case):
    for number in range(4):
        write_case(tmp_path / "data", f"BraTS2021_0000{number}", shape=SHAPE)
    monkeypatch.setattr(mounts, "default_roots", lambda: [tmp_path / "data"])
    run = begin_run(tmp_path / "run", data_dir="auto", recipe_name="smoke", is_prepared=False)
    assert run.data_dir == tmp_path / "data"
    assert not run.is_phantom
    assert str(tmp_path / "data") in capsys.readouterr().out
    again = begin_run(tmp_path / "run", data_dir=tmp_path / "data", recipe_name="smoke",
                      is_prepared=False)  # fmt: skip
    assert again.cases.keys() == run.cases.keys()


def test_auto_without_a_cohort_makes_phantoms_and_says_where_it_looked(
    tmp_path, monkeypatch, capsys
):
    for module in (mounts, begin):
        monkeypatch.setattr(module, "default_roots", lambda: [tmp_path])
    assert resolve_data("auto") == ""
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"no cohort with masks within {mounts.DEEPEST} folders of {tmp_path}" in said
    assert "phantoms are made instead" in said


def test_auto_elsewhere_says_that_nothing_is_mounted(monkeypatch, capsys):
    for name in ("KAGGLE_KERNEL_RUN_TYPE", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(name, raising=False)
    assert resolve_data("auto") == ""
    assert "nothing is mounted by Kaggle or Colab here" in capsys.readouterr().out
