"""Find scans that are in a cohort twice, under another name, folder or edition, by their voxels."""

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bratskit.labels import MODALITIES

__all__ = ["LOOK_ALIKE", "Duplicate", "Fingerprint", "find_duplicates", "fingerprint"]

LOOK_CELLS = 12  # along each axis; 4 modalities of float16 are then 14 kB a case
LOOK_ALIKE = 0.8
"""Mean correlation over the modalities from which two looks are taken for one patient's.

Measured on the thirty real cases, 435 pairs of different patients: 0.663 at most (mean 0.275, sd
0.116; by Fisher's z, 0.75 is to be expected as the largest of the two million pairs of 2000 cases).
Thirty phantoms, which share one anatomy: 0.599. Altered copies of the thirty, the smallest: new
scale, crop, padding, a stray voxel, uint8, or noise of 30 % of the brain's sd 1.000; 2 mm 0.995;
brightest 1 % clipped 0.984; gamma of 1.5 0.982; bias of 40 % 0.971; edge eroded by a voxel 0.968;
1.5 x 1 x 3 mm 0.959; half a voxel of shift, interpolated 0.934; turned by 3 degrees 0.916; FLAIR
without its upper fifth 0.883. Phantoms at another spacing: 0.988. So 0.14 below, 0.08 above.
Simulated later visits: edema grown by 10 mm 0.839 at least; the whole tumour painted over with the
other side's tissue 0.62 to 0.97, 18 of 30 found.
"""

