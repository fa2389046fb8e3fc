"""Slide a window over a volume of any size and hand out the finished slabs, one after the other."""

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from bratskit.predict.window import (
    Triple,
    gaussian_profile,
    probabilities,
    refuse_misfit,
    smallest_size,
    window_starts,
)
from bratskit.settings import Targets

__all__ = ["Slab", "sliding_window", "window_slabs"]

Slab = tuple[int, Tensor]  # first plane along I, and probabilities (L, n, j, k)


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
    volume = None
    for start, slab in window_slabs(
        network,
        image,
        window_vox=window_vox,
        overlap=overlap,
        weights=weights,
        targets=targets,
        temperature=temperature,
        device=image.device,
    ):
        if volume is None:
            volume = slab.new_empty(len(slab), *image.shape[1:])
        volume[:, start : start + slab.shape[1]] = slab
    return volume


def window_slabs(
    network: nn.Module,
    image: Float[Tensor, "c i j k"] | ArrayLike,
    *,
    window_vox: Triple,
    overlap: float = 0.5,
    weights: Literal["gaussian", "flat"] = "gaussian",
    targets: Targets = "labels",
    temperature: float = 1.0,
    device: torch.device | None = None,
) -> Iterator[Slab]:
    """Do what `sliding_window` does, and hand each slab out as soon as no window will touch it.

    Windows go along I last, so that what is behind them is finished. Only as many planes are held
    as a window has; `sliding_window` puts these very slabs together.

    Args:
        network: From images to logits, on `device`.
        image: Z-scored intensities `(C, I, J, K)`, a tensor or anything that is cut by slices, such
            as a file mapped into memory: one window at a time is read and sent to `device`.
        window_vox: Size of the window, multiples of the network's `multiple_vox`.
        overlap: Share of a window that the next one covers again, at least.
        weights: "gaussian" or "flat".
        targets: What the logits answer.
        temperature: Logits are divided by it.
        device: Where the network is; None is the CPU.

    Yields:
        First plane and probabilities `(L, n, J, K)` float32 on `device`, without a gap. The memory
        is used again for the next slab: take what you need before asking for it.

    Raises:
        ValueError: The window does not fit the network, or `overlap` is not in [0, 1).
        RuntimeError: The network says NaN or infinity, in float32 too.
    """
    refuse_misfit(network, window_vox, overlap, weights)
    size = tuple(image.shape[1:])
    limit = smallest_size(network, size)
    window = tuple(min(pair) for pair in zip(window_vox, limit, strict=True))
    padded = tuple(max(pair) for pair in zip(size, window, strict=True))
    starts, across, along = (
        _axis(length, side, overlap, weights, device)
        for length, side in zip(padded, window, strict=True)
    )
    total = None
    ends = [*(start for start, _ in starts[1:]), padded[0]]
    for (start, share), end in zip(starts, ends, strict=True):
        for (j, share_j), (k, share_k) in itertools.product(across, along):
            part = _cut(image, (start, j, k), window, device)
            probs = probabilities(network, part, targets, temperature)
            if total is None:
                total = probs.new_zeros(len(probs), window[0], *padded[1:])
            weight = share[:, None, None] * share_j[:, None] * share_k
            place = slice(j, j + window[1]), slice(k, k + window[2])
            total[(slice(None), slice(None), *place)].addcmul_(probs, weight)
        yield start, total[:, : min(end, size[0]) - start, : size[1], : size[2]]
        _move_up(total, end - start)


def _axis(
    length: int, side: int, overlap: float, weights: str, device: torch.device | None
) -> list[tuple[int, Tensor]]:
    """Place windows along one axis, each with its shares `(side,)`; they sum to 1 at each voxel.

    Windows stand on a grid and their weights are products over the axes, so that sums of weights
    are products too, and no volume of weights is needed.
    """
    starts = window_starts(length, side, overlap)
    profile = gaussian_profile(side) if weights == "gaussian" else torch.ones(side)
    total = torch.zeros(length, dtype=torch.float64)
    for start in starts:
        total[start : start + side] += profile
    return [(s, (profile / total[s : s + side]).float().to(device)) for s in starts]


def _cut(
    image: Tensor | ArrayLike, corner: Triple, window: Triple, device: torch.device | None
) -> Tensor:
    """Copy one window `(C, *window)` to the device, padded with zeros where the volume ends."""
    place = tuple(slice(start, start + side) for start, side in zip(corner, window, strict=True))
    part = image[(slice(None), *place)]
    if not isinstance(part, Tensor):
        part = torch.from_numpy(np.array(part, dtype=np.float32))
    missing = [side - length for side, length in zip(window, part.shape[1:], strict=True)]
    padding = [amount for axis in reversed(missing) for amount in (0, axis)]
    return F.pad(part.to(device), padding) if any(missing) else part.to(device)


def _move_up(total: Tensor, planes: int) -> None:
    """Move what is unfinished to the front, a plane at a time, and clear the rest."""
    kept = total.shape[1] - planes
    for plane in range(kept):
        total[:, plane] = total[:, plane + planes]
    total[:, max(kept, 0) :] = 0
