"""Compare what probabilities promise with what came true: reliability diagram and its ECE."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Reliability", "reliability"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reliability:
    """Voxels sorted into bins of probability; two of the same bins add up, patient by patient.

    Attributes:
        count: Voxels of each bin `(n_bins,)`; bin b holds probabilities in `[b, b + 1) / n_bins`,
            the last one 1 as well.
        prob_sum: Sum of their probabilities.
        true_sum: How many of them are in the region.

    Source:
        Guo et al. (2017), On calibration of modern neural networks, ICML, equations 2 to 5; of one
        region's probability instead of the top label's.
    """

    count: NDArray[np.int64]
    prob_sum: NDArray[np.float64]
    true_sum: NDArray[np.int64]

    def __add__(self, other: "Reliability") -> "Reliability":
        if len(self.count) != len(other.count):
            msg = (
                f"n_bins must agree; got {len(self.count)} and {len(other.count)}. "
                "Measure both with the same n_bins."
            )
            raise ValueError(msg)
        return Reliability(
            count=self.count + other.count,
            prob_sum=self.prob_sum + other.prob_sum,
            true_sum=self.true_sum + other.true_sum,
        )

    @property
    def promised(self) -> NDArray[np.float64]:
        """Mean probability of each bin, NaN where the bin is empty."""
        return _ratio(self.prob_sum, self.count)

    @property
    def observed(self) -> NDArray[np.float64]:
        """Share of each bin's voxels that are in the region, NaN where the bin is empty."""
        return _ratio(self.true_sum, self.count)

    @property
    def ece(self) -> float:
        r"""Expected calibration error: mean over voxels of their bin's distance from the diagonal.

        $$\mathrm{ECE} = \sum_b \frac{n_b}{n} \left|\text{observed}_b - \text{promised}_b\right|$$

        Returns:
            In [0, 1]; NaN where there is no voxel. Over a brain nearly all voxels are surely
            background, so the number is small there for any network: compare it only on the same
            voxels.
        """
        total = self.count.sum()
        if not total:
            return float("nan")
        return float(np.abs(self.true_sum - self.prob_sum).sum() / total)


def reliability(
    probs: NDArray[np.floating], truth: NDArray[np.bool_], *, n_bins: int = 15
) -> Reliability:
    """Sort voxels by the probability of one region and count how many are in it.

    Args:
        probs: Probabilities of one region, any shape, in [0, 1].
        truth: Whether each voxel is in the region, bool of the same shape.
        n_bins: Bins of equal width; 15 is what Guo et al. took.

    Raises:
        TypeError: `truth` is not bool.
        ValueError: Shapes differ, a probability is not in [0, 1], or there is no bin.

    Examples:
        >>> probs = np.array([0.2, 0.2, 0.9, 0.9])
        >>> measured = reliability(probs, np.array([False, True, True, True]), n_bins=2)
        >>> measured.observed.tolist(), round(measured.ece, 2)
        ([0.5, 1.0], 0.2)
    """
    probs, truth = np.asarray(probs).ravel(), _flat_bool(truth, np.shape(probs))
    if n_bins < 1:
        msg = f"n_bins must be at least 1; got {n_bins}. Try 15."
        raise ValueError(msg)
    if len(probs) and not (probs.min() >= 0 and probs.max() <= 1):
        msg = (
            f"probs must be in [0, 1]; got {probs.min():g} to {probs.max():g}. "
            "Give probabilities of one region, not logits."
        )
        raise ValueError(msg)
    bins = np.minimum((probs * n_bins).astype(np.int64), n_bins - 1)
    return Reliability(
        count=np.bincount(bins, minlength=n_bins),
        prob_sum=np.bincount(bins, weights=probs, minlength=n_bins),
        true_sum=np.bincount(bins[truth], minlength=n_bins),
    )


def _flat_bool(truth: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    truth = np.asarray(truth)
    if truth.dtype != np.bool_:
        msg = (
            f"truth must be a bool mask of one region; got dtype {truth.dtype}. "
            "Select a region first, for example `labels > 0`."
        )
        raise TypeError(msg)
    if truth.shape != shape:
        msg = f"truth must have the shape of probs, {shape}; got {truth.shape}."
        raise ValueError(msg)
    return truth.ravel()


def _ratio(above: NDArray, below: NDArray) -> NDArray[np.float64]:
    nothing = np.full(len(below), np.nan)
    return np.divide(above, below, out=nothing, where=below > 0)
