"""Find the cases below a folder by their file names; the folder is only ever read."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bratskit.cases.case import Case
from bratskit.labels import MODALITIES, LabelSchema, get_schema

__all__ = ["find_cases"]

# BraTS 2017-2021 file names, and after them those of BraTS 2023
_KINDS = {
    **{name: name for name in MODALITIES},
    **{"t2f": "flair", "t1n": "t1", "t1c": "t1ce", "t2w": "t2", "seg": "seg"},
}
_NAME = re.compile(rf"(?P<id>.+)[_-](?P<kind>{'|'.join(_KINDS)})\.nii(\.gz)?", re.IGNORECASE)
_EXPECTED = (
    "<case>_flair.nii.gz, <case>_t1.nii.gz, <case>_t1ce.nii.gz, <case>_t2.nii.gz and, where there "
    "is a mask, <case>_seg.nii.gz (.nii works too), all in one folder or one folder a case"
)
_SHOWN = 5  # names quoted in one message before the rest is counted


@dataclass
class CaseFiles:
    """Collect the files that carry one case id, complete or not.

    Attributes:
        id: Name of the case.
        files: Paths found for each modality and for "seg".
    """

    id: str
    files: dict[str, list[Path]] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Modalities without a file."""
        return [name for name in MODALITIES if name not in self.files]

    @property
    def repeated(self) -> dict[str, list[Path]]:
        """Kinds of file of which there are several."""
        return {kind: paths for kind, paths in self.files.items() if len(paths) > 1}


def find_cases(
    folder: Path | str,
    *,
    schema: LabelSchema | str = "brats2017-2021",
    require_labels: bool = False,
) -> list[Case]:
    """Find every case below a folder: nested or flat, `.nii` or `.nii.gz`, in any letter case.

    Args:
        folder: A cohort, or the folder of one case.
        schema: Edition that the masks were written in; it is declared, never guessed.
        require_labels: Whether a case without a mask is refused.

    Returns:
        The cases, sorted by id.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no case, or a case misses a modality, has two files for one, or has no
            mask although one is required.
    """
    schema = get_schema(schema)
    collected = collect_files(folder)
    if not collected:
        msg = f"folder must hold at least one case; got {folder}. Expected names: {_EXPECTED}."
        raise ValueError(msg)
    _refuse_repeated(collected)
    _refuse_missing(collected)
    cases = [as_case(files, schema=schema) for files in collected]
    bare = [case.id for case in cases if case.labels_path is None]
    if require_labels and bare:
        msg = (
            f"every case must have a mask here; got none for {_some(bare)} in {folder}. "
            f"Add {bare[0]}_seg.nii.gz beside its modalities, or leave the case out."
        )
        raise ValueError(msg)
    return cases


def collect_files(folder: Path | str) -> list[CaseFiles]:
    """Group the NIfTI files below a folder by case id, without judging them.

    A case without `_seg` whose own folder holds exactly one other NIfTI named like a segmentation
    takes that one: Kaggle's BraTS20_Training_355 has `W39_1998.09.19_Segm.nii`.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: It is a file.
    """
    folder = Path(folder)
    if not folder.exists():
        msg = f"folder must exist; got {folder}. Give the folder that holds the cases."
        raise FileNotFoundError(msg)
    if not folder.is_dir():
        msg = f"folder must be a folder; got the file {folder}. Give {folder.parent} instead."
        raise NotADirectoryError(msg)
    found: dict[str, CaseFiles] = {}
    for paths in _nifti_by_folder(folder):
        _collect_one_folder(paths, found)
    return [found[name] for name in sorted(found)]


def as_case(files: CaseFiles, *, schema: LabelSchema) -> Case:
    """Turn the files of one complete case into a `Case`."""
    labels = files.files.get("seg")
    return Case(
        id=files.id,
        paths={name: files.files[name][0] for name in MODALITIES if name in files.files},
        labels_path=labels[0] if labels else None,
        schema=schema,
    )


def _collect_one_folder(paths: list[Path], found: dict[str, CaseFiles]) -> None:
    here: dict[str, CaseFiles] = {}
    strangers = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is None:
            strangers.append(path)
            continue
        files = found.setdefault(match["id"], CaseFiles(match["id"]))
        files.files.setdefault(_KINDS[match["kind"].lower()], []).append(path)
        here[files.id] = files
    masks = [path for path in strangers if "seg" in path.name.lower()]
    if len(here) == 1 and len(masks) == len(strangers) == 1:
        (files,) = here.values()
        files.files.setdefault("seg", masks)


def _nifti_by_folder(folder: Path) -> Iterator[list[Path]]:
    seen = set()  # a link to a parent folder would never end
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        volumes = [name for name in sorted(names) if name.lower().endswith((".nii", ".nii.gz"))]
        yield [Path(root, name) for name in volumes if not name.startswith(".")]


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
        f"Add {first.id}_{first.missing[0]}.nii.gz to {beside}, or move the case elsewhere."
    )
    raise ValueError(msg)


def _some(names: list[str], separator: str = ", ") -> str:
    rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return separator.join(names[:_SHOWN]) + rest
