"""Score masks on disk, paired by case id; a mask on another grid is refused, never resampled."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.find import find_cases
from bratskit.cases.maps import is_map
from bratskit.cases.nifti import load_labels
from bratskit.evaluate.score import get_empty_rule, score_masks
from bratskit.evaluate.table import Score, Scores
from bratskit.labels import LabelSchema, get_schema
from bratskit.runtime import progress

__all__ = ["evaluate_paths", "score_folder", "score_pair"]

Edition = LabelSchema | str

_SUFFIXES = (".nii.gz", ".nii")
_TAILS = ("_seg", "-seg")  # file names of BraTS 2017-2021 and of BraTS 2023
_SAME_MM = 1e-3  # affines that differ less name the same grid: float32 headers round
_SHOWN = 5  # names quoted in one message before the rest is counted


def score_pair(
    pred: Path | str,
    truth: Path | str,
    *,
    edition: Edition = "brats2017-2021",
    truth_edition: Edition | None = None,
    method: str = "network",
    case: str | None = None,
    empty_rule: str = "brats",
) -> list[Score]:
    """Score one mask file against another, in RAS+ on their native grid.

    Args:
        pred: Predicted mask, NIfTI.
        truth: Reference mask, NIfTI, on the same grid.
        edition: Edition that the prediction was written in.
        truth_edition: Edition of the reference; None takes `edition`.
        method: Who made the prediction, for the rows.
        case: Case id, for the rows; None takes it from the name of `truth`.
        empty_rule: Convention for empty masks, see `score_masks`.

    Returns:
        Six rows, see `score_masks`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: The grids differ, or a mask holds a value that its edition does not define.
    """
    pred, truth = Path(pred), Path(truth)
    schema, truth_schema = get_schema(edition), get_schema(truth_edition or edition)
    pred_labels, pred_affine = load_labels(pred, schema=schema)
    truth_labels, truth_affine = load_labels(truth, schema=truth_schema)
    if pred_labels.shape != truth_labels.shape:
        raise ValueError(_other_grid(pred, truth, "shape", pred_labels.shape, truth_labels.shape))
    if not np.allclose(pred_affine, truth_affine, rtol=0, atol=_SAME_MM):
        where = [affine[:3].round(3).tolist() for affine in (pred_affine, truth_affine)]
        raise ValueError(_other_grid(pred, truth, "affine", *where))
    lengths = np.linalg.norm(truth_affine[:3, :3], axis=0)
    return score_masks(
        pred_labels,
        truth_labels,
        spacing_mm=(float(lengths[0]), float(lengths[1]), float(lengths[2])),
        case=case or case_of(truth),
        method=method,
        empty_rule=empty_rule,
    )


def score_folder(
    pred_dir: Path | str,
    cases: Sequence[Case],
    *,
    method: str = "network",
    edition: Edition = "brats2017-2021",
    empty_rule: str = "brats",
) -> Scores:
    """Score `<pred_dir>/<case id>.nii.gz` of every case, with progress.

    Args:
        pred_dir: Folder of predicted masks, as `predict_folder` writes it.
        cases: Cases to score; each needs a reference mask, read in the case's own schema.
        method: Who made the predictions, for the rows.
        edition: Edition that the predictions were written in.
        empty_rule: Convention for empty masks, see `score_masks`.

    Returns:
        Six rows a case.

    Raises:
        FileNotFoundError: The folder or a prediction is missing; nothing is scored then, because
            a mean over the cases that happen to be there flatters.
        ValueError: There is no case, a case has no reference mask, or two files claim one case; or
            what `score_pair` refuses.
    """
    get_empty_rule(empty_rule)
    preds = _masks_in(pred_dir)
    _refuse_bare(cases)
    absent = [case.id for case in cases if case.id not in preds]
    if absent:
        msg = (
            f"every case must have a prediction; {pred_dir} has none for {_some(absent)}. "
            f"Run `bratskit predict` on them, so that {Path(pred_dir) / (absent[0] + '.nii.gz')} "
            "exists, or score only the cases you mean."
        )
        raise FileNotFoundError(msg)
    rows: list[Score] = []
    for case in progress(cases, "score"):
        rows += score_pair(
            preds[case.id],
            case.labels_path,
            edition=edition,
            truth_edition=case.schema,
            method=method,
            case=case.id,
            empty_rule=empty_rule,
        )
    return Scores(rows)


def evaluate_paths(
    pred: Path | str,
    truth: Path | str,
    *,
    edition: Edition = "brats2017-2021",
    truth_edition: Edition | None = None,
    method: str = "network",
    empty_rule: str = "brats",
) -> Scores:
    """Score two mask files, or a folder of predictions against a cohort or a folder of masks.

    Args:
        pred: Mask file, or a folder of masks named by case id.
        truth: Mask file; or a folder of masks named by case id (with or without `_seg`); or a
            cohort that `find_cases` finds.
        edition: Edition that the predictions were written in.
        truth_edition: Edition of the references; None takes `edition`.
        method: Who made the predictions, for the rows.
        empty_rule: Convention for empty masks, see `score_masks`.

    Returns:
        Six rows a case. References without a prediction are not scored, and a warning names them,
        because a cohort holds training cases too.

    Raises:
        FileNotFoundError: A path does not exist, or the folder holds no mask.
        ValueError: A prediction has no reference, a file is put against a folder, or what
            `score_pair` refuses.
    """
    pred, truth = Path(pred), Path(truth)
    get_empty_rule(empty_rule)
    for name, path in (("pred", pred), ("truth", truth)):
        if not path.exists():
            msg = (
                f"{name} must be a mask file or a folder of them; got {path}, which does not "
                "exist. Give PRED first and TRUTH second."
            )
            raise FileNotFoundError(msg)
    if pred.is_dir() != truth.is_dir():
        msg = (
            f"pred and truth must both be files or both be folders; got {pred} and {truth}. "
            "Give the folder that holds the file, or the file of one case."
        )
        raise ValueError(msg)
    truth_edition = truth_edition or edition
    options = {"edition": edition, "method": method, "empty_rule": empty_rule}
    if pred.is_file():
        return Scores(score_pair(pred, truth, truth_edition=truth_edition, **options))
    preds = _masks_in(pred)
    truths = _truths_in(truth, wanted=set(preds), edition=truth_edition)
    strangers = [name for name in preds if name not in truths]
    if strangers:
        msg = (
            f"every prediction must have a reference; {truth} has none for {_some(strangers)}. "
            "Name predictions by case id, for example "
            f"{next(iter(truths), 'BraTS2021_00000')}.nii.gz."
        )
        raise ValueError(msg)
    unscored = [name for name in truths if name not in preds]
    if unscored:
        note = f"{len(unscored)} references without a prediction are not scored: {_some(unscored)}"
        warnings.warn(note, stacklevel=2)
    rows: list[Score] = []
    for name in progress(sorted(preds), "score"):
        files = preds[name], truths[name]
        rows += score_pair(*files, truth_edition=truth_edition, case=name, **options)
    return Scores(rows)


def case_of(path: Path | str) -> str:
    """Name the case of a mask file.

    Examples:
        >>> case_of("cohort/BraTS2021_00000_seg.nii.gz")
        'BraTS2021_00000'
    """
    name = Path(path).name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    for tail in _TAILS:
        name = name.removesuffix(tail)
    return name


def _masks_in(folder: Path | str) -> dict[str, Path]:
    """Find the masks that stand directly in a folder, by case id."""
    folder = Path(folder)
    paths = sorted(
        path
        for path in (folder.iterdir() if folder.is_dir() else ())
        if path.name.endswith(_SUFFIXES) and not (path.name.startswith(".") or is_map(path.name))
    )
    if not paths:
        msg = (
            f"pred folder must hold masks named <case id>.nii.gz; got none in {folder}. "
            f"Make them with `bratskit predict DATA {folder}`."
        )
        raise FileNotFoundError(msg)
    masks: dict[str, Path] = {}
    for path in paths:
        name = case_of(path)
        if name in masks:
            both = f"{masks[name].name} and {path.name}"
            msg = f"each case must have one mask; got {both} in {folder}. Remove one."
            raise ValueError(msg)
        masks[name] = path
    return masks


def _truths_in(folder: Path, *, wanted: set[str], edition: Edition) -> dict[str, Path]:
    """Find references by case id: masks that stand directly in the folder, or else its cases."""
    direct = [path for path in sorted(folder.iterdir()) if path.name.endswith(_SUFFIXES)]
    if any(case_of(path) in wanted for path in direct):
        return {case_of(path): path for path in direct if _is_mask(path, wanted)}
    cases = find_cases(folder, schema=edition)
    return {case.id: case.labels_path for case in cases if case.labels_path is not None}


def _is_mask(path: Path, wanted: set[str]) -> bool:
    stem = path.name.removesuffix(".gz").removesuffix(".nii")
    return stem.endswith(_TAILS) or stem in wanted


def _refuse_bare(cases: Sequence[Case]) -> None:
    if not cases:
        msg = "cases must hold at least one case; got none. Find them with `find_cases(folder)`."
        raise ValueError(msg)
    bare = [case.id for case in cases if case.labels_path is None]
    if bare:
        msg = (
            f"cases must have a reference mask; got none for {_some(bare)}. "
            "Find only those that have one: `find_cases(folder, require_labels=True)`."
        )
        raise ValueError(msg)


def _other_grid(pred: Path, truth: Path, what: str, got: object, wanted: object) -> str:
    return (
        f"pred must lie on the grid of truth; {pred} has {what} {got} and {truth} has {wanted}. "
        "Score on the native grid: write the prediction with `write_labels(..., like=scan)`."
    )


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
