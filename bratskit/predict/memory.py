"""Say beforehand what memory each form of prediction takes, and what there is."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bratskit.networks import bytes_at_peak, without_data
from bratskit.predict.window import smallest_size
from bratskit.preprocess import PLANES_AT_ONCE, Geometry
from bratskit.settings import Recipe

__all__ = ["bytes_of_pass", "bytes_of_slabs", "free_bytes"]

# Resident memory of a float32 pass on a CPU peaked at 0.95 to 1.31 times the features that live at
# once (all five networks and three kinds of block on 96 x 128 x 96); rounded up.
WORKING_COPIES = 1.5
WORKSPACE = 32 * 2**20  # bytes of libraries, and what the allocator does not give back at once
LIVING_AT_ONCE = 6  # native planes: two of a channel, its values, the best so far, masks, labels
MOST_UNFOLDED = 20480  # torch 2.13, aten/src/ATen/native/Convolution.cpp, use_mkldnn
FLOAT = 4  # bytes
CGROUP = Path("/sys/fs/cgroup")  # of a container, version 2


def bytes_of_pass(network: nn.Module, shape: Sequence[int], recipe: Recipe) -> int:
    """Bound what one pass over a whole volume takes, its probabilities among it.

    Args:
        network: What is to run.
        shape: Of the image `(C, i, j, k)`, which itself is not counted, but for padded copies.
        recipe: Its targets count.

    Returns:
        Bytes, as if all arithmetic were float32.
    """
    channels, size = shape[0], smallest_size(network, tuple(shape[1:]))
    features = bytes_at_peak(network, (1, channels, *size))
    copies = FLOAT * (2 * channels + 2 * recipe.out_channels) * math.prod(size)
    unfolded = _bytes_unfolded(network, (1, channels, *size))
    return WORKSPACE + int(WORKING_COPIES * features) + unfolded + copies


def bytes_of_slabs(
    network: nn.Module, shape: Sequence[int], recipe: Recipe, geometry: Geometry | None = None
) -> int:
    """Bound what windows take that hand out slab by slab: one window and the planes it lies in.

    Args:
        network: What is to run.
        shape: Of the image `(C, i, j, k)`, which itself is not counted.
        recipe: Its windows and targets count.
        geometry: From the native grid to the prepared one, where labels are decided on the native
            grid as slabs come; the labels themselves are not counted.

    Returns:
        Bytes, as if all arithmetic were float32. It does not grow with i.
    """
    channels, size = shape[0], tuple(shape[1:])
    limit = smallest_size(network, size)
    window = tuple(min(pair) for pair in zip(recipe.inference.window_vox, limit, strict=True))
    features = bytes_at_peak(network, (1, channels, *window))
    copies = FLOAT * (2 * channels + 2 * recipe.out_channels) * math.prod(window)
    planes = FLOAT * recipe.out_channels * window[0] * limit[1] * limit[2]
    unfolded = _bytes_unfolded(network, (1, channels, *window))
    needed = WORKSPACE + int(WORKING_COPIES * features) + unfolded + copies + planes
    if geometry is not None:
        native = LIVING_AT_ONCE * PLANES_AT_ONCE * math.prod(geometry.box_shape[1:])
        needed += planes + FLOAT * native
    return needed


def free_bytes(device: torch.device) -> int | None:
    """Read what is free on a device, or in a container's share of the machine; None: unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():  # not Linux
        return None
    for line in meminfo.read_text(encoding="utf-8").splitlines():
        if line.startswith("MemAvailable"):
            return min(int(line.split()[1]) * 1024, _left_in_container())
    return None


def _bytes_unfolded(network: nn.Module, shape: Sequence[int]) -> int:
    """Count what torch takes to write out every kernel's neighbours, where it convolves that way.

    On a CPU it does for float32 of few values: channels times the first two lengths of the grid.
    """
    bare, most = without_data(network), 0

    def note(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal most
        if math.prod(given[0].shape[:4]) <= MOST_UNFOLDED:
            kernel = layer.weight[0].numel()
            most = max(most, FLOAT * kernel * math.prod(made.shape[2:]))

    for layer in bare.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(note)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        bare(torch.empty(tuple(shape), device="meta"))
    return 2 * most  # the allocator keeps some: 1.4 times was seen


def _left_in_container() -> float:
    """Read what a container may still take; files it has read can be forgotten."""
    try:
        most, now, facts = (
            (CGROUP / f"memory.{name}").read_text(encoding="utf-8")
            for name in ("max", "current", "stat")
        )
        files = dict(line.split() for line in facts.splitlines())["inactive_file"]
        return int(most) - int(now) + int(files)
    except (OSError, ValueError, KeyError):  # no container, or "max": no limit
        return math.inf
