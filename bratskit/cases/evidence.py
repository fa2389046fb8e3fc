"""Measure on one case how well each way of reading the three tumour labels fits the images.

Enhancing tumour takes up contrast (T1ce - T1) and is bright on T1ce; oedema forms the outer border
of the whole tumour; the necrotic core is the darkest on T1ce and the brightest on T2. FLAIR shows
all three bright and so parts none of them, but it tells a fluid-filled cavity from tumour.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bratskit.labels import MODALITIES

__all__ = ["PERMUTATIONS", "TISSUES", "Evidence", "read_evidence"]

NCR, ED, ET = 1, 2, 3
TISSUES = (NCR, ED, ET)
PERMUTATIONS = tuple(itertools.permutations(TISSUES))  # what labels 1, 2, 3 are; the first: as read

# Every number below is a rounded mean and standard deviation over the thirty real cases (BraTS
# 2018 and 2021) and thirty phantoms (seeds 901 and 902, at 2 and 3 mm), all pooled.
# Intensities: the label's median, minus the median of the brain outside the tumour, over the
# quartile range of that brain. Contact: faces to the outside of the tumour over faces to others.
_CONTRASTS = {
    (ET, NCR): {"uptake": (2.1, 1.2), "t1ce": (2.4, 1.1), "t2": (-0.85, 1), "contact": (0, 0.15)},
    (ET, ED): {"uptake": (2.3, 1.2), "t1ce": (2.1, 1.2), "t2": (0.2, 0.8), "contact": (-0.6, 0.15)},
    (ED, NCR): {
        "uptake": (-0.2, 0.5),
        "t1ce": (0.3, 0.55),
        "t2": (-1, 1.1),
        "contact": (0.6, 0.16),
    },
}
_LOOKS = {
    "NCR": {"flair": (2.8, 1.4), "t1ce": (-0.5, 0.55), "t2": (2.5, 1.2)},
    "ED": {"flair": (2.5, 0.9), "t1ce": (-0.2, 0.35), "t2": (1.4, 0.8)},
    "ET": {"flair": (2.8, 1.3), "t1ce": (1.9, 1.2), "t2": (1.7, 0.9)},
    # the ventricles of the same cases; FLAIR spread doubled, as a cavity's fluid holds protein
    "fluid": {"flair": (-2.0, 1.0), "t1ce": (-1.5, 0.5), "t2": (3.3, 1.1)},
}
# Background that touches NCR where ET is not labelled: in the same cases with ET taken away, and as
# they are (where ET may leave a gap of 20 faces and more).
_BESIDE = {
    "ET": {"uptake": (1.6, 1.0), "flair": (2.5, 1.2)},
    "brain": {"uptake": (0.2, 0.4), "flair": (0.6, 0.8)},
}
_TAILS = 4  # degrees of freedom of Student's t: one odd feature cannot rule a case
_FEW_VOXELS = 20  # below this the median of a label is noise
_SAMPLE = 4096  # voxels looked at per label: all of them would move a median by under 0.06
_GRID = 330_000  # voxels, brain and background, that stand for the whole grid


_Look = dict[str, float]  # medians of a label in quartile ranges of the brain, and its contact


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What one case says about its labels.

    Attributes:
        case: Id of the case.
        fits: Log-likelihood of each reading of `PERMUTATIONS`, up to a constant; higher is better.
        fluid: By how much ET looks more like fluid than like any tissue, in log-likelihood; None
            without ET.
        hidden: By how much the background beside NCR looks more like ET than like brain, in
            log-likelihood; None where there is ET, or no NCR that touches background.
        uptake: T1ce - T1 of the labels read as NCR, ED, ET, in quartile ranges of the brain; None
            for a label that is absent or tiny.
        contact: Share of each label's surface that faces the outside of the whole tumour, 0 to 1.
    """

    case: str
    fits: tuple[float, ...]
    fluid: float | None = None
    hidden: float | None = None
    uptake: tuple[float | None, ...] = (None, None, None)
    contact: tuple[float | None, ...] = (None, None, None)

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Evidence":
        """Read evidence back from what `to_dict` gave, through JSON or not."""
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def read_evidence(
    case_id: str,
    image: Mapping[str, NDArray] | NDArray,
    labels: NDArray[np.uint8],
) -> Evidence | None:
    """Measure how well each reading of the labels fits the images of one case.

    Args:
        case_id: Name of the case.
        image: Intensities `(4, I, J, K)` in the order of `MODALITIES`, or one `(I, J, K)` array for
            each modality; background 0, any scale and offset of the rest.
        labels: Internal labels `(I, J, K)` uint8 under the declared schema.

    Returns:
        The evidence, or None where there is none: no tumour or one label only, a modality that is
        missing, empty or constant.

    Raises:
        ValueError: The labels are not on the grid of the images.
    """
    if isinstance(image, Mapping):
        if any(name not in image for name in MODALITIES):
            return None
        image = [image[name] for name in MODALITIES]
    if any(channel.shape != labels.shape for channel in image):
        msg = (
            f"labels of case {case_id} must be on the grid of the images, {image[0].shape}; got "
            f"{labels.shape}. Load both with load_scan."
        )
        raise ValueError(msg)
    head = _head_of(image, labels)
    looks = {} if head is None else _look_at(head)
    if len(looks) < 2 and ET not in looks:
        return None
    return Evidence(
        case=case_id,
        fits=_fits(looks),
        fluid=_fluid(looks[ET]) if ET in looks else None,
        hidden=None if ET in looks else _hidden(head),
        uptake=tuple(looks[t]["uptake"] if t in looks else None for t in TISSUES),
        contact=tuple(looks[t]["contact"] if t in looks else None for t in TISSUES),
    )


