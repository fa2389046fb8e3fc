"""Vary patches at random: parameters are drawn first, then applied to image and labels together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from bratskit.settings import AugmentationSettings
from bratskit.train.augment_intensity import (
    add_noise,
    bend_contrast,
    find_brain,
    lose_resolution,
    measure_brain,
)
from bratskit.train.augment_move import move_patch

__all__ = ["Augmentation", "apply_augmentation", "draw_augmentation"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What happens to each patch of a batch.

    Attributes:
        flips: `(B, 3)` bool, axes I, J, K to mirror. All three, as nnU-Net does: only left-right
            gives a plausible head, but with tens of cases a tumour seen from eight sides teaches
            more than an upright head does.
        rotation_rad: `(B, 3)` angles about I, J, K; 0 where the patch stays upright.
        zoom: `(B,)` factor by which content grows; 1 leaves it.
        scale: `(B, C)` factor of each channel.
        shift: `(B, C)` added to the brain voxels of each channel, in standard deviations of the
            brain: as it is to z-scores.
        gamma: `(B, C)` exponent of the contrast curve; 1 leaves it.
        noise_std: `(B,)` standard deviation of Gaussian noise, in the same unit; 0 adds none.
        noise_seed: Seeds the noise, so that applying twice gives the same patch.
        bend: `(B, 3, n, n, n)` displacement of the knots of a smooth bending along I, J, K, as a
            share of the distance between two knots; None bends nothing.
        blur_vox: `(B, C)` sigma of a Gaussian blur; 0 blurs nothing. None: nothing is.
        coarse_vox: `(B, C)` voxel size that channels are sampled at and back; 1 leaves one. None:
            nothing is.
        dropped: `(B, C)` bool, channels that are set to 0; None drops none.
    """

    flips: NDArray[np.bool_]
    rotation_rad: Array
    zoom: Array
    scale: Array
    shift: Array
    gamma: Array
    noise_std: Array
    noise_seed: int
    bend: Array | None = None
    blur_vox: Array | None = None
    coarse_vox: Array | None = None
    dropped: NDArray[np.bool_] | None = None


def draw_augmentation(
    rng: np.random.Generator,
    batch: int,
    settings: AugmentationSettings | None = None,
    *,
    channels: int = 4,
) -> Augmentation:
    """Draw what happens to each patch of a batch.

    As many numbers are taken from `rng` whatever the settings, so that recipes which differ in
    augmentation alone see the same patches, and turning one operation off leaves the draws of the
    others as they were.

    Args:
        rng: The one source of randomness.
        batch: Number of patches.
        settings: Share and range of each operation; None takes the usual ones.
        channels: Modalities of the image; each gets its own contrast.
    """
    settings = settings or AugmentationSettings()

    def each() -> Array:
        return rng.uniform(-1, 1, (batch, channels))

    angle_rad = np.radians(settings.rotation_deg)
    turned = rng.random(batch) < settings.affine_share
    curved = (rng.random(batch) < settings.gamma_share)[:, None]
    noisy = rng.random(batch) < settings.noise_share
    flips = rng.random((batch, 3)) < settings.flip_share
    rotation_rad = turned[:, None] * rng.uniform(-angle_rad, angle_rad, (batch, 3))
    zoom = 1 + turned * rng.uniform(-settings.zoom, settings.zoom, batch)
    scale, shift = settings.contrast * each(), settings.brightness * each()
    gamma = np.exp(curved * settings.gamma * each())
    noise_std = noisy * rng.uniform(0, settings.noise, batch)
    noise_seed = int(rng.integers(2**31))
    other = np.random.default_rng(noise_seed)  # numbers beyond those that older runs have drawn
    return Augmentation(
        flips=flips & np.isin(np.arange(3), settings.flip_axes),
        rotation_rad=rotation_rad,
        zoom=zoom,
        scale=1 + scale * (other.random((batch, 1)) < settings.contrast_share),
        shift=shift * (other.random((batch, 1)) < settings.brightness_share),
        gamma=gamma,
        noise_std=noise_std,
        noise_seed=noise_seed,
        **_draw_others(other, batch, settings, channels),
    )


