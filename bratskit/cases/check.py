"""Look a cohort over before hours are spent on it, and say for each finding what would mend it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.find import CaseFiles, as_case, collect_files
from bratskit.cases.nifti import to_internal
from bratskit.cases.volume import Volume, read_volume, refuse_other_grid
from bratskit.labels import LABELS, MODALITIES, LabelSchema, get_schema
from bratskit.runtime import progress

__all__ = ["Finding", "check_case", "check_folder", "findings_table", "refuse_problems"]

Severity = Literal["problem", "warning", "note"]

# Over the thirty real cases, all but the one with a known gap stay below 0.006 and 0.0002.
HOLLOW_SHARE = 0.02  # of the brain that may be 0 in one modality
OUTSIDE_SHARE = 0.01  # of the tumour that may lie outside the brain
FILLED_SHARE = 0.9  # of the grid: a stripped head fills 0.2, so more means no background at all
SATURATED_SHARE = 0.001  # of the brain at the largest value: more was clipped, not merely rescaled
TINY_ET_ML = 0.5  # where a few voxels decide the Dice; ET clean-up thresholds lie about here
INTEGER_LIMITS = (32767, 65535)  # largest int16 and uint16


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing worth knowing about a case.

    Attributes:
        case: Id of the case.
        what: What was seen.
        where: File, and the place in it where there is one.
        mend: What to do about it.
        severity: "problem" stops loading or learning from the case, "warning" makes its results
            doubtful, "note" is true of the patient and no fault of the file.
    """

    case: str
    what: str
    where: str
    mend: str
    severity: Severity


def check_folder(
    folder: Path | str, *, schema: LabelSchema | str = "brats2017-2021"
) -> list[Finding]:
    """Check every case below a folder; a damaged case never hides the next one.

    Args:
        folder: A cohort, or the folder of one case; only read.
        schema: Edition that the masks are declared to be in.

    Returns:
        Findings, by case; empty for a clean cohort.

    Raises:
        FileNotFoundError: The folder does not exist.
        NotADirectoryError: It is a file.
    """
    schema = get_schema(schema)
    collected = collect_files(folder)
    if not collected:
        return [
            Finding(
                case="-",
                what="no case",
                where=str(folder),
                mend="Files must be called <case>_flair.nii.gz, _t1, _t1ce, _t2 and _seg.",
                severity="problem",
            )
        ]
    findings = []
    for files in progress(collected, "checking cases"):
        findings += _check_names(files)
        findings += check_case(as_case(files, schema=schema))
    return findings


def check_case(case: Case) -> list[Finding]:
    """Check the files of one case: whole, on one grid, finite, complete, and the mask in the brain.

    A missing modality is a finding and the others are still looked at.
    """
    findings = [_missing_modality(case, name) for name in MODALITIES if name not in case.paths]
    volumes: dict[str, Volume] = {}
    for kind, path in (*case.paths.items(), ("seg", case.labels_path)):
        if path is None:
            continue
        try:
            volumes[kind] = read_volume(path, case_id=case.id)
            refuse_other_grid(volumes[kind], next(iter(volumes.values())), case_id=case.id)
        except (ValueError, OSError) as error:
            findings.append(_as_finding(error, case=case.id, where=Path(path).name))
            volumes.pop(kind, None)
    mask = volumes.pop("seg", None)
    images = {}
    for name, volume in volumes.items():
        image = np.empty(volume.data.shape, np.float32)
        volume.write_values(image)
        images[name] = image
    findings += _check_values(case, images)
    brain = _brain_of(images)
    if brain is not None:
        findings += _check_completeness(case, images, brain)
    if mask is not None:
        findings += _check_mask(case, mask, images)
    return _joined(findings)


def refuse_problems(cases: Sequence[Case]) -> None:
    """Read every file once before hours of work begin, and refuse a cohort with a problem in it.

    Raises:
        ValueError: Some cases have problems; one line for each.
    """
    findings = [item for case in progress(cases, "checking cases") for item in check_case(case)]
    problems = [item for item in findings if item.severity == "problem"]
    if problems:
        lines = [f"{item.case}, {item.where}: {item.what}. {item.mend}" for item in problems]
        msg = (
            f"{len({item.case for item in problems})} of {len(cases)} cases have problems, and "
            "nothing was begun. Mend them or move them elsewhere, then start again:\n"
        )
        raise ValueError(msg + "\n".join(lines))