_FRAME = (0.02, 0.98)  # shares of the brain: a stray voxel moves the box's ends, not these
_MARGIN = 0.06  # of their distance, so that the whole brain lies in the frame
_POWERS = [p for p in np.ndindex(3, 3, 3) if sum(p) <= 2]  # a bias field is smooth
_BLOCK = 256  # rows compared at once: 2000 cases take 2 MB of correlations
_NO_HASH = ""  # an empty modality equals every other empty one, which means nothing
_SQUARABLE = 1e15  # float32 ends at 3.4e38: squares of more, summed, may not fit


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Stand for one scan when it is compared with all the others.

    Attributes:
        case: Name of the case.
        voxels: Hash of the voxels of each modality, the same for every way to store them.
        look: Brain seen at low resolution, `(4, 12 * 12 * 12)` float16, channels in the order of
            `MODALITIES`: mean 0 over the brain, slow trends removed, unit norm; 0 where there is
            no such modality.
    """

    case: str
    voxels: Mapping[str, str]
    look: NDArray[np.float16] = field(repr=False, compare=False)

    def to_dict(self) -> dict[str, object]:
        """Return what JSON can hold, about 19 kB."""
        look = base64.b64encode(self.look.astype("<f2").tobytes()).decode("ascii")
        return {"case": self.case, "voxels": dict(self.voxels), "look": look}

    @classmethod
    def from_dict(cls, content: Mapping[str, object]) -> "Fingerprint":
        """Read what `to_dict` returned."""
        look = np.frombuffer(base64.b64decode(str(content["look"])), "<f2")
        return cls(
            case=str(content["case"]),
            voxels=dict(content["voxels"]),
            look=look.reshape(len(MODALITIES), LOOK_CELLS**3),
        )


@dataclass(frozen=True, kw_only=True)
class Duplicate:
    """Name two cases that show one patient.

    Attributes:
        first: Name of a case.
        second: Name of the other; comes after `first` in the order given.
        what: "same voxels" or "look-alike".
        modality: Modalities that are the same or alike, joined by ", ".
        correlation: Mean correlation of the two looks, in [-1, 1].
    """

    first: str
    second: str
    what: str
    modality: str
    correlation: float

    def __str__(self) -> str:
        how = "have the same voxels in" if self.what == "same voxels" else "look alike in"
        return f"{self.first} and {self.second} {how} {self.modality} (r = {self.correlation:.3f})"


def fingerprint(name: str, image: Mapping[str, ArrayLike] | ArrayLike) -> Fingerprint:
    """Take the fingerprint of one scan, in about 0.1 s.

    The hash is of the real values (scl_slope applied) in the box around whatever is not
    background, so that data type, compression, orientation on disk and empty margins do not count.
    The look is the brain in 12 x 12 x 12 cells of a frame that the brain itself spans, so that
    spacing, crop, a change of scale and a smooth bias field hardly count.

    Args:
        name: Name of the case.
        image: Modalities by name, or `(4, I, J, K)` in the order of `MODALITIES`; RAS+, real
            values, any real data type, one grid.

    Raises:
        ValueError: The modalities are not of one 3D shape, or have unknown names.
    """
    channels = _channels(name, image)
    zeros = {modality: _background(values) for modality, values in channels.items()}
    masks = {modality: values != zeros[modality] for modality, values in channels.items()}
    brain = np.logical_or.reduce(list(masks.values()))
    look = np.zeros((len(MODALITIES), LOOK_CELLS**3), np.float16)
    if not brain.any():
        return Fingerprint(case=name, voxels=dict.fromkeys(channels, _NO_HASH), look=look)
    frame, trends = _frame(brain)
    hashes = {}
    for modality, values in channels.items():
        box = _box(masks[modality])
        whole = np.array(values[box], np.float32, order="C")
        hashes[modality] = _hash(whole)
        inner = [weights[:, part] for weights, part in zip(frame, box, strict=True)]
        if zeros[modality]:
            whole -= np.float32(zeros[modality])
        cells = _pool(whole, inner)
        if not np.isfinite(cells).all():
            cells = _pool(np.nan_to_num(whole, posinf=0, neginf=0), inner)
        largest = np.abs(cells).max()
        if largest > _SQUARABLE:
            cells /= largest
        look[MODALITIES.index(modality)] = _unit(cells.ravel(), trends)
    return Fingerprint(case=name, voxels=hashes, look=look)


def find_duplicates(prints: Sequence[Fingerprint]) -> list[Duplicate]:
    """Compare every scan with every other: 2000 cases in a few seconds.

    Args:
        prints: One fingerprint a case; names may repeat where two folders hold one name.

    Returns:
        One entry a pair that has the same voxels in a modality, or whose looks correlate by
        `LOOK_ALIKE` or more in the mean over the modalities that both have; in the order of
        `prints`.
    """
    if len(prints) < 2:
        return []
    looks = np.stack([item.look for item in prints]).astype(np.float32)
    there = looks.any(axis=2).astype(np.float32)
    flat = looks.reshape(len(prints), -1)
    pairs = set(_same_voxels(prints))
    for begin in range(0, len(prints), _BLOCK):
        rows = slice(begin, begin + _BLOCK)
        shared = np.maximum(there[rows] @ there.T, 1)
        alike = flat[rows] @ flat.T >= LOOK_ALIKE * shared
        first, second = np.nonzero(np.triu(alike, begin + 1))
        pairs.update(zip((first + begin).tolist(), second.tolist(), strict=True))
    return [_duplicate(prints, looks, *pair) for pair in sorted(pairs)]


def _duplicate(
    prints: Sequence[Fingerprint], looks: NDArray[np.float32], first: int, second: int
) -> Duplicate:
    one, other = prints[first], prints[second]
    each = (looks[first] * looks[second]).sum(axis=1)
    both = [bool(looks[first, at].any() and looks[second, at].any()) for at in range(len(each))]
    same = [name for name in MODALITIES if _is_same(one.voxels, other.voxels, name)]
    alike = [name for name, r in zip(MODALITIES, each, strict=True) if r >= LOOK_ALIKE]
    return Duplicate(
        first=one.case,
        second=other.case,
        what="same voxels" if same else "look-alike",
        modality=", ".join(same or alike),
        correlation=float(each.sum() / max(sum(both), 1)),
    )


def _same_voxels(prints: Sequence[Fingerprint]) -> Iterator[tuple[int, int]]:
    seen: dict[tuple[str, str], list[int]] = {}
    for number, item in enumerate(prints):
        for modality, value in item.voxels.items():
            if value != _NO_HASH:
                others = seen.setdefault((modality, value), [])
                yield from ((other, number) for other in others)
                others.append(number)


def _is_same(one: Mapping[str, str], other: Mapping[str, str], modality: str) -> bool:
    return one.get(modality, _NO_HASH) == other.get(modality) != _NO_HASH


def _channels(
    name: str, image: Mapping[str, ArrayLike] | ArrayLike
) -> dict[str, NDArray[np.generic]]:
    named = image if isinstance(image, Mapping) else dict(zip(MODALITIES, image, strict=True))
    channels = {
        modality: np.asarray(named[modality]) for modality in MODALITIES if modality in named
    }
    shapes = {values.shape for values in channels.values()}
    if set(named) - set(MODALITIES) or len(shapes) != 1 or len(next(iter(shapes))) != 3:
        got = ", ".join(f"{key} {np.shape(values)}" for key, values in named.items())
        msg = (
            f"image of case {name} must be {', '.join(MODALITIES)} on one 3D grid; got "
            f"{got or 'nothing'}. Take load_scan(case).image."
        )
        raise ValueError(msg)
    return channels


def _background(values: NDArray[np.generic]) -> float:
    """Return the value that all eight corners share, else 0: some tools move 0 elsewhere."""
    corners = values[:: max(values.shape[0] - 1, 1), :: max(values.shape[1] - 1, 1)]
    corners = corners[:, :, :: max(values.shape[2] - 1, 1)]
    return float(corners.flat[0]) if (corners == corners.flat[0]).all() else 0.0


def _frame(
    brain: NDArray[np.bool_],
) -> tuple[list[NDArray[np.float32]], NDArray[np.floating]]:
    """Lay cells over the brain, and find the slow trends that they could have (orthonormal)."""
    box = _box(brain)
    inside = np.ascontiguousarray(brain[box], np.float32)
    frame = []
    for axis, part in enumerate(box):
        counts = np.zeros(brain.shape[axis])
        counts[part] = inside.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64)
        frame.append(_cell_weights(counts))
    share = _pool(inside, [weights[:, part] for weights, part in zip(frame, box, strict=True)])
    at = np.meshgrid(*[np.linspace(-1, 1, LOOK_CELLS)] * 3, indexing="ij")
    terms = [at[0] ** i * at[1] ** j * at[2] ** k * share for i, j, k in _POWERS]
    trends, sizes, _ = np.linalg.svd(np.stack([t.ravel() for t in terms], 1), full_matrices=False)
    return frame, trends[:, sizes > 1e-6 * sizes[0]]


def _cell_weights(counts: NDArray[np.float64]) -> NDArray[np.float32]:
    """Say which share of each cell `(12, n)` every voxel of an axis fills, given brain voxels."""
    edges = np.arange(len(counts) + 1)
    begin, end = np.interp(_FRAME, np.concatenate([[0], counts.cumsum()]) / counts.sum(), edges)
    margin = _MARGIN * (end - begin)
    cuts = np.linspace(begin - margin, end + margin, LOOK_CELLS + 1)[:, None]
    shared = np.minimum(cuts[1:], edges[1:]) - np.maximum(cuts[:-1], edges[:-1])
    return (np.maximum(shared, 0) / (cuts[1] - cuts[0])).astype(np.float32)


def _pool(values: NDArray[np.float32], weights: Sequence[NDArray[np.float32]]) -> NDArray:
    """Average voxels into cells, one axis after the other."""
    for axis_weights in weights:
        values = np.tensordot(axis_weights, values, (1, 0)).transpose(1, 2, 0)
    return values


def _unit(cells: NDArray[np.floating], trends: NDArray[np.floating]) -> NDArray[np.floating]:
    """Take mean and slow trends off, and scale to length 1; a flat image gives 0."""
    left = cells - trends @ (trends.T @ cells)
    size, before = np.linalg.norm(left), np.linalg.norm(cells)
    return left / size if size > 1e-4 * before else np.zeros_like(left)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Bound the true voxels as tightly as can be; nothing true gives an empty box."""
    plane = mask.any(axis=2)
    lines = plane.any(axis=1), plane.any(axis=0), mask[plane].any(axis=0)
    ends = [np.flatnonzero(line) for line in lines]
    return tuple(slice(int(at[0]), int(at[-1]) + 1) if len(at) else slice(0, 0) for at in ends)


def _hash(values: NDArray[np.float32]) -> str:
    if not values.size:
        return _NO_HASH
    digest = hashlib.blake2b(str(values.shape).encode(), digest_size=16)
    with np.errstate(invalid="ignore"):
        short = values.astype(np.int16)  # half the bytes, and as published; -0 becomes 0
    digest.update(short if np.array_equal(short, values) else values + np.float32(0))
    return digest.hexdigest()
