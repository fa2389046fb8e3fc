"""Share cases out to training, validation and test by patient, and keep that in a manifest."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.duplicates import Duplicate
from bratskit.cases.facts import CaseFacts
from bratskit.cases.manifest import (
    known_from_json,
    known_to_json,
    read_manifest,
    write_manifest,
)
from bratskit.cases.patients import group_patients
from bratskit.cases.strata import count_parts, share_out, strata_of

__all__ = ["Split", "make_split", "refuse_leaks"]

PARTS = ("train", "validation", "test")
_SHOWN = 5  # pairs quoted in one message before the rest is counted


@dataclass(frozen=True, kw_only=True)
class Split:
    """Say which case belongs to which part.

    Attributes:
        train: Ids of the cases that weights are learned from.
        validation: Ids of the cases that choose the epoch and the settings.
        test: Ids of the cases that are read once, for the report.
        seed: Seed the parts were drawn with.
        same_patient: Groups of ids that show one patient although their names do not say so.
        facts: Facts that the draw was balanced by, by id; empty where there were none.
        made_by: Stamp of the program that saved them; empty before.

    Raises:
        ValueError: A patient stands in two parts.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    seed: int = 0
    same_patient: tuple[tuple[str, ...], ...] = field(default=(), compare=False, repr=False)
    facts: Mapping[str, CaseFacts] = field(default_factory=dict, compare=False, repr=False)
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        placed: dict[str, list[str]] = {}
        for part in PARTS:
            for case_id in getattr(self, part):
                placed.setdefault(case_id, []).append(part)
        for patient, members in group_patients(placed, self.same_patient).items():
            (first, part), *others = [(name, at) for name in members for at in placed[name]]
            for name, other in others:
                if other != part:
                    msg = (
                        f"patient {patient} must be in one part; got {first} in {part} and "
                        f"{name} in {other}. Draw the parts with make_split, which keeps the "
                        "cases of a patient together."
                    )
                    raise ValueError(msg)

    @property
    def part_of(self) -> dict[str, str]:
        """Part of each id."""
        return {case_id: part for part in PARTS for case_id in getattr(self, part)}

    def summary(self) -> dict[str, dict[str, int]]:
        """Count the patients of each stratum in each part."""
        parts = {part: getattr(self, part) for part in PARTS}
        return count_parts(parts, self.facts, self.same_patient)

    def save(self, path: Path | str) -> Path:
        """Write the manifest as JSON, atomically."""
        content = {"seed": self.seed, **{part: list(getattr(self, part)) for part in PARTS}}
        content |= known_to_json(self.same_patient, self.facts)
        return write_manifest(path, content, stamp=self.made_by)

    @classmethod
    def load(cls, path: Path | str) -> "Split":
        """Read a manifest.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is no manifest, or a patient stands in two parts.
        """
        with read_manifest(path, needs=("seed", *PARTS, "made_by"), maker="make_split") as content:
            parts = {part: tuple(map(str, content[part])) for part in PARTS}
            seed, stamp = int(content["seed"]), dict(content["made_by"])
            known = known_from_json(content)
        return cls(**parts, **known, seed=seed, made_by=stamp)


def make_split(
    cases: Sequence[Case | str],
    *,
    seed: int,
    validation: float = 0.15,
    test: float = 0.25,
    facts: Mapping[str, CaseFacts] | None = None,
    same_patient: Sequence[Sequence[str]] = (),
    has_et: Mapping[str, bool] | None = None,
) -> Split:
    """Draw the three parts by patient, each kind of patient in its share.

    With `facts`, each edition, each edition with and without ET, and each tercile of tumour size
    in those is in every part in its share, rounded up or down.

    Args:
        cases: Cases or their ids; their order does not matter.
        seed: Decides the draw.
        validation: Share of the patients in validation.
        test: Share of the patients in test.
        facts: What to balance by, from `read_facts`; None balances by edition and `has_et`, by the
            rule that bratskit's first runs were drawn with.
        same_patient: Groups of ids that show one patient under several names, from
            `same_patients`; kept together as visits of one name are.
        has_et: Whether each case has enhancing tumour; only looked at without `facts`.

    Returns:
        A split with at least one patient in each part.

    Raises:
        ValueError: There are fewer than three patients, an id comes twice or has no facts, or the
            shares leave no training part.
    """
    ids = sorted(case if isinstance(case, str) else case.id for case in cases)
    patients = group_patients(ids, same_patient)
    refuse_repeated(ids)
    _refuse_impossible(patients, validation=validation, test=test)
    n_test, n_validation = _part_sizes(len(patients), validation=validation, test=test)
    rng = np.random.default_rng(seed)
    if facts is None:
        chosen = _draw_parts(patients, has_et or {}, n_test, n_validation, rng)
    else:
        refuse_unknown(ids, facts)
        sizes = (len(patients) - n_test - n_validation, n_validation, n_test)
        drawn = share_out(strata_of(patients, facts), sizes, rng)
        chosen = dict(zip(PARTS, drawn, strict=True))
    parts = {
        part: tuple(sorted(case_id for patient in chosen[part] for case_id in patients[patient]))
        for part in PARTS
    }
    known = {case_id: facts[case_id] for case_id in ids} if facts else {}
    groups = tuple(sorted(tuple(sorted(group)) for group in same_patient))
    return Split(**parts, seed=seed, same_patient=groups, facts=known)


