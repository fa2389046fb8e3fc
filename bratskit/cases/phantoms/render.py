"""Give tissues their intensities in four modalities, free of noise; no scanner, no labels."""

from dataclasses import dataclass

import numpy as np
import torch

from bratskit.cases.phantoms.anatomy import Anatomy
from bratskit.cases.phantoms.contrast import Contrast
from bratskit.cases.phantoms.fields import Array, Grid
from bratskit.cases.phantoms.mimics import agent_weight
from bratskit.cases.phantoms.noises import Noises, fade, step, where
from bratskit.cases.phantoms.tumour import Tumour
from bratskit.labels import MODALITIES

__all__ = ["render", "strip_skull"]

_AIR = -2.6  # brain z-score of the dark rim that a careless skull strip keeps
_FAR = -20.0  # level sets where nothing was grown


@dataclass(frozen=True)
class _Lesion:
    """The brain voxels that a tumour touches.

    Attributes:
        at: Their places among the brain voxels.
        weights: Fraction of each of the tumour's tissues there.
        whole: Sum of the fractions.
        strength: How much of the oedema's contrast shows, about 1 in its middle.
        mottle: Two noises, fine spots on coarse ones: those of 5 to 15 mm, which thirty BraTS
            cases hardly have, make leopards.
        uptake: How much contrast agent enhancing tissue takes up, about 1.
    """

    at: torch.Tensor
    weights: dict[str, Array]
    whole: Array
    strength: Array
    mottle: tuple[Array, Array]
    uptake: Array


def _fraction(level: Array, width_mm: float) -> Array:
    """Soften a level set as partial volume does; width 0 leaves a hard border."""
    return step(level * (1 / max(width_mm, 1e-3)))


def _find_lesion(noises: Noises, contrast: Contrast, anatomy: Anatomy, tumour: Tumour) -> _Lesion:
    def everywhere(level: Array) -> Array:
        whole = torch.full(anatomy.brain.shape, _FAR, device=level.device)
        whole[tumour.box] = level
        return anatomy.at_brain(whole)

    levels = {"core": everywhere(tumour.core), "oedema": everywhere(tumour.oedema)}
    if tumour.cavity is not None:
        levels["cavity"] = everywhere(tumour.cavity)
    near = torch.stack(list(levels.values())).amax(0) > -3 * (contrast.wander_mm + 2.5)
    at = torch.nonzero(near).reshape(-1)
    levels = {name: level[at] for name, level in levels.items()}
    enhancing = everywhere(tumour.enhancing)[at]
    wander = noises.draw_at("wander", 7, at) * contrast.wander_mm
    coarse, fine = noises.draw_at("coarse", 12, at), noises.draw_at("fine", 2.5, at)
    core = _fraction(levels["core"], contrast.border_mm)
    enhancing = core * _fraction(enhancing, contrast.border_mm)
    blood = step((noises.draw_at("blood", 6, at) - (2.2 - 3.5 * contrast.blood)) * 5)
    blood = (core - enhancing) * blood if contrast.blood > 0 else torch.zeros_like(core)
    visible = levels["oedema"] + wander
    halo = step(visible + 4) * contrast.halo
    oedema = (1 - core) * torch.maximum(_fraction(visible, contrast.softness_mm), halo)
    weights = {
        "enhancing": enhancing,
        "necrosis": core - enhancing - blood,
        "blood": blood,
        "oedema": oedema,
    }
    if "cavity" in levels:
        cavity = _fraction(levels["cavity"], contrast.border_mm)
        weights = {name: weight * (1 - cavity) for name, weight in weights.items()}
        weights["cavity"] = cavity
    depth = torch.clamp(levels["oedema"] * 0.1, 0, 1)
    strength = contrast.fading * (depth * (2 - depth) - 1) + 1 + coarse * (0.15 * contrast.texture)
    uptake = (fine * 0.7 + coarse * 0.6) * contrast.patchiness + 1
    return _Lesion(
        at=at,
        weights=weights,
        whole=_add_up(weights.values()),
        strength=torch.clamp(strength, 0.25, 1.3),
        mottle=(coarse * 0.78 + fine * 0.26, coarse * -0.4 + fine * 0.26),
        uptake=torch.clamp(uptake, 0.4, 2.5),
    )


