"""Fold the passes over one prepared case into probabilities, and into how sure they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bratskit.predict.forms import image_of
from bratskit.predict.members import Member, run_member
from bratskit.predict.uncertainty import RunningUncertainty
from bratskit.predict.volumes import Volume, region_probs, volumes_of
from bratskit.preprocess import Prepared

__all__ = ["Folded", "average_members", "fold_members"]

MM3_A_ML = 1000.0


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What all passes say together, on the prepared grid.

    Attributes:
        probs: Mean probabilities `(L, i, j, k)` float32.
        entropy: Of that mean, bits, `(E, i, j, k)` float32: one for labels, one a region for
            regions.
        mutual_information: The part of it that comes from the passes disagreeing, bits.
        volumes: By region, ml, with the interval of `volumes_of`, over the voxels of the brain.
        member_ml: By region, the volume that each pass says by itself, ml. Their range is no
            interval: on held-out patients it covered the true volume in 2 of 24.
    """

    probs: NDArray[np.float32]
    entropy: NDArray[np.float32]
    mutual_information: NDArray[np.float32]
    volumes: dict[str, Volume]
    member_ml: dict[str, tuple[float, ...]]


def average_members(
    members: Sequence[Member],
    prepared: Prepared,
    *,
    device: torch.device,
    memory_bytes: int | None = None,
) -> NDArray[np.float32]:
    """Average the passes, holding no more than the sum and the pass that is added to it.

    Returns:
        Probabilities `(L, i, j, k)` float32, bit for bit those of the pass where there is one.
    """
    image = image_of(prepared, members[0].recipe, device)
    total = run_member(members[0], image, memory_bytes=memory_bytes)
    with torch.inference_mode():
        for member in members[1:]:
            total += run_member(member, image, memory_bytes=memory_bytes)
        if len(members) > 1:
            total /= len(members)
    return total.cpu().numpy()


def fold_members(
    members: Sequence[Member],
    prepared: Prepared,
    *,
    device: torch.device,
    memory_bytes: int | None = None,
) -> Folded:
    """Average the passes and measure how unsure they are, each and between them.

    Args:
        members: From `list_members`.
        prepared: A case prepared as the members' recipes say.
        device: Where to run.
        memory_bytes: What a network may take to work in; None is half of what is free.

    Returns:
        What they say together. One pass has no mutual information: it is 0 everywhere.

    Raises:
        ValueError: The prepared image has other channels, or another order, than the recipes, or
            a network answers fewer or more than its recipe's targets.
    """
    targets = members[0].recipe.targets
    image = image_of(prepared, members[0].recipe, device)
    brain = np.asarray(prepared.mask)
    voxel_ml = math.prod(prepared.geometry.spacing_mm) / MM3_A_ML
    running = RunningUncertainty(targets)
    each = []
    for member in members:
        probs = run_member(member, image, memory_bytes=memory_bytes)
        with torch.inference_mode():
            running.add(probs)
        inside = region_probs(probs.cpu().numpy()[:, brain], targets=targets)
        each.append(volumes_of(inside, voxel_ml=voxel_ml))
    with torch.inference_mode():
        maps = [running.mean(), running.entropy(), running.mutual_information()]
    mean, entropy, information = (volume.cpu().numpy() for volume in maps)
    return Folded(
        probs=mean,
        entropy=entropy,
        mutual_information=information,
        volumes=volumes_of(region_probs(mean[:, brain], targets=targets), voxel_ml=voxel_ml),
        member_ml={name: tuple(volumes[name].ml for volumes in each) for name in each[0]},
    )
