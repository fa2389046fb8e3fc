"""Look one case over before hours are spent on it, and say for each finding what would mend it."""

from collections.abc import Iterator

import nibabel as nib
import numpy as np
from nibabel.orientations import aff2axcodes
from nibabel.spatialimages import HeaderDataError

from bratskit.cases.case import Case
from bratskit.cases.check_cut import check_cuts
from bratskit.cases.check_image import check_images
from bratskit.cases.check_mask import check_mask
from bratskit.cases.check_order import EXPLAINED, check_order, doubts_flair
from bratskit.cases.findings import Finding, Severity, join_findings
from bratskit.cases.look import Look, look_at, where_of
from bratskit.cases.volume import Volume, grid_distance_mm

__all__ = ["check_case", "check_look", "orientation_of"]

QFORM_TOLERANCE_MM = 0.5  # quaternions and float32 round below that; a flip or a shift does not
ONE_MM = (0.99, 1.01)  # what headers write for 1 mm
SPOILING = ("background", "misplaced", "not-stripped", "same-image", "slab")  # no witnesses
_UNITS = {1: "metre", 3: "micrometre"}  # NIfTI-1 standard, xyzt_units & 7; 0 unknown, 2 mm


def check_case(case: Case) -> list[Finding]:
    """Check the files of one case: whole, on one grid, finite, complete, mask and brain in place.

    A missing or damaged file is a finding, and the others are still looked at.

    Returns:
        Findings, empty for a sound case.
    """
    return check_look(look_at(case))


def check_look(look: Look) -> list[Finding]:
    """Check a case that is open already."""
    images = list(check_images(look))
    spoiled = [finding.where.split(", ") for finding in images if finding.kind in SPOILING]
    doubtful = {name for names in spoiled for name in names}
    mask = [*check_mask(look, doubtful=doubtful), *check_cuts(look)]
    order = check_order(look, doubtful=doubtful)
    if order:
        mask = [finding for finding in mask if finding.kind not in EXPLAINED]
    elif doubts_flair(look):
        mask = [finding for finding in mask if finding.kind != "mask-place"]
    return join_findings([*look.findings, *_check_headers(look), *images, *mask, *order])


def orientation_of(volume: Volume) -> str:
    """Name the anatomical directions of a file's axes on disk, for example LPS."""
    return "".join(aff2axcodes(volume.disk_affine))


def _check_headers(look: Look) -> Iterator[Finding]:
    if not look.volumes:
        return
    case = look.case
    for kind, volume in look.volumes.items():
        if not isinstance(volume.header, nib.Nifti1Header):
            continue
        for about, severity, what, mend in _check_header(volume):
            yield _finding(case, about, where_of(case, kind), what, mend, severity)
    yield from _check_spacing(look)
    names = {kind: orientation_of(volume) for kind, volume in look.volumes.items()}
    if len(set(names.values())) > 1:
        what = "stored in different orientations: " + ", ".join(
            f"{kind} {name}" for kind, name in names.items()
        )
        mend = "None needed: all are turned to RAS+ here. Programs that ignore headers mix sides."
        yield _finding(case, "orientation", case.id, what, mend, "note")


def _check_header(volume: Volume) -> Iterator[tuple[str, Severity, str, str]]:
    header = volume.header
    qform_code, sform_code = int(header["qform_code"]), int(header["sform_code"])
    if qform_code == sform_code == 0:
        yield (
            "orientation",
            "warning",
            "orientation unknown: qform and sform code are 0, left and right are a guess",
            "Find out which side is left, then set the sform with a code of 1 or more.",
        )
    elif qform_code and sform_code:
        apart_mm = _qform_distance_mm(volume)
        if apart_mm > QFORM_TOLERANCE_MM:
            yield (
                "qform",
                "warning",
                f"qform and sform disagree by up to {apart_mm:.1f} mm; the sform is used",
                "Find out which is right and copy it to the other (nibabel: set_qform, set_sform).",
            )
    unit = _UNITS.get(int(header["xyzt_units"]) & 7)
    if unit:
        yield (
            "units",
            "warning",
            f"lengths are declared in {unit}, and are read as mm",
            "Write the affine in mm and declare it (nibabel: header.set_xyzt_units('mm')).",
        )


def _qform_distance_mm(volume: Volume) -> float:
    try:
        qform = volume.header.get_qform()
    except (HeaderDataError, ValueError):
        return np.inf
    return grid_distance_mm(qform, volume.disk_affine, volume.header.get_data_shape()[:3])


def _check_spacing(look: Look) -> Iterator[Finding]:
    spacing_mm = look.spacing_mm
    text = " x ".join(f"{length:.3g}" for length in spacing_mm)
    if all(ONE_MM[0] <= length <= ONE_MM[1] for length in spacing_mm):
        return
    if not look.is_plausible:
        what = f"implausible spacing {text} mm: no head was scanned with such voxels"
        mend = "Repair the affine of the files: all distances and volumes come from it."
        yield _finding(look.case, "spacing", look.case.id, what, mend, "problem")
        return
    uneven = max(spacing_mm) > 1.01 * min(spacing_mm)
    what = f"spacing {text} mm, not 1 mm" + (": anisotropic" if uneven else "")
    mend = "None needed: a recipe with spacing_mm resamples. Do not mix with 1 mm cases otherwise."
    yield _finding(look.case, "spacing", look.case.id, what, mend, "note")


def _finding(
    case: Case, kind: str, where: str, what: str, mend: str, severity: Severity
) -> Finding:
    return Finding(case=case.id, kind=kind, where=where, what=what, mend=mend, severity=severity)