def findings_table(findings: Sequence[Finding]) -> str:
    """Lay findings out as text, worst first, each with its mend on a line of its own.

    Examples:
        >>> print(findings_table([]))
        No findings.
        >>> one = Finding(case="a", what="no ET", where="a_seg.nii", mend="None.", severity="note")
        >>> print(findings_table([one]))
        note     a  a_seg.nii: no ET
                    -> None.
        0 problems, 0 warnings, 1 note
    """
    if not findings:
        return "No findings."
    ranks: tuple[Severity, ...] = ("problem", "warning", "note")
    width = max(len(finding.case) for finding in findings)
    lines = []
    for finding in sorted(findings, key=lambda finding: ranks.index(finding.severity)):
        opening = f"{finding.severity:<8} {finding.case:<{width}}  "
        lines.append(f"{opening}{finding.where}: {finding.what}")
        lines.append(f"{'':<{len(opening)}}-> {finding.mend}")
    counts = [sum(finding.severity == rank for finding in findings) for rank in ranks]
    totals = [f"{n} {rank}{'' if n == 1 else 's'}" for n, rank in zip(counts, ranks, strict=True)]
    return "\n".join([*lines, ", ".join(totals)])


def _check_names(files: CaseFiles) -> Iterator[Finding]:
    for kind, paths in files.repeated.items():
        yield Finding(
            case=files.id,
            what=f"{len(paths)} files for {kind}",
            where=" and ".join(str(path) for path in paths),
            mend="Move all but one elsewhere.",
            severity="problem",
        )


def _joined(findings: list[Finding]) -> list[Finding]:
    """Say once what several files of one case have in common."""
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(replace(finding, where=""), []).append(finding.where)
    return [replace(finding, where=", ".join(where)) for finding, where in places.items()]


def _missing_modality(case: Case, name: str) -> Finding:
    return Finding(
        case=case.id,
        what=f"no {name}",
        where=f"{case.id}_{name}.nii.gz",
        mend="Add the file, or move the case elsewhere: the network needs all four.",
        severity="problem",
    )


def _as_finding(error: Exception, *, case: str, where: str) -> Finding:
    # refusals of this package read "{name} must {rule}; got {value}. {what to do}"
    what, _, mend = str(error).partition(". ")
    what = what.removeprefix(f"{where} of case {case} ")
    mend = mend or "Make the file readable."
    return Finding(case=case, what=what, where=where, mend=mend, severity="problem")


def _check_values(case: Case, images: dict[str, NDArray[np.float32]]) -> Iterator[Finding]:
    """Look at each modality alone; images that hold NaN or nothing are taken out."""
    for name, image in list(images.items()):
        where = Path(case.paths[name]).name
        n_bad = int(image.size - np.isfinite(image).sum())
        inside = image[image != 0]
        if n_bad:
            what, mend = f"NaN or infinity in {n_bad} voxels", "Set them to 0 (numpy.nan_to_num)."
        elif inside.size == 0 or inside.min() == inside.max():
            value = inside[0] if inside.size else 0
            what, mend = f"constant: only {value:g}", "Export the modality again; this holds none."
        else:
            yield from _check_range(case.id, where, inside, image.size)
            continue
        del images[name]
        yield Finding(case=case.id, what=what, where=where, mend=mend, severity="problem")


