"""Vary patches at random: parameters are drawn first, then applied to image and labels together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Augmentation", "apply_augmentation", "draw_augmentation"]

# nnU-Net's ranges and shares (Isensee 2021, supplement note 4), narrowed: our runs are short.
AFFINE_SHARE = 0.2
ROTATION_RAD = 0.26  # 15 degrees
ZOOM = 0.15
GAMMA_SHARE = 0.3
GAMMA = 0.35
NOISE_SHARE = 0.15
NOISE_STD = 0.1  # in standard deviations of the brain
SCALE = 0.1
SHIFT = 0.1  # in standard deviations of the brain


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
    """

    flips: NDArray[np.bool_]
    rotation_rad: NDArray[np.float64]
    zoom: NDArray[np.float64]
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    gamma: NDArray[np.float64]
    noise_std: NDArray[np.float64]
    noise_seed: int


def draw_augmentation(rng: np.random.Generator, batch: int, *, channels: int = 4) -> Augmentation:
    """Draw what happens to each patch of a batch.

    Args:
        rng: The one source of randomness.
        batch: Number of patches.
        channels: Modalities of the image; each gets its own contrast.
    """

    def each() -> NDArray[np.float64]:
        return rng.uniform(-1, 1, (batch, channels))

    turned = rng.random(batch) < AFFINE_SHARE
    curved = (rng.random(batch) < GAMMA_SHARE)[:, None]
    noisy = rng.random(batch) < NOISE_SHARE
    return Augmentation(
        flips=rng.random((batch, 3)) < 0.5,
        rotation_rad=turned[:, None] * rng.uniform(-ROTATION_RAD, ROTATION_RAD, (batch, 3)),
        zoom=1 + turned * rng.uniform(-ZOOM, ZOOM, batch),
        scale=1 + SCALE * each(),
        shift=SHIFT * each(),
        gamma=np.exp(curved * GAMMA * each()),
        noise_std=noisy * rng.uniform(0, NOISE_STD, batch),
        noise_seed=int(rng.integers(2**31)),
    )


def apply_augmentation(
    image: Float[Tensor, "b c i j k"],
    labels: Int[Tensor, "b i j k"],
    params: Augmentation,
    *,
    normalise: str = "zscore",
) -> tuple[Float[Tensor, "b c i j k"], Int[Tensor, "b i j k"]]:
    """Apply one draw to image and labels alike.

    Background stays exactly 0: a voxel counts as brain where any channel is non-zero, which is
    how the preparation made the mask; intensities change only there.

    Args:
        image: Prepared patches, any device; not modified.
        labels: Internal labels of the same patches; not modified.
        params: What `draw_augmentation` returned, for the same batch size.
        normalise: Scale of the image, as the recipe calls it. "zscore": the brain's deviation is 1
            and shift and noise are added as drawn. Otherwise they are multiplied by the deviation
            of each channel over the patch's brain: 0.1 of a 0..1 image would drown its tissues.

    Returns:
        New image and labels of the same shapes. Labels are moved by the nearest voxel, image by
        linear interpolation, on one grid.
    """
    pairs = [_move(image[at], labels[at], params, at) for at in range(image.shape[0])]
    image = torch.stack([moved for moved, _ in pairs])
    labels = torch.stack([moved for _, moved in pairs])
    brain = _find_brain(image)
    for at in np.flatnonzero((params.gamma != 1).any(axis=1)):
        image[at] = _curve(image[at], brain[at], image.new_tensor(params.gamma[at]))
    wide = (*params.scale.shape, 1, 1, 1)
    shift = image.new_tensor(params.shift).view(wide)
    spread = None
    if normalise != "zscore":
        spread = torch.stack(
            [_brain_statistics(*patch)[1] for patch in zip(image, brain, strict=True)]
        )
        shift = shift * spread
    _add_noise(image, params, spread)
    image.mul_(image.new_tensor(params.scale).view(wide))
    image.add_(shift).mul_(brain)
    return image, labels


def _move(image: Tensor, labels: Tensor, params: Augmentation, at: int) -> tuple[Tensor, Tensor]:
    """Mirror, then turn and zoom where drawn, one patch `(C, I, J, K)` with its labels."""
    axes = [axis - 3 for axis in np.flatnonzero(params.flips[at])]
    image, labels = (item.flip(axes) if axes else item for item in (image, labels))
    if params.zoom[at] == 1 and not params.rotation_rad[at].any():
        return image, labels
    theta = _sampling_matrix(params.rotation_rad[at], params.zoom[at], labels.shape)
    theta = torch.as_tensor(theta, dtype=image.dtype, device=image.device)
    grid = F.affine_grid(theta[None], [1, 1, *labels.shape], align_corners=False)
    moved = F.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0]
    drawn = labels[None, None].to(image.dtype)
    nearest = F.grid_sample(drawn, grid, mode="nearest", align_corners=False)[0, 0]
    return moved, nearest.to(labels.dtype)


def _sampling_matrix(
    angles_rad: NDArray[np.float64], zoom: float, shape: torch.Size
) -> NDArray[np.float64]:
    """Return the `(3, 4)` matrix for `affine_grid`, which counts axes K J I and lengths as 2."""
    turn = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        first, second = (other for other in range(3) if other != axis)
        one = np.eye(3)
        one[first, first] = one[second, second] = np.cos(angle)
        one[first, second], one[second, first] = -np.sin(angle), np.sin(angle)
        turn = turn @ one
    half = np.array(shape, dtype=float) / 2
    matrix = turn / zoom * half[None, :] / half[:, None]
    return np.concatenate([matrix[::-1, ::-1], np.zeros((3, 1))], axis=1)


def _find_brain(image: Tensor) -> Tensor:
    """Mark voxels where any channel is non-zero; three times as fast on a CPU as `any(dim=1)`."""
    brain = image[:, :1] != 0
    for channel in range(1, image.shape[1]):
        brain |= image[:, channel : channel + 1] != 0
    return brain


def _curve(image: Tensor, brain: Tensor, gamma: Tensor) -> Tensor:
    """Bend the contrast of one patch and restore each channel's brain mean and spread."""
    low = image.amin(dim=(1, 2, 3), keepdim=True)
    span = (image.amax(dim=(1, 2, 3), keepdim=True) - low).clamp_min(1e-6)
    bent = ((image - low) / span) ** gamma.view(-1, 1, 1, 1)
    mean, std = _brain_statistics(image, brain)
    bent_mean, bent_std = _brain_statistics(bent, brain)
    return ((bent - bent_mean) / bent_std.clamp_min(1e-6) * std + mean) * brain


def _brain_statistics(image: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    count = brain.sum().clamp_min(1)
    mean = (image * brain).sum(dim=(1, 2, 3), keepdim=True) / count
    variance = ((image - mean).square() * brain).sum(dim=(1, 2, 3), keepdim=True) / count
    return mean, variance.sqrt()


def _add_noise(image: Tensor, params: Augmentation, spread: Tensor | None) -> None:
    noisy = np.flatnonzero(params.noise_std)
    if not len(noisy):
        return
    generator = torch.Generator(image.device).manual_seed(params.noise_seed)
    for at in noisy:
        noise = torch.empty_like(image[at]).normal_(generator=generator)
        if spread is not None:
            noise.mul_(spread[at])
        image[at].add_(noise, alpha=float(params.noise_std[at]))
