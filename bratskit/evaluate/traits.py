"""Measure what one labelled case is like, as a flat row of numbers; judges nothing."""

from math import isfinite

from bratskit.cases.case import Scan
from bratskit.evaluate.metrics import box_of
from bratskit.evaluate.traits_look import measure_look
from bratskit.evaluate.traits_shape import measure_shape

__all__ = ["measure_case"]


def measure_case(scan: Scan) -> dict[str, float]:
    """Measure sizes, shapes, places, contrasts, sharpness and noise of one labelled case.

    Names begin with what they are about: a region or label ("WT_ml"), or a modality ("flair_ED").
    What each means stands in `measure_shape` and `measure_look`. About 2 s a case of 1 mm.

    Args:
        scan: A case with a mask. Brain is every voxel that is not zero in some modality.

    Returns:
        Numbers by name, rounded to four digits; NaN where a case has no such thing (no enhancing
        tumour). The names are the same for every case.

    Raises:
        ValueError: The scan has no mask, the mask no tumour, or the image no brain.
    """
    brain = (scan.image != 0).any(axis=0)
    box = box_of(brain)
    if scan.labels is None or box is None or not (scan.labels[box] > 0).any():
        what = "no mask" if scan.labels is None else "no brain" if box is None else "no tumour"
        msg = (
            f"scan must have a brain and a mask with tumour; got {what} in {scan.id}. "
            "Measure labelled cases: `find_cases(folder, require_labels=True)`."
        )
        raise ValueError(msg)
    brain, labels = brain[box], scan.labels[box] * brain[box]
    numbers = measure_shape(labels, brain, spacing_mm=scan.spacing_mm)
    numbers |= measure_look(scan.image[(slice(None), *box)], labels, spacing_mm=scan.spacing_mm)
    return {name: _rounded(value) for name, value in numbers.items()}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}") if isfinite(value) else float("nan")
