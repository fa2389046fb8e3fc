"""Say what a training will take before anything is spent: memory, disk, hours."""

import dataclasses
import math
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from bratskit.networks import network_of
from bratskit.preprocess import list_prepared
from bratskit.preprocess.budget import BRAIN_BOX_ML, FORMS, count_bytes
from bratskit.preprocess.store import read_receipt
from bratskit.runtime import pick_device, pick_precision
from bratskit.settings import Recipe
from bratskit.train.losses import make_loss
from bratskit.train.memory import count_parameters, kept_states, predict_step_bytes
from bratskit.train.phantom_stream import PhantomStream
from bratskit.train.step import Learner

__all__ = ["Preflight", "keep_bytes", "preflight"]

Triple = tuple[int, int, int]

GRID_ML = 240 * 240 * 155 / 1000  # of a BraTS scan, 1 mm voxels
# glibc keeps freed blocks below 32 MB for later: 0.09 to 0.21 GB beside steps of 0.2 to 1.2 GB
HEAP_SHARE, HEAP_BYTES = 0.5, 0.17e9
USABLE = 0.9  # of what is free: libraries and other programs take their part
TIMED_VOX = 64**3  # a step on a patch of this size is timed, or on the recipe's own if smaller
FIGURES_BYTES = 20e6  # curves, slices and masks of a run
MOST = 64  # patches at once that are proposed
WIDEST = 256  # longest patch that is proposed, voxels: a whole BraTS scan


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """What a training is predicted to take on this machine.

    Attributes:
        recipe: Its name.
        device: Where it will compute.
        precision: In which arithmetic.
        memory_gb: Peak of a training step in tensors: on a GPU what
            `torch.cuda.max_memory_allocated` will say. 1 GB is 1e9 bytes, here and below.
        memory_free_gb: What the device has free now.
        ram_gb: Memory of the process.
        ram_free_gb: What this machine has free now, and the memory of this process.
        store_gb: Prepared cases on disk in each form; what it weighs, where it was prepared.
        run_gb: Run folder: checkpoints, with the one being written, and figures.
        disk_free_gb: Where the run will be; where the store is, if no run folder was named.
        step_s: One optimiser step.
        hours: All epochs, validations included, but not the phantoms made on the way.
        phantom_hours: Making those, beside it: a GPU waits for the longer of both, a CPU for nearly
            the sum. 0 where none are made on the way.
        largest_patch_vox: Largest cube that fits, batch as in the recipe; None where none does.
        largest_batch: Most patches that fit at once; 0 where none does.
    """

    recipe: str
    device: str
    precision: str
    memory_gb: float
    memory_free_gb: float
    ram_gb: float
    ram_free_gb: float
    store_gb: dict[str, float]
    run_gb: float
    disk_free_gb: float
    step_s: float
    hours: float
    phantom_hours: float
    largest_patch_vox: Triple | None
    largest_batch: int

    @property
    def disk_gb(self) -> float:
        """The store in its smallest form, and the run folder."""
        return min(self.store_gb.values(), default=0.0) + self.run_gb

    @property
    def fits(self) -> bool:
        """Whether memory and disk hold what is asked for."""
        return (
            self.memory_gb <= USABLE * self.memory_free_gb
            and self.ram_gb <= USABLE * self.ram_free_gb
            and self.run_gb <= self.disk_free_gb
        )

    def __str__(self) -> str:
        store = ", ".join(f"{size:.1f} {form}" for form, size in self.store_gb.items())
        patch = "x".join(map(str, self.largest_patch_vox or ())) or "none"
        rows = (
            (f"memory of a step, {self.device} {self.precision}", self.memory_gb, "GB",
             f"{self.memory_free_gb:.1f} GB free"),
            ("memory of the process", self.ram_gb, "GB", f"{self.ram_free_gb:.1f} GB free"),
            ("disk, run folder", self.run_gb, "GB", f"{self.disk_free_gb:.1f} GB free"),
            ("time, all epochs", self.hours, "h", f"{self.step_s:.2f} s a step"),
        )  # fmt: skip
        if self.phantom_hours:
            rows += (
                ("time, phantoms made beside it", self.phantom_hours, "h", "not in the above"),
            )
        lines = [f"recipe {self.recipe}: {'fits' if self.fits else 'DOES NOT FIT'}"]
        lines += [f"  {name:<34} {value:8.2f} {unit:<3} {note}" for name, value, unit, note in rows]
        lines += [f"  {'disk, prepared cases':<34} {store or 'none':>8} GB"]
        lines += [
            f"  {'largest patch that fits':<34} {patch}, {self.largest_batch} of the recipe's"
        ]
        return "\n".join(lines)


