"""Scan and store one modality: blur, motion, slices, bias, noise, scale; no scanner physics."""

import numpy as np
import torch

from bratskit.cases.phantoms.contrast import Contrast, Scanner
from bratskit.cases.phantoms.fields import Array, Grid, blur, hypot, white_noise

__all__ = ["acquire"]

_DARKEST = 0.04  # of the mean brain intensity: no tissue is without any signal
_LARGEST = 32767  # int16


def acquire(
    rng: np.random.Generator,
    contrast: Contrast,
    channel: int,
    image: Array,
    brain: torch.Tensor,
    grid: Grid,
) -> Array:
    """Blur, smear, slice, corrupt and store one modality.

    In the order of a scan: bias of the coil, the blur of a voxel, motion and ghosts, averaging over
    thick slices, noise of each scanned voxel, interpolation to the stored voxels, scale.

    Args:
        rng: Source of noise and bias field.
        contrast: Look of the scan.
        channel: Which modality.
        image: Output of `render`, on the grid on which the scan is stored.
        brain: What the skull strip keeps, `(I, J, K)` bool; everything else becomes exactly 0.
        grid: Where `image` lies.

    Returns:
        `(I, J, K)` int16 on the device of `image`; at least 1 in the brain but for a lost slab.
    """
    scanner = contrast.scanners[channel]
    noise_seed, bias_rng = int(rng.integers(2**31)), np.random.default_rng(rng.integers(2**32))
    signal = torch.clamp(image * scanner.spread + 1, min=_DARKEST)
    if scanner.bias > 0:
        signal = signal * _bias(grid.noise(bias_rng, knots_mm=60) * scanner.bias)
    signal = _smear(_blur_in_plane(signal, scanner, grid), scanner, grid)
    axis, n = scanner.slice_axis, image.shape[scanner.slice_axis]
    slices = _Slices.of(scanner, n, grid.spacing_mm[axis])
    if slices is not None:
        signal = slices.scan(signal, axis)
    signal = _corrupt(signal, noise_seed, scanner.noise * scanner.spread)
    if slices is not None:
        signal = slices.spread(signal, axis)
    signal = _resample(signal, scanner)
    stored = torch.round(torch.clamp(signal * scanner.scale, 1, _LARGEST))
    stored = torch.where(brain, stored, torch.zeros_like(stored))
    return _lose_slab(stored, brain, scanner.slab).to(torch.int16)


def _bias(x: Array) -> Array:
    """Approximate the exponential of small numbers by its second order, which is above 0."""
    return x * x * 0.5 + x + 1


def _blur_in_plane(signal: Array, scanner: Scanner, grid: Grid) -> Array:
    if scanner.blur_mm == 0:
        return signal
    sigma = [scanner.blur_mm / s for s in grid.spacing_mm]
    if scanner.slice_mm > 0:
        sigma[scanner.slice_axis] = 0.0
    return blur(signal, tuple(sigma))


def _shifted(signal: Array, shift_vox: float, axis: int) -> Array:
    """Move an image by parts of a voxel, linearly, round the edges."""
    whole = int(np.floor(shift_vox))
    part = round(shift_vox - whole, 6)
    near = torch.roll(signal, whole, axis)
    return near + (torch.roll(near, 1, axis) - near) * part


def _smear(signal: Array, scanner: Scanner, grid: Grid) -> Array:
    """Let the head move during the scan, and fold ghosts of it along the phase axis.

    Motion: the middle of k-space saw one pose, its rim another. So low frequencies (along the
    phase axis) come from one and high ones from the other: `moved + blur(still - moved)`.

    Source:
        Zaitsev et al. (2015), JMRI 42(4):887-901, motion between the lines of k-space.
    """
    axis = scanner.phase_axis
    spacing = grid.spacing_mm[axis]
    if scanner.motion_mm > 0:
        moved = _shifted(signal, scanner.motion_mm / spacing, axis)
        sigma = [0.0, 0.0, 0.0]
        sigma[axis] = 2.5 / spacing
        signal = moved + blur(signal - moved, tuple(sigma))
    if scanner.ghost > 0:
        signal = _haunt(signal, scanner, round(scanner.ghost_mm / spacing))
    return signal


def _haunt(signal: Array, scanner: Scanner, step_vox: int) -> Array:
    """Add two ghosts on either side, whose sign swings along the axis that is no phase axis."""
    axis = scanner.phase_axis
    other = next(a for a in (0, 1, 2) if a not in (axis, scanner.slice_axis))
    ramp = torch.arange(signal.shape[other], device=signal.device, dtype=torch.float32) * (1 / 32)
    swing = torch.abs(ramp - torch.floor(ramp) - 0.5) * 4 - 1
    shape = [1, 1, 1]
    shape[other] = -1
    ghosts = torch.roll(signal, step_vox, axis) + torch.roll(signal, -step_vox, axis)
    ghosts = ghosts * swing.reshape(shape)
    return torch.clamp(signal + ghosts * (0.5 * scanner.ghost), min=_DARKEST)


