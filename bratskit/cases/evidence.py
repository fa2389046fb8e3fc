"""Measure on one case how well each way of reading the integers of its mask fits the images.

Enhancing tumour takes up contrast (T1ce - T1) and is bright on T1ce; oedema forms the outer border
of the whole tumour; the necrotic core is the darkest on T1ce and the brightest on T2. FLAIR shows
all three bright and so parts none of them, but it tells a fluid-filled cavity from tumour.

Every integer is measured as the file holds it, also those that the declared schema merges or puts
outside the tumour: a label that is gone after reading could no longer speak against the schema.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bratskit.labels import MODALITIES

__all__ = ["CAVITY", "PERMUTATIONS", "TISSUES", "Evidence", "fit", "read_evidence"]

NCR, ED, ET = 1, 2, 3
CAVITY = 4  # beside the internal labels: known tissue of no tumour region, fluid
TISSUES = (NCR, ED, ET)
PERMUTATIONS = tuple(itertools.permutations(TISSUES))  # what labels 1, 2, 3 are; the first: as read

# Every number below is a rounded mean and standard deviation over the thirty real cases (BraTS
# 2018 and 2021) and thirty phantoms (seeds 901 and 902, at 2 and 3 mm), all pooled.
# Intensities: the label's median, minus the median of the brain outside the tumour, over the
# quartile range of that brain. Contact: faces to the outside of the tumour over faces to others.
# Of a cavity only the ventricles of these cases are known, so its spreads are wide: it may hold
# blood or protein, and lie at the brain's surface or amid the tumour.
_FLAIR = (0, 1.5)  # one and the same for any two tissues, so that it parts none of them
_CONTRASTS = {
    (ET, NCR): {
        "uptake": (2.1, 1.2),
        "t1ce": (2.4, 1.1),
        "t2": (-0.85, 1),
        "contact": (0, 0.15),
        "flair": _FLAIR,
    },
    (ET, ED): {
        "uptake": (2.3, 1.2),
        "t1ce": (2.1, 1.2),
        "t2": (0.2, 0.8),
        "contact": (-0.6, 0.15),
        "flair": _FLAIR,
    },
    (ED, NCR): {
        "uptake": (-0.2, 0.5),
        "t1ce": (0.3, 0.55),
        "t2": (-1, 1.1),
        "contact": (0.6, 0.16),
        "flair": _FLAIR,
    },
    (CAVITY, NCR): {
        "uptake": (0, 0.8),
        "t1ce": (-1, 0.9),
        "t2": (0.8, 1.6),
        "contact": (0.2, 0.35),
        "flair": (-3.5, 2.5),
    },
    (CAVITY, ED): {
        "uptake": (0.2, 0.8),
        "t1ce": (-1.2, 0.8),
        "t2": (1.7, 1.5),
        "contact": (-0.4, 0.35),
        "flair": (-3.5, 2.5),
    },
    (CAVITY, ET): {
        "uptake": (-2.1, 1.3),
        "t1ce": (-3.3, 1.3),
        "t2": (1.5, 1.5),
        "contact": (0.2, 0.35),
        "flair": (-3.5, 2.5),
    },
}
# Two integers of one tissue (NCR and NET of 2012-2015, NET and cyst of PED): between cases each
# feature of NCR varies by 0.5 to 1.2, so two parts of one core differ by about as much.
_ALIKE = {
    "uptake": (0, 0.7),
    "t1ce": (0, 0.8),
    "t2": (0, 1.2),
    "contact": (0, 0.25),
    "flair": _FLAIR,
}
_LOOKS = {
    NCR: {"uptake": (0.1, 0.6), "flair": (2.8, 1.4), "t1ce": (-0.5, 0.55), "t2": (2.5, 1.2)},
    ED: {"uptake": (0.0, 0.5), "flair": (2.5, 0.9), "t1ce": (-0.2, 0.35), "t2": (1.4, 0.8)},
    ET: {"uptake": (2.2, 1.2), "flair": (2.8, 1.3), "t1ce": (1.9, 1.2), "t2": (1.7, 0.9)},
    CAVITY: {"uptake": (0.1, 0.7), "flair": (-1.5, 1.8), "t1ce": (-1.3, 0.7), "t2": (3, 1.3)},
}
_TAILS = 4  # degrees of freedom of Student's t: one odd feature cannot rule a case
_FEW_VOXELS = 20  # below this the median of a label is noise
_SAMPLE = 4096  # voxels looked at per label: all of them would move a median by under 0.06
_GRID = 330_000  # voxels, brain and background, that stand for the whole grid


_Look = dict[str, float]  # medians of a label in quartile ranges of the brain, and its contact
Reading = Mapping[int, int]  # integer of a file -> NCR, ED, ET or CAVITY


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one case says about the integers of its mask.

    Attributes:
        case: Id of the case.
        integers: All integers of the mask but 0, ascending.
        looks: For each integer of at least 20 voxels: medians "flair", "t1", "t1ce", "t2" and
            "uptake" (T1ce - T1), in quartile ranges of the brain from the brain's median, and
            "contact", the share of its surface that faces the outside of the mask, 0 to 1.
    """

    case: str
    integers: tuple[int, ...]
    looks: Mapping[int, Mapping[str, float]]

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return asdict(self) | {"looks": {str(key): dict(look) for key, look in self.looks.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Evidence":
        """Read evidence back from what `to_dict` gave, through JSON or not."""
        return cls(
            case=values["case"],
            integers=tuple(values["integers"]),
            looks={int(key): look for key, look in values["looks"].items()},
        )


def read_evidence(
    case_id: str,
    image: Mapping[str, NDArray] | NDArray,
    integers: NDArray[np.uint8],
) -> Evidence | None:
    """Measure what each integer of a mask looks like on the images of one case.

    Args:
        case_id: Name of the case.
        image: Intensities `(4, I, J, K)` in the order of `MODALITIES`, or one `(I, J, K)` array for
            each modality; background 0, any scale and offset of the rest.
        integers: The mask `(I, J, K)` uint8 as its file has it, whatever its schema.

    Returns:
        The evidence, or None where there is none: no tumour, or a modality that is missing, empty
        or constant.

    Raises:
        ValueError: The mask is not on the grid of the images.
    """
    if isinstance(image, Mapping):
        if any(name not in image for name in MODALITIES):
            return None
        image = [image[name] for name in MODALITIES]
    if any(channel.shape != integers.shape for channel in image):
        msg = (
            f"labels of case {case_id} must be on the grid of the images, {image[0].shape}; got "
            f"{integers.shape}. Load both with load_scan."
        )
        raise ValueError(msg)
    head = _head_of(image, integers)
    if head is None:
        return None
    found = np.flatnonzero(np.bincount(head.labels.ravel()))
    found = tuple(int(value) for value in found if value)
    return Evidence(case=case_id, integers=found, looks=_look_at(head, found))


def fit(evidence: Evidence, readings: Sequence[Reading]) -> tuple[float, ...]:
    """Measure how well each reading of the integers fits what they look like.

    Args:
        evidence: What one case says.
        readings: Tissue of each integer, all over the same integers; others are left out.

    Returns:
        Log-likelihood of each reading, up to a constant; higher is better. All equal where the
        case can not tell.
    """
    looks = {value: look for value, look in evidence.looks.items() if value in readings[0]}
    doubted = [
        value for value in looks if 0 < sum(r[value] == CAVITY for r in readings) < len(readings)
    ]
    return tuple(_fit(looks, reading, doubted) for reading in readings)


class _Head(NamedTuple):
    """The tumour's box and a voxel around it, with what is normal for the brain outside.

    Attributes:
        labels: Integers of the mask in the box, `(i, j, k)`.
        image: Each modality in the box.
        scales: Median and quartile range of each modality over the brain outside the tumour.
    """

    labels: NDArray[np.uint8]
    image: list[NDArray]
    scales: list[tuple[float, float]]


def _head_of(image: Sequence[NDArray], labels: NDArray[np.uint8]) -> _Head | None:
    box = _box_of(labels)
    scales = None if box is None else _brain_scales(image, labels)
    if scales is None:
        return None
    return _Head(np.ascontiguousarray(labels[box]), [channel[box] for channel in image], scales)


def _look_at(head: _Head, integers: Sequence[int]) -> dict[int, _Look]:
    contacts = _contacts(head.labels)
    looks = {}
    for value in integers:
        seen = _medians(head, np.flatnonzero(head.labels == value))
        if seen is not None:
            looks[value] = seen | {"contact": float(contacts[value])}
    return looks


def _medians(head: _Head, where: NDArray[np.intp]) -> dict[str, float] | None:
    """Median of each modality and of T1ce - T1 over some voxels; None where they are too few."""
    if where.size < _FEW_VOXELS:
        return None
    where = np.unravel_index(where[:: max(1, where.size // _SAMPLE)], head.labels.shape)
    sample = {
        name: (channel[where].astype(np.float32) - middle) / spread
        for name, channel, (middle, spread) in zip(MODALITIES, head.image, head.scales, strict=True)
    }
    sample["uptake"] = sample["t1ce"] - sample["t1"]
    medians = {name: float(np.median(values)) for name, values in sample.items()}
    return medians if np.isfinite(list(medians.values())).all() else None


def _box_of(labels: NDArray[np.uint8]) -> tuple[slice, ...] | None:
    """Bound the tumour with a voxel to spare; None where there is none."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        used = np.flatnonzero(labels.max(axis=others))
        if used.size == 0:
            return None
        box.append(slice(max(int(used[0]) - 1, 0), int(used[-1]) + 2))
    return tuple(box)


def _brain_scales(
    image: Sequence[NDArray], labels: NDArray[np.uint8]
) -> list[tuple[float, float]] | None:
    """Median and quartile range of each modality over the brain outside the tumour, on a grid."""
    step = max(1, round((labels.size / _GRID) ** (1 / 3)))
    thin = (slice(None, None, step),) * 3
    coarse = np.stack([channel[thin] for channel in image]).astype(np.float32)
    brain = (coarse != 0).any(axis=0) & (labels[thin] == 0)
    if not brain.any():
        return None
    low, middle, high = np.percentile(coarse[:, brain], (25, 50, 75), axis=1)
    if not (np.isfinite(high - low).all() and (high > low).all()):
        return None
    return list(zip(middle.tolist(), (high - low).tolist(), strict=True))


def _contacts(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return for each integer the share of its surface that faces 0, over 6 neighbours."""
    padded = np.pad(labels, 1)
    n_values = int(labels.max()) + 1
    faces, outer = np.zeros(n_values), np.zeros(n_values)
    for axis in range(3):
        first, second = np.moveaxis(padded, axis, 0)[:-1], np.moveaxis(padded, axis, 0)[1:]
        differ = first != second
        sides = first[differ], second[differ]
        for side, other in (sides, sides[::-1]):
            faces += np.bincount(side, minlength=n_values)
            outer += np.bincount(side[other == 0], minlength=n_values)
    return outer / np.maximum(faces, 1)


def _student(x: float, mean: float, deviation: float) -> float:
    """Log-density of Student's t, without the constant that all readings share."""
    distance = (x - mean) / deviation
    return -(_TAILS + 1) / 2 * math.log1p(distance**2 / _TAILS) - math.log(deviation)


def _fit(looks: Mapping[int, _Look], reading: Reading, doubted: Sequence[int]) -> float:
    """Fit one reading; an integer that others read as a cavity, or not, is judged by itself too."""
    twins = [reading]
    tissues = {reading[value] for value in looks}
    for one, other in ((NCR, ED), (ED, NCR)):
        # Children's tumours (BraTS-PED) often have no ED, and then the core itself is the border:
        # beside ET and without the other, NCR and ED fit as the better of the two.
        if ET in tissues and one in tissues and other not in tissues:
            twins.append({value: other if t == one else t for value, t in reading.items()})
    return max(_contrast(looks, twin) + _resemblance(looks, twin, doubted) for twin in twins)


def _contrast(looks: Mapping[int, _Look], reading: Reading) -> float:
    terms = []
    for a, b in itertools.combinations(looks, 2):
        sides = (a, b) if (reading[a], reading[b]) in _CONTRASTS else (b, a)
        wanted = _CONTRASTS.get((reading[sides[0]], reading[sides[1]]), _ALIKE)
        terms += [
            _student(looks[sides[0]][name] - looks[sides[1]][name], *constants)
            for name, constants in wanted.items()
        ]
    # n labels have n - 1 independent contrasts but n (n - 1) / 2 pairs
    return sum(terms) * 2 / max(len(looks), 2)


def _resemblance(looks: Mapping[int, _Look], reading: Reading, doubted: Sequence[int]) -> float:
    return sum(
        _student(looks[value][name], *constants)
        for value in doubted
        for name, constants in _LOOKS[reading[value]].items()
    )
