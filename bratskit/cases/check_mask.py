"""Judge the mask of one case: its enhancing tumour and its place in the brain."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from bratskit.cases.findings import Finding, Severity
from bratskit.cases.look import Look, where_of
from bratskit.labels import LABELS

__all__ = ["check_mask"]

OUTSIDE_SHARE = 0.01  # of the tumour that may lie outside the brain; 0.0002 in real cases
STRAY_SHARE = 0.1  # of the tumour in islands outside the brain: more is no slip of the brush
TINY_ET_ML = 0.5  # where a few voxels decide the Dice; ET clean-up thresholds lie about here
ED, ET, ET_VOX = 2, 3, 100  # enough enhancing voxels to compare T1 with T1ce

# How well a mask sits on its FLAIR: mean z-score inside, at a grid of about 4 mm. Over the thirty
# real cases the given place is the best one to 4 mm and no other is better by more than 0.04;
# mirrored or moved by 8 mm and more, they fall by 0.1 to 3.
CELL_MM = 4.0
BRIGHT = 2  # ED and ET: a core of fluid may be darker on FLAIR than any brain, which is no fault
BETTER_BY = 0.1  # z: a better place is told
SURELY_BETTER_BY = 0.3  # z: and is a problem
# A few ml of sound brain, an ageing lesion or the dura, may outshine a small tumour: by 0.1 to 1.2
# in 7 of 56 phantoms of 2 to 25 ml. Such a tumour shines at its own place too, with 0.9 and more;
# of those moved or mirrored one in ten does. Of a few cells nothing is told. Real ones: from 24 ml.
SMALL_ML, TOO_SMALL_ML = 20.0, 2.0  # ED and ET
SHINES = 0.8  # z
FLUID_SHARE = 0.03  # of the brain that is taken for fluid: the brightest of T2
FLUID_SWAPPED_BY = (
    0.25  # z by which FLAIR would have to be the brighter; -0.4 at most in real cases
)
SWAPPED_BY = 0.5  # z by which ET is brighter on T1 than on T1ce; -0.02 at most in real cases


def check_mask(look: Look, *, doubtful: Collection[str] = ()) -> Iterator[Finding]:
    """Check the enhancing tumour and the place of a mask; its integers were mapped before.

    Args:
        look: The case.
        doubtful: Files that are no witness, or the case's id where all of them have a gap.
    """
    labels = look.labels
    if labels is None:
        return
    if not labels.any():
        what, mend = "the mask is empty", "Make sure that there is no tumour, or find the mask."
        yield _say(look, "empty-mask", "warning", what, mend)
        return
    yield from _check_et(look, labels)
    if not look.modalities or look.case.id in doubtful:
        return
    witnesses = {name for name, item in look.modalities.items() if item.where not in doubtful}
    swapped = _check_fluid(look, labels) if {"flair", "t2"} <= witnesses else []
    place = _check_place(look, labels) if "flair" in witnesses and not swapped else []
    yield from place or _check_outside(look, labels)
    yield from swapped
    if {"t1", "t1ce"} <= witnesses:
        yield from _check_contrast(look, labels[look.box])


def _say(look: Look, kind: str, severity: Severity, what: str, mend: str) -> Finding:
    where = where_of(look.case, "seg")
    return Finding(
        case=look.case.id, kind=kind, where=where, what=what, mend=mend, severity=severity
    )


def _check_et(look: Look, labels: NDArray[np.uint8]) -> Iterator[Finding]:
    n_et = np.count_nonzero(labels == ET)
    volume_ml = n_et * float(np.prod(look.spacing_mm)) / 1000  # mm3 to ml
    if n_et == 0:
        what = f"no enhancing tumour ({LABELS[ET]})"
        mend = "None needed: stratify the split by ET, and name the empty rule beside its Dice."
        yield _say(look, "no-et", "note", what, mend)
    elif volume_ml < TINY_ET_ML and look.is_plausible:
        what = f"tiny enhancing tumour: {n_et} voxels, {volume_ml:.2f} ml"
        mend = "None needed: read its ET Dice with care, a few voxels decide it."
        yield _say(look, "tiny-et", "note", what, mend)


def _check_outside(look: Look, labels: NDArray[np.uint8]) -> Iterator[Finding]:
    n_tumour = np.count_nonzero(labels)
    n_outside = n_tumour - np.count_nonzero((labels[look.box] > 0) & look.shown)
    if n_outside == 0:
        return
    sizes = _stray_islands(look, labels)
    n_stray = int(sizes.sum())
    if n_stray:
        what = f"{sizes.size} label island{'s' if sizes.size > 1 else ''} outside the brain, "
        what += f"{n_stray} voxel{'s' if n_stray > 1 else ''} in all"
        severity = "problem" if n_stray > STRAY_SHARE * n_tumour else "warning"
        yield _say(look, "islands", severity, what, "Set them to 0: no tumour lies there.")
    share = (n_outside - n_stray) / n_tumour
    if share > OUTSIDE_SHARE:
        what = f"{share:.0%} of the tumour lies outside the brain"
        mend = "Look at the overlay: the mask is flipped, shifted or another patient's."
        yield _say(look, "outside", "problem", what, mend)


def _stray_islands(look: Look, labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the sizes of the 26-connected components that touch no voxel of the brain."""
    brain = np.zeros(labels.shape, bool)
    brain[look.box] = look.shown
    (around,) = ndimage.find_objects((labels > 0).view(np.uint8))
    islands, n_islands = ndimage.label(labels[around], np.ones((3, 3, 3)))
    sizes = np.bincount(islands.ravel(), minlength=n_islands + 1)
    sizes[np.unique(islands[brain[around]])] = 0
    return sizes[1:][sizes[1:] > 0]


