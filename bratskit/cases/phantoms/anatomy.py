"""Sample the bent MNI152 maps: tissues, ventricles, deep grey matter, brain; no intensities."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bratskit.cases.phantoms.fields import Grid, sample
from bratskit.cases.phantoms.template import Template, load_template
from bratskit.cases.phantoms.warp import (
    Coarse,
    Head,
    Push,
    coarse_grid,
    draw_head,
    jacobian_range,
    shifts,
    straight,
    to_maps,
    widen_ventricles,
)

__all__ = [
    "Anatomy",
    "Head",
    "Template",
    "draw_head",
    "jacobian_range",
    "load_template",
    "shape_anatomy",
]

Array = Tensor
_CENTRE_MNI = (-17, 8)  # y and z of the brain's centre, from where template points are counted


@dataclass(frozen=True)
class Anatomy:
    """Tissue fractions of one head, at its brain voxels only: `(N,)` float32 each.

    Attributes:
        brain: What the skull strip keeps, `(I, J, K)` bool.
        voxels: Flat indices of the N brain voxels, ascending.
        white: White-matter fraction.
        grey: Grey-matter fraction, deep grey matter included.
        csf: CSF fraction; white, grey and csf add up to 1.
        deep_grey: The part of `grey` in caudate, putamen, pallidum and thalamus.
        hindbrain: 1 in cerebellum and brain stem, 0 elsewhere, soft between; of every tissue.
        limbic: 1 in hippocampus, amygdala, insula and cingulate cortex, likewise.
        depth_mm: Distance to the brain's surface.
        ventricle_mm: Distance to lateral and third ventricle.
        template_x_mm: Signed distance to the mid-sagittal plane, positive on the right.
        template_yz_mm: MNI y and z of the template's tissue that lies there.
        jacobian: Smallest and largest local scale of volume of the map from this head to the
            template, over its affine part; above 0, so nothing is folded. From differences over
            4 mm, whatever the voxel size: finer extremes are not seen.
    """

    brain: Array
    voxels: Array
    white: Array
    grey: Array
    csf: Array
    deep_grey: Array
    hindbrain: Array
    limbic: Array
    depth_mm: Array
    ventricle_mm: Array
    template_x_mm: Array
    template_yz_mm: tuple[Array, Array]
    jacobian: tuple[float, float]

    def volume(self, values: Array, *, outside: float = 0.0) -> Array:
        """Put values of the brain voxels back on the grid."""
        whole = torch.full(self.brain.shape, outside, dtype=torch.float32, device=values.device)
        whole.view(-1).index_copy_(0, self.voxels, values)
        return whole

    def at_brain(self, whole: Array) -> Array:
        """Take the brain voxels of an array on the grid."""
        return whole.reshape(-1).index_select(0, self.voxels)


def _candidates(coarse: Coarse, grid: Grid) -> Array:
    """Return the flat indices of voxels near the brain of the coarse grid, ascending."""
    near = coarse.depth_mm() > 0
    for axis in range(3):
        near = near | near.roll(1, axis) | near.roll(-1, axis)
    for axis, line in enumerate(grid.lines_mm()):
        index = np.clip(np.floor(line / coarse.grid.spacing_mm[axis]), 0, near.shape[axis] - 1)
        near = near.index_select(axis, torch.from_numpy(index.astype(np.int64)).to(near.device))
    return torch.nonzero(near.view(-1))[:, 0]


def shape_anatomy(
    rng: np.random.Generator,
    head: Head,
    grid: Grid,
    *,
    push: Push | None = None,
) -> Anatomy:
    """Sample the bent template on a grid, once.

    Args:
        rng: Draws the brain's rough surface and the sulci's unrest; start it from the same seed to
            get the same brain again, at any voxel size.
        head: Shape of the head, its bends included.
        grid: Where to sample.
        push: Maps points (three arrays, mm) to the displacement by which a tumour moves the
            tissue, from the point to where its tissue came from. The skull does not give way.
    """
    coarse = Coarse(head, coarse_grid(grid.device))
    template = load_template(grid.device)
    near = _candidates(coarse, grid)
    mm = grid.points_mm(near)
    linear = straight(head, mm)
    moved = shifts(head, grid, linear, voxels=near)
    points = [a.add_(b) for a, b in zip(moved, linear, strict=True)]
    depth = sample(template.depth, to_maps(points))[:, 0].mul_(0.25)
    rough = grid.noise_at(rng, knots_mm=5, voxels=near)
    kept = depth > (rough * 0.7).add_(1.6).clamp_(min=0.5)
    inside = torch.nonzero(kept)[:, 0]
    voxels, depth, rough = (a.index_select(0, inside) for a in (near, depth, rough))
    points, mm = ([a.index_select(0, inside) for a in both] for both in (points, mm))
    if push is not None:
        points = coarse.push(points, mm, depth, push)
    points = widen_ventricles(head, points)
    found = sample(template.tissue, to_maps(points))
    sulci = grid.noise_at(rng, knots_mm=4, voxels=voxels)
    brain = torch.zeros(grid.shape, dtype=torch.bool, device=grid.device)
    brain.view(-1)[voxels] = True
    return Anatomy(
        brain=brain,
        voxels=voxels,
        **_tissues(found, head, depth, rough, sulci),
        hindbrain=found[:, 4] * (1 / 255),
        limbic=found[:, 5] * (1 / 255),
        depth_mm=depth,
        ventricle_mm=found[:, 3] * 0.25,
        template_x_mm=points[0],
        template_yz_mm=(points[1] + _CENTRE_MNI[0], points[2] + _CENTRE_MNI[1]),
        jacobian=coarse.jacobian(push),
    )


def _tissues(
    found: Array, head: Head, depth: Array, rough: Array, sulci: Array
) -> dict[str, Array]:
    """Sharpen the average brain's soft borders and open its sulci; contrasts are set by eye."""
    white, csf, deep = (found[:, channel] * (1 / 255) for channel in range(3))
    csf = csf * (csf * 0.28 + 0.72) * 1.2  # near csf ** 1.3
    csf = csf.sub_(((depth - 10) * (1 / 10)).clamp_(0, 1).mul_(0.5)).clamp_(min=0)
    near_surface = ((26 - depth) * (1 / 20)).clamp_(0, 1).mul_(1 - white)
    unrest = sulci * 0.14 * (1 - found[:, 4] * (1 / 255))  # the cerebellum has no wide sulci
    csf = csf.add_(near_surface.mul_(unrest + (0.3 * head.atrophy - 0.3))).clamp_(0, 1)
    crisp = ((white - 0.5) * 1.8 + 0.5 + rough * 0.12).clamp_(0, 1)
    tissue = 1 - csf
    deep = deep * tissue
    white = ((white + crisp) * 0.5).mul_(tissue - deep)
    grey = tissue - white
    return {"white": white, "grey": grey, "csf": csf, "deep_grey": torch.minimum(deep, grey)}
