"""Say what was found in a case and what would mend it, one by one or as a table for people."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

__all__ = ["Finding", "Severity", "as_finding", "findings_table", "join_findings"]

Severity = Literal["problem", "warning", "note"]

# Findings of one kind that a shortened table shows before it counts the rest.
_SHOWN: dict[Severity, int] = {"problem": 20, "warning": 3, "note": 3}
_PATH = re.compile(r"[^\s(]*[/\\].*?\.(?:nii(?:\.gz)?|mha)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing worth knowing about a case.

    Attributes:
        case: Id of the case; "-" where it is about the folder or the cohort.
        kind: Short name of what it is about, the same in every case, for example "slab".
        what: What was seen.
        where: File, and the place in it where there is one.
        mend: What to do about it.
        severity: "problem" stops loading or learning from the case, "warning" makes its results
            doubtful, "note" is true of the patient and no fault of the file.
    """

    case: str
    kind: str
    what: str
    where: str
    mend: str
    severity: Severity


def as_finding(error: Exception, *, kind: str, case: str, where: str) -> Finding:
    """Turn a refusal of this package, "{name} must {rule}; got {value}. {mend}", into a finding."""
    what, _, mend = str(error).partition(". ")
    for opening in (f"{where} of case {case} ", f"labels of {where} (case {case}) "):
        what = what.removeprefix(opening)
    mend = mend or "Make the file readable."
    return Finding(case=case, kind=kind, what=what, where=where, mend=mend, severity="problem")


def join_findings(findings: Iterable[Finding]) -> list[Finding]:
    """Say once what several files of one case have in common."""
    places: dict[Finding, list[str]] = {}
    for finding in findings:
        places.setdefault(replace(finding, where=""), []).append(finding.where)
    return [replace(finding, where=", ".join(where)) for finding, where in places.items()]


def findings_table(findings: Sequence[Finding], *, show_all: bool = True) -> str:
    """Lay findings out as text, worst first, like beside like, each with its mend below it.

    Args:
        findings: In any order.
        show_all: False shows three of a kind, of problems twenty, and counts the others; mends
            that differ by a path alone are then written once.

    Examples:
        >>> print(findings_table([]))
        No findings.
        >>> one = Finding(
        ...     case="a", kind="et", what="no ET", where="a_seg.nii", mend="None.", severity="note"
        ... )
        >>> print(findings_table([one]))
        note     a  a_seg.nii: no ET
                    -> None.
        0 problems, 0 warnings, 1 note
    """
    if not findings:
        return "No findings."
    ranks = get_args(Severity)
    kinds = list(dict.fromkeys(finding.kind for finding in findings))

    def place(finding: Finding) -> tuple[int, int]:
        return ranks.index(finding.severity), kinds.index(finding.kind)

    width = max(len(finding.case) for finding in findings)
    lines = []
    for _, group in groupby(sorted(findings, key=place), key=place):
        lines += _group_lines(list(group), width, show_all=show_all)
    counts = [sum(finding.severity == rank for finding in findings) for rank in ranks]
    totals = [f"{n} {rank}{'' if n == 1 else 's'}" for n, rank in zip(counts, ranks, strict=True)]
    return "\n".join([*lines, ", ".join(totals)])


def _group_lines(group: list[Finding], width: int, *, show_all: bool) -> list[str]:
    """Write findings of one kind, a mend that several share once, after the last of them."""
    most = _SHOWN[group[0].severity]
    shorten = not show_all and len(group) > most + 1
    shown = group[:most] if shorten else group
    opening = f"{group[0].severity:<8} "
    lines = []
    for mend, some in groupby(shown, key=lambda item: item.mend if show_all else _pathless(item)):
        alike = list(some)
        mend = alike[0].mend if len(alike) == 1 else mend
        lines += [f"{opening}{item.case:<{width}}  {item.where}: {item.what}" for item in alike]
        lines.append(f"{'':<{len(opening) + width + 2}}-> {mend}")
    if shorten:
        n_more = len(group) - len(shown)
        n_cases = len({item.case for item in group})
        lines.append(
            f"{opening}{'':<{width}}  and {n_more} more like these (--all shows them), "
            f"{n_cases} cases in all"
        )
    return lines


def _pathless(finding: Finding) -> str:
    """Say a mend without the path in it, as several files share it."""
    return _PATH.sub("the file", finding.mend)
