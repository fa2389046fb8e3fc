"""Take one optimiser step: mixed precision, accumulation, clipping, and a refusal to learn NaN."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from bratskit.runtime import pick_precision
from bratskit.settings import TrainingSettings
from bratskit.train.average import WeightAverage
from bratskit.train.blame import (
    NotFiniteError,
    find_bad_cases,
    find_bad_gradient,
    find_first_bad_layer,
)
from bratskit.train.fallback import Fallback, first_line, is_out_of_memory
from bratskit.train.losses import Loss, dice_ce_loss
from bratskit.train.optimise import (
    clip_gradients,
    gradient_norm,
    learning_rate,
    make_optimiser,
)
from bratskit.train.parallel import Team

__all__ = ["Learner"]

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

# The scaler begins at 65,536 and halves at each step it skips. Below 1 it makes gradients smaller
# than they are: then they do not overflow for being scaled, they are not finite by themselves.
SMALLEST_SCALE = 1.0

Batch = tuple[Tensor, Tensor]


class Learner:
    """Own everything that changes from step to step except the sampler.

    Args:
        network: Moved to `device` and to channels-last memory, which halves the time of bf16
            convolutions on a CPU.
        settings: How weights are learned.
        device: Where the network runs.
        loss: What is minimised, from `make_loss`.
        team: Processes that learn together, this one by `settings`; None learns alone.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: TrainingSettings,
        *,
        device: torch.device,
        loss: Loss = dice_ce_loss,
        team: Team | None = None,
    ) -> None:
        self.network = network.to(device, memory_format=torch.channels_last_3d)
        self.settings = settings
        self.loss = loss
        self.team = team or Team()
        self.device = device
        self.precision = pick_precision(device, settings.precision)
        self.optimiser = make_optimiser(self.network, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.average = (
            WeightAverage(self.network, decay=settings.ema_decay) if settings.ema_decay else None
        )
        self.fallback = Fallback(self.network, batch=settings.batch)
        self.step_number = 0

    @property
    def lr(self) -> float:
        """Learning rate of the latest step."""
        return float(self.optimiser.param_groups[0]["lr"])

    @property
    def network_to_keep(self) -> nn.Module:
        """The network to validate and to keep as the best: the average, where there is one."""
        return self.average.network if self.average else self.network

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Begin from weights; the average begins there too."""
        self.network.load_state_dict(weights)
        if self.average:
            self.average.load(weights)

    def step(self, batches: Iterable[Batch], *, name: str = "", ids: Sequence[str] = ()) -> float:
        """Average the gradients of `settings.accumulate` batches and move the weights once.

        Where memory ends, the step begins again with fewer patches at once; see `Fallback`. For
        that its batches are all kept where they are until the weights have moved.

        Args:
            batches: Pairs of image `(B, C, I, J, K)` and labels `(B, I, J, K)`, all of one size.
            name: Where they come from, for messages.
            ids: Case of each patch, for messages.

        Returns:
            Mean loss of the batches.

        Raises:
            NotFiniteError: A loss or the gradient is NaN or infinite. The weights are as they were.
            torch.OutOfMemoryError: Memory does not hold one patch, and the weights are as they
                were; or not what the optimiser keeps.
        """
        self._set_learning_rate()
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        self.optimiser.zero_grad(set_to_none=True)
        total, seen = 0.0, []
        for batch in batches:
            seen.append(batch)
            todo = [batch]
            while todo:
                said = None
                try:
                    at = len(seen) - len(todo)
                    for number, one in enumerate(todo, start=at):
                        total += self._add_gradient(one, name, ids[number * self.settings.batch :])
                    todo = []
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    said = str(error)
                if said is not None:  # here, where no traceback holds activations any more
                    self._start_again(said, buffers)
                    total, todo = 0.0, [*seen]
        return self._move(total, f"{name}, cases {', '.join(sorted(set(ids)))}" if ids else name)

    def state_dict(self) -> dict[str, object]:
        """Return all but the weights, as plain values and tensors."""
        return {
            "step": self.step_number,
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.network.state_dict() if self.average else None,
            "fallback": self.fallback.state_dict(),
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Go on from `state_dict`; the weights are loaded before, by `load_weights`."""
        self.step_number = int(state["step"])
        self.optimiser.load_state_dict(state["optimiser"])
        if state["scaler"] and self.scaler.is_enabled():  # empty where the run was not fp16
            self.scaler.load_state_dict(state["scaler"])
        if self.average and state.get("average"):
            self.average.load(state["average"])
        if "fallback" in state:  # not in runs of before it existed
            self.fallback.load_state_dict(state["fallback"])

    def _add_gradient(self, batch: Batch, name: str, ids: Sequence[str]) -> float:
        """Add the share of one batch to the gradient, in as many parts as memory asks for."""
        image, labels = batch
        total = 0.0
        for part in self.fallback.parts(len(image)):
            loss = self._loss(image[part], labels[part])
            value = loss.item()
            if not math.isfinite(value):
                raise NotFiniteError(self._explain_loss(value, name, image[part], ids[part]))
            of = self.settings.accumulate * (len(image) / (part.stop - part.start))
            self.scaler.scale(loss / of).backward()
            total += value / of
        return total

    def _start_again(self, said: str, buffers: Sequence[Tensor]) -> None:
        """Forget what was added to the gradient, and take a step down in memory."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.no_grad():
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.fallback.step_down(said, step=self.step_number + 1)

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

    def _move(self, loss: float, name: str) -> float:
        """Average over the processes, update, and say what would help where memory ends there."""
        try:
            loss = self.team.average(self.network, loss)
            self._update(name)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            msg = (
                "memory must hold what the optimiser keeps of each weight; it ran out at step "
                f"{self.step_number + 1} ({first_line(str(error))}). Free the device, or begin a "
                "run with smaller network.channels or training.optimiser='sgd'. "
                "The last checkpoint was kept."
            )
            raise torch.OutOfMemoryError(msg) from error
        return loss

    def _update(self, name: str) -> None:
        self.scaler.unscale_(self.optimiser)
        norm = gradient_norm(self.network)
        is_finite = bool(torch.isfinite(norm))
        # fp16 overflows by design: its scaler skips such a step and lowers the scale
        if not is_finite and self.scaler.get_scale() / 2 < SMALLEST_SCALE:
            raise NotFiniteError(self._explain_gradient(norm.item(), name))
        if is_finite and self.settings.clip_norm:
            clip_gradients(self.network, norm, largest=self.settings.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.step_number += 1
        if self.average and is_finite:  # a skipped step left no new weights
            self.average.update(self.network, step=self.step_number)

    def _set_learning_rate(self) -> None:
        settings = self.settings
        rate = learning_rate(
            self.step_number,
            total=settings.epochs * settings.steps_per_epoch,
            peak=settings.learning_rate,
            warmup=settings.warmup,
            schedule=settings.schedule,
        )
        for group in self.optimiser.param_groups:
            group["lr"] = rate

    def _explain_loss(self, value: float, name: str, image: Tensor, ids: Sequence[str]) -> str:
        with self._autocast():
            image = image.to(self.device)
            bad = find_first_bad_layer(self.network, image)
            cases = find_bad_cases(self.network, image, ids) if ids else []
        where = f"{name}, cases {', '.join(cases)}" if cases else name
        return self._explain("loss", value, where, bad)

    def _explain_gradient(self, value: float, name: str) -> str:
        return self._explain("gradient norm", value, name, find_bad_gradient(self.network))

    def _explain(self, what: str, value: float, where: str, bad: str) -> str:
        return (
            f"{what} must be finite; got {value} at step {self.step_number + 1}"
            f"{f' ({where})' if where else ''}. First not finite: {bad}. "
            "The last good checkpoint was kept. "
            "Look at these cases with `bratskit check`, or lower training.learning_rate."
        )
