"""Compute with tensors so that every bit is the same everywhere; knows nothing of grids.

Only operations that IEEE 754 rounds exactly are used, one at a time, so that the result does not
depend on instruction set, threads or device. `torch.sqrt` is not among them (MKL's misses the
last bit of one number in three), nor are `exp`, `tanh` and float sums: take the ones below.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "chunks",
    "exp",
    "hypot",
    "sigmoid",
    "sqrt",
    "tanh",
    "threshold_for_count",
    "total",
    "uniform",
    "white_noise",
]

Array = Tensor

_CHUNK = 1 << 16  # numbers handled at once on a CPU, so that they stay in its cache
_GOLDEN, _MIX_A, _MIX_B = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_DEVIATION = math.sqrt(4 * (65536**2 - 1) / 12)  # of the sum of four whole numbers below 65536


def chunks(count: int, device: torch.device, *, each: int = 1) -> Iterator[slice]:
    """Cut a range into parts that stay in a CPU's cache; a GPU takes it whole.

    Args:
        count: Length of the range.
        device: Where the work is done.
        each: Numbers that one step of the range stands for.
    """
    step = max(1, _CHUNK // each) if device.type == "cpu" else max(count, 1)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw one Python float, rounded to 6 decimals."""
    return round(float(rng.uniform(low, high)), 6)


def exp(x: Array) -> Array:
    """Take the exponential: relative error below 1e-4 for |x| < 8, below 1e-3 for |x| < 20.

    $(1 + y + y^2/2 + y^3/6)^{256}$ with $y = x / 256$; x is clamped to -80 to 80.
    """
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    flat_in, flat_out = x.reshape(-1), out.view(-1)
    for part in chunks(flat_in.numel(), x.device):
        y = flat_in[part].clamp(-80, 80).mul_(1 / 256)
        z = (y * np.float32(1 / 6).item()).add_(0.5).mul_(y).add_(1).mul_(y).add_(1)
        for _ in range(8):
            z.mul_(z)
        flat_out[part] = z
    return out


def sigmoid(x: Array) -> Array:
    """Map distances to weights in [0, 1]: 0.5 at 0, without overflow."""
    grown = exp(x)
    return grown / (grown + 1)


def tanh(x: Array) -> Array:
    """Take the hyperbolic tangent to 1e-4."""
    grown = exp(x * 2)
    return (grown - 1) / (grown + 1)


def sqrt(x: Array) -> Array:
    """Take the square root, rounded exactly, as `torch.sqrt` on a CPU is not."""
    if x.device.type == "cpu":
        return torch.from_numpy(np.asarray(np.sqrt(x.numpy())))
    return x.double().sqrt().float()


def hypot(a: Array, b: Array) -> Array:
    """Take the length of a vector of two components."""
    return sqrt(a * a + b * b)


def total(x: Array) -> float:
    """Add all numbers up, in any order, to about 1e-6 each; |sum| below 8e12."""
    if not x.is_floating_point():
        return float(x.sum(dtype=torch.int64))
    return int((x * 2.0**20).round_().to(torch.int64).sum()) / 2**20


def threshold_for_count(values: Array, count: int) -> float:
    """Return the value below which `count` of the values lie.

    Returns:
        -inf for a count of 0 or fewer, inf where there are not that many values.
    """
    if count <= 0:
        return -math.inf
    if count >= values.numel():
        return math.inf
    if values.device.type == "cpu":
        return float(np.partition(values.numpy(), count, axis=None)[count])
    return _at_place(values, count)


def _at_place(values: Array, place: int) -> float:
    """Return what stands at a place of the sorted values, on a device without NumPy.

    By a sort, as CUDA's `kthvalue` is refused where determinism is asked for.
    """
    return float(torch.sort(values.reshape(-1)).values[place])


def _signed(number: int) -> int:
    """Wrap a whole number into the range of int64."""
    return (number + 2**63) % 2**64 - 2**63


def _mix(z: Array) -> Array:
    """Scramble int64 numbers in place: the finaliser of SplitMix64."""
    for shift, factor in ((30, _MIX_A), (27, _MIX_B), (31, None)):
        z ^= (z >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        if factor is not None:
            z *= _signed(factor)
    return z


def white_noise(seed: int, count_or_voxels: int | Array, *, device: str | torch.device) -> Array:
    """Return independent noise of mean 0 and variance 1 that depends on seed and voxel only.

    The sum of four 16-bit uniforms of a 64-bit hash: a bell from -3.5 to 3.5.

    Args:
        seed: Any whole number; another seed, another noise.
        count_or_voxels: How many voxels from 0 on, or their flat indices, `(N,)` int64.
        device: Where to compute.

    Source:
        Steele, Lea & Flood (2014), OOPSLA: 453-472 (SplitMix64).
    """
    given = isinstance(count_or_voxels, Tensor)
    count = count_or_voxels.numel() if given else count_or_voxels
    key = torch.tensor([_signed(seed * _MIX_A + _GOLDEN)], dtype=torch.int64)
    start = int(_mix(key))
    device = torch.device(device)
    out = torch.empty(count, dtype=torch.float32, device=device)
    for part in chunks(count, device):
        if given:
            z = count_or_voxels[part] * _signed(_GOLDEN)
        else:
            z = torch.arange(part.start, part.stop, device=device) * _signed(_GOLDEN)
        z = _mix(z.add_(start))
        low = z & 0x0000FFFF0000FFFF
        low += (z >> 16).bitwise_and_(0x0000FFFF0000FFFF)
        halves = low.view(torch.int32).view(-1, 2)
        summed = (halves[:, 0] + halves[:, 1]).sub_(2 * 65535).to(torch.float32)
        out[part] = summed.mul_(1 / _DEVIATION)
    return out
