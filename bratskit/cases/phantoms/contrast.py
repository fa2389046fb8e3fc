"""Draw the look of one scan: tissue contrasts, mimics, scanner; a plan of numbers, no volumes."""

from dataclasses import dataclass, replace

import numpy as np

from bratskit.cases.phantoms.growth import Growth
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.labels import MODALITIES

__all__ = ["Contrast", "Scanner", "draw_contrast"]

Four = tuple[float, float, float, float]

# Mean and spread over scans, as brain z-scores in the order flair, t1, t1ce, t2, matched to thirty
# BraTS cases: label medians of finished phantoms agree. Oedema fades and lets tissue shine through,
# so what is put in is stronger than what comes out. Vessel, blood and cavity are set by eye.
_TISSUES: dict[str, tuple[Four, Four]] = {
    "csf": ((-2.3, -2.7, -2.0, 4.6), (0.6, 0.4, 0.45, 1.0)),
    "grey": ((0.35, -0.4, -0.25, 0.15), (0.3, 0.3, 0.25, 0.25)),
    "white": ((-0.1, 0.66, 0.36, -0.6), (0.3, 0.3, 0.3, 0.2)),
    "deep_grey": ((-0.05, 0.15, 0.15, -0.35), (0.25, 0.3, 0.25, 0.25)),
    "oedema": ((1.95, -0.35, -0.45, 1.5), (0.5, 0.4, 0.3, 0.7)),
    "necrosis": ((2.05, -0.85, -0.9, 2.1), (0.65, 0.6, 0.45, 0.75)),
    "enhancing": ((1.9, -0.15, 1.65, 1.35), (1.0, 0.7, 0.8, 0.7)),
    "vessel": ((-0.3, -0.2, 7.5, -1.0), (0.6, 0.5, 2.5, 0.7)),
    "blood": ((0.8, 1.5, 0.9, -0.3), (0.8, 0.7, 0.6, 0.9)),
    "white_lesion": ((1.7, -0.5, -0.3, 0.9), (0.6, 0.3, 0.25, 0.4)),
    "cavity": ((-1.2, -1.9, -1.5, 4.0), (0.8, 0.5, 0.5, 0.8)),
}
# What regions add to their grey and white matter: without it a network takes cerebellum, brain stem
# and hippocampus for tumour. Set after where such networks erred in thirty BraTS cases.
_REGIONS: dict[str, tuple[Four, Four]] = {
    "hindbrain": ((-0.05, -0.18, -0.1, -0.35), (0.4, 0.4, 0.3, 0.35)),
    "limbic": ((0.2, -0.2, -0.05, 0.2), (0.3, 0.25, 0.2, 0.25)),
}
# Unit of the z-scores above over the mean of the brain: finished phantoms then have the standard
# deviation over mean of thirty BraTS cases (0.20-0.44, 0.20-0.33, 0.20-0.43, 0.29-0.55).
_SPREAD = ((0.38, 0.72), (0.25, 0.41), (0.26, 0.53), (0.34, 0.66))
# Bright patches that bring the 95th and 99th percentile of healthy tissue to where they are there.
_FLARE = ((0.0, 0.55), (0.0, 0.12), (0.0, 0.2), (0.0, 0.5))
_UNREST = (0.25, 0.15, 0.2, 0.2)
# Shading that modalities share, as a part of the signal: thirty BraTS cases have poles up to 0.8
# standard deviations brighter or darker in several modalities at once, and a darker vertex.
_POLES = ((-0.19, 0.23), (-0.21, 0.19), (-0.19, 0.0))
# How often a modality was scanned in slices thicker than 2 mm, set so that the correlation from
# slice to slice agrees with thirty BraTS cases: FLAIR and T2 of clinical protocols are 2D mostly.
_THICK = (0.8, 0.6, 0.25, 0.8)
# Noise of a scanned voxel in units of the z-scores: lowest and highest, matched likewise.
_NOISE = ((0.01, 0.14), (0.02, 0.11), (0.01, 0.1), (0.02, 0.09))


