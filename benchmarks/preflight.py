"""Compare the predicted memory of a training step with its measured peak, one row a recipe.

    python benchmarks/preflight.py [RECIPE ...] [--precision fp32] [--out ROWS.jsonl]

Each recipe is measured in a process of its own, on the CPU and on a GPU where there is one:
`tensors` on a CPU is the peak of torch's allocator (its profiler's memory events), on a GPU
`torch.cuda.max_memory_allocated`; `process` is the peak of resident memory above what the process
held after a warm-up of other sizes, against the prediction with what the allocator keeps.
"""

import argparse
import ctypes
import dataclasses
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bratskit.networks import network_of
from bratskit.runtime import made_by
from bratskit.settings import RECIPES, Recipe, get_recipe
from bratskit.train import Learner
from bratskit.train.losses import make_loss
from bratskit.train.memory import predict_step_bytes
from bratskit.train.preflight import keep_bytes

STATUS = Path("/proc/self/status")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="*", default=list(RECIPES), metavar="RECIPE")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--out", type=Path, help="JSON lines, appended")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(options.recipes[0], options.precision)) + "\n")
        return
    sys.stdout.write(f"{'recipe':<10} {'device':<9} predicted  measured  ratio | process ratio\n")
    for name in options.recipes:
        words = [sys.executable, __file__, name, "--precision", options.precision, "--one"]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        if ran.returncode:
            sys.stdout.write(f"{name:<10} {ran.stderr.strip().splitlines()[-1]}\n")
            continue
        row = json.loads(ran.stdout.splitlines()[-1])
        sys.stdout.write(describe(row) + "\n")
        sys.stdout.flush()
        if options.out:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def describe(row: dict[str, object]) -> str:
    ratio = row["predicted_mb"] / row["measured_mb"]
    line = (
        f"{row['recipe']:<10} {row['device']:<4} {row['precision']} "
        f"{row['predicted_mb']:8.1f} {row['measured_mb']:9.1f} {ratio:6.2f}"
    )
    if "process_mb" in row:
        line += f" | {row['process_predicted_mb']:.1f} {row['process_mb']:.1f} "
        line += f"{row['process_predicted_mb'] / row['process_mb']:.2f}"
    return line


def measure(name: str, precision: str) -> dict[str, object]:
    """Take two steps of one recipe; the second holds what the optimiser keeps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    recipe = change(get_recipe(name), precision=precision, learning_rate=1e-9)  # noise diverges
    small = (4 * recipe.network.multiple_vox,) * 3
    take_steps(change(recipe, patch_vox=small, batch=1, accumulate=1), device)
    row = {"recipe": name, "device": device.type, "made_by": made_by()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        learner = take_steps(recipe, device)
        measured = torch.cuda.max_memory_allocated() - before
    else:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        before = read_status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        learner = take_steps(recipe, device)
        process = read_status("VmHWM") - before
        measured = profile_peak(recipe, device)
    predicted = predict_step_bytes(recipe, precision=learner.precision, device=device)
    row |= {"precision": learner.precision, "predicted_mb": predicted / 1e6}
    row["measured_mb"] = measured / 1e6
    if device.type == "cpu":
        row |= {
            "process_mb": process / 1e6,
            "process_predicted_mb": (predicted + keep_bytes(predicted)) / 1e6,
            "process_before_mb": before / 1e6,
        }
    return row


def change(recipe: Recipe, **training: object) -> Recipe:
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **training))


def take_steps(recipe: Recipe, device: torch.device) -> Learner:
    training = recipe.training
    network = network_of(recipe).train()
    learner = Learner(network, training, device=device, loss=make_loss(recipe))
    for _ in range(2):
        learner.step(batch(recipe, device) for _ in range(training.accumulate))
    return learner


def batch(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    size = (recipe.training.batch, *recipe.training.patch_vox)
    image = torch.randn(size[0], len(recipe.modalities), *size[1:], device=device)
    return image, torch.randint(0, 4, size, device=device)


def profile_peak(recipe: Recipe, device: torch.device) -> int:
    """Return the peak of two steps of a recipe."""
    return peak_of(lambda: take_steps(recipe, device))


def peak_of(job: Callable[[], object]) -> int:
    """Sum torch's allocations and frees in their order, and return the highest sum."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        made = job()
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    del made
    return peak


def read_status(name: str) -> int:
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
