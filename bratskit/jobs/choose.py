"""Choose a recipe's clean-up by score, and say what the choice is worth on patients it left out."""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bratskit.evaluate import dice
from bratskit.labels import REGIONS
from bratskit.predict import tidy
from bratskit.settings import InferenceSettings

__all__ = ["GRID", "LEAST_GAIN", "Choice", "Patient", "Trial", "choose_clean_up", "untidied"]

Dice = dict[str, float]  # of WT, TC and ET

# What is tried, in this order, what changes nothing first. Smoothing is last: it drops crumbs too,
# and would take the credit of the rules that do so without touching anything else. Sizes count the
# scanner's voxels, in BraTS cubic millimetres: 500 is what recipe B states, 200 the ET of nnU-Net
# (Isensee 2020); the rest is spread around those by factors of about two.
GRID: dict[str, tuple[float, ...]] = {
    "smallest_component_vox": (0, 50, 100, 200, 500, 1000, 2000),
    "smallest_et_vox": (0, 25, 50, 100, 200, 500),
    "fill_holes": (False, True),
    "smooth_mm": (0.0, 0.5, 1.0),
}
LEAST_GAIN = 0.001  # mean Dice; what brings less on a handful of patients is left out


@dataclass(frozen=True, kw_only=True)
class Patient:
    """One validation patient as the search needs it, cropped to where there is anything to judge.

    Attributes:
        id: Name of the case.
        labels: Predicted labels `(i, j, k)`, on the scanner's voxels, before any clean-up.
        truth: The expert's.
        brain: Where there is a signal.
        spacing_mm: Voxel size, mm.
    """

    id: str
    labels: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    brain: NDArray[np.bool_]
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One value of one setting, with those chosen before it and without those that follow.

    Attributes:
        setting: Name in `InferenceSettings`.
        value: What was tried.
        dice: Mean over the patients, by region.
    """

    setting: str
    value: float
    dice: Dice


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What came of a search.

    Attributes:
        settings: With the chosen clean-up; the rest as it was.
        trials: All that was tried.
        dice: Mean Dice by region, without any clean-up ("without"), as the recipe had it
            ("recipe"), and with what was chosen ("chosen"). The last flatters: the same patients
            chose it. "left out" does not: there each patient is tidied as the others alone would
            have chosen; it is missing with a single patient.
        patients: Dice by region without and with the choice, by case id.
    """

    settings: InferenceSettings
    trials: list[Trial]
    dice: dict[str, Dice]
    patients: dict[str, dict[str, Dice]] = field(repr=False)

    @property
    def values(self) -> dict[str, float]:
        """The chosen value of each setting that was searched."""
        return {name: getattr(self.settings, name) for name in GRID}

    def __str__(self) -> str:
        head = f"{'mean Dice of ' + str(len(self.patients)):<24}" + "".join(
            f"{region:>7}" for region in REGIONS
        )
        rows = [
            f"{name:<24}" + "".join(f"{value:7.3f}" for value in found.values())
            for name, found in self.dice.items()
        ]
        chosen = ", ".join(f"{name} {value}" for name, value in self.values.items())
        return "\n".join([head, *rows, f"chosen: {chosen}"])


