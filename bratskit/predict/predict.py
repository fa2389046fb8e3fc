"""Label one patient: prepared array, scan or case in, mask on the scanner's own grid out."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bratskit.cases import Case, Scan, load_scan
from bratskit.labels import LABELS
from bratskit.networks import Checkpoint
from bratskit.predict.clean import tidy
from bratskit.predict.fold import Folded, average_members, fold_members
from bratskit.predict.forms import arithmetic, evaluating, volume_slabs
from bratskit.predict.members import list_members
from bratskit.predict.volumes import Volume
from bratskit.preprocess import (
    Prepared,
    brain_mask,
    decide,
    labels_from_slabs,
    prepare_scan,
)
from bratskit.runtime import pick_device
from bratskit.settings import Recipe

__all__ = ["Prediction", "label_prepared", "predict_case", "predict_prepared", "predict_scan"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says about one patient, on the scanner's grid in RAS+.

    Attributes:
        id: Name of the case.
        labels: Internal labels `(I, J, K)` uint8. Regions nest (ET in TC in WT) by construction,
            because each voxel carries one label.
        probs: Probabilities `(L, I, J, K)` float32, before the mask was tidied and, of regions,
            before they were made to nest; None unless asked for (143 MB for a BraTS scan).
        channels: What each channel of `probs` is about: "background", "NCR", "ED", "ET", which sum
            to 1, or "WT", "TC", "ET", each by itself.
        entropy: How undecided the probabilities are, bits, `(E, I, J, K)` float32; None unless
            asked for, as the two below. E is 1 for labels (0 to 2 bits) and 3 for regions (WT, TC
            and ET, 0 to 1 bit each). It is 0 where there is no brain.
        mutual_information: The part of `entropy` that comes from passes disagreeing; 0 everywhere
            if there was one pass, without mirrors, dropout or ensemble.
        volumes: By region what the probabilities expect and an interval, see `volumes_of`; before
            the mask was tidied, so `ml` is not the volume of `labels`.
    """

    id: str
    labels: NDArray[np.uint8]
    probs: NDArray[np.float32] | None
    channels: tuple[str, ...] = tuple(LABELS.values())
    entropy: NDArray[np.float32] | None = None
    mutual_information: NDArray[np.float32] | None = None
    volumes: dict[str, Volume] | None = None


def predict_prepared(
    network: nn.Module | Sequence[nn.Module],
    prepared: Prepared,
    recipe: Recipe | Sequence[Recipe],
    *,
    device: torch.device | None = None,
    memory_bytes: int | None = None,
) -> NDArray[np.float32]:
    """Label a prepared case on the prepared grid.

    `recipe.inference` says how, see `forward_volume`, and in how many passes, see `list_members`;
    their probabilities are averaged.

    Args:
        network: From images to logits; moved to `device` and left in the mode it came in. Several
            are an ensemble, of one recipe or one each.
        prepared: A case prepared by the same recipe.
        recipe: Inference settings, modalities, and the arithmetic ("fp32" is taken at its word,
            anything else becomes what the device does in hardware).
        device: Where to run; None chooses.
        memory_bytes: What the network may take to work in; None is half of what is free.

    Returns:
        Probabilities `(L, i, j, k)` float32 of what `recipe.target_names` lists: background first
        and sum 1 over L, or WT, TC and ET, each by itself. `bratskit.preprocess.decide` makes
        labels of either.

    Raises:
        ValueError: The prepared image has other channels, or another order, than the recipe, or
            the network answers fewer or more than the recipe's targets.
    """
    device = pick_device() if device is None else torch.device(device)
    members = list_members(network, recipe, case_id=prepared.id)
    return average_members(members, prepared, device=device, memory_bytes=memory_bytes)


def label_prepared(
    network: nn.Module | Sequence[nn.Module],
    prepared: Prepared,
    recipe: Recipe | Sequence[Recipe],
    *,
    device: torch.device | None = None,
    memory_bytes: int | None = None,
) -> NDArray[np.uint8]:
    """Label a prepared case on its native grid `(I, J, K)`, slab by slab where windows slide.

    Args:
        network: From images to logits; moved to `device` and left in the mode it came in. Several
            are an ensemble.
        prepared: A case prepared by the same recipe.
        recipe: As for `predict_prepared`.
        device: Where to run; None chooses.
        memory_bytes: What may be taken beside the image and the labels; None is half of what is
            free. Several passes are averaged on the whole prepared grid, which takes three times
            their probabilities above that.

    Raises:
        ValueError: As for `predict_prepared`, or `memory_bytes` holds no single window.
    """
    device = pick_device() if device is None else torch.device(device)
    members = list_members(network, recipe, case_id=prepared.id)
    one = members[0]
    if len(members) > 1:
        probs = average_members(members, prepared, device=device, memory_bytes=memory_bytes)
        return prepared.geometry.invert_to_labels(probs, targets=one.recipe.targets)
    one.network.to(device, memory_format=torch.channels_last_3d)
    with evaluating(one.network), arithmetic(device, one.recipe):
        slabs = volume_slabs(
            one.network, prepared, one.recipe, device=device, memory_bytes=memory_bytes
        )
        planes = ((start, slab.numpy()) for start, slab in slabs)
        return labels_from_slabs(prepared.geometry, planes, targets=one.recipe.targets)


