"""Take one optimiser step: mixed precision, accumulation, clipping, and a refusal to learn NaN."""

import math
from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from bratskit.runtime import pick_precision
from bratskit.settings import TrainingSettings
from bratskit.train.losses import Loss, dice_ce_loss

__all__ = ["Learner", "NotFiniteError", "find_first_bad_layer", "learning_rate"]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

# The scaler begins at 65,536 and halves at each step it skips. Below 1 it makes gradients smaller
# than they are: then they do not overflow for being scaled, they are not finite by themselves.
SMALLEST_SCALE = 1.0


class NotFiniteError(FloatingPointError):
    """The loss or its gradient became NaN or infinite; the message names where."""


class Learner:
    """Own everything that changes from step to step except the sampler.

    Args:
        network: Moved to `device` and to channels-last memory, which halves the time of bf16
            convolutions on a CPU.
        settings: How weights are learned.
        device: Where the network runs.
        loss: What is minimised, from `make_loss`.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainingSettings,
        *,
        device: torch.device,
        loss: Loss = dice_ce_loss,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last_3d)
        self.settings = settings
        self.loss = loss
        self.device = device
        self.precision = pick_precision(device, settings.precision)
        self.optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.step_number = 0

    @property
    def lr(self) -> float:
        """Learning rate of the latest step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def step(self, batches: Iterable[tuple[Tensor, Tensor]], *, name: str = "") -> float:
        """Average the gradients of `settings.accumulate` batches and move the weights once.

        Args:
            batches: Pairs of image `(B, C, I, J, K)` and labels `(B, I, J, K)`, all of one size.
            name: Where they come from, for messages: epoch and case ids.

        Returns:
            Mean loss of the batches.

        Raises:
            NotFiniteError: A loss or the gradient is NaN or infinite. The weights are as they were.
        """
        self._set_learning_rate()
        self.optimiser.zero_grad(set_to_none=True)
        total = 0.0
        for image, labels in batches:
            loss = self._loss(image, labels)
            value = loss.item()
            if not math.isfinite(value):
                raise NotFiniteError(self._explain("loss", value, name, image))
            self.scaler.scale(loss / self.settings.accumulate).backward()
            total += value / self.settings.accumulate
        self._update(name)
        return total

    def state_dict(self) -> dict[str, object]:
        """Return all but the weights, as plain values and tensors."""
        return {
            "step": self.step_number,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state_dict`; the weights are loaded apart."""
        self.step_number = int(state["step"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"] and self.scaler.is_enabled():  # empty where the run was not fp16
            self.scaler.load_state_dict(state["scaler"])

    def _loss(self, image: Tensor, labels: Tensor) -> Tensor:
        image = image.to(self.device, memory_format=torch.channels_last_3d, non_blocking=True)
        labels = labels.to(self.device, non_blocking=True)
        with self._autocast():
            logits = self.network(image)
        return self.loss(logits, labels)

    def _autocast(self) -> AbstractContextManager[None]:
        enabled = self.precision in HALF
        dtype = HALF.get(self.precision, torch.bfloat16)
        return torch.autocast(self.device.type, dtype=dtype, enabled=enabled)

    def _update(self, name: str) -> None:
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm)
        # fp16 overflows by design: its scaler skips such a step and lowers the scale
        if not self.scaler.is_enabled() and not torch.isfinite(norm):
            raise NotFiniteError(self._explain("gradient norm", norm.item(), name, None))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.scaler.is_enabled() and self.scaler.get_scale() < SMALLEST_SCALE:
            raise NotFiniteError(self._explain("gradient norm", norm.item(), name, None))
        self.step_number += 1

    def _set_learning_rate(self) -> None:
        settings = self.settings
        rate = learning_rate(
            self.step_number,
            total=settings.epochs * settings.steps_per_epoch,
            peak=settings.learning_rate,
            warmup=settings.warmup,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _explain(self, what: str, value: float, name: str, image: Tensor | None) -> str:
        where = ""
        if image is not None:
            with self._autocast():
                bad = find_first_bad_layer(self.network, image.to(self.device))
            where = f" First not finite: {bad}."
        return (
            f"{what} must be finite; got {value} at step {self.step_number + 1}"
            f"{f' ({name})' if name else ''}.{where} The last good checkpoint was kept. "
            "Look at these cases with `bratskit check`, or lower training.learning_rate."
        )


def learning_rate(step: int, *, total: int, peak: float, warmup: float) -> float:
    """Rise linearly to `peak`, then fall along a cosine to 0 at the end of training.

    Args:
        step: Optimiser steps taken before this one.
        total: Optimiser steps of the whole training.
        peak: Highest learning rate.
        warmup: Share of `total` over which it rises; small gradients' statistics need time.

    Examples:
        >>> [round(learning_rate(at, total=10, peak=1.0, warmup=0.2), 2) for at in (0, 1, 2, 6, 10)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
    """
    rising = round(total * warmup)
    if step < rising:
        return peak * (step + 1) / rising
    share = (step - rising) / max(1, total - rising)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


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
    kept = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.no_grad():
        network(image)
        for name, buffer in network.named_buffers():
            buffer.copy_(kept[name])
    for handle in handles:
        handle.remove()
    return bad[0] if bad else "the loss itself"
