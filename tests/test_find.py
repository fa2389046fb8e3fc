"""Cases are found by file name in every usual layout; a broken folder is named, not guessed at."""

import shutil

import pytest

from bratskit.cases import find_cases
from bratskit.labels import MODALITIES, get_schema

SHAPE = (6, 7, 5)


@pytest.fixture
def cohort(tmp_path, write_case):
    for case_id in ("b", "a"):
        write_case(tmp_path, case_id, shape=SHAPE)
    return tmp_path


def ids(cases):
    return [case.id for case in cases]


def test_nested_cases_come_sorted_with_all_their_files(cohort):
    cases = find_cases(cohort)
    assert ids(cases) == ["a", "b"]
    assert tuple(cases[0].paths) == MODALITIES
    assert cases[0].paths["t1"].name == "a_t1.nii.gz"
    assert cases[0].labels_path.name == "a_seg.nii.gz"


def test_flat_folder_deeper_folder_and_one_case_are_found_alike(tmp_path, write_case):
    write_case(tmp_path / "flat", "a", shape=SHAPE, flat=True, suffix=".nii")
    write_case(tmp_path / "flat", "b", shape=SHAPE, flat=True)
    write_case(tmp_path / "deep" / "HGG", "c", shape=SHAPE)
    assert ids(find_cases(tmp_path / "flat")) == ["a", "b"]
    assert ids(find_cases(tmp_path / "deep")) == ["c"]
    assert ids(find_cases(tmp_path / "deep" / "HGG" / "c")) == ["c"]


def test_letter_case_of_suffixes_does_not_matter(tmp_path, write_case):
    case = write_case(tmp_path, "a", shape=SHAPE, suffix=".nii")
    case.paths["flair"].rename(tmp_path / "a" / "a_FLAIR.NII")
    assert find_cases(tmp_path)[0].paths["flair"].name == "a_FLAIR.NII"


def test_names_of_brats_2023_are_known(tmp_path, write_case):
    case = write_case(tmp_path, "old", shape=SHAPE, schema="brats2023-gli")
    for old, new in {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}.items():
        case.paths[old].rename(tmp_path / "old" / f"BraTS-GLI-00001-000-{new}.nii.gz")
    case.labels_path.rename(tmp_path / "old" / "BraTS-GLI-00001-000-seg.nii.gz")
    (found,) = find_cases(tmp_path, schema="brats2023-gli")
    assert found.id == "BraTS-GLI-00001-000"
    assert found.paths["t1ce"].name.endswith("-t1c.nii.gz")


def test_schema_is_declared_by_name_or_object(cohort):
    schema = get_schema("msd-task01")
    assert find_cases(cohort, schema="msd-task01")[0].schema is schema
    assert find_cases(cohort, schema=schema)[0].schema is schema


def test_hidden_files_folders_named_like_volumes_and_predictions_are_no_cases(cohort):
    shutil.copy(cohort / "a" / "a_t1.nii.gz", cohort / "a" / "._a_t1.nii.gz")
    (cohort / "x_t1.nii").mkdir()
    shutil.copy(cohort / "a" / "a_seg.nii.gz", cohort / "a.nii.gz")
    assert ids(find_cases(cohort)) == ["a", "b"]


def test_a_linked_case_is_found_and_a_link_in_a_circle_ends(cohort, tmp_path_factory):
    linked = tmp_path_factory.mktemp("linked")
    (linked / "a").symlink_to(cohort / "a")
    (linked / "loop").symlink_to(linked)
    assert ids(find_cases(linked)) == ["a"]


def test_lone_mask_with_a_foreign_name_is_taken(cohort):
    (cohort / "a" / "a_seg.nii.gz").rename(cohort / "a" / "W39_1998.09.19_Segm.nii.gz")
    assert find_cases(cohort)[0].labels_path.name == "W39_1998.09.19_Segm.nii.gz"


def test_a_foreign_mask_that_could_be_another_is_not_guessed_at(cohort):
    mask = cohort / "a" / "a_seg.nii.gz"
    shutil.copy(mask, cohort / "a" / "one_segm.nii.gz")
    mask.rename(cohort / "a" / "two_segm.nii.gz")
    assert find_cases(cohort)[0].labels_path is None


def test_foreign_mask_never_replaces_the_named_one(cohort):
    shutil.copy(cohort / "a" / "a_seg.nii.gz", cohort / "a" / "other_segm.nii.gz")
    assert find_cases(cohort)[0].labels_path.name == "a_seg.nii.gz"


def test_case_without_mask_is_fine_unless_masks_are_required(cohort):
    (cohort / "a" / "a_seg.nii.gz").unlink()
    assert find_cases(cohort)[0].labels_path is None
    with pytest.raises(ValueError, match=r"got none for a in .* Add a_seg\.nii\.gz"):
        find_cases(cohort, require_labels=True)


def test_missing_modality_is_named_with_its_case(cohort):
    (cohort / "b" / "b_t1ce.nii.gz").unlink()
    with pytest.raises(ValueError, match=r"b lacks t1ce.*Add b_t1ce\.nii\.gz to .*b, or"):
        find_cases(cohort)


def test_two_files_for_one_modality_are_both_named(cohort):
    shutil.copy(cohort / "a" / "a_t2.nii.gz", cohort / "b" / "a_t2.nii.gz")
    with pytest.raises(ValueError, match=r"t2 of case a must be one file; got .*a/a_t2.*b/a_t2"):
        find_cases(cohort)


def test_folder_without_cases_is_told_the_expected_names(tmp_path):
    with pytest.raises(ValueError, match=r"Expected names: <case>_flair\.nii\.gz"):
        find_cases(tmp_path)


def test_missing_folder_and_file_for_a_folder_are_refused(tmp_path, cohort):
    with pytest.raises(FileNotFoundError, match="Give the folder that holds the cases"):
        find_cases(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"Give .*a instead"):
        find_cases(cohort / "a" / "a_t1.nii.gz")


def test_unknown_schema_is_told_which_exist(cohort):
    with pytest.raises(ValueError, match=r"one of \['brats2012-2015'"):
        find_cases(cohort, schema="brats")