def apply_augmentation(
    image: Float[Tensor, "b c i j k"],
    labels: Int[Tensor, "b i j k"],
    params: Augmentation,
    *,
    normalise: str = "zscore",
) -> tuple[Float[Tensor, "b c i j k"], Int[Tensor, "b i j k"]]:
    """Apply one draw to image and labels alike.

    Background stays exactly 0: a voxel counts as brain where any channel is non-zero once the patch
    was moved, which is how the preparation made the mask; intensities change only there.

    Args:
        image: Prepared patches, any device; not modified.
        labels: Internal labels of the same patches; not modified.
        params: What `draw_augmentation` returned, for the same batch size.
        normalise: Scale of the image, as the recipe calls it. "zscore": the brain's deviation is 1
            and shift and noise are added as drawn. Otherwise they are multiplied by the deviation
            of each channel over the patch's brain: 0.1 of a 0..1 image would drown its tissues.

    Returns:
        New image and labels of the same shapes. Mirror, turn, zoom and bending are one resampling:
        labels take the nearest voxel, the image is interpolated linearly, at the same points.
    """
    generator = torch.Generator(image.device).manual_seed(params.noise_seed)
    moved = torch.empty_like(image, memory_format=torch.contiguous_format)
    moved_labels = torch.empty_like(labels)
    for at in range(image.shape[0]):
        move_patch(
            image[at],
            labels[at],
            flips=params.flips[at],
            rotation_rad=params.rotation_rad[at],
            zoom=float(params.zoom[at]),
            bend=None if params.bend is None else params.bend[at],
            out=(moved[at], moved_labels[at]),
        )
        _vary(moved[at], params, at, generator, is_zscore=normalise == "zscore")
    return moved, moved_labels


def _vary(
    image: Tensor, params: Augmentation, at: int, generator: torch.Generator, *, is_zscore: bool
) -> None:
    """Vary the intensities of one moved patch `(C, I, J, K)` in place."""
    brain = find_brain(image)
    spread = image.new_ones(len(image)) if is_zscore else measure_brain(image, brain)[1]
    if params.blur_vox is not None and params.coarse_vox is not None:
        lose_resolution(image, brain, params.blur_vox[at], params.coarse_vox[at])
    bend_contrast(image, brain, params.gamma[at])
    if params.noise_std[at]:
        add_noise(image, brain, spread * float(params.noise_std[at]), generator)
    if (params.scale[at] != 1).any() or params.shift[at].any():
        scale, shift = (image.new_tensor(item[at]) for item in (params.scale, params.shift))
        image.mul_(scale.view(-1, 1, 1, 1))
        image.addcmul_(brain, (shift * spread).view(-1, 1, 1, 1))
    if params.dropped is not None:
        image[torch.from_numpy(params.dropped[at])] = 0


def _draw_others(
    rng: np.random.Generator, batch: int, settings: AugmentationSettings, channels: int
) -> dict[str, NDArray]:
    """Draw the operations that are off by default, as keywords of `Augmentation`."""
    each, some = (batch, channels), rng.random((2, batch, channels)) < 0.5
    shares = [
        settings.elastic_share,
        settings.blur_share,
        settings.low_resolution_share,
        settings.channel_dropout_share * (channels > 1),
    ]
    bent, blurred, coarse, dropped = (rng.random(batch) < share for share in shares)
    sigma_vox = rng.uniform(0.5, 1, each) * settings.blur_vox
    fineness = rng.uniform(1 / settings.low_resolution, 1, each)
    lacking = np.arange(channels) == rng.integers(channels, size=(batch, 1))
    n = settings.elastic_knots
    knots = settings.elastic * rng.uniform(-1, 1, (batch, 3, n, n, n))  # last: its size is a choice
    return {
        "bend": bent[:, None, None, None, None] * knots if bent.any() else None,
        "blur_vox": (blurred[:, None] & some[0]) * sigma_vox,
        "coarse_vox": np.where(coarse[:, None] & some[1], 1 / fineness, 1),
        "dropped": dropped[:, None] & lacking,
    }
