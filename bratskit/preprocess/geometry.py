"""Carry arrays between scanner's grid and prepared grid, both ways; it changes no intensities."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bratskit.cases.case import Scan
from bratskit.cases.volume import GRID_TOLERANCE_MM, grid_distance_mm
from bratskit.preprocess.decide import decide
from bratskit.preprocess.grid import (
    Box,
    Crop,
    Orient,
    Resample,
    Resize,
    Step,
    Triple,
    check_shape,
    simplify,
    step_from_dict,
    whole_box,
)
from bratskit.preprocess.plan import plan_steps, spacing_of
from bratskit.preprocess.resample import (
    resample_labels,
    resample_mask,
    resample_nearest,
    resample_values,
)
from bratskit.preprocess.steps import brain_box, brain_mask
from bratskit.settings import GeometrySettings, Targets

__all__ = ["Box", "Crop", "Geometry", "Interpolation", "Orient", "Resize", "outside_values"]

Interpolation = Literal["linear", "nearest"]
Probs = NDArray[np.float32]
_RESAMPLE_LABELS = {"linear": resample_labels, "nearest": resample_nearest}


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Map one native grid to one prepared grid and back, as a chain of steps and their receipt.

    Going back is the chain of the steps' inverses in reverse order, so forward and back cannot
    disagree. Where no step resamples, what was reached comes back bit for bit.

    Attributes:
        native_shape: Shape `(I, J, K)` of the scan, RAS+.
        native_affine: Voxel to world, four rows of four, mm, of the RAS+ grid.
        steps: `Crop` (which may pad), `Resize` and `Orient`, the first one first.

    Examples:
        >>> steps = Crop(((1, 7), (0, 8), (2, 8))), Resize((3, 4, 3))
        >>> affine = ((1.0, 0, 0, 0), (0, 1.0, 0, 0), (0, 0, 1.0, 0), (0, 0, 0, 1.0))
        >>> geometry = Geometry(native_shape=(8, 8, 8), native_affine=affine, steps=steps)
        >>> geometry.shape, geometry.spacing_mm, geometry.box
        ((3, 4, 3), (2.0, 2.0, 2.0), ((1, 7), (0, 8), (2, 8)))
    """

    native_shape: Triple
    native_affine: tuple[tuple[float, ...], ...]
    steps: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if any(start >= stop for start, stop in self.box):
            msg = (
                f"steps must keep some of native_shape {self.native_shape}; got {self.steps}. "
                "Use Geometry.plan."
            )
            raise ValueError(msg)

    @classmethod
    def plan(
        cls,
        scan: Scan | NDArray[np.bool_],
        settings: GeometrySettings,
        *,
        affine: ArrayLike | None = None,
    ) -> "Geometry":
        """Decide the steps for one scan: region, then spacing or size, then centre crop.

        Args:
            scan: The scan, or its brain mask `(I, J, K)` bool where that is known already.
            settings: What is wanted. `size_vox` has the last word over `spacing_mm`: 1 mm and then
                128^3 is one resample, not two. A spacing is met to the nearest whole voxel of the
                region, so 1 mm data asked to be 1 mm is not resampled.
            affine: Voxel to world of a mask's grid, mm; taken from the scan otherwise.

        Raises:
            ValueError: The scan holds no brain, the centre crop misses it, or a mask came without
                an affine.
        """
        mask = brain_mask(scan.image) if isinstance(scan, Scan) else scan
        affine = scan.affine if isinstance(scan, Scan) else affine
        if affine is None:
            msg = "affine must be given beside a mask; got None. Pass affine=scan.affine."
            raise ValueError(msg)
        return cls.around(brain_box(mask), mask.shape, affine=affine, settings=settings)

    @classmethod
    def around(
        cls, brain: Box, shape: Triple, *, affine: ArrayLike, settings: GeometrySettings
    ) -> "Geometry":
        """Decide the steps, as `plan` does, where the brain box in a grid of `shape` is known."""
        matrix = np.asarray(affine, dtype=np.float64)
        return cls._simple(shape, matrix, plan_steps(shape, brain, matrix, settings))

    @classmethod
    def orient(cls, shape: Triple, affine: ArrayLike) -> "Geometry":
        """Turn a grid as it lies on disk to RAS+: permuted and flipped, nothing interpolated.

        Args:
            shape: Shape of the grid on disk.
            affine: Its voxel to world matrix `(4, 4)`, mm, in the NIfTI world (RAS+).
        """
        return cls._simple(shape, np.asarray(affine, dtype=np.float64), (Orient.to_ras(affine),))

    @classmethod
    def _simple(
        cls, shape: Triple, affine: NDArray[np.float64], steps: tuple[Step, ...]
    ) -> "Geometry":
        shape = tuple(int(length) for length in shape)
        rows = tuple(tuple(float(value) for value in row) for row in affine)
        return cls(native_shape=shape, native_affine=rows, steps=simplify(steps, shape))

    @cached_property
    def shapes(self) -> tuple[Triple, ...]:
        """Shape before each step and, last, after all."""
        shapes = [self.native_shape]
        for step in self.steps:
            shapes.append(step.shape_after(shapes[-1]))
        return tuple(shapes)

    @property
    def shape(self) -> Triple:
        """Shape `(i, j, k)` of the prepared grid."""
        return self.shapes[-1]

    @cached_property
    def box(self) -> Box:
        """Part of the native grid that the prepared grid is made from, all inside the grid."""
        box = whole_box(self.shape)
        for step, before in reversed(self._with_shapes()):
            box = step.reach(box, before)
        return box

    @property
    def kept(self) -> Box:
        """Native voxels whose centres lie in the prepared grid: what no crop cuts off.

        It is `box`, except where a centre crop follows a resample.
        """
        box = whole_box(self.shape)
        for step, before in reversed(self._with_shapes()):
            box = step.keeps(box, before)
        return box

    @property
    def box_shape(self) -> Triple:
        """Size of `box` on the native grid, voxels."""
        return Crop(self.box).shape_after(self.native_shape)

    @property
    def is_resampling(self) -> bool:
        """Tell whether prepared voxels are interpolated; if not, there and back is exact."""
        resizes = ((s, before) for s, before in self._with_shapes() if isinstance(s, Resize))
        return any(step.shape != before for step, before in resizes)

    @property
    def spacing_native_mm(self) -> tuple[float, float, float]:
        """Voxel size of the native grid along I, J, K, mm."""
        return spacing_of(np.array(self.native_affine))

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size of the prepared grid along I, J, K, mm: what is, not what was asked for."""
        return spacing_of(self.affine)

    @property
    def affine(self) -> NDArray[np.float64]:
        """Voxel to world `(4, 4)` of the prepared grid, mm."""
        affine = np.array(self.native_affine)
        for step, before in self._with_shapes():
            affine = affine @ step.to_before(before)
        return affine

    def crop(self, array: NDArray) -> NDArray:
        """View `box` in an array whose last three axes are the native grid."""
        check_shape(array, self.native_shape, "native_shape")
        return Crop(self.box).cut(array)

    def apply_image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring intensities `(C, I, J, K)` to the prepared grid `(C, i, j, k)`, trilinear.

        A geometry without resampling returns the very numbers that came, contiguous; padding is 0.
        """
        return self._apply(image, resample_values)

    def apply_mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bring a mask `(I, J, K)` to the prepared grid: true where at least half is covered."""
        return self._apply(mask, resample_mask)

    def apply_labels(self, labels: NDArray, *, how: Interpolation = "linear") -> NDArray[np.uint8]:
        """Bring integer labels `(I, J, K)` to the prepared grid `(i, j, k)`; padding is 0.

        Args:
            labels: Internal labels.
            how: "linear" interpolates each label's own mask and takes the largest, ties going to
                the larger label; "nearest" takes the nearest voxel.
        """
        return self._apply(np.asarray(labels, dtype=np.uint8), _RESAMPLE_LABELS[how])

    def invert(self, probs: Probs, *, targets: Targets = "labels") -> Probs:
        """Bring probabilities `(L, i, j, k)` back to the native grid `(L, I, J, K)`, trilinear.

        Where the prepared grid does not reach all is 0, but of "labels" channel 0, the background,
        is 1. Four channels of a BraTS scan take 143 MB; `invert_to_labels` needs a fraction.
        """
        return self._invert(probs, outside=outside_values(len(probs), targets))

    def invert_image(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring intensities `(C, i, j, k)` back to `(C, I, J, K)`, 0 where nothing was reached."""
        return self._invert(image, outside=[0.0] * len(image))

    def invert_to_labels(self, probs: Probs, *, targets: Targets = "labels") -> NDArray[np.uint8]:
        """Decide labels `(I, J, K)` on the native grid: `invert(probs)`, then `decide`, box only.

        Args:
            probs: Probabilities `(L, i, j, k)`, background first, or of WT, TC and ET. They are
                interpolated a channel at a time, so that memory stays at three brain boxes.
            targets: What the channels are.
        """
        check_shape(probs, self.shape, "shape")
        labels = np.zeros(self.native_shape, dtype=np.uint8)
        channels = (
            self._to_box(channel, resample_values, outside=value)
            for channel, value in zip(probs, outside_values(len(probs), targets), strict=True)
        )
        self.crop(labels)[...] = decide(channels, targets=targets)
        return labels

    def invert_labels(self, labels: NDArray, *, how: Interpolation = "linear") -> NDArray[np.uint8]:
        """Bring labels `(i, j, k)` back to the native grid `(I, J, K)`; outside the box is 0."""
        check_shape(labels, self.shape, "shape")
        native = np.zeros(self.native_shape, dtype=np.uint8)
        self.crop(native)[...] = self._to_box(np.asarray(labels, np.uint8), _RESAMPLE_LABELS[how])
        return native

    def round_trip(self, labels: NDArray, *, how: Interpolation = "linear") -> NDArray[np.uint8]:
        """Send labels `(I, J, K)` to the prepared grid and back, as a perfect network would."""
        return self.invert_labels(self.apply_labels(labels, how=how), how=how)

    def then(self, other: "Geometry") -> "Geometry":
        """Append the steps of a geometry whose native grid is this one's prepared grid.

        Raises:
            ValueError: Shapes differ, or a voxel would lie elsewhere in the world.
        """
        apart_mm = grid_distance_mm(self.affine, np.array(other.native_affine), self.shape)
        if other.native_shape != self.shape or apart_mm > GRID_TOLERANCE_MM:
            msg = (
                f"other must start on this prepared grid, shape {self.shape}; got shape "
                f"{other.native_shape} with a corner {apart_mm:.2f} mm away. "
                "Plan it with affine=geometry.affine."
            )
            raise ValueError(msg)
        affine = np.array(self.native_affine)
        return self._simple(self.native_shape, affine, (*self.steps, *other.steps))

    def after_crop(self, box: Box) -> "Geometry":
        """Give the same way for arrays that are cropped to `box`, and 0 in the rest of the scan.

        Args:
            box: Part of the native grid, for example the brain box: what was normalised there is
                0 elsewhere, so it need never be put back on the whole grid.
        """
        inwards = Crop(box)
        outwards = inwards.inverse(self.native_shape)
        affine = np.array(self.native_affine) @ inwards.to_before(self.native_shape)
        shape = inwards.shape_after(self.native_shape)
        return self._simple(shape, affine, (outwards, *self.steps))

    def to_dict(self) -> dict[str, object]:
        """Return the receipt: plain JSON values, what follows from the fields beside them."""
        return {
            "native_shape": self.native_shape,
            "native_affine": self.native_affine,
            "steps": [step.to_dict() for step in self.steps],
            "box": self.box,
            "shape": self.shape,
            "spacing_native_mm": self.spacing_native_mm,
            "spacing_mm": self.spacing_mm,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, object]) -> "Geometry":
        """Rebuild a geometry from its receipt, also after a trip through JSON.

        Raises:
            ValueError: It is no receipt, or an older version wrote it.
        """
        missing = {"native_shape", "native_affine", "steps"} - set(values)
        if missing:
            msg = (
                f"a geometry's receipt must hold {sorted(missing)}; got {sorted(values)}, from an "
                "older version. Prepare the case again: `bratskit prepare DATA STORE`."
            )
            raise ValueError(msg)
        return cls(
            native_shape=tuple(values["native_shape"]),
            native_affine=tuple(tuple(row) for row in values["native_affine"]),
            steps=tuple(step_from_dict(step) for step in values["steps"]),
        )

    def _with_shapes(self) -> list[tuple[Step, Triple]]:
        return list(zip(self.steps, self.shapes[:-1], strict=True))

    def _apply(self, array: NDArray, resample: Resample) -> NDArray:
        check_shape(array, self.native_shape, "native_shape")
        for step in self.steps:
            array = step.apply(array, resample)
        return np.ascontiguousarray(array)

    def _invert(self, image: NDArray, *, outside: list[float]) -> NDArray[np.float32]:
        check_shape(image, self.shape, "shape")
        native = np.empty((len(image), *self.native_shape), dtype=np.float32)
        for channel, into, value in zip(image, native, outside, strict=True):
            into[...] = value
            self.crop(into)[...] = self._to_box(channel, resample_values, outside=value)
        return native

    def _to_box(self, array: NDArray, resample: Resample, *, outside: float = 0) -> NDArray:
        """Send one volume `(i, j, k)` back to the native box, which spares the memory around it."""
        for step, before in reversed(self._within_box._with_shapes()):
            array = step.inverse(before).apply(array, resample, outside=outside)
        return array

    @cached_property
    def _within_box(self) -> "Geometry":
        return self.after_crop(self.box)


def outside_values(n_channels: int, targets: Targets) -> list[float]:
    """Say what each channel is where nothing was seen: background of labels, in no region."""
    return [float(targets == "labels")] + [0.0] * (n_channels - 1)
