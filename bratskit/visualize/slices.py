"""Cut one slice out of a RAS+ volume, turned as it is shown; numbers only, no drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.labels import LABELS, MODALITIES

__all__ = [
    "AXES",
    "CONVENTIONS",
    "ERRORS",
    "ERROR_COLOURS",
    "LABEL_COLOURS",
    "MODALITY_NAMES",
    "Axis",
    "Convention",
    "Plane",
    "brain_box",
    "busiest_index",
    "error_map",
    "intensity_window",
    "make_plane",
    "spread_indices",
    "to_grey",
]

Axis = Literal["sagittal", "coronal", "axial"]
Convention = Literal["radiological", "neurological"]
Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Rgb = tuple[int, int, int]

AXES = {"sagittal": 0, "coronal": 1, "axial": 2}  # which of I, J, K stands still
CONVENTIONS = {
    "radiological": "radiological: patient left on the right",
    "neurological": "neurological: patient left on the left",
}
MODALITY_NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
# Okabe and Ito (2008), "Color universal design": told apart with every common colour vision.
LABEL_COLOURS: dict[int, Rgb] = {1: (213, 94, 0), 2: (86, 180, 233), 3: (240, 228, 66)}
ERRORS = {1: "right", 2: "missed", 3: "false", 4: "wrong tissue"}
ERROR_COLOURS: dict[int, Rgb] = {
    1: (222, 222, 222),  # pale, so that only what is wrong has a colour
    2: (230, 159, 0),
    3: (0, 114, 178),
    4: (204, 121, 167),
}


@dataclass(frozen=True, kw_only=True)
class Plane:
    """One slice of a grid, and how it is turned for the eye.

    Attributes:
        axis: Direction that stands still.
        index: Slice number along that direction, in voxels of the native RAS+ grid.
        box: What is shown along I, J, K, in voxels, end excluded.
        spacing_mm: Voxel size along I, J, K in mm.
        convention: Which side of the picture is the patient's left.
    """

    axis: Axis
    index: int
    box: Box
    spacing_mm: tuple[float, float, float]
    convention: Convention = "radiological"

    @property
    def caption(self) -> str:
        """Axis and slice number, for example `axial K = 77`."""
        return f"{self.axis} {'IJK'[AXES[self.axis]]} = {self.index}"

    @property
    def letters(self) -> tuple[str, str, str, str]:
        """Anatomical directions at the top, bottom, left and right of the picture."""
        if self.axis == "sagittal":
            return "S", "I", "A", "P"
        top, bottom = ("A", "P") if self.axis == "axial" else ("S", "I")
        left, right = ("R", "L") if self.convention == "radiological" else ("L", "R")
        return top, bottom, left, right

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Height and width of one picture element in mm."""
        across, up = [number for number in range(3) if number != AXES[self.axis]]
        return self.spacing_mm[up], self.spacing_mm[across]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the picture in mm."""
        across, up = [number for number in range(3) if number != AXES[self.axis]]
        lengths = [stop - start for start, stop in self.box]
        return lengths[up] * self.pixel_mm[0], lengths[across] * self.pixel_mm[1]

    def cut(self, volume: NDArray) -> NDArray:
        """Take this slice out of a volume.

        Args:
            volume: `(I, J, K)` on the native RAS+ grid.

        Returns:
            `(rows, columns)`, top row first, turned as `letters` says.
        """
        where: list[slice | int] = [slice(start, stop) for start, stop in self.box]
        where[AXES[self.axis]] = self.index
        picture = volume[tuple(where)].T[::-1]  # upwards is A or S
        is_mirrored = self.axis == "sagittal" or self.convention == "radiological"
        return picture[:, ::-1] if is_mirrored else picture


def make_plane(
    scan: Scan,
    axis: Axis = "axial",
    index: int | None = None,
    *,
    labels: NDArray | None = None,
    box: Box | None = None,
    convention: Convention = "radiological",
) -> Plane:
    """Choose a slice of a scan, by default the one with the most tumour.

    Args:
        scan: The patient.
        axis: "axial", "coronal" or "sagittal".
        index: Slice number on the native grid; None takes the busiest one.
        labels: Decides which slice is busiest, `(I, J, K)`; None asks `scan.labels`.
        box: What is shown; None shows the brain with a small margin.
        convention: Which side of the picture is the patient's left.

    Raises:
        ValueError: The axis or convention is unknown, or the slice lies outside the grid.
    """
    _check_choice("axis", axis, AXES)
    _check_choice("convention", convention, CONVENTIONS)
    box = brain_box(scan.image) if box is None else box
    if index is None:
        labels = scan.labels if labels is None else labels
        index = busiest_index(labels, axis, box=box)
    n_slices = scan.image.shape[1 + AXES[axis]]
    if not 0 <= index < n_slices:
        msg = f"index must be in 0..{n_slices - 1} along {axis} of {scan.id}; got {index}."
        raise ValueError(msg)
    return Plane(
        axis=axis, index=int(index), box=box, spacing_mm=scan.spacing_mm, convention=convention
    )


def brain_box(image: NDArray, *, margin_vox: int = 5) -> Box:
    """Find the box around every voxel that is not zero in some modality.

    Args:
        image: `(C, I, J, K)`.
        margin_vox: Kept free around the brain, as far as the grid goes.

    Returns:
        Start and end (excluded) along I, J, K; the whole grid where all is zero.
    """
    brain = (image != 0).any(axis=0)
    box = []
    for axis, length in enumerate(brain.shape):
        others = tuple(number for number in range(3) if number != axis)
        filled = np.flatnonzero(brain.any(axis=others))
        first, last = (filled[0], filled[-1]) if filled.size else (0, length - 1)
        box.append((max(0, int(first) - margin_vox), min(length, int(last) + 1 + margin_vox)))
    return box[0], box[1], box[2]


def busiest_index(labels: NDArray | None, axis: Axis, *, box: Box) -> int:
    """Number the slice with most tumour voxels, or the middle of the box where there are none."""
    number = AXES[axis]
    if labels is not None and labels.any():
        others = tuple(other for other in range(3) if other != number)
        return int(np.argmax(np.count_nonzero(labels, axis=others)))
    return sum(box[number]) // 2


def spread_indices(labels: NDArray | None, axis: Axis, *, box: Box, n_slices: int) -> list[int]:
    """Number slices spread evenly over the tumour, or over the middle of the box without one."""
    number = AXES[axis]
    start, stop = box[number]
    filled = np.array([start + (stop - start) // 5, stop - 1 - (stop - start) // 5])
    if labels is not None and labels.any():
        others = tuple(other for other in range(3) if other != number)
        filled = np.flatnonzero(labels.any(axis=others))
    places = np.linspace(filled[0], filled[-1], n_slices + 2)[1:-1]
    return sorted({round(float(place)) for place in places})


def intensity_window(volume: NDArray) -> tuple[float, float]:
    """Choose what is drawn black and white: 1st and 99.5th percentile of the non-zero voxels.

    Args:
        volume: One modality, `(I, J, K)`; every other voxel along each axis is looked at.

    Returns:
        Lower and upper intensity; `(0, 1)` where all is zero.
    """
    sample = volume[::2, ::2, ::2]
    sample = sample[sample != 0]
    if sample.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(sample, (1, 99.5))
    return float(low), float(max(high, low + 1e-6))


def to_grey(picture: NDArray, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Map intensities to 0..255, background (exactly 0) to black."""
    low, high = window
    grey = (picture - low) * (255.0 / (high - low))
    return np.where(picture == 0, 0, np.clip(grey + 0.5, 0, 255)).astype(np.uint8)


