"""Decide native labels slab by slab, so that no native probabilities are ever held."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from bratskit.preprocess.decide import decide
from bratskit.preprocess.geometry import Geometry, outside_values
from bratskit.preprocess.grid import Crop, Resize, Step, Triple
from bratskit.preprocess.resample import resample_planes, resample_values, source_planes
from bratskit.settings import Targets

__all__ = ["PLANES_AT_ONCE", "labels_from_slabs"]

PLANES_AT_ONCE = 8  # native planes that are interpolated and decided together

Probs = NDArray[np.float32]
Steps = Sequence[tuple[Step, Triple]]  # each with the shape of the grid before it


def labels_from_slabs(
    geometry: Geometry, slabs: Iterable[tuple[int, Probs]], *, targets: Targets
) -> NDArray[np.uint8]:
    """Decide labels `(I, J, K)` as `geometry.invert_to_labels` does, from slabs as they come.

    Interpolated probabilities are the same to float32 rounding, so that only a tie can differ.
    Held at once are the labels, the slab, the few planes before it that the next native plane needs
    too, and one channel's worth of `PLANES_AT_ONCE` native planes.

    Args:
        geometry: From the native grid to the prepared one; no step may turn the axes.
        slabs: First plane and probabilities `(L, n, j, k)`, from plane 0 on and without a gap. A
            slab is used up before the next one is asked for, so that its memory may be used again.
        targets: What the channels are.

    Raises:
        ValueError: A slab is missing, or a step turns the axes.

    Examples:
        >>> from bratskit.preprocess import Geometry
        >>> affine = tuple(map(tuple, np.eye(4).tolist()))
        >>> geometry = Geometry(native_shape=(2, 1, 3), native_affine=affine)
        >>> probs = np.array([[[[0.9, 0.2, 0.3]]], [[[0.1, 0.8, 0.7]]]], np.float32)
        >>> slabs = [(0, probs), (1, probs[:, :, :, ::-1])]
        >>> labels_from_slabs(geometry, slabs, targets="labels").tolist()
        [[[0, 1, 1]], [[1, 1, 0]]]
    """
    within = geometry.after_crop(geometry.box)
    steps = list(zip(within.steps, within.shapes[:-1], strict=True))
    _refuse_turns(within.steps)
    first, last = _needed(steps, geometry.box_shape[0])
    labels = np.zeros(geometry.native_shape, dtype=np.uint8)
    box, held, done = geometry.crop(labels), _Held(), 0
    for at, slab in slabs:
        held.add(at, slab)
        ready = int(np.searchsorted(last, held.stop, side="right"))
        for row in range(done, ready, PLANES_AT_ONCE):
            rows = row, min(row + PLANES_AT_ONCE, ready)
            channels = (
                _planes_back(channel, held.start, rows, steps, value)
                for channel, value in zip(
                    held.planes, outside_values(len(slab), targets), strict=True
                )
            )
            box[slice(*rows)] = decide(channels, targets=targets)
        done = max(done, ready)
        held.drop_before(int(first[done]) if done < len(first) else held.stop)
    _refuse_gap(geometry.shape[0], held.stop)
    return labels


class _Held:
    """Keep the planes that are still needed, in memory of their own."""

    def __init__(self) -> None:
        self.start, self.planes = 0, None

    @property
    def stop(self) -> int:
        return self.start + (0 if self.planes is None else self.planes.shape[1])

    def add(self, at: int, slab: Probs) -> None:
        _refuse_gap(at, self.stop)
        is_empty = self.planes is None or not self.planes.shape[1]
        self.planes = slab if is_empty else np.concatenate([self.planes, slab], axis=1)

    def drop_before(self, plane: int) -> None:
        kept = self.planes[:, max(0, plane - self.start) :].copy()
        self.start, self.planes = self.stop - kept.shape[1], kept


def _needed(steps: Steps, length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Name the prepared planes, first and past the last, that each plane of the box needs."""
    first, last = np.arange(length), np.arange(length) + 1
    for step, before in steps:
        first, last = _after(step, before, first, last)
    return first, last


def _after(
    step: Step, before: Triple, first: NDArray[np.intp], last: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Carry ranges of planes from the grid before a step to the one after it; some end up empty."""
    after = step.shape_after(before)[0]
    if isinstance(step, Crop):
        return tuple(np.clip(ends - step.box[0][0], 0, after) for ends in (first, last))
    low, high = source_planes(after, before[0])
    inside = np.minimum(first, before[0] - 1)
    return low[inside], np.where(last > first, high[np.maximum(last, 1) - 1], low[inside])


def _planes_back(
    channel: NDArray[np.float32], start: int, rows: tuple[int, int], steps: Steps, outside: float
) -> NDArray[np.float32]:
    """Make planes `rows` of the grid before `steps` from planes `start` on of the one after."""
    if not steps:
        return channel[rows[0] - start : rows[1] - start]
    (step, before), *others = steps
    ends = _after(step, before, np.array(rows[:1]), np.array(rows[1:]))
    inner_rows = int(ends[0][0]), int(ends[1][0])
    inner = _planes_back(channel, start, inner_rows, others, outside)
    shape = step.shape_after(before)
    if isinstance(step, Resize):
        if shape == before:
            return inner
        return resample_planes(inner, before, first=inner_rows[0], length=shape[0], rows=rows)
    if not len(inner):
        return np.full((rows[1] - rows[0], *before[1:]), outside, np.float32)
    offset = step.box[0][0] + inner_rows[0]
    own = Crop(((rows[0] - offset, rows[1] - offset), *step.inverse(before).box[1:]))
    return own.apply(inner, resample_values, outside=outside)


def _refuse_gap(at: int, have: int) -> None:
    if at != have:
        msg = f"slabs must follow each other, planes 0 to the last; got {at} after {have}."
        raise ValueError(msg)


def _refuse_turns(steps: Sequence[Step]) -> None:
    turns = [step for step in steps if not isinstance(step, (Crop, Resize))]
    if turns:
        msg = (
            f"steps must keep the axes, as those of a prepared scan do; got {turns[0]}. "
            "Use geometry.invert_to_labels."
        )
        raise ValueError(msg)
