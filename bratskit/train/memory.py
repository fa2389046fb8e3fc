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
# oneDNN works on channels of bf16 in blocks of this many
BLOCK = 16


class StepLedger(Ledger):
    """Count also what oneDNN takes while it computes the weight gradients of a convolution.

    In bf16 with stride 1 each thread reorders one image of the input and one of the gradient. Both
    are gone when the operation ends, so that no tensor shows them: 13 shapes of convolutions
    (channels 4 to 64, 32 to 128 voxels a side, batches of 1 to 4, 1 and 2 threads; torch 2.13,
    AVX-512) took 1.01 to 1.09 times this by torch's profiler. Stride 2 and float32 take no more
    than one image's, or nothing.
    """

    def scratch_bytes(self, func: object, args: tuple) -> int:
        """Return the bytes that an operation on a CPU takes until it is done."""
        if func is not torch.ops.aten.convolution_backward.default:
            return 0
        gradient, image = args[0], args[1]
        is_plain = set(args[4]) == {1} and not args[7]  # stride 1, not transposed
        if gradient.dtype != torch.bfloat16 or not is_plain:
            return 0
        blocks = -(-gradient.shape[1] // BLOCK) * BLOCK
        of_gradient = gradient[0, 0].numel() * blocks
        return torch.get_num_threads() * (image[0].numel() + of_gradient) * image.element_size()


def predict_step_bytes(
    recipe: Recipe,
    *,
    precision: str,
    patch_vox: Triple | None = None,
    batch: int | None = None,
    device: torch.device | str = "cpu",
) -> int:
    """Predict the most memory that tensors take while a network learns from one batch.

    Forward, loss and backward run for real, but on tensors that have a shape and no data, so that
    any network is counted as it is, exactly in the arithmetic it will learn in. Added are weights,
    what the optimiser and the averaged weights keep, and gradients that wait for further batches.
    What a library takes for itself within one operation is added on a CPU (see `StepLedger`), and
    not seen on a GPU.

    Args:
        recipe: Network, loss, optimiser, and the patch and batch unless they are given.
        precision: "fp32", "bf16" or "fp16", as `pick_precision` says.
        patch_vox: Another size of the patch.
        batch: Another number of patches.
        device: Where it will learn.

    Returns:
        Bytes, of which batch and labels are part.
    """
    training = recipe.training
    size = (batch or training.batch, *(patch_vox or training.patch_vox))
    ledger = StepLedger() if torch.device(device).type == "cpu" else Ledger()
    with _without_data(recipe, size[1:], ledger) as network:
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
    ledger = Ledger()
    with _without_data(recipe, size_vox, ledger) as network, torch.no_grad():
        weights = _bytes_of(network.parameters())
        image = torch.empty(1, len(recipe.modalities), *size_vox)
        with torch.autocast("cpu", dtype=HALF.get(precision), enabled=precision in HALF):
            logits = network.eval()(image)
        logits.float().softmax(dim=1)
    return ledger.peak_bytes + weights


def count_parameters(recipe: Recipe) -> int:
    """Count the weights of a recipe's network, without making it."""
    with _without_data(recipe, recipe.training.patch_vox, Ledger()) as network:
        return sum(item.numel() for item in network.parameters())


@contextlib.contextmanager
def _without_data(recipe: Recipe, size_vox: Triple, ledger: Ledger) -> Iterator[nn.Module]:
    """Build a network of no data, in the memory order that `Learner` gives it."""
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
            yield network.train()


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