def preflight(
    recipe: Recipe,
    *,
    prepared_dir: Path | str | None = None,
    run_dir: Path | str | None = None,
    n_cases: int | None = None,
    device: torch.device | None = None,
    measure_time: bool = True,
) -> Preflight:
    """Predict memory, disk and hours of a training, and the largest patch and batch that fit.

    Memory is counted, not guessed: see `predict_step_bytes`. On a CPU the process takes what it
    has now beside it, and what the allocator keeps. Time comes of three steps on a patch of at most
    64^3 voxels, scaled by voxels, as patches are learned from, and of one phantom, where they are
    made on the way.

    Args:
        recipe: Every setting.
        prepared_dir: Store that `prepare_cohort` filled, measured; None estimates one.
        run_dir: Where the run will be, on whose disk the room is looked up; it is not made.
        n_cases: Patients, where nothing is prepared yet; None counts those of the store.
        device: Where to compute; None chooses.
        measure_time: Whether to take the timed steps; without them hours are NaN.

    Raises:
        FileNotFoundError: `prepared_dir` holds no prepared case.

    Examples:
        >>> from bratskit.settings import get_recipe
        >>> seen = preflight(get_recipe("smoke"), n_cases=10, measure_time=False)
        >>> seen.memory_gb < 0.1
        True
    """
    device = device or pick_device()
    precision = pick_precision(device, recipe.training.precision)
    held = _process_bytes()
    ids = list_prepared(Path(prepared_dir)) if prepared_dir else []
    if prepared_dir and not ids:
        msg = (
            f"prepared_dir must hold prepared cases; got {prepared_dir}. Make them with "
            f"`bratskit prepare DATA {prepared_dir}`, or give n_cases instead."
        )
        raise FileNotFoundError(msg)
    step = predict_step_bytes(recipe, precision=precision, device=device)
    on_cpu = device.type == "cpu"
    ram_free = _free_ram_bytes()
    free = ram_free - keep_bytes(step) if on_cpu else torch.cuda.mem_get_info(device)[0]
    seconds, forward = _time_step(recipe, device) if measure_time else (math.nan, math.nan)
    n_known = len(ids) if ids else n_cases or 0
    patch, batch = _largest(recipe, precision, USABLE * free, device)
    training = recipe.training
    total_s = training.epochs * training.steps_per_epoch * seconds
    return Preflight(
        recipe=recipe.name,
        device=str(device),
        precision=precision,
        memory_gb=step / 1e9,
        memory_free_gb=free / 1e9,
        ram_gb=(held + (step + keep_bytes(step) if on_cpu else _batches_bytes(recipe))) / 1e9,
        ram_free_gb=(ram_free + held) / 1e9,
        store_gb=_store_gb(Path(prepared_dir), ids) if ids else _estimate_gb(recipe, n_known),
        run_gb=_run_bytes(recipe) / 1e9,
        disk_free_gb=shutil.disk_usage(_existing(run_dir or prepared_dir)).free / 1e9,
        step_s=seconds,
        hours=(total_s + _validation_s(recipe, forward, n_known)) / 3600,
        phantom_hours=_phantoms_s(recipe, device, measure=measure_time) / 3600,
        largest_patch_vox=patch,
        largest_batch=batch,
    )


def keep_bytes(step_bytes: float) -> float:
    """Estimate what a CPU's allocator keeps beside the tensors of a step."""
    return min(HEAP_SHARE * step_bytes, HEAP_BYTES)


