"""Time what a training step waits for, side by side with the peers in one run.

    python benchmarks/train.py patches [CASES] [--case ID] [--rounds 15] [--out FOLDER]
    python benchmarks/train.py step [--rounds 5] [--compile] [--out FOLDER]
    python benchmarks/train.py memory [--out FOLDER]
    python benchmarks/train.py gpu [CASES] [--case ID] [--rounds 50] [--out FOLDER]

`patches` samples a patch of 4x128x128x64 with labels from the prepared store and varies it by every
operation at once; see `augmenters.py`. The ways take turns in one process, on one thread each, and
minima of the rounds are compared: CPU time, which neighbours on the machine disturb least, and wall
time. Read a ratio as +-20 %; absolute times do not carry over to another machine. Without CASES a
phantom is sampled.

In favour of the peers: MONAI and TorchIO hold the case in memory, batchgeneratorsv2 samples through
our store, and none of them looks for the background, which ours keeps at exactly 0.

`step` takes a whole training step of our U-Net and of MONAI's DynUNet, which has the same
convolutions, on two patches of 64^3; GFLOP/s are those of convolutions, beside what one wide
convolution reaches in the same run. `memory` is the peak of torch's allocator in such steps.
`gpu` counts patches a second and the share of time a GPU waits for them: ours as `train` feeds
them, MONAI's dictionary transforms in two loader workers. The share is what a step on a batch that
is there already would save, our variation on the device being part of the step.
"""

import argparse
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[pool] = "1"  # before anything that reads it is imported