def _check_range(
    case_id: str, where: str, inside: NDArray[np.float32], n_voxels: int
) -> Iterator[Finding]:
    if inside.size > FILLED_SHARE * n_voxels:
        yield Finding(
            case=case_id,
            what=f"{inside.size / n_voxels:.0%} of the grid is not 0: no empty background",
            where=where,
            mend="Strip the skull and set the background to 0; the brain is found by that.",
            severity="warning",
        )
    largest = inside.max()
    if largest not in INTEGER_LIMITS:
        return
    share = float((inside == largest).mean())
    clipped = share > SATURATED_SHARE
    yield Finding(
        case=case_id,
        what=f"saturated: {share:.1%} of the brain is at {largest:g}"
        if clipped
        else f"rescaled to a maximum of {largest:g}, the largest its integer type can hold",
        where=where,
        mend="Export it again without clipping."
        if clipped
        else "None needed: brain-only z-scores undo it. Do not compare raw intensities.",
        severity="warning" if clipped else "note",
    )


def _brain_of(images: dict[str, NDArray[np.float32]]) -> NDArray[np.bool_] | None:
    """Call brain what two modalities show, so that one with a gap does not hide it."""
    if len(images) < 3:
        return None
    return np.sum([image != 0 for image in images.values()], axis=0, dtype=np.uint8) >= 2


def _check_completeness(
    case: Case, images: dict[str, NDArray[np.float32]], brain: NDArray[np.bool_]
) -> Iterator[Finding]:
    n_brain = max(int(brain.sum()), 1)
    for name, image in images.items():
        hollow = brain & (image == 0)
        share = int(hollow.sum()) / n_brain
        if share <= HOLLOW_SHARE:
            continue
        yield Finding(
            case=case.id,
            what=f"{share:.0%} of the brain is missing ({_widest_slab(hollow, brain)})",
            where=Path(case.paths[name]).name,
            mend="Export it again if you can; otherwise keep the case out of validation and test.",
            severity="warning",
        )


def _widest_slab(hollow: NDArray[np.bool_], brain: NDArray[np.bool_]) -> str:
    """Describe the longest run of slices along I, J or K in which most of the brain is missing."""
    widest = ("in scattered voxels", 1)
    for axis, name in enumerate("IJK"):
        others = tuple(other for other in range(3) if other != axis)
        bare = hollow.sum(others) > 0.5 * np.maximum(brain.sum(others), 1)
        edges = np.flatnonzero(np.diff(bare, prepend=False, append=False))
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            if end - first > widest[1]:
                text = f"{end - first} slices from {name} = {first} to {end - 1}, in RAS+"
                widest = (text, end - first)
    return widest[0]


def _check_mask(
    case: Case, mask: Volume, images: dict[str, NDArray[np.float32]]
) -> Iterator[Finding]:
    where = mask.path.name
    try:
        labels = to_internal(mask, schema=case.schema, case_id=case.id)
    except ValueError as error:
        yield _as_finding(error, case=case.id, where=where)
        return
    tumour = labels > 0
    n_tumour = int(tumour.sum())
    if n_tumour == 0:
        yield Finding(
            case=case.id,
            what="the mask is empty",
            where=where,
            mend="Make sure that the patient has no tumour; otherwise find the right mask.",
            severity="warning",
        )
        return
    yield from _check_et(case.id, where, labels, mask)
    if images:
        outside = tumour & ~np.any([image != 0 for image in images.values()], axis=0)
        share = int(outside.sum()) / n_tumour
        if share > OUTSIDE_SHARE:
            yield Finding(
                case=case.id,
                what=f"{share:.0%} of the tumour lies outside the brain",
                where=where,
                mend="Look at the overlay: the mask is flipped, shifted or another patient's.",
                severity="problem",
            )


def _check_et(
    case_id: str, where: str, labels: NDArray[np.uint8], mask: Volume
) -> Iterator[Finding]:
    n_et = int((labels == 3).sum())
    volume_ml = n_et * abs(np.linalg.det(mask.affine[:3, :3])) / 1000  # mm3 to ml
    if volume_ml >= TINY_ET_ML:
        return
    yield Finding(
        case=case_id,
        what=f"tiny enhancing tumour: {n_et} voxels, {volume_ml:.2f} ml"
        if n_et
        else f"no enhancing tumour ({LABELS[3]})",
        where=where,
        mend="None needed: stratify the split by ET, and name the empty rule beside its Dice."
        if n_et == 0
        else "None needed: read its ET Dice with care, a few voxels decide it.",
        severity="note",
    )
