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
        permutation: Tissues that internal labels 1, 2, 3 really are; None where ET is a cavity.
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
    the better reading must reach odds of 1000 to 1, by a mean gain that is large and sure. On the
    thirty real cases each one alone fits its true reading best, and no subset gives a false alarm.

    Args:
        evidence: One item a case, all of one declared schema. Two cases are the least that can
            decide.
        schema: The schema that the masks were read with.

    Returns:
        The contradiction, or None: the schema fits, or there is too little to tell.
    """
    schema = get_schema(schema)
    return _find_cavity(evidence, schema) or _find_permutation(evidence, schema)


def refuse_contradiction(cases: Sequence[Case], *, most: int = 24) -> None:
    """Read some cases, spread over the cohort, and refuse a schema that their images speak against.

    Args:
        cases: The cohort; cases without a mask, or that cannot be read, are passed over.
        most: Cases read for each schema. Three are enough for a clear cohort; the rest are
            for cohorts in which few tumours enhance.

    Raises:
        ValueError: A schema is contradicted; one line that names the reading that fits.
    """
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


def _log_shares(fits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn fits `(cases, readings)` into log-probabilities that an atypical case cannot rule."""
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
    shares = _log_shares(np.array([item.fits for item in evidence]))
    best = int(shares.sum(axis=0).argmax())
    gains = shares[:, best] - shares[:, 0]
    if not _is_clear(gains):
        return None
    permutation = PERMUTATIONS[best]
    candidates = _schemas_making(permutation, schema)
    n_against = int((gains > 0).sum())
    return Contradiction(
        schema=schema.name,
        permutation=permutation,
        candidates=candidates,
        n_cases=len(evidence),
        n_against=n_against,
        log_odds=float(gains.sum()),
        message=(
            f"labels must look like the tissues that schema {schema.name!r} names; got "
            f"{_described(permutation, schema, evidence)} ({n_against} of {len(evidence)} cases "
            f"fit that better). {_advice(permutation, schema, candidates)}"
        ),
    )


def _find_cavity(evidence: Sequence[Evidence], schema: LabelSchema) -> Contradiction | None:
    told = [item.fluid for item in evidence if item.fluid is not None]
    if not told:
        return None
    shares = _log_shares(np.array([[0.0, fluid] for fluid in told]))
    gains = shares[:, 1] - shares[:, 0]
    if not _is_clear(gains):
        return None
    integers = _integers(schema, ET)
    candidates = tuple(
        name
        for name, other in SCHEMAS.items()
        if set(integers) & set(getattr(other, "outside", {}))
    )
    n_against = int((gains > 0).sum())
    known = f" Declare {_quoted(candidates)}, where it is one." if candidates else ""
    return Contradiction(
        schema=schema.name,
        permutation=None,
        candidates=candidates,
        n_cases=len(told),
        n_against=n_against,
        log_odds=float(gains.sum()),
        message=(
            f"label {_joined(integers)} must be enhancing tumour under schema {schema.name!r}; got "
            f"something that does not look like enhancing tumour: dark on T1ce and FLAIR like "
            f"fluid, as a resection cavity is ({n_against} of {len(told)} cases).{known} Nothing "
            "was changed."
        ),
    )


def _integers(schema: LabelSchema, internal: int) -> list[int]:
    return [source for source, label in schema.to_internal.items() if label == internal]


def _schemas_making(permutation: tuple[int, ...], schema: LabelSchema) -> tuple[str, ...]:
    """Name the schemas that read at least one integer of each label as the tissue that fits."""

    def makes(other: LabelSchema, label: int) -> bool:
        meant = [other.to_internal.get(source) for source in _integers(schema, label)]
        return permutation[label - 1] in meant

    return tuple(
        name for name, other in SCHEMAS.items() if all(makes(other, label) for label in TISSUES)
    )


def _described(
    permutation: tuple[int, ...], schema: LabelSchema, evidence: Sequence[Evidence]
) -> str:
    parts = []
    for label, tissue in zip(TISSUES, permutation, strict=True):
        if label == tissue:
            continue
        uptake = [item.uptake[label - 1] for item in evidence if item.uptake[label - 1] is not None]
        contact = [x.contact[label - 1] for x in evidence if x.contact[label - 1] is not None]
        seen = (
            f", with {np.median(contact):.0%} of its surface on the tumour's outer border and "
            f"T1ce - T1 of {np.median(uptake):+.1f}"
            if contact
            else ""
        )
        integers = _joined(_integers(schema, label))
        parts.append(f"{integers} ({LABELS[label]}) that looks like {LABELS[tissue]}{seen}")
    return "label " + ", label ".join(parts)


def _advice(permutation: tuple[int, ...], schema: LabelSchema, candidates: tuple[str, ...]) -> str:
    if candidates:
        return f"Declare schema={_quoted(candidates)} instead, which reads them so."
    mapping = {
        source: permutation[label - 1] if label else 0
        for source, label in schema.to_internal.items()
    }
    return (
        f"No known schema reads them so: find out who wrote these masks, then declare a "
        f"LabelSchema with to_internal={mapping}."
    )


def _quoted(names: Sequence[str]) -> str:
    return " or ".join(repr(name) for name in names)


def _joined(integers: Sequence[int]) -> str:
    return " and ".join(str(value) for value in integers)
