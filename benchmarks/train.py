"""Time what a training step waits for, side by side with the peers in one run.

    python benchmarks/train.py patches [CASES] [--case ID] [--rounds 15] [--out FOLDER]

`patches` samples a patch of 4x128x128x64 with labels from the prepared store and varies it by every
operation at once; see `augmenters.py`. The ways take turns in one process, on one thread each, and
minima of the rounds are compared: CPU time, which neighbours on the machine disturb least, and wall
time. Read a ratio as +-20 %; absolute times do not carry over to another machine. Without CASES a
phantom is sampled.

In favour of the peers: MONAI and TorchIO hold the case in memory, batchgeneratorsv2 samples through
our store, and none of them looks for the background, which ours keeps at exactly 0.
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
    patches.add_argument("--out", type=Path, default=RESULTS)
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


PARTS = {"patches": patches}


if __name__ == "__main__":
    given = parse()
    PARTS[given.part](given)