def _add_up(parts: object) -> Array:
    first, *others = parts
    for part in others:
        first = first + part
    return first


def _with_sulci(noises: Noises, contrast: Contrast, anatomy: Anatomy) -> tuple[Array, Array]:
    """Cut fine sulci into the cortex: zero surfaces of noise are curved sheets.

    The cerebellum gets folia instead. Gyri touch the skull: here and there no CSF is outside them.

    Returns:
        The fractions of CSF and of grey matter.
    """
    if contrast.sulci == 0:
        return anatomy.csf, anatomy.grey
    rough = noises.draw("sulci", 5.5)
    sheet = 1 - torch.abs(rough) * (1 / 0.3)
    near = torch.clamp(1 - anatomy.depth_mm * (1 / 28), 0, 1) * contrast.sulci
    cut = torch.clamp(sheet, min=0) * near * (1 - anatomy.hindbrain)
    cut = cut + _folia(anatomy, rough) * (0.2 * contrast.sulci)
    touching = step((2.5 - anatomy.depth_mm) * 2) * step(noises.draw("touching", 9) * 3)
    cut = cut * (anatomy.grey - anatomy.deep_grey) - anatomy.csf * touching * 0.7
    return anatomy.csf + cut, anatomy.grey - cut


def _folia(anatomy: Anatomy, rough: Array) -> Array:
    """Weigh the fissures of the cerebellum: a triangular wave of some 5 mm, a little unruly.

    They fan out behind the fourth ventricle. Set by eye.
    """
    at = where(anatomy.hindbrain > 0)
    parts = (*anatomy.template_yz_mm, rough, anatomy.depth_mm, anatomy.hindbrain)
    y, z, unruly, depth, inside = (part.index_select(0, at) for part in parts)
    turns = (z + 32) * 12 / (torch.abs(y + 45) + 35) + unruly * 0.15
    wave = torch.clamp(torch.abs(turns - torch.floor(turns) - 0.5) * 4 - 1, min=0)
    wave = wave * torch.clamp(1.5 - depth * (1 / 12), 0, 1) * inside
    return torch.zeros_like(rough).index_copy_(0, at, wave)


def _shading(noises: Noises, contrast: Contrast, anatomy: Anatomy) -> Array:
    """Draw the shading that modalities share, as a part of the signal: coil, poles, vertex."""
    y, z = anatomy.template_yz_mm
    rises = (-62 - y, y - 22, z - 40)  # MNI mm: where occipital, frontal pole and vertex begin
    shade = noises.draw("shading", 55) * contrast.shade
    for rise, strength in zip(rises, contrast.poles, strict=True):
        shade = shade + torch.clamp(rise * (1 / 36), 0, 1) * strength
    return shade


def _white_lesions(noises: Noises, contrast: Contrast, anatomy: Anatomy) -> Array:
    """Weigh the white-matter lesions of age: caps around the ventricles, and spots."""
    spots = noises.draw("spots", 5.5)
    caps = fade(anatomy.ventricle_mm, 4 + 2 * contrast.confluent) * step(spots * 2 + 0.5)
    far = step((anatomy.depth_mm - 6) * 1.0)
    small = step((spots - (3.1 - 1.1 * min(contrast.punctate, 1.6))) * 7) * far
    strong = caps * contrast.confluent + small * (0.6 + 0.6 * min(contrast.punctate, 1.0))
    return torch.clamp(strong * anatomy.white, 0, 1.3)


