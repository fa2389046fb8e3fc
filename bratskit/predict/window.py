"""Run a network over one window or a whole volume, and say where windows go and how they count."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from bratskit.settings import Targets

__all__ = [
    "Triple",
    "fits_at_once",
    "gaussian_profile",
    "gaussian_weights",
    "probabilities",
    "refuse_misfit",
    "single_pass",
    "smallest_size",
    "window_starts",
]

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
    padded = _pad(image, smallest_size(network, size))
    return _crop(probabilities(network, padded, targets, temperature), size)


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
    first, second, third = map(gaussian_profile, window_vox)
    return first[:, None, None] * second[:, None] * third


def gaussian_profile(length: int) -> Float[Tensor, " i"]:
    """Give one axis of `gaussian_weights`: weights of a product of three."""
    distance = torch.arange(length) - (length - 1) / 2
    return torch.exp(-0.5 * (distance / (length * SIGMA_SHARE)) ** 2)


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


def probabilities(
    network: nn.Module, image: Tensor, targets: Targets, temperature: float
) -> Tensor:
    """Run a network over one window `(C, I, J, K)`; what it answers, `(L, I, J, K)` float32.

    Softmax and sigmoid are float32 whatever the arithmetic of the network was.

    float16 ends at 65,504: a window in which a feature overflowed is run again in float32. An
    argmax over NaN would say background, and nobody would know.
    """
    batch = image[None].contiguous(memory_format=torch.channels_last_3d)
    logits = _one_by_one(network(batch))
    if not torch.isfinite(logits.sum()):  # NaN and infinity survive a sum
        with torch.autocast(image.device.type, enabled=False):
            logits = _one_by_one(network(batch.float()))
        if not torch.isfinite(logits.sum()):
            msg = (
                "logits must be finite; got NaN or infinity, in float32 too. "
                "Look at the scan with `bratskit check`, or take other weights."
            )
            raise RuntimeError(msg)
    if temperature != 1:
        logits = logits / temperature
    return logits.sigmoid() if targets == "regions" else logits.softmax(dim=0)


def _one_by_one(logits: Tensor) -> Tensor:
    """Lay the channels one after the other: softmax then takes a seventh of the time."""
    return logits[0].contiguous().float()


def _multiple_of(network: nn.Module) -> int:
    return getattr(network, "multiple_vox", 1)


def fits_at_once(network: nn.Module, size: Triple) -> bool:
    """Say whether a network may see a volume of this size in one pass: some take one size only."""
    only = getattr(network, "size_vox", None)
    return only is None or all(length <= most for length, most in zip(size, only, strict=True))


def smallest_size(network: nn.Module, size: Triple) -> Triple:
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


def refuse_misfit(network: nn.Module, window_vox: Triple, overlap: float, weights: str) -> None:
    """Refuse windows that a network cannot take, an overlap or a kind of weights that is none."""
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