@dataclass(frozen=True)
class Scanner:
    """How one modality was scanned, resampled and stored.

    Attributes:
        spread: Standard deviation over mean of the brain.
        scale: Mean brain intensity as stored.
        noise: Standard deviation of the noise in a scanned voxel, brain z-scores.
        bias: Standard deviation of the logarithm of the bias field.
        blur_mm: Blur within the slice, standard deviation.
        resample: Share that interpolation to the stored voxels takes from the two neighbours.
        slice_mm: Thickness of the slices; 0 for no thicker than the voxels.
        slice_offset: Where the first slice begins, as a share of the thickness.
        slice_axis: Direction of the slices.
        phase_axis: Direction in which ghosts and motion smear.
        ghost: Strength of the ghosts over the image.
        ghost_mm: Distance from one ghost to the next.
        motion_mm: How far the head moved between the middle of k-space and its rim.
        slab: Lost part of the brain, shares of its height from below; (0, 0) for none.
    """

    spread: float
    scale: float
    noise: float
    bias: float
    blur_mm: float
    resample: float
    slice_mm: float
    slice_offset: float
    slice_axis: int
    phase_axis: int
    ghost: float
    ghost_mm: float
    motion_mm: float
    slab: tuple[float, float]


@dataclass(frozen=True)
class Contrast:
    """The drawn look of one scan.

    Attributes:
        tissues: Brain z-score of each tissue, four modalities each.
        regions: What cerebellum with brain stem, and limbic cortex, add to their tissues.
        scanners: One a modality.
        texture: Strength of the mottling inside the tumour.
        kinship: How alike the mottling of T2 is to that of FLAIR, -1 (opposite) to 1.
        unrest: Mottling of healthy tissue at 6 mm, per modality.
        flare: Bright patches of healthy tissue, per modality: cortex, artefacts, old lesions.
        sulci: Depth of fine sulci, which the average template has lost.
        drift: Mottling at 28 mm, per modality.
        shade: Deviation of the shading that modalities share, as a part of the signal.
        poles: What that shading adds at occipital pole, frontal pole and vertex, likewise.
        shade_gain: How much of it each modality shows.
        fading: How faint oedema is at its edge, 0 (as its middle) to 1.
        softness_mm: Width of the visible border of oedema.
        border_mm: Width of the visible borders within the core.
        wander_mm: How far the visible edge of oedema wanders about the true one.
        halo: How much of the oedema shows beyond its border, some 4 mm far.
        patchiness: How unevenly the enhancing part takes up contrast agent.
        blood: Share of the necrosis that holds blood, bright on T1 without contrast agent.
        confluent: Strength of the white-matter lesions around the ventricles.
        punctate: Frequency of those elsewhere in white matter.
        mimics: How much takes contrast agent outside the tumour.
        vessel_width: Cross-section of vessels, in units of two squared noise fields.
        inflow: Strength of bright CSF on FLAIR, where it was not suppressed.
        strip_dark: How much of the skull's dark rim the brain mask kept, 0 to 1.
        scraps: How much of what lies outside the brain the skull strip left, 0 to 1.
        scrap_bright: Brightness of these scraps, brain z-scores a modality.
        lost_mm: How deep the skull strip bit into the cortex where it erred.
    """

    tissues: dict[str, Four]
    regions: dict[str, Four]
    scanners: tuple[Scanner, ...]
    texture: float
    kinship: float
    unrest: Four
    flare: Four
    sulci: float
    drift: Four
    shade: float
    poles: tuple[float, float, float]
    shade_gain: Four
    fading: float
    softness_mm: float
    border_mm: float
    wander_mm: float
    halo: float
    patchiness: float
    blood: float
    confluent: float
    punctate: float
    mimics: float
    vessel_width: float
    inflow: float
    strip_dark: float
    scraps: float
    scrap_bright: Four
    lost_mm: float


