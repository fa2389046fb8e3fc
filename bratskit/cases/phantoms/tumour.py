"""Grow a planned glioma as continuous level sets: core, rim, oedema, cavity; no intensities."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage as ndi

from bratskit.cases.phantoms.anatomy import Anatomy
from bratskit.cases.phantoms.fields import (
    Array,
    Grid,
    block_mean,
    blur,
    enlarge,
    sqrt,
    threshold_for_count,
)
from bratskit.cases.phantoms.growth import Growth, push_of
from bratskit.cases.phantoms.infiltrate import Tissue, infiltrate
from bratskit.cases.phantoms.rim import fine_noise, grow_rim

__all__ = ["Tumour", "grow_tumour", "push_of"]

Box = tuple[slice, slice, slice]

_FAR_MM = 20.0  # no level set says more than this

# Islands of oedema near its border: matched to thirty BraTS cases (14 parts, 68 voxels of crumbs).
_SPECK = 2.6
# Level sets of oedema rise so much a mm: FLAIR then rises at the mask's border as theirs.
_FADING = 1.35

# Set by eye: a mm across the falx counts as so many, and no more than this far. White matter at
# the midline this deep below the brain's surface is corpus callosum, not a gyrus.
_FALX, _FALX_REACH_MM, _CALLOSUM_DEEP_MM = 12.0, 4.0, 22.0


@dataclass(frozen=True)
class Tumour:
    """One tumour on a grid, as level sets that are positive inside.

    Attributes:
        core: Tumour core (NCR and ET).
        enhancing: Enhancing part; counts only inside the core.
        oedema: Oedema; counts only outside the core.
        box: The part of the grid that the level sets cover.
        cavity: What was resected, or None; counts before all others.
    """

    core: Array
    enhancing: Array
    oedema: Array
    box: Box
    cavity: Array | None = None

    def labels(self) -> torch.Tensor:
        """Voxelise, `(i, j, k)` uint8: ET in the core in the whole tumour by construction."""
        labels = (self.oedema > 0).to(torch.uint8) * 2
        core = self.core > 0
        labels[core] = 1
        labels[core & (self.enhancing > 0)] = 3
        labels[self.cavity_mask()] = 0
        return labels

    def cavity_mask(self) -> torch.Tensor:
        """Return the voxels of the cavity, `(i, j, k)` bool; all False without one."""
        if self.cavity is None:
            return torch.zeros_like(self.core, dtype=torch.bool)
        return self.cavity > 0


def grow_tumour(rng: np.random.Generator, growth: Growth, anatomy: Anatomy, grid: Grid) -> Tumour:
    """Build the level sets of one tumour in the anatomy that it has already pushed aside.

    Core: ellipsoids roughened by smooth noise. Enhancement: what is near the core's surface, with
    noise. Oedema: Fisher's equation from the core on. Each border is put where the volume aimed
    at is reached. At a younger age (`at_age`) all but the enhancement lie inside the older ones.
    """
    box = _crop(growth, grid)
    starts = tuple(g + b.start for g, b in zip(grid.start_vox, box, strict=True))
    shape = tuple(b.stop - b.start for b in box)
    local = Grid(shape, grid.spacing_mm, starts, grid.device)
    tissue = _tissue(anatomy, box)
    seeds = rng.integers(2**62, size=4)
    rngs = [np.random.default_rng(int(seed)) for seed in seeds]
    outside = _core_distance(rngs[0], growth, tissue, local)
    across = _across_falx(growth, anatomy, tissue, box, local)
    outside += across * _FALX
    brain = tissue.brain > 0
    border = _core_border(outside, brain, growth.seen_ml()[1], local)
    core = torch.where(brain, (border - outside).clamp_(-_FAR_MM, None), -_FAR_MM)
    enhancing = grow_rim(rngs[1], growth, core, local)
    oedema = _grow_oedema(rngs[2], growth, outside, core, tissue, across, local)
    tumour = Tumour(core=core, enhancing=enhancing, oedema=oedema, box=box)
    if growth.cavity is None:
        return tumour
    depth = anatomy.volume(anatomy.depth_mm)[box]
    return _resect(rngs[3], growth, tumour, depth, local)


def _tissue(anatomy: Anatomy, box: Box) -> Tissue:
    """Cut the tissue maps; cerebellum and brain stem count as CSF: a tentorium lies between."""
    above = 1 - anatomy.hindbrain
    parts = (anatomy.white * above, anatomy.grey * above, 1 - (1 - anatomy.csf) * above)
    brain = anatomy.brain[box].to(torch.float32)
    return Tissue(brain, *(anatomy.volume(part)[box] for part in parts))


def _across_falx(growth: Growth, anatomy: Anatomy, tissue: Tissue, box: Box, grid: Grid) -> Array:
    """Measure mm beyond the falx, 0 on the tumour's own side; the corpus callosum is a gate.

    Gliomas pass to the other side along the callosum only ("butterfly"). All of that side is
    barred but the callosum's height, as far as it is white matter at the midline.
    """
    x_mm = anatomy.volume(anatomy.template_x_mm)[box]
    inside = tissue.brain > 0
    offsets = zip(growth.centre_mm, grid.spacing_mm, grid.start_vox, grid.shape, strict=True)
    at = tuple(min(max(math.floor(c / s) - a, 0), n - 1) for c, s, a, n in offsets)
    side = -1.0 if float(x_mm[at]) < 0 else 1.0
    beyond = (1 - x_mm * side).clamp_(0, _FALX_REACH_MM) * inside
    if float(beyond.max()) == 0 or float(x_mm[at]) == 0:
        return torch.zeros_like(beyond)
    depth = anatomy.volume(anatomy.depth_mm)[box]
    middle = (x_mm.abs() < max(2.0, grid.spacing_mm[0])) & inside & (depth > _CALLOSUM_DEEP_MM)
    gate = torch.where(middle, tissue.white, 0.0).amax(0, keepdim=True)
    sigma = (0.0, *(3.0 / s for s in grid.spacing_mm[1:]))
    gate = (blur(gate, sigma) * 2 - 0.4).clamp_(0, 1)
    return beyond * (1 - gate)


def _voxel_ml(grid: Grid) -> float:
    return grid.spacing_mm[0] * grid.spacing_mm[1] * grid.spacing_mm[2] / 1000


def _steps(growth: Growth, grid: Grid) -> tuple[int, int, int]:
    """Return how many voxels make one of the coarse grid: 3 mm, less in a small tumour."""
    target = min(max(growth.whole_radius_mm / 6, 1.0), 3.0)
    i, j, k = (max(1, math.floor(target / s + 0.5)) for s in grid.spacing_mm)
    return i, j, k


def _crop(growth: Growth, grid: Grid) -> Box:
    """Cut the box that the tumour can reach, so that coarse voxels fall alike in every box."""
    ml = max(growth.whole_ml, growth.seen_ml()[0])
    radius = (750 * ml / math.pi) ** (1 / 3)
    reach = 2.0 * radius + 8
    points = [growth.centre_mm, *(point for point, _ in growth.satellites)]
    box = []
    for axis, step in enumerate(_steps(growth, grid)):
        spacing, start = grid.spacing_mm[axis], grid.start_vox[axis]
        low = (min(p[axis] for p in points) - reach) / spacing
        high = (max(p[axis] for p in points) + reach) / spacing
        first = min(max(math.floor(low / step) * step - start, 0), grid.shape[axis] - 1)
        last = min(max(math.ceil(high) - start, first + 1), grid.shape[axis])
        box.append(slice(first, last))
    return box[0], box[1], box[2]


def _core_distance(rng: np.random.Generator, growth: Growth, tissue: Tissue, grid: Grid) -> Array:
    """Measure mm outside roughened ellipsoids (negative inside), the nearest of all foci."""
    radius = growth.core_radius_mm
    field = _outside_ellipsoid(growth, growth.centre_mm, radius, grid)
    for point, size in growth.satellites:
        field = torch.minimum(field, _outside_ellipsoid(growth, point, size * radius, grid))
    for share, scale in ((0.75, 0.8), (0.45, 0.4), (0.2, 0.2)):
        noise = grid.noise(rng, knots_mm=round(min(max(scale * radius, 2.5), 20.0), 6))
        field += noise.mul_(share * growth.roughness * radius)
    field += tissue.csf * tissue.csf * (0.5 * radius)
    return field.add_(tissue.grey * (0.12 * radius))


def _outside_ellipsoid(
    growth: Growth, centre_mm: tuple[float, ...], radius_mm: float, grid: Grid
) -> Array:
    axes = [axis - centre for axis, centre in zip(grid.axes_mm(), centre_mm, strict=True)]
    squares = None
    for row, half in zip(growth.rotation, growth.axes, strict=True):
        turned = axes[0] * (row[0] / half) + axes[1] * (row[1] / half) + axes[2] * (row[2] / half)
        turned = turned.mul_(turned)
        squares = turned if squares is None else squares.add_(turned)
    return sqrt(squares).sub_(radius_mm)


def _core_border(outside: Array, brain: torch.Tensor, ml: float, grid: Grid) -> float:
    inside = outside[brain]
    aim = max(round(ml / _voxel_ml(grid)), 8)
    return threshold_for_count(inside, min(aim, inside.numel() // 4))


def _grow_oedema(
    rng: np.random.Generator,
    growth: Growth,
    outside: Array,
    core: Array,
    tissue: Tissue,
    across: Array,
    grid: Grid,
) -> Array:
    """Cut the infiltrated tissue where the whole volume is reached; it spares cortex and CSF."""
    steps, brain = _steps(growth, grid), tissue.brain > 0
    at_detection = _core_border(outside, brain, growth.whole_ml * growth.core_share, grid)
    distance = block_mean(outside - at_detection, steps)
    cost = enlarge(_infiltrate(rng, growth, distance, tissue, grid), steps, core.shape)
    barrier = 1 - growth.diffusion_grey_mm2_day / growth.diffusion_white_mm2_day
    spared = barrier * growth.front_mm * (1 + 2.2 * growth.lopsided)  # set by eye
    cost += tissue.grey * (4 * barrier + spared)
    cost += tissue.csf * (12 * barrier + 1.5 * spared)
    cost += across * _FALX
    cost = blur(cost, tuple(0.7 / s for s in grid.spacing_mm))
    specks = (fine_noise(rng, grid, knots_mm=1.8) - _SPECK).clamp_(min=0)
    cost -= specks.mul_(25 * min(growth.lopsided, 1.0))
    whole, volume, _ = growth.seen_ml()
    return _cut_oedema(cost, core, brain, round((whole - volume) / _voxel_ml(grid)), grid, steps)


def _infiltrate(
    rng: np.random.Generator, growth: Growth, distance: Array, tissue: Tissue, grid: Grid
) -> Array:
    """Let cells wander on the coarse grid, unevenly; returns about mm."""
    steps = _steps(growth, grid)
    parts = (tissue.brain, tissue.white, tissue.grey, tissue.csf)
    small = Tissue(*(block_mean(part, steps) for part in parts))
    step_mm = tuple(n * s for n, s in zip(steps, grid.spacing_mm, strict=True))
    starts = tuple(g // n for g, n in zip(grid.start_vox, steps, strict=True))
    coarse = Grid(tuple(distance.shape), step_mm, starts, grid.device)
    ease = coarse.noise(rng, knots_mm=24).mul_(1.6 * growth.lopsided).add_(1).clamp_(0.01, 2)
    cost = infiltrate(growth, distance, small, ease, step_mm)
    cost += distance.clamp(min=0) * 0.6  # where no cell comes, the nearest is the likeliest
    rough = growth.lopsided * (0.3 * growth.front_mm + 0.35 * growth.whole_radius_mm)
    for share, knots_mm in ((0.9, 26), (0.4, 12), (0.25, 6)):  # set by eye
        cost += coarse.noise(rng, knots_mm=knots_mm).mul_(share * rough)
    return cost


def _cut_oedema(
    cost: Array,
    core: Array,
    brain: torch.Tensor,
    aim: int,
    grid: Grid,
    steps: tuple[int, int, int],
) -> Array:
    """Put the border where `aim` voxels are reached, without islands far from the core."""
    free = brain & (core <= 0)
    for _ in range(4):
        values = cost[free]
        border = threshold_for_count(values, min(aim, values.numel() * 2 // 3))
        oedema = (border - cost).clamp_(-_FAR_MM, _FAR_MM)
        keep = _near_core((oedema > 0) & free, core > 0, steps)
        if keep is None:
            break
        free = free & (keep | (oedema <= 0))
    oedema = ((border - cost) / _per_mm(cost, grid)).clamp_(-_FAR_MM, _FAR_MM)
    return torch.where(free | (core > 0), oedema, oedema.clamp(max=-1.0))


def _per_mm(cost: Array, grid: Grid) -> Array:
    """Return how much the cost rises a mm: without it, fluid would end abruptly in cortex."""
    squares = torch.zeros_like(cost)
    for axis, spacing in enumerate(grid.spacing_mm):
        n = cost.shape[axis] - 2
        if n > 0:
            slope = (cost.narrow(axis, 2, n) - cost.narrow(axis, 0, n)) * (0.5 / spacing)
            squares.narrow(axis, 1, n).add_(slope.mul_(slope))
    slope = blur(sqrt(squares), tuple(1.5 / s for s in grid.spacing_mm))
    return slope.clamp_(0.5, 20).mul_(1 / _FADING)


def _near_core(
    oedema: torch.Tensor, core: torch.Tensor, steps: tuple[int, int, int]
) -> torch.Tensor | None:
    """Find what hangs together with the core on the coarse grid; None where all of it does.

    Specks beside the tumour count as part of it: real masks have them too.
    """
    coarse = block_mean((oedema | core).to(torch.float32), steps) > 0
    parts, count = ndi.label(coarse.cpu().numpy())
    if count <= 1:
        return None
    source = (block_mean(core.to(torch.float32), steps) > 0).cpu().numpy()
    kept = np.zeros(count + 1, bool)
    kept[parts[source]] = kept[0] = True
    if kept.all():
        return None
    keep = torch.from_numpy(kept[parts]).to(oedema.device)
    for axis, step in enumerate(steps):
        keep = keep.repeat_interleave(step, dim=axis).narrow(axis, 0, oedema.shape[axis])
    return keep


def _resect(
    rng: np.random.Generator, growth: Growth, tumour: Tumour, depth_mm: Array, grid: Grid
) -> Tumour:
    """Take the middle out of the core and leave shreds of it in an oedematous wall."""
    cavity, radius = growth.cavity, growth.core_radius_mm
    core = tumour.core > 0
    knots_mm = round(max(0.5 * radius, 2.5), 6)
    score = tumour.core + grid.noise(rng, knots_mm=knots_mm).mul_(0.1 * radius)
    score -= depth_mm * (0.4 * cavity.toward_surface)
    inside = score[core]
    border = -threshold_for_count(-inside, round(cavity.share * inside.numel()))
    hole = torch.minimum(score - border, tumour.core + 0.5)
    hole = torch.where(hole == 0, 1e-3, hole)  # no voxel is on the border itself
    shreds = grid.noise(rng, knots_mm=knots_mm).mul_(3)
    left = core & (hole <= 0)
    cut = threshold_for_count(shreds[left], round(cavity.residual * int(left.sum())))
    shreds = min(max(cut, -_FAR_MM), _FAR_MM) - shreds
    bright = hole + 1.5 if growth.enhancing_share else tumour.enhancing
    return Tumour(
        core=torch.minimum(torch.minimum(tumour.core, shreds), -hole),
        enhancing=torch.maximum(tumour.enhancing, bright),
        oedema=torch.minimum(torch.maximum(tumour.oedema, tumour.core), -hole),
        box=tumour.box,
        cavity=hole,
    )
