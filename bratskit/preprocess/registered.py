"""Write registered patients as cases that every other command reads, resumable; whole or not."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from shutil import rmtree

import nibabel as nib
import numpy as np

from bratskit.cases import Case, find_doubts
from bratskit.cases.volume import compress
from bratskit.labels import MODALITIES
from bratskit.preprocess.register import Moved, register_case
from bratskit.runtime import RunFolder, made_by, progress

__all__ = ["RECEIPT", "register_folder"]

RECEIPT = "_register.json"
SMALLEST, LARGEST = np.iinfo(np.int16).min, np.iinfo(np.int16).max


def register_folder(
    cases: Sequence[Case], out: Path | str, *, spacing_mm: float | None = 1.0
) -> tuple[list[Case], dict[str, str]]:
    """Register every case and write it as `<out>/<case id>/<case id>_<modality>.nii.gz`.

    Beside them `<case id>_register.json` says how each modality was moved. Started again, finished
    cases whose files have not changed are kept. Expert masks are not carried over.

    Args:
        cases: Patients, each modality on a grid of its own.
        out: Folder; made where it does not exist. What was there of a case is replaced.
        spacing_mm: As for `register_case`.

    Returns:
        The cases as written, and for each that could not be registered why.

    Raises:
        PermissionError: The folder cannot be written to.
        ValueError: A case's folder would take the place of its own files, or of a folder that
            `register` did not write.
    """
    out = RunFolder(Path(out)).create().path
    _refuse_inputs(cases, out)
    to_do = [case for case in cases if not _is_done(case, out, spacing_mm)]
    if len(to_do) < len(cases):
        sys.stdout.write(f"register: {len(cases) - len(to_do)} kept, {len(to_do)} to make\n")
    failed: dict[str, str] = {}
    for case in progress(to_do, "register"):
        try:
            _write(case, register_case(case, spacing_mm=spacing_mm), out, spacing_mm)
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            failed[case.id] = " ".join(str(error).split()) or type(error).__name__
            sys.stderr.write(f"register: {case.id} failed: {failed[case.id]}\n")
            continue
        for one in find_doubts(_case_in(out, case)):  # registration cures one ill of several
            if one.severity != "note":
                line = f"{one.where}: {one.what}. {one.mend}"
                sys.stderr.write(f"register: {case.id} warning: still {line}\n")
    return [_case_in(out, case) for case in cases if case.id not in failed], failed


def _refuse_inputs(cases: Sequence[Case], out: Path) -> None:
    """Refuse to replace a folder that is not ours: the files of a patient are never touched."""
    for case in cases:
        folder = out / case.id
        holds_input = any(
            Path(path).resolve().is_relative_to(folder.resolve()) for path in case.paths.values()
        )
        if holds_input or (folder.exists() and not (folder / f"{case.id}{RECEIPT}").is_file()):
            msg = (
                f"out must hold no {case.id} that `register` did not write; got {folder}. "
                "Choose a new folder beside the scans."
            )
            raise ValueError(msg)


def _case_in(out: Path, case: Case) -> Case:
    paths = {name: out / case.id / f"{case.id}_{name}.nii.gz" for name in MODALITIES}
    return Case(id=case.id, paths=paths, labels_path=None, schema=case.schema)


def _sources(case: Case, spacing_mm: float | None) -> dict[str, object]:
    facts = {name: Path(path).stat() for name, path in case.paths.items() if Path(path).exists()}
    files = {
        name: {"file": str(case.paths[name]), "bytes": one.st_size, "modified_s": int(one.st_mtime)}
        for name, one in facts.items()
    }
    return {"spacing_mm": spacing_mm, "sources": files}


def _is_done(case: Case, out: Path, spacing_mm: float | None) -> bool:
    try:
        found = json.loads((out / case.id / f"{case.id}{RECEIPT}").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return all(found.get(name) == value for name, value in _sources(case, spacing_mm).items())


def _write(case: Case, moved: Mapping[str, Moved], out: Path, spacing_mm: float | None) -> None:
    """Fill a hidden folder and rename it: a kill leaves the case whole or not at all."""
    receipt = {
        **_sources(case, spacing_mm),
        "modalities": {name: _told(one) for name, one in moved.items()},
        "made_by": made_by(),
    }
    for stale in out.glob(f".{case.id}-*"):
        rmtree(stale, ignore_errors=True)
    unfinished = out / f".{case.id}-{os.getpid()}"
    try:
        unfinished.mkdir()
        for name, one in moved.items():
            (unfinished / f"{case.id}_{name}.nii.gz").write_bytes(_as_nifti(one))
        (unfinished / f"{case.id}{RECEIPT}").write_text(json.dumps(receipt, indent=1) + "\n")
        if (out / case.id).exists():  # ours; set aside whole, so that a kill leaves no half of it
            (out / case.id).rename(out / f".{case.id}-old-{os.getpid()}")
        unfinished.rename(out / case.id)
    finally:
        rmtree(unfinished, ignore_errors=True)
        rmtree(out / f".{case.id}-old-{os.getpid()}", ignore_errors=True)


def _told(moved: Moved) -> dict[str, object]:
    return {
        "moved_mm": round(moved.moved_mm, 3),
        "is_left": moved.is_left,
        "mutual_information": [round(value, 4) for value in moved.likeness],
        "to_file": np.round(moved.to_file, 6).tolist(),
    }


def _as_nifti(moved: Moved) -> bytes:
    """Store whole numbers where values are so large that rounding them loses nothing."""
    values, top = moved.image, float(np.abs(moved.image).max())
    if 500 <= top <= LARGEST and values.min() >= SMALLEST:
        values = np.rint(values).astype("<i2")
    image = nib.Nifti1Image(values, moved.affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(moved.affine, code=1)
    image.set_qform(moved.affine, code=1)
    return compress(image.to_bytes())
