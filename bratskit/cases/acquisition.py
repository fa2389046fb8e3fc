"""Turn tissues into four modalities: contrast, blur, bias, noise, scale; no scanner physics."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage as ndi

from bratskit.cases.anatomy import Anatomy, Grid
from bratskit.cases.fields import sigmoid, uniform
from bratskit.cases.tumour import Growth, Tumour
from bratskit.labels import MODALITIES

__all__ = ["Contrast", "acquire", "draw_contrast", "render"]

Array = NDArray[np.float32]

# Mean and spread over scans, as brain z-scores in the order flair, t1, t1ce, t2, set so that label
# medians of finished phantoms match those of thirty BraTS cases: oedema fades and lets tissue shine
# through, so what is put in is stronger than what comes out. Vessels are set by eye.
_TISSUES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "csf": ((-1.7, -2.3, -1.7, 4.4), (0.5, 0.3, 0.4, 0.9)),
    "grey": ((0.25, -0.35, -0.3, 0.1), (0.2, 0.15, 0.15, 0.15)),
    "white": ((-0.05, 0.9, 0.5, -0.6), (0.2, 0.1, 0.2, 0.15)),
    "oedema": ((3.1, -0.5, -0.6, 2.6), (0.5, 0.35, 0.3, 0.6)),
    "necrosis": ((2.1, -0.6, -0.5, 2.1), (0.6, 0.5, 0.45, 0.8)),
    "enhancing": ((1.7, -0.25, 1.65, 1.45), (0.6, 0.5, 0.8, 0.55)),
    "vessel": ((-0.3, -0.2, 4.5, -1.0), (0.6, 0.5, 1.5, 0.7)),
}
# Standard deviation over mean of the brain, per modality, in thirty BraTS cases.
_SPREAD = ((0.27, 0.42), (0.19, 0.30), (0.20, 0.42), (0.30, 0.55))


# Bright patches that bring the 95th and 99th percentile of healthy tissue to where they are there.
_FLARE = ((0.0, 1.1), (0.0, 0.3), (0.0, 0.5), (0.0, 0.7))


@dataclass(frozen=True)
class Contrast:
    """The drawn look of one scan.

    Attributes:
        tissues: Brain z-score of each tissue, four modalities each.
        spread: Standard deviation over mean of the brain, per modality.
        scale: Mean brain intensity as stored, per modality.
        noise: Standard deviation of the noise before blur, brain z-scores.
        bias: Standard deviation of the log of the bias field.
        blur_mm: In-plane blur, standard deviation, per modality.
        slice_mm: Thickness of the slices it was scanned with, per modality.
        slice_axis: Direction of the slices, per modality.
        texture: Strength of the mottling inside the tumour.
        caps: Strength of the bright rims of age around the ventricles.
        vessels: Threshold of vessels, larger means more.
        strip_dark: How much of the skull's dark rim the brain mask kept, 0 to 1.
        strip_bright: Brightness of scraps that the skull strip left, brain z-scores a modality.
        unrest: Mottling of healthy tissue at 6 mm, per modality.
        flare: Bright patches of healthy tissue, per modality: cortex, artefacts, old lesions.
        fading: How faint oedema is at its edge, 0 (as its middle) to 1.
        wander: How far the visible edge of oedema wanders about the true one, level-set units.
    """

    tissues: dict[str, tuple[float, ...]]
    spread: tuple[float, ...]
    scale: tuple[float, ...]
    noise: tuple[float, ...]
    bias: tuple[float, ...]
    blur_mm: tuple[float, ...]
    slice_mm: tuple[float, ...]
    slice_axis: tuple[int, ...]
    texture: float
    caps: float
    vessels: float
    strip_dark: float
    strip_bright: tuple[float, ...]
    unrest: tuple[float, ...]
    flare: tuple[float, ...]
    fading: float
    wander: float


def _draw_tissues(rng: np.random.Generator, growth: Growth) -> dict[str, tuple[float, ...]]:
    drawn = {name: rng.normal(0, 1, 4) * spread + mean for name, (mean, spread) in _TISSUES.items()}
    shared = rng.normal(0, 0.5)  # a bright FLAIR lesion is bright in all its parts
    for name in ("oedema", "necrosis", "enhancing"):
        drawn[name][0] = max(drawn[name][0] + shared, 0.45)
    drawn["oedema"][3] = max(drawn["oedema"][3], 0.1)
    if rng.random() < 0.2:  # a cyst that FLAIR suppresses like CSF
        drawn["necrosis"][0] = uniform(rng, -1.0, 0.8)
        drawn["necrosis"][3] = uniform(rng, 2.2, 3.5)
    if growth.kind == "low-grade":  # one homogeneous tumour, core hardly apart from the oedema
        drawn["necrosis"] = 0.5 * drawn["necrosis"] + 0.5 * drawn["oedema"]
        drawn["necrosis"][1:3] -= 0.3
    enhancing, rest = drawn["enhancing"], drawn["necrosis"]
    enhancing[2] = max(enhancing[2], enhancing[1] + 0.8, rest[2] + 1.0)
    return {name: tuple(float(v) for v in values) for name, values in drawn.items()}


def draw_contrast(rng: np.random.Generator, growth: Growth) -> Contrast:
    """Draw contrast, sharpness, noise and scale of one scan."""
    thick = [uniform(rng, 2.0, 5.0) if rng.random() < p else 0.0 for p in (0.6, 0.4, 0.15, 0.5)]
    return Contrast(
        tissues=_draw_tissues(rng, growth),
        spread=tuple(uniform(rng, low, high) for low, high in _SPREAD),
        scale=tuple(float(np.exp(rng.normal(np.log(450), 0.8))) for _ in MODALITIES),
        noise=tuple(uniform(rng, 0.1, 0.45) for _ in MODALITIES),
        bias=tuple(uniform(rng, 0.01, 0.09) for _ in MODALITIES),
        blur_mm=tuple(uniform(rng, 0.45, 0.85) for _ in MODALITIES),
        slice_mm=tuple(thick),
        slice_axis=tuple(int(rng.choice([2, 1, 0], p=[0.8, 0.1, 0.1])) for _ in MODALITIES),
        texture=uniform(rng, 0.15, 0.6),
        caps=max(0.0, uniform(rng, -0.6, 1.6)),
        vessels=uniform(rng, 0.01, 0.05),
        strip_dark=max(0.0, uniform(rng, -0.5, 1.0)),
        strip_bright=tuple(uniform(rng, -1.5, 3.5) for _ in MODALITIES),
        unrest=tuple(uniform(rng, 0.05, high) for high in (0.25, 0.2, 0.2, 0.2)),
        flare=tuple(uniform(rng, low, high) for low, high in _FLARE),
        fading=uniform(rng, 0.1, 0.75),
        wander=uniform(rng, 0.5, 3.0),
    )


def _vessel_weight(
    rng: np.random.Generator, contrast: Contrast, anatomy: Anatomy, grid: Grid
) -> Array:
    """Weigh what takes contrast agent outside the tumour: vessels, sinus, dura, choroid plexus."""
    first, second = (anatomy.at_brain(grid.noise(rng, knots_mm=11)) for _ in range(2))
    tube = first**2 + second**2  # two zero surfaces of noise meet in curves: vessels
    width = contrast.vessels * (0.25 + anatomy.csf + 0.5 * (anatomy.depth_mm < 12))
    weight = sigmoid((width - tube) / np.float32(0.35 * contrast.vessels))
    patches = anatomy.at_brain(grid.noise(rng, knots_mm=17))
    shell = sigmoid((4.0 - anatomy.depth_mm) * 2) * sigmoid((patches - 1.2) * 6)
    middle = np.exp(-0.5 * (anatomy.template_x_mm / 1.6) ** 2)
    sinus = middle * anatomy.csf * sigmoid((patches + 0.2) * 5) * (anatomy.depth_mm < 14)
    plexus = sigmoid((0.6 - anatomy.ventricle_mm) * 3) * sigmoid((second - 1.0) * 6)
    return np.maximum.reduce([weight, 0.8 * shell, sinus, 0.6 * plexus])


def _tumour_weights(tumour: Tumour, *, softness: float, wander: Array) -> dict[str, Array]:
    """Soften the level sets as partial volume does; what shows of oedema may miss its border."""
    core = sigmoid(tumour.core / np.float32(0.35))
    enhancing = core * sigmoid(tumour.enhancing / np.float32(0.35))
    oedema = (1 - core) * sigmoid((tumour.oedema + wander) / np.float32(softness))
    return {"enhancing": enhancing, "necrosis": core - enhancing, "oedema": oedema}


def render(
    rng: np.random.Generator,
    contrast: Contrast,
    anatomy: Anatomy,
    tumour: Tumour,
    grid: Grid,
) -> list[Array]:
    """Give each modality its noise-free intensities, brain z-scores, not yet blurred.

    Returns:
        Four `(I, J, K)` float32 fields; outside the brain they hold CSF or the skull's dark rim.
    """

    def noise(knots_mm: float) -> Array:
        return anatomy.at_brain(grid.noise(rng, knots_mm=knots_mm))

    wander = np.float32(contrast.wander) * grid.noise(rng, knots_mm=7)[tumour.box]
    lesion = LesionVoxels.find(tumour, anatomy, softness=uniform(rng, 0.5, 2.5), wander=wander)
    coarse = noise(9)[lesion.at]
    mottle = 0.7 * noise(4)[lesion.at] + 0.7 * coarse
    fading = np.float32(contrast.fading)
    strength = 1 - fading + fading * np.tanh(np.maximum(lesion.oedema, 0) / 5) + 0.2 * coarse
    strength = np.clip(strength, 0.15, 1.3)
    vessels = _vessel_weight(rng, contrast, anatomy, grid)
    caps = contrast.caps * np.exp(-anatomy.ventricle_mm / np.float32(4)) * anatomy.white
    spots = noise(6)
    caps = caps * sigmoid(2 * spots) + contrast.caps * anatomy.white * sigmoid((spots - 2.6) * 8)
    unrest, drift, flare = noise(6), np.float32(0.12) * noise(22), np.maximum(noise(9) - 0.9, 0)
    scraps = sigmoid((2.8 - anatomy.depth_mm) * 3) * sigmoid((noise(12) - 0.6) * 5)
    dark = np.float32(contrast.strip_dark) * sigmoid((2.4 - anatomy.depth_mm) * 3)
    images = []
    for channel, modality in enumerate(MODALITIES):
        mean = {name: np.float32(values[channel]) for name, values in contrast.tissues.items()}
        image = mean["csf"] * anatomy.csf + mean["grey"] * anatomy.grey
        image += mean["white"] * anatomy.white + drift
        image += np.float32(contrast.unrest[channel]) * unrest
        image += np.float32(contrast.flare[channel]) * flare * (0.4 * anatomy.white + anatomy.grey)
        image += caps * np.float32({"flair": 1.6, "t2": 0.7, "t1": -0.3}.get(modality, -0.1))
        seen = np.float32(1.0 if modality == "t1ce" else 0.25)
        image += seen * vessels * (mean["vessel"] - image)
        tissue = image[lesion.at]
        swollen = tissue + strength * (mean["oedema"] - tissue)
        tumour_image = _lesion_intensity(contrast, modality, mean, lesion.weights, mottle, swollen)
        image[lesion.at] = tissue * (1 - lesion.whole) + tumour_image
        image += scraps * (np.float32(contrast.strip_bright[channel]) - image)
        image += dark * (np.float32(-2.6) - image)
        edge = mean["csf"] + np.float32(contrast.strip_dark) * (np.float32(-2.6) - mean["csf"])
        images.append(anatomy.volume(image, outside=float(edge)))
    return images


@dataclass(frozen=True)
class LesionVoxels:
    """The brain voxels that a tumour touches.

    Attributes:
        at: Their places among the brain voxels.
        weights: Fraction of each tumour tissue there.
        whole: Sum of the fractions.
        oedema: Level set of the oedema there.
    """

    at: NDArray[np.int64]
    weights: dict[str, Array]
    whole: Array
    oedema: Array

    @classmethod
    def find(
        cls, tumour: Tumour, anatomy: Anatomy, *, softness: float, wander: Array
    ) -> "LesionVoxels":
        """Soften a tumour's level sets and keep the voxels where something is left."""
        soft = _tumour_weights(tumour, softness=softness, wander=wander)
        whole = np.zeros(anatomy.brain.shape, np.float32)
        whole[tumour.box] = sum(soft.values())
        at = np.flatnonzero(anatomy.at_brain(whole) > 0.002)
        scratch = np.zeros(anatomy.brain.shape, np.float32)

        def take(local: Array) -> Array:
            scratch[tumour.box] = local
            return scratch.ravel()[anatomy.voxels[at]]

        weights = {name: take(local) for name, local in soft.items()}
        return cls(at=at, weights=weights, whole=sum(weights.values()), oedema=take(tumour.oedema))


