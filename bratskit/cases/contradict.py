"""Decide over a cohort whether its masks mean what their declared schema says; nothing is mended.

What one case says is measured in `bratskit.cases.evidence`; here the cases speak together, so that
one odd case proves nothing, and the refusal says which reading and which schema fit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.evidence import (
    CAVITY,
    PERMUTATIONS,
    TISSUES,
    Evidence,
    Reading,
    fit,
    read_evidence,
)
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
_MEAN = 1.0  # gain a case that can tell, of about 4: many faint hints do not add up to proof
_SURE = 1.64  # standard errors that the mean gain must lie above 0: one-sided 95%
_SAME = 1e-6  # fits that differ by less are of readings between which a case cannot tell
_BINARY = 3  # masks that hold one and the same integer and nothing else, before it is a rule
_NAMES = LABELS | {CAVITY: "a resection cavity"}


@dataclass(frozen=True, kw_only=True)
class Contradiction:
    """A declared schema that the images speak against.

    Attributes:
        schema: Name of the declared schema.
        reading: What the integers really are: internal labels, or `evidence.CAVITY`; empty where
            the masks hold one integer only and so tell no tissues apart.
        candidates: Names of the schemas that hold all integers seen and read them so; may be empty.
        n_cases: Cases that said anything.
        n_against: Cases of them that the declared schema fits worse.
        log_odds: Of the better reading over the declared one, natural logarithm.
        message: All of it in one line, with what to do.
    """

    schema: str
    reading: Mapping[int, int]
    candidates: tuple[str, ...]
    n_cases: int
    n_against: int
    log_odds: float
    message: str


def find_contradiction(
    evidence: Sequence[Evidence], *, schema: LabelSchema | str
) -> Contradiction | None:
    """Decide over a cohort whether the declared schema is wrong.

    The declared reading of the integers is compared with every exchange of its three tissues and
    with what each other schema that holds all integers seen makes of them, so that a label which
    the declared schema merges with another, or puts outside the tumour, speaks too.

    Each case is atypical with a chance of one in ten and then says nothing, so its say is bounded;
    the better reading must reach odds of 1000 to 1, by a gain that is large and sure in the mean of
    the cases that can tell. Measured rates: `pytest tests/test_contradict.py -m slow`.

    Masks that all hold one and the same integer, three or more, are refused too: they are of the
    whole tumour and name no tissue.

    Args:
        evidence: One item a case, all of one declared schema. Two cases are the least that can
            decide.
        schema: The schema that the masks were read with.

    Returns:
        The contradiction, or None: the schema fits, or there is too little to tell.
    """
    schema = get_schema(schema)
    evidence = [item for item in evidence if set(item.integers) <= set(schema.to_internal)]
    if not evidence:
        return None
    return _find_binary(evidence, schema) or _find_better(evidence, schema)


def find_odd_cases(
    evidence: Sequence[Evidence], *, schema: LabelSchema | str
) -> dict[str, Contradiction]:
    """Name the cases that by themselves fit another reading of their labels 1000 times better.

    A few of them among many are masks of another edition that strayed into the folder, or bad
    masks: worth a look, no ground to stop. None of the thirty real cases is one.

    Args:
        evidence: One item a case, in any number.
        schema: The schema that the masks were read with.

    Returns:
        For each such case what its labels look like.
    """
    schema = get_schema(schema)
    odd = {}
    for item in evidence:
        if not set(item.integers) <= set(schema.to_internal):
            continue
        readings = _readings(schema, item.integers)
        fits = np.array([fit(item, readings)])
        best = _best_reading(fits[0], readings, schema, item.integers)
        if fits[0, best] - fits[0, 0] > _CLEAR:
            gains = fits[:, best] - fits[:, 0]
            found = _contradiction(gains, schema, readings[best], [item])
            where = f" ({_quoted(found.candidates)})" if found.candidates else ""
            advice = f"Look at its overlay: a mask of another edition{where}, or a bad one."
            what = found.message.partition(". ")[0]
            odd[item.case] = replace(found, message=f"{what}. {advice}")
    return odd


def refuse_contradiction(cases: Sequence[Case], *, most: int = 24) -> dict[str, Contradiction]:
    """Read some cases, spread over the cohort, and refuse a schema that their images speak against.

    Args:
        cases: The cohort; cases without a mask, or that cannot be read, are passed over.
        most: Cases read for each schema. Three are enough for a clear cohort; the rest are
            for cohorts in which few tumours enhance.

    Returns:
        The cases among those read whose own labels do not fit, of cohorts that do.

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
    odd = {}
    for found in schemas.values():
        chosen = sorted({int(i) for i in np.linspace(0, len(found) - 1, most)})
        evidence = list(_read_all([found[i] for i in chosen]))
        contradiction = find_contradiction(evidence, schema=found[0].schema)
        if contradiction is not None:
            raise ValueError(contradiction.message)
        odd |= find_odd_cases(evidence, schema=found[0].schema)
    return odd


def _read_all(cases: Sequence[Case]) -> Iterator[Evidence]:
    for case in progress(cases, "checking what the labels mean"):
        try:
            scan = load_scan(replace(case, schema=case.schema.as_written))
        except (OSError, ValueError):  # refused by name where the case itself is needed
            continue
        item = read_evidence(scan.id, scan.image, scan.labels)
        if item is not None:
            yield item


def _reading(schema: LabelSchema, integers: Sequence[int]) -> Reading:
    """Say what a schema makes of integers, less those it maps to 0 for no known tissue."""
    meant = {
        value: CAVITY if value in schema.outside else schema.to_internal[value]
        for value in integers
    }
    return {value: tissue for value, tissue in meant.items() if tissue}


