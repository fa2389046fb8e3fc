"""Weigh what takes contrast agent outside the tumour: vessels, sinuses, dura, choroid plexus."""

import torch

from bratskit.cases.phantoms.anatomy import Anatomy
from bratskit.cases.phantoms.contrast import Contrast
from bratskit.cases.phantoms.fields import Array
from bratskit.cases.phantoms.noises import Noises, fade, near_place, step, where

__all__ = ["agent_weight"]

# Where choroid plexus hangs in the ventricles (none in frontal and occipital horns): centre and
# half axes, distance to the middle, MNI y and z in mm, by eye on the template.
_PLEXUS = (
    ((22, -41, 8), (6, 8, 9)),  # glomus in the trigone
    ((8, -20, 18), (6, 15, 4)),  # floor of the body, behind the foramen of Monro
    ((0, -8, 9), (3, 13, 3)),  # roof of the third ventricle
)
_FOURTH = ((0, -47, -33), (7, 7, 7))
# Sinuses along the rim, and the vein of Galen with the internal cerebral veins before it; by eye.
_TRANSVERSE = ((38, -72, -20), (30, 22, 8))
_CAVERNOUS = ((14, -2, -28), (12, 14, 10))
_GALEN = ((0, -40, 7), (1.6, 9, 4))


def agent_weight(noises: Noises, contrast: Contrast, anatomy: Anatomy, csf: Array) -> Array:
    """Weigh what takes contrast agent outside the tumour, `(N,)`, 0 to 1.

    Args:
        noises: Smooth fields of the scan.
        contrast: Look of the scan.
        anatomy: The head.
        csf: Fraction of CSF, fine sulci included: vessels run in them.
    """
    first, second = noises.draw("vessel", 11), noises.draw("vein", 11)
    weight = _vessels(first, second, contrast, anatomy, csf)
    _raise_to(weight, *_rim(anatomy, noises.draw("dura", 17)))
    _raise_to(weight, *_midline(anatomy))
    _raise_to(weight, *_plexus(second, anatomy, csf))
    return torch.clamp(weight * contrast.mimics, max=1)


def _raise_to(weight: Array, at: torch.Tensor, least: Array) -> None:
    weight.index_copy_(0, at, torch.maximum(weight.index_select(0, at), least))


def _vessels(
    first: Array, second: Array, contrast: Contrast, anatomy: Anatomy, csf: Array
) -> Array:
    """Draw vessels where two zero surfaces of noise meet: bright in CSF, faint in deep tissue."""
    tube = first * first + second * second
    lumen = torch.clamp(1.5 - tube * (1 / contrast.vessel_width), 0, 1)
    outside = torch.clamp(anatomy.ventricle_mm * 0.25, 0, 1) * (1 - anatomy.hindbrain * 0.6)
    pial = step((3 - anatomy.depth_mm) * 2)
    return lumen * torch.clamp((csf * 3.5 + pial) * outside + 0.04, max=1)


def _rim(anatomy: Anatomy, patches: Array) -> tuple[torch.Tensor, Array]:
    """Weigh dura and the sinuses along the rim: sagittal, transverse and cavernous."""
    at = where(anatomy.depth_mm < 6.5)
    depth, patches = anatomy.depth_mm.index_select(0, at), patches.index_select(0, at)
    dura = step((3 - depth) * 2) * step((patches - 1.2) * 6) * 0.7
    middle = fade(torch.abs(anatomy.template_x_mm.index_select(0, at)), 2.2)
    sagittal = middle * step((4.5 - depth) * 1.5) * step((patches + 0.8) * 3)
    basal = torch.maximum(*(near_place(anatomy, at, *site) for site in (_TRANSVERSE, _CAVERNOUS)))
    basal = basal * step((3.5 - depth) * 1.5) * step((patches + 0.5) * 3)
    return at, torch.maximum(dura, torch.maximum(sagittal, basal))


def _midline(anatomy: Anatomy) -> tuple[torch.Tensor, Array]:
    """Weigh the vein of Galen."""
    at = where(torch.abs(anatomy.template_x_mm) < 3)
    return at, near_place(anatomy, at, *_GALEN) * 0.5


def _plexus(second: Array, anatomy: Anatomy, csf: Array) -> tuple[torch.Tensor, Array]:
    """Weigh the choroid plexus: ragged threads in trigone, body, third and fourth ventricle."""
    at = where((anatomy.ventricle_mm < 1.6) | (anatomy.hindbrain > 0.5))
    sites = [near_place(anatomy, at, *site) for site in (*_PLEXUS, _FOURTH)]
    lateral = torch.maximum(sites[0], torch.maximum(sites[1], sites[2]))
    lateral = lateral * step((0.8 - anatomy.ventricle_mm.index_select(0, at)) * 4)
    fourth = sites[3] * csf.index_select(0, at)
    threads = step((0.3 - torch.abs(second.index_select(0, at))) * 12)
    return at, torch.maximum(lateral, fourth) * threads * 0.45
