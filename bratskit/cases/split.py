"""Share cases out to training, validation and test by patient, and keep that in a manifest."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.volume import read_volume
from bratskit.runtime import made_by, progress, write_atomically

__all__ = ["Split", "has_et", "make_split", "patient_of"]

PARTS = ("train", "validation", "test")
_GLIOMA_21_23 = re.compile(r"(BraTS2021_|BraTS-GLI-)(\d{5})(-\d{3})?")
_GLIOMA_17_19 = re.compile(r"Bra[tT][sS]1[789]_(.+)_\d+")


@dataclass(frozen=True, kw_only=True)
class Split:
    """Say which case belongs to which part.

    Attributes:
        train: Ids of the cases that weights are learned from.
        validation: Ids of the cases that choose the epoch and the settings.
        test: Ids of the cases that are read once, for the report.
        seed: Seed the parts were drawn with.
        made_by: Stamp of the program that saved them; empty before.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    seed: int = 0
    made_by: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        where: dict[str, str] = {}
        for part in PARTS:
            for case_id in getattr(self, part):
                other = where.setdefault(patient_of(case_id), part)
                if other != part:
                    msg = (
                        f"patient {patient_of(case_id)} must be in one part; got {other} and "
                        f"{part}. Draw the parts with make_split, which keeps patients together."
                    )
                    raise ValueError(msg)

    def save(self, path: Path | str) -> Path:
        """Write the manifest as JSON, atomically."""
        path = Path(path)
        parts = {part: list(getattr(self, part)) for part in PARTS}
        stamp = dict(self.made_by) or made_by()
        text = json.dumps({"seed": self.seed, **parts, "made_by": stamp}, indent=2)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))
        return path

    @classmethod
    def load(cls, path: Path | str) -> "Split":
        """Read a manifest.

        Raises:
            FileNotFoundError: There is none.
            ValueError: The file is no manifest, or a patient stands in two parts.
        """
        path = Path(path)
        if not path.is_file():
            msg = f"split manifest must exist; got {path}. Make it with make_split(...).save(path)."
            raise FileNotFoundError(msg)
        try:
            content = json.loads(path.read_text("utf-8"))
            parts = {part: tuple(map(str, content[part])) for part in PARTS}
            seed, stamp = int(content["seed"]), dict(content["made_by"])
        except (KeyError, TypeError, ValueError) as error:
            msg = (
                f"split manifest must be JSON with seed, {', '.join(PARTS)} and made_by; got "
                f"{path} ({type(error).__name__}: {error}). "
                "Make it again with make_split(...).save(path)."
            )
            raise ValueError(msg) from error
        return cls(**parts, seed=seed, made_by=stamp)


def make_split(
    cases: Sequence[Case | str],
    *,
    seed: int,
    validation: float = 0.15,
    test: float = 0.25,
    has_et: Mapping[str, bool] | None = None,
) -> Split:
    """Draw the three parts by patient, each edition and presence of ET in its share.

    Args:
        cases: Cases or their ids; their order does not matter.
        seed: Decides the draw.
        validation: Share of the patients in validation.
        test: Share of the patients in test.
        has_et: Whether each case has enhancing tumour, from `has_et`; None stratifies by edition
            alone.

    Returns:
        A split with at least one patient in each part.

    Raises:
        ValueError: There are fewer than three patients, an id comes twice, or the shares leave no
            training part.
    """
    ids = sorted(case if isinstance(case, str) else case.id for case in cases)
    patients = _group_by_patient(ids)
    _refuse_impossible(ids, patients, validation=validation, test=test)
    n_test, n_validation = _part_sizes(len(patients), validation=validation, test=test)

    rng = np.random.default_rng(seed)
    strata: dict[tuple[str, bool], list[str]] = {}
    for patient, members in patients.items():
        enhancing = any((has_et or {}).get(case_id, True) for case_id in members)
        strata.setdefault((_edition_of(members[0]), enhancing), []).append(patient)
    pools = [list(rng.permutation(strata[key])) for key in sorted(strata)]

    chosen = {"test": _draw(pools, n_test), "validation": _draw(pools, n_validation)}
    chosen["train"] = [patient for pool in pools for patient in pool]
    parts = {
        part: tuple(sorted(case_id for patient in chosen[part] for case_id in patients[patient]))
        for part in PARTS
    }
    return Split(**parts, seed=seed)


def patient_of(case_id: str) -> str:
    """Name the patient behind a case id, the same in every edition that reuses the id.

    BraTS 2017-2019 append a time point and prepend the year; BraTS 2023 adult glioma keeps the
    numbers of 2021. BraTS 2020 and MSD renumbered their patients: those ids stand for themselves.

    Examples:
        >>> patient_of("Brats18_CBICA_ABM_1"), patient_of("BraTS19_CBICA_ABM_1")
        ('CBICA_ABM', 'CBICA_ABM')
        >>> patient_of("BraTS-GLI-00006-001"), patient_of("BraTS2021_00006")
        ('BraTS2021_00006', 'BraTS2021_00006')
        >>> patient_of("Phantom_00003")
        'Phantom_00003'
    """
    if match := _GLIOMA_21_23.fullmatch(case_id):
        return f"BraTS2021_{match[2]}"
    if match := _GLIOMA_17_19.fullmatch(case_id):
        return match[1]
    return case_id


def has_et(cases: Iterable[Case]) -> dict[str, bool]:
    """Tell for each case with a mask whether the mask has enhancing tumour.

    Only masks are read, about 20 ms each.
    """
    found = {}
    labelled = [case for case in cases if case.labels_path is not None]
    for case in progress(labelled, "reading masks"):
        enhancing = case.schema.to_source[3]
        mask = read_volume(case.labels_path, case_id=case.id)
        found[case.id] = bool((mask.data == (enhancing - mask.inter) / mask.slope).any())
    return found


def _group_by_patient(ids: list[str]) -> dict[str, list[str]]:
    patients: dict[str, list[str]] = {}
    for case_id in ids:
        patients.setdefault(patient_of(case_id), []).append(case_id)
    return patients


def _refuse_impossible(
    ids: list[str], patients: Mapping[str, list[str]], *, validation: float, test: float
) -> None:
    twice = sorted({case_id for case_id in ids if ids.count(case_id) > 1})
    if twice:
        msg = f"cases must have distinct ids; got {', '.join(twice)} more than once."
        raise ValueError(msg)
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


def _draw(pools: list[list[str]], n_wanted: int) -> list[str]:
    """Take from each pool its share of `n_wanted`, largest remainders first (Hamilton's rule)."""
    n_left = sum(len(pool) for pool in pools)
    quotas = [Fraction(len(pool) * n_wanted, n_left) for pool in pools]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(pools)), key=lambda at: counts[at] - quotas[at])
    for at in by_remainder[: n_wanted - sum(counts)]:
        counts[at] += 1
    return [pool.pop() for pool, count in zip(pools, counts, strict=True) for _ in range(count)]


def _edition_of(case_id: str) -> str:
    return re.split(r"[_-]", case_id, maxsplit=1)[0]
