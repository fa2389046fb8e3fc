"""Decide which part of a core enhances: a rim about one necrosis with lobes; draws no core."""

import math

import numpy as np
import torch
from scipy import ndimage as ndi

from bratskit.cases.phantoms.fields import (
    FIELD_OF_VIEW_MM,
    Array,
    Grid,
    draw_coefficients,
    sqrt,
    threshold_for_count,
    uniform,
)
from bratskit.cases.phantoms.growth import Growth

__all__ = ["fine_noise", "grow_rim"]

_FAR_MM = 20.0  # no level set says more than this

# Thirty BraTS cases: a median of 99 % of all necrosis, and of all enhancement, hangs together;
# what does not are crumbs of a few voxels and, seldom, a second large part.
_PART = 0.25  # of the largest part: a smaller one joins what surrounds it
_CRUMB_ML = 0.008  # but for crumbs as small as this
_CRUMB = 2.3  # how rare crumbs are: matched to thirty BraTS cases (12 parts of necrosis, 4 of rim)
_CUTS = 3  # times the border is put anew after parts have joined


def grow_rim(rng: np.random.Generator, growth: Growth, core: Array, grid: Grid) -> Array:
    """Let the core enhance near its surface, about one necrosis off its middle.

    Returns:
        Level set `(I, J, K)`, positive where the core enhances; of any sign outside the core.
    """
    inside = (core > 0).reshape(-1)
    _, volume, enhancing = growth.seen_ml()
    keep = round(enhancing / max(volume, 1e-9) * int(inside.sum()))
    if keep == 0:
        return torch.full_like(core, -_FAR_MM)
    near = torch.nonzero((core > -2.5).reshape(-1)).squeeze(1)
    depth_mm = core.reshape(-1)[near]
    within = depth_mm[depth_mm > 0]
    scale = max(threshold_for_count(within, int(0.95 * within.numel())), 1.0)
    score = _score(rng, growth, depth_mm * (1 / scale), near, grid)
    border = _cut(growth, score, near, core, keep, grid)
    level = (border - core * (1 / scale)).mul_(scale)
    level.view(-1)[near] = (border - score) * scale
    return level.clamp_(-_FAR_MM, _FAR_MM)


def fine_noise(
    rng: np.random.Generator, grid: Grid, *, knots_mm: float, voxels: torch.Tensor | None = None
) -> Array:
    """Draw a field as `Grid.noise` does, from few knots that repeat every 20 to 29.

    Two million knots for crumbs alone would take longer than all else of a tumour.
    """
    few = draw_coefficients(rng, knots_mm=10.0)
    sizes = [math.ceil(extent / knots_mm) + 4 for extent in FIELD_OF_VIEW_MM]
    pads = [(0, max(size - n, 0)) for size, n in zip(sizes, few.shape, strict=True)]
    return grid.spline(np.pad(few, pads, mode="wrap"), knots_mm=knots_mm, voxels=voxels)


def _score(
    rng: np.random.Generator, growth: Growth, depth: Array, near: torch.Tensor, grid: Grid
) -> Array:
    """Order the core's voxels: what enhances first has the lowest score."""
    rough, size = growth.rim_roughness, min(max(growth.core_radius_mm, 4.0), 24.0)

    def noise(knots_mm: float) -> Array:
        return grid.noise_at(rng, knots_mm=round(knots_mm, 6), voxels=near)

    lobes = noise(0.45 * size) * (0.7 * rough) + noise(0.2 * size) * (0.6 * rough)
    lobes = lobes + fine_noise(rng, grid, knots_mm=2.2, voxels=near) * (
        0.35 * growth.grain + 0.2 * rough
    )
    ramp = (depth * 2).clamp(0.05, 1)  # the surface itself mostly enhances
    heart, gaps = _directions(rng, growth, near, grid)
    score = depth + heart + lobes * ramp + gaps
    crumbs = fine_noise(
        rng, grid, knots_mm=1.6, voxels=near
    )  # of necrosis in the rim, and of enhancement in necrosis
    crumbs = (crumbs - _CRUMB).clamp(min=0) - (-crumbs - _CRUMB - 0.5).clamp(min=0)
    score = score + crumbs * (4 * min(rough, 1.0))
    if growth.kind == "patchy":
        score = score * 0.5 + noise(0.5 * size)
    return score