class _Draw:
    """Draw plain numbers, rounded to 6 decimals, so that no last bit of libm is in a plan."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def between(self, low: float, high: float, strength: float = 1.0) -> float:
        return round(float(self.rng.uniform(low, high)) * strength, 6)

    def seldom(self, chance: float, low: float, high: float, strength: float = 1.0) -> float:
        """Draw from a range with a chance that grows with the strength up to twice; else 0."""
        hit, value = self.rng.random() < chance * strength, self.rng.uniform(low, high)
        return round(float(value) * min(strength, 1.0), 6) if hit else 0.0

    def each(self, ranges: tuple[tuple[float, float], ...], strength: float = 1.0) -> Four:
        return tuple(self.between(low, high, strength) for low, high in ranges)


def draw_contrast(rng: np.random.Generator, growth: Growth, ingredients: Ingredients) -> Contrast:
    """Draw contrast, mimics, sharpness, noise and scale of one scan.

    As many numbers are drawn whatever the ingredients: leaving one out changes nothing else.
    """
    draw, use = _Draw(rng), ingredients
    tissues = _draw_tissues(rng, growth, use.contrast)
    brightness = _draw_scales(rng)
    scanners = tuple(
        _draw_scanner(draw, use, channel, brightness) for channel in range(len(MODALITIES))
    )
    lost_channel, ends = int(rng.integers(len(MODALITIES))), _draw_slab(draw, use.slabs)
    scanners = tuple(
        replace(scanner, slab=ends) if channel == lost_channel else scanner
        for channel, scanner in enumerate(scanners)
    )
    soft, rough = use.partial_volume, use.texture
    return Contrast(
        tissues=tissues,
        scanners=scanners,
        texture=draw.between(0.3, 1.0, rough),
        kinship=draw.between(0.2, 1.0),
        unrest=draw.each(tuple((0.05, high) for high in _UNREST), rough),
        flare=draw.each(_FLARE, rough),
        sulci=min(draw.between(0.25, 0.75, rough), 1.0),
        drift=draw.each(((0.02, 0.1),) * 4, rough),
        fading=min(draw.between(0.1, 0.6, rough), 0.9),
        softness_mm=draw.between(0.8, 3.5, soft),
        border_mm=draw.between(0.2, 0.4, soft),
        wander_mm=draw.between(0.4, 2.6, soft),
        halo=min(draw.between(0.05, 0.5, soft), 0.6),
        patchiness=draw.between(0.15, 0.5, rough),
        blood=draw.seldom(0.03 if growth.kind == "low-grade" else 0.15, 0.05, 0.3, rough),
        confluent=max(0.0, draw.between(-0.5, 1.3, use.white_lesions)),
        punctate=max(0.0, draw.between(-0.3, 1.0, use.white_lesions)),
        mimics=draw.between(0.4, 1.0, use.mimics),
        vessel_width=draw.between(0.04, 0.12),
        inflow=draw.seldom(0.25, 0.3, 1.0, use.mimics),
        strip_dark=max(0.0, draw.between(-0.3, 0.8, use.strip)),
        scraps=draw.between(0.0, 1.0, use.strip),
        scrap_bright=draw.each(((-1.5, 3.5),) * 4),
        lost_mm=draw.seldom(0.25, 1.0, 5.0, use.strip),
        regions=_draw_regions(rng, use.regions),
        shade=draw.between(0.03, 0.11, use.bias),
        poles=draw.each(_POLES, use.bias),
        shade_gain=draw.each(((0.1, 1.0), (0.6, 1.4), (0.5, 1.3), (0.6, 1.4))),
    )


def _draw_tissues(rng: np.random.Generator, growth: Growth, strength: float) -> dict[str, Four]:
    """Draw each tissue about its mean; `strength` 0 gives every scan the same contrasts."""
    drawn = {
        name: np.array(mean) + strength * np.array(spread) * rng.normal(0, 1, 4)
        for name, (mean, spread) in _TISSUES.items()
    }
    middle = 0.5 * (drawn["grey"] + drawn["white"])
    apart = np.clip(1 + strength * rng.normal(0, 0.35, 4), 0.3, 1.7)
    for name in ("grey", "white"):  # some sequences hardly tell the two apart
        drawn[name] = middle + apart * (drawn[name] - middle)
    shared = strength * rng.normal(0, 0.5)  # a bright FLAIR lesion is bright in all its parts
    lesions = ("oedema", "necrosis", "enhancing")
    for name in lesions:
        drawn[name][0] = max(drawn[name][0] + shared, 0.6)
    least = max(1.4, drawn["grey"][0] + 1.2)  # in none of thirty cases a healthy part is brighter
    drawn["oedema"] = np.maximum(drawn["oedema"], (least, -9, -9, 0.3))
    cyst, flair, t2 = rng.random(), rng.uniform(-1.0, 0.8), rng.uniform(2.2, 3.5)
    if cyst < 0.14 * strength:  # fluid that FLAIR suppresses like CSF
        drawn["necrosis"][0], drawn["necrosis"][3] = flair, t2
    if growth.kind == "low-grade":  # one homogeneous tumour, core hardly apart from the oedema
        drawn["necrosis"] = 0.5 * drawn["necrosis"] + 0.5 * drawn["oedema"]
        drawn["necrosis"][1:3] -= 0.3
    protein = rng.random() < 0.35 * min(strength, 1.0)
    if protein:  # FLAIR does not suppress a cavity rich in protein
        drawn["cavity"] += (1.6, 0.6, 0.4, -0.4)
    enhancing, rest = drawn["enhancing"], drawn["necrosis"]
    for name in ("necrosis", "blood"):  # contrast agent darkens nothing
        drawn[name][2] = max(drawn[name][2], drawn[name][1] - 0.6)
    enhancing[1] = min(enhancing[1], 0.7)  # brighter without contrast agent is blood
    enhancing[2] = max(enhancing[2], enhancing[1] + 0.5, rest[2] + 1.0, drawn["oedema"][2] + 1.2)
    most_water = max(drawn[name][3] for name in lesions)  # nothing holds more than CSF, on T2
    drawn["csf"][3] = max(drawn["csf"][3], most_water + 1.2)
    return {name: tuple(round(float(v), 6) for v in values) for name, values in drawn.items()}


def _draw_regions(rng: np.random.Generator, strength: float) -> dict[str, Four]:
    drawn = {
        name: strength * (np.array(mean) + np.array(spread) * rng.normal(0, 1, 4))
        for name, (mean, spread) in _REGIONS.items()
    }
    for values in drawn.values():
        values[0] = min(values[0], 0.7 * strength)  # no region shines on FLAIR as oedema does
    return {name: tuple(round(float(v), 6) for v in values) for name, values in drawn.items()}


def _draw_scales(rng: np.random.Generator) -> Four:
    """Draw the mean brain intensity of each modality as releases store them.

    Three quarters as the scanner gave them, the rest stretched to 255, to some thousands or to the
    whole of int16, as BraTS2021_01482 is. Matched to thirty BraTS cases: 143 to 11,000.
    """
    kind = rng.choice(4, p=[0.72, 0.1, 0.12, 0.06])
    middle, spread = ((450, 0.7), (65, 0.25), (2500, 0.4), (4500, 0.15))[kind]
    return tuple(round(float(middle * np.exp(v)), 3) for v in rng.normal(0, spread, 4))


def _draw_scanner(draw: _Draw, use: Ingredients, channel: int, brightness: Four) -> Scanner:
    rng = draw.rng
    slice_axis = int(rng.choice([2, 1, 0], p=[0.9, 0.05, 0.05]))
    others = [axis for axis in (0, 1, 2) if axis != slice_axis]
    thick = draw.seldom(1.0, 2.0, 6.0, min(use.thick_slices, 1.0))
    thick = thick if rng.random() < _THICK[channel] * use.thick_slices else 0.0
    return Scanner(
        spread=draw.between(*_SPREAD[channel]),
        scale=brightness[channel],
        noise=draw.between(*_NOISE[channel], use.noise),
        bias=draw.between(0.01, 0.07, use.bias) + draw.seldom(0.15, 0.05, 0.15, use.bias),
        blur_mm=draw.between(0.0, 0.45, use.partial_volume),
        resample=min(draw.between(0.0, 0.2, use.partial_volume), 0.6),
        slice_mm=max(thick, 2.0) if thick else 0.0,
        slice_offset=draw.between(0.0, 1.0),
        slice_axis=slice_axis,
        phase_axis=others[int(rng.integers(2))],
        ghost=draw.seldom(0.15, 0.02, 0.1, use.ghosts),
        ghost_mm=draw.between(35.0, 110.0),
        motion_mm=draw.seldom(0.15, 0.5, 2.5, use.ghosts),
        slab=(0.0, 0.0),
    )


def _draw_slab(draw: _Draw, strength: float) -> tuple[float, float]:
    """Draw what one modality lost: its lowest slices, its highest, or a band."""
    hit, where = draw.rng.random() < strength / 3, draw.rng.choice(3, p=[0.45, 0.35, 0.2])
    size, low = draw.between(0.03, 0.2), draw.between(0.2, 0.7)
    if not hit:
        return 0.0, 0.0
    low, high = ((0.0, size), (1.0 - size, 1.0), (low, low + size))[where]
    return round(low, 6), round(high, 6)
