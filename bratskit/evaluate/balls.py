"""Measure the ceiling of balls, so that size is all that differs; see `ceiling`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bratskit.evaluate.ceiling import RoundTrip, ceiling
from bratskit.evaluate.ceilings import Ceilings
from bratskit.evaluate.metrics import Triple

__all__ = ["ball_ceiling"]

BALL_RADII_MM = (1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 13.0)
GAP_VOX = 4  # between two balls: what comes back of one must not touch the other
TRIES = 200  # places drawn for a ball before it counts as having no room
ENHANCING = 3  # the label that every region has


def ball_ceiling(
    round_trip: RoundTrip,
    shape: tuple[int, int, int],
    *,
    spacing_mm: Triple,
    radii_mm: Sequence[float] = BALL_RADII_MM,
    n_each: int = 12,
    grid: str = "prepared grid",
    seed: int = 0,
) -> Ceilings:
    """Scatter balls of several radii in one volume and send it there and back.

    Where a ball lies among the voxels of a grid matters as much as its size: take several.

    Args:
        round_trip: As for `ceiling`.
        shape: Native grid `(I, J, K)`.
        spacing_mm: Voxel size of the native grid along I, J, K, mm.
        radii_mm: Radii, mm. A voxel belongs to a ball if its centre is no farther than that.
        n_each: Balls of each radius, or as many as find a place where the grid reaches.
        grid: Name of the grid, for the rows.
        seed: Of the places, which are voxel centres.

    Returns:
        Rows of case "balls", a lesion of region ET each.

    Raises:
        ValueError: Not one ball has room.
    """
    reach = round_trip(np.ones(shape, dtype=np.uint8)) > 0
    truth = scatter_balls(reach, spacing_mm=spacing_mm, radii_mm=radii_mm, n_each=n_each, seed=seed)
    names = {"case": "balls", "grid": grid, "regions": ("ET",)}
    return ceiling(truth, round_trip, spacing_mm=spacing_mm, **names)


def scatter_balls(
    reach: NDArray[np.bool_],
    *,
    spacing_mm: Triple,
    radii_mm: Sequence[float],
    n_each: int,
    seed: int = 0,
) -> NDArray[np.uint8]:
    """Draw balls of label ET, `GAP_VOX` apart, where `reach` `(I, J, K)` is true; see above."""
    truth = np.zeros(reach.shape, dtype=np.uint8)
    rng = np.random.default_rng(seed)
    spacing = np.asarray(spacing_mm, dtype=float)
    taken: list[tuple[NDArray[np.float64], float]] = []
    for radius_mm in np.repeat(sorted(radii_mm, reverse=True), n_each):
        margin = np.ceil(radius_mm / spacing).astype(int) + 1
        if np.any(2 * margin >= reach.shape):
            continue
        for _ in range(TRIES):
            centre = rng.integers(margin, reach.shape - margin)
            box = tuple(slice(c - m, c + m + 1) for c, m in zip(centre, margin, strict=True))
            apart = radius_mm + GAP_VOX * spacing.max()
            near = (np.linalg.norm((c - centre) * spacing) < r + apart for c, r in taken)
            if reach[box].all() and not any(near):
                offsets = np.ogrid[tuple(slice(-m, m + 1) for m in margin)]
                squares = sum((o * mm) ** 2 for o, mm in zip(offsets, spacing, strict=True))
                truth[box][squares <= radius_mm**2] = ENHANCING
                taken.append((centre, radius_mm))
                break
    if not taken:
        msg = f"radii_mm must fit into shape {reach.shape}; got {tuple(radii_mm)}. Try (2.0,)."
        raise ValueError(msg)
    return truth
