"""Measure on one case how well each order of the four modalities fits what their names promise.

Fluid is bright on T2 and dark on the others, T1 and T1ce resemble each other and run against T2,
contrast agent lights vessels and rims on T1ce alone, a tumour is bright on FLAIR and T2. No scale
or offset of the values matters, and no tissue of the mask: only where the tumour lies.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from bratskit.labels import MODALITIES

__all__ = ["ORDERS", "OrderFits", "describe_order", "read_order"]

ORDERS = tuple(itertools.permutations(range(4)))  # which file holds flair, t1, t1ce, t2

# Rounded means and standard deviations over the thirty real cases (BraTS 2018 and 2021) and thirty
# phantoms (seeds 901 and 902, at 3 and 2 mm), pooled. Intensities count from the median of the
# brain outside the tumour, in its quartile ranges.
_F, _T1, _T1CE, _T2 = range(4)
_ALIKE = {  # rank correlation of two modalities outside the tumour
    (_F, _T1): (0.29, 0.19),
    (_F, _T1CE): (0.19, 0.21),
    (_F, _T2): (0.10, 0.23),
    (_T1, _T1CE): (0.65, 0.11),
    (_T1, _T2): (-0.44, 0.24),
    (_T1CE, _T2): (-0.34, 0.19),
}
_SHINING = {  # median of the second where the first is brightest
    (_T2, _F): (-1.9, 0.9),
    (_T2, _T1): (-1.65, 0.4),
    (_T2, _T1CE): (-1.7, 0.6),
    (_F, _T1): (0.1, 0.3),
    (_F, _T1CE): (0.1, 0.45),
    (_F, _T2): (0.65, 0.37),
    (_T1CE, _F): (-0.35, 0.6),
    (_T1CE, _T1): (-0.05, 0.45),
    (_T1CE, _T2): (0.0, 0.45),
}
_TUMOUR = {_F: (2.6, 0.9), _T1: (-0.15, 0.3), _T1CE: (-0.1, 0.5), _T2: (1.75, 0.85)}  # medians
_VESSELS = (3.4, 2.0)  # skew of T1ce - T1 outside the tumour, between its outermost half percents
_TOP = (3.6, 2.3)  # how much further T1ce reaches than T1
_UPTAKE = (1.5, 1.8)  # skew of T1ce - T1 in the tumour, between its outermost twentieths
_TAILS = 4  # degrees of freedom of Student's t: one odd fact cannot rule a case
_BRIGHTEST = 0.97  # quantile: fluid takes about 3 % of a brain
_FEW_BRAIN, _FEW_TUMOUR = 1000, 20  # voxels below which quantiles are noise
_SAMPLE = 40_000  # voxels of brain looked at
_LEAST_FIT = -20.0  # of the best order: 56 of 60 real looks, with and without mask; noise -21
_LIMITS = (-6, 20)  # quartile ranges: no hot voxel decides a correlation


@dataclass(frozen=True, kw_only=True)
class OrderFits:
    """What one case says about the order of its modalities.

    Attributes:
        brain: Log-likelihood of each order of `ORDERS` by the brain outside the tumour, up to a
            constant; the first is the order as named.
        tumour: The same by the tumour; zeros without one.
    """

    brain: tuple[float, ...]
    tumour: tuple[float, ...]

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Sequence[float]]) -> "OrderFits":
        """Read back what `to_dict` gave, through JSON or not."""
        return cls(**{name: tuple(fits) for name, fits in values.items()})

    @property
    def gains(self) -> NDArray[np.float64]:
        """By how much each order fits better than the names, `(24,)`; 0 for the first."""
        total = np.add(self.brain, self.tumour)
        return total - total[0]


def read_order(
    images: Sequence[NDArray[np.generic]],
    brain: NDArray[np.bool_],
    labels: NDArray[np.uint8] | None,
) -> OrderFits | None:
    """Measure how well each order of the modalities fits one case.

    Args:
        images: Four arrays `(I, J, K)` in the order of `MODALITIES`, any scale and offset.
        brain: Voxels to look at.
        labels: Labels of the same grid, or None.

    Returns:
        The fits, or None where there is too little brain, a modality hardly varies, or no order
        looks like a brain.
    """
    step = max(1, round((np.count_nonzero(brain) / _SAMPLE) ** (1 / 3)))
    thin = (slice(None, None, step),) * 3
    inside = brain[thin]
    values = np.stack([np.asarray(image[thin][inside], np.float32) for image in images])
    tumour = np.zeros(values.shape[1], bool) if labels is None else labels[thin][inside] > 0
    if np.count_nonzero(~tumour) < _FEW_BRAIN:
        return None
    low, middle, high = np.percentile(values[:, ~tumour], (25, 50, 75), axis=1)
    if not (np.isfinite(high - low).all() and (high > low).all()):
        return None
    scored = np.clip((values - middle[:, None]) / (high - low)[:, None], *_LIMITS)
    in_tumour = (0.0,) * len(ORDERS)
    if np.count_nonzero(tumour) >= _FEW_TUMOUR:
        in_tumour = _fits_of_tumour(scored[:, tumour])
    brain_fits = _fits_of_brain(scored[:, ~tumour])
    return OrderFits(brain=brain_fits, tumour=in_tumour) if max(brain_fits) > _LEAST_FIT else None


def describe_order(at: int) -> tuple[str, tuple[str, ...]]:
    """Say which file holds what under one order, and name the modalities it moves.

    Examples:
        >>> describe_order(ORDERS.index((0, 3, 2, 1)))
        ('t1 holds t2, t2 holds t1', ('t1', 't2'))
    """
    held = {file: MODALITIES[i] for i, file in enumerate(ORDERS[at]) if i != file}
    told = [f"{MODALITIES[file]} holds {held[file]}" for file in sorted(held)]
    return ", ".join(told), tuple(MODALITIES[file] for file in sorted(held))


def _fits_of_brain(scored: NDArray[np.floating]) -> tuple[float, ...]:
    alike = np.corrcoef(np.argsort(np.argsort(scored, axis=1), axis=1))
    n_brightest = int(scored.shape[1] * (1 - _BRIGHTEST))
    shining = [
        np.median(scored[:, np.argpartition(channel, -n_brightest)[-n_brightest:]], axis=1)
        for channel in scored
    ]
    top = np.percentile(scored, 99.8, axis=1)
    skews = _skews(scored, 0.5)
    fits = []
    for order in ORDERS:
        terms = [_student(alike[order[a], order[b]], *fact) for (a, b), fact in _ALIKE.items()]
        terms += [_student(shining[order[a]][order[b]], *fact) for (a, b), fact in _SHINING.items()]
        t1, t1ce = order[_T1], order[_T1CE]
        terms += [_student(skews[t1ce, t1], *_VESSELS), _student(top[t1ce] - top[t1], *_TOP)]
        fits.append(round(sum(terms), 3))
    return tuple(fits)


def _fits_of_tumour(scored: NDArray[np.floating]) -> tuple[float, ...]:
    medians, skews = np.median(scored, axis=1), _skews(scored, 5, is_centred=True)
    fits = []
    for order in ORDERS:
        terms = [_student(medians[order[i]], *fact) for i, fact in _TUMOUR.items()]
        terms.append(_student(skews[order[_T1CE], order[_T1]], *_UPTAKE))
        fits.append(round(sum(terms), 3))
    return tuple(fits)


def _skews(
    scored: NDArray[np.floating], percent: float, *, is_centred: bool = False
) -> NDArray[np.float64]:
    """How much further a - b reaches up than down, for each two modalities.

    From the median, or from 0 where the values count from the brain's.
    """
    skews = np.zeros((4, 4))
    for a, b in itertools.combinations(range(4), 2):
        low, middle, high = np.percentile(scored[a] - scored[b], (percent, 50, 100 - percent))
        skews[a, b] = low + high - (0 if is_centred else 2 * middle)
        skews[b, a] = -skews[a, b]
    return skews


def _student(x: float, mean: float, deviation: float) -> float:
    """Log-density of Student's t, without the constants that all orders share."""
    return -(_TAILS + 1) / 2 * math.log1p(((x - mean) / deviation) ** 2 / _TAILS)
