"""Map a new head onto the template without folding it: pose, bends, ventricles, mass effect.

The map is a chain of steps, none of which folds, so that the whole does not either: the tumour's
push, then affine with bends (made weaker where they would fold), then the ventricles' widening.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bratskit.cases.phantoms.fields import Grid, draw_coefficients, exp, sample, sqrt, uniform
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.phantoms.template import BRAIN_CENTRE_VOX, load_template

__all__ = ["Coarse", "Head", "Push", "coarse_grid", "draw_head", "jacobian_range"]

Array = Tensor
Push = Callable[[list[Array]], list[Array]]

KNOTS_MM = (32.0, 13.0)
# Centre of mass of thirty BraTS brains in RAS+ millimetres of the 240x240x155 grid.
_PHANTOM_CENTRE = np.array([119.5, 107.5, 77.0])
# Extent of BraTS brains (138 x 170 x 138 mm) over the template's, less what the bends add.
_MEAN_SCALE = np.array([0.925, 0.93, 0.885])
# The bends alone may shrink no piece of tissue below this part of its size. Set by eye.
_LEAST_JACOBIAN = 0.3
_VENTRICLE_CENTRE = (0.0, 5.0, 9.0)  # from the brain's centre, template mm
_VENTRICLE_REACH = (22.0, 36.0, 22.0)
_WIDENINGS = 2  # times that ventricles are widened: a stronger single step would fold
# Tissue comes from no farther away than this part of its depth: it never comes from outside, and
# as the depth changes by less than 1.6 mm for each mm of a head, no push folds at the surface.
_ROOM = 0.6
_COARSE_MM = 4.0


@dataclass(frozen=True)
class Head:
    """The drawn shape of one head, before anything is sampled.

    Attributes:
        matrix: Phantom mm to template mm, `(3, 3)`.
        centre_mm: Phantom point that lands on the template's brain centre.
        age: 0 young, 1 old: ventricles, sulci and white-matter lesions go by it.
        ventricles: Growth of the ventricles, -0.35 (small) to 0.5 (wide).
        ventricle_asymmetry: How much wider the right one than the mean, -0.5 to 0.5.
        atrophy: Widening of the sulci, 0 none to 2 extreme.
        petalia_mm: How far the right frontal and the left occipital lobe stand out.
        bend_mm: Standard deviation of the displacement at 32 mm knots and at 13 mm knots.
        bend_seed: Seed of the bends.

    Source:
        Petalia: Toga & Thompson (2003), Nature Reviews Neuroscience 4(1):37-48.
    """

    matrix: NDArray[np.float64]
    centre_mm: NDArray[np.float64]
    age: float
    ventricles: float
    ventricle_asymmetry: float
    atrophy: float
    petalia_mm: float
    bend_mm: tuple[float, float]
    bend_seed: int


def draw_head(rng: np.random.Generator, ingredients: Ingredients | None = None) -> Head:
    """Draw size, pose, asymmetry and age of one head; sizes are matched to thirty BraTS cases.

    Bends that would fold the head, or nearly so, are drawn as before and made weaker.
    """
    ingredients = ingredients or Ingredients()
    angles = rng.normal(0, np.deg2rad([4.0, 1.5, 1.5]))
    scale = _MEAN_SCALE * rng.normal(1, 0.025) * rng.normal(1, 0.02, 3)
    centre = _PHANTOM_CENTRE + rng.normal(0, [1, 3, 2])
    age, bends = uniform(rng, 0, 1), ingredients.bends
    ventricles = -0.15 + 0.5 * age + uniform(rng, -0.1, 0.15)
    atrophy = min(max(0.7 * age + uniform(rng, -0.1, 0.3), 0), 1)
    lopsided, petalia = rng.normal(0, 0.2), rng.normal(1.5, 1.5)
    head = Head(
        matrix=np.round(_rotation(angles) @ np.diag(1 / scale), 6),
        centre_mm=np.round(centre, 6),
        age=age,
        ventricles=_within(ventricles * ingredients.age, -0.35, 0.5),
        ventricle_asymmetry=_within(lopsided * bends, -0.5, 0.5),
        atrophy=round(atrophy * ingredients.age, 6),
        petalia_mm=_within(petalia * bends, -5, 5),
        bend_mm=tuple(
            round(uniform(rng, low, high) * bends, 6) for low, high in ((1.5, 3.5), (0.3, 0.9))
        ),
        bend_seed=int(rng.integers(2**31)),
    )
    while _bends_fold(head):
        head = replace(head, bend_mm=tuple(round(0.85 * b, 6) for b in head.bend_mm))
    return head


def _within(value: float, low: float, high: float) -> float:
    return round(float(min(max(value, low), high)), 6)


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn about the three axes, one after another."""
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        a, b = [i for i in range(3) if i != axis]
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    return rotation


