"""Look thousands of cases over in one go: in parallel, resumable, and then against each other."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.check import check_look, orientation_of
from bratskit.cases.cohort import check_cohort, defer_places
from bratskit.cases.contradict import read_evidence
from bratskit.cases.duplicates import fingerprint
from bratskit.cases.find import CaseFiles, as_case, collect_files
from bratskit.cases.findings import Finding, as_finding
from bratskit.cases.journal import Journal, Row, journal_path, source_key
from bratskit.cases.layouts import EXPECTED
from bratskit.cases.look import Look, look_at
from bratskit.labels import LabelSchema, get_schema
from bratskit.runtime import progress

__all__ = ["check_folder", "check_folders", "home_of", "refuse_problems"]

JournalPlace = Path | str | Literal["auto"] | None
_MOST_LINES = 100  # problems that a refusal spells out
MOST_WORKERS = 8  # a case takes about 0.2 GB while it is open, and disks are seldom faster


def check_folder(
    folder: Path | str,
    *,
    schema: LabelSchema | str = "brats2017-2021",
    workers: int | None = None,
    journal: JournalPlace = None,
) -> list[Finding]:
    """Check every case below one folder; see `check_folders`."""
    return check_folders([folder], schemas=[schema], workers=workers, journal=journal)


def check_folders(
    folders: Sequence[Path | str],
    *,
    schemas: Sequence[LabelSchema | str] = ("brats2017-2021",),
    workers: int | None = None,
    journal: JournalPlace = None,
) -> list[Finding]:
    """Check every case below some folders, and the cases against each other.

    A damaged case never hides the next one. At most `workers` cases are in memory at once.

    Args:
        folders: Cohorts, or folders of one case; only read.
        schemas: Edition that the masks are declared to be in: one for all, or one a folder.
        workers: Threads; None means one a core, at most 8.
        journal: File that keeps the findings of each case, so that a check which was stopped goes
            on where it was and a second one reads only what changed. "auto" is one file a folder
            in the cache (`journal_path`); None keeps nothing.

    Returns:
        Findings by folder and case, those about the cohort last; empty for a clean cohort.

    Raises:
        FileNotFoundError: A folder does not exist.
        NotADirectoryError: It is a file.
        ValueError: `workers` is below 1, or the schemas are neither one nor one a folder.
    """
    schemas = [get_schema(schema) for schema in schemas]
    if len(schemas) not in (1, len(folders)):
        msg = (
            f"schemas must be one, or one a folder ({len(folders)}); got {len(schemas)}. "
            "Name one edition for all folders, or one for each of them in their order."
        )
        raise ValueError(msg)
    schemas = schemas * len(folders) if len(schemas) == 1 else schemas
    collected = [collect_files(folder) for folder in folders]
    cohorts, refusals = [], []
    for folder, found, schema in zip(folders, collected, schemas, strict=True):
        try:
            cohorts.append([as_case(files, schema=schema) for files in found])
        except ValueError as error:  # a dataset.json that contradicts the schema
            refusals.append(as_finding(error, kind="contradiction", case="-", where=str(folder)))
            cohorts.append([as_case(files, schema=schema, use_labels=False) for files in found])
    rows = _examine_all(cohorts, folders, workers=workers, journal=journal)
    findings = []
    of_cohorts = check_cohort(folders, rows, schemas)
    stopped = {item.where for item in of_cohorts if item.kind == "contradiction"}
    for folder, found, examined, schema in zip(folders, collected, rows, schemas, strict=True):
        findings += [] if found else [_no_case(folder)]
        judged = defer_places(examined, schema, stopped=str(folder) in stopped)
        for files, of_case in zip(found, judged, strict=True):
            findings += [*_check_names(files), *of_case]
    return findings + refusals + of_cohorts


def refuse_problems(
    cases: Sequence[Case], *, workers: int | None = None, journal: JournalPlace = "auto"
) -> None:
    """Read every file once before hours of work begin, and refuse a cohort with a problem in it.

    Args:
        cases: The cohort.
        workers: Threads; None means one a core, at most 8.
        journal: As for `check_folders`: what `bratskit check` has read is not read again.

    Raises:
        ValueError: Some cases have problems; one line for each.
    """
    if not cases:
        return
    folder = home_of(cases)
    (rows,) = _examine_all([cases], [folder], workers=workers, journal=journal)
    schemas = sorted({case.schema.name: case.schema for case in cases}.items())
    findings = []
    for _, schema in schemas:
        part = [row for row, case in zip(rows, cases, strict=True) if case.schema == schema]
        of_cohort = check_cohort([folder], [part], [schema])
        stopped = any(item.kind == "contradiction" for item in of_cohort)
        for of_case in defer_places(part, schema, stopped=stopped):
            findings += of_case
        findings += of_cohort
    problems = [item for item in findings if item.severity == "problem"]
    if problems:
        lines = [f"{item.case}, {item.where}: {item.what}. {item.mend}" for item in problems]
        if len(lines) > _MOST_LINES:
            more = f"and {len(lines) - _MOST_LINES} more: `bratskit check {folder}` groups them."
            lines = [*lines[:_MOST_LINES], more]
        msg = (
            f"{len({item.case for item in problems})} of {len(cases)} cases have problems, and "
            "nothing was begun. Mend them or move them elsewhere, then start again:\n"
        )
        raise ValueError(msg + "\n".join(lines))


def examine(case: Case) -> Row:
    """Open a case once and keep everything that later questions need, without its voxels."""
    key = source_key(case)  # before reading: a file that changes meanwhile is read again
    look = look_at(case)
    findings = check_look(look)
    misleading = {"same-image", "misplaced"} & {finding.kind for finding in findings}
    grid: dict[str, str] = {}
    if look.volumes:
        volume = next(iter(look.volumes.values()))
        spacing = " x ".join(f"{length:.3g}" for length in look.spacing_mm)
        shape = " x ".join(map(str, volume.data.shape))
        grid = {"grid": f"{shape} at {spacing} mm", "orientation": orientation_of(volume)}
    return Row(
        case=case.id,
        key=key,
        findings=tuple(findings),
        grid=grid,
        has_mask=case.labels_path is not None,
        order=None if misleading else look.order,
        **_signs(look),
    )


def _signs(look: Look) -> dict[str, object]:
    """Read the evidence for the labels and the fingerprint, from the box with the brain alone."""
    if not look.modalities:
        return {"evidence": None, "print": None}
    images: dict[str, NDArray[np.float32]] = {}
    for name, modality in look.modalities.items():
        images[name] = modality.real(np.ascontiguousarray(modality.values))  # hashed in C order
        if modality.background != 0:
            images[name][~modality.shown] = 0
    evidence = None
    integers = look.integers
    if integers is not None:
        evidence = read_evidence(look.case.id, images, integers)
    return {"evidence": evidence, "print": fingerprint(look.case.id, images)}


def _examine_all(
    cohorts: Sequence[Sequence[Case]],
    folders: Sequence[Path | str],
    *,
    workers: int | None,
    journal: JournalPlace,
) -> list[list[Row]]:
    """Examine every case that no journal knows; rows in the order of the cases."""
    if workers is not None and workers < 1:
        msg = f"workers must be 1 or more; got {workers}. Try workers=2."
        raise ValueError(msg)
    journals = _open_journals(folders, journal)
    try:
        jobs = [(case, at, i) for at, cases in enumerate(cohorts) for i, case in enumerate(cases)]
        rows: list[list[Row | None]] = [
            [journals[at].get(source_key(case)) for case in cases]
            for at, cases in enumerate(cohorts)
        ]
        todo = [job for job in jobs if rows[job[1]][job[2]] is None]
        n_workers = workers or min(_cores(), MOST_WORKERS)
        label = "checking cases" if len(todo) == len(jobs) else f"checking {len(todo)} new cases"
        for (_, at, i), row in progress(_in_parallel(todo, n_workers), label, total=len(todo)):
            rows[at][i] = row
            if not any(finding.kind == "not-examined" for finding in row.findings):
                journals[at].add(row)
        return rows
    finally:
        for each in journals:
            each.close()


def _open_journals(folders: Sequence[Path | str], journal: JournalPlace) -> list[Journal]:
    if journal == "auto":
        return [Journal(journal_path(folder)) for folder in folders]
    return [Journal(journal)] * len(folders)


def _in_parallel(
    todo: Iterable[tuple[Case, int, int]], workers: int
) -> Iterator[tuple[tuple[Case, int, int], Row]]:
    """Yield rows as they are done; a case is opened only when another was closed."""
    todo = iter(todo)
    running = {}
    pool = ThreadPoolExecutor(workers, thread_name_prefix="doctor")
    try:
        while True:
            for job in todo:
                running[pool.submit(_examine_or_say, job[0])] = job
                if len(running) == workers:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _examine_or_say(case: Case) -> Row:
    try:
        return examine(case)
    except Exception as error:  # one strange case must not hide thousands of others
        finding = Finding(
            case=case.id,
            kind="not-examined",
            what=f"could not be examined: {type(error).__name__}: {error}",
            where=case.id,
            mend="Move the case elsewhere, and report this: it is a fault of the doctor.",
            severity="problem",
        )
        empty = {"grid": {}, "has_mask": case.labels_path is not None}
        return Row(
            case=case.id,
            key=source_key(case),
            findings=(finding,),
            evidence=None,
            print=None,
            **empty,
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def home_of(cases: Sequence[Case]) -> Path:
    """Return the folder that all files of some cases lie below; their journal is named by it."""
    paths = [path for case in cases for path in (*case.paths.values(), case.labels_path) if path]
    parents = [Path(path).absolute().parent for path in paths]
    return Path(os.path.commonpath(parents)) if parents else Path()


def _no_case(folder: Path | str) -> Finding:
    return Finding(
        case="-",
        kind="no-case",
        what="no case",
        where=str(folder),
        mend=f"Expected names: {EXPECTED}.",
        severity="problem",
    )


def _check_names(files: CaseFiles) -> Iterator[Finding]:
    for kind, paths in files.repeated.items():
        yield Finding(
            case=files.id,
            kind="repeated",
            what=f"{len(paths)} files for {kind}",
            where=" and ".join(str(path) for path in paths),
            mend="Move all but one elsewhere.",
            severity="problem",
        )
    for path in [files.borrowed_mask] if files.borrowed_mask else []:
        yield Finding(
            case=files.id,
            kind="borrowed-mask",
            what="taken for the mask, though it is not named so: it alone is left in the folder",
            where=str(path),
            mend="Look whose it is. If it is no expert's, move it elsewhere.",
            severity="note",
        )
    for path in files.passed_by:
        yield Finding(
            case=files.id,
            kind="passed-by",
            what="not taken for the mask: it lies apart from the images, as predictions do",
            where=str(path),
            mend="If it is the expert's mask, put it beside the images.",
            severity="note",
        )
