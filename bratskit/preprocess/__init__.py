"""Room 01: turn a native scan into the array a network sees, and remember the way back."""

from bratskit.preprocess.cohort import prepare_cohort
from bratskit.preprocess.decide import decide
from bratskit.preprocess.fast import load_prepared
from bratskit.preprocess.geometry import Geometry
from bratskit.preprocess.grid import Crop, Orient, Resize
from bratskit.preprocess.prepare import prepare_scan
from bratskit.preprocess.slabs import PLANES_AT_ONCE, labels_from_slabs
from bratskit.preprocess.steps import brain_box, brain_mask, minmax, zscore
from bratskit.preprocess.store import (
    Prepared,
    list_prepared,
    open_prepared,
    read_patch,
    save_prepared,
)

__all__ = [
    "PLANES_AT_ONCE",
    "Crop",
    "Geometry",
    "Orient",
    "Prepared",
    "Resize",
    "brain_box",
    "brain_mask",
    "decide",
    "labels_from_slabs",
    "list_prepared",
    "load_prepared",
    "minmax",
    "open_prepared",
    "prepare_cohort",
    "prepare_scan",
    "read_patch",
    "save_prepared",
    "zscore",
]
