"""Label one patient: prepared array, scan or case in, mask on the scanner's own grid out."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bratskit.cases import Case, Scan, load_scan
from bratskit.labels import LABELS
from bratskit.networks import Checkpoint
from bratskit.predict.clean import remove_small_components
from bratskit.predict.forms import arithmetic, evaluating, forward_volume, image_of
from bratskit.preprocess import Prepared, brain_mask, decide, prepare_scan
from bratskit.runtime import pick_device
from bratskit.settings import Recipe

__all__ = ["Prediction", "predict_case", "predict_prepared", "predict_scan"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a network says about one patient, on the scanner's grid in RAS+.

    Attributes:
        id: Name of the case.
        labels: Internal labels `(I, J, K)` uint8. Regions nest (ET in TC in WT) by construction,
            because each voxel carries one label.
        probs: Probabilities `(L, I, J, K)` float32, before small components were removed and, of
            regions, before they were made to nest; None unless asked for (143 MB for a BraTS scan).
        channels: What each channel of `probs` is about: "background", "NCR", "ED", "ET", which sum
            to 1, or "WT", "TC", "ET", each by itself.
    """

    id: str
    labels: NDArray[np.uint8]
    probs: NDArray[np.float32] | None
    channels: tuple[str, ...] = tuple(LABELS.values())


def predict_prepared(
    network: nn.Module,
    prepared: Prepared,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    memory_bytes: int | None = None,
) -> NDArray[np.float32]:
    """Label a prepared case on the prepared grid.

    `recipe.inference` says how, see `forward_volume`.

    Args:
        network: From images to logits; moved to `device` and left in the mode it came in.
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
    image = image_of(prepared, recipe, device)
    network.to(device, memory_format=torch.channels_last_3d)
    with evaluating(network), arithmetic(device, recipe):
        probs = forward_volume(network, image, recipe, memory_bytes=memory_bytes)
    return probs.cpu().numpy()


def predict_scan(
    network: nn.Module,
    scan: Scan,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    keep_probs: bool = False,
) -> Prediction:
    """Label a scan on its own grid.

    Probabilities go back to the native grid first, the decision (argmax, or regions over one half
    painted) comes last, then voxels without a signal in any modality become background (no brain,
    no tumour), then small components go.

    Args:
        network: From images to logits.
        scan: One patient, RAS+; its expert labels, if any, are not looked at.
        recipe: How to prepare the scan and how to run the network.
        device: Where to run; None chooses.
        keep_probs: Whether to return probabilities on the native grid too.

    Returns:
        The prediction, in RAS+ like the scan.
    """
    prepared = prepare_scan(dataclasses.replace(scan, labels=None), recipe)
    probs = predict_prepared(network, prepared, recipe, device=device)
    outside = ~brain_mask(scan.image)
    native = None
    if keep_probs:
        native = prepared.geometry.invert(probs, targets=recipe.targets)
        native[:, outside] = 0
        native[0, outside] = float(recipe.targets == "labels")
        labels = decide(native, targets=recipe.targets)
    else:
        labels = prepared.geometry.invert_to_labels(probs, targets=recipe.targets)
        labels[outside] = 0
    labels = remove_small_components(labels, recipe.inference.smallest_component_vox)
    return Prediction(id=scan.id, labels=labels, probs=native, channels=recipe.target_names)


def predict_case(
    case: Case,
    *,
    model: Checkpoint,
    device: torch.device | None = None,
    keep_probs: bool = False,
) -> Prediction:
    """Read a case from disk and label it with a trained model.

    Args:
        case: Files of one patient.
        model: Network with the recipe it was trained by, from `load_checkpoint`.
        device: Where to run; None chooses.
        keep_probs: Whether to return probabilities on the native grid too.

    Raises:
        ValueError: A file is damaged, or the grids of the modalities differ.
    """
    scan = load_scan(case)
    return predict_scan(model.network, scan, model.recipe, device=device, keep_probs=keep_probs)
