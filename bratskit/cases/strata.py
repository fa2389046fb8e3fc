"""Share patients out to parts so that every part sees every kind of patient in its share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.facts import CaseFacts, facts_by_name
from bratskit.cases.patients import group_patients

__all__ = ["Stratum", "count_parts", "counts_table", "share_out", "strata_of"]

Stratum = tuple[str, str, str]  # edition; presence of ET; tumour size: each finer than the last

SIZES = ("small", "middle", "large")  # terciles among patients of one edition and presence of ET


def strata_of(
    patients: Mapping[str, Sequence[str]], facts: Mapping[str, CaseFacts]
) -> dict[str, Stratum]:
    """Name the stratum of each patient.

    Args:
        patients: Ids of each patient's cases.
        facts: Facts of every id.

    Returns:
        For each patient the editions of its cases, "ET", "no ET" or "no mask", and the tercile of
        its mean tumour volume among the patients that are alike in both; "" without a mask.
    """
    coarse: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for patient, members in patients.items():
        known = [facts[case_id] for case_id in members]
        editions = "+".join(sorted({fact.edition for fact in known}))
        presence = {fact.has_et for fact in known if fact.has_et is not None}
        et = ("ET" if True in presence else "no ET") if presence else "no mask"
        volumes = [fact.tumour_ml for fact in known if fact.tumour_ml is not None]
        mean_ml = float(np.mean(volumes)) if volumes else np.nan
        coarse.setdefault((editions, et), []).append((mean_ml, members[0], patient))
    found = {}
    for (editions, et), alike in coarse.items():
        measured = sorted(item for item in alike if not np.isnan(item[0]))
        sizes = {item[-1]: SIZES[3 * rank // len(measured)] for rank, item in enumerate(measured)}
        found |= {item[-1]: (editions, et, sizes.get(item[-1], "")) for item in alike}
    return found


def share_out(
    strata: Mapping[str, Stratum], sizes: Sequence[int], rng: np.random.Generator
) -> list[list[str]]:
    """Draw parts of given sizes at random, balanced at every level of the strata.

    In each part the patients of an edition, of an edition with or without ET, and of a whole
    stratum number their share of the cohort, rounded up or down. Such a table always exists,
    because the strata are nested and the shares themselves satisfy every bound (Hoffman's
    circulation theorem: bounds that are whole have whole solutions); one is drawn at random.

    Args:
        strata: Stratum of each patient; the order does not matter where patients are sorted.
        sizes: Patients in each part; they add up to all.
        rng: Decides the draw.

    Returns:
        Patients of each part.
    """
    kinds = sorted(set(strata.values()))
    pools = {kind: [patient for patient in strata if strata[patient] == kind] for kind in kinds}
    shuffled = {kind: rng.permutation(len(pool)) for kind, pool in pools.items()}
    table = _round_shares(kinds, [len(pools[kind]) for kind in kinds], sizes, rng)
    parts: list[list[str]] = [[] for _ in sizes]
    for kind, row in zip(kinds, table, strict=True):
        order = [pools[kind][at] for at in shuffled[kind]]
        for part, count in zip(parts, row, strict=True):
            part += [order.pop() for _ in range(count)]
    return parts


def count_parts(
    parts: Mapping[str, Sequence[str]],
    facts: Mapping[str, CaseFacts],
    same_patient: Sequence[Sequence[str]] = (),
) -> dict[str, dict[str, int]]:
    """Count the patients of each stratum in each part, for people to read.

    Args:
        parts: Ids of the cases of each part.
        facts: Facts of every id; where there are none, names tell the edition.
        same_patient: Groups of ids that show one patient.
    """
    patients = group_patients((i for ids in parts.values() for i in ids), same_patient)
    named = {case_id: patient for patient, ids in patients.items() for case_id in ids}
    strata = strata_of(patients, facts or facts_by_name(named))
    counts = {
        part: Counter(strata[patient] for patient in {named[i] for i in ids})
        for part, ids in parts.items()
    }
    return {
        ", ".join(word for word in kind if word): {part: counts[part][kind] for part in parts}
        for kind in sorted(set(strata.values()))
    }


def counts_table(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Lay the counts of `count_parts` out as text, a stratum a line and the sums last.

    Examples:
        >>> print(counts_table({"BRATS, ET": {"train": 8, "test": 2}}))
        patients   train  test
        BRATS, ET      8     2
        all            8     2
    """
    parts = list(next(iter(counts.values())))
    sums = {part: sum(row[part] for row in counts.values()) for part in parts}
    rows = [("patients", *parts)]
    rows += [(kind, *map(str, row.values())) for kind, row in {**counts, "all": sums}.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def _round_shares(
    kinds: Sequence[Stratum],
    rows: Sequence[int],
    columns: Sequence[int],
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Round the table rows x columns / total so that all sums and nested sums are rounded too."""
    from scipy.optimize import LinearConstraint, milp  # 0.2 s that `import bratskit.cases` spares

    n_all = sum(rows)
    levels = [[kind[:depth] for kind in kinds] for depth in range(4)]
    bounds = []
    for column, level in product(range(len(columns)), levels):
        for group in dict.fromkeys(level):
            members = np.array([name == group for name in level])
            pick = np.zeros((len(rows), len(columns)))
            pick[members, column] = 1
            whole, rest = divmod(int(np.asarray(rows)[members].sum()) * columns[column], n_all)
            bounds.append((pick.ravel(), whole, whole + (rest > 0)))
    for row, count in enumerate(rows):
        pick = np.zeros((len(rows), len(columns)))
        pick[row] = 1
        bounds.append((pick.ravel(), count, count))
    matrix, low, high = (np.array(column) for column in zip(*bounds, strict=True))
    limits = LinearConstraint(matrix, low, high)
    cost = rng.random(matrix.shape[1])  # a random corner of all the tables that are allowed
    solved = milp(cost, integrality=np.ones_like(cost), constraints=limits)
    return np.rint(solved.x).astype(np.int64).reshape(len(rows), len(columns))
