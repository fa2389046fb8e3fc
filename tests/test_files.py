"""Masks on disk are paired by case id, and anything that cannot be compared is refused."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases.find import find_cases
from bratskit.evaluate import Scores, evaluate_paths, score_folder, score_masks, score_pair


def labels_of(ncr: slice, ed: slice, et: slice) -> np.ndarray:
    """Lay the three tissues in one row of 20 voxels, later ones over earlier ones."""
    labels = np.zeros((20, 4, 4), dtype=np.uint8)
    for value, span in ((2, ed), (1, ncr), (3, et)):
        labels[span, 1, 1] = value
    return labels


TRUTH = labels_of(ncr=slice(4, 6), ed=slice(0, 12), et=slice(6, 10))
PRED = labels_of(ncr=slice(4, 6), ed=slice(0, 8), et=slice(6, 8))
EMPTY = np.zeros_like(TRUTH)


def write_mask(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) if affine is None else affine
    nib.save(nib.Nifti1Image(values.astype(np.uint8), affine), path)
    return path


def as_brats(labels: np.ndarray) -> np.ndarray:
    return np.array([0, 1, 2, 4], dtype=np.uint8)[labels]


@pytest.fixture
def cohort(tmp_path, write_case) -> Path:
    for name in ("BraTS20_A", "BraTS20_B"):
        write_case(tmp_path / "cohort", name)
    return tmp_path / "cohort"


@pytest.fixture
def predictions(tmp_path, cohort) -> Path:
    """Predict the truth for A, and the truth without its enhancing tumour for B."""
    for case in find_cases(cohort):
        file = nib.load(case.labels_path)
        values = np.asarray(file.dataobj)
        if case.id.endswith("B"):
            values = np.where(values == 4, 0, values)
        write_mask(tmp_path / "pred" / f"{case.id}.nii.gz", values, file.affine)
    return tmp_path / "pred"


# By hand and property


def test_a_folder_is_scored_against_a_cohort_by_case_id(cohort, predictions):
    scores = score_folder(predictions, find_cases(cohort), method="mine")
    assert scores.cases == ("BraTS20_A", "BraTS20_B")
    assert scores.pick(case="BraTS20_A", name="ET").column("dice").tolist() == [1, 1]
    assert scores.pick(case="BraTS20_B", name="ET").column("dice").tolist() == [0, 0]


def test_paths_may_be_a_cohort_a_flat_folder_or_two_files(tmp_path, cohort, predictions):
    by_cohort = evaluate_paths(predictions, cohort)
    for case in find_cases(cohort):
        values = np.asarray(nib.load(case.labels_path).dataobj)
        affine = nib.load(case.labels_path).affine
        write_mask(tmp_path / "flat" / f"{case.id}_seg.nii.gz", values, affine)
    assert evaluate_paths(predictions, tmp_path / "flat") == by_cohort
    pair = predictions / "BraTS20_B.nii.gz", tmp_path / "flat" / "BraTS20_B_seg.nii.gz"
    assert evaluate_paths(*pair) == by_cohort.pick(case="BraTS20_B")


def test_editions_of_prediction_and_truth_may_differ(tmp_path):
    pred = write_mask(tmp_path / "pred.nii.gz", TRUTH)
    truth = write_mask(tmp_path / "truth.nii.gz", as_brats(TRUTH))
    rows = score_pair(pred, truth, edition="brats2023-gli", truth_edition="brats2017-2021")
    assert {item.dice for item in rows} == {1.0}


def test_another_orientation_on_disk_is_the_same_grid(tmp_path):
    truth = write_mask(tmp_path / "truth.nii.gz", as_brats(TRUTH))
    flipped = nib.load(truth).as_reoriented([[0, -1], [1, 1], [2, 1]])
    nib.save(flipped, tmp_path / "pred.nii.gz")
    assert {item.dice for item in score_pair(tmp_path / "pred.nii.gz", truth)} == {1.0}


def test_spacing_of_the_file_sets_distances_and_volumes(tmp_path):
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    pred = write_mask(tmp_path / "pred.nii.gz", as_brats(PRED), affine)
    truth = write_mask(tmp_path / "truth.nii.gz", as_brats(TRUTH), affine)
    expected = score_masks(PRED, TRUTH, spacing_mm=(1.0, 2.0, 3.0), case="A")
    found = score_pair(pred, truth, case="A")
    assert Scores(found) == Scores(expected)


def test_references_without_a_prediction_are_named_in_a_warning(cohort, predictions):
    (predictions / "BraTS20_B.nii.gz").unlink()
    with pytest.warns(UserWarning, match=r"1 references .* not scored: BraTS20_B"):
        assert evaluate_paths(predictions, cohort).cases == ("BraTS20_A",)


# Refusal


def test_a_missing_prediction_is_refused_before_anything_is_scored(cohort, predictions):
    (predictions / "BraTS20_B.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"none for BraTS20_B\. Run `bratskit predict`"):
        score_folder(predictions, find_cases(cohort))


def test_a_prediction_of_another_shape_is_refused(tmp_path):
    pred = write_mask(tmp_path / "pred.nii.gz", np.zeros((4, 4, 4)))
    truth = write_mask(tmp_path / "truth.nii.gz", np.zeros((4, 4, 5)))
    with pytest.raises(ValueError, match=r"shape \(4, 4, 4\).*Score on the native grid"):
        score_pair(pred, truth)


def test_a_prediction_that_lies_elsewhere_is_refused(tmp_path):
    moved = np.diag([-1.0, -1.0, 1.0, 1.0])
    moved[0, 3] = 7
    pred = write_mask(tmp_path / "pred.nii.gz", np.zeros((4, 4, 4)), moved)
    truth = write_mask(tmp_path / "truth.nii.gz", np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r"pred.nii.gz has affine .*Score on the native grid"):
        score_pair(pred, truth)


def test_a_value_of_another_edition_is_refused(tmp_path):
    pred = write_mask(tmp_path / "pred.nii.gz", TRUTH)
    truth = write_mask(tmp_path / "truth.nii.gz", as_brats(TRUTH))
    with pytest.raises(ValueError, match=r"Schemas that contain .*brats2023-gli"):
        score_pair(pred, truth)


def test_a_prediction_without_reference_is_refused(tmp_path, cohort, predictions):
    write_mask(predictions / "stranger.nii.gz", np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r"none for stranger. Name predictions by case id"):
        evaluate_paths(predictions, cohort)


def test_two_predictions_of_one_case_are_refused(cohort, predictions):
    write_mask(predictions / "BraTS20_A_seg.nii.gz", np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r"BraTS20_A.nii.gz and BraTS20_A_seg.nii.gz"):
        evaluate_paths(predictions, cohort)


def test_a_file_against_a_folder_and_an_absent_path_are_refused(tmp_path, predictions):
    with pytest.raises(ValueError, match="both be files or both be folders"):
        evaluate_paths(predictions / "BraTS20_A.nii.gz", predictions)
    with pytest.raises(FileNotFoundError, match=r"nowhere, which does not exist\. Give PRED first"):
        evaluate_paths(predictions, tmp_path / "nowhere")


def test_an_empty_prediction_folder_names_the_command_that_fills_it(tmp_path, cohort):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="Make them with `bratskit predict"):
        evaluate_paths(tmp_path / "none", cohort)


def test_a_case_without_reference_and_no_case_are_refused(tmp_path, write_case, predictions):
    case = write_case(tmp_path / "bare", "BraTS20_A", labels=None)
    with pytest.raises(ValueError, match="require_labels=True"):
        score_folder(predictions, [case])
    with pytest.raises(ValueError, match=r"find_cases\(folder\)"):
        score_folder(predictions, [])