def choose_clean_up(patients: Sequence[Patient], start: InferenceSettings) -> Choice:
    """Try the values of `GRID`, one setting after the other, and keep what scores best.

    The score is Dice, its mean over WT, TC and ET and then over the patients, two empty masks
    counting as 1 (the BraTS rule). A value is taken only where it brings `LEAST_GAIN` more than
    leaving the setting alone: some value always comes out ahead by a hair.

    Args:
        patients: **Validation patients only**; each is held in memory.
        start: What the recipe says; its own values are tried too.

    Raises:
        ValueError: There is no patient.

    Examples:
        >>> truth = np.zeros((8, 8, 8), dtype=np.uint8)
        >>> truth[3:7, 3:7, 3:7] = 2
        >>> crumbs = truth.copy()
        >>> crumbs[0, 0, 0] = 3  # ET where there is none
        >>> one = Patient(
        ...     id="A", labels=crumbs, truth=truth, brain=truth >= 0, spacing_mm=(1, 1, 1)
        ... )
        >>> choose_clean_up([one], InferenceSettings()).values["smallest_component_vox"]
        50
    """
    if not patients:
        msg = "patients must be at least one; got none. Give the validation patients of the run."
        raise ValueError(msg)
    scores = _Scores(patients)
    everyone = range(len(patients))
    chosen, trials = _search(scores, everyone, start)
    nothing = untidied(start)
    found = {"without": nothing, "recipe": start, "chosen": chosen}
    means = {name: _named(scores.mean(everyone, settings)) for name, settings in found.items()}
    if len(patients) > 1:
        means["left out"] = _named(_leave_one_out(scores, everyone, start))
    return Choice(
        settings=chosen,
        trials=trials,
        dice=means,
        patients={
            patient.id: {
                "without": _named(scores.of(k, nothing)),
                "chosen": _named(scores.of(k, chosen)),
            }
            for k, patient in enumerate(patients)
        },
    )


def untidied(settings: InferenceSettings) -> InferenceSettings:
    """Return settings without any clean-up."""
    return dataclasses.replace(settings, **{name: values[0] for name, values in GRID.items()})


class _Scores:
    """Remember the Dice of each patient after each clean-up: the search asks again and again."""

    def __init__(self, patients: Sequence[Patient]) -> None:
        self._patients = patients
        self._known: dict[tuple[float, ...], NDArray[np.float64]] = {}

    def of(self, number: int, settings: InferenceSettings) -> NDArray[np.float64]:
        """Return Dice of one patient, in the order of `REGIONS`."""
        key = (number, *(getattr(settings, name) for name in GRID))
        if key not in self._known:
            self._known[key] = _score(self._patients[number], settings)
        return self._known[key]

    def mean(self, numbers: Iterable[int], settings: InferenceSettings) -> NDArray[np.float64]:
        """Average some patients."""
        return np.mean([self.of(number, settings) for number in numbers], axis=0)


def _search(
    scores: _Scores, numbers: Sequence[int], start: InferenceSettings
) -> tuple[InferenceSettings, list[Trial]]:
    """Walk through the settings, each beside the values chosen before it."""
    chosen, trials = untidied(start), []
    for name, values in GRID.items():
        tried = {
            value: scores.mean(numbers, dataclasses.replace(chosen, **{name: value}))
            for value in sorted({*values, getattr(start, name)})
        }
        trials += [Trial(setting=name, value=v, dice=_named(found)) for v, found in tried.items()]
        best = max(tried, key=lambda value: tried[value].mean())
        if tried[best].mean() >= tried[values[0]].mean() + LEAST_GAIN:
            chosen = dataclasses.replace(chosen, **{name: best})
    return chosen, trials


def _leave_one_out(
    scores: _Scores, numbers: Sequence[int], start: InferenceSettings
) -> NDArray[np.float64]:
    """Score each patient with what the others alone would have chosen, and average."""
    by_others = [
        scores.of(left_out, _search(scores, [k for k in numbers if k != left_out], start)[0])
        for left_out in numbers
    ]
    return np.mean(by_others, axis=0)


def _score(patient: Patient, settings: InferenceSettings) -> NDArray[np.float64]:
    tidied = tidy(patient.labels, settings, spacing_mm=patient.spacing_mm, brain=patient.brain)
    pairs = [
        (np.isin(tidied, members), np.isin(patient.truth, members)) for members in REGIONS.values()
    ]
    return np.array([dice(pred, truth, when_both_empty="one") for pred, truth in pairs])


def _named(values: Iterable[float]) -> Dice:
    return {region: float(value) for region, value in zip(REGIONS, values, strict=True)}
