"""Judge cases against each other: twins, labels that contradict their schema, and odd ones out."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bratskit.cases.check import SPOILING
from bratskit.cases.check_order import EXPLAINED, check_cohort_order, cohort_order
from bratskit.cases.contradict import find_contradiction, find_odd_cases
from bratskit.cases.duplicates import find_duplicates
from bratskit.cases.findings import Finding
from bratskit.cases.journal import Row
from bratskit.labels import SCHEMAS, LabelSchema, schemas_named_in

__all__ = ["check_cohort", "defer_places"]

FEW = 5  # cases below which nothing is the rule, so nothing is an exception
_BLAMED = ("mask-place", "swapped")  # kinds of findings that wrong labels may cause
MOST_SHARE = 0.8  # of a cohort that makes a rule
_NAMED = 3  # cases that a finding about many lists


def check_cohort(
    folders: Sequence[Path | str], rows: Sequence[Sequence[Row]], schemas: Sequence[LabelSchema]
) -> list[Finding]:
    """Compare the cases of one or more folders, from what was kept of each.

    Args:
        folders: Where the cases come from.
        rows: What was kept of the cases of each folder.
        schemas: What the masks of each folder are declared to be.
    """
    findings = []
    for folder, cases, schema in zip(folders, rows, schemas, strict=True):
        exchanged = list(check_cohort_order(folder, [row.order for row in cases if row.order]))
        findings += exchanged
        if not exchanged:  # labels are read off the images: put those right first
            findings += _check_labels(folder, cases, schema)
            findings += _check_editions(folder, cases, schema)
        for what, mend in _ODD.items():
            findings += _check_odd(cases, what, mend)
        findings += _check_masks(folder, cases)
    return findings + list(_check_twins(folders, rows))


_ODD = {
    "orientation": "None needed: every case is turned to RAS+ here. Look once at where its left "
    "is: a header alone may have been changed.",
    "grid": "None needed for patches. Where cases are stacked, resample this one first.",
}


def _check_labels(
    folder: Path | str, rows: Sequence[Row], schema: LabelSchema
) -> Iterator[Finding]:
    evidence = [row.evidence for row in rows if row.evidence is not None]
    contradiction = find_contradiction(evidence, schema=schema)
    if contradiction is not None:
        what, _, mend = contradiction.message.partition(". ")
        yield Finding(
            case="-",
            kind="contradiction",
            what=what,
            where=str(folder),
            mend=mend,
            severity="problem",
        )
        return
    doubted = {row.case for row in rows if any(map(_explains, row.findings))}
    for case, odd in find_odd_cases(evidence, schema=schema).items():
        if case in doubted:
            continue
        what, _, mend = odd.message.partition(". ")
        yield Finding(
            case=case, kind="odd-labels", what=what, where=case, mend=mend, severity="warning"
        )


def _check_editions(
    folder: Path | str, rows: Sequence[Row], schema: LabelSchema
) -> Iterator[Finding]:
    """Say where cases are called as those of an edition whose integers mean something else."""
    if schema.name not in SCHEMAS:  # declared by hand, knowingly
        return
    editions: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        named = schemas_named_in(row.case)
        agree = any(SCHEMAS[name].to_internal == schema.to_internal for name in named)
        if row.has_mask and named and not agree:
            editions.setdefault(named, []).append(row.case)
    for named, cases in editions.items():
        names = " or ".join(named)
        some = ", ".join(cases[:3]) + (", ..." if len(cases) > 3 else "")
        yield Finding(
            case="-",
            kind="other-edition",
            what=f"{len(cases)} of {len(rows)} cases are called as in {names} ({some}), while "
            f"the schema is {schema.name}",
            where=str(folder),
            mend=f"Declare {names}, unless these masks were written anew in {schema.name}.",
            severity="warning",
        )


def _explains(finding: Finding) -> bool:
    """Whether a finding is reason enough for labels that do not look like their tissues."""
    return finding.severity == "problem" or finding.kind in (*_BLAMED, *SPOILING)


def defer_places(rows: Sequence[Row], schema: LabelSchema, *, stopped: bool) -> list[list[Finding]]:
    """Return the findings of each case, where masks with other labels are not told to be misplaced.

    ED and ET are sought on FLAIR to judge a mask's place: where they are something else, the place
    cannot be judged.

    Args:
        rows: What was kept of the cases of one folder.
        schema: What their masks are declared to be.
        stopped: Whether the cohort contradicts it.
    """
    odd = find_odd_cases([row.evidence for row in rows if row.evidence], schema=schema)

    def judge(finding: Finding) -> Finding:
        if stopped and finding.kind == "mask-place":
            return replace(
                finding,
                what="the place of the mask cannot be judged while its labels are in doubt",
                mend="Settle what the labels mean first (see contradiction), then check again.",
                severity="note",
            )
        if finding.case in odd and finding.kind in _BLAMED:
            seen = odd[finding.case].message.partition("; got ")[2].partition(". ")[0]
            return replace(
                finding, mend=f"{finding.mend} Or its labels mean something else: {seen}."
            )
        return finding

    exchanged = cohort_order([row.order for row in rows if row.order]) is not None
    hidden = EXPLAINED if exchanged else ()  # modalities that are exchanged in all cases
    return [
        [judge(finding) for finding in row.findings if finding.kind not in hidden] for row in rows
    ]


def _check_odd(rows: Sequence[Row], what: str, mend: str) -> Iterator[Finding]:
    readable = [row for row in rows if row.grid]
    usual, n_usual = _rule(readable, lambda row: row.grid[what])
    for row in readable if n_usual else ():
        if row.grid[what] != usual:
            yield Finding(
                case=row.case,
                kind=f"odd-{what}",
                what=f"{what} {row.grid[what]}, while {n_usual} of {len(readable)} cases "
                f"have {usual}",
                where=row.case,
                mend=mend,
                severity="note",
            )


def _check_masks(folder: Path | str, rows: Sequence[Row]) -> Iterator[Finding]:
    bare = [row.case for row in rows if not row.has_mask]
    if bare:
        named = ", ".join(bare[:_NAMED]) + f" and {len(bare) - _NAMED} more" * (len(bare) > _NAMED)
        yield Finding(
            case="-",
            kind="unlabelled",
            what=f"no mask in {len(bare)} of {len(rows)} cases: {named}",
            where=str(folder),
            mend="None needed to predict. To train or to score, add the masks or move these cases.",
            severity="note",
        )
    usual, n_usual = _rule(rows, lambda row: str(row.has_mask))
    for row in rows if usual == "True" else ():
        if not row.has_mask:
            yield Finding(
                case=row.case,
                kind="no-mask",
                what=f"no mask, while {n_usual} of {len(rows)} cases have one",
                where=row.case,
                mend="Add its mask, or move the case elsewhere before training.",
                severity="warning",
            )


def _rule(rows: Sequence[Row], fact: Callable[[Row], str]) -> tuple[str, int]:
    """Return what nearly all cases have in common, and how many; ("", 0) where there is no rule."""
    counts = Counter(fact(row) for row in rows)
    usual, n_usual = counts.most_common(1)[0] if counts else ("", 0)
    is_rule = len(rows) >= FEW and n_usual >= MOST_SHARE * len(rows)
    return (usual, n_usual) if is_rule else ("", 0)


def _check_twins(folders: Sequence[Path | str], rows: Sequence[Sequence[Row]]) -> Iterator[Finding]:
    """Name pairs of cases that show one patient, within a folder or across folders."""
    prints = []
    for folder, cases in zip(folders, rows, strict=True):
        prefix = f"{Path(folder).name}/" if len(folders) > 1 else ""
        prints += [
            replace(row.print, case=f"{prefix}{row.case}") for row in cases if row.print is not None
        ]
    for twin in find_duplicates(prints):
        same = twin.what == "same voxels"
        yield Finding(
            case=twin.first,
            kind="twin" if same else "look-alike",
            what=f"shows the same voxels as {twin.second} ({twin.modality})"
            if same
            else f"looks like {twin.second} ({twin.modality}: correlation {twin.correlation:.3f})",
            where=f"{twin.first}, {twin.second}",
            mend="Keep one of the two, or tell the split that they are one patient (same_patient).",
            severity="warning",
        )
