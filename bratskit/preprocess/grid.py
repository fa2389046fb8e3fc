"""Change one voxel grid into another in one step, cut or pad, resize, turn; chains are not its job.

A step goes forward only. Its way back is another step, `inverse`, which needs to know the shape of
the grid before: that a cut comes back as padding and padding as a cut follows from one definition.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Box",
    "Crop",
    "Orient",
    "Resample",
    "Resize",
    "Step",
    "Triple",
    "check_shape",
    "simplify",
    "step_from_dict",
    "whole_box",
]

Triple = tuple[int, int, int]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Resample = Callable[[NDArray, Triple], NDArray]  # an array and its new last three lengths


@dataclass(frozen=True)
class Crop:
    """Cut a box out of a grid, or pad where the box reaches past the grid.

    Attributes:
        box: First and past-the-last voxel along each axis, in voxels of the grid before; a
            negative first or a last beyond the grid means padding there.

    Examples:
        >>> crop = Crop(((1, 3), (-1, 3), (0, 2)))
        >>> crop.shape_after((4, 2, 2))
        (2, 4, 2)
        >>> crop.inverse((4, 2, 2)).box
        ((-1, 3), (1, 3), (0, 2))
    """

    box: Box

    @classmethod
    def middle(cls, shape: Triple, size_vox: Triple) -> "Crop":
        """Centre a box of `size_vox` on a grid; an odd voxel over is cut or padded at the end."""
        starts = [(length - size) // 2 for length, size in zip(shape, size_vox, strict=True)]
        return cls(_box((low, low + size) for low, size in zip(starts, size_vox, strict=True)))

    def shape_after(self, shape: Triple) -> Triple:
        """Give the shape of the grid after this step."""
        if any(a >= min(b, n) or b <= 0 for (a, b), n in zip(self.box, shape, strict=True)):
            msg = (
                f"box must overlap the grid it is cut from, of shape {shape}; got {self.box}. "
                "Count voxels from the first one of that grid."
            )
            raise ValueError(msg)
        return _triple(stop - start for start, stop in self.box)

    def to_before(self, shape: Triple) -> NDArray[np.float64]:
        """Give the matrix `(4, 4)` that sends a voxel after this step to the one before."""
        matrix = np.eye(4)
        matrix[:3, 3] = [start for start, _ in self.box]
        return matrix

    def inverse(self, shape: Triple) -> "Crop":
        """Give the step back to a grid of `shape`."""
        return Crop(
            _box((-start, n - start) for (start, _), n in zip(self.box, shape, strict=True))
        )

    def reach(self, box: Box, shape: Triple) -> Box:
        """Name the voxels before this step that those of `box` after it are made from."""
        return _box(
            (min(max(start + low, 0), n), min(max(start + high, 0), n))
            for (low, high), (start, _), n in zip(box, self.box, shape, strict=True)
        )

    keeps = reach

    def apply(self, array: NDArray, resample: Resample, *, outside: float = 0) -> NDArray:
        """Cut the last three axes; a view where nothing is padded, with `outside` elsewhere."""
        before = _triple(array.shape[-3:])
        after = self.shape_after(before)
        part = Crop(self.reach(whole_box(after), before)).cut(array)
        if part.shape[-3:] == after:
            return part
        padded = np.full((*array.shape[:-3], *after), outside, array.dtype)
        place = self.inverse(before).reach(whole_box(before), after)
        Crop(place).cut(padded)[...] = part
        return padded

    def cut(self, array: NDArray) -> NDArray:
        """View the box in the last three axes of an array; it must lie inside."""
        return array[(..., *(slice(start, stop) for start, stop in self.box))]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {"crop": self.box}


@dataclass(frozen=True)
class Resize:
    """Resample a grid to another number of voxels within the same outer faces.

    New voxel p of an axis has its centre at old index `(p + 1/2) * before / after - 1/2`.

    No low-pass filter comes first. Up to a factor 2 there is nothing to gain: at exactly 2 the
    trilinear kernel is the mean of 2x2x2 voxels already. Beyond 2 (coarser than any named recipe
    but "smoke") it skips voxels, and fine texture aliases.

    Attributes:
        shape: Number of voxels along each axis.
    """

    shape: Triple

    def shape_after(self, shape: Triple) -> Triple:
        """Give the shape of the grid after this step."""
        if min(self.shape) < 1:
            msg = f"shape must be positive; got {self.shape}. Try {shape}, which changes nothing."
            raise ValueError(msg)
        return self.shape

    def to_before(self, shape: Triple) -> NDArray[np.float64]:
        """Give the matrix `(4, 4)` that sends a voxel after this step to the one before."""
        scale = np.array(shape) / np.array(self.shape)
        matrix = np.diag([*scale, 1.0])
        matrix[:3, 3] = scale / 2 - 0.5
        return matrix

    def inverse(self, shape: Triple) -> "Resize":
        """Give the step back to a grid of `shape`."""
        return Resize(shape)

    def reach(self, box: Box, shape: Triple) -> Box:
        """Name the voxels before this step that those after it are made from: simply all."""
        return whole_box(shape)

    def keeps(self, box: Box, shape: Triple) -> Box:
        """Name the voxels before this step whose centres lie within `box` after it."""
        scale = np.array(shape) / np.array(self.shape)
        ends = np.ceil(np.array(box) * scale[:, None] - 0.5).astype(int)
        return _box(ends)

    def apply(self, array: NDArray, resample: Resample, *, outside: float = 0) -> NDArray:
        """Resample the last three axes; the array itself where the shape is right already."""
        return array if array.shape[-3:] == self.shape else resample(array, self.shape)

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {"resize": self.shape}


@dataclass(frozen=True)
class Orient:
    """Permute and flip the axes of a grid.

    Attributes:
        axes: Old axis that each new one is.
        flips: Whether each new axis runs against the old one.

    Examples:
        >>> turn = Orient((2, 0, 1), (True, False, False))
        >>> turn.inverse((4, 5, 6))
        Orient(axes=(1, 2, 0), flips=(False, False, True))
    """

    axes: Triple
    flips: tuple[bool, bool, bool]

    @classmethod
    def to_ras(cls, affine: ArrayLike) -> "Orient":
        """Turn the grid of an affine such that I, J, K run most nearly right, anterior, superior.

        The same choice as nibabel's `as_closest_canonical`, also for oblique and sheared grids.
        """
        ornt = io_orientation(np.asarray(affine, dtype=np.float64))
        axes = [int(np.flatnonzero(ornt[:, 0] == axis)[0]) for axis in range(3)]
        return cls(_triple(axes), tuple(bool(ornt[axis, 1] < 0) for axis in axes))

    def shape_after(self, shape: Triple) -> Triple:
        """Give the shape of the grid after this step."""
        if sorted(self.axes) != [0, 1, 2]:
            msg = (
                f"axes must name 0, 1 and 2 once each; got {self.axes}. Try Orient.to_ras(affine)."
            )
            raise ValueError(msg)
        return _triple(shape[axis] for axis in self.axes)

    def to_before(self, shape: Triple) -> NDArray[np.float64]:
        """Give the matrix `(4, 4)` that sends a voxel after this step to the one before."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[old, new] = -1 if flip else 1
            matrix[old, 3] = shape[old] - 1 if flip else 0
        return matrix

    def inverse(self, shape: Triple) -> "Orient":
        """Give the step back to a grid of `shape`."""
        axes = _triple(self.axes.index(axis) for axis in range(3))
        return Orient(axes, tuple(self.flips[axis] for axis in axes))

    def reach(self, box: Box, shape: Triple) -> Box:
        """Name the voxels before this step that those of `box` after it are made from."""
        before = [(0, 0)] * 3
        for (low, high), old, flip in zip(box, self.axes, self.flips, strict=True):
            before[old] = (shape[old] - high, shape[old] - low) if flip else (low, high)
        return _box(before)

    keeps = reach

    def apply(self, array: NDArray, resample: Resample, *, outside: float = 0) -> NDArray:
        """View the last three axes permuted and flipped."""
        first = array.ndim - 3
        turned = array.transpose(*range(first), *(first + axis for axis in self.axes))
        return turned[(..., *(slice(None, None, -1 if flip else 1) for flip in self.flips))]

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values."""
        return {"orient": {"axes": self.axes, "flips": self.flips}}


Step = Crop | Resize | Orient


def step_from_dict(values: Mapping[str, object]) -> Step:
    """Rebuild a step from its `to_dict`, also after a trip through JSON.

    Raises:
        ValueError: The kind of step is unknown.
    """
    (kind, value), *others = values.items()
    if kind == "crop" and not others:
        return Crop(_box(value))
    if kind == "resize" and not others:
        return Resize(_triple(value))
    if kind == "orient" and not others:
        return Orient(_triple(value["axes"]), tuple(bool(flip) for flip in value["flips"]))
    msg = f"a step must be one of crop, resize, orient; got {dict(values)}. Prepare the case again."
    raise ValueError(msg)


def simplify(steps: Iterable[Step], shape: Triple) -> tuple[Step, ...]:
    """Drop steps that change nothing, and join crops that follow each other where that is the same.

    Two crops are one where no voxel that the first cuts off lies in the joint box: padding would
    stand there otherwise, and must go on doing so.

    Args:
        steps: Steps from a grid of `shape`.
        shape: Shape of the grid before the first.
    """
    short: list[tuple[Step, Triple]] = []
    for step in steps:
        if short and isinstance(step, Crop) and isinstance(short[-1][0], Crop):
            first, before = short[-1]
            start = [low for low, _ in first.box]
            joint = Crop(_box((s + a, s + b) for s, (a, b) in zip(start, step.box, strict=True)))
            if _is_inside(joint.reach(whole_box(joint.shape_after(before)), before), first.box):
                short.pop()
                step, shape = joint, before
        after = step.shape_after(shape)
        if after != shape or not np.array_equal(step.to_before(shape), np.eye(4)):
            short.append((step, shape))
        shape = after
    return tuple(step for step, _ in short)


def whole_box(shape: Triple) -> Box:
    """Give the box of a whole grid."""
    return _box((0, length) for length in shape)


def _is_inside(box: Box, other: Box) -> bool:
    return all(c <= a and b <= d for (a, b), (c, d) in zip(box, other, strict=True))


def _box(ends: Iterable[Iterable[int]]) -> Box:
    first, second, third = ((int(start), int(stop)) for start, stop in ends)
    return first, second, third


def _triple(values: Iterable[int]) -> Triple:
    first, second, third = (int(value) for value in values)
    return first, second, third


def check_shape(array: NDArray, shape: Triple, name: str) -> None:
    """Refuse an array whose last three axes are not the grid of that name."""
    if tuple(array.shape[-3:]) != shape:
        msg = (
            f"array must end in {name} {shape}; got {tuple(array.shape)}. "
            "Use the geometry that was planned for this very scan."
        )
        raise ValueError(msg)