@dataclass(frozen=True)
class _Place:
    """Mean z-score of the image under a mask, at the place given and at the best one.

    Attributes:
        here: Mean where the mask lies.
        best: Largest mean over all moves.
        shift: The move, in cells along I, J, K, that reaches it.
    """

    here: float
    best: float
    shift: tuple[int, ...]


def _check_place(look: Look, labels: NDArray[np.uint8]) -> list[Finding]:
    """Ask whether the mask would sit better on FLAIR, where all of a tumour is bright, moved."""
    cell = tuple(
        max(1, min(round(CELL_MM / edge_mm), length))
        for edge_mm, length in zip(look.spacing_mm, labels.shape, strict=True)
    )
    scores, weight = _coarse_pair(look, labels, cell)
    if not (weight.any() and (scores > -1).any()):
        return []
    given = _best_place(*_cropped(scores, weight))
    if look.is_plausible and _is_excused(given.here, _bright_ml(look, labels)):
        return []
    if given.best - given.here <= BETTER_BY and not _fits_mirrored(scores, weight, given.here):
        return []
    places = {"": _best_place(scores, weight)}
    for axis, letter in enumerate("IJK"):
        places[letter] = _best_place(scores, np.flip(weight, axis))
    letter, place = max(places.items(), key=lambda item: item[1].best)
    moved = [f"mirrored along {letter}"] if letter else []
    if max(map(abs, place.shift)) >= 2:
        shift = tuple(-step * size for step, size in zip(place.shift, cell, strict=True))
        moved.append(f"shifted by about {shift} voxels along I, J, K")
    gain = place.best - given.here
    if gain <= BETTER_BY or not moved or not _suits_the_core(look, labels, cell, letter, place):
        return []
    what = f"the mask is {' and '.join(moved)}: FLAIR is brighter there by {gain:.1f} sd"
    mend = "Look at the overlay; take the mask's voxels and affine from one and the same file."
    severity = "problem" if gain > SURELY_BETTER_BY else "warning"
    return [_say(look, "mask-place", severity, what, mend)]


def _suits_the_core(
    look: Look, labels: NDArray[np.uint8], cell: tuple[int, ...], letter: str, place: _Place
) -> bool:
    """Tell whether the core gains from a move too: else oedema would only move onto the core."""
    scores, whole = _coarse_pair(look, labels, cell, least=1)
    moved = np.flip(whole, "IJK".index(letter)) if letter else whole
    return _means(scores, moved)[place.shift] > _means(scores, whole)[0, 0, 0]


def _bright_ml(look: Look, labels: NDArray[np.uint8]) -> float:
    return np.count_nonzero(labels >= BRIGHT) * float(np.prod(look.spacing_mm)) / 1000


def _is_excused(here: float, bright_ml: float) -> bool:
    """Tell whether a brighter place says nothing: the tumour is small, and bright where it lies.

    Examples:
        >>> _is_excused(1.2, 5.0), _is_excused(0.1, 5.0), _is_excused(1.2, 50.0)
        (True, False, False)
        >>> _is_excused(0.1, 1.0)
        True
    """
    return bright_ml < TOO_SMALL_ML or (bright_ml < SMALL_ML and here > SHINES)


