"""Decide over a cohort whether its masks mean what their declared schema says; nothing is mended.

What one case says is measured in `bratskit.cases.evidence`; here the cases speak together, so that
one odd case proves nothing, and the refusal says which reading and which schema fit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.evidence import ET, PERMUTATIONS, TISSUES, Evidence, read_evidence
from bratskit.cases.nifti import load_scan
from bratskit.labels import LABELS, SCHEMAS, LabelSchema, get_schema
from bratskit.runtime import progress

__all__ = [
    "PERMUTATIONS",
    "Contradiction",
    "Evidence",
    "find_contradiction",
    "find_odd_cases",
    "read_evidence",
    "refuse_contradiction",
]

_ATYPICAL = 0.1  # chance that a case tells nothing: one odd case cannot rule a cohort
_CLEAR = math.log(1000)  # odds over a cohort; no single case can reach them
_MEAN = 1.0  # gain a case, of at most 4.0: many faint hints do not add up to proof
_SURE = 1.64  # standard errors that the mean gain must lie above 0: one-sided 95%


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """A declared schema that the images speak against.

    Attributes:
        schema: Name of the declared schema.
        permutation: Tissues that internal labels 1, 2, 3 really are; None where ET and a cavity are
            taken for one another.
        candidates: Names of the schemas that read the files so; may be empty.
        n_cases: Cases that said anything.
        n_against: Cases of them that the declared schema fits worse.
        log_odds: Of the better reading over the declared one, natural logarithm.
        message: All of it in one line, with what to do.
    """

    schema: str
    permutation: tuple[int, int, int] | None
    candidates: tuple[str, ...]
    n_cases: int
    n_against: int
    log_odds: float
    message: str


def find_contradiction(
    evidence: Sequence[Evidence], *, schema: LabelSchema | str
) -> Contradiction | None:
    """Decide over a cohort whether the declared schema is wrong.

    Each case is atypical with a chance of one in ten and then says nothing, so its say is bounded;
    the better reading must reach odds of 1000 to 1, by a mean gain that is large and sure. Of the
    thirty real cases each one alone fits its true reading best; in hundreds of random subsets of
    10, 5 and 3 no right schema was stopped, and each of the five wrong ones always was
    (`pytest tests/test_contradict.py -m slow`).

    Two mistakes exchange no labels and are looked for apart: a resection cavity read as ET, and ET
    read as a resection cavity. The second takes more cases: half the cohorts of ten show it.

    Args:
        evidence: One item a case, all of one declared schema. Two cases are the least that can
            decide.
        schema: The schema that the masks were read with.

    Returns:
        The contradiction, or None: the schema fits, or there is too little to tell.
    """
    schema = get_schema(schema)
    return (
        _find_cavity(evidence, schema)
        or _find_hidden(evidence, schema)
        or _find_permutation(evidence, schema)
    )


def find_odd_cases(evidence: Sequence[Evidence]) -> dict[str, tuple[int, ...]]:
    """Name the cases that by themselves fit another reading of their labels 1000 times better.

    A few of them among many are masks of another edition that strayed into the folder, or bad
    masks: worth a look, no ground to stop. None of the thirty real cases is one.

    Args:
        evidence: One item a case, in any number.

    Returns:
        For each such case the tissues that its internal labels 1, 2, 3 look like.
    """
    return {
        item.case: PERMUTATIONS[int(np.argmax(item.fits))]
        for item in evidence
        if max(item.fits) - item.fits[0] > _CLEAR
    }


def refuse_contradiction(cases: Sequence[Case], *, most: int = 24) -> None:
    """Read some cases, spread over the cohort, and refuse a schema that their images speak against.

    Args:
        cases: The cohort; cases without a mask, or that cannot be read, are passed over.
        most: Cases read for each schema. Three are enough for a clear cohort; the rest are
            for cohorts in which few tumours enhance.

    Raises:
        ValueError: A schema is contradicted; one line that names the reading that fits. Or `most`
            is below 2, which decides nothing.
    """
    if most < 2:
        msg = f"most must be 2 or more; got {most}. One case alone proves nothing: try most=8."
        raise ValueError(msg)
    schemas: dict[str, list[Case]] = {}
    for case in cases:
        if case.labels_path is not None:
            schemas.setdefault(case.schema.name, []).append(case)
    for found in schemas.values():
        chosen = sorted({int(i) for i in np.linspace(0, len(found) - 1, most)})
        evidence = []
        for i in progress(chosen, "checking what the labels mean"):
            try:
                scan = load_scan(found[i])
            except (OSError, ValueError):  # refused by name where the case itself is needed
                continue
            evidence.append(read_evidence(scan.id, scan.image, scan.labels))
        contradiction = find_contradiction(
            [item for item in evidence if item is not None], schema=found[0].schema
        )
        if contradiction is not None:
            raise ValueError(contradiction.message)


def _log_shares(readings: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """Turn fits `(cases, readings)` into log-probabilities that an atypical case cannot rule."""
    fits = np.array(readings)
    shares = np.exp(fits - fits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.log((1 - _ATYPICAL) * shares + _ATYPICAL / fits.shape[1])


def _is_clear(gains: NDArray[np.float64]) -> bool:
    if len(gains) < 2:
        return False
    error = gains.std(ddof=1) / math.sqrt(len(gains))
    return bool(gains.sum() > _CLEAR and gains.mean() > _MEAN and gains.mean() > _SURE * error)


def _find_permutation(evidence: Sequence[Evidence], schema: LabelSchema) -> Contradiction | None:
    if not evidence:
        return None
    shares = _log_shares([item.fits for item in evidence])
    seen = [t for t in TISSUES if any(item.contact[t - 1] is not None for item in evidence)]
    best = _best_reading(shares.sum(axis=0), schema, seen)
    gains = shares[:, best] - shares[:, 0]
    if not _is_clear(gains):
        return None
    permutation = PERMUTATIONS[best]
    candidates = _schemas_making(permutation, schema, seen)
    return _contradiction(
        gains,
        schema,
        permutation=permutation,
        candidates=candidates,
        got=f"{_described(permutation, schema, evidence)}, which fits better in {{share}}",
        advice=_advice(permutation, schema, candidates),
    )


def _best_reading(totals: NDArray[np.float64], schema: LabelSchema, seen: Sequence[int]) -> int:
    """Choose the reading that fits best; of equals, one that a known schema makes."""
    equals = np.flatnonzero(totals > totals.max() - 1e-6).tolist()
    known = [i for i in equals if _schemas_making(PERMUTATIONS[i], schema, seen)]
    return (known or equals)[0]


def _find_cavity(evidence: Sequence[Evidence], schema: LabelSchema) -> Contradiction | None:
    """Find a resection cavity (2024) that was read as enhancing tumour."""
    integers = _integers(schema, ET)
    return _find_kind(
        [item.fluid for item in evidence],
        schema,
        candidates=[s.name for s in SCHEMAS.values() if set(integers) & set(s.outside)],
        got=f"label {_joined(integers)} (ET) that does not look like enhancing tumour: dark on "
        "T1ce and FLAIR like fluid, as a resection cavity is, in {share}",
    )


def _find_hidden(evidence: Sequence[Evidence], schema: LabelSchema) -> Contradiction | None:
    """Find enhancing tumour (until 2021) that was read as a resection cavity, thus background."""
    if not schema.outside or any(item.fluid is not None for item in evidence):
        return None
    named = ", ".join(f"{value} ({tissue})" for value, tissue in schema.outside.items())
    return _find_kind(
        [item.hidden for item in evidence],
        schema,
        candidates=[
            s.name for s in SCHEMAS.values() if set(_integers(s, ET)) & set(schema.outside)
        ],
        got=f"no enhancing tumour in any case, while what touches the core from outside takes up "
        f"contrast and is bright on FLAIR in {{share}}, so label {named} looks like ET",
    )


def _find_kind(
    gains: Sequence[float | None], schema: LabelSchema, *, candidates: Sequence[str], got: str
) -> Contradiction | None:
    told = [(0.0, gain) for gain in gains if gain is not None]
    if not told:
        return None
    shares = _log_shares(told)
    if not _is_clear(shares[:, 1] - shares[:, 0]):
        return None
    return _contradiction(
        shares[:, 1] - shares[:, 0],
        schema,
        permutation=None,
        candidates=tuple(candidates),
        got=got,
        advice=f"Declare schema={_quoted(candidates)} instead."
        if candidates
        else "Find out what wrote these masks.",
    )


def _contradiction(
    gains: NDArray[np.float64],
    schema: LabelSchema,
    *,
    permutation: tuple[int, ...] | None,
    candidates: tuple[str, ...],
    got: str,
    advice: str,
) -> Contradiction:
    n_against = int((gains > 0).sum())
    got = got.format(share=f"{n_against} of {len(gains)} cases")
    return Contradiction(
        schema=schema.name,
        permutation=permutation,
        candidates=candidates,
        n_cases=len(gains),
        n_against=n_against,
        log_odds=float(gains.sum()),
        message=f"labels must look like the tissues of schema {schema.name!r}; got {got}. {advice}",
    )


def _integers(schema: LabelSchema, internal: int) -> list[int]:
    return [source for source, label in schema.to_internal.items() if label == internal]


def _schemas_making(
    permutation: tuple[int, ...], schema: LabelSchema, seen: Sequence[int]
) -> tuple[str, ...]:
    """Name the schemas that read at least one integer of each label seen as the tissue that fits.

    One integer is enough because several may mean one tissue (NCR of 2012-2015 and of PED), and
    then the masks at hand need not hold them all.
    """

    def makes(other: LabelSchema, label: int) -> bool:
        meant = [other.to_internal.get(source) for source in _integers(schema, label)]
        return permutation[label - 1] in meant

    return tuple(
        name for name, other in SCHEMAS.items() if all(makes(other, label) for label in seen)
    )


def _described(
    permutation: tuple[int, ...], schema: LabelSchema, evidence: Sequence[Evidence]
) -> str:
    parts = []
    for label, tissue in zip(TISSUES, permutation, strict=True):
        contact = [x.contact[label - 1] for x in evidence if x.contact[label - 1] is not None]
        uptake = [x.uptake[label - 1] for x in evidence if x.uptake[label - 1] is not None]
        if label != tissue and contact:
            parts.append(
                f"label {_joined(_integers(schema, label))} ({LABELS[label]}) that looks like "
                f"{LABELS[tissue]} ({np.median(contact):.0%} of its surface is outer border, "
                f"T1ce - T1 {np.median(uptake):+.1f})"
            )
    return " and ".join(parts)


def _advice(permutation: tuple[int, ...], schema: LabelSchema, candidates: tuple[str, ...]) -> str:
    if candidates:
        return f"Declare schema={_quoted(candidates)} instead, which reads them so."
    mapping = {
        source: permutation[label - 1] if label else 0
        for source, label in schema.to_internal.items()
    }
    return (
        "No known schema reads them so: look whether modalities are exchanged, or else declare a "
        f"LabelSchema with to_internal={mapping}."
    )


def _quoted(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _joined(integers: Sequence[int]) -> str:
    return " and ".join(str(value) for value in integers)