class _Head(NamedTuple):
    """The tumour's box and a voxel around it, with what is normal for the brain outside.

    Attributes:
        labels: Internal labels of the box, `(i, j, k)`.
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


def _look_at(head: _Head) -> dict[int, _Look]:
    contacts = _contacts(head.labels)
    looks = {}
    for label in TISSUES:
        seen = _medians(head, np.flatnonzero(head.labels == label))
        if seen is not None:
            looks[label] = seen | {"contact": float(contacts[label])}
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
    """Return for each label the share of its surface that faces background, over 6 neighbours."""
    padded = np.pad(labels, 1)
    faces = np.zeros((4, 4))
    for axis in range(3):
        first, second = np.moveaxis(padded, axis, 0)[:-1], np.moveaxis(padded, axis, 0)[1:]
        differ = first != second
        pairs = np.bincount(4 * first[differ] + second[differ], minlength=16).reshape(4, 4)
        faces += pairs + pairs.T
    return faces[:, 0] / np.maximum(faces.sum(axis=1), 1)


def _student(x: float, mean: float, deviation: float) -> float:
    """Log-density of Student's t, without the constant that all readings share."""
    distance = (x - mean) / deviation
    return -(_TAILS + 1) / 2 * math.log1p(distance**2 / _TAILS) - math.log(deviation)


def _fits(looks: Mapping[int, _Look]) -> tuple[float, ...]:
    fits = []
    for permutation in PERMUTATIONS:
        read = {permutation[label - 1]: look for label, look in looks.items()}
        terms = [
            _student(read[a][name] - read[b][name], *constants)
            for (a, b), contrasts in _CONTRASTS.items()
            if a in read and b in read
            for name, constants in contrasts.items()
        ]
        # n labels have n - 1 independent contrasts but n (n - 1) / 2 pairs
        fits.append(sum(terms) * 2 / max(len(looks), 2))
    if len(looks) == 2:
        _tie_core_with_oedema(fits, looks)
    return tuple(fits)


def _tie_core_with_oedema(fits: list[float], looks: Mapping[int, _Look]) -> None:
    """Let NCR beside ET fit as ED beside ET does: without ED the core itself is the border.

    Children's tumours (BraTS-PED) often have no ED, and their NCR must not pass for it.
    """
    readings = [tuple(permutation[label - 1] for label in looks) for permutation in PERMUTATIONS]
    for reading in readings:
        if ET in reading and NCR in reading:
            twin = tuple(ED if tissue == NCR else tissue for tissue in reading)
            a, b = readings.index(reading), readings.index(twin)
            fits[a] = fits[b] = max(fits[a], fits[b])


def _scores(
    look: _Look, kinds: Mapping[str, Mapping[str, tuple[float, float]]]
) -> dict[str, float]:
    return {
        kind: sum(_student(look[name], *constants) for name, constants in features.items())
        for kind, features in kinds.items()
    }


def _fluid(look: _Look) -> float:
    scores = _scores(look, _LOOKS)
    return scores.pop("fluid") - max(scores.values())


def _hidden(head: _Head) -> float | None:
    beside = ndi.binary_dilation(head.labels == NCR) & (head.labels == 0)
    beside &= head.image[MODALITIES.index("t1ce")] != 0
    look = _medians(head, np.flatnonzero(beside))
    if look is None:
        return None
    scores = _scores(look, _BESIDE)
    return scores["ET"] - scores["brain"]