def _lesion_intensity(
    contrast: Contrast,
    modality: str,
    mean: dict[str, np.float32],
    weights: dict[str, Array],
    mottle: Array,
    swollen: Array,
) -> Array:
    """Add up the tumour's tissues, mottled; enhancement varies as a factor, never below a third.

    Args:
        contrast: Look of the scan.
        modality: Which modality.
        mean: Brain z-score of each tissue.
        weights: Fraction of each tumour tissue.
        mottle: Noise of variance about 1.
        swollen: What oedema looks like here: the tissue shines through.
    """
    texture = np.float32(contrast.texture) * mottle
    image = weights["oedema"] * (swollen + texture * np.float32(0.6))
    image += weights["necrosis"] * (mean["necrosis"] + texture)
    bright = mean["enhancing"] + texture
    if modality == "t1ce":
        low = mean["necrosis"]
        bright = low + (mean["enhancing"] - low) * np.maximum(1 + np.float32(0.8) * texture, 0.35)
    return image + weights["enhancing"] * bright


def acquire(
    rng: np.random.Generator,
    contrast: Contrast,
    channel: int,
    image: Array,
    brain: NDArray[np.bool_],
    grid: Grid,
) -> NDArray[np.int16]:
    """Blur, bias, corrupt and store one modality.

    Args:
        rng: Source of noise and bias field.
        contrast: Look of the scan.
        channel: Which modality.
        image: Output of `render`, on the grid on which the scan is stored.
        brain: What the skull strip keeps; everything else becomes exactly 0.
        grid: Where `image` lies.

    Returns:
        int16 intensities, at least 1 in the brain and 0 outside.
    """
    signal = np.maximum(1 + np.float32(contrast.spread[channel]) * image, np.float32(0.04))
    at = np.flatnonzero(brain)
    inside = signal.ravel()[at]
    field = grid.noise(rng, knots_mm=60).ravel()[at]
    inside *= np.exp(np.float32(contrast.bias[channel]) * field)
    sigma = np.float32(contrast.spread[channel] * contrast.noise[channel])
    real, imaginary = rng.standard_normal((2, at.size), dtype=np.float32) * sigma
    signal.ravel()[at] = np.hypot(inside + real, imaginary)  # magnitude: Rician
    blur = [contrast.blur_mm[channel] / s for s in grid.spacing_mm]
    axis = contrast.slice_axis[channel]
    blur[axis] = np.hypot(blur[axis], 0.29 * contrast.slice_mm[channel] / grid.spacing_mm[axis])
    signal = ndi.gaussian_filter(signal, blur, truncate=2.5)
    inside = np.rint(signal.ravel()[at] * np.float32(contrast.scale[channel]))
    stored = np.zeros(brain.shape, np.int16)
    stored.ravel()[at] = np.clip(inside, 1, 32767)
    return stored
