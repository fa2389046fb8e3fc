"""Count the memory of a training step without taking it: the step runs on tensors of no data."""

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bratskit.networks import Ledger, network_of, without_data
from bratskit.settings import Recipe
from bratskit.train.losses import Loss, make_loss

__all__ = ["count_parameters", "kept_states", "predict_forward_bytes", "predict_step_bytes"]

Triple = tuple[int, int, int]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
# State tensors that an optimiser keeps for each weight: two moments, or one momentum.
STATES = {"adamw": 2, "adam": 2, "sgd": 1}


def predict_step_bytes(
    recipe: Recipe,
    *,
    precision: str,
    patch_vox: Triple | None = None,
    batch: int | None = None,
) -> int:
    """Predict the most memory that tensors take while a network learns from one batch.

    Forward, loss and backward run for real, but on tensors that have a shape and no data, so that
    any network is counted as it is, exactly in the arithmetic it will learn in. Added are weights,
    what the optimiser and the averaged weights keep, and gradients that wait for further batches.
    What a GPU library takes for itself within one operation is not seen.

    Args:
        recipe: Network, loss, optimiser, and the patch and batch unless they are given.
        precision: "fp32", "bf16" or "fp16", as `pick_precision` says.
        patch_vox: Another size of the patch.
        batch: Another number of patches.

    Returns:
        Bytes, of which batch and labels are part.
    """
    training = recipe.training
    size = (batch or training.batch, *(patch_vox or training.patch_vox))
    with _without_data(recipe, precision, size[1:]) as (network, ledger):
        weights = _bytes_of(network.parameters())
        image = torch.empty(size[0], len(recipe.modalities), *size[1:])
        labels = torch.empty(size, dtype=torch.int64)
        held = _bytes_of([image, labels])
        _learn(network, image, labels, loss=make_loss(recipe), precision=precision)
    further = training.accumulate - 1  # batches held, should memory end and the step begin again
    waiting = held * further + (weights if further else 0)  # and the sum of gradients so far
    return ledger.peak_bytes + waiting + weights * (1 + kept_states(recipe))


def predict_forward_bytes(recipe: Recipe, *, precision: str, size_vox: Triple) -> int:
    """Predict the most memory that labelling one window or volume takes, weights included."""
    with _without_data(recipe, precision, size_vox) as (network, ledger), torch.no_grad():
        weights = _bytes_of(network.parameters())
        image = torch.empty(1, len(recipe.modalities), *size_vox)
        with torch.autocast("cpu", dtype=HALF.get(precision), enabled=precision in HALF):
            logits = network.eval()(image)
        logits.float().softmax(dim=1)
    return ledger.peak_bytes + weights


def count_parameters(recipe: Recipe) -> int:
    """Count the weights of a recipe's network, without making it."""
    with _without_data(recipe, "fp32", recipe.training.patch_vox) as (network, _):
        return sum(item.numel() for item in network.parameters())


@contextlib.contextmanager
def _without_data(
    recipe: Recipe, precision: str, size_vox: Triple
) -> Iterator[tuple[nn.Module, Ledger]]:
    """Build a network of no data, in the memory order that `Learner` gives it."""
    ledger = Ledger()
    with contextlib.ExitStack() as stack:
        # MONAI's Swin UNETR reads numbers while it is built, so that it must have some
        stack.enter_context(torch.random.fork_rng(devices=[]))
        build = partial(network_of, recipe, size_vox=size_vox)
        built = build() if recipe.network.name == "swin_unetr" else None
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # of tensors without data; the real step warns itself
        stack.enter_context(FakeTensorMode())
        network = without_data(built, device="cpu") if built else build()
        for module in network.modules():
            for name, item in module.named_parameters(recurse=False):
                if item.ndim == 5:
                    last = item.detach().to(memory_format=torch.channels_last_3d)
                    module.register_parameter(name, nn.Parameter(last, item.requires_grad))
        with ledger:
            yield network.train(), ledger


def _learn(
    network: nn.Module, image: Tensor, labels: Tensor, *, loss: Loss, precision: str
) -> None:
    """Do what `Learner` does with one batch."""
    ordered = image.contiguous(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=HALF.get(precision), enabled=precision in HALF):
        logits = network(ordered)
    value = loss(logits, labels)
    del logits, ordered
    (value / 1).backward()


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(item.numel() * item.element_size() for item in tensors)


def kept_states(recipe: Recipe) -> int:
    """Count the numbers that stay from step to step for each weight, the weight left out."""
    return STATES[recipe.training.optimiser] + bool(recipe.training.ema_decay)