@dataclass(frozen=True)
class _Skull:
    """What the skull strip left in the rim of the brain: weights at the brain's voxels."""

    scraps: Array
    dark: Array

    @classmethod
    def draw(cls, noises: Noises, contrast: Contrast, anatomy: Anatomy) -> "_Skull":
        patches = step((noises.draw("scraps", 12) - 0.6) * 5)
        scraps = step((2.8 - anatomy.depth_mm) * 3) * patches * contrast.scraps
        return cls(scraps, step((2.6 - anatomy.depth_mm) * 3) * min(contrast.strip_dark, 1.0))


def strip_skull(
    rng: np.random.Generator, contrast: Contrast, anatomy: Anatomy, grid: Grid
) -> torch.Tensor:
    """Say which voxels the skull strip keeps: here and there it bites into the cortex.

    Returns:
        `(I, J, K)` bool, a part of `anatomy.brain`; all of it where `contrast.lost_mm` is 0.
    """
    if contrast.lost_mm == 0:
        return anatomy.brain
    bite = Noises(rng, anatomy, grid).draw("bite", 24)
    lost = anatomy.depth_mm < torch.clamp((bite - 1.2) * 3, 0, 1) * contrast.lost_mm
    return anatomy.volume((~lost).to(torch.float32)) > 0.5


def render(
    rng: np.random.Generator, contrast: Contrast, anatomy: Anatomy, tumour: Tumour, grid: Grid
) -> list[Array]:
    """Give each modality its noise-free intensities, brain z-scores, not yet blurred.

    What contrast leaves out (`mimics`, `confluent`, `texture`, ... of 0) is not computed either.

    Returns:
        Four `(I, J, K)` float32 fields; outside the brain they hold CSF or the skull's dark rim.
    """
    noises = Noises(rng, anatomy, grid)
    lesion = _find_lesion(noises, contrast, anatomy, tumour)
    shared = _Shared.draw(noises, contrast, anatomy)
    images = []
    for channel in range(len(MODALITIES)):
        mean = {name: values[channel] for name, values in contrast.tissues.items()}
        image = _healthy(contrast, channel, mean, anatomy, shared)
        tissue = image[lesion.at]
        inside = _lesion_intensity(contrast, channel, mean, lesion, tissue)
        image[lesion.at] = tissue * (1 - lesion.whole) + inside
        if shared.skull is not None:
            image += (contrast.scrap_bright[channel] - image) * shared.skull.scraps
            image += (_AIR - image) * shared.skull.dark
        if shared.shading is not None:
            unit = round(1 / contrast.scanners[channel].spread, 6)
            image += shared.shading * contrast.shade_gain[channel] * (image + unit)
        edge = 0.35 * mean["csf"] + 0.65 * mean["grey"]  # BraTS cuts along the cortex
        edge += min(contrast.strip_dark, 1.0) * (_AIR - edge)
        images.append(anatomy.volume(image, outside=round(edge, 6)))
    return images


def _drifts(noises: Noises, contrast: Contrast) -> list[Array]:
    parts = zip(MODALITIES, contrast.drift, strict=True)
    return [noises.draw(f"drift {name}", 28) * strength for name, strength in parts]


@dataclass(frozen=True)
class _Shared:
    """What all modalities show of the healthy brain, at its voxels; None is left out."""

    csf: Array
    grey: Array
    regions: dict[str, Array]
    agent: Array | None
    white_lesions: Array | None
    unrest: Array | None
    drift: list[Array] | None
    flare: Array | None
    shading: Array | None
    skull: _Skull | None

    @classmethod
    def draw(cls, noises: Noises, contrast: Contrast, anatomy: Anatomy) -> "_Shared":
        aged = contrast.confluent > 0 or contrast.punctate > 0
        stripped = contrast.scraps > 0 or contrast.strip_dark > 0
        bright = max(contrast.flare) > 0 or contrast.inflow > 0
        csf, grey = _with_sulci(noises, contrast, anatomy)
        apart = [name for name, offsets in contrast.regions.items() if any(offsets)]
        return cls(
            csf=csf,
            grey=grey,
            regions={name: getattr(anatomy, name) * (1 - csf) for name in apart},
            agent=agent_weight(noises, contrast, anatomy, csf) if contrast.mimics > 0 else None,
            white_lesions=_white_lesions(noises, contrast, anatomy) if aged else None,
            unrest=noises.draw("unrest", 6) if max(contrast.unrest) > 0 else None,
            drift=_drifts(noises, contrast) if max(contrast.drift) > 0 else None,
            flare=torch.clamp(noises.draw("flare", 9) - 0.9, min=0) if bright else None,
            shading=_shading(noises, contrast, anatomy) if contrast.shade > 0 else None,
            skull=_Skull.draw(noises, contrast, anatomy) if stripped else None,
        )


