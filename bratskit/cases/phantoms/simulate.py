"""Put one phantom together from head, tumour and acquisition, in memory, on any device."""

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from bratskit.cases.phantoms.acquire import acquire
from bratskit.cases.phantoms.anatomy import Head, draw_head, shape_anatomy
from bratskit.cases.phantoms.contrast import Contrast, draw_contrast
from bratskit.cases.phantoms.fields import Array, Grid, block_mean
from bratskit.cases.phantoms.frame import field_shape, seeds_of
from bratskit.cases.phantoms.growth import Growth, draw_growth, push_of
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.phantoms.levels import LEVELS, OUTSIDE_MM
from bratskit.cases.phantoms.render import render, strip_skull
from bratskit.cases.phantoms.tumour import Tumour, grow_tumour

__all__ = ["Simulated", "aged", "simulate"]

_EVERYTHING = Ingredients()
_COARSE_MM = 4.0  # where the tumour's place is looked for, and the brain's box


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """One made-up patient in the box of the brain, as tensors on one device.

    Attributes:
        image: Whole numbers `(4, I, J, K)` float32, 0 outside the brain, four modalities.
        labels: Internal labels `(I, J, K)` uint8.
        brain: What the skull strip kept, `(I, J, K)` bool.
        grid: The box in the field of view, and the voxel size.
        tumour: Level sets, averaged over each voxel; `tumour.box` is a part of `grid`.
        head: The drawn shape of the head.
        growth: The plan of the tumour.
        contrast: The drawn look of the scan.
        jacobian: Smallest and largest factor by which the map from this head to the template
            scales a volume, its affine part apart, from differences over 4 mm.
    """

    image: Array
    labels: torch.Tensor
    brain: torch.Tensor
    grid: Grid
    tumour: Tumour
    head: Head
    growth: Growth
    contrast: Contrast
    jacobian: tuple[float, float]


