"""Judge the modalities of one case: each one's values, then one against the others."""

from collections.abc import Iterator
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.findings import Finding, Severity
from bratskit.cases.look import Look, Modality

__all__ = ["check_images"]

# Over the thirty real cases, all but the one with a known gap stay below 0.006, and modalities of
# one patient correlate by 0.85 at most.
HOLLOW_SHARE = 0.02  # of the brain that may be 0 in one modality
SURPLUS_SHARE = 0.01  # of the brain that one modality may show besides
SLAB_AREA_SHARE = 0.15  # of the widest slice: below that, rims of brain masks differ anyway
SLAB_BARE_SHARE = 0.5  # of the brain in a slice that must be missing
FILLED_SHARE = 0.9  # of the grid: a stripped head fills 0.2, so more means no background at all
SATURATED_SHARE = 0.001  # of the brain at the largest integer: more was clipped, not rescaled
PILED_SHARE = 0.003  # of the brain at any other largest value
PILED_TIMES = 4  # as many voxels at the largest value as just below it
PILE_WIDTH = 0.01  # of the range: what "just below" means, or the next value where that is farther
SAME_IMAGE = 0.999  # correlation above which two modalities are one image, rescaled perhaps
SAME_BRAIN = 0.97  # Dice of two brain masks of one head, once it was put in its place
INTEGER_LIMITS = (32767, 65535)  # largest int16 and uint16
HOT_TIMES = 20  # as far from the median as 0.1 or 99.9 %; 5 at most in real cases, 2.6 in phantoms
_HOT_SAMPLE = 200_000  # voxels whose quantiles are looked at
_STEP = 3  # voxels between samples for correlations


def check_images(look: Look) -> Iterator[Finding]:
    """Check values, completeness and agreement of the modalities of a case."""
    for modality in look.modalities.values():
        yield from _check_background(look, modality)
        yield from _check_range(look, modality)
        yield from _check_hot(look, modality)
    brain = look.brain
    if brain is None or not brain.any():
        return
    areas = _slice_areas(brain)
    yield from _check_gap_in_all(look, areas)
    for name, modality in look.modalities.items():
        yield from _check_shape_of_brain(look, name, modality, areas)
    yield from _check_same_image(look, brain)


def _say(look: Look, where: str, kind: str, severity: Severity, what: str, mend: str) -> Finding:
    return Finding(
        case=look.case.id, kind=kind, where=where, what=what, mend=mend, severity=severity
    )


def _check_background(look: Look, modality: Modality) -> Iterator[Finding]:
    filled = modality.inside.size / modality.n_voxels
    if modality.background != 0:
        yield _say(
            look,
            modality.where,
            "background",
            "warning",
            f"background is {modality.background:.4g} instead of 0",
            "Set it to 0 there (a shifted or min-max export): the brain is found by that.",
        )
    elif filled > FILLED_SHARE:
        yield _say(
            look,
            modality.where,
            "background",
            "warning",
            f"{filled:.0%} of the grid is not 0: no empty background",
            "Strip the skull and set the background to 0; the brain is found by that.",
        )


def _check_range(look: Look, modality: Modality) -> Iterator[Finding]:
    ends = modality.real(np.array([modality.inside.min(), modality.inside.max()]))
    low, high = float(ends.min()), float(ends.max())
    if low < 0 and modality.background >= 0:
        share = float((modality.real(modality.inside) < 0).mean())
        yield _say(
            look,
            modality.where,
            "negative",
            "note",
            f"negative intensities: {share:.1%} of the brain, down to {low:.4g}",
            "None needed: brain-only z-scores undo it. Do not compare raw intensities.",
        )
    share = _share_clipped(modality, high)
    if share:
        yield _say(
            look,
            modality.where,
            "saturated",
            "warning",
            f"saturated: {share:.1%} of the brain is at {high:g}",
            "Export it again without clipping.",
        )
    elif modality.background == 0 and (high in INTEGER_LIMITS or _is_full_scale(modality, high)):
        yield _say(
            look,
            modality.where,
            "rescaled",
            "note",
            f"rescaled to a maximum of {high:g}, the largest its integer type can hold"
            if high in INTEGER_LIMITS
            else f"rescaled to a maximum of {high:g}",
            "None needed: brain-only z-scores undo it. Do not compare raw intensities.",
        )


