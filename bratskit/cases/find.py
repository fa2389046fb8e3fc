"""Find the cases below a folder by their file names; the folder is only ever read."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from bratskit.cases.case import Case
from bratskit.cases.decathlon import IMAGE_FOLDERS, LABEL_FOLDER, TEST_FOLDER, refuse_other_tissues
from bratskit.cases.layouts import (
    EXPECTED,
    CaseFiles,
    add_brats,
    add_decathlon,
    add_vsd,
    file_of,
    is_volume,
    pass_by_masks,
)
from bratskit.labels import MODALITIES, LabelSchema, get_schema

__all__ = ["CaseFiles", "as_case", "case_of_files", "collect_files", "find_cases", "find_scans"]

_SHOWN = 5  # names quoted in one message before the rest is counted


def find_cases(
    folder: Path | str,
    *,
    schema: LabelSchema | str = "brats2017-2021",
    require_labels: bool = False,
    use_labels: bool = True,
) -> list[Case]:
    """Find every case below a folder, in the layout and under the names of any edition.

    That is BraTS 2017-2021 and 2023-2024 (nested or flat, `.nii` or `.nii.gz`, any letter case),
    MSD Task01 (4D files and `dataset.json`) and BraTS 2013-2015 (`.mha`). The layout says nothing
    about the integers in the masks: those are declared.

    Args:
        folder: A cohort, or the folder of one case.
        schema: Edition that the masks were written in; it is declared, never guessed.
        require_labels: Whether a case without a mask is refused. Those in `imagesTs`, the test
            images that an MSD task ships without masks, are left out instead.
        use_labels: Whether masks are looked for at all; False leaves them out, whatever they hold.

    Returns:
        The cases, sorted by id.

    Raises:
        FileNotFoundError: The folder does not exist, or 4D images come without `dataset.json`.
        ValueError: It holds no case, or a case misses a modality, has two files for one, or has no
            mask although one is required; or `dataset.json` contradicts the schema.
    """
    schema = get_schema(schema)
    if require_labels and not use_labels:
        msg = "require_labels must be False where use_labels is; got True. Leave one of them out."
        raise ValueError(msg)
    collected = collect_files(folder)
    if not collected:
        _refuse_empty(folder)
    _refuse_repeated(collected)
    _refuse_missing(collected)
    if require_labels:
        collected = _without_msd_tests(collected, folder)
    cases = [as_case(files, schema=schema, use_labels=use_labels) for files in collected]
    bare = [case.id for case in cases if case.labels_path is None]
    if require_labels and bare:
        msg = (
            f"every case must have a mask here; got none for {_some(bare)} in {folder}. "
            f"Add {_wanted_name(collected, bare[0], 'seg')}, or leave the case out."
            f"{_say_passed_by(collected, bare[0])}"
        )
        raise ValueError(msg)
    return cases


def find_scans(
    folder: Path | str, *, schema: LabelSchema | str = "brats2017-2021"
) -> tuple[list[Case], dict[str, str]]:
    """Find what a network may label: whole cases, without their masks, and what ails the others.

    Where `find_cases` refuses a folder for one case that lacks a file, this goes on without it.

    Args:
        folder: A cohort, or the folder of one case.
        schema: Edition that the cases are handed on with.

    Returns:
        The cases, sorted by id, and for each case that lacks a modality, or has two files for one,
        why it cannot be loaded.

    Raises:
        FileNotFoundError: The folder does not exist, or 4D images come without `dataset.json`.
        ValueError: It holds no case at all, or `dataset.json` cannot be understood.
    """
    collected = collect_files(folder)
    if not collected:
        _refuse_empty(folder)
    cases, faults = [], {}
    for files in collected:
        try:
            _refuse_repeated([files])
            _refuse_missing([files])
        except ValueError as error:
            faults[files.id] = str(error)
        else:
            cases.append(as_case(files, schema=get_schema(schema), use_labels=False))
    return cases, faults


def case_of_files(
    *,
    flair: Path | str,
    t1: Path | str,
    t1ce: Path | str,
    t2: Path | str,
    id: str | None = None,  # noqa: A002 - the name that `Case` gives it
    schema: LabelSchema | str = "brats2017-2021",
) -> Case:
    """Name four files of any names as one case, without a mask.

    Args:
        flair: File of this modality; `.nii`, `.nii.gz` or `.mha`.
        t1: The same, before contrast agent.
        t1ce: The same, after contrast agent.
        t2: The same.
        id: Name of the case; None takes what the names of the files begin with, or else the name
            of their folder.
        schema: Edition that the case is handed on with.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: One file is named for two modalities, or an id is not fit for a file name.
    """
    files = dict(zip(MODALITIES, map(Path, (flair, t1, t1ce, t2)), strict=True))
    for name, path in files.items():
        if not path.is_file():
            msg = f"{name} must be an existing file; got {path}. Check how it is written."
            raise FileNotFoundError(msg)
        twins = [other for other, held in files.items() if held.resolve() == path.resolve()]
        if len(twins) > 1:
            msg = (
                f"modalities must be four files; got {path} for {' and '.join(twins)}. "
                "Name the right file for each."
            )
            raise ValueError(msg)
    case_id = _common_id(list(files.values())) if id is None else id
    if not case_id or case_id != Path(case_id).name or case_id.startswith("."):
        msg = f"id must be fit for a file name; got {case_id!r}. Try id='patient1'."
        raise ValueError(msg)
    return Case(id=case_id, paths=files, labels_path=None, schema=get_schema(schema))


def _common_id(paths: list[Path]) -> str:
    """Say what four names begin with, whole words only: pat7_flair.nii, pat7_t1.nii give pat7."""
    letters = zip(*(path.name for path in paths), strict=False)
    shared = itertools.takewhile(lambda at: len(set(at)) == 1, letters)
    stem = "".join(at[0] for at in shared)
    stem = stem[: max((at + 1 for at, mark in enumerate(stem) if mark in "_-. "), default=0)]
    return stem.strip("_-. ") or paths[0].absolute().parent.name or "case"


def collect_files(folder: Path | str) -> list[CaseFiles]:
    """Group the volumes below a folder by case id, without judging them.

    Raises:
        FileNotFoundError: The folder does not exist, or 4D images come without `dataset.json`.
        NotADirectoryError: It is a file.
        ValueError: `dataset.json` cannot be understood.
    """
    folder = Path(folder)
    if not folder.exists():
        msg = f"folder must exist; got {folder}. Give the folder that holds the cases."
        raise FileNotFoundError(msg)
    if not folder.is_dir():
        msg = f"folder must be a folder; got the file {folder}. Give {folder.parent} instead."
        raise NotADirectoryError(msg)
    found: dict[str, CaseFiles] = {}
    if folder.absolute().name in IMAGE_FOLDERS:
        add_decathlon(folder.absolute().parent, [folder.absolute().name], found)
    else:
        for root, tasks, paths in _walk(folder):
            add_decathlon(root, tasks, found)
            add_brats([path for path in paths if path.suffix.lower() != ".mha"], found)
            add_vsd(paths, found)
    for files in found.values():
        pass_by_masks(files)
    return [found[name] for name in sorted(found)]


def as_case(files: CaseFiles, *, schema: LabelSchema, use_labels: bool = True) -> Case:
    """Turn the files of one complete case into a `Case`.

    Raises:
        ValueError: The mask comes with a `dataset.json` that contradicts the schema.
    """
    labels = files.files.get("seg") if use_labels else None
    if labels and files.listing:
        refuse_other_tissues(files.listing, schema)
    return Case(
        id=files.id,
        paths={name: files.files[name][0] for name in MODALITIES if name in files.files},
        labels_path=labels[0] if labels else None,
        schema=schema,
        channels=files.channels,
    )


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[Path]]]:
    """Yield each folder below, the MSD image folders that stand in it, and its own volumes."""
    seen = set()  # a link to a parent folder would never end
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        tasks = [name for name in IMAGE_FOLDERS if name in folders]
        taken = {*tasks, LABEL_FOLDER} if tasks else set()
        folders[:] = sorted(name for name in {*folders} - taken if not name.startswith("."))
        yield Path(root), tasks, [Path(root, name) for name in sorted(names) if is_volume(name)]


def _without_msd_tests(collected: list[CaseFiles], folder: Path | str) -> list[CaseFiles]:
    left = [files for files in collected if not _is_msd_test(files)]
    if not left:
        msg = (
            f"folder must hold cases with masks; got {folder}, which has {TEST_FOLDER} alone: the "
            "challenge keeps their masks. Give the folder that holds imagesTr and labelsTr."
        )
        raise ValueError(msg)
    return left


def _is_msd_test(files: CaseFiles) -> bool:
    return (
        files.listing is not None and next(iter(files.files.values()))[0].parent.name == TEST_FOLDER
    )


def _say_passed_by(collected: list[CaseFiles], case_id: str) -> str:
    (files,) = (files for files in collected if files.id == case_id)
    if not files.passed_by:
        return ""
    return f" {files.passed_by[0]} was not taken: it lies apart from the images, as predictions do."


def _refuse_empty(folder: Path | str) -> NoReturn:
    msg = f"folder must hold at least one case; got {folder}. Expected names: {EXPECTED}."
    raise ValueError(msg)


def _refuse_repeated(collected: list[CaseFiles]) -> None:
    for files in collected:
        for kind, paths in files.repeated.items():
            msg = (
                f"{kind} of case {files.id} must be one file; got "
                f"{' and '.join(str(path) for path in paths)}. Move all but one elsewhere."
            )
            raise ValueError(msg)


def _refuse_missing(collected: list[CaseFiles]) -> None:
    incomplete = [files for files in collected if files.missing]
    if not incomplete:
        return
    lacks = [f"{files.id} lacks {', '.join(files.missing)}" for files in incomplete]
    first = incomplete[0]
    beside = next(iter(first.files.values()))[0].parent
    msg = (
        f"every case must have the modalities {', '.join(MODALITIES)}; {_some(lacks, '; ')}. "
        f"Add {file_of(first.id, first.missing[0], first.layout).name} to {beside}, or move the "
        "case elsewhere."
    )
    raise ValueError(msg)


def _wanted_name(collected: list[CaseFiles], case_id: str, kind: str) -> str:
    (layout,) = (files.layout for files in collected if files.id == case_id)
    wanted = file_of(case_id, kind, layout)
    return wanted.name if layout.startswith("brats") else wanted.as_posix()


def _some(names: list[str], separator: str = ", ") -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + rest
