"""Know where cases come from: find, load, check, split and write them; nothing is learned here."""

from bratskit.cases.case import Case, Scan
from bratskit.cases.check import check_case
from bratskit.cases.contradict import (
    Contradiction,
    Evidence,
    find_contradiction,
    find_odd_cases,
    read_evidence,
    refuse_contradiction,
)
from bratskit.cases.disk import open_nifti
from bratskit.cases.doctor import check_folder, check_folders, refuse_problems
from bratskit.cases.doubts import find_doubts, find_exchange
from bratskit.cases.duplicates import Duplicate, Fingerprint, find_duplicates, fingerprint
from bratskit.cases.facts import CaseFacts, read_facts
from bratskit.cases.find import case_of_files, find_cases, find_scans
from bratskit.cases.findings import Finding, findings_table
from bratskit.cases.folds import Folds, load_split, make_folds
from bratskit.cases.maps import MAPS, is_map, write_maps
from bratskit.cases.nifti import load_labels, load_scan, write_labels, write_volume
from bratskit.cases.patients import patient_of, same_patients
from bratskit.cases.phantoms import Ingredients, make_cohort, write_phantom
from bratskit.cases.split import Split, make_split, refuse_leaks

__all__ = [
    "MAPS",
    "Case",
    "CaseFacts",
    "Contradiction",
    "Duplicate",
    "Evidence",
    "Finding",
    "Fingerprint",
    "Folds",
    "Ingredients",
    "Phantom",
    "Scan",
    "Split",
    "case_of_files",
    "check_case",
    "check_folder",
    "check_folders",
    "find_cases",
    "find_contradiction",
    "find_doubts",
    "find_duplicates",
    "find_exchange",
    "find_odd_cases",
    "find_scans",
    "findings_table",
    "fingerprint",
    "is_map",
    "load_labels",
    "load_scan",
    "load_split",
    "make_cohort",
    "make_folds",
    "make_phantom",
    "make_split",
    "open_nifti",
    "patient_of",
    "read_evidence",
    "read_facts",
    "refuse_contradiction",
    "refuse_leaks",
    "refuse_problems",
    "same_patients",
    "write_labels",
    "write_maps",
    "write_phantom",
    "write_volume",
]


def __getattr__(name: str) -> object:
    """Import what simulates only when it is asked for: it brings torch, a second or two."""
    if name in ("Phantom", "make_phantom"):
        from bratskit.cases import phantoms

        return getattr(phantoms, name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
