"""Measure level sets: the fraction of each voxel inside, volume, area; grows nothing."""

import torch

from bratskit.cases.phantoms.fields import Array, sqrt, total
from bratskit.cases.phantoms.tumour import Tumour

__all__ = ["LEVELS", "OUTSIDE_MM", "area_mm2", "fractions", "region_levels", "volume_ml"]

LEVELS = ("core", "enhancing", "oedema", "cavity")
OUTSIDE_MM = -20.0  # what level sets hold where there is no brain
_REACH_VOX = 2.5  # a border this far away says nothing about a voxel, nor does the brain's edge


def region_levels(tumour: Tumour) -> dict[str, Array]:
    """Put the level sets of tissues together to those of regions, on the tumour's box."""
    levels = {
        "WT": torch.maximum(tumour.core, tumour.oedema),
        "TC": tumour.core,
        "ET": torch.minimum(tumour.core, tumour.enhancing),
    }
    if tumour.cavity is None:
        return levels
    kept = -tumour.cavity  # a resection cavity belongs to no region
    return {name: torch.minimum(level, kept) for name, level in levels.items()}


def fractions(level: Array, spacing_mm: tuple[float, ...]) -> Array:
    r"""Say which fraction of each voxel lies inside a level set, from its values at voxel centres.

    A plane at the distance $\phi$ cuts a cube of side 1 into parts whose spread over all planes of
    one direction is that of a linear ramp of width 1, $\sum n_i^2/12 = 1/12$ whatever the
    direction $n$. So the ramp is as wide as $\phi$ changes over one voxel, and runs over the mean
    of $\phi$ in the voxel, $\phi + \sum \partial_i^2 \phi/24$, which puts curved borders right.

    Args:
        level: `(I, J, K)`, positive inside, of any unit.
        spacing_mm: Voxel size.

    Returns:
        `(I, J, K)` in [0, 1].
    """
    reach = _REACH_VOX * max(spacing_mm)
    level = torch.clamp(level, -reach, reach)
    mean, squares = level, torch.zeros_like(level)
    for axis in range(3):
        behind, ahead = _neighbours(level, axis)
        change = (ahead - behind) * 0.5
        squares = squares + change * change
        mean = mean + ((ahead - level) - (level - behind)) * (1 / 24)
    return torch.clamp(mean / torch.clamp(sqrt(squares), min=1e-3) + 0.5, 0, 1)


def volume_ml(level: Array, spacing_mm: tuple[float, ...]) -> float:
    """Measure the volume inside a level set, with parts of voxels."""
    return total(fractions(level, spacing_mm)) * _voxel_mm3(spacing_mm) / 1000


def area_mm2(level: Array, spacing_mm: tuple[float, ...]) -> float:
    r"""Measure the area of a level set's border, folds finer than two voxels smoothed away.

    $$A = \int |\nabla f| \, dV$$ over the fractions $f$ of voxels, by central differences.

    Source:
        Federer (1959), Trans. Am. Math. Soc. 93(3):418-491, the coarea formula.
    """
    parts = fractions(level, spacing_mm)
    squares = torch.zeros_like(parts)
    for axis, spacing in enumerate(spacing_mm):
        behind, ahead = _neighbours(parts, axis)
        per_mm = (ahead - behind) * (0.5 / spacing)
        squares = squares + per_mm * per_mm
    return total(sqrt(squares)) * _voxel_mm3(spacing_mm)


def _voxel_mm3(spacing_mm: tuple[float, ...]) -> float:
    return float(spacing_mm[0] * spacing_mm[1] * spacing_mm[2])


def _neighbours(level: Array, axis: int) -> tuple[Array, Array]:
    """Return the values one voxel behind and ahead, the edge repeated."""
    n = level.shape[axis]
    first, last = level.narrow(axis, 0, 1), level.narrow(axis, n - 1, 1)
    behind = torch.cat([first, level.narrow(axis, 0, n - 1)], dim=axis)
    return behind, torch.cat([level.narrow(axis, 1, n - 1), last], dim=axis)
