"""Put four modalities on one grid, rigidly, so that a network can read them; no skull is stripped.

A way out where scans come as the scanner made them. It moves and turns (Mattes mutual information,
SimpleITK); it does not deform, does not correct bias fields and does not go into an atlas.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.volume import Volume, read_volume
from bratskit.labels import MODALITIES

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["Moved", "register_case"]

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts x and y the other way than NIfTI
LEFT_MM = 0.5  # resampling blurs more than a shift by half a voxel of 1 mm harms
BINS = 50  # of the joint histogram: Mattes et al. (2003), IEEE TMI 22(1):120-128
SAMPLES = 30_000  # voxels that the histogram is made of, drawn by a fixed seed
COARSE_MM = (4.0, 2.0, 1.0)  # spacing of the three levels, as far as the image is finer
SEED = 1


@dataclass(frozen=True, kw_only=True)
class Moved:
    """One modality on the grid of all.

    Attributes:
        image: Values `(I, J, K)` float32 on the grid of the reference, 0 outside of the file.
        affine: Voxel to world `(4, 4)` of that grid, RAS+, mm.
        to_file: From world coordinates of the reference to those of the modality's file, `(4, 4)`,
            RAS+, mm: the rigid movement that was found; the identity for the reference.
        moved_mm: How far it moves the corners of the reference's content, at most.
        is_left: Whether voxels are as they were: same grid, and next to no movement.
        likeness: Mutual information with the reference before and after, nats; higher is better.
    """

    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    to_file: NDArray[np.float64]
    moved_mm: float
    is_left: bool
    likeness: tuple[float, float]


def register_case(
    case: Case, *, reference: str = "t1ce", spacing_mm: float | None = 1.0
) -> dict[str, Moved]:
    """Register three modalities to the fourth and bring all to its grid.

    Args:
        case: Files of one patient, each on a grid of its own; the mask is not looked at.
        reference: Modality that stays where it is. T1ce, because BraTS did so.
        spacing_mm: Edge of the cubes that all are resampled to; None keeps the reference's own
            voxels, so that a mask lies on its file. A reference of that spacing stays as it is.

    Returns:
        By modality, in the order of `MODALITIES`.

    Raises:
        FileNotFoundError: A file does not exist.
        ValueError: A modality is missing or damaged, or two have nothing in common.
    """
    volumes = {name: _read(case, name) for name in MODALITIES}
    images = {name: _as_itk(volume) for name, volume in volumes.items()}
    fixed = images[reference]
    grid = fixed if spacing_mm is None else _grid_of(fixed, spacing_mm)
    moved = {}
    for name, volume in volumes.items():
        transform, likeness = _find(fixed, images[name], case, name, is_same=name == reference)
        moved[name] = _move(volume, images[name], grid, transform, likeness, _corners(fixed))
    return moved


def _read(case: Case, name: str) -> Volume:
    if name not in case.paths:
        msg = f"case {case.id} must have {name}; got no file. Registration makes no modality up."
        raise ValueError(msg)
    return read_volume(case.paths[name], case_id=case.id, channel=case.channels.get(name))


def _as_itk(volume: Volume) -> "SimpleITK.Image":
    """Hand a volume over in RAS+ order of axes, with ITK's own world coordinates."""
    import SimpleITK

    values = np.empty(volume.data.shape, np.float32)
    volume.write_values(values)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(np.nan_to_num(values).T))
    affine = TO_LPS @ volume.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def _affine_of(image: "SimpleITK.Image") -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return TO_LPS @ affine


def _grid_of(image: "SimpleITK.Image", spacing_mm: float) -> "SimpleITK.Image":
    """Cover an image with cubes, outer faces kept in place; itself where it has such voxels."""
    import SimpleITK

    old_mm, shape = np.array(image.GetSpacing()), np.array(image.GetSize())
    if np.allclose(old_mm, spacing_mm, rtol=0.01):
        return image
    new_shape = np.maximum(1, np.rint(shape * old_mm / spacing_mm)).astype(int)
    first = (shape * old_mm - new_shape * spacing_mm) / 2 + (spacing_mm - old_mm) / 2
    origin = image.GetOrigin() + np.reshape(image.GetDirection(), (3, 3)) @ first
    grid = SimpleITK.Image(new_shape.tolist(), SimpleITK.sitkFloat32)
    grid.SetSpacing([spacing_mm] * 3)
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(origin.tolist())
    return grid