def _coarse_pair(
    look: Look, labels: NDArray[np.uint8], cell: tuple[int, ...], *, least: int = BRIGHT
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Average z-scores of FLAIR (-1 off the brain: leaving it costs) and tumour in cells."""
    steps = tuple(2 if size % 2 == 0 else 1 for size in cell)  # every other voxel is enough
    thin = tuple(slice(None, None, step) for step in steps)
    stored, modality = look.volumes["flair"].data[thin], look.modalities["flair"]
    mean, std = modality.mean_std
    scores = np.clip((stored - np.float32(mean)) / np.float32(std), -3, 3, dtype=np.float32)
    scores[stored == modality.empty] = -1
    blocks = tuple(size // step for size, step in zip(cell, steps, strict=True))
    return _block_means(scores, blocks), _block_means(labels[thin] >= least, blocks)


def _block_means(array: NDArray[np.generic], blocks: tuple[int, ...]) -> NDArray[np.float32]:
    for axis, size in enumerate(blocks):
        if size > 1:
            parts = [
                np.take(array, range(at, array.shape[axis] - size + at + 1, size), axis)
                for at in range(size)
            ]
            array = np.mean(parts, axis=0, dtype=np.float32)
    return np.asarray(array, np.float32)


def _cropped(
    scores: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Leave out cells without brain, where the whole tumour lies among the others."""
    seen = scores > -1
    box = tuple(
        slice(*(np.flatnonzero(seen.any((axis - 2, axis - 1)))[[0, -1]] + (0, 1)))
        for axis in range(3)
    )
    return (scores[box], weight[box]) if weight.sum() == weight[box].sum() else (scores, weight)


def _means(scores: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average the scores under the mask at every move; a negative move counts from the end."""
    shape = [fft.next_fast_len(2 * length, real=True) for length in scores.shape]
    product = fft.rfftn(scores + 1, shape) * np.conj(fft.rfftn(weight, shape))
    return fft.irfftn(product, shape) / weight.sum() - 1


def _best_place(scores: NDArray[np.float32], weight: NDArray[np.float32]) -> _Place:
    means = _means(scores, weight)
    best = np.unravel_index(means.argmax(), means.shape)
    shift = tuple(
        int(step if step < length else step - size)
        for step, length, size in zip(best, scores.shape, means.shape, strict=True)
    )
    return _Place(float(means[0, 0, 0]), float(means.max()), shift)


def _fits_mirrored(scores: NDArray[np.float32], weight: NDArray[np.float32], here: float) -> bool:
    flips = (np.flip(weight, axis) for axis in range(3))
    return any(float((scores * flip).sum() / weight.sum()) > here + BETTER_BY for flip in flips)


def _check_contrast(look: Look, labels: NDArray[np.uint8]) -> Iterator[Finding]:
    """Ask whether T1 and T1ce were swapped: contrast agent makes ET brighter, never darker."""
    enhancing, oedema = labels == ET, labels == ED
    if np.count_nonzero(enhancing) < ET_VOX:
        return
    brightness, contrast = {}, {}
    for name in ("t1", "t1ce"):
        modality = look.modalities[name]
        mean, std = modality.mean_std
        brightness[name] = (modality.values[enhancing].mean(dtype=float) - mean) / std
        contrast[name] = brightness[name]
        if np.count_nonzero(oedema) >= ET_VOX:  # a coil brightens both on one modality alone
            contrast[name] -= (modality.values[oedema].mean(dtype=float) - mean) / std
    if min(item["t1"] - item["t1ce"] for item in (brightness, contrast)) > SWAPPED_BY:
        what = f"t1 and t1ce look swapped: ET is brighter on t1 ({brightness['t1']:+.1f} sd) "
        what += f"than on t1ce ({brightness['t1ce']:+.1f} sd)"
        mend = "Compare both pictures, and exchange their names if the vessels shine on t1."
        where = f"{where_of(look.case, 't1')}, {where_of(look.case, 't1ce')}"
        yield replace(_say(look, "swapped", "warning", what, mend), where=where)


def _check_fluid(look: Look, labels: NDArray[np.uint8]) -> list[Finding]:
    """Ask whether FLAIR and T2 were swapped: fluid is the brightest on T2, and dark on FLAIR."""
    thin = tuple(slice(None, None, max(1, round(3 / length))) for length in look.spacing_mm)
    inside = (look.modalities["flair"].shown & look.modalities["t2"].shown)[thin]
    inside &= labels[look.box][thin] == 0
    scores = []
    for name in ("flair", "t2"):
        mean, std = look.modalities[name].mean_std
        scores.append((look.modalities[name].values[thin][inside] - mean) / std)
    flair, t2 = scores
    if flair.size * FLUID_SHARE < ET_VOX:
        return []
    flair_in_t2 = np.median(flair[t2 >= np.quantile(t2, 1 - FLUID_SHARE)])
    t2_in_flair = np.median(t2[flair >= np.quantile(flair, 1 - FLUID_SHARE)])
    if flair_in_t2 - t2_in_flair <= FLUID_SWAPPED_BY:
        return []
    what = (
        f"flair and t2 look swapped: what is bright on flair is dark on t2 ({t2_in_flair:+.1f} sd)"
    )
    mend = "Compare both pictures, and exchange their names if the ventricles shine on flair."
    where = f"{where_of(look.case, 'flair')}, {where_of(look.case, 't2')}"
    return [replace(_say(look, "swapped", "warning", what, mend), where=where)]
