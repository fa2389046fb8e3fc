"""Divide a cohort into folds beside one fixed test part, and keep that in one manifest."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.facts import CaseFacts, facts_by_name
from bratskit.cases.manifest import (
    known_from_json,
    known_to_json,
    read_manifest,
    write_manifest,
)
from bratskit.cases.patients import group_patients
from bratskit.cases.split import Split, refuse_repeated, refuse_unknown
from bratskit.cases.strata import count_parts, share_out, strata_of

__all__ = ["Folds", "load_split", "make_folds"]


@dataclass(frozen=True, kw_only=True)
class Folds:
    """Say which case is validated on in which fold, and which are tested on once.

    Attributes:
        folds: Ids of the validation cases of each fold; every case of the cohort that is not in
            `test` is in exactly one.
        test: Ids of the cases that no fold trains or validates on.
        seed: Seed they were drawn with.
        same_patient: Groups of ids that show one patient although their names do not say so.
        facts: Facts that the draw was balanced by, by id; empty where there were none.
        made_by: Stamp of the program that saved them; empty before.

    Raises:
        ValueError: There are fewer than two folds, or a patient stands in two.
    """

    folds: tuple[tuple[str, ...], ...]
    test: tuple[str, ...]
    seed: int = 0
    same_patient: tuple[tuple[str, ...], ...] = field(default=(), compare=False, repr=False)
    facts: Mapping[str, CaseFacts] = field(default_factory=dict, compare=False, repr=False)
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if len(self.folds) < 2:
            msg = f"folds must be 2 or more; got {len(self.folds)}. Use make_split for one."
            raise ValueError(msg)
        _ = self.splits  # each refuses a patient that stands in two of its parts

    @cached_property
    def splits(self) -> tuple[Split, ...]:
        """One split a fold: the others' cases to train, its own to validate, the test part."""
        rest = [
            sorted(i for other, ids in enumerate(self.folds) if other != number for i in ids)
            for number in range(len(self.folds))
        ]
        return tuple(
            Split(
                train=tuple(train),
                validation=fold,
                test=self.test,
                seed=self.seed,
                same_patient=self.same_patient,
                facts=self.facts,
                made_by=self.made_by,
            )
            for fold, train in zip(self.folds, rest, strict=True)
        )

    def summary(self) -> dict[str, dict[str, int]]:
        """Count the patients of each stratum in the test part and in each fold."""
        parts = {"test": self.test, **{f"fold {n}": ids for n, ids in enumerate(self.folds)}}
        return count_parts(parts, self.facts, self.same_patient)

    def save(self, path: Path | str) -> Path:
        """Write the manifest as JSON, atomically, with a table of strata for people to read."""
        content = {
            "seed": self.seed,
            "test": list(self.test),
            "folds": [list(fold) for fold in self.folds],
            "patients": self.summary(),
        }
        content |= known_to_json(self.same_patient, self.facts)
        return write_manifest(path, content, stamp=self.made_by)

    @classmethod
    def load(cls, path: Path | str) -> "Folds":
        """Read a manifest.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is no such manifest, or a patient stands in two folds.
        """
        needs = ("seed", "test", "folds", "made_by")
        with read_manifest(path, needs=needs, maker="make_folds") as content:
            test = tuple(map(str, content["test"]))
            folds = tuple(tuple(map(str, fold)) for fold in content["folds"])
            seed, stamp = int(content["seed"]), dict(content["made_by"])
            known = known_from_json(content)
        return cls(folds=folds, test=test, seed=seed, made_by=stamp, **known)


def make_folds(
    cases: Sequence[Case | str],
    *,
    seed: int,
    n_folds: int = 5,
    test: float = 0.2,
    facts: Mapping[str, CaseFacts] | None = None,
    same_patient: Sequence[Sequence[str]] = (),
) -> Folds:
    """Draw a test part and folds by patient, each kind of patient in its share everywhere.

    In the test part and in every fold, the patients of each edition, of each edition with and
    without ET, and of each tercile of tumour size in those number their share, rounded up or down.

    Args:
        cases: Cases or their ids; their order does not matter.
        seed: Decides the draw.
        n_folds: How many; folds differ by one patient at most.
        test: Share of the patients in the test part; 0 leaves it empty.
        facts: What to balance by, from `read_facts`; None balances by edition alone.
        same_patient: Groups of ids that show one patient under several names, from
            `same_patients`.

    Raises:
        ValueError: There are too few patients for the folds, an id comes twice or has no facts, or
            `test` is no share.
    """
    ids = sorted(case if isinstance(case, str) else case.id for case in cases)
    refuse_repeated(ids)
    patients = group_patients(ids, same_patient)
    sizes = _sizes(len(patients), n_folds=n_folds, test=test)
    if facts is not None:
        refuse_unknown(ids, facts)
    strata = strata_of(patients, facts or facts_by_name(ids))
    drawn = share_out(strata, sizes, np.random.default_rng(seed))
    tested, *folds = (
        tuple(sorted(case_id for patient in part for case_id in patients[patient]))
        for part in drawn
    )
    return Folds(
        folds=tuple(folds),
        test=tested,
        seed=seed,
        same_patient=tuple(sorted(tuple(sorted(group)) for group in same_patient)),
        facts={case_id: facts[case_id] for case_id in ids} if facts else {},
    )


def load_split(path: Path | str, *, fold: int | None = None) -> Split:
    """Read a split from the manifest of a split, or of folds if one is chosen.

    Args:
        path: Manifest that `Split.save` or `Folds.save` wrote.
        fold: Which of the folds, from 0; None for the manifest of a split.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The manifest is damaged, or is of the other kind, or has no such fold.
    """
    if fold is None and not _has_folds(path):
        return Split.load(path)
    if not _has_folds(path):
        msg = f"fold must be left out for {path}, which holds one split; got {fold}."
        raise ValueError(msg)
    splits = Folds.load(path).splits
    if fold is None or not 0 <= fold < len(splits):
        msg = f"fold must be 0 to {len(splits) - 1} for {path}; got {fold}. Try fold=0."
        raise ValueError(msg)
    return splits[fold]


def _has_folds(path: Path | str) -> bool:
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return False  # whoever reads it next says what is wrong
    return isinstance(content, dict) and "folds" in content


def _sizes(n_patients: int, *, n_folds: int, test: float) -> list[int]:
    """Count the patients of the test part and of each fold."""
    if not 0 <= test < 1:
        msg = f"test must be a share from 0 to below 1; got {test}. Try 0.2."
        raise ValueError(msg)
    n_test = max(1, round(test * n_patients)) if test else 0
    if n_folds < 2 or n_patients - n_test < n_folds:
        msg = (
            f"n_folds must be 2 or more, with a patient for each fold; got {n_folds} for "
            f"{n_patients - n_test} patients beside {n_test} of the test part. "
            f"Try n_folds={max(2, min(5, n_patients - n_test))}."
        )
        raise ValueError(msg)
    each, larger = divmod(n_patients - n_test, n_folds)
    return [n_test, *(each + (number < larger) for number in range(n_folds))]
