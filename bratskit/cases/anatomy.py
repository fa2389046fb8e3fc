"""Bend the MNI152 tissue maps into a new head: tissues, ventricles, brain mask; no intensities."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bratskit.cases.fields import smooth_noise, uniform

__all__ = [
    "FIELD_OF_VIEW_MM",
    "Anatomy",
    "Grid",
    "Head",
    "Template",
    "draw_head",
    "load_template",
    "shape_anatomy",
]

Array = NDArray[np.float32]
Push = Callable[[list[Array]], list[Array]]

FIELD_OF_VIEW_MM = (244.0, 244.0, 160.0)  # the BraTS grid of 240x240x155 mm, with room to round
# Centre of the template's brain, and of its lateral ventricles, in template voxels (1 mm).
_BRAIN_CENTRE = np.array([98.0, 117.0, 80.0])
_VENTRICLE_CENTRE = np.array([98.0, 122.0, 86.0])
# Centre of mass of thirty BraTS brains in RAS+ millimetres of the 240x240x155 grid.
_PHANTOM_CENTRE = np.array([119.5, 107.5, 77.0])
# Extent of BraTS brains (138 x 170 x 138 mm) over the template's, less what the bends add.
_MEAN_SCALE = np.array([0.925, 0.93, 0.885])


@dataclass(frozen=True)
class Grid:
    """Sample space in a box of the phantom's field of view.

    Attributes:
        shape: Voxels of the box.
        spacing_mm: Voxel size.
        start_vox: First voxel of the box in the whole field of view.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    start_vox: tuple[int, int, int]

    def lines_mm(self) -> list[NDArray[np.float64]]:
        """Return voxel-centre coordinates along each axis; 1 mm voxel 0 has its centre at 0.5."""
        parts = zip(self.shape, self.start_vox, self.spacing_mm, strict=True)
        return [(np.arange(n) + first + 0.5) * s for n, first, s in parts]

    def axes_mm(self) -> list[Array]:
        """Return the lines as float32 arrays that broadcast to `shape`."""
        return [line.astype(np.float32) for line in np.ix_(*self.lines_mm())]

    def points_mm(self, voxels: NDArray[np.int64]) -> list[Array]:
        """Return the coordinates of voxels given by flat index, three arrays."""
        indices = np.unravel_index(voxels, self.shape)
        lines = [line.astype(np.float32) for line in self.lines_mm()]
        return [line[index] for line, index in zip(lines, indices, strict=True)]

    def noise(self, rng: np.random.Generator, *, knots_mm: float) -> Array:
        """Draw a smooth field of variance 1 on this grid."""
        return smooth_noise(rng, self.lines_mm(), knots_mm=knots_mm, extent_mm=FIELD_OF_VIEW_MM)


@dataclass(frozen=True)
class Template:
    """Tissue maps of the MNI152 average brain on its own 1 mm RAS+ grid, uint8.

    Attributes:
        white: White-matter fraction times 255.
        csf: CSF fraction times 255, from the T1 template: the grey map alone closes the sulci.
        depth: Distance to the outside of the brain, quarter millimetres, 0 outside.
        ventricle_distance: Distance to the ventricles, quarter millimetres.
    """

    white: NDArray[np.uint8]
    csf: NDArray[np.uint8]
    depth: NDArray[np.uint8]
    ventricle_distance: NDArray[np.uint8]


def _template_file(kind: str) -> Path:
    spec = importlib.util.find_spec("nilearn")
    name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    path = Path(spec.origin).parent / "datasets" / "data" / name if spec and spec.origin else None
    if path is None or not path.exists():
        msg = (
            f"template {name} must come with nilearn; got {path}. "
            "Run: pip install --no-deps nilearn"
        )
        raise FileNotFoundError(msg)
    return path


