"""Grow a glioma as continuous level sets: core, rim, oedema along white matter; no intensities."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bratskit.cases.anatomy import Anatomy, Grid
from bratskit.cases.fields import threshold_for_count, uniform

__all__ = ["Growth", "Tumour", "draw_growth", "grow_tumour", "push_of"]

Array = NDArray[np.float32]

# White matter carries glioma cells five times or more as fast as grey matter does.
# Source: Swanson et al. (2000), Cell Proliferation 33(5):317-329.
_WHITE_SPEED, _GREY_SPEED = 1.0, 0.12


@dataclass(frozen=True)
class Growth:
    """The drawn plan of one tumour.

    Attributes:
        kind: "ring", "solid", "patchy" (little enhancement) or "low-grade" (none).
        centre_mm: Where it starts, phantom mm.
        whole_ml: Aim for the whole tumour; the brain's borders may leave less.
        core_share: Aim for tumour core over whole tumour.
        enhancing_share: Aim for enhancing tumour over tumour core.
        axes: Relative half axes of the core, product 1.
        rotation: Orientation of the axes.
        roughness: Irregularity of the core's surface over its radius.
        rim_roughness: Irregularity of the rim; above about 0.6 the rim breaks.
        push: Mass effect, 0 infiltrates without pushing, 0.6 pushes hard.
        satellites: Centres of further foci, phantom mm, with their size over the main one's.
    """

    kind: str
    centre_mm: NDArray[np.float64]
    whole_ml: float
    core_share: float
    enhancing_share: float
    axes: NDArray[np.float64]
    rotation: NDArray[np.float64]
    roughness: float
    rim_roughness: float
    push: float
    satellites: tuple[tuple[NDArray[np.float64], float], ...]

    @property
    def core_radius_mm(self) -> float:
        """Radius of a ball as large as the core."""
        return (3 * 1000 * self.whole_ml * self.core_share / (4 * np.pi)) ** (1 / 3)


@dataclass(frozen=True)
class _Tissue:
    """Brain mask and tissue fractions in the box around a tumour, `(i, j, k)`."""

    brain: NDArray[np.bool_]
    white: Array
    grey: Array
    csf: Array


@dataclass(frozen=True)
class Tumour:
    """One tumour on a grid, as level sets that are positive inside; about mm near the border.

    Attributes:
        core: Tumour core (NCR and ET).
        enhancing: Enhancing part; counts only inside the core.
        oedema: Oedema; counts only outside the core.
        box: The part of the grid that the level sets cover.
    """

    core: Array
    enhancing: Array
    oedema: Array
    box: tuple[slice, slice, slice]

    def labels(self) -> NDArray[np.uint8]:
        """Voxelise: ET in the core in the whole tumour by construction."""
        labels = np.where(self.oedema > 0, 2, 0).astype(np.uint8)
        labels[self.core > 0] = 1
        labels[(self.core > 0) & (self.enhancing > 0)] = 3
        return labels


def _draw_shares(rng: np.random.Generator, kind: str) -> tuple[float, float]:
    """Draw core / whole and ET / core as thirty BraTS cases spread them."""
    if kind == "low-grade":
        return uniform(rng, 0.2, 0.75), 0.0
    if kind == "patchy":
        return uniform(rng, 0.1, 0.55), uniform(rng, 0.005, 0.12)
    if kind == "solid":
        return uniform(rng, 0.04, 0.35), uniform(rng, 0.75, 0.98)
    return uniform(rng, 0.15, 0.85), uniform(rng, 0.22, 0.75)


def draw_growth(rng: np.random.Generator, anatomy: Anatomy, grid: Grid) -> Growth:
    """Choose where and how one tumour grows.

    Args:
        rng: Source of every choice.
        anatomy: The head without the tumour; a coarse grid is enough.
        grid: Grid of `anatomy`.
    """
    kind = str(rng.choice(["ring", "solid", "patchy", "low-grade"], p=[0.6, 0.16, 0.13, 0.11]))
    core_share, enhancing_share = _draw_shares(rng, kind)
    whole_ml = float(np.clip(np.exp(rng.normal(np.log(85), 0.8)), 2.5, 230))
    axes = np.exp(rng.normal(0, 0.2, 3))
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    points = np.stack(grid.points_mm(anatomy.voxels), axis=1)
    weight = anatomy.white**2 * (anatomy.depth_mm > 7) * _above_tentorium(points)
    chances = np.cumsum(weight, dtype=np.float64)

    def place() -> NDArray[np.float64]:
        where = np.searchsorted(chances, rng.uniform(0, chances[-1]))
        return points[where] + rng.uniform(-0.5, 0.5, 3) * grid.spacing_mm

    centre = place()
    foci = int(rng.choice([0, 1, 2], p=[0.84, 0.12, 0.04]))
    near = [place() for _ in range(12 * foci)]
    near.sort(key=lambda point: float(np.linalg.norm(point - centre)))
    return Growth(
        kind=kind,
        centre_mm=centre,
        whole_ml=whole_ml,
        core_share=core_share,
        enhancing_share=enhancing_share,
        axes=axes / axes.prod() ** (1 / 3),
        rotation=rotation,
        roughness=uniform(rng, 0.16, 0.42),
        rim_roughness=uniform(rng, 0.1, 0.8) if kind == "ring" else uniform(rng, 0.6, 1.3),
        push=uniform(rng, 0.0, 0.25) if kind == "low-grade" else uniform(rng, 0.1, 0.6),
        satellites=tuple((point, uniform(rng, 0.25, 0.6)) for point in near[1 : 1 + foci]),
    )


def _above_tentorium(points: Array) -> NDArray[np.bool_]:
    """Leave out cerebellum and brain stem: low and behind, in the phantom's frame."""
    _, y, z = points.T
    return (z > 62) | ((z > 40) & (y > 105))