RESULTS = Path(__file__).parent / "results" / "train"
AIMS = {"MONAI": 9.0, "batchgeneratorsv2": 3.0}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    patches = parts.add_parser("patches", help="sample a patch and vary it")
    patches.add_argument("folder", nargs="?", help="folder of cases; a phantom without it")
    patches.add_argument("--case", help="id of the case; the first one without it")
    patches.add_argument("--rounds", type=int, default=15)
    gpu = parts.add_parser("gpu", help="patches a second on a GPU, and how long it waits")
    gpu.add_argument("folder", nargs="?", help="folder of cases; a phantom without it")
    gpu.add_argument("--case", help="id of the case; the first one without it")
    gpu.add_argument("--rounds", type=int, default=50, help="steps")
    step = parts.add_parser("step", help="learn from a batch")
    step.add_argument("--rounds", type=int, default=5)
    step.add_argument("--compile", action="store_true", help="torch.compile too; takes minutes")
    memory = parts.add_parser("memory", help="memory of a step")
    for part in (patches, step, memory, gpu):
        part.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def spent_ms(job: Callable[[], object]) -> tuple[object, float, float]:
    """Return what a job gives, its CPU time and its wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    made = job()
    return made, 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)


def time_patches(prepared: object, rounds: int) -> dict[str, dict[str, float]]:
    """Least times in ms of each way: sampling, varying, and both in one round."""
    from augmenters import WAYS, installed

    ways = {name: WAYS[name][0](prepared) for name in installed()}
    least: dict[str, dict[str, float]] = {name: {} for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            patch, sample_cpu, sample_wall = spent_ms(way.sample)
            _, vary_cpu, vary_wall = spent_ms(lambda: way.vary(patch))  # noqa: B023
            found = {
                "sample_cpu_ms": sample_cpu,
                "vary_cpu_ms": vary_cpu,
                "cpu_ms": sample_cpu + vary_cpu,
                "wall_ms": sample_wall + vary_wall,
            }
            least[name] = {
                key: min(value, least[name].get(key, value)) for key, value in found.items()
            }
    return least


def tabulate(times: dict[str, dict[str, float]]) -> str:
    """Draw the table as the README has it: ratios are to ours."""
    lines = [
        "| one thread, ms | sample, CPU | vary, CPU | both, CPU | both, wall | CPU, wall to ours |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in times.items():
        cells = [f"{row[key]:.0f}" for key in ("sample_cpu_ms", "vary_cpu_ms", "cpu_ms", "wall_ms")]
        ratios = [f"{row[key] / times['ours'][key]:.1f}x" for key in ("cpu_ms", "wall_ms")]
        lines.append(f"| {name} | {' | '.join(cells)} | {', '.join(ratios)} |")
    return "\n".join(lines)


def describe_machine() -> dict[str, object]:
    names = ["torch", "numpy", "monai", "torchio", "batchgeneratorsv2"]
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    ran = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names if importlib.util.find_spec(name)},
        "commit": ran.stdout.strip() or None,
        "when": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def patches(given: argparse.Namespace) -> None:
    """Print the table of sampling and varying, and keep it as JSON."""
    import torch
    from augmenters import PATCH_VOX, store_case

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' own, of their own dependencies
    machine = describe_machine()
    with tempfile.TemporaryDirectory() as store:
        prepared = store_case(given.folder, given.case, Path(store))
        times = time_patches(prepared, given.rounds)
    row = {
        "part": "patches",
        "command": "python benchmarks/train.py patches CASES",
        "case": prepared.id,
        "patch_vox": PATCH_VOX,
        "channels": len(prepared.modalities),
        "rounds": given.rounds,
        "threads": 1,
        "machine": machine,
        "least": {
            name: {key: round(ms, 2) for key, ms in row.items()} for name, row in times.items()
        },
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "patches.json").write_text(json.dumps(row, indent=1) + "\n")
    say(f"{prepared.id}, {machine['cpu']}, load {machine['load']}", "", tabulate(times), "")
    for name, aim in AIMS.items():
        if name in times:
            ratio = times[name]["cpu_ms"] / times["ours"]["cpu_ms"]
            say(f"{name}: {ratio:.1f}x, aim {aim:g}x: {'met' if ratio >= aim else 'missed'}")


def step(given: argparse.Namespace) -> None:
    """Print the table of training steps, rounds interleaved, and keep it as JSON."""
    import steppers
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    device, ways, counts = torch.device("cpu"), {}, {}
    for norm in ("instance", "batch"):
        for precision in ("fp32", "bf16"):
            recipe = steppers.make_recipe(norm, precision, patch_vox=(64, 64, 64))
            batch = steppers.random_batch(recipe)
            for name, make in steppers.WAYS.items():
                one, network = make(recipe, device)
                counts[name] = counts.get(name) or steppers.count(network, batch[0])
                ways[f"{name} {norm} {precision}"] = lambda one=one, batch=batch: one(batch)
                if given.compile and precision == "bf16":
                    one, network = make(recipe, device)
                    network.compile()
                    ways[f"{name} {norm} bf16 compiled"] = lambda one=one, batch=batch: one(batch)
    same = ("weights_but_upsampling_bias", "forward_multiply_adds")
    if any(counts["ours"][key] != counts["MONAI"][key] for key in same):
        say(f"the networks must be of one size; got {counts}")
        sys.exit(1)
    peaks = {name: steppers.convolution_gflops(name, device) for name in ("fp32", "bf16")}
    least: dict[str, float] = {}
    for turn in range(given.rounds + 1):  # the first warms up
        for name, job in ways.items():
            spent = spent_ms(job)[1]
            least[name] = min(spent, least.get(name, spent)) if turn > 1 else spent
    gflop = counts["ours"]["step_flop"] / 1e9
    say(
        "| one thread | CPU time | GFLOP/s | of the peak | to ours bf16 |",
        "|---|---:|---:|---:|---:|",
    )
    for name, ms in least.items():
        _, norm, precision = name.split()[:3]
        rate, ratio = 1e3 * gflop / ms, ms / least[f"ours {norm} bf16"]
        share = rate / peaks[precision]
        say(f"| {name} | {ms:.0f} ms | {rate:.0f} | {share:.0%} | {ratio:.2f}x |")
    say(f"peak of a wide convolution: {peaks['fp32']:.0f} fp32, {peaks['bf16']:.0f} bf16 GFLOP/s")
    keep(given, {"rounds": given.rounds, "threads": 1, "counts": counts,
                 "peak_gflops": peaks, "least_cpu_ms": least})  # fmt: skip


def memory(given: argparse.Namespace) -> None:
    """Print the peak of torch's allocator in a step, features kept or computed again."""
    import steppers
    import torch
    from preflight import peak_of

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = {}
    for label, name, options in (
        ("ours", "ours", {}),
        ("ours, checkpointing", "ours", {"checkpointing": True}),
        ("MONAI", "MONAI", {}),
    ):
        if name == "MONAI" and not importlib.util.find_spec("monai"):
            continue
        for precision in ("fp32", "bf16"):
            peaks = [_step_peak(steppers, name, precision, batch, options, peak_of)
                     for batch in (1, 2)]  # fmt: skip
            rows[f"{label} {precision}"] = {"two": peaks[1], "patch": peaks[1] - peaks[0]}
    say("| 64^3, InstanceNorm | step of two patches | each patch |", "|---|---:|---:|")
    for name, row in rows.items():
        say(f"| {name} | {row['two'] / 1e6:.0f} MB | {row['patch'] / 1e6:.0f} MB |")
    keep(given, {"peak_bytes": rows})


