"""Say whether uncertainty ranks errors: the error rate among the voxels that are surest."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["RiskCoverage", "risk_coverage"]


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """Error rate of what is kept when the least sure voxels are set aside.

    Attributes:
        coverage: Share of the voxels kept, the surest first, rising to 1, `(n_points,)`.
        risk: Share of the kept voxels that are wrong.
        ideal_risk: The same if every error were less sure than every right voxel.
        error_rate: Share of all voxels that are wrong: what a random order gives at any coverage.
        area: Mean risk over all coverages (AURC), the smaller the better.
        ideal_area: The smallest that this error rate allows.

    Source:
        El-Yaniv and Wiener (2010), JMLR 11:1605-1641; area and its ideal as in Geifman, Uziel and
        El-Yaniv (2019), Bias-reduced uncertainty estimation, ICLR.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]
    ideal_risk: NDArray[np.float64]
    error_rate: float
    area: float
    ideal_area: float

    @classmethod
    def over_patients(cls, found: Sequence["RiskCoverage"]) -> "RiskCoverage":
        """Average curves and areas over patients, each weighing the same.

        Raises:
            ValueError: There is none, or they were read at different numbers of points.
        """
        points = sorted({len(each.coverage) for each in found})
        if len(points) != 1:
            msg = (
                f"curves must be read at one number of points; got {points}. "
                "Measure every patient with the same n_points."
            )
            raise ValueError(msg)
        names = [field.name for field in fields(cls)]
        means = {name: np.mean([getattr(each, name) for each in found], axis=0) for name in names}
        return cls(**{name: m if m.ndim else float(m) for name, m in means.items()})

    @property
    def distance(self) -> float:
        """Where the area lies between the ideal order (0) and a random one (1).

        Returns:
            Above 1 where the order is worse than random; NaN where nothing or all is wrong, since
            then every order is ideal.
        """
        room = self.error_rate - self.ideal_area
        return (self.area - self.ideal_area) / room if room > 1e-15 else float("nan")


def risk_coverage(
    uncertainty: NDArray[np.floating], wrong: NDArray[np.bool_], *, n_points: int = 101
) -> RiskCoverage:
    """Measure the error rate of the surest voxels, for every share of them.

    Voxels that are equally sure stand in random order: the curve is the mean over all such orders,
    so a constant uncertainty gives exactly the random curve.

    Args:
        uncertainty: Of each voxel, any shape and unit; larger means less sure.
        wrong: Whether the label is wrong, bool of the same shape.
        n_points: Coverages that the curve is read at, evenly spread; the areas use all voxels.

    Raises:
        TypeError: `wrong` is not bool.
        ValueError: Shapes differ, there is no voxel, or an uncertainty is NaN.

    Examples:
        >>> wrong = np.array([False, False, True])
        >>> found = risk_coverage(np.array([0.1, 0.2, 0.9]), wrong, n_points=3)
        >>> found.risk.round(3).tolist(), found.distance
        ([0.0, 0.0, 0.333], 0.0)
        >>> risk_coverage(np.zeros(3), wrong).distance
        1.0
    """
    uncertainty, wrong = np.asarray(uncertainty), np.asarray(wrong)
    _refuse_nonsense(uncertainty, wrong)
    errors = _expected_errors(uncertainty.ravel(), wrong.ravel())
    n_voxels = len(errors)
    kept = np.arange(1, n_voxels + 1)
    n_wrong = int(wrong.sum())
    ideal = np.maximum(0, kept - (n_voxels - n_wrong)) / kept
    risk = errors / kept
    at = np.maximum(1, np.round(np.arange(1, n_points + 1) / n_points * n_voxels)).astype(int) - 1
    return RiskCoverage(
        coverage=kept[at] / n_voxels,
        risk=risk[at],
        ideal_risk=ideal[at],
        error_rate=n_wrong / n_voxels,
        area=float(risk.mean()),
        ideal_area=float(ideal.mean()),
    )


def _expected_errors(
    uncertainty: NDArray[np.floating], wrong: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Count the errors among the k surest voxels, k from 1 up, ties spread evenly."""
    order = np.argsort(uncertainty, kind="stable")
    ordered = uncertainty[order]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)) + 1
    errors = np.cumsum(wrong[order])[ends - 1]
    k = np.arange(1, len(ordered) + 1)
    return np.interp(k, np.append(0, ends), np.append(0, errors))


def _refuse_nonsense(uncertainty: NDArray, wrong: NDArray) -> None:
    if wrong.dtype != np.bool_:
        msg = f"wrong must be bool; got dtype {wrong.dtype}. Give `pred != truth`."
        raise TypeError(msg)
    if uncertainty.shape != wrong.shape:
        msg = f"wrong must have the shape of uncertainty, {uncertainty.shape}; got {wrong.shape}."
        raise ValueError(msg)
    if not uncertainty.size or np.isnan(uncertainty).any():
        what = "a NaN" if uncertainty.size else "no voxel"
        msg = f"uncertainty must be a number at one voxel at least; got {what}."
        raise ValueError(msg)