def _healthy(
    contrast: Contrast, channel: int, mean: dict[str, float], anatomy: Anatomy, shared: _Shared
) -> Array:
    """Add up the tissues of one modality as if there were no tumour."""
    image = shared.csf * mean["csf"] + shared.grey * mean["grey"] + anatomy.white * mean["white"]
    image += anatomy.deep_grey * (mean["deep_grey"] - mean["grey"])
    for name, place in shared.regions.items():
        image += place * contrast.regions[name][channel]
    if shared.drift is not None:
        image += shared.drift[channel]
    if shared.unrest is not None:
        image += shared.unrest * contrast.unrest[channel]
    if shared.flare is not None:
        flare = (anatomy.white * 0.4 + anatomy.grey) * contrast.flare[channel]
        if MODALITIES[channel] == "flair":
            flare += anatomy.csf * (2.5 * contrast.inflow)
        image += shared.flare * flare
    if shared.white_lesions is not None:
        image += shared.white_lesions * mean["white_lesion"]
    if shared.agent is not None:
        seen = 1.0 if MODALITIES[channel] == "t1ce" else 0.25
        image += (mean["vessel"] - image) * shared.agent * seen
    return image


# Strength of the mottling of necrosis on FLAIR, T1, T1ce, T2: matched to thirty BraTS cases.
_NECROSIS_MOTTLE = (1.4, 0.9, 1.3, 1.5)


def _mottle(lesion: _Lesion, contrast: Contrast, channel: int) -> Array:
    """Mottle the tumour: water is bright on FLAIR and T2 alike, and a little dark on T1."""
    kinship = contrast.kinship
    other = round(float(np.sqrt(1 - kinship * kinship)), 6)
    water, rest = {"flair": (0.75, 0.0), "t2": (kinship, other)}.get(
        MODALITIES[channel], (-0.35, 0.5)
    )
    first, second = lesion.mottle
    return first * (water * contrast.texture) + second * (rest * contrast.texture)


def _lesion_intensity(
    contrast: Contrast, channel: int, mean: dict[str, float], lesion: _Lesion, tissue: Array
) -> Array:
    """Add up the tumour's tissues, mottled; enhancement varies as a factor.

    Args:
        contrast: Look of the scan.
        channel: Which modality.
        mean: Brain z-score of each tissue.
        lesion: The tumour's voxels.
        tissue: What healthy tissue looks like there: it shines through oedema.
    """
    weights = lesion.weights
    mottle = _mottle(lesion, contrast, channel)
    swollen = tissue + lesion.strength * (mean["oedema"] - tissue)
    image = weights["oedema"] * (swollen + mottle * 0.15)
    image += weights["necrosis"] * (mottle * _NECROSIS_MOTTLE[channel] + mean["necrosis"])
    image += weights["blood"] * (mottle + mean["blood"])
    bright = mottle + mean["enhancing"]
    if MODALITIES[channel] == "t1ce":
        low = mean["necrosis"]
        bright = lesion.uptake * (mean["enhancing"] - low) + low
    image += weights["enhancing"] * bright
    if "cavity" in weights:
        image += weights["cavity"] * mean["cavity"]
    return image