def _find(
    fixed: "SimpleITK.Image", moving: "SimpleITK.Image", case: Case, name: str, *, is_same: bool
) -> tuple["SimpleITK.Transform", tuple[float, float]]:
    """Find the movement from the reference's world to that of a file, and how much it helps."""
    import SimpleITK

    stay = SimpleITK.Euler3DTransform()
    stay.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint(np.array(fixed.GetSize()) / 2))
    if is_same:
        return stay, (0.0, 0.0)
    centred = SimpleITK.Euler3DTransform(
        SimpleITK.CenteredTransformInitializer(
            fixed, moving, stay, SimpleITK.CenteredTransformInitializerFilter.MOMENTS
        )
    )
    begins = {stay: _likeness(fixed, moving, stay), centred: _likeness(fixed, moving, centred)}
    start, before = max(begins.items(), key=lambda pair: pair[1])
    if not np.isfinite(before):
        msg = (
            f"{name} of case {case.id} must show the head that the reference shows; got images "
            "that have no place in common. Are they of one patient?"
        )
        raise ValueError(msg)
    method = _method(fixed)
    method.SetInitialTransform(SimpleITK.Euler3DTransform(start), inPlace=False)
    found = SimpleITK.Euler3DTransform(
        SimpleITK.CompositeTransform(method.Execute(fixed, moving)).GetNthTransform(0)
    )
    after = _likeness(fixed, moving, found)
    return (found, (begins[stay], after)) if after > before else (start, (begins[stay], before))


def _method(
    fixed: "SimpleITK.Image", levels_mm: tuple[float, ...] = COARSE_MM
) -> "SimpleITK.ImageRegistrationMethod":
    import SimpleITK

    method = SimpleITK.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.MetricUseFixedImageGradientFilterOff()  # of samples alone, not of all voxels
    method.MetricUseMovingImageGradientFilterOff()
    method.SetInterpolator(SimpleITK.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=5e-3, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    factors = [max(1, round(coarse / min(fixed.GetSpacing()))) for coarse in levels_mm]
    n_voxels = [np.prod([max(1, n // each) for n in fixed.GetSize()]) for each in factors]
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(
        [float(min(1, SAMPLES / number)) for number in n_voxels], SEED
    )
    method.SetShrinkFactorsPerLevel(factors)
    method.SetSmoothingSigmasPerLevel([0.5 * (coarse - 1) for coarse in levels_mm])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    return method


def _likeness(
    fixed: "SimpleITK.Image", moving: "SimpleITK.Image", transform: "SimpleITK.Transform"
) -> float:
    """Mutual information at one place, nats; minus infinity where the images do not overlap."""
    method = _method(fixed, levels_mm=COARSE_MM[-1:])
    method.SetInitialTransform(transform)
    try:
        return -float(method.MetricEvaluate(fixed, moving))
    except RuntimeError:  # all samples map outside the moving image
        return -np.inf


def _corners(image: "SimpleITK.Image") -> list[tuple[float, ...]]:
    """Return the corners of what an image shows, in ITK's world."""
    import SimpleITK

    values = SimpleITK.GetArrayViewFromImage(image).T
    places = np.argwhere(values != values[0, 0, 0])
    low, high = (places.min(axis=0), places.max(axis=0)) if len(places) else ([0] * 3, values.shape)
    ends = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(-1, 3)
    return [image.TransformContinuousIndexToPhysicalPoint(end.astype(float)) for end in ends]


def _move(
    volume: Volume,
    image: "SimpleITK.Image",
    grid: "SimpleITK.Image",
    transform: "SimpleITK.Transform",
    likeness: tuple[float, float],
    corners: list[tuple[float, ...]],
) -> Moved:
    import SimpleITK

    steps = [np.subtract(transform.TransformPoint(corner), corner) for corner in corners]
    moved_mm = float(np.linalg.norm(steps, axis=1).max())
    is_same_grid = image.GetSize() == grid.GetSize() and np.allclose(
        _affine_of(image), _affine_of(grid), atol=1e-3
    )
    is_left = is_same_grid and moved_mm < LEFT_MM
    if is_left:
        new = image
    else:
        new = SimpleITK.Resample(image, grid, transform, SimpleITK.sitkLinear, 0.0)
        shown = SimpleITK.Cast(image != 0, SimpleITK.sitkUInt8)
        shown = SimpleITK.Resample(shown, grid, transform, SimpleITK.sitkNearestNeighbor, 0)
        new = SimpleITK.Mask(new, shown)  # a stripped brain gets no fringe
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    matrix[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return Moved(
        image=np.ascontiguousarray(SimpleITK.GetArrayFromImage(new).T),
        affine=volume.affine if is_left else _affine_of(grid),
        to_file=TO_LPS @ matrix @ TO_LPS,
        moved_mm=moved_mm,
        is_left=is_left,
        likeness=likeness,
    )