def _check_hot(look: Look, modality: Modality) -> Iterator[Finding]:
    """Find single voxels so far out that they alone decide mean, spread and any scale."""
    sample = modality.inside[:: max(1, modality.inside.size // _HOT_SAMPLE)]
    low, middle, high = np.percentile(modality.real(sample).astype(float), (0.1, 50, 99.9))
    reach = HOT_TIMES * max(middle - low, high - middle)
    ends = modality.real(np.array([modality.inside.min(), modality.inside.max()])).astype(float)
    if reach == 0 or np.abs(ends - middle).max() <= reach:
        return
    farthest = ends[np.abs(ends - middle).argmax()]
    n_hot = np.count_nonzero(np.abs(modality.real(modality.inside) - middle) > reach)
    what = f"{n_hot} voxel{'s' if n_hot > 1 else ''} far beyond all others, up to {farthest:.4g}: "
    what += f"nearly all of the brain lies from {low:.4g} to {high:.4g}"
    mend = "Set them to their neighbours' values: z-scores and scales are taken from all voxels."
    yield _say(look, modality.where, "hot-voxel", "warning", what, mend)


def _share_clipped(modality: Modality, high: float) -> float:
    """Return the share of the brain at the largest value, 0.0 where it is no pile."""
    inside, top = modality.inside, modality.inside.max()
    n_top = np.count_nonzero(inside == top)
    share = n_top / inside.size
    if high in INTEGER_LIMITS:
        return share if share > SATURATED_SHARE else 0.0
    if share <= PILED_SHARE:
        return 0.0
    step = float(top) - float(inside[inside < top].max())
    width = max(step, PILE_WIDTH * (float(top) - float(inside.min())))
    n_below = np.count_nonzero(inside >= float(top) - width) - n_top
    return share if n_top > PILED_TIMES * n_below else 0.0


def _is_full_scale(modality: Modality, high: float) -> bool:
    """Tell a min-max export (0 to 1) or an 8-bit one (0 to 255) from scanner values."""
    if modality.values.dtype.kind == "f":
        return high == 1
    return modality.values.dtype == np.uint8 and high == 255


def _slice_areas(mask: NDArray[np.bool_]) -> list[NDArray[np.int64]]:
    """Count the voxels in each slice along I, J and K."""
    order = np.argsort(np.abs(mask.strides))[::-1]
    rows = mask.transpose(order).view(np.uint8)
    plane = np.add.reduce(rows, axis=0, dtype=np.uint16)  # a box has fewer than 65,536 slices
    slowest = [np.count_nonzero(layer) for layer in rows]
    areas = [np.array(slowest), plane.sum(1, dtype=np.int64), plane.sum(0, dtype=np.int64)]
    return [areas[list(order).index(axis)] for axis in range(3)]


def _check_gap_in_all(look: Look, areas: list[NDArray[np.int64]]) -> Iterator[Finding]:
    """Find slices without any brain between slices with it: what no modality shows."""
    for name, area, box in zip("IJK", areas, look.box, strict=True):
        there = np.flatnonzero(area > SLAB_AREA_SHARE * area.max())
        gaps = np.flatnonzero(area[there[0] : there[-1] + 1] == 0) + there[0] + box.start
        if gaps.size:
            yield _say(
                look,
                look.case.id,
                "slab",
                "warning",
                f"no modality shows the brain in {_slices(name, gaps[0], gaps[-1])}",
                "Export the case again if you can; otherwise keep it out of validation and test.",
            )
            return


def _check_shape_of_brain(
    look: Look, name: str, modality: Modality, areas: list[NDArray[np.int64]]
) -> Iterator[Finding]:
    """Compare what one modality shows with the brain that the others agree on."""
    both = look.brain & modality.shown
    n_brain, n_both = int(areas[0].sum()), np.count_nonzero(both)
    hollow = (n_brain - n_both) / n_brain
    surplus = (modality.inside.size - n_both) / n_brain
    if min(hollow, surplus) > SURPLUS_SHARE and hollow + surplus > HOLLOW_SHARE:
        yield _misplaced(look, name, modality)
        return
    smallest_slab = SLAB_AREA_SHARE * SLAB_BARE_SHARE * min(area.max() for area in areas)
    slab = _fullest_slab(look, both, areas) if n_brain - n_both >= smallest_slab else ""
    if hollow > HOLLOW_SHARE or slab:
        what = f"{hollow:.1%} of the brain is missing ({slab or 'in scattered voxels'})"
        mend = "Export it again if you can; otherwise keep the case out of validation and test."
        yield _say(look, modality.where, "slab", "warning", what, mend)
    elif surplus > 2 * HOLLOW_SHARE and modality.inside.size <= FILLED_SHARE * modality.n_voxels:
        what = f"shows {surplus:.0%} more than the brain of the other modalities"
        mend = "Strip the skull of this modality too, with the brain mask of the others."
        yield _say(look, modality.where, "not-stripped", "warning", what, mend)


def _fullest_slab(look: Look, both: NDArray[np.bool_], areas: list[NDArray[np.int64]]) -> str:
    """Describe the run of slices along I, J or K that explains best what is missing."""
    fullest, text = 0.0, ""
    for name, area, left, box in zip("IJK", areas, _slice_areas(both), look.box, strict=True):
        missing = area - left
        bare = (missing > SLAB_BARE_SHARE * area) & (area > 0)
        edges = np.flatnonzero(np.diff(bare, prepend=False, append=False))
        for first, end in zip(edges[::2], edges[1::2], strict=True):
            if area[first:end].max() <= SLAB_AREA_SHARE * area.max():
                continue
            n_missing = missing[first:end].sum()
            score = n_missing**2 / area[first:end].sum()  # much, and all that was there
            if score > fullest:
                fullest, text = score, _slices(name, first + box.start, end - 1 + box.start)
    return text


def _slices(axis: str, first: int, last: int) -> str:
    n = last - first + 1
    return f"{n} slice{'s' if n > 1 else ''} from {axis} = {first} to {last}, in RAS+"


def _misplaced(look: Look, name: str, modality: Modality) -> Finding:
    """Say how the modality's brain would have to move to be that of the others."""
    shape = look.volumes[name].data.shape
    full = np.zeros((2, *shape), bool)
    full[(0, *look.box)], full[(1, *look.box)] = modality.shown, look.brain
    shown, brain = full
    found = ""
    for axis, letter in enumerate("IJK"):
        if _dice(np.flip(shown, axis), brain) > SAME_BRAIN:
            found = f"mirrored along {letter}"
    centres = [np.mean(np.nonzero(mask), axis=1) for mask in (shown, brain)]
    offset = tuple(round(float(step)) for step in centres[0] - centres[1])
    back = np.roll(shown, [-step for step in offset], axis=(0, 1, 2))
    before = _dice(shown, brain)
    if not found and any(offset) and _dice(back, brain) > max(SAME_BRAIN, before + 0.01):
        found = f"shifted by {offset} voxels along I, J, K"
    what = found or f"shows another brain than the other modalities (Dice {before:.2f})"
    mend = (
        "Its voxels and its affine disagree: export it again, on the grid of the others."
        if found
        else "Register it to the others, or find this patient's own file."
    )
    severity = "problem" if found or before < 0.9 else "warning"
    return _say(look, modality.where, "misplaced", severity, what, mend)


def _dice(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    total = np.count_nonzero(mask) + np.count_nonzero(other)
    return 2 * np.count_nonzero(mask & other) / total if total else 0.0


def _check_same_image(look: Look, brain: NDArray[np.bool_]) -> Iterator[Finding]:
    sample = (slice(None, None, _STEP),) * 3
    inside = brain[sample]
    if np.count_nonzero(inside) < 2:  # nothing to compare
        return
    values = {
        name: modality.values[sample][inside].astype(float)
        for name, modality in look.modalities.items()
    }
    for first, second in combinations(values, 2):
        if min(values[first].std(), values[second].std()) == 0:
            continue
        likeness = abs(np.corrcoef(values[first], values[second])[0, 1])
        if likeness > SAME_IMAGE:
            exact = np.array_equal(values[first], values[second])
            what = f"{first} and {second} hold the same {'voxels' if exact else 'image, rescaled'}"
            where = f"{look.modalities[first].where}, {look.modalities[second].where}"
            mend = "One is a copy under a wrong name: find the right file for it."
            yield _say(look, where, "same-image", "problem", what, mend)
