"""Vary the intensities of one patch in place; what is background stays exactly 0."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

__all__ = ["add_noise", "bend_contrast", "find_brain", "lose_resolution", "measure_brain"]

Array = NDArray[np.float64]
BLOCK_VOX = 16  # rows of a banded matrix that are multiplied at once
REACH = 3.0  # sigmas: 0.3 % of a Gaussian lies beyond


def find_brain(image: Tensor) -> Tensor:
    """Return 1 where any channel of `(C, I, J, K)` is non-zero, else 0; `(I, J, K)`."""
    total = image[0].abs()
    for channel in image[1:]:  # on a CPU five times as fast as `any(dim=0)`
        total.add_(channel.abs())
    return total.sign_()


def measure_brain(image: Tensor, brain: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of channels over the brain, each `(C,)`; image is 0 outside.

    In two passes: a mean far from 0 would eat the digits of a sum of squares.
    """
    count = brain.sum().clamp_min(1)
    flat = image.flatten(1)
    mean = flat.sum(dim=1) / count
    centred = torch.addcmul(flat, brain.view(1, -1), mean[:, None], value=-1)
    return mean, torch.linalg.vector_norm(centred, dim=1) / count.sqrt()


def bend_contrast(image: Tensor, brain: Tensor, gamma: Array) -> None:
    """Raise channels to a power above their least value, then restore mean and deviation.

    Both are of the brain, so that what unit the power is taken in does not matter.
    """
    for channel, exponent in zip(image.split(1), gamma, strict=True):
        if exponent == 1:
            continue
        mean, std = measure_brain(channel, brain)
        channel.sub_(channel.min()).log_().mul_(float(exponent)).exp_().mul_(brain)
        bent_mean, bent_std = measure_brain(channel, brain)
        factor = std / bent_std.clamp_min(1e-6)
        channel.mul_(factor).add_(brain * (mean - bent_mean * factor))


def add_noise(image: Tensor, brain: Tensor, std: Tensor, generator: torch.Generator) -> None:
    """Add Gaussian noise of a deviation `(C,)` to the brain.

    One field is drawn, and each channel reads it from another place: normal numbers are dear on a
    CPU, and at no voxel do two channels have the same.
    """
    field = torch.empty(image[0].numel(), dtype=image.dtype, device=image.device)
    field.normal_(generator=generator)
    for at, channel in enumerate(image):
        noise = field.roll(at * len(field) // len(image)).view_as(brain)
        channel.add_(noise.mul_(brain).mul_(std[at]))


def lose_resolution(image: Tensor, brain: Tensor, blur_vox: Array, coarse_vox: Array) -> None:
    """Blur channels, then sample them coarsely and back; what leaks out of the brain is cut off.

    Both are one matrix along each axis.

    Args:
        image: `(C, I, J, K)`, changed in place.
        brain: Where it may be non-zero.
        blur_vox: `(C,)` sigma of the Gaussian; 0 leaves the channel.
        coarse_vox: `(C,)` size of a coarse voxel; 1 leaves the channel.
    """
    for channel, sigma, size in zip(image, blur_vox, coarse_vox, strict=True):
        if sigma == 0 and size == 1:
            continue
        matrices = {n: _resolution_matrix(n, sigma, size) for n in {*channel.shape}}
        varied, other = torch.empty_like(channel), torch.empty_like(channel)
        _multiply(matrices[channel.shape[0]], channel, 0, out=varied)
        _multiply(matrices[channel.shape[1]], varied, 1, out=other)
        _multiply(matrices[channel.shape[2]], other, 2, out=varied)
        torch.mul(varied, brain, out=channel)


def _resolution_matrix(length: int, sigma_vox: float, coarse_vox: float) -> Array:
    """Blur, average over coarse voxels and interpolate linearly, `(length, length)`."""
    matrix = np.eye(length)
    if sigma_vox:
        taps = np.arange(-length + 1, length)
        weights = np.exp(-0.5 * (taps / sigma_vox) ** 2) * (np.abs(taps) <= REACH * sigma_vox + 0.5)
        matrix = weights[length - 1 + np.arange(length)[:, None] - np.arange(length)]
        matrix = matrix / matrix.sum(axis=1, keepdims=True)
    if coarse_vox != 1:
        columns = torch.from_numpy(matrix.T.copy())[None]  # one signal a column of the matrix
        columns = F.adaptive_avg_pool1d(columns, max(1, round(length / coarse_vox)))
        columns = F.interpolate(columns, size=length, mode="linear", align_corners=False)
        matrix = columns[0].T.numpy()
    return matrix


def _multiply(matrix: Array, volume: Tensor, axis: int, *, out: Tensor) -> None:
    """Multiply a banded matrix along one axis of `(I, J, K)`, block by block of its rows."""
    used, weights = matrix != 0, volume.new_tensor(matrix)
    for first in range(0, len(matrix), BLOCK_VOX):
        rows = slice(first, first + BLOCK_VOX)
        columns = np.flatnonzero(used[rows].any(axis=0))
        band = slice(int(columns[0]), int(columns[-1]) + 1)
        block = weights[rows, band]
        if axis == 0:
            torch.mm(block, volume[band].flatten(1), out=out[rows].flatten(1))
        elif axis == 1:
            out[:, rows] = block @ volume[:, band]
        else:
            out[..., rows] = volume[..., band] @ block.T