class _Slices:
    """Averages over slices thicker than the voxels, and the way back by interpolation.

    Attributes:
        taps: `(T, K)` voxels of each of K slices.
        weights: `(T, K)` their shares of the slice, which add up to 1.
        low: `(n,)` the slice below each voxel's centre.
        share: `(n,)` weight of the slice above it.
    """

    def __init__(self, n: int, thick_vox: float, offset: float) -> None:
        first = -offset * thick_vox
        count = int(np.ceil((n - first) / thick_vox))
        begins = first + thick_vox * np.arange(count)
        lowest = np.floor(begins).astype(np.int64)
        voxels = lowest + np.arange(int(np.ceil(thick_vox)) + 1)[:, None]
        inside = np.minimum(voxels + 1, begins + thick_vox) - np.maximum(voxels, begins)
        inside = np.clip(inside, 0, None) * ((voxels >= 0) & (voxels < n))
        inside[0] += inside.sum(0) <= 1e-6  # a slice that only grazes the box
        self.taps = torch.from_numpy(np.clip(voxels, 0, n - 1))
        self.weights = torch.from_numpy(np.round(inside / inside.sum(0), 6).astype(np.float32))
        place = np.clip((np.arange(n) + 0.5 - first) / thick_vox - 0.5, 0, count - 1)
        low = np.minimum(np.floor(place).astype(np.int64), max(count - 2, 0))
        self.low = torch.from_numpy(low)
        self.share = torch.from_numpy(np.round(place - low, 6).astype(np.float32))

    @classmethod
    def of(cls, scanner: Scanner, n: int, spacing_mm: float) -> "_Slices | None":
        """Plan the slices of a scan; None where they are no thicker than the voxels."""
        thick_vox = scanner.slice_mm / spacing_mm
        return cls(n, thick_vox, scanner.slice_offset) if thick_vox > 1 else None

    def scan(self, signal: Array, axis: int) -> Array:
        """Average the voxels of each slice: `n` along the axis become K."""
        shape = [1, 1, 1]
        shape[axis] = -1
        seen = None
        for tap, weight in zip(self.taps, self.weights, strict=True):
            weight = weight.to(signal.device).reshape(shape)
            part = signal.index_select(axis, tap.to(signal.device)) * weight
            seen = part if seen is None else seen + part
        return seen

    def spread(self, slices: Array, axis: int) -> Array:
        """Interpolate linearly from slice to slice: K along the axis become `n`."""
        shape = [1, 1, 1]
        shape[axis] = -1
        low, share = self.low.to(slices.device), self.share.to(slices.device).reshape(shape)
        below = slices.index_select(axis, low)
        above = slices.index_select(axis, torch.clamp(low + 1, max=slices.shape[axis] - 1))
        return below + (above - below) * share


def _corrupt(signal: Array, seed: int, sigma: float) -> Array:
    """Take the magnitude of a signal with noise in both channels: Rician noise.

    The second channel's noise is the first's from far away, which is as good as independent.

    Source:
        Gudbjartsson and Patz (1995), Magn. Reson. Med. 34(6):910-914.
    """
    if sigma == 0:
        return signal
    noise = white_noise(seed, signal.numel(), device=signal.device).reshape(signal.shape)
    noise = noise * round(sigma, 6)
    real, imaginary = signal + noise, torch.roll(noise.reshape(-1), 30011).reshape(signal.shape)
    return hypot(real, imaginary)


def _resample(signal: Array, scanner: Scanner) -> Array:
    """Mix each voxel with its neighbours, as interpolation to another grid does, without a shift.

    It is what makes the noise of stored voxels alike from neighbour to neighbour.
    """
    if scanner.resample == 0:
        return signal
    for axis in range(3):
        if axis == scanner.slice_axis and scanner.slice_mm > 0:
            continue
        n = signal.shape[axis]
        ends = [signal.narrow(axis, 0, 1), signal, signal.narrow(axis, n - 1, 1)]
        padded = torch.cat(ends, axis)
        both = padded.narrow(axis, 0, n) + padded.narrow(axis, 2, n)
        signal = signal + (both * 0.5 - signal) * scanner.resample
    return signal


def _lose_slab(stored: Array, brain: torch.Tensor, slab: tuple[float, float]) -> Array:
    """Empty the slices between two shares of the brain's height, as a short scan leaves them."""
    if slab[1] <= slab[0]:
        return stored
    heights = torch.nonzero(brain.any(0).any(0)).reshape(-1)
    if heights.numel() == 0:
        return stored
    first, last = int(heights[0]), int(heights[-1]) + 1
    low, high = (first + round(share * (last - first)) for share in slab)
    stored[:, :, low:high] = 0
    return stored
