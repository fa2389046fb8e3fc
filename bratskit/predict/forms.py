"""Run a network over a whole prepared volume, in the form that the recipe and the memory allow."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bratskit.predict.memory import bytes_of_pass, bytes_of_slabs, free_bytes
from bratskit.predict.stream import Slab, sliding_window, window_slabs
from bratskit.predict.window import fits_at_once, single_pass
from bratskit.preprocess import Prepared
from bratskit.runtime import pick_precision
from bratskit.settings import Recipe

__all__ = ["arithmetic", "evaluating", "forward_volume", "image_of", "volume_slabs"]


def forward_volume(
    network: nn.Module,
    image: Float[Tensor, "c i j k"],
    recipe: Recipe,
    *,
    memory_bytes: int | None = None,
) -> Float[Tensor, "l i j k"]:
    """Turn one volume into probabilities: one member of an ensemble, or all there is.

    The network is taken as it is, in its mode, on its device and under the caller's autocast, so
    that one can be called many times: with dropout on, or on mirror images. `evaluating` and
    `arithmetic` set both as a prediction needs them.

    Args:
        network: From images to logits, on the image's device.
        image: Z-scored intensities `(C, i, j, k)` float32, from `image_of`.
        recipe: `recipe.inference.mode` says how. "single" falls back to windows where the pass
            would need more than `memory_bytes` (counted beforehand, in float32), or where the
            network takes images of one size only. Logits are divided by
            `recipe.inference.temperature`.
        memory_bytes: What the network may take to work in; None is half of what is free.

    Returns:
        Probabilities `(L, i, j, k)` float32 of what `recipe.target_names` lists.

    Raises:
        ValueError: The network answers fewer or more than the recipe's targets.
        RuntimeError: The network says NaN or infinity, in float32 too.
    """
    if _is_single(network, tuple(image.shape), recipe, image.device, memory_bytes):
        probs = single_pass(network, image, **_answer(recipe))
    else:
        probs = sliding_window(network, image, **_windows(recipe), **_answer(recipe))
    _refuse_other_targets(len(probs), recipe)
    return probs


def volume_slabs(
    network: nn.Module,
    prepared: Prepared,
    recipe: Recipe,
    *,
    device: torch.device,
    memory_bytes: int | None = None,
) -> Iterator[Slab]:
    """Do what `forward_volume` does and hand out slabs, so that no volume need be held.

    A single pass is one slab; windows hand out each slab as soon as it is finished. The image is
    left where it is, in memory or in a file, and read window by window.

    Args:
        network: As for `forward_volume`, on `device`.
        prepared: A case prepared by the same recipe.
        recipe: How, as for `forward_volume`.
        device: Where the network is.
        memory_bytes: What may be taken beside the image and the labels decided from the slabs by
            `labels_from_slabs`; None is half of what is free.

    Yields:
        First plane and probabilities `(L, n, j, k)` float32 on the CPU, whose memory is used again.

    Raises:
        ValueError: `memory_bytes` holds no single window, or channels or targets are not those of
            the recipe.
    """
    _refuse_other_channels(prepared, recipe)
    shape = prepared.image.shape
    if _is_single(network, shape, recipe, device, memory_bytes):
        image = image_of(prepared, recipe, device)
        slabs = iter([(0, single_pass(network, image, **_answer(recipe)))])
    else:
        if memory_bytes is not None and device.type != "cuda":
            least = bytes_of_slabs(network, shape, recipe, prepared.geometry)
            _refuse_too_little(memory_bytes, least, recipe)
        slabs = window_slabs(
            network, prepared.image, device=device, **_windows(recipe), **_answer(recipe)
        )
    for start, slab in slabs:
        _refuse_other_targets(len(slab), recipe)
        yield start, slab.cpu()


def image_of(prepared: Prepared, recipe: Recipe, device: torch.device) -> Float[Tensor, "c i j k"]:
    """Bring a prepared image to a device.

    Raises:
        ValueError: Its channels are others, or in another order, than the recipe's.
    """
    _refuse_other_channels(prepared, recipe)
    return torch.from_numpy(np.array(prepared.image, dtype=np.float32)).to(device)


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Fix norm statistics and drop gradients, then give the network back as it was."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(was_training)


def arithmetic(device: torch.device, recipe: Recipe) -> torch.autocast:
    """Take "fp32" at its word; anything else becomes what the device does in hardware."""
    wanted = "fp32" if recipe.training.precision == "fp32" else "auto"
    precision = pick_precision(device, wanted)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def _answer(recipe: Recipe) -> dict[str, object]:
    return {"targets": recipe.targets, "temperature": recipe.inference.temperature}


def _windows(recipe: Recipe) -> dict[str, object]:
    settings = recipe.inference
    return {name: getattr(settings, name) for name in ("window_vox", "overlap", "weights")}


def _is_single(
    network: nn.Module,
    shape: Sequence[int],
    recipe: Recipe,
    device: torch.device,
    memory_bytes: int | None,
) -> bool:
    """Say whether a whole volume shall and can go through at once: by recipe, network, memory."""
    if recipe.inference.mode != "single" or not fits_at_once(network, tuple(shape[1:])):
        return False
    if memory_bytes is None:
        free = free_bytes(device)
        if free is None:
            return True
        memory_bytes = free // 2
    return bytes_of_pass(network, shape, recipe) <= memory_bytes


def _refuse_too_little(memory_bytes: int, least: int, recipe: Recipe) -> None:
    if memory_bytes < least:
        enough_gb = math.ceil(least / 1e8) / 10
        msg = (
            f"memory_bytes must be at least {least:,} for windows of "
            f"{recipe.inference.window_vox}; got {memory_bytes:,}. Give {enough_gb} GB, or "
            "take smaller windows, which may label worse."
        )
        raise ValueError(msg)


def _refuse_other_targets(n_channels: int, recipe: Recipe) -> None:
    if n_channels != recipe.out_channels:
        msg = (
            f"network must answer {list(recipe.target_names)} for targets {recipe.targets!r}; got "
            f"{n_channels} channels. Build it with out_channels=recipe.out_channels."
        )
        raise ValueError(msg)


def _refuse_other_channels(prepared: Prepared, recipe: Recipe) -> None:
    if tuple(prepared.modalities) != tuple(recipe.modalities):
        msg = (
            f"channels of prepared {prepared.id} must be {list(recipe.modalities)}; "
            f"got {list(prepared.modalities)}. Prepare it with the recipe of the network."
        )
        raise ValueError(msg)
