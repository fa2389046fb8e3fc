"""Label one patient: prepared array, scan or case in, mask on the scanner's own grid out."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bratskit.cases import Case, Scan, load_scan
from bratskit.labels import LABELS
from bratskit.networks import Checkpoint, bytes_at_peak
from bratskit.predict.clean import remove_small_components
from bratskit.predict.window import fits_at_once, single_pass, sliding_window
from bratskit.preprocess import Prepared, brain_mask, decide, prepare_scan
from bratskit.runtime import pick_device, pick_precision
from bratskit.settings import Recipe

__all__ = ["Prediction", "predict_case", "predict_prepared", "predict_scan"]

# Resident memory of a float32 pass on a CPU peaked at 0.95 to 1.31 times the features that live at
# once (all five networks and three kinds of block on 96 x 128 x 96); rounded up.
WORKING_COPIES = 1.5


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
    network: nn.Module, prepared: Prepared, recipe: Recipe, *, device: torch.device | None = None
) -> NDArray[np.float32]:
    """Label a prepared case on the prepared grid.

    `recipe.inference.mode` says how. "single" falls back to windows where the pass would need more
    than half of the free memory (counted beforehand, in float32), or where the network takes images
    of one size only.

    Args:
        network: From images to logits; moved to `device` and left in the mode it came in.
        prepared: A case prepared by the same recipe.
        recipe: Inference settings, modalities, and the arithmetic ("fp32" is taken at its word,
            anything else becomes what the device does in hardware).
        device: Where to run; None chooses.

    Returns:
        Probabilities `(L, i, j, k)` float32 of what `recipe.target_names` lists: background first
        and sum 1 over L, or WT, TC and ET, each by itself. `bratskit.preprocess.decide` makes
        labels of either.

    Raises:
        ValueError: The prepared image has other channels, or another order, than the recipe, or
            the network answers fewer or more than the recipe's targets.
    """
    _refuse_other_channels(prepared, recipe)
    device = pick_device() if device is None else torch.device(device)
    image = torch.from_numpy(np.array(prepared.image, dtype=np.float32)).to(device)
    network.to(device, memory_format=torch.channels_last_3d)
    settings = recipe.inference
    with _inference(network), _autocast(device, recipe):
        if settings.mode == "single" and _fits(network, image):
            probs = single_pass(network, image, targets=recipe.targets)
        else:
            probs = sliding_window(
                network,
                image,
                window_vox=settings.window_vox,
                overlap=settings.overlap,
                weights=settings.weights,
                targets=recipe.targets,
            )
    _refuse_other_targets(len(probs), recipe)
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


@contextlib.contextmanager
def _inference(network: nn.Module) -> Iterator[None]:
    """Fix norm statistics and drop gradients, then give the network back as it was."""
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        network.train(was_training)


def _autocast(device: torch.device, recipe: Recipe) -> torch.autocast:
    wanted = "fp32" if recipe.training.precision == "fp32" else "auto"
    precision = pick_precision(device, wanted)
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


def _fits(network: nn.Module, image: Tensor) -> bool:
    """Say whether a whole volume can go through at once: the network takes it, the memory too."""
    size = tuple(image.shape[1:])
    if not fits_at_once(network, size):
        return False
    free = _free_bytes(image.device)
    if free is None:
        return True
    multiple = getattr(network, "multiple_vox", 1)
    padded = tuple(-(-length // multiple) * multiple for length in size)
    return WORKING_COPIES * bytes_at_peak(network, (1, len(image), *padded)) <= free / 2


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
