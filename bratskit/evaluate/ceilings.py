"""Keep what truth scores there and back, by region, lesion and size; measures nothing.

`bratskit.evaluate.ceiling` fills them.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bratskit.evaluate.ceiling_table import ceilings_html, ceilings_text
from bratskit.evaluate.table import Scores
from bratskit.labels import REGIONS

__all__ = ["SIZES_ML", "Ceilings", "Lesion", "RegionMean", "SizeClass"]

# 0.1 ml is a ball of 5.8 mm, 1 ml of 12 mm and 10 ml of 27 mm across
SIZES_ML = (0.1, 1.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One lesion of a truth, there and back: a row of the table.

    Attributes:
        grid: Name of the grid.
        case: Case id.
        region: WT, TC or ET, of which it is one 26-connected part.
        number: 1, 2, ... within case and region.
        volume_vox: Its voxels.
        volume_ml: Its volume, ml.
        dice: Overlap with what came back nearer to it than to another lesion.
        hd95_mm: 95 % Hausdorff distance to the same, mm.
        lost_vox: Voxels of it that lie where the grid does not reach. A receipt's `lost_vox` counts
            by label, each voxel once; here one of ET is lost to ET, TC and WT.
        is_gone: Whether nothing came back; Dice and HD95 follow the empty rule then.
    """

    grid: str
    case: str
    region: str
    number: int
    volume_vox: int
    volume_ml: float
    dice: float
    hd95_mm: float
    lost_vox: int
    is_gone: bool


@dataclass(frozen=True, kw_only=True)
class RegionMean:
    """One region on one grid, over the cases whose truth has it.

    Attributes:
        grid: Name of the grid.
        region: WT, TC or ET.
        n: Cases that have it.
        dice: Mean Dice.
        hd95_mm: Mean HD95, mm.
        lost_vox: Voxels of it that lie where the grid does not reach, all cases together.
    """

    grid: str
    region: str
    n: int
    dice: float
    hd95_mm: float
    lost_vox: int


@dataclass(frozen=True, kw_only=True)
class SizeClass:
    """All lesions of one grid and region between two volumes.

    Attributes:
        grid: Name of the grid.
        region: WT, TC or ET.
        from_ml: Smallest volume, included, ml.
        to_ml: Volume at which the next class begins, ml; infinite for the last.
        n: Lesions.
        n_gone: Lesions of which nothing came back.
        dice: Mean Dice; NaN where `n` is 0.
        hd95_mm: Median HD95, mm; NaN where `n` is 0.
    """

    grid: str
    region: str
    from_ml: float
    to_ml: float
    n: int
    n_gone: int
    dice: float
    hd95_mm: float


@dataclass(frozen=True, kw_only=True, repr=False)
class Ceilings:
    """What truth scores on one or more grids; `str` is a text table, a notebook shows HTML.

    Attributes:
        scores: Whole regions and labels as any method's `Scores`; the method is the grid.
        lesions: Every lesion of every region.
    """

    scores: Scores = dataclasses.field(default_factory=Scores)
    lesions: tuple[Lesion, ...] = ()

    def __add__(self, other: "Ceilings") -> "Ceilings":
        """Put two tables under each other: more cases, or another grid."""
        return Ceilings(scores=self.scores + other.scores, lesions=self.lesions + other.lesions)

    def __str__(self) -> str:
        return ceilings_text(self)

    def __repr__(self) -> str:
        cases = len({row.case for row in self.scores})
        return f"<Ceilings of {', '.join(self.grids)}: lesions {len(self.lesions)}, cases {cases}>"

    def _repr_html_(self) -> str:
        return ceilings_html(self)

    @property
    def grids(self) -> tuple[str, ...]:
        """Grids in the order in which they came."""
        return self.scores.methods

    def pick(self, **wanted: str) -> "Ceilings":
        """Keep the rows of a grid, a case or a region, for example `pick(grid="128^3")`.

        Raises:
            ValueError: Something else is asked for; the message lists what can be.
        """
        columns = {"grid": "method", "case": "case", "region": "name"}
        unknown = sorted(set(wanted) - set(columns))
        if unknown:
            msg = f"columns to pick by must be in {list(columns)}; got {unknown}."
            raise ValueError(msg)
        asked = {columns[name]: value for name, value in wanted.items()}
        if "region" in wanted:
            asked["kind"] = "region"
        kept = (
            lesion
            for lesion in self.lesions
            if all(getattr(lesion, name) == value for name, value in wanted.items())
        )
        return Ceilings(scores=self.scores.pick(**asked), lesions=tuple(kept))

    def lost_voxels(self) -> dict[str, int]:
        """Count the truth voxels of each region that lie where the grid does not reach.

        No prediction on that grid can find them. Cases and grids are summed: `pick` first.
        """
        lost = dict.fromkeys(REGIONS, 0)
        for lesion in self.lesions:
            lost[lesion.region] += lesion.lost_vox
        return lost

    def by_region(self) -> list[RegionMean]:
        """Average each grid and region over the cases that have it.

        A case without the region has no ceiling there, whatever the empty rule grants it.
        """
        means = []
        for grid, region in itertools.product(self.grids, REGIONS):
            mine = self.pick(grid=grid, region=region)
            there = [row for row in mine.scores if not row.truth_empty]
            if there:
                mean = RegionMean(
                    grid=grid,
                    region=region,
                    n=len(there),
                    dice=float(np.mean([row.dice for row in there])),
                    hd95_mm=float(np.mean([row.hd95_mm for row in there])),
                    lost_vox=mine.lost_voxels()[region],
                )
                means.append(mean)
        return means

    def by_size(self, edges_ml: Sequence[float] = SIZES_ML) -> list[SizeClass]:
        """Group the lesions of each grid and region by volume.

        Args:
            edges_ml: Volumes at which a new class begins, rising, ml.
        """
        edges = (0.0, *edges_ml, math.inf)
        groups: dict[tuple[str, str], list[Lesion]] = {
            (grid, region): [] for grid in self.grids for region in REGIONS
        }
        for lesion in self.lesions:
            groups[lesion.grid, lesion.region].append(lesion)
        return [
            _size_class(lesions, grid=grid, region=region, from_ml=low, to_ml=high)
            for (grid, region), lesions in groups.items()
            if lesions
            for low, high in itertools.pairwise(edges)
        ]


def _size_class(
    lesions: list[Lesion], *, grid: str, region: str, from_ml: float, to_ml: float
) -> SizeClass:
    mine = [lesion for lesion in lesions if from_ml <= lesion.volume_ml < to_ml]
    return SizeClass(
        grid=grid,
        region=region,
        from_ml=from_ml,
        to_ml=to_ml,
        n=len(mine),
        n_gone=sum(lesion.is_gone for lesion in mine),
        dice=float(np.mean([lesion.dice for lesion in mine])) if mine else math.nan,
        hd95_mm=float(np.median([lesion.hd95_mm for lesion in mine])) if mine else math.nan,
    )