def push_of(growth: Growth, points: list[Array]) -> list[Array]:
    """Return the mass effect: the way from each point to where its tissue came from, mm."""
    axes = [a - np.float32(c) for a, c in zip(points, growth.centre_mm, strict=True)]
    reach = 1.1 * growth.core_radius_mm + 7
    fall = -growth.push * np.exp(-sum(a**2 for a in axes) / np.float32(2 * reach**2))
    return [axis * fall for axis in axes]


def _crop(growth: Growth, grid: Grid) -> tuple[slice, slice, slice]:
    """Cut the box that the tumour can reach."""
    radius = (3 * 1000 * growth.whole_ml / (4 * np.pi)) ** (1 / 3)
    reach = 1.9 * radius + 22
    points = [growth.centre_mm, *(point for point, _ in growth.satellites)]
    box = []
    for axis, line in enumerate(grid.lines_mm()):
        low = min(p[axis] for p in points) - reach
        high = max(p[axis] for p in points) + reach
        inside = np.flatnonzero((line >= low) & (line <= high))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return box[0], box[1], box[2]


def _core_distance(growth: Growth, grid: Grid) -> Array:
    """Measure mm outside an ellipsoid (negative inside), the nearest of all foci."""
    best = None
    turn = (growth.rotation / growth.axes).T.astype(np.float32)
    for point, size in ((growth.centre_mm, 1.0), *growth.satellites):
        axes = [a - np.float32(c) for a, c in zip(grid.axes_mm(), point, strict=True)]
        squares = sum((sum(turn[r, a] * axes[a] for a in range(3))) ** 2 for r in range(3))
        outside = np.sqrt(squares) - np.float32(size * growth.core_radius_mm)
        best = outside if best is None else np.minimum(best, outside)
    return best


def _infiltrate(core: NDArray[np.bool_], here: _Tissue, spacing_mm: tuple[float, ...]) -> Array:
    """Let cells diffuse from the core, fast in white matter, hardly in grey, not in CSF.

    Works on every third millimetre and is interpolated: the infiltration is smooth, its fine
    edge is cut from the tissue maps afterwards.

    Returns:
        Minus the logarithm of the cell density, on the grid of `core`.
    """
    step = [max(1, round(3 / s)) for s in spacing_mm]
    small = [_block_mean(a, step) for a in (here.white, here.grey, core)]
    speed = _WHITE_SPEED * small[0] + _GREY_SPEED * small[1]
    source = np.clip(small[2] * 1.5, 0, 1)
    speed = np.maximum(speed * (_block_mean(here.brain, step) > 0.5), source)
    faces = [
        np.minimum(np.take(speed, range(1, n), axis=a), np.take(speed, range(n - 1), axis=a)) / 6.5
        for a, n in enumerate(speed.shape)
    ]
    density = source.copy()
    for _ in range(90):
        flow = np.zeros_like(density)
        for axis, face in enumerate(faces):
            moved = np.diff(density, axis=axis) * face
            ahead = [slice(None)] * 3
            behind = [slice(None)] * 3
            ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
            flow[tuple(behind)] += moved
            flow[tuple(ahead)] -= moved
        density = np.maximum(density + flow, source)
    cost = -np.log(np.maximum(density, 1e-9)).astype(np.float32)
    return _enlarge(ndi.gaussian_filter(cost, 0.6), step, core.shape)