def _directions(
    rng: np.random.Generator, growth: Growth, near: torch.Tensor, grid: Grid
) -> tuple[Array, Array]:
    """Say how near necrosis' heart each voxel lies, and how far the rim is open there.

    The rim of thirty BraTS cases is thin or missing in one or two arcs, not at many spots.
    """
    radius = growth.core_radius_mm
    away = uniform(rng, 0.1, 0.55) * min(growth.rim_roughness, 1.0) * radius
    first, second, third = (_unit(rng) for _ in range(3))
    offsets = [p - c for p, c in zip(grid.points_mm(near), growth.centre_mm, strict=True)]
    parts = [o - round(away * u, 6) for o, u in zip(offsets, first, strict=True)]
    strength = 0.9 if growth.kind == "solid" else 0.4  # set by eye
    heart = (1 - _length(parts) * (1 / max(radius, 1e-3))) * strength
    opening = torch.zeros_like(heart)
    length = _length(offsets) + 1e-3
    for towards, share in ((second, 1.0), (third, uniform(rng, 0, 1))):
        least = uniform(rng, 0.5, 0.9)  # cosine of half the arc: 26 to 60 degrees
        along = offsets[0] * towards[0] + offsets[1] * towards[1] + offsets[2] * towards[2]
        cap = ((along / length - least) * 4).clamp(0, 1)
        opening = torch.maximum(opening, cap * round(1.6 * share * growth.rim_gaps, 6))
    return heart, opening


def _unit(rng: np.random.Generator) -> list[float]:
    """Draw a direction, all equally likely."""
    drawn = [float(v) for v in rng.normal(size=3)]
    length = math.sqrt(sum(v * v for v in drawn))
    return [round(v / length, 6) for v in drawn]


def _length(parts: list[Array]) -> Array:
    return sqrt(parts[0] * parts[0] + parts[1] * parts[1] + parts[2] * parts[2])


def _cut(
    growth: Growth, score: Array, near: torch.Tensor, core: Array, keep: int, grid: Grid
) -> float:
    """Put the border where `keep` voxels enhance, islands joined to what surrounds them.

    Changes `score` in place: an island's comes to lie on the other side of the border.
    """
    counts = (core.reshape(-1)[near] > 0) & _main_focus(growth, core).reshape(-1)[near]
    held = core.reshape(-1)[near] > 0
    low = high = torch.zeros_like(held)
    for turn in range(_CUTS):
        free = held & ~low & ~high
        wanted = keep - int(low.sum())
        border = threshold_for_count(score[free], min(max(wanted, 0), int(free.sum()) - 1))
        if growth.kind == "patchy" or turn == _CUTS - 1:
            break
        bright = (score < border) & ~high | low
        to_low = _islands(counts & ~bright, near, core, grid)
        to_high = _islands(counts & bright, near, core, grid)
        if not bool((to_low | to_high).any()):
            break
        low, high = (low | to_low) & ~to_high, (high | to_high) & ~to_low
    score[low] = torch.clamp(score[low], max=border - 0.1)
    score[high] = torch.clamp(score[high], min=border + 0.1)
    return border


def _main_focus(growth: Growth, core: Array) -> torch.Tensor:
    """Return the largest part of the core; a satellite keeps its own rim and necrosis."""
    inside = core > 0
    if not growth.satellites:
        return inside
    parts, count = ndi.label(inside.cpu().numpy())
    if count <= 1:
        return inside
    main = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    return torch.from_numpy(parts == main).to(core.device)


def _islands(mask: torch.Tensor, near: torch.Tensor, core: Array, grid: Grid) -> torch.Tensor:
    """Find parts that are too small to stand alone and too large to be crumbs, `(N,)` bool."""
    whole = torch.zeros(core.numel(), dtype=torch.bool, device=core.device)
    whole[near] = mask
    whole = whole.view(core.shape)
    parts, count = ndi.label(whole.cpu().numpy(), np.ones((3, 3, 3)))
    if count <= 1:
        return torch.zeros_like(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    spacing = grid.spacing_mm
    crumb = _CRUMB_ML * 1000 / (spacing[0] * spacing[1] * spacing[2])
    gone = (sizes < _PART * sizes.max()) & (sizes > crumb)
    return torch.from_numpy(gone[parts]).to(core.device).view(-1)[near]