def error_map(*, pred: NDArray, truth: NDArray) -> NDArray[np.uint8]:
    """Compare two label maps voxel by voxel.

    Args:
        pred: Predicted internal labels, any shape.
        truth: Reference internal labels of the same shape.

    Returns:
        The keys of `ERRORS`: 0 background in both, 1 right, 2 missed tumour, 3 false tumour,
        4 tumour in both but another tissue.

    Raises:
        ValueError: The shapes differ.

    Examples:
        >>> error_map(pred=np.array([0, 1, 0, 2, 3]), truth=np.array([0, 1, 2, 0, 1])).tolist()
        [0, 1, 2, 3, 4]
    """
    if pred.shape != truth.shape:
        msg = (
            f"pred must have the shape of truth {truth.shape}; got {pred.shape}. "
            "Return the prediction to the native grid first."
        )
        raise ValueError(msg)
    in_pred, in_truth = pred > 0, truth > 0
    errors = np.zeros(pred.shape, dtype=np.uint8)
    errors[in_truth & ~in_pred] = 2
    errors[in_pred & ~in_truth] = 3
    errors[in_pred & in_truth] = 4
    errors[in_pred & (pred == truth)] = 1
    return errors


def modality_index(modality: str) -> int:
    """Number a modality in the channel order, refusing names that do not exist."""
    _check_choice("modality", modality, MODALITIES)
    return MODALITIES.index(modality)


def label_name(label: int) -> str:
    """Name a label for a legend."""
    return {
        1: "NCR necrotic core",
        2: "ED oedema",
        3: "ET enhancing",
    }.get(label, LABELS.get(label, str(label)))


def check_on_grid(labels: NDArray, scan: Scan, *, name: str) -> None:
    """Refuse a label map that is not on the grid of the scan."""
    if labels.shape != scan.image.shape[1:]:
        msg = (
            f"{name} must be on the native grid {scan.image.shape[1:]} of {scan.id}; got shape "
            f"{labels.shape}. Return it to the native grid first: `geometry.invert_labels`."
        )
        raise ValueError(msg)


def _check_choice(name: str, value: str, choices: Sequence[str] | dict) -> None:
    if value not in choices:
        msg = f"{name} must be one of {tuple(choices)}; got {value!r}."
        raise ValueError(msg)
