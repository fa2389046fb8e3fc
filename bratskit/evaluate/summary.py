"""Summarise rows of scores over patients: means with bootstrap intervals, counts, extreme cases."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from bratskit.evaluate.table import Score

__all__ = ["N_BOOTSTRAP", "Estimate", "Summary", "summarise"]

N_BOOTSTRAP = 2000  # enough that another seed moves an end by a few hundredths of the width


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over patients and how sure we are of it.

    Attributes:
        mean: Mean over the rows that are not NaN; NaN where there is none.
        low: Lower end of the 95 % bootstrap interval over patients; NaN below two patients.
        high: Upper end of it.
        median: Median over the same rows.
        n: Rows that are not NaN.
    """

    mean: float
    low: float
    high: float
    median: float
    n: int

    @classmethod
    def over_patients(
        cls,
        values: Sequence[float] | NDArray[np.float64],
        patients: Sequence[str],
        *,
        seed: int = 0,
    ) -> "Estimate":
        """Draw patients, not rows, with replacement, so that scans of one patient stay together.

        Args:
            values: One score a row, NaN where it has none.
            patients: Patient of each row.
            seed: Seeds the draws; methods scored on the same patients get the same draws.

        Examples:
            >>> Estimate.over_patients([0.5, 0.5, 0.8], ["a", "b", "c"]).median
            0.5
        """
        values = np.asarray(values, dtype=float)
        kept = ~np.isnan(values)
        values, names = (
            values[kept],
            [name for name, keep in zip(patients, kept, strict=True) if keep],
        )
        nothing = math.nan
        if not len(values):
            return cls(mean=nothing, low=nothing, high=nothing, median=nothing, n=0)
        unique, index = np.unique(names, return_inverse=True)
        low = high = nothing
        if len(unique) > 1:
            sums, rows = np.bincount(index, weights=values), np.bincount(index)
            rng = np.random.default_rng(seed)
            drawn = rng.integers(len(unique), size=(N_BOOTSTRAP, len(unique)))
            means = sums[drawn].sum(axis=1) / rows[drawn].sum(axis=1)
            low, high = (float(end) for end in np.percentile(means, [2.5, 97.5]))
        return cls(
            mean=float(values.mean()),
            low=low,
            high=high,
            median=float(np.median(values)),
            n=len(values),
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All cases of one method, region or label, and empty rule.

    Attributes:
        method: Who made the predictions.
        kind: `"region"` or `"label"`.
        name: Which region or label.
        empty_rule: Convention for empty masks.
        dice: Mean Dice with its interval.
        hd95_mm: Mean HD95 with its interval, mm.
        n_cases: Cases scored, those left out as NaN included.
        n_empty_truth: Cases whose reference is empty.
        n_empty_pred: Cases whose prediction is empty.
        best_case: Case of the highest Dice (ties: lowest HD95); None where every Dice is NaN.
        worst_case: Case of the lowest Dice (ties: highest HD95); None where every Dice is NaN.
    """

    method: str
    kind: Literal["region", "label"]
    name: str
    empty_rule: str
    dice: Estimate
    hd95_mm: Estimate
    n_cases: int
    n_empty_truth: int
    n_empty_pred: int
    best_case: str | None
    worst_case: str | None


def summarise(rows: list["Score"], *, seed: int, patient_of: Callable[[str], str]) -> Summary:
    """Summarise the rows of one method, kind, name and empty rule; see `Scores.summary`."""
    first = rows[0]
    patients = [patient_of(row.case) for row in rows]
    ranked = sorted(
        (row for row in rows if not math.isnan(row.dice)),
        key=lambda row: (-row.dice, math.inf if math.isnan(row.hd95_mm) else row.hd95_mm),
    )
    return Summary(
        method=first.method,
        kind=first.kind,
        name=first.name,
        empty_rule=first.empty_rule,
        dice=Estimate.over_patients([row.dice for row in rows], patients, seed=seed),
        hd95_mm=Estimate.over_patients([row.hd95_mm for row in rows], patients, seed=seed),
        n_cases=len(rows),
        n_empty_truth=sum(row.truth_empty for row in rows),
        n_empty_pred=sum(row.pred_empty for row in rows),
        best_case=ranked[0].case if ranked else None,
        worst_case=ranked[-1].case if ranked else None,
    )
