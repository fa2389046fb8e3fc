"""Measure a region's volume from probabilities, with an interval, and say what that means."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bratskit.labels import REGIONS
from bratskit.preprocess.decide import CERTAIN
from bratskit.settings import Targets

__all__ = ["Volume", "region_probs", "volumes_of"]


class Volume(NamedTuple):
    """A region's volume and the interval it is thought to lie in, ml."""

    ml: float
    low_ml: float
    high_ml: float


def region_probs(
    probs: NDArray[np.floating], *, targets: Targets
) -> dict[str, NDArray[np.floating]]:
    """Give each voxel's probability of WT, TC and ET.

    Args:
        probs: Probabilities `(L, ...)`: of labels those of a region add up, regions are taken as
            they are.
        targets: What the channels are: `recipe.targets`.

    Examples:
        >>> probs = np.array([0.4, 0.3, 0.2, 0.1])  # background, NCR, ED, ET
        >>> {name: round(float(p), 2) for name, p in region_probs(probs, targets="labels").items()}
        {'WT': 0.6, 'TC': 0.4, 'ET': 0.1}
    """
    found = (
        dict(zip(REGIONS, probs, strict=True))
        if targets == "regions"
        else {name: sum(probs[label] for label in labels) for name, labels in REGIONS.items()}
    )
    return {name: np.minimum(value, 1) for name, value in found.items()}  # averages round above 1


def volumes_of(
    regions: Mapping[str, NDArray[np.floating]], *, voxel_ml: float, level: float = 0.9
) -> dict[str, Volume]:
    r"""Measure regions with intervals that follow from each voxel's probability.

    The interval says: suppose one threshold were right for the whole region, as if a single rater
    drew all of its border either tightly or generously, so that voxels err together. Then a region
    has its volume above threshold u with u anywhere in (0, 1). For a level of 0.9 the interval runs
    from the volume of voxels surer than 0.95 to that of voxels surer than 0.05, and the volume
    itself is the median, of voxels surer than 0.5. (The sum of all probabilities, the mean, is a
    worse guess: a brain's million voxels of almost no probability add millilitres to it.)

    Of all ways in which voxels may hang together this is the widest in spread; independent voxels
    would give an interval of a few mm³, which no patient bears out. **It covers doubt that the
    probabilities show.** A lesion that the network is sure is none is in no interval, so coverage
    is to be measured (`benchmarks/uncertainty.py`), not believed: with the shipped network,
    intervals of 0.9 held the expert's volume in 18 of 24 regions of eight held-out patients.

    Args:
        regions: Probabilities of each region, any shape, calibrated; from `region_probs`.
        voxel_ml: Volume of one voxel, ml: 0.001 at 1 mm.
        level: Share of thresholds that the interval takes in.

    Returns:
        By region. A region nowhere likelier than 0.05 has an interval from 0 to 0.

    Raises:
        ValueError: `level` is not in (0, 1), or `voxel_ml` not above 0.

    Examples:
        >>> probs = np.array([0.99, 0.97, 0.5, 0.02])
        >>> volumes_of({"WT": probs}, voxel_ml=1.0)["WT"]
        Volume(ml=2.0, low_ml=2.0, high_ml=3.0)

    Source:
        The sum of variables that rise together is the largest in convex order: Dhaene et al.
        (2002), Insurance: Mathematics and Economics 31(1):3-33.
    """
    if not 0 < level < 1:
        msg = f"level must be in (0, 1); got {level}. Try 0.9."
        raise ValueError(msg)
    if not voxel_ml > 0:
        msg = f"voxel_ml must be above 0; got {voxel_ml}. A voxel of 1 mm has 0.001 ml."
        raise ValueError(msg)
    tail = (1 - level) / 2
    thresholds = (CERTAIN, 1 - tail, tail)
    return {
        name: Volume(
            *(int(np.count_nonzero(probs > threshold)) * voxel_ml for threshold in thresholds)
        )
        for name, probs in regions.items()
    }
