"""Share one training among processes that `torchrun` started; each holds the whole network.

Every process draws the same places and the same augmentation from the same generator and learns
from its share of each optimiser step. Gradients are averaged once a step, after the last batch, so
that accumulation, clipping and the scaler see what one process would have seen. That is the mean
that `DistributedDataParallel` takes, without its wrapper: a process that runs out of memory may
halve its batches, which takes another number of backward passes than its fellows take.
"""

import dataclasses
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bratskit.settings import TrainingSettings

__all__ = ["Share", "Team", "checksum_of", "join_team", "rank_here", "shell_words"]

Value = TypeVar("Value")

PATIENCE = timedelta(hours=12)  # others wait while the first validates or writes
APART = 7919  # between the dropout seeds of two processes; any number but 0 will do


@dataclass(frozen=True)
class Share:
    """Which part of an optimiser step one process learns from.

    Attributes:
        batches: Numbers of its batches, of the step's `accumulate`.
        part: Its patches of each of them.
    """

    batches: range
    part: slice

    @classmethod
    def whole(cls, training: TrainingSettings) -> "Share":
        """Take all of a step."""
        return cls(range(training.accumulate), slice(0, training.batch))


@dataclass(frozen=True)
class Team:
    """The processes of one training.

    Attributes:
        rank: Number of this process, from 0; the first validates, writes and speaks.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process validates, writes and speaks."""
        return self.rank == 0

    def share(self, training: TrainingSettings) -> Share:
        """Choose this process's part of each step.

        Whole batches are dealt where `accumulate` can be divided; else each batch is, which every
        process then varies whole, so that the random numbers stay those of one process.

        Raises:
            ValueError: Neither can be divided by the number of processes.

        Examples:
            >>> Team(1, 2).share(TrainingSettings(accumulate=4))
            Share(batches=range(2, 4), part=slice(0, 1, None))
            >>> Team(1, 2).share(TrainingSettings(batch=6))
            Share(batches=range(0, 1), part=slice(3, 6, None))
        """
        batch, accumulate = training.batch, training.accumulate
        if accumulate % self.size == 0:
            many = accumulate // self.size
            return Share(range(self.rank * many, (self.rank + 1) * many), slice(0, batch))
        if batch % self.size == 0:
            many = batch // self.size
            return Share(range(accumulate), slice(self.rank * many, (self.rank + 1) * many))
        msg = (
            f"training.accumulate or training.batch must be a multiple of the {self.size} "
            f"processes; got accumulate {accumulate} and batch {batch}. Start another number of "
            f"processes, or take accumulate={self.size}: then a step has more patches."
        )
        raise ValueError(msg)

    def own_settings(self, training: TrainingSettings) -> TrainingSettings:
        """Return the settings of this process's part, of which the mean over all is the step's."""
        share = self.share(training)
        batch = share.part.stop - share.part.start
        return dataclasses.replace(training, batch=batch, accumulate=len(share.batches))

    def refuse_batch_norm(self, network: nn.Module) -> None:
        """Refuse a norm whose statistics would be of one process's patches.

        Raises:
            ValueError: More than one process, and a layer keeps running statistics.
        """
        kept = [
            name
            for name, module in network.named_modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        if self.size > 1 and kept:
            msg = (
                f"network.norm must be 'instance' or 'group' in {self.size} processes; got batch "
                f"norm in {kept[0]}. Each process would keep statistics of its own patches, and "
                "the numbers would not be those of one process. Change it, or start one process."
            )
            raise ValueError(msg)

    def average(self, network: nn.Module, loss: float) -> float:
        """Replace every gradient by its mean over the processes; returns the mean loss.

        Raises:
            RuntimeError: Another process has stopped.
        """
        if self.size == 1:
            return loss
        grads = [item.grad for item in network.parameters() if item.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        losses = torch.tensor([loss], dtype=torch.float64)
        try:
            dist.all_reduce(flat)
            dist.all_reduce(losses)
        except RuntimeError as error:
            msg = (
                "every process of a training must go on; another one has stopped, see what it "
                "said. The last checkpoint is whole: the same command goes on from there."
            )
            raise RuntimeError(msg) from error
        flat.div_(self.size)
        for grad, mean in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view(grad.shape))
        return losses.item() / self.size

    def tell(self, value: Value) -> Value:
        """Return what the first process calls this with; what others say is not heard."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def refuse_apart(self, folder: Path, what: str, seen: object) -> None:
        """Refuse, in every process, to learn together from run folders that are not one.

        Args:
            folder: The run folder.
            what: Name of what is compared.
            seen: What this process sees there.

        Raises:
            ValueError: Two processes see different things.
        """
        if self.size == 1:
            return
        everyones: list[object] = [None] * self.size
        dist.all_gather_object(everyones, seen)
        other = next((at for at, item in enumerate(everyones) if item != everyones[0]), None)
        if other is not None:
            msg = (
                f"run folder must be one that all processes see; got {what} {everyones[0]} in "
                f"process 0 and {everyones[other]} in process {other}, in {folder}. Choose a "
                "folder that all machines share, or copy last.pt of process 0 to all of them."
            )
            raise ValueError(msg)

    def gather_generators(self, device: torch.device) -> list[Tensor]:
        """Return the states of torch's generators of all processes but the first, in order."""
        if self.size == 1:
            return []
        own = [torch.get_rng_state()]
        if device.type == "cuda":
            own.append(torch.cuda.get_rng_state(device))
        states: list[list[Tensor]] = [[] for _ in range(self.size)]
        dist.all_gather_object(states, own)
        return [state for others in states[1:] for state in others]

    def set_generators(self, states: Sequence[Tensor], device: torch.device, *, seed: int) -> None:
        """Go on with what `gather_generators` gave, or begin: each process drops out its own.

        The first process keeps the state that one process would have.
        """
        if self.is_first:
            return
        own = 2 if device.type == "cuda" else 1
        if len(states) != own * (self.size - 1):
            torch.manual_seed(seed + APART * self.rank)
            return
        mine = states[own * (self.rank - 1) :][:own]
        torch.set_rng_state(mine[0])
        if own == 2:
            torch.cuda.set_rng_state(mine[1], device)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Let only the first process speak."""
        if self.is_first:
            yield
            return
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
            yield


def checksum_of(network: nn.Module) -> str:
    """Return a few letters that differ where any bit of the weights or buffers does."""
    digest = hashlib.sha256()
    for value in network.state_dict().values():
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:12]


def rank_here() -> int:
    """Return this process's number of those that `torchrun` started; 0 where it did not.

    A `RANK` alone, as some cluster schedulers set it, makes no team.
    """
    return int(os.environ.get("RANK", "0")) if _is_called_together() else 0


def shell_words() -> list[str]:
    """Return what calls this program from a shell, in as many processes as it runs in now."""
    if not _is_called_together():
        return ["bratskit"]
    here = os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])
    machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    further = ["--nnodes", machines] if machines != "1" else []
    return ["torchrun", *further, "--nproc-per-node", here, "-m", "bratskit"]


def _is_called_together() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "MASTER_ADDR" in os.environ


@contextmanager
def join_team() -> Iterator[Team]:
    """Meet the other processes that `torchrun` started; alone where it did not.

    With a GPU each process takes the one of its number on its machine as the current device.

    Raises:
        ValueError: There are more processes than GPUs on this machine.
    """
    if not _is_called_together():
        yield Team()
        return
    backend = "gloo"
    if torch.cuda.is_available():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= gpus:
            msg = (
                f"processes must be at most the {gpus} GPUs of this machine; got number "
                f"{local + 1}. Call torchrun with --nproc-per-node {gpus}."
            )
            raise ValueError(msg)
        torch.cuda.set_device(local)
        backend = "cpu:gloo,cuda:nccl"
    is_new = not dist.is_initialized()
    if is_new:
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield Team(dist.get_rank(), dist.get_world_size())
    finally:
        if is_new and sys.exc_info()[0] is None:  # after an error the others may be gone
            dist.destroy_process_group()