def _readings(schema: LabelSchema, integers: Sequence[int]) -> list[Reading]:
    """List the declared reading, then its exchanges of tissues, then those of other schemas."""
    declared = _reading(schema, integers)
    readings = [
        {value: permutation[t - 1] if t in TISSUES else t for value, t in declared.items()}
        for permutation in PERMUTATIONS
    ]
    for other in _schemas_holding(integers):
        reading = _reading(other, integers)
        if reading.keys() == declared.keys():
            readings.append(reading)
    return [reading for i, reading in enumerate(readings) if reading not in readings[:i]]


def _schemas_holding(integers: Sequence[int]) -> list[LabelSchema]:
    return [one for one in SCHEMAS.values() if set(integers) <= set(one.to_internal)]


def _schemas_making(
    reading: Reading, schema: LabelSchema, integers: Sequence[int]
) -> tuple[str, ...]:
    """Name the schemas, other than the declared one, that hold all integers and read them so."""
    return tuple(
        one.name
        for one in _schemas_holding(integers)
        if one.name != schema.name and _reading(one, integers) == reading
    )


def _integers_of(evidence: Sequence[Evidence]) -> list[int]:
    return sorted({value for item in evidence for value in item.integers})


def _find_better(evidence: Sequence[Evidence], schema: LabelSchema) -> Contradiction | None:
    integers = _integers_of(evidence)
    readings = _readings(schema, integers)
    fits = np.array([fit(item, readings) for item in evidence])
    shares = _log_shares(fits)
    best = _best_reading(shares.sum(axis=0), readings, schema, integers)
    tells = np.abs(fits[:, best] - fits[:, 0]) > _SAME
    gains = (shares[:, best] - shares[:, 0])[tells]
    if not _is_clear(gains):
        return None
    return _contradiction(gains, schema, readings[best], evidence)


def _log_shares(fits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn fits `(cases, readings)` into log-probabilities that an atypical case cannot rule."""
    shares = np.exp(fits - fits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    return np.log((1 - _ATYPICAL) * shares + _ATYPICAL / fits.shape[1])


def _best_reading(
    totals: NDArray[np.float64],
    readings: Sequence[Reading],
    schema: LabelSchema,
    integers: Sequence[int],
) -> int:
    """Choose what fits best; of equals the declared reading, or one that a schema makes."""
    equals = np.flatnonzero(totals > totals.max() - _SAME).tolist()
    known = [i for i in equals if i == 0 or _schemas_making(readings[i], schema, integers)]
    return (known or equals)[0]


def _is_clear(gains: NDArray[np.float64]) -> bool:
    if len(gains) < 2:
        return False
    error = gains.std(ddof=1) / math.sqrt(len(gains))
    return bool(gains.sum() > _CLEAR and gains.mean() > _MEAN and gains.mean() > _SURE * error)


def _find_binary(evidence: Sequence[Evidence], schema: LabelSchema) -> Contradiction | None:
    """Find masks of the whole tumour, which would pass for one of its tissues."""
    integers = _integers_of(evidence)
    declared = [value for value, label in schema.to_internal.items() if label]
    if len(integers) != 1 or len(evidence) < _BINARY or len(declared) < 2:
        return None
    return Contradiction(
        schema=schema.name,
        reading={},
        candidates=(),
        n_cases=len(evidence),
        n_against=len(evidence),
        log_odds=math.inf,
        message=f"labels must tell the tissues of schema {schema.name!r} apart; got masks that "
        f"hold one integer only, {integers[0]} ({schema.tissue.get(integers[0], 'unnamed')}), in "
        f"all of {len(evidence)} cases: whole-tumour masks? Take the masks with all tissues.",
    )


def _contradiction(
    gains: NDArray[np.float64],
    schema: LabelSchema,
    reading: Reading,
    evidence: Sequence[Evidence],
) -> Contradiction:
    integers = _integers_of(evidence)
    candidates = _schemas_making(reading, schema, integers)
    n_against = int((gains > 0).sum())
    share = f", which fits better in {n_against} of {len(gains)} cases" if len(evidence) > 1 else ""
    return Contradiction(
        schema=schema.name,
        reading=reading,
        candidates=candidates,
        n_cases=len(gains),
        n_against=n_against,
        log_odds=float(gains.sum()),
        message=f"labels must look like the tissues of schema {schema.name!r}; got "
        f"{_described(reading, schema, evidence)}{share}. {_advice(reading, candidates)}",
    )


def _described(reading: Reading, schema: LabelSchema, evidence: Sequence[Evidence]) -> str:
    parts = []
    declared = _reading(schema, list(reading))
    for value, tissue in reading.items():
        looks = [item.looks[value] for item in evidence if value in item.looks]
        if tissue != declared[value] and looks:
            contact = np.median([look["contact"] for look in looks])
            uptake = np.median([look["uptake"] for look in looks])
            flair = np.median([look["flair"] for look in looks])
            parts.append(
                f"label {value} ({schema.tissue.get(value, 'unnamed')}) that looks like "
                f"{_NAMES[tissue]} ({contact:.0%} of its surface is outer border, "
                f"T1ce - T1 {uptake:+.1f}, FLAIR {flair:+.1f})"
            )
    return " and ".join(parts)


def _quoted(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _advice(reading: Reading, candidates: Sequence[str]) -> str:
    if candidates:
        return f"Declare schema={_quoted(candidates)} instead, which reads them so."
    mapping = {0: 0} | {value: 0 if t == CAVITY else t for value, t in reading.items()}
    return (
        "No known schema reads them so: look whether modalities are exchanged, or else declare a "
        f"LabelSchema with to_internal={mapping}."
    )