def predict_scan(
    network: nn.Module | Sequence[nn.Module],
    scan: Scan,
    recipe: Recipe | Sequence[Recipe],
    *,
    device: torch.device | None = None,
    keep_probs: bool = False,
    uncertainty: bool = False,
    memory_bytes: int | None = None,
) -> Prediction:
    """Label a scan on its own grid.

    Probabilities go back to the native grid first, the decision (argmax, or regions over one half
    painted) comes last, then voxels without a signal in any modality become background (no brain,
    no tumour), then the mask is tidied as the recipe asks (`bratskit.predict.tidy`).

    Where only the mask is asked for, no native probabilities are ever held, and with windows no
    prepared ones either: a slab is decided as soon as it is finished.

    Args:
        network: From images to logits. Several are an ensemble: their probabilities are averaged.
        scan: One patient, RAS+; its expert labels, if any, are not looked at.
        recipe: How to prepare the scan and how to run the network; of an ensemble one for all, or
            one each, of which the first says what is tidied afterwards.
        device: Where to run; None chooses.
        keep_probs: Whether to return probabilities on the native grid too.
        uncertainty: Whether to return entropy, mutual information and volumes with an interval
            too. It costs no further pass: `recipe.inference` says how many there are.
        memory_bytes: What the network may take beside the scan and its prepared image, see
            `label_prepared`; None is half of what is free.

    Returns:
        The prediction, in RAS+ like the scan.

    Raises:
        ValueError: `memory_bytes` holds no single window; the message says what it takes.
    """
    first = recipe if isinstance(recipe, Recipe) else recipe[0]
    prepared = prepare_scan(dataclasses.replace(scan, labels=None), first)
    options = {"device": device, "memory_bytes": memory_bytes}
    native = sureness = None
    if not (keep_probs or uncertainty):
        labels = label_prepared(network, prepared, recipe, **options)
    else:
        probs, sureness = _ask(network, prepared, recipe, uncertainty=uncertainty, **options)
    outside = ~brain_mask(scan.image)
    if keep_probs:
        native = prepared.geometry.invert(probs, targets=first.targets)
        native[:, outside] = 0
        native[0, outside] = float(first.targets == "labels")
        labels = decide(native, targets=first.targets)
    elif uncertainty:
        labels = prepared.geometry.invert_to_labels(probs, targets=first.targets)
    labels[outside] = 0
    labels = tidy(labels, first.inference, spacing_mm=scan.spacing_mm, brain=~outside)
    return Prediction(
        id=scan.id,
        labels=labels,
        probs=native,
        channels=first.target_names,
        **_to_native(sureness, prepared, outside),
    )


def predict_case(
    case: Case,
    *,
    model: Checkpoint | Sequence[Checkpoint],
    device: torch.device | None = None,
    keep_probs: bool = False,
    uncertainty: bool = False,
    memory_bytes: int | None = None,
) -> Prediction:
    """Read a case from disk and label it with a trained model, or with several as one.

    Args:
        case: Files of one patient.
        model: Network with the recipe it was trained by, from `load_checkpoint`. Several are an
            ensemble, each run as its own recipe says and tidied as the first one's.
        device: Where to run; None chooses.
        keep_probs: Whether to return probabilities on the native grid too.
        uncertainty: Whether to return entropy, mutual information and volumes too.
        memory_bytes: What the network may take, see `predict_scan`.

    Raises:
        ValueError: A file is damaged, the grids of the modalities differ, or the models of an
            ensemble do not fit together.
    """
    models = [model] if isinstance(model, Checkpoint) else model
    return predict_scan(
        [each.network for each in models],
        load_scan(case),
        [each.recipe for each in models],
        device=device,
        keep_probs=keep_probs,
        uncertainty=uncertainty,
        memory_bytes=memory_bytes,
    )


def _ask(
    network: nn.Module | Sequence[nn.Module],
    prepared: Prepared,
    recipe: Recipe | Sequence[Recipe],
    *,
    device: torch.device | None,
    memory_bytes: int | None,
    uncertainty: bool,
) -> tuple[NDArray[np.float32], Folded | None]:
    """Give probabilities, and how sure they are where that is asked for."""
    if not uncertainty:
        options = {"device": device, "memory_bytes": memory_bytes}
        return predict_prepared(network, prepared, recipe, **options), None
    device = pick_device() if device is None else torch.device(device)
    members = list_members(network, recipe, case_id=prepared.id)
    folded = fold_members(members, prepared, device=device, memory_bytes=memory_bytes)
    return folded.probs, folded


def _to_native(
    folded: Folded | None, prepared: Prepared, outside: NDArray[np.bool_]
) -> dict[str, object]:
    """Bring the maps of uncertainty to the grid of the scan, 0 where there is no brain."""
    if folded is None:
        return {}
    maps = {
        name: prepared.geometry.invert_image(getattr(folded, name))
        for name in ("entropy", "mutual_information")
    }
    for volume in maps.values():
        volume[:, outside] = 0
    return {**maps, "volumes": folded.volumes}
