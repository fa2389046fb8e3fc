"""Know where cases come from: find, load, check, split and write them; nothing is learned here."""

from bratskit.cases.case import Case, Scan
from bratskit.cases.find import find_cases
from bratskit.cases.nifti import load_labels, load_scan, write_labels, write_volume

__all__ = [
    "Case",
    "Scan",
    "find_cases",
    "load_labels",
    "load_scan",
    "write_labels",
    "write_volume",
]
