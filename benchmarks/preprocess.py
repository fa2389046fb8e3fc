"""Time four `.nii.gz` of one case -> prepared array, ours beside MONAI, TorchIO and nnU-Net.

    python benchmarks/preprocess.py CASES [--case ID] [--rounds 7] [--write]

Every pipeline does the same steps: read, turn to RAS+, crop to the brain, z-score each modality
over its brain, resize where 128^3 is asked for, labels beside the image. It ends with the arrays in
memory; `--write` also times them written to disk in nnU-Net's form and ours. Pipelines take turns
in one process, and minima of the rounds are printed: CPU time, which neighbours on the machine
disturb least, and wall time; first on one thread each, then as they come, on all cores. Peak memory
is of a fresh process each, above what the imports take. Read a ratio as +-20 %; absolute times do
not carry over to another machine.

What a peer does otherwise, and is therefore not ours to the last digit:

* MONAI: labels by nearest neighbour; the resized image is not masked again.
* TorchIO: the background is not 0 but the z-score of 0, which a resize mixes into the brain's rim;
  an unbiased deviation (N - 1); labels by nearest neighbour. "+ Resample(1)" is the pipeline of its
  tutorials: nothing to do on data that is 1 mm already, but it takes its time.
* nnU-Net: one brain mask for all modalities, so that a voxel which one of them lacks is normalised
  there too. Read, crop and normalise are its own functions, without the foreground sampling of its
  `run_case` (which `--write` includes).
* nibabel + scipy: the dozen lines that most notebooks have; labels by nearest neighbour.
"""

import argparse
import ctypes
import gc
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from pipelines import PIPELINES, SIZE_VOX, TO_DISK, make_recipe

GRIDS = {"1 mm, crop only": None, "128^3": SIZE_VOX}


def installed(grid: str, table: dict) -> list[str]:
    """Name the pipelines that this machine can run; nnU-Net has no step to a fixed size."""
    can = [name for name, (_, module) in table.items() if importlib.util.find_spec(module)]
    return [name for name in can if GRIDS[grid] is None or not name.startswith("nnU-Net")]


