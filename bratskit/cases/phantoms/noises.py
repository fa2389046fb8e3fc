"""Hold what renderers share: soft steps, and smooth noise at the brain's voxels; no tissue."""

import numpy as np
import torch

from bratskit.cases.phantoms.anatomy import Anatomy
from bratskit.cases.phantoms.fields import Array, Grid

__all__ = ["Noises", "fade", "near_place", "step", "where"]


def step(x: Array) -> Array:
    """Rise smoothly from 0 at -3 to 1 at 3, as steep at 0 as a sigmoid; a cubic, so it is exact."""
    t = torch.clamp(x * (1 / 6) + 0.5, 0, 1)
    return t * t * (3 - (t + t))


def where(mask: torch.Tensor) -> torch.Tensor:
    """Return the places of True, ascending."""
    return torch.nonzero(mask).reshape(-1)


def fade(distance_mm: Array, reach_mm: float) -> Array:
    """Fall from 1 at distance 0, with no slope, to 0 at three times the reach."""
    t = torch.clamp(1 - distance_mm * (1 / (3 * reach_mm)), 0, 1)
    return t * t * t


def near_place(
    anatomy: Anatomy, at: torch.Tensor, centre: tuple[float, ...], half_axes: tuple[float, ...]
) -> Array:
    """Weigh an ellipsoid and its mirror image: 1 in its middle, 0.5 at its surface.

    Args:
        anatomy: The head.
        at: Where to weigh, places among the brain voxels: few of them, as this takes time.
        centre: Distance to the mid-sagittal plane, MNI y, MNI z; mm.
        half_axes: Half axes along x, y and z, mm.
    """
    places = (anatomy.template_x_mm, *anatomy.template_yz_mm)
    squares = None
    for place, middle, half in zip(places, centre, half_axes, strict=True):
        near = place.index_select(0, at)
        part = ((near.abs() if squares is None else near) - middle) * (1 / half)
        squares = part * part if squares is None else squares + part * part
    return torch.clamp(1.5 - squares, 0, 1)


class Noises:
    """Smooth fields at the brain's voxels, each from a stream of its own.

    Leaving one out changes no other.
    """

    def __init__(self, rng: np.random.Generator, anatomy: Anatomy, grid: Grid) -> None:
        """Take one seed from the stream; each field's name makes a stream of it."""
        self.seed, self.anatomy, self.grid = int(rng.integers(2**32)), anatomy, grid

    def draw(self, name: str, knots_mm: float) -> Array:
        """Draw one field of variance 1 at all voxels of the brain, `(N,)`."""
        return self.anatomy.at_brain(self.grid.noise(self._rng(name), knots_mm=knots_mm))

    def draw_at(self, name: str, knots_mm: float, at: torch.Tensor) -> Array:
        """Draw the same field at some of them only, given by their place among them."""
        voxels = self.anatomy.voxels[at]
        return self.grid.noise_at(self._rng(name), knots_mm=knots_mm, voxels=voxels)

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, *name.encode()])