def _step_peak(
    steppers: object, name: str, precision: str, batch: int, options: dict, peak_of: Callable
) -> int:
    import torch

    recipe = steppers.make_recipe(
        "instance", precision, patch_vox=(64, 64, 64), batch=batch, **options
    )

    def two_steps() -> None:
        one, _ = steppers.WAYS[name](recipe, torch.device("cpu"))
        for _ in range(2):
            one(steppers.random_batch(recipe))

    return peak_of(two_steps)


def gpu(given: argparse.Namespace) -> None:
    """Print patches a second on a GPU, and the share of time it waits for them."""
    import steppers
    import torch
    from augmenters import PATCH_VOX, store_case

    if not torch.cuda.is_available():
        say("this part needs a GPU; got none. `step` and `memory` run on a CPU.")
        sys.exit(2)
    device, rows = torch.device("cuda"), {}
    recipe = steppers.make_recipe("instance", "auto", patch_vox=PATCH_VOX)
    with tempfile.TemporaryDirectory() as store:
        prepared = store_case(given.folder, given.case, Path(store))
        for name, make in steppers.WAYS.items():
            one, _ = make(recipe, device)
            rows[name] = _rates(steppers, name, prepared, recipe, given.rounds, one)
    say("| 128x128x64, two at once | patches/s | were they there | waits |", "|---|---:|---:|---:|")
    for name, (fed, there) in rows.items():
        say(f"| {name} | {fed:.1f} | {there:.1f} | {max(0.0, 1 - fed / there):.0%} |")
    keep(given, {"gpu": torch.cuda.get_device_name(), "patches_per_s": rows})


def _rates(
    steppers: object, name: str, prepared: object, recipe: object, steps: int, one: Callable
) -> tuple[float, float]:
    """Return patches a second as they are fed, and with one batch that is there already."""
    import itertools

    import numpy as np
    import torch

    from bratskit.train import apply_augmentation, draw_augmentation

    device, n_patches = torch.device("cuda"), recipe.training.batch
    fed = steppers.FEEDS[name](prepared, recipe, steps + 5, device)
    fed_rate = steppers.images_per_s(fed, one, steps=steps, batch=n_patches)
    held = tuple(item.to(device) for item in steppers.random_batch(recipe))
    there = itertools.repeat(held)
    if name == "ours":
        rng = np.random.default_rng(0)
        there = (
            apply_augmentation(held[0].clone(), held[1].clone(),
                               draw_augmentation(rng, n_patches, recipe.augmentation, channels=4))
            for _ in itertools.count()
        )  # fmt: skip
    return fed_rate, steppers.images_per_s(there, one, steps=steps, batch=n_patches)


def keep(given: argparse.Namespace, found: dict[str, object]) -> None:
    """Write what a part found beside machine and command."""
    given.out.mkdir(parents=True, exist_ok=True)
    command = f"python benchmarks/train.py {given.part}"
    row = {"part": given.part, "command": command, "machine": describe_machine()} | found
    (given.out / f"{given.part}.json").write_text(json.dumps(row, indent=1) + "\n")


PARTS = {"patches": patches, "step": step, "memory": memory, "gpu": gpu}


if __name__ == "__main__":
    given = parse()
    PARTS[given.part](given)
