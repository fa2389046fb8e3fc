"""Ask several times: mirror images, dropout passes, networks; what is done with it is fold's."""

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from bratskit.predict.forms import arithmetic, evaluating, forward_volume
from bratskit.settings import Recipe

__all__ = ["MIRRORS", "Member", "list_members", "run_member"]

# Axes of I, J, K along which each pass is mirrored. Brains are nearly alike left and right; front
# and back or top and bottom are not, but networks trained with such flips gain there too.
MIRRORS: dict[str, tuple[tuple[int, ...], ...]] = {
    "none": ((),),
    "left-right": ((), (0,)),
    "all": ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)),
}

# What two networks must agree in before their answers may be averaged, and what follows if not.
SHARED = {
    "modalities": "their channels mean other things",
    "normalise": "their intensities are scaled differently",
    "geometry": "their voxels lie elsewhere",
    "targets": "their probabilities are of other things",
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One pass over a volume.

    Attributes:
        network: From images to logits.
        recipe: How this network is run, its temperature included.
        mirrored: Axes of I, J, K that are flipped before the pass and flipped back after it.
        seed: Seeds the dropout; None leaves dropout off.
    """

    network: nn.Module = field(repr=False)
    recipe: Recipe = field(repr=False)
    mirrored: tuple[int, ...] = ()
    seed: int | None = None


def list_members(
    network: nn.Module | Sequence[nn.Module],
    recipe: Recipe | Sequence[Recipe],
    *,
    case_id: str = "",
) -> list[Member]:
    """List the passes that recipes ask for: networks x mirrors x (one plain pass + dropout).

    Args:
        network: One, or several: an ensemble.
        recipe: Of all networks, or one for each. `inference.mirror` and `inference.dropout_samples`
            say which passes. Each network is run by its own recipe, its temperature included.
        case_id: Seeds dropout together with `recipe.seed`, so that a folder that is predicted again
            gives the same masks, in whatever order.

    Returns:
        At least one. The first is the plain pass of the first network.

    Raises:
        ValueError: There is no network, recipes are more or fewer than networks, two of them differ
            in modalities, normalisation, geometry or targets, or dropout passes are asked of a
            network without dropout.
    """
    networks = [network] if isinstance(network, nn.Module) else list(network)
    recipes = [recipe] * len(networks) if isinstance(recipe, Recipe) else list(recipe)
    if not networks or len(recipes) != len(networks):
        msg = (
            "an ensemble must have a network at least, and one recipe or one for each; got "
            f"{len(networks)} networks and {len(recipes)} recipes."
        )
        raise ValueError(msg)
    _refuse_strangers(recipes)
    members = []
    for number, (each, its) in enumerate(zip(networks, recipes, strict=True)):
        passes = its.inference.dropout_samples
        if passes and not _dropout_layers(each):
            msg = (
                f"network must have dropout for {passes} dropout passes; got none in "
                f"{its.network.name} ({its.name}). Set inference.dropout_samples to 0, or train "
                "with network.dropout above 0."
            )
            raise ValueError(msg)
        for axes in MIRRORS[its.inference.mirror]:
            seeds = [_seed(its.seed, case_id, number, axes, turn) for turn in range(passes)]
            members += [
                Member(network=each, recipe=its, mirrored=axes, seed=seed)
                for seed in (None, *seeds)
            ]
    return members


def run_member(
    member: Member, image: Float[Tensor, "c i j k"], *, memory_bytes: int | None = None
) -> Float[Tensor, "l i j k"]:
    """Run one pass and turn its answer back to how the volume lay.

    Dropout draws the same mask for every window of a pass: one pass is one network thinned out,
    whatever it is run in.

    Args:
        member: From `list_members`.
        image: Z-scored intensities `(C, i, j, k)`, on the device to run on.
        memory_bytes: What the network may take to work in; None is half of what is free.

    Returns:
        Probabilities `(L, i, j, k)` float32.
    """
    axes = [axis + 1 for axis in member.mirrored]
    network = member.network.to(image.device, memory_format=torch.channels_last_3d)
    turned = image.flip(axes) if axes else image
    with (
        evaluating(network),
        _dropping(network, member.seed, image.device),
        arithmetic(image.device, member.recipe),
    ):
        probs = forward_volume(network, turned, member.recipe, memory_bytes=memory_bytes)
        return probs.flip(axes) if axes else probs


@contextlib.contextmanager
def _dropping(network: nn.Module, seed: int | None, device: torch.device) -> Iterator[None]:
    """Switch on dropout layers and nothing else, and draw the same mask at every call."""
    if seed is None:
        yield
        return
    layers = _dropout_layers(network)
    hook = network.register_forward_pre_hook(lambda *_: _reseed(seed))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            hook.remove()
            for layer in layers:
                layer.eval()


def _reseed(seed: int) -> None:
    torch.manual_seed(seed)


def _dropout_layers(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, _DropoutNd) and layer.p > 0]


def _seed(seed: int, case_id: str, number: int, axes: tuple[int, ...], turn: int) -> int:
    return zlib.crc32(f"{seed} {case_id} {number} {axes} {turn}".encode())


def _refuse_strangers(recipes: Sequence[Recipe]) -> None:
    first = recipes[0]
    for number, other in enumerate(recipes[1:], start=2):
        for name, why in SHARED.items():
            if getattr(other, name) != getattr(first, name):
                msg = (
                    f"{name} of all networks must be {getattr(first, name)!r}, as of the first "
                    f"({first.name}); got {getattr(other, name)!r} in number {number} "
                    f"({other.name}). They cannot be averaged: {why}."
                )
                raise ValueError(msg)