def _block_mean(array: NDArray, step: list[int]) -> Array:
    """Average blocks of `step` voxels, the last ones padded by repetition."""
    pad = [(0, -n % s) for n, s in zip(array.shape, step, strict=True)]
    padded = np.pad(array.astype(np.float32), pad, mode="edge")
    form = [v for n, s in zip(padded.shape, step, strict=True) for v in (n // s, s)]
    return padded.reshape(form).mean(axis=(1, 3, 5))


def _enlarge(small: Array, step: list[int], shape: tuple[int, ...]) -> Array:
    """Interpolate block means back to voxels, linearly."""
    lines = [
        np.clip((np.arange(n) + 0.5) / s - 0.5, 0, m - 1)
        for n, s, m in zip(shape, step, small.shape, strict=True)
    ]
    for axis, line in enumerate(lines):
        low = np.minimum(line.astype(np.int64), small.shape[axis] - 1)
        high = np.minimum(low + 1, small.shape[axis] - 1)
        form = [1, 1, 1]
        form[axis] = -1
        share = (line - low).astype(np.float32).reshape(form)
        small = np.take(small, low, axis) * (1 - share) + np.take(small, high, axis) * share
    return small


def grow_tumour(rng: np.random.Generator, growth: Growth, anatomy: Anatomy, grid: Grid) -> Tumour:
    """Build the level sets of one tumour in the anatomy that it has already pushed aside.

    Core: ellipsoids roughened by smooth noise. Enhancement: what is near the core's surface, with
    noise. Oedema: infiltration along white matter. Each border is put where the volume aimed at
    is reached.
    """
    box = _crop(growth, grid)
    starts = tuple(g + b.start for g, b in zip(grid.start_vox, box, strict=True))
    local = Grid(tuple(b.stop - b.start for b in box), grid.spacing_mm, starts)
    parts = (anatomy.volume(part)[box] for part in (anatomy.white, anatomy.grey, anatomy.csf))
    here = _Tissue(anatomy.brain[box], *parts)
    voxel_ml = float(np.prod(grid.spacing_mm)) / 1000
    core = _grow_core(rng, growth, here, local, voxel_ml)
    enhancing = _grow_rim(rng, growth, core, local)
    oedema = _grow_oedema(rng, growth, core, here, local, voxel_ml)
    return Tumour(core=core, enhancing=enhancing, oedema=oedema, box=box)


def _grow_core(
    rng: np.random.Generator, growth: Growth, here: _Tissue, grid: Grid, voxel_ml: float
) -> Array:
    radius = growth.core_radius_mm
    field = _core_distance(growth, grid)
    for share, scale in ((0.75, 0.8), (0.45, 0.4), (0.2, 0.2)):
        knots = float(np.clip(scale * radius, 2.5, 20))
        field += np.float32(share * growth.roughness * radius) * grid.noise(rng, knots_mm=knots)
    field += np.float32(0.5 * radius) * here.csf**2 + np.float32(0.12 * radius) * here.grey
    inside = field[here.brain]
    aim = max(growth.whole_ml * growth.core_share / voxel_ml, 8)
    border = threshold_for_count(inside, min(round(aim), inside.size // 4))
    return np.where(here.brain, np.float32(border) - field, np.float32(-20))


def _grow_rim(rng: np.random.Generator, growth: Growth, core: Array, grid: Grid) -> Array:
    inside = core > 0
    if growth.enhancing_share == 0:
        return np.full_like(core, -20)
    depth = core / max(float(np.percentile(core[inside], 95)), 1.0)
    rim = growth.rim_roughness
    score = -depth + np.float32(0.45 * rim) * grid.noise(rng, knots_mm=9)
    score += np.float32(0.28 * rim) * grid.noise(rng, knots_mm=4)
    score += np.float32(0.16 * rim) * grid.noise(rng, knots_mm=2.2)
    if growth.kind == "patchy":
        score += grid.noise(rng, knots_mm=12)
    keep = round(growth.enhancing_share * int(inside.sum()))
    border = -threshold_for_count(-score[inside], keep)
    return (score - np.float32(border)) * np.float32(growth.core_radius_mm * 0.7)


def _grow_oedema(
    rng: np.random.Generator,
    growth: Growth,
    core: Array,
    here: _Tissue,
    grid: Grid,
    voxel_ml: float,
) -> Array:
    cost = _infiltrate(core > 0, here, grid.spacing_mm)
    cost += np.float32(0.35) * grid.noise(rng, knots_mm=14) * np.minimum(cost, 2)
    cost += np.float32(0.2) * grid.noise(rng, knots_mm=5) * np.minimum(cost, 2)
    cost += np.float32(0.9) * here.grey + np.float32(6) * here.csf * (core < -3)
    cost = ndi.gaussian_filter(cost, [0.8 / s for s in grid.spacing_mm])
    outside = here.brain & (core <= 0)
    values = cost[outside]
    aim = round(growth.whole_ml * (1 - growth.core_share) / voxel_ml)
    border = threshold_for_count(values, min(aim, values.size // 2))
    oedema = np.where(here.brain, (np.float32(border) - cost) * 3, np.float32(-20))
    parts, count = ndi.label((oedema > 0) | (core > 0))
    if count > 1:  # islands that the infiltration only jumps to
        kept = np.zeros(count + 1, bool)
        kept[parts[core > 0]] = kept[0] = True
        oedema = np.where(kept[parts], oedema, np.float32(-1))
    return oedema