@torch.no_grad()
def simulate(
    seed: int | tuple[int, ...],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ingredients: Ingredients = _EVERYTHING,
    growth: Growth | None = None,
    device: torch.device | str = "cpu",
) -> Simulated:
    """Simulate one patient; the same seed gives the same bits on any device.

    Args:
        seed: Decides everything. A tuple seeds one case of a cohort, `(seed, number)`; a single
            seed is its case 0.
        spacing_mm: Voxel size, 0.5 to 10 mm along each axis. An axis at least half as coarse
            again as the finest is averaged over its voxels' thickness.
        ingredients: How much of each effect goes in.
        growth: Grows this tumour instead of the one that the seed draws; nothing else changes.
        device: Where to work.

    Raises:
        ValueError: The spacing is out of range, a seed negative or not below 2**32, or the tumour
            given starts outside this head's brain.
        FileNotFoundError: The template is missing (nilearn is not installed).
    """
    streams = np.random.SeedSequence(seeds_of(seed, spacing_mm)).spawn(11)
    rngs = [np.random.default_rng(stream) for stream in streams]
    head = draw_head(rngs[0], ingredients)
    shape = tuple(n // int(_COARSE_MM) for n in (240, 240, 156))
    everywhere = Grid(shape, (_COARSE_MM,) * 3, (0, 0, 0), device)
    bends = np.random.default_rng(streams[1])
    coarse = shape_anatomy(bends, head, everywhere)
    drawn = draw_growth(rngs[2], coarse, everywhere, ingredients)
    growth = drawn if growth is None else growth
    _refuse_outside(growth, drawn, coarse.brain)
    grid, factors = _working_grid(coarse.brain, spacing_mm, device)
    push = partial(push_of, growth)
    anatomy = shape_anatomy(rngs[1], head, grid, push=push)
    tumour = grow_tumour(rngs[3], growth, anatomy, grid)
    contrast = aged(draw_contrast(rngs[4], growth, ingredients), head)
    images = render(rngs[5], contrast, anatomy, tumour, grid)
    kept = strip_skull(rngs[10], contrast, anatomy, grid)
    brain = _average(kept, factors) > 0.5
    stored = _stored_grid(grid, factors, spacing_mm, device)
    seen = [
        acquire(rngs[6 + channel], contrast, channel, _average(image, factors), brain, stored)
        for channel, image in enumerate(images)
    ]
    tumour = _stored_tumour(tumour, grid.shape, factors)
    return Simulated(
        image=torch.stack([image.to(torch.float32) for image in seen]),
        labels=_stored_labels(tumour, brain),
        brain=brain,
        grid=stored,
        tumour=tumour,
        head=head,
        growth=growth,
        contrast=contrast,
        jacobian=anatomy.jacobian,
    )


def aged(contrast: Contrast, head: Head) -> Contrast:
    """Give a head white-matter lesions by its age: 0.3 of what was drawn when young, 1.7 old.

    Source:
        They grow with age: de Leeuw et al. (2001), J. Neurol. Neurosurg. Psychiatry 70(1):9-14.
        How much: set by eye, 1 in the mean.
    """
    share = 0.3 + 1.4 * head.age
    return replace(
        contrast,
        confluent=round(contrast.confluent * share, 6),
        punctate=round(contrast.punctate * share, 6),
    )


def _refuse_outside(growth: Growth, drawn: Growth, brain: torch.Tensor) -> None:
    """Refuse a tumour that starts where this head has no brain, on the grid of 4 mm."""
    sizes = zip(growth.centre_mm, brain.shape, strict=True)
    within = all(0 <= c < n * _COARSE_MM for c, n in sizes)  # False for NaN too
    if not within or not bool(brain[tuple(int(c // _COARSE_MM) for c in growth.centre_mm)]):
        msg = (
            f"growth.centre_mm must lie in this head's brain; got {growth.centre_mm}. "
            f"The seed's own tumour starts at {drawn.centre_mm}."
        )
        raise ValueError(msg)


def _working_grid(
    brain: torch.Tensor, spacing_mm: tuple[float, ...], device: torch.device | str
) -> tuple[Grid, tuple[int, ...]]:
    """Find the box of the brain, and how many fine voxels make one stored voxel."""
    finest = max(1.0, min(spacing_mm))
    factors = tuple(max(1, round(s / finest)) for s in spacing_mm)
    found = np.argwhere(brain.cpu().numpy())
    low_mm, high_mm = (found.min(0) - 1) * _COARSE_MM, (found.max(0) + 2) * _COARSE_MM
    start, shape = [], []
    for axis, n in enumerate(field_shape(spacing_mm)):
        first = max(0, int(low_mm[axis] / spacing_mm[axis]))
        last = min(n, int(np.ceil(high_mm[axis] / spacing_mm[axis])))
        start.append(first * factors[axis])
        shape.append((last - first) * factors[axis])
    fine = tuple(float(s / f) for s, f in zip(spacing_mm, factors, strict=True))
    return Grid(tuple(shape), fine, tuple(start), device), factors


def _stored_grid(
    grid: Grid,
    factors: tuple[int, ...],
    spacing_mm: tuple[float, ...],
    device: torch.device | str,
) -> Grid:
    shape = tuple(n // f for n, f in zip(grid.shape, factors, strict=True))
    start = tuple(n // f for n, f in zip(grid.start_vox, factors, strict=True))
    return Grid(shape, tuple(float(s) for s in spacing_mm), start, device)


def _average(volume: torch.Tensor, factors: tuple[int, ...]) -> Array:
    """Average fine voxels into stored ones."""
    volume = volume.to(torch.float32)
    return volume if factors == (1, 1, 1) else block_mean(volume, factors)


def _stored_tumour(tumour: Tumour, shape: tuple[int, ...], factors: tuple[int, ...]) -> Tumour:
    """Average the level sets over each stored voxel; what is far from a border counts no more."""
    if factors == (1, 1, 1):
        return tumour
    firsts = [b.start // f for b, f in zip(tumour.box, factors, strict=True)]
    lasts = [-(-b.stop // f) for b, f in zip(tumour.box, factors, strict=True)]
    size = [(last - first) * f for first, last, f in zip(firsts, lasts, factors, strict=True)]
    inner = tuple(
        slice(b.start - first * f, b.stop - first * f)
        for b, first, f in zip(tumour.box, firsts, factors, strict=True)
    )

    def averaged(level: Array) -> Array:
        whole = torch.full(size, OUTSIDE_MM, dtype=torch.float32, device=level.device)
        whole[inner] = torch.clamp(level, OUTSIDE_MM, -OUTSIDE_MM)
        return block_mean(whole, factors)

    names = [name for name in LEVELS if getattr(tumour, name) is not None]
    box = tuple(slice(first, last) for first, last in zip(firsts, lasts, strict=True))
    return replace(tumour, box=box, **{name: averaged(getattr(tumour, name)) for name in names})


def _stored_labels(tumour: Tumour, brain: torch.Tensor) -> torch.Tensor:
    labels = torch.zeros(brain.shape, dtype=torch.uint8, device=brain.device)
    labels[tumour.box] = tumour.labels() * brain[tumour.box]
    return labels
