"""Weigh what takes contrast agent outside the tumour: vessels, sinuses, dura, choroid plexus."""

import torch

from bratskit.cases.phantoms.anatomy import Anatomy
from bratskit.cases.phantoms.contrast import Contrast
from bratskit.cases.phantoms.fields import Array
from bratskit.cases.phantoms.noises import Noises, fade, near_place, step

__all__ = ["agent_weight"]

# Where choroid plexus hangs in the ventricles (none in frontal and occipital horns): centre and
# half axes, distance to the middle, MNI y and z in mm, by eye on the template.
_PLEXUS = (
    ((22, -41, 8), (6, 8, 9)),  # glomus in the trigone
    ((8, -20, 18), (6, 15, 4)),  # floor of the body, behind the foramen of Monro
    ((0, -8, 9), (3, 13, 3)),  # roof of the third ventricle
)
_FOURTH = ((0, -47, -33), (7, 7, 7))
# The vein of Galen with the internal cerebral veins before it and the straight sinus behind.
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
    patches = noises.draw("dura", 17)
    dura = step((3 - anatomy.depth_mm) * 2) * step((patches - 1.2) * 6) * 0.7
    parts = (
        _vessels(noises, contrast, anatomy, csf),
        dura,
        _sinuses(anatomy, patches),
        _plexus(noises, anatomy, csf),
    )
    weight = torch.maximum(torch.maximum(*parts[:2]), torch.maximum(*parts[2:]))
    return torch.clamp(weight * contrast.mimics, max=1)


def _vessels(noises: Noises, contrast: Contrast, anatomy: Anatomy, csf: Array) -> Array:
    """Draw vessels where two zero surfaces of noise meet: bright in CSF, faint in deep tissue."""
    first, second = noises.draw("vessel", 11), noises.draw("vein", 11)
    tube = first * first + second * second
    lumen = torch.clamp(1.5 - tube * (1 / contrast.vessel_width), 0, 1)
    outside = torch.clamp(anatomy.ventricle_mm * 0.25, 0, 1) * (1 - anatomy.hindbrain * 0.6)
    pial = step((3 - anatomy.depth_mm) * 2) * 0.7
    share = torch.clamp((csf * 2.5 + pial) * outside + 0.04, max=1)
    return lumen * share


def _sinuses(anatomy: Anatomy, patches: Array) -> Array:
    """Weigh the sinuses along the rim, sagittal, transverse and cavernous, and Galen's vein."""
    middle = fade(torch.abs(anatomy.template_x_mm), 2.2)
    rim = step((3.5 - anatomy.depth_mm) * 1.5)
    sagittal = middle * step((4.5 - anatomy.depth_mm) * 1.5) * step((patches + 0.8) * 3)
    basal = torch.maximum(near_place(anatomy, *_TRANSVERSE), near_place(anatomy, *_CAVERNOUS))
    return torch.maximum(
        torch.maximum(sagittal, basal * rim * step((patches + 0.5) * 3)),
        near_place(anatomy, *_GALEN) * 0.5,
    )


def _plexus(noises: Noises, anatomy: Anatomy, csf: Array) -> Array:
    """Weigh the choroid plexus: ragged threads in trigone, body, third and fourth ventricle."""
    sites = [near_place(anatomy, *site) for site in _PLEXUS]
    lateral = torch.maximum(sites[0], torch.maximum(sites[1], sites[2]))
    lateral = lateral * step((0.8 - anatomy.ventricle_mm) * 4)
    fourth = near_place(anatomy, *_FOURTH) * csf
    threads = step((0.5 - torch.abs(noises.draw("plexus", 4))) * 8)
    return torch.maximum(lateral, fourth) * threads * 0.45
