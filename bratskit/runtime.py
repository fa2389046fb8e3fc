"""Know the machine: device, precision, seeds, time left, progress and who made a file."""

import contextlib
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import bratskit

if TYPE_CHECKING:
    import torch

__all__ = [
    "RunFolder",
    "SessionClock",
    "made_by",
    "pick_device",
    "pick_precision",
    "progress",
    "seed_everything",
    "write_atomically",
]

Item = TypeVar("Item")

LINE_EVERY_S = 3.0  # sixteen cases of 1.5 s each then take nine lines of a stored notebook


@dataclass(frozen=True)
class RunFolder:
    """Name the files through which the notebooks hand work to each other.

    Attributes:
        path: The run folder.
    """

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    settings = property(lambda self: self.path / "settings.json", doc="The recipe of the run.")
    split = property(lambda self: self.path / "split.json", doc="Patients of each part.")
    source = property(lambda self: self.path / "source.json", doc="Where the cases come from.")
    cases = property(lambda self: self.path / "cases", doc="Phantom cohort, where one was made.")
    prepared = property(lambda self: self.path / "prepared", doc="One prepared folder a case.")
    history = property(lambda self: self.path / "history.jsonl", doc="One row an epoch.")
    trackers = property(lambda self: self.path / "trackers.json", doc="Its ids elsewhere.")
    last = property(lambda self: self.path / "last.pt", doc="Everything needed to go on.")
    best = property(lambda self: self.path / "best.pt", doc="Weights of the best validation.")
    tuned = property(lambda self: self.path / "tuned.pt", doc="The same, with chosen clean-up.")
    tuning = property(lambda self: self.path / "tuning.json", doc="How that was chosen.")
    predictions = property(lambda self: self.path / "predictions", doc="Masks, native grid.")
    scores = property(lambda self: self.path / "scores.csv", doc="One row a case and region.")
    summary = property(lambda self: self.path / "summary.json", doc="Means with intervals.")
    figures = property(lambda self: self.path / "figures", doc="Pictures of the run.")
    notebooks = property(lambda self: self.path / "notebooks", doc="Notebooks as executed.")
    report = property(lambda self: self.path / "report.html", doc="One page about the run.")

    def create(self) -> "RunFolder":
        """Make the folder, refusing one that cannot be written to.

        Raises:
            PermissionError: The folder cannot be made or written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            msg = (
                f"run folder must be writable; got {self.path} ({error.strerror}). "
                "Choose another, for example runs/demo in your home folder."
            )
            raise PermissionError(msg) from error
        return self


def pick_device() -> "torch.device":
    """Choose the GPU where a small operation runs on it, otherwise the CPU.

    A GPU can be present and still have no kernels in the installed torch (a P100 in today's
    Kaggle image, for example), so one operation is run before it is trusted.
    """
    import torch

    if torch.cuda.is_available():
        _fix_cublas_workspace()
        try:
            torch.ones(2, device="cuda").sum().item()
        except RuntimeError as error:
            sys.stderr.write(f"GPU found but unusable, using the CPU instead: {error}\n")
        else:
            return torch.device("cuda")
    return torch.device("cpu")


def pick_precision(device: "torch.device", wanted: str = "auto") -> str:
    """Choose the arithmetic of the forward pass from what the device does in hardware.

    Args:
        device: Where the network runs.
        wanted: "fp32", "bf16" and "fp16" are taken as given; "auto" chooses.

    Returns:
        "bf16" from compute capability 8.0 or on a CPU with AVX-512 bf16 or AMX, "fp16" on an older
        GPU (with a gradient scaler), "fp32" otherwise. `torch.cuda.is_bf16_supported()` is not
        asked: it is True on a T4, which only emulates it (pytorch#148322).
    """
    import torch

    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        return (
            "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() and _cpu_has_bf16() else "fp32"
        )
    return "fp32"


def _cpu_has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def seed_everything(seed: int, *, deterministic: bool = False) -> None:
    """Seed Python, NumPy and torch, and on request allow only deterministic operations."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries we call may still read the global state
    torch.manual_seed(seed)
    _fix_cublas_workspace()
    if deterministic:
        torch.use_deterministic_algorithms(True)


def _fix_cublas_workspace() -> None:
    """Let a later run be deterministic: cuBLAS reads this once, at the first call of a process."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class SessionClock:
    """Say when a session that may last `max_minutes` has to stop.

    Args:
        max_minutes: Length of the session; None never ends.

    Raises:
        ValueError: The length is negative or no number.
    """

    def __init__(self, max_minutes: float | None = None) -> None:
        if max_minutes is not None and not max_minutes >= 0:  # NaN too
            msg = f"max_minutes must be 0 or more; got {max_minutes}. None never ends."
            raise ValueError(msg)
        self.max_minutes = max_minutes
        self.started = time.monotonic()

    @property
    def minutes(self) -> float:
        """Minutes since the clock was made."""
        return (time.monotonic() - self.started) / 60

    def is_over(self) -> bool:
        """Tell whether the session's time is up."""
        return self.max_minutes is not None and self.minutes >= self.max_minutes


def progress(items: Iterable[Item], label: str, *, total: int | None = None) -> Iterator[Item]:
    """Yield items while showing how far the work has come.

    A bar where somebody watches (a terminal); flushed lines otherwise, because bars freeze at 0 %
    in papermill's logs and cannot be read in a stored notebook. There the first item, the last
    and those between that come `LINE_EVERY_S` after the line before have one each, so that quick
    work does not flood a page.

    Args:
        items: What is worked on.
        label: Names the work.
        total: Number of items where `items` has no length.
    """
    total = total if total is not None else (len(items) if hasattr(items, "__len__") else None)
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, desc=label, total=total)
        return
    started = shown = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if total and 1 < number < total and now - shown < LINE_EVERY_S:
            continue
        shown, elapsed = now, now - started
        of = f"/{total}" if total else ""
        left = f", about {elapsed / number * (total - number):.0f} s left" if total else ""
        sys.stdout.write(f"{label} {number}{of} ({elapsed:.0f} s{left})\n")
        sys.stdout.flush()


def write_atomically(
    path: Path | str, write: Callable[[Path], object], *, durable: bool = False
) -> None:
    """Call `write` on a temporary neighbour of `path`, then rename it into place.

    A kill at any moment leaves either the old file or the new one, never half of one.
    The temporary name keeps the suffix, so that writers that look at it still work.

    Args:
        path: File to write.
        write: Writes the file it is given.
        durable: Whether to wait until the disk has the new file before the old one goes, so that
            a pulled plug leaves one of them too; some milliseconds.
    """
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        write(temporary)
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable and os.name != "nt":  # which has no folders to flush
            with contextlib.suppress(OSError):  # nor have some network disks; the file is whole
                _flush(path.parent, os.O_RDONLY)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path, flags: int = os.O_RDWR) -> None:
    """Wait until the disk has what was written to a file or folder."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def made_by() -> dict[str, str]:
    """Return the stamp that every checkpoint and scores file carries: version, commit, time."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:  # no git on this machine
        commit = ""
    return {
        "bratskit": bratskit.__version__,
        "commit": commit or "unknown",
        "python": platform.python_version(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
