"""Say where a number that is not finite came from: which case, which layer."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["NotFiniteError", "find_bad_cases", "find_bad_gradient", "find_first_bad_layer"]


class NotFiniteError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the message names where."""


def find_bad_cases(network: nn.Module, image: Tensor, ids: Sequence[str]) -> list[str]:
    """Name the cases of a batch that are not finite on the way in, or else on the way out.

    Args:
        network: Its buffers are left as they are.
        image: The batch `(B, C, I, J, K)` whose loss was not finite.
        ids: Case of each patch.

    Returns:
        All of `ids` where no patch stands out.
    """
    for values in (image, _answer(network, image)):
        bad = [
            name
            for name, one in zip(ids, values, strict=False)
            if not bool(torch.isfinite(one).all())
        ]
        if bad:
            return sorted(set(bad))
    return sorted(set(ids))


def find_bad_gradient(network: nn.Module) -> str:
    """Name the parameter nearest to the loss whose gradient is NaN or infinite."""
    bad = [
        name
        for name, value in network.named_parameters()
        if value.grad is not None and not bool(torch.isfinite(value.grad).all())
    ]
    return f"gradient of {bad[-1]}" if bad else "the norm itself"


def find_first_bad_layer(network: nn.Module, image: Tensor) -> str:
    """Name the first place on the way through the network that is NaN or infinite.

    Args:
        network: Its buffers and weights are left as they are.
        image: The batch `(B, C, I, J, K)` whose loss was not finite.

    Returns:
        "the image", a parameter's name, a layer's name, or "the loss itself".
    """
    if not torch.isfinite(image).all():
        return "the image"
    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter).all():
            return f"parameter {name}"
    bad: list[str] = []

    def watch(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, features: object) -> None:
            if isinstance(features, Tensor) and not torch.isfinite(features).all():
                bad.append(f"layer {name}")

        return hook

    leaves = [
        (name, module) for name, module in network.named_modules() if not [*module.children()]
    ]
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves]
    _answer(network, image)
    for handle in handles:
        handle.remove()
    return bad[0] if bad else "the loss itself"


@torch.no_grad()
def _answer(network: nn.Module, image: Tensor) -> Tensor:
    """Run a network without a trace of it; of several logits return those of full size."""
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    logits = network(image)
    for name, buffer in network.named_buffers():
        buffer.copy_(kept[name])
    return logits if isinstance(logits, Tensor) else logits[0]