def _distance(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Measure the distance to the nearest False voxel on every second voxel; quarter mm."""
    coarse = ndi.distance_transform_edt(mask[::2, ::2, ::2]).astype(np.float32) * 8
    grown = ndi.zoom(coarse, 2, order=1, grid_mode=False)
    full = np.zeros(mask.shape, np.float32)
    cut = tuple(slice(0, min(a, b)) for a, b in zip(grown.shape, mask.shape, strict=True))
    full[cut] = grown[cut]
    return np.clip(full, 0, 255).astype(np.uint8)


@lru_cache(maxsize=1)
def load_template() -> Template:
    """Read the template maps that ship in the nilearn wheel (nilearn itself is not imported).

    Raises:
        FileNotFoundError: nilearn is not installed.

    Source:
        Fonov et al. (2011), NeuroImage 54(1):313-327 (ICBM 2009a nonlinear symmetric).
    """
    white, grey, t1 = (
        np.asarray(nib.load(_template_file(kind)).dataobj, dtype=np.float32)
        for kind in ("wm", "gm", "t1")
    )
    brain = ndi.binary_fill_holes(t1 > 0)
    of_grey, of_csf = np.median(t1[grey > 200]), np.percentile(t1[brain], 1.5)
    dark = (0.97 * of_grey - t1) / (0.62 * (of_grey - of_csf))
    csf = np.where(brain, np.clip(np.maximum(dark, 1 - (white + grey) / 200), 0, 1), 1)
    depth = _distance(brain)
    inner = (csf > 0.6) & (depth > 22 * 4)
    parts, _ = ndi.label(inner)
    ventricles = parts == (np.bincount(parts.ravel())[1:].argmax() + 1)
    return Template(
        white=white.astype(np.uint8),
        csf=(csf * 255).astype(np.uint8),
        depth=depth,
        ventricle_distance=_distance(~ventricles),
    )


@dataclass(frozen=True)
class Head:
    """The drawn shape of one head, before anything is sampled.

    Attributes:
        matrix: Phantom mm to template voxels, `(3, 3)`.
        centre_mm: Phantom point that lands on the template's brain centre.
        ventricles: Growth of the ventricles, -0.3 (small) to 0.5 (wide).
        atrophy: Widening of the sulci, 0 none to 1 strong.
        bend_mm: Standard deviation of the displacement at 32 mm knots and at 13 mm knots.
    """

    matrix: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    ventricles: float
    atrophy: float
    bend_mm: tuple[float, float]


@dataclass(frozen=True)
class Anatomy:
    """Tissue fractions of one head, at its brain voxels only: `(N,)` float32 each.

    Attributes:
        brain: What the skull strip keeps, `(I, J, K)` bool.
        voxels: Flat indices of the N brain voxels.
        white: White-matter fraction.
        grey: Grey-matter fraction.
        csf: CSF fraction; the three add up to 1.
        depth_mm: Distance to the brain's surface.
        ventricle_mm: Distance to the ventricles.
        template_x_mm: Signed distance to the mid-sagittal plane.
    """

    brain: NDArray[np.bool_]
    voxels: NDArray[np.int64]
    white: Array
    grey: Array
    csf: Array
    depth_mm: Array
    ventricle_mm: Array
    template_x_mm: Array

    def volume(self, values: Array, *, outside: float = 0.0) -> Array:
        """Put values of the brain voxels back on the grid."""
        whole = np.full(self.brain.shape, outside, np.float32)
        whole.ravel()[self.voxels] = values
        return whole

    def at_brain(self, whole: Array) -> Array:
        """Take the brain voxels of an array on the grid."""
        return whole.ravel()[self.voxels]


def draw_head(rng: np.random.Generator) -> Head:
    """Draw size, pose, asymmetry and age of one head."""
    angles = rng.normal(0, np.deg2rad([4.0, 1.5, 1.5]))
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    scale = _MEAN_SCALE * rng.normal(1, 0.025) * rng.normal(1, 0.02, 3)
    age = uniform(rng, 0, 1)
    return Head(
        matrix=rotation @ np.diag(1 / scale),
        centre_mm=_PHANTOM_CENTRE + rng.normal(0, [1, 3, 2]),
        ventricles=-0.25 + 0.6 * age + uniform(rng, -0.1, 0.15),
        atrophy=np.clip(0.7 * age + uniform(rng, -0.1, 0.3), 0, 1),
        bend_mm=(uniform(rng, 1.5, 3.5), uniform(rng, 0.6, 1.3)),
    )


def _widen_ventricles(points: list[Array], growth: float) -> None:
    """Pull sample points towards the ventricles' centre in place, which makes them look wider."""
    sigma = (20.0, 34.0, 20.0)
    offsets = [p - np.float32(c) for p, c in zip(points, _VENTRICLE_CENTRE, strict=True)]
    fall = np.exp(-0.5 * sum((o / s) ** 2 for o, s in zip(offsets, sigma, strict=True)))
    for point, offset, share in zip(points, offsets, (1.0, 0.35, 0.8), strict=True):
        point -= np.float32(growth * share) * offset * fall


def _bent_points(rng: np.random.Generator, head: Head, grid: Grid) -> list[Array]:
    """Return the template coordinates of every voxel, three `(I, J, K)` arrays."""
    axes = [a - np.float32(c) for a, c in zip(grid.axes_mm(), head.centre_mm, strict=True)]
    matrix = head.matrix.astype(np.float32)
    points = []
    for row in range(3):
        point = head.bend_mm[0] * grid.noise(rng, knots_mm=32)
        point += np.float32(head.bend_mm[1]) * grid.noise(rng, knots_mm=13)
        for column in range(3):
            point += matrix[row, column] * axes[column]
        points.append(point + np.float32(_BRAIN_CENTRE[row]))
    return points


def _sample(volume: NDArray[np.uint8], points: list[Array]) -> Array:
    return ndi.map_coordinates(volume, np.stack(points), output=np.float32, order=1)


def shape_anatomy(
    rng: np.random.Generator, head: Head, grid: Grid, *, push: Push | None = None
) -> Anatomy:
    """Sample the bent template on a grid, once.

    Args:
        rng: Draws the bends; start it from the same seed to get the same head again.
        head: Shape of the head.
        grid: Where to sample.
        push: Maps points (three arrays, mm) to the displacement by which a tumour moves the
            tissue, from the point to where its tissue came from. The skull does not give way.
    """
    template = load_template()
    points = _bent_points(rng, head, grid)
    roughness = grid.noise(rng, knots_mm=5)
    depth = _sample(template.depth, points) / 4
    brain = depth > np.maximum(1.6 + 0.7 * roughness, 0.5)
    voxels = np.flatnonzero(brain)
    points = [point.ravel()[voxels] for point in points]
    depth, roughness = depth.ravel()[voxels], roughness.ravel()[voxels]
    if push is not None:
        moves = push(grid.points_mm(voxels))
        for row, point in enumerate(points):
            point += sum(np.float32(head.matrix[row, a]) * moves[a] for a in range(3))
    _widen_ventricles(points, head.ventricles)
    white, csf = _sample(template.white, points) / 255, _sample(template.csf, points) / 255
    sulci = grid.noise(rng, knots_mm=4).ravel()[voxels]
    widened = np.clip((26 - depth) / 20, 0, 1) * (1 - white)
    csf = np.clip(1.2 * csf**1.3 + widened * (0.3 * head.atrophy - 0.3 + 0.2 * sulci), 0, 1)
    crisp = np.clip((white - 0.5) * 1.8 + 0.5 + 0.12 * roughness, 0, 1)
    white = (0.5 * white + 0.5 * crisp) * (1 - csf)
    return Anatomy(
        brain=brain,
        voxels=voxels,
        white=white,
        grey=1 - white - csf,
        csf=csf,
        depth_mm=depth,
        ventricle_mm=_sample(template.ventricle_distance, points) / 4,
        template_x_mm=points[0] - np.float32(_BRAIN_CENTRE[0]),
    )
