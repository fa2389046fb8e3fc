"""Score truth itself after a grid's way there and back: the best that labels on it can reach.

The grid comes as a function, so that the judge imports nothing of what it judges.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from bratskit.evaluate.ceilings import Ceilings, Lesion
from bratskit.evaluate.metrics import Triple, box_of, dice, hausdorff95
from bratskit.evaluate.score import EmptyMasks, get_empty_rule, score_masks
from bratskit.evaluate.table import Scores
from bratskit.labels import REGIONS

__all__ = ["RoundTrip", "ceiling"]

RoundTrip = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

TOUCHING = np.ones((3, 3, 3), dtype=bool)  # 26 neighbours, as BraTS 2023 counts lesions


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