def _bends_fold(head: Head) -> bool:
    plain = replace(head, ventricles=0.0)
    return jacobian_range(plain, coarse_grid("cpu"))[0] < _LEAST_JACOBIAN


def straight(head: Head, points: list[Array]) -> list[Array]:
    """Turn and scale phantom mm (three tensors that broadcast) to mm from the template's centre."""
    offsets = [p - c for p, c in zip(points, head.centre_mm.tolist(), strict=True)]
    return [
        offsets[0] * row[0] + offsets[1] * row[1] + offsets[2] * row[2]
        for row in head.matrix.tolist()
    ]


def shifts(
    head: Head, grid: Grid, linear: list[Array], *, voxels: Array | None = None
) -> list[Array]:
    """Return how far bends and petalia move each voxel on the template, three tensors, mm."""
    rng = np.random.default_rng(head.bend_seed)
    found = []
    for _ in range(3):
        parts = []
        for knots_mm, bend_mm in zip(KNOTS_MM, head.bend_mm, strict=True):
            knots = draw_coefficients(rng, knots_mm=knots_mm) * np.float32(bend_mm)
            parts.append(grid.spline(knots, knots_mm=knots_mm, voxels=voxels))
        found.append(parts[0].add_(parts[1]))
    x, y = linear[0], linear[1]
    found[1] -= x * y * y * (head.petalia_mm / (65 * 85 * 85))
    return found


def widen_ventricles(head: Head, points: list[Array]) -> list[Array]:
    """Pull template points towards the ventricles, which makes them look wider.

    The wall between the two stays where it is: near the middle nothing moves sideways.
    """
    for _ in range(_WIDENINGS):
        points = _widen_once(head, points)
    return points


def _widen_once(head: Head, points: list[Array]) -> list[Array]:
    offsets = [p - c for p, c in zip(points, _VENTRICLE_CENTRE, strict=True)]
    parts = [o * (1 / reach) for o, reach in zip(offsets, _VENTRICLE_REACH, strict=True)]
    squares = parts[0] * parts[0] + parts[1] * parts[1] + parts[2] * parts[2]
    fall = exp(squares * -0.5) * head.ventricles
    x = offsets[0]
    away = x.abs()
    fall *= x / (away + 8) * head.ventricle_asymmetry + 1
    square = x * x
    offsets[0] = x * (square / (square + 30))
    return [
        point - offset * fall * share
        for point, offset, share in zip(points, offsets, (1.0, 0.4, 0.8), strict=True)
    ]


def coarse_grid(device: str | torch.device) -> Grid:
    """Return the whole field of view in voxels of 4 mm."""
    return Grid((60, 60, 39), (_COARSE_MM,) * 3, (0, 0, 0), device)


def to_maps(points: list[Array]) -> list[Array]:
    """Turn mm from the template's centre into voxels of its maps."""
    return [p + c for p, c in zip(points, BRAIN_CENTRE_VOX, strict=True)]


