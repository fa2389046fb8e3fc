"""Run a network over a volume of any size, at once or by windows; it knows no grids or files."""

import itertools
import math
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bratskit.settings import Targets

__all__ = ["fits_at_once", "gaussian_weights", "single_pass", "sliding_window", "window_starts"]

Triple = tuple[int, int, int]

# Width of the Gaussian as a share of the window: nnU-Net, `compute_gaussian`, and MONAI,
# `sliding_window_inference`, both take 1/8.
SIGMA_SHARE = 1 / 8


def single_pass(
    network: nn.Module,
    image: Float[Tensor, "c i j k"],
    *,
    targets: Targets = "labels",
    temperature: float = 1.0,
) -> Float[Tensor, "l i j k"]:
    """Label the whole volume in one forward pass.

    Args:
        network: From images to logits. Its `multiple_vox`, where it has one, says to which sizes
            the volume is padded, with zeros (the background) at the far ends; the padding is
            cropped off again. One that takes images of one size only (`size_vox`) has it padded to
            that.
        image: Z-scored intensities `(C, I, J, K)`.
        targets: What the logits answer, `recipe.targets`: "labels" become probabilities by a
            softmax over the channels, "regions" by a sigmoid each.
        temperature: Logits are divided by it first; above 1 makes the network less sure.

    Returns:
        Probabilities `(L, I, J, K)` float32; those of labels sum to 1 over L.

    Raises:
        ValueError: The volume is larger than the one size that the network takes.
        RuntimeError: The network says NaN or infinity, in float32 too.
    """
    size = tuple(image.shape[1:])
    if not fits_at_once(network, size):
        msg = (
            f"image must be at most {tuple(network.size_vox)}, the one size that this network "
            f"takes; got {size}. Use bratskit.predict.sliding_window with that window."
        )
        raise ValueError(msg)
    padded = _pad(image, _smallest(network, size))
    return _crop(_probabilities(network, padded, targets, temperature), size)


def sliding_window(
    network: nn.Module,
    image: Float[Tensor, "c i j k"],
    *,
    window_vox: Triple,
    overlap: float = 0.5,
    weights: Literal["gaussian", "flat"] = "gaussian",
    targets: Targets = "labels",
    temperature: float = 1.0,
) -> Float[Tensor, "l i j k"]:
    """Label the volume window by window and average where windows overlap.

    Probabilities are averaged, not logits, so that one very sure window cannot outvote the rest.
    A window longer than the volume shrinks to the volume (rounded up to what the network takes),
    so that one window over everything is exactly a single pass. Where the network takes images of
    one size only, the window keeps that and a smaller volume is padded to it.

    Args:
        network: From images to logits.
        image: Z-scored intensities `(C, I, J, K)`.
        window_vox: Size of the window, multiples of the network's `multiple_vox`.
        overlap: Share of a window that the next one covers again, at least.
        weights: "gaussian" trusts the middle of a window, where the network saw most context;
            "flat" trusts all of it alike.
        targets: What the logits answer, as for `single_pass`.
        temperature: Logits are divided by it, as for `single_pass`.

    Returns:
        Probabilities `(L, I, J, K)` float32; those of labels sum to 1 over L.

    Raises:
        ValueError: The window does not fit the network, or `overlap` is not in [0, 1).
        RuntimeError: The network says NaN or infinity, in float32 too.
    """
    _refuse_misfit(network, window_vox, overlap, weights)
    size = tuple(image.shape[1:])
    limit = _smallest(network, size)
    window = tuple(min(pair) for pair in zip(window_vox, limit, strict=True))
    padded = _pad(image, tuple(max(pair) for pair in zip(size, window, strict=True)))
    weight = gaussian_weights(window) if weights == "gaussian" else torch.ones(window)
    weight = weight.to(image.device)
    total, weight_sum = None, torch.zeros(padded.shape[1:], device=image.device)
    for place in _places(tuple(padded.shape[1:]), window, overlap):
        probs = _probabilities(network, padded[(slice(None), *place)], targets, temperature)
        if total is None:
            total = torch.zeros(len(probs), *padded.shape[1:], device=image.device)
        total[(slice(None), *place)] += probs * weight
        weight_sum[place] += weight
    return _crop(total.div_(weight_sum), size)


