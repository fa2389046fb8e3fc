"""Choose how weights move: the optimiser, and the learning rate as a function of the step."""

import math

import torch
from torch import Tensor, nn

from bratskit.settings import TrainingSettings

__all__ = ["clip_gradients", "gradient_norm", "learning_rate", "make_optimiser"]

POLY_POWER = 0.9  # Isensee et al. (2021), nnU-Net: lr = peak * (1 - epoch / epochs) ** 0.9


def make_optimiser(network: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Make the optimiser that the settings name; its learning rate is set before each step."""
    shared = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            momentum=settings.momentum,
            nesterov=settings.momentum > 0,
            **shared,
        )
    kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    return kinds[settings.optimiser](network.parameters(), **shared)


def learning_rate(
    step: int, *, total: int, peak: float, warmup: float, schedule: str = "cosine"
) -> float:
    """Rise linearly to `peak`, then fall to 0 at the end of training, or stay.

    A function of the step and of nothing else, so that a run which goes on needs no memory of it.

    Args:
        step: Optimiser steps taken before this one.
        total: Optimiser steps of the whole training.
        peak: Highest learning rate.
        warmup: Share of `total` over which it rises; small gradients' statistics need time.
        schedule: "cosine", "poly" or "constant".

    Examples:
        >>> [round(learning_rate(at, total=10, peak=1.0, warmup=0.2), 2) for at in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
        >>> round(learning_rate(5, total=10, peak=1.0, warmup=0, schedule="poly"), 3)  # 0.5 ** 0.9
        0.536

    Source:
        Loshchilov and Hutter (2017), SGDR; Isensee et al. (2021), nnU-Net, for "poly".
    """
    rising = round(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    share = min(1.0, (step - rising) / max(1, total - rising))
    if schedule == "constant":
        return peak
    if schedule == "poly":
        return peak * (1 - share) ** POLY_POWER
    return peak * 0.5 * (1 + math.cos(math.pi * share))


def gradient_norm(network: nn.Module) -> Tensor:
    """Return the L2 norm of all gradients together, a scalar.

    Apart from clipping, because clipping by a norm that is not finite would spread it to every
    parameter, and the one it came from could no longer be named.
    """
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(_gradients(network))))


@torch.no_grad()
def clip_gradients(network: nn.Module, norm: Tensor, *, largest: float) -> None:
    """Scale all gradients to a norm of at most `largest`.

    Source:
        Pascanu et al. (2013), On the difficulty of training recurrent networks, algorithm 1.
    """
    scale = (largest / (norm + 1e-6)).clamp(max=1.0)  # as in torch.nn.utils.clip_grad_norm_
    torch._foreach_mul_(_gradients(network), scale)


def _gradients(network: nn.Module) -> list[Tensor]:
    return [item.grad for item in network.parameters() if item.grad is not None]
