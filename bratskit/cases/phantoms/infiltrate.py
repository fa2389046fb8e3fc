"""Let glioma cells multiply and wander off the core: Fisher's equation on a coarse grid."""

from dataclasses import dataclass

import torch

from bratskit.cases.phantoms.fields import Array
from bratskit.cases.phantoms.growth import VISIBLE_OEDEMA, Growth

__all__ = ["Tissue", "infiltrate"]

_LONGER = 2.2  # cells go on this many times the tumour's age, to find room for the volume aimed at
_FASTEST = 2.0  # how much more than usual lopsided oedema may diffuse


@dataclass(frozen=True)
class Tissue:
    """Tissue fractions in the box around a tumour, `(i, j, k)` each.

    Attributes:
        brain: 1 in the brain.
        white: White-matter fraction.
        grey: Grey-matter fraction.
        csf: CSF fraction.
    """

    brain: Array
    white: Array
    grey: Array
    csf: Array


def infiltrate(
    growth: Growth, core_mm: Array, tissue: Tissue, ease: Array, step_mm: tuple[float, ...]
) -> Array:
    r"""Solve Fisher's equation around a growing core, in explicit steps.

    $$\partial_t c = \nabla\cdot(D\,\nabla c) + \rho\,c\,(1-c)$$

    with $c = 1$ where the core has arrived. No cell crosses CSF or leaves the brain.

    Args:
        growth: Diffusion and proliferation, and the core's radius and age at detection.
        core_mm: Distance to the core's border at detection, negative inside, on the coarse grid.
        tissue: Fractions on the coarse grid.
        ease: Factor of diffusion, 0 to 2; 1 everywhere spreads alike.
        step_mm: Voxel size of the coarse grid.

    Returns:
        Days that each voxel spent below the density that T2 shows, as distance in mm: the front's
        speed in white matter is divided out. Smooth, and smallest in the core.

    Source:
        Swanson et al. (2000), Cell Prolif. 33(5):317-329; thresholds and rates see `growth`.
    """
    days, dt, steps = _timing(growth, step_mm)
    faces = _faces(growth, tissue, ease, step_mm, dt)
    room = 1 - tissue.csf * (1 - _wading(growth))
    gain = tissue.brain * room * (growth.proliferation_per_day * dt)
    arrival = (core_mm * (1 / max(growth.core_radius_mm, 1e-3)) + 1) * days  # radial, steady
    sharpness = growth.speed_mm_day / min(step_mm)
    density = torch.zeros_like(core_mm)
    waited = torch.zeros_like(core_mm)
    for n in range(1, steps + 1):
        now = min(n * dt, days)
        source = ((now - arrival) * sharpness + 0.5).clamp_(0, 1)
        grown = density + gain * (density - density * density)
        _flow(grown, density, faces)
        density = torch.maximum(grown, source)
        waited += (1 - density * (1 / VISIBLE_OEDEMA)).clamp_(min=0)
    return waited * (dt * growth.speed_mm_day)


def _timing(growth: Growth, step_mm: tuple[float, ...]) -> tuple[float, float, int]:
    """Return the age at detection, the time step and their number: stable, at most 320."""
    days = growth.age_days
    per_day = growth.diffusion_white_mm2_day * _FASTEST * 2 * sum(1 / (s * s) for s in step_mm)
    fastest = max(per_day / 0.9, 2 * growth.proliferation_per_day)
    steps = min(max(int(_LONGER * days * fastest) + 1, 40), 320)
    dt = _LONGER * days / steps
    return days, min(dt, 0.9 / per_day), steps


def _wading(growth: Growth) -> float:
    """Say how well cells cross CSF: not at all, but where all tissues are alike as any other."""
    return max(0.0, 2 * growth.diffusion_grey_mm2_day / growth.diffusion_white_mm2_day - 1)


def _faces(
    growth: Growth, tissue: Tissue, ease: Array, step_mm: tuple[float, ...], dt: float
) -> list[Array]:
    """Return the share that crosses each face in one step: the slower voxel of two decides."""
    speed = tissue.white * growth.diffusion_white_mm2_day
    speed = speed + tissue.grey * growth.diffusion_grey_mm2_day
    speed = speed + tissue.csf * (growth.diffusion_grey_mm2_day * _wading(growth))
    speed = speed * ease.clamp(0, _FASTEST) * (tissue.brain > 0.5)
    return [
        torch.minimum(speed.narrow(a, 0, n - 1), speed.narrow(a, 1, n - 1)) * (dt / (s * s))
        for a, (n, s) in enumerate(zip(speed.shape, step_mm, strict=True))
    ]


def _flow(grown: Array, density: Array, faces: list[Array]) -> None:
    """Add to `grown` in place what crosses the faces."""
    for axis, face in enumerate(faces):
        n = density.shape[axis]
        moved = (density.narrow(axis, 1, n - 1) - density.narrow(axis, 0, n - 1)) * face
        grown.narrow(axis, 0, n - 1).add_(moved)
        grown.narrow(axis, 1, n - 1).sub_(moved)
