"""Say which cases are of one patient, by their names and by their voxels; a split needs both."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bratskit.cases.case import Case
from bratskit.cases.duplicates import Fingerprint, find_duplicates, fingerprint
from bratskit.cases.journal import Journal, journal_path, source_key
from bratskit.cases.nifti import load_scan
from bratskit.runtime import progress

__all__ = ["group_patients", "patient_of", "read_fingerprints", "same_patients"]

_GLIOMA_21_23 = re.compile(r"(BraTS2021_|BraTS-GLI-)(\d{5})(-\d{3})?")
_SINCE_2023 = re.compile(r"(BraTS-[A-Z]+-\d{5})-\d{3}")
_GLIOMA_17_19 = re.compile(r"Bra[tT][sS]1[789]_(.+)_\d+")
_TCIA_SITE = re.compile(r"TCIA\d\d_")
_TCIA_15 = re.compile(r"brats_tcia_pat(\d+)_\d+")


def patient_of(case_id: str) -> str:
    """Name the patient behind a case id, the same in every edition that reuses the id.

    BraTS 2017-2019 prepend the year and append a time point, and since 2018 they number the sites
    of TCIA too; BraTS 2015 has several time points of TCIA patients; BraTS 2023 adult glioma keeps
    the numbers of 2021, and since 2023 every task appends a time point. BraTS 2020 and MSD
    renumbered their patients: those ids stand for themselves, and `same_patients` looks at voxels.

    Examples:
        >>> patient_of("Brats18_CBICA_ABM_1"), patient_of("BraTS19_CBICA_ABM_1")
        ('CBICA_ABM', 'CBICA_ABM')
        >>> patient_of("brats_tcia_pat135_0001"), patient_of("Brats18_TCIA02_135_1")
        ('TCIA_135', 'TCIA_135')
        >>> patient_of("BraTS-GLI-00006-001"), patient_of("BraTS2021_00006")
        ('BraTS2021_00006', 'BraTS2021_00006')
        >>> patient_of("Phantom_00003")
        'Phantom_00003'
    """
    if match := _GLIOMA_21_23.fullmatch(case_id):
        return f"BraTS2021_{match[2]}"
    if match := _SINCE_2023.fullmatch(case_id):
        return match[1]
    if match := _TCIA_15.fullmatch(case_id):
        return f"TCIA_{match[1]}"
    if match := _GLIOMA_17_19.fullmatch(case_id):
        return _TCIA_SITE.sub("TCIA_", match[1])
    return case_id


def group_patients(
    ids: Iterable[str], same_patient: Iterable[Sequence[str]] = ()
) -> dict[str, list[str]]:
    """Put cases of one patient together, by name and by what is known beyond names.

    Args:
        ids: Names of the cases.
        same_patient: Groups of ids that show one patient, as from `same_patients`; an id that
            is not among `ids` still links the others.

    Returns:
        Sorted ids of each patient, keyed by the patient's name, in the order of the first ids.
    """
    ids = sorted(ids)
    leader: dict[str, str] = {}

    def lead(name: str) -> str:
        while leader.setdefault(name, name) != name:
            name = leader[name]
        return name

    for group in same_patient:
        names = sorted(lead(patient_of(case_id)) for case_id in group)
        leader.update(dict.fromkeys(names[1:], names[0]))
    patients: dict[str, list[str]] = {}
    for case_id in ids:
        patients.setdefault(lead(patient_of(case_id)), []).append(case_id)
    return patients


def read_fingerprints(
    cases: Sequence[Case],
    *,
    folders: Iterable[Path | str] = (),
    threads: int | None = None,
) -> list[Fingerprint]:
    """Take the fingerprint of every case, with progress.

    Args:
        cases: Cases of any folders and editions.
        folders: Cohorts whose journals (`bratskit check` writes them) are asked first; a case that
            is not in them, or whose files have changed since, is loaded, in about half a second.
        threads: Cases at once; None means one a core. Each takes 200 MB while it is worked on.
    """
    journals = [Journal(journal_path(folder)) for folder in folders]
    known = {}
    for case in cases if journals else ():
        for row in [journal.get(source_key(case)) for journal in journals]:
            if row is not None and row.print is not None:
                known[case.id] = row.print
    todo = [case for case in cases if case.id not in known]
    found = _read(todo, threads or os.cpu_count() or 1)
    known |= {item.case: item for item in progress(found, "comparing scans", total=len(todo))}
    return [known[case.id] for case in cases]


def same_patients(
    cases: Sequence[Case],
    *,
    prints: Sequence[Fingerprint] | None = None,
) -> tuple[tuple[str, ...], ...]:
    """Group the cases that show one patient, by name and by voxels, across folders and editions.

    Args:
        cases: Cases of any folders and editions; ids must differ.
        prints: Fingerprints of the cases, named by case id; None takes them by
            `read_fingerprints(cases)`.

    Returns:
        Sorted groups of two ids or more, for `make_split(..., same_patient=)` and `make_folds`.
    """
    prints = read_fingerprints(cases) if prints is None else prints
    links = [(found.first, found.second) for found in find_duplicates(prints)]
    groups = group_patients((case.id for case in cases), links)
    return tuple(sorted(tuple(members) for members in groups.values() if len(members) > 1))


def _read(cases: Sequence[Case], threads: int) -> Iterator[Fingerprint]:
    def read(case: Case) -> Fingerprint:
        return fingerprint(case.id, load_scan(replace(case, labels_path=None), threads=1).image)

    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(read, cases)