def find_case(folder: str, wanted: str | None) -> object:
    """Take the named case of a folder, or its first."""
    from bratskit.cases import find_cases

    return next(case for case in find_cases(folder) if wanted in (None, case.id))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of cases, as `find_cases` takes it")
    parser.add_argument("--case", help="id of the case; the first one without it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="also time what is written to disk")
    inner = {"help": argparse.SUPPRESS}  # what this file asks of its own processes
    parser.add_argument("--measure", choices=MEASURES, **inner)
    parser.add_argument("--grid", choices=GRIDS, default="128^3", **inner)
    parser.add_argument("--threads", type=int, default=1, **inner)
    parser.add_argument("--only", **inner)
    return parser.parse_args()


def ask(given: argparse.Namespace, measure: str, **settings: object) -> object:
    """Measure in a process of its own, whose thread pools are set before anything is imported."""
    options = {"measure": measure, "case": given.case, "rounds": given.rounds, "threads": 1}
    command = [sys.executable, __file__, given.folder]
    for name, value in (options | settings).items():
        command += [f"--{name}"] + ([] if value is True else [str(value)])
    threads = str(settings.get("threads", 1))
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    ran = subprocess.run(
        command, env=os.environ | pools, capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def describe_machine() -> str:
    packages = ["torch", "numpy", "scipy", "nibabel", "isal", "monai", "torchio", "nnunetv2"]
    found = [f"{name} {version(name)}" for name in packages if importlib.util.find_spec(name)]
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((x.split(": ")[1] for x in lines if x.startswith("model name")), cpu)
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{cpu}, {os.cpu_count()} cores{load}; Python {platform.python_version()}, " + ", ".join(
        found
    )


def compare(given: argparse.Namespace, grid: str) -> None:
    """Print one table: times on one thread and on all, memory and differences beside them."""
    one, all_cores = (
        ask(given, "times", grid=grid, threads=threads) for threads in (1, os.cpu_count())
    )
    apart = ask(given, "differences", grid=grid)
    say(
        f"\n{given.case} to {grid}",
        "one thread: CPU ms, wall ms | all cores: wall ms | MiB | "
        "largest difference, 99.9 %, labels that differ",
    )
    for name, (cpu_ms, wall_ms) in one.items():
        memory = ask(given, "memory", grid=grid, only=name)
        ratios = f"{cpu_ms / one['ours'][0]:5.1f}x {wall_ms / one['ours'][1]:5.1f}x"
        every = f"{all_cores[name][1]:6.0f} {all_cores[name][1] / all_cores['ours'][1]:5.1f}x"
        most, nearly_all, labels = apart[name]
        say(
            f"{name:<24}{cpu_ms:6.0f} {wall_ms:6.0f} {ratios} |{every} |{memory or 0:6.0f} | "
            f"{most:.1e} {nearly_all:.1e} {labels:6d}"
        )


def compare_written(given: argparse.Namespace) -> None:
    times = ask(given, "times", grid="1 mm, crop only", write=True)
    say(f"\n{given.case} to 1 mm, crop only, and onto disk", "one thread: CPU ms, wall ms")
    for name, (cpu_ms, wall_ms) in times.items():
        say(f"{name:<24}{cpu_ms:6.0f} {wall_ms:6.0f}")


def say(*lines: str) -> None:
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def set_threads(threads: int) -> None:
    """Hold torch and ITK to the same number (OpenMP's comes by the environment)."""
    import torch

    torch.set_num_threads(threads)
    if importlib.util.find_spec("SimpleITK"):
        import SimpleITK

        SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def measure_times(given: argparse.Namespace) -> dict[str, tuple[float, float]]:
    """Least CPU and wall time of each pipeline in ms, the pipelines taking turns."""
    case, table = find_case(given.folder, given.case), TO_DISK if given.write else PIPELINES
    jobs = {
        name: partial(table[name][0], case, GRIDS[given.grid], given.threads)
        for name in installed(given.grid, table)
    }
    least = {name: (float("inf"), float("inf")) for name in jobs}
    for _ in range(given.rounds):
        for name, job in jobs.items():
            spent = _spent_ms(job)
            least[name] = tuple(map(min, least[name], spent))
    return least


def _spent_ms(job: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    job()
    return 1e3 * (time.process_time() - cpu), 1e3 * (time.perf_counter() - wall)


def measure_memory(given: argparse.Namespace) -> float | None:
    """Peak memory of one pipeline in MiB above what this process holds before it (Linux)."""
    if sys.platform != "linux":
        return None
    case, (job, _) = find_case(given.folder, given.case), PIPELINES[given.only]
    job(case, GRIDS[given.grid], given.threads)  # lazy imports and caches belong to the start
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or the second run would be given what the first one freed
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kib("VmRSS")
    kept = job(case, GRIDS[given.grid], given.threads)
    peak = _status_kib("VmHWM")
    del kept
    return (peak - before) / 1024


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def measure_differences(given: argparse.Namespace) -> dict[str, tuple[float, float, int]]:
    """Largest and 99.9th percentile of |peer - ours| inside our brain, and labels that differ."""
    from bratskit.preprocess import load_prepared

    case, size = find_case(given.folder, given.case), GRIDS[given.grid]
    prepared, found = load_prepared(case, make_recipe(size)), {}
    for name in installed(given.grid, PIPELINES):
        image, labels = PIPELINES[name][0](case, size, given.threads)
        if image.shape != prepared.image.shape:
            found[name] = (float("nan"), float("nan"), -1)
            continue
        apart = np.abs(image - prepared.image)[:, prepared.mask]
        differ = int(np.count_nonzero(labels != prepared.labels))
        found[name] = float(apart.max()), float(np.percentile(apart, 99.9)), differ
    return found


MEASURES = {
    "times": measure_times,
    "memory": measure_memory,
    "differences": measure_differences,
}


def main() -> None:
    given = parse()
    if given.measure:
        set_threads(given.threads)
        say(json.dumps(MEASURES[given.measure](given)))
        return
    given.case = find_case(given.folder, given.case).id
    say(describe_machine())
    for grid in GRIDS:
        compare(given, grid)
    if given.write:
        compare_written(given)


if __name__ == "__main__":
    main()
