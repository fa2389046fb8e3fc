"""Say which cases are of one patient, by their names and by their voxels; a split needs both."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from bratskit.cases.case import Case
from bratskit.cases.doctor import home_of
from bratskit.cases.duplicates import Fingerprint, find_duplicates, fingerprint
from bratskit.cases.journal import Journal, journal_path, source_key
from bratskit.cases.nifti import load_scan
from bratskit.runtime import progress

__all__ = [
    "group_patients",
    "known_fingerprints",
    "patient_of",
    "read_fingerprints",
    "same_patients",
]

_GLIOMA_21_23 = re.compile(r"(BraTS2021_|BraTS-GLI-)(\d{5})(-\d{3})?", re.I)
_SINCE_2023 = re.compile(r"BraTS-([A-Z]+-\d{5})-\d{3}", re.I)
_GLIOMA_17_19 = re.compile(r"BraTS1[789]_(.+)_\d+", re.I)
_TCIA_SITE = re.compile(r"TCIA\d\d_")
_TCIA_15 = re.compile(r"brats_tcia_pat(\d+)_\d+", re.I)
# Sources of BraTS on TCIA. UCSF has six follow-ups, UCSF-PDGM-0431_FU001d beside UCSF-PDGM-0431;
# UPENN ends in 11 before surgery and 21 after; TCGA ends in the day of the scan, 1996.08.23.
_UCSF = re.compile(r"UCSF-PDGM-(\d{3,4})(_FU\d+d)?(_nifti)?", re.I)
_UPENN = re.compile(r"(UPENN-GBM-\d{5})_\d\d", re.I)
_TCGA = re.compile(r"TCGA[-_](\w\w)[-_]([A-Z\d]{4})(_[\d.]{8,10})?", re.I)


def patient_of(case_id: str) -> str:
    """Name the patient behind a case id, the same in every edition that reuses the id.

    BraTS 2017-2019 prepend the year and append a time point, and since 2018 they number the sites
    of TCIA too; BraTS 2015 has several time points of TCIA patients; BraTS 2023 adult glioma keeps
    the numbers of 2021, and since 2023 every task appends a time point; three collections of TCIA
    append a visit or a date. BraTS 2020 and MSD renumbered their patients: those ids stand for
    themselves, and `same_patients` looks at voxels. Letter case does not count.

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
        return f"BraTS-{match[1].upper()}"
    if match := _TCIA_15.fullmatch(case_id):
        return f"TCIA_{match[1]}"
    if match := _GLIOMA_17_19.fullmatch(case_id):
        return _TCIA_SITE.sub("TCIA_", match[1].upper())
    if match := _UCSF.fullmatch(case_id):
        return f"UCSF-PDGM-{int(match[1]):04d}"
    if match := _UPENN.fullmatch(case_id):
        return match[1].upper()
    if match := _TCGA.fullmatch(case_id):
        return f"TCGA-{match[1]}-{match[2]}".upper()
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
    known = known_fingerprints(cases, folders=folders)
    todo = [case for case in cases if case.id not in known]
    found = _read(todo, threads or os.cpu_count() or 1)
    known |= {item.case: item for item in progress(found, "comparing scans", total=len(todo))}
    return [known[case.id] for case in cases]


def known_fingerprints(
    cases: Sequence[Case], *, folders: Iterable[Path | str] = ()
) -> dict[str, Fingerprint]:
    """Look up the fingerprints that journals have, by case id; no image is read.

    Args:
        cases: Cases of any folders and editions; those whose files have changed are not known.
        folders: Cohorts that `bratskit check` has read; what they have in common is asked too.
    """
    places = {journal_path(folder) for folder in (*folders, *([home_of(cases)] if cases else []))}
    journals = [Journal(place) for place in sorted(places) if place.is_file()]
    known = {}
    for case in cases if journals else ():
        key = source_key(case)
        for row in [journal.get(key) for journal in journals]:
            if row is not None and row.print is not None:
                known[case.id] = row.print
    return known


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
