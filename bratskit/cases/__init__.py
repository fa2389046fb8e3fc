"""Know where cases come from: find, load, check, split and write them; nothing is learned here."""

from bratskit.cases.case import Case, Scan
from bratskit.cases.find import find_cases
from bratskit.cases.nifti import load_labels, load_scan, write_labels, write_volume
from bratskit.cases.split import Split, has_et, make_split, patient_of

__all__ = [
    "Case",
    "Scan",
    "Split",
    "find_cases",
    "has_et",
    "load_labels",
    "load_scan",
    "make_split",
    "patient_of",
    "write_labels",
    "write_volume",
]