def gaussian_weights(window_vox: Triple) -> Float[Tensor, "i j k"]:
    r"""Weigh the voxels of a window by their distance from its middle.

    $$w = \exp\left(-\tfrac{1}{2} \sum_a \left(\frac{x_a - m_a}{\sigma_a}\right)^2\right),
    \qquad \sigma_a = \text{window}_a / 8$$

    Args:
        window_vox: Size of the window.

    Returns:
        Weights `(I, J, K)` float32, symmetric, largest in the middle. At the very corner of a
        large window they are about 4e-11 of that, still far above zero in float32.

    Examples:
        >>> weight = gaussian_weights((4, 4, 8))
        >>> bool((weight == weight.flip(0, 1, 2)).all())
        True

    Source:
        Isensee et al. (2021), Nature Methods 18:203-211, inference.
    """
    weight = torch.ones(())
    for length in window_vox:
        distance = torch.arange(length) - (length - 1) / 2
        profile = torch.exp(-0.5 * (distance / (length * SIGMA_SHARE)) ** 2)
        weight = weight[..., None] * profile
    return weight


def window_starts(length: int, window: int, overlap: float) -> list[int]:
    """Place windows along one axis: as few as give the overlap, evenly spread, the last at the end.

    Args:
        length: Voxels of the axis, at least `window`.
        window: Voxels of the window.
        overlap: Smallest share of a window that the next one covers again.

    Examples:
        >>> window_starts(10, 4, 0.5)
        [0, 2, 4, 6]
        >>> window_starts(11, 4, 0.5)
        [0, 2, 4, 5, 7]
        >>> window_starts(4, 4, 0.5)
        [0]
    """
    gap = length - window
    largest_step = max(1, math.floor(window * (1 - overlap)))
    n_steps = math.ceil(gap / largest_step)
    return [round(gap * step / n_steps) for step in range(n_steps + 1)] if n_steps else [0]


def _places(size: Triple, window: Triple, overlap: float) -> Iterator[tuple[slice, slice, slice]]:
    starts = [window_starts(s, w, overlap) for s, w in zip(size, window, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(a, a + w) for a, w in zip(corner, window, strict=True))


def _probabilities(
    network: nn.Module, image: Tensor, targets: Targets, temperature: float
) -> Tensor:
    """Run one window; softmax and sigmoid are float32 whatever the arithmetic of the network was.

    float16 ends at 65,504: a window in which a feature overflowed is run again in float32. An
    argmax over NaN would say background, and nobody would know.
    """
    batch = image[None].contiguous(memory_format=torch.channels_last_3d)
    logits = network(batch)[0].float()
    if not torch.isfinite(logits).all():
        with torch.autocast(image.device.type, enabled=False):
            logits = network(batch.float())[0].float()
        if not torch.isfinite(logits).all():
            msg = (
                "logits must be finite; got NaN or infinity, in float32 too. "
                "Look at the scan with `bratskit check`, or take other weights."
            )
            raise RuntimeError(msg)
    if temperature != 1:
        logits = logits / temperature
    return logits.sigmoid() if targets == "regions" else logits.softmax(dim=0)


def _multiple_of(network: nn.Module) -> int:
    return getattr(network, "multiple_vox", 1)


def fits_at_once(network: nn.Module, size: Triple) -> bool:
    """Say whether a network may see a volume of this size in one pass: some take one size only."""
    only = getattr(network, "size_vox", None)
    return only is None or all(length <= most for length, most in zip(size, only, strict=True))


def _smallest(network: nn.Module, size: Triple) -> Triple:
    """Return the smallest size that the network takes and the volume fits into, or its only one."""
    only = getattr(network, "size_vox", None)
    multiple = _multiple_of(network)
    return only or tuple(math.ceil(length / multiple) * multiple for length in size)


def _pad(image: Tensor, size: Triple) -> Tensor:
    """Add zeros at the far end of each axis; the volume's own corner stays where it was."""
    missing = [new - old for new, old in zip(size, image.shape[1:], strict=True)]
    return F.pad(image, [amount for axis in reversed(missing) for amount in (0, axis)])


def _crop(volume: Tensor, size: Triple) -> Tensor:
    return volume[(slice(None), *(slice(length) for length in size))].contiguous()


def _refuse_misfit(network: nn.Module, window_vox: Triple, overlap: float, weights: str) -> None:
    multiple = _multiple_of(network)
    if any(length < 1 or length % multiple for length in window_vox):
        nearest = tuple(max(1, round(length / multiple)) * multiple for length in window_vox)
        msg = (
            f"window_vox must be multiples of {multiple}; got {tuple(window_vox)}. "
            f"Nearest: {nearest}."
        )
        raise ValueError(msg)
    only = getattr(network, "size_vox", None)
    if only is not None and tuple(window_vox) != tuple(only):
        msg = (
            f"window_vox must be {tuple(only)}, the one size that this network takes; "
            f"got {tuple(window_vox)}."
        )
        raise ValueError(msg)
    if not 0 <= overlap < 1:
        msg = f"overlap must be in [0, 1); got {overlap}. Try 0.5."
        raise ValueError(msg)
    if weights not in ("gaussian", "flat"):
        msg = f"weights must be 'gaussian' or 'flat'; got {weights!r}."
        raise ValueError(msg)