class Coarse:
    """What a head's map does on a grid of 4 mm: enough to compose steps and to measure folds.

    Attributes:
        shift: Bends and petalia on the grid, `(I, J, K, 3)`, template mm.
    """

    def __init__(self, head: Head, grid: Grid) -> None:
        """Evaluate the bends once."""
        self.head, self.grid = head, grid
        self.linear = straight(head, grid.axes_mm())
        moved = shifts(head, grid, self.linear)
        self.shift = torch.stack(moved).permute(1, 2, 3, 0)
        self.points = [a + b for a, b in zip(self.linear, moved, strict=True)]

    def depth_mm(self) -> Array:
        """Return the distance to the brain's surface, 0 outside, `(I, J, K)`."""
        flat = [p.reshape(-1) for p in to_maps(self.points)]
        depth = load_template(self.grid.device).depth
        return sample(depth, flat)[:, 0].mul_(0.25).view(self.grid.shape)

    def _shift_at(self, points: list[Array]) -> list[Array]:
        """Interpolate bends and petalia at phantom points in mm."""
        lines = zip(points, self.grid.spacing_mm, self.grid.start_vox, strict=True)
        return list(sample(self.shift, [p * (1 / s) - (0.5 + a) for p, s, a in lines]).unbind(1))

    def push(
        self, points: list[Array], mm: list[Array], depth_mm: Array, push: Push
    ) -> list[Array]:
        """Let a tumour move the tissue before the head is bent, in place; the skull stays.

        Args:
            points: Where the phantom points `mm` land without the tumour, template mm, `(N,)`.
            mm: Phantom points, `(N,)`.
            depth_mm: Their distance to the brain's surface; nothing moves there.
            push: From each point to where its tissue came from, mm.
        """
        moves = push(mm)
        room = depth_mm * _ROOM
        squares = moves[0] * moves[0] + moves[1] * moves[1] + moves[2] * moves[2]
        free = room / sqrt(room * room + squares + 1e-6)
        moves = [move * free for move in moves]
        far = torch.maximum(torch.maximum(moves[0].abs(), moves[1].abs()), moves[2].abs()) > 0.01
        index = torch.nonzero(far)[:, 0]
        moves, mm = ([a.index_select(0, index) for a in both] for both in (moves, mm))
        moved = [m + a for m, a in zip(mm, moves, strict=True)]
        shifts = zip(self._shift_at(moved), self._shift_at(mm), strict=True)
        for point, row, (there, here) in zip(
            points, self.head.matrix.tolist(), shifts, strict=True
        ):
            turned = moves[0] * row[0] + moves[1] * row[1] + moves[2] * row[2]
            point.index_add_(0, index, turned + (there - here))
        return points

    def jacobian(self, push: Push | None = None) -> tuple[float, float]:
        """Measure the smallest and largest local scale of volume inside the brain, over the mean.

        Below 0 the map would fold. The affine part counts as 1.
        """
        depth = self.depth_mm()
        points = self.points
        if push is not None:
            voxels = torch.arange(depth.numel(), device=depth.device)
            flat, mm = [p.flatten().clone() for p in points], self.grid.points_mm(voxels)
            points = self.push(flat, mm, depth.view(-1), push)
        points = [p.view(depth.shape) for p in widen_ventricles(self.head, points)]
        inside = depth[1:-1, 1:-1, 1:-1] > 0
        found = _determinant(points, self.grid.spacing_mm)[inside]
        affine = float(np.linalg.det(self.head.matrix))
        return round(float(found.min()) / affine, 4), round(float(found.max()) / affine, 4)


def _determinant(points: list[Array], spacing_mm: tuple[float, ...]) -> Array:
    """Return the determinant of a map's central differences at all inner voxels."""
    a, b, c = ([_slope(p, axis, spacing_mm[axis]) for axis in range(3)] for p in points)
    minors = [b[i] * c[j] - b[j] * c[i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return a[0] * minors[0] + a[1] * minors[1] + a[2] * minors[2]


def _slope(values: Array, axis: int, step_mm: float) -> Array:
    inner = [slice(1, -1)] * 3
    inner[axis] = slice(None)
    line = values[tuple(inner)]
    n = line.shape[axis] - 2
    return (line.narrow(axis, 2, n) - line.narrow(axis, 0, n)) * (0.5 / step_mm)


def jacobian_range(head: Head, grid: Grid, push: Push | None = None) -> tuple[float, float]:
    """Measure how the whole map from phantom to template scales volumes, smallest and largest.

    Args:
        head: Shape of the head.
        grid: Where to measure, by central differences; 4 mm is enough (`coarse_grid`).
        push: The tumour's mass effect, as for `shape_anatomy`.

    Returns:
        Over all points in the brain, relative to the affine part; above 0: no folding.
    """
    return Coarse(head, grid).jacobian(push)
