"""Learn from the same patches in less memory, a step at a time, once there is too little of it."""

import warnings

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["Fallback", "first_line", "is_out_of_memory"]

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, Linux, Windows


class Fallback:
    """Say how many patches are held at once, and learn with fewer when memory ends.

    A batch is then learned from in parts whose gradients add up to its own: the batch halves and
    the accumulation doubles, the patches of an optimiser step stay. With InstanceNorm the numbers
    are the same to rounding. At one patch the network forgets its activations and computes them
    again on the way back, if it can (`network.checkpointing`). The varied patches of a step all
    wait on the device until its end, should it begin again: small beside activations.

    Args:
        network: Asked for `checkpointing`.
        batch: Patches the recipe holds at once.
    """

    def __init__(self, network: nn.Module, *, batch: int) -> None:
        self.network = network
        self.batch = self.at_once = batch
        self._turned_on = False

    @property
    def note(self) -> str:
        """What was changed, in words; empty where nothing was."""
        words = [f"{self.at_once} of {self.batch} patches at a time"] * (self.at_once < self.batch)
        words += ["activations computed twice"] * self._turned_on
        return ", ".join(words)

    def parts(self, n_patches: int) -> list[slice]:
        """Cut a batch into what is held at once.

        Examples:
            >>> fallback = Fallback(nn.Identity(), batch=3)
            >>> fallback.at_once = 2
            >>> fallback.parts(3)
            [slice(0, 2, None), slice(2, 3, None)]
        """
        return [
            slice(first, min(first + self.at_once, n_patches))
            for first in range(0, n_patches, self.at_once)
        ]

    def step_down(self, said: str, *, step: int) -> None:
        """Take one step down and warn in one line.

        Args:
            said: What the machine said.
            step: Optimiser step it happened in, counted from 1.

        Raises:
            torch.OutOfMemoryError: There is no step left; says what would help.
        """
        if self.at_once > 1:
            self.at_once = (self.at_once + 1) // 2
        elif getattr(self.network, "checkpointing", None) is False:
            self.network.checkpointing = self._turned_on = True
        else:
            msg = (
                f"memory must hold one patch; it ran out at step {step} ({first_line(said)}). "
                "Lower training.patch_vox or network.channels, or free the device. "
                "The last checkpoint was kept."
            )
            raise torch.OutOfMemoryError(msg)
        changes = " Batch norm sees fewer patches at once, so numbers change a little."
        changes = changes * _sees_the_batch(self.network)
        warnings.warn(
            f"out of memory at step {step}; going on with {self.note}, the patches of a step are "
            f"the same.{changes}",
            RuntimeWarning,
            stacklevel=4,
        )

    def state_dict(self) -> dict[str, int | bool]:
        """Return what was changed, as plain values."""
        return {"at_once": self.at_once, "checkpointing": self._turned_on}

    def load_state_dict(self, state: dict[str, int | bool]) -> None:
        """Go on in as little memory as `state_dict` says."""
        self.at_once = int(state["at_once"])
        self._turned_on = bool(state["checkpointing"])
        if self._turned_on:
            self.network.checkpointing = True


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ended, of a GPU or of the machine."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in NO_MEMORY)


def _sees_the_batch(network: nn.Module) -> bool:
    return any(isinstance(module, _BatchNorm) for module in network.modules())


def first_line(said: str) -> str:
    """Return the first line of what a machine said."""
    return said.strip().splitlines()[0].rstrip(".") if said.strip() else "no reason given"