def _largest(
    recipe: Recipe, precision: str, room: float, device: torch.device
) -> tuple[Triple | None, int]:
    """Find the largest cube by bisection, and the largest batch: each patch adds as much."""
    multiple = recipe.network.multiple_vox
    count = partial(predict_step_bytes, recipe, precision=precision, device=device)

    def patch_fits(at: int) -> bool:
        patch = ((at + 1) * multiple,) * 3  # of one voxel in the bottleneck no norm is made
        return count(patch_vox=patch) <= room

    found = _last_that_fits(patch_fits, WIDEST // multiple - 1)
    side = multiple * (found + 1)
    one, two, three = (count(batch=at) for at in (1, 2, 3))
    batch = 2 + math.floor((room - two) / (three - two)) if two <= room else int(one <= room)
    return (side, side, side) if found else None, min(batch, MOST)


def _last_that_fits(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number from 1 to `most` that fits, or 0.

    Examples:
        >>> _last_that_fits(lambda at: at <= 5, 64)
        5
    """
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _time_step(recipe: Recipe, device: torch.device) -> tuple[float, float]:
    """Take three steps on random patches; seconds of a whole optimiser step, and to label 1 voxel.

    The first step is not counted: libraries choose and compile their kernels in it.
    """
    training, multiple = recipe.training, recipe.network.multiple_vox
    shrink = min(1.0, (TIMED_VOX / math.prod(training.patch_vox)) ** (1 / 3))
    patch = tuple(
        min(length // multiple, max(4, round(length * shrink / multiple))) * multiple
        for length in training.patch_vox
    )
    small = dataclasses.replace(training, patch_vox=patch, batch=1, accumulate=1)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        network = network_of(recipe, size_vox=patch).train()
        learner = Learner(network, small, device=device, loss=make_loss(recipe))
        image = torch.randn(1, len(recipe.modalities), *patch)
        labels = torch.randint(0, 4, (1, *patch))
        learn = min(_seconds(lambda: learner.step([(image, labels)]), device) for _ in range(3))
        network.eval()
        image = image.to(device)
        with torch.no_grad():
            forward = min(_seconds(lambda: network(image), device) for _ in range(2))
    voxels = math.prod(patch)
    whole = math.prod(training.patch_vox) * training.batch * training.accumulate
    return learn * whole / voxels, forward / voxels


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _validation_s(recipe: Recipe, voxel_s: float, n_cases: int) -> float:
    """Estimate the time of all validations: a sixth of the patients, windows that overlap."""
    training, inference = recipe.training, recipe.inference
    times = math.ceil(training.epochs / training.validate_every)
    again = (1 - inference.overlap) ** -3 if inference.mode == "window" else 1.0
    return times * round(n_cases / 6) * _prepared_vox(recipe) * again * voxel_s


def _phantoms_s(recipe: Recipe, device: torch.device, *, measure: bool) -> float:
    """Make one phantom of the stream, and estimate how long all of them take, one after another."""
    training = recipe.training
    if not training.phantom_share:
        return 0.0
    if not measure:
        return math.nan
    one = dataclasses.replace(training, phantom_pool=1)
    stream = PhantomStream(dataclasses.replace(recipe, training=one), device=device)
    seconds = _seconds(lambda: stream.cut(0), device)
    stream.close()
    patches = training.epochs * training.steps_per_epoch * training.batch * training.accumulate
    reused = patches * training.phantom_share / training.phantom_reuse
    return seconds * (training.phantom_pool + reused)


def _prepared_vox(recipe: Recipe) -> float:
    """Count the voxels of a prepared BraTS case, the largest of thirty."""
    geometry = recipe.geometry
    fixed = geometry.crop_vox or geometry.size_vox
    if fixed:
        return float(math.prod(fixed))
    region_ml = BRAIN_BOX_ML if geometry.region == "brain" else GRID_ML
    return 1000 * region_ml / math.prod(geometry.spacing_mm or (1.0, 1.0, 1.0))


def _estimate_gb(recipe: Recipe, n_cases: int) -> dict[str, float]:
    dense = (recipe.geometry.crop_vox or recipe.geometry.size_vox) is not None
    voxels, channels = _prepared_vox(recipe), len(recipe.modalities)
    return {
        form: n_cases * count_bytes(form, voxels, n_modalities=channels, is_dense=dense) / 1e9
        for form in FORMS
    }


def _store_gb(folder: Path, ids: list[str]) -> dict[str, float]:
    """Weigh a store that is there."""
    size = sum(path.stat().st_size for name in ids for path in (folder / name).iterdir())
    return {read_receipt(folder / ids[0]).get("form", "fast"): size / 1e9}


def _run_bytes(recipe: Recipe) -> float:
    """Count `last.pt` twice, one being written while the old one is there, `best.pt`, figures."""
    weights = 4 * count_parameters(recipe)
    return weights * (2 * (1 + kept_states(recipe)) + 1) + FIGURES_BYTES


def _batches_bytes(recipe: Recipe) -> float:
    """Count what waits on the host for a GPU: the batch at hand and the one cut ahead."""
    training = recipe.training
    voxels = training.batch * math.prod(training.patch_vox)
    return 2.0 * voxels * (4 * len(recipe.modalities) + 8)


def _process_bytes() -> int:
    """Read how much memory this process holds; 0 where the system does not say."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return 0
    return int(statm.read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _free_ram_bytes() -> float:
    """Read what the machine, or the container's limit, leaves free; infinity where unknown."""
    room = math.inf
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = meminfo.read_text(encoding="utf-8").splitlines()
        known = dict(line.split(":", 1) for line in lines)
        room = int(known["MemAvailable"].split()[0]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / f"memory.{name}" for name in ("max", "current"))
    if limit.exists() and (most := limit.read_text(encoding="utf-8").strip()).isdigit():
        room = min(room, int(most) - int(used.read_text(encoding="utf-8")))
    return room


def _existing(path: Path | str | None) -> Path:
    """Find the nearest folder that is there: a store or run may not be made yet."""
    place = Path(path or ".").absolute()
    return next(folder for folder in (place, *place.parents) if folder.exists())
