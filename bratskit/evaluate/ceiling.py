"""Score truth itself after a grid's way there and back: the best that labels on it can reach.

The grid comes as a function, so that the judge imports nothing of what it judges.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from bratskit.evaluate.lesion_table import lesions_html, lesions_text
from bratskit.evaluate.metrics import Triple, box_of, dice, hausdorff95
from bratskit.evaluate.score import EmptyMasks, get_empty_rule, score_masks
from bratskit.evaluate.table import Scores
from bratskit.labels import REGIONS

__all__ = ["SIZES_ML", "Ceilings", "Lesion", "SizeClass", "ceiling"]

RoundTrip = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

# 0.1 ml is a ball of 5.8 mm, 1 ml of 12 mm and 10 ml of 27 mm across
SIZES_ML = (0.1, 1.0, 10.0)
TOUCHING = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours, as BraTS 2023 counts lesions


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
        lost_vox: Voxels of it that lie where the grid does not reach.
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


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """What truth scores on one or more grids; prints as two tables.

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
        return f"{self.scores}\n\n{lesions_text(self)}"

    def _repr_html_(self) -> str:
        return self.scores._repr_html_() + lesions_html(self)

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


def ceiling(
    truth: NDArray[np.uint8],
    round_trip: RoundTrip,
    *,
    spacing_mm: Triple,
    case: str = "",
    grid: str = "prepared grid",
    empty_rule: str = "brats",
    regions: Sequence[str] = tuple(REGIONS),
) -> Ceilings:
    """Measure what a network without a single mistake would score on a grid, in labels.

    Args:
        truth: Expert mask `(I, J, K)`, internal labels, native grid.
        round_trip: Brings labels to the grid and back, for example `geometry.round_trip`.
        spacing_mm: Voxel size of the native grid along I, J, K, mm.
        case: Case id, for the rows.
        grid: Name of the grid, for the rows; stands as the method in `scores`.
        empty_rule: What a region scores that truth does not have, or of which nothing comes
            back; see `score_masks`. "brats": Dice 1 and 0 mm, or 0 and 373.13 mm.
        regions: Regions whose lesions are scored one by one.

    Returns:
        Scores of every region and label, and of every lesion: each 26-connected part of a region.
        What came back belongs to the lesion whose nearest voxel is nearest in mm. Exactly Dice 1
        and 0 mm where nothing is resampled and nothing cut off.

    Raises:
        TypeError: Truth or what came back is not of integers.
        ValueError: What came back has another shape or an unknown value; or there is no such
            empty rule.

    Examples:
        >>> truth = np.zeros((6, 6, 6), dtype=np.uint8)
        >>> truth[1:3, 1, 1] = truth[5, 5, 5] = 3
        >>> def keep_five_planes(labels):
        ...     return np.where(np.arange(6)[:, None, None] < 5, labels, 0).astype(np.uint8)
        >>> found = ceiling(truth, keep_five_planes, spacing_mm=(1, 1, 1)).pick(region="ET")
        >>> [(lesion.dice, lesion.lost_vox) for lesion in found.lesions]
        [(1.0, 0), (0.0, 1)]
    """
    rule = get_empty_rule(empty_rule)
    back = round_trip(truth)
    whole = {"spacing_mm": spacing_mm, "case": case, "method": grid, "empty_rule": empty_rule}
    scores = Scores(score_masks(back, truth, **whole))
    # A head that is tumour all over survives any resampling; what is missing then is out of reach.
    lost = (truth > 0) & (round_trip(np.ones_like(truth)) == 0)
    box = box_of((truth | back) > 0) or (slice(0, 1),) * 3
    back, truth, lost = back[box], truth[box], lost[box]
    lesions = []
    for region in regions:
        masks = (np.isin(labels, REGIONS[region]) for labels in (back, truth))
        for number, values in enumerate(_lesions(*masks, lost, spacing_mm, rule), start=1):
            lesions.append(Lesion(grid=grid, case=case, region=region, number=number, **values))
    return Ceilings(scores=scores, lesions=tuple(lesions))


def _lesions(
    back: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    lost: NDArray[np.bool_],
    spacing_mm: Triple,
    rule: EmptyMasks,
) -> list[dict[str, float | int | bool]]:
    """Score every lesion of one region in the box that holds back and truth."""
    parts, n_parts = ndimage.label(truth, structure=TOUCHING)
    owned = _owners(back, parts, spacing_mm, n_parts=n_parts)
    sizes = np.bincount(parts.ravel(), minlength=n_parts + 1)
    lost_vox = np.bincount(parts[lost], minlength=n_parts + 1)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    rows = []
    for number, (here, there) in enumerate(
        zip(
            ndimage.find_objects(parts),
            ndimage.find_objects(owned, max_label=n_parts),
            strict=True,
        ),
        start=1,
    ):
        box = _join(here, there)
        mine, part = owned[box] == number, parts[box] == number
        rows.append(
            {
                "volume_vox": int(sizes[number]),
                "volume_ml": int(sizes[number]) * voxel_ml,
                "dice": dice(mine, part) if there else rule.dice_one,
                "hd95_mm": hausdorff95(
                    mine, part, spacing_mm=spacing_mm, when_one_empty=rule.hd95_one_mm
                ),
                "lost_vox": int(lost_vox[number]),
                "is_gone": there is None,
            }
        )
    return rows


def _owners(
    back: NDArray[np.bool_], parts: NDArray[np.int32], spacing_mm: Triple, *, n_parts: int
) -> NDArray[np.int32]:
    """Give every voxel that came back the number of the lesion that is nearest to it."""
    owned = np.where(back, parts, 0)
    strays = np.argwhere(back & (parts == 0))
    if len(strays) and n_parts == 1:
        owned[tuple(strays.T)] = 1
    elif len(strays) and n_parts:
        places = np.argwhere(parts)
        _, nearest = cKDTree(places * np.asarray(spacing_mm)).query(strays * np.asarray(spacing_mm))
        owned[tuple(strays.T)] = parts[tuple(places[nearest].T)]
    return owned


def _join(here: tuple[slice, ...], there: tuple[slice, ...] | None) -> tuple[slice, ...]:
    if there is None:
        return here
    return tuple(
        slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(here, there, strict=True)
    )


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
