"""Run a network over a whole prepared volume, in the form that the recipe and the memory allow."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from bratskit.networks import bytes_at_peak
from bratskit.predict.window import fits_at_once, single_pass, sliding_window
from bratskit.preprocess import Prepared
from bratskit.runtime import pick_precision
from bratskit.settings import Recipe

__all__ = ["arithmetic", "evaluating", "forward_volume", "image_of"]

# Resident memory of a float32 pass on a CPU peaked at 0.95 to 1.31 times the features that live at
# once (all five networks and three kinds of block on 96 x 128 x 96); rounded up.
WORKING_COPIES = 1.5


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
    settings = recipe.inference
    answer = {"targets": recipe.targets, "temperature": settings.temperature}
    if settings.mode == "single" and _fits(network, image, memory_bytes):
        probs = single_pass(network, image, **answer)
    else:
        probs = sliding_window(
            network,
            image,
            window_vox=settings.window_vox,
            overlap=settings.overlap,
            weights=settings.weights,
            **answer,
        )
    _refuse_other_targets(len(probs), recipe)
    return probs


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


def _fits(network: nn.Module, image: Tensor, memory_bytes: int | None) -> bool:
    """Say whether a whole volume can go through at once: the network takes it, the memory too."""
    size = tuple(image.shape[1:])
    if not fits_at_once(network, size):
        return False
    if memory_bytes is None:
        free = _free_bytes(image.device)
        if free is None:
            return True
        memory_bytes = free // 2
    multiple = getattr(network, "multiple_vox", 1)
    padded = tuple(-(-length // multiple) * multiple for length in size)
    return WORKING_COPIES * bytes_at_peak(network, (1, len(image), *padded)) <= memory_bytes


def _free_bytes(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # not Linux
        return None
    for line in meminfo.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return None


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