def refuse_leaks(split: Split, duplicates: Iterable[Duplicate], *, mend: str = "") -> None:
    """Refuse a split that has one patient in two parts under two names.

    Args:
        split: Parts of cases of any folders and editions.
        duplicates: From `find_duplicates`, named by case id; cases outside the split are ignored.
        mend: What to do about it, where that is known better than here.

    Raises:
        ValueError: Names for each such pair both ids, their parts, the evidence and the mend.
    """
    part_of = split.part_of
    leaks = [
        found
        for found in duplicates
        if {found.first, found.second} <= part_of.keys()
        and part_of[found.first] != part_of[found.second]
    ]
    if not leaks:
        return
    shown = [
        f"{found.first} in {part_of[found.first]} and {found.second} in {part_of[found.second]} "
        f"({found.what} in {found.modality}, r = {found.correlation:.3f})"
        for found in leaks[:_SHOWN]
    ]
    rest = f" and {len(leaks) - _SHOWN} more" if len(leaks) > _SHOWN else ""
    mend = mend or "Draw it again with same_patient=same_patients(cases)"
    msg = (
        f"split must keep a patient in one part; got {'; '.join(shown)}{rest}. {mend}, or leave "
        f"{leaks[0].second} out."
    )
    raise ValueError(msg)


def refuse_repeated(ids: Sequence[str]) -> None:
    """Refuse ids that come twice."""
    twice = sorted(case_id for case_id, count in Counter(ids).items() if count > 1)
    if twice:
        msg = (
            f"cases must have distinct ids; got {', '.join(twice)} more than once. "
            "Leave out the folder that holds them a second time."
        )
        raise ValueError(msg)


def refuse_unknown(ids: Sequence[str], facts: Mapping[str, CaseFacts]) -> None:
    """Refuse ids without facts."""
    unknown = [case_id for case_id in ids if case_id not in facts]
    if unknown:
        msg = (
            f"facts must cover every case; got none for {', '.join(unknown[:3])} among "
            f"{len(unknown)}. Take facts=read_facts(cases) of all the cases."
        )
        raise ValueError(msg)


def _refuse_impossible(
    patients: Mapping[str, list[str]], *, validation: float, test: float
) -> None:
    if len(patients) < len(PARTS):
        msg = (
            f"cases must come from at least {len(PARTS)} patients, one a part; got "
            f"{len(patients)}: {', '.join(patients) or 'none'}. Add cases or make phantoms."
        )
        raise ValueError(msg)
    if min(validation, test) < 0 or validation + test >= 1:
        msg = (
            f"validation and test must be shares that leave some for training; got {validation} "
            f"and {test}. Try 0.15 and 0.25."
        )
        raise ValueError(msg)


def _part_sizes(n_patients: int, *, validation: float, test: float) -> tuple[int, int]:
    n_test = max(1, round(test * n_patients))
    n_validation = max(1, round(validation * n_patients))
    while n_test + n_validation >= n_patients:  # training keeps one
        if n_test >= n_validation:
            n_test -= 1
        else:
            n_validation -= 1
    return n_test, n_validation


def _draw_parts(
    patients: Mapping[str, list[str]],
    has_et: Mapping[str, bool],
    n_test: int,
    n_validation: int,
    rng: np.random.Generator,
) -> dict[str, list[str]]:
    """Draw by edition and presence of ET as the stored runs were: the draws must not change."""
    strata: dict[tuple[str, bool], list[str]] = {}
    for patient, members in patients.items():
        enhancing = any(has_et.get(case_id, True) for case_id in members)
        series = re.split(r"[_-]", members[0], maxsplit=1)[0]
        strata.setdefault((series, enhancing), []).append(patient)
    pools = [list(rng.permutation(strata[key])) for key in sorted(strata)]
    chosen = {"test": _draw(pools, n_test), "validation": _draw(pools, n_validation)}
    return chosen | {"train": [patient for pool in pools for patient in pool]}


def _draw(pools: list[list[str]], n_wanted: int) -> list[str]:
    """Take from each pool its share of `n_wanted`, largest remainders first (Hamilton's rule)."""
    n_left = sum(len(pool) for pool in pools)
    quotas = [Fraction(len(pool) * n_wanted, n_left) for pool in pools]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(pools)), key=lambda at: counts[at] - quotas[at])
    for at in by_remainder[: n_wanted - sum(counts)]:
        counts[at] += 1
    return [pool.pop() for pool, count in zip(pools, counts, strict=True) for _ in range(count)]
