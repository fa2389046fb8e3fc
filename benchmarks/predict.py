"""Time one prepared case -> probabilities, ours beside MONAI, with the same weights; then Dice.

    python benchmarks/predict.py times CASES [--model PATH] [--case ID] [--rounds 2]
    python benchmarks/predict.py dice CASES [--model PATH] [--patients ID ...]
    python benchmarks/predict.py gpu CASES [--model PATH]

`times`: all forms take turns in one process on one thread, minima of the rounds; CPU time beside
wall time, because a busy machine stretches only the second. Peak memory is of a process of its own
each, above the image. MONAI's forms are its `sliding_window_inference` with our window, overlap
and Gaussian weights, `sw_batch_size` 1: over the whole grid as it comes off the disk (at the
recipe's spacing), over the brain box, and over the brain box in bfloat16 and channels-last. It
averages logits where ours averages probabilities.

`dice`: every form labels each held-out patient on the native grid, cleaned as the recipe says, and
is scored against the expert. Going on where it was stopped: rows are kept in the JSON.

`gpu`: seconds from four files to a written mask, with and without mirroring.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from bratskit.cases import Case, find_cases, load_scan
from bratskit.evaluate import dice
from bratskit.labels import REGIONS
from bratskit.networks import Checkpoint, load_checkpoint, saved_model
from bratskit.predict import evaluating, predict_folder, single_pass, sliding_window, tidy
from bratskit.preprocess import Prepared, brain_mask, load_prepared
from bratskit.runtime import made_by, pick_device, pick_precision, write_atomically
from bratskit.settings import Recipe

RESULTS = Path(__file__).parent / "results" / "predict"
Form = Callable[[nn.Module, torch.Tensor, Recipe], torch.Tensor]


def by_monai(network: nn.Module, image: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    from monai.inferers import sliding_window_inference

    settings = recipe.inference
    logits = sliding_window_inference(
        image[None], settings.window_vox, 1, network, overlap=settings.overlap, mode="gaussian"
    )[0].float()
    return logits.sigmoid() if recipe.targets == "regions" else logits.softmax(dim=0)


def by_windows(network: nn.Module, image: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    settings = recipe.inference
    return sliding_window(
        network,
        image,
        window_vox=settings.window_vox,
        overlap=settings.overlap,
        targets=recipe.targets,
    )


def by_pass(network: nn.Module, image: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return single_pass(network, image, targets=recipe.targets)


# name: how, whether on the whole grid, whether in bfloat16 and channels-last
FORMS: dict[str, tuple[Form, bool, bool]] = {
    "MONAI whole volume fp32": (by_monai, True, False),
    "MONAI brain box fp32": (by_monai, False, False),
    "MONAI brain box bf16 channels-last": (by_monai, False, True),
    "ours windows": (by_windows, False, True),
    "ours single pass": (by_pass, False, True),
}
REFERENCE = "MONAI whole volume fp32"


def prepare(case: Case, model: Checkpoint, name: str) -> Prepared:
    recipe = model.recipe
    if FORMS[name][1]:
        recipe = replace(recipe, geometry=replace(recipe.geometry, region="grid"))
    return load_prepared(replace(case, labels_path=None), recipe)


def run(name: str, model: Checkpoint, image: torch.Tensor) -> torch.Tensor:
    """Turn an image into probabilities in one form."""
    form, _, fast = FORMS[name]
    memory = torch.channels_last_3d if fast else torch.contiguous_format
    network = model.network.to(memory_format=memory)
    bf16 = fast and pick_precision(image.device) == "bf16"
    with evaluating(network), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return form(network, image, model.recipe)


def measure_times(
    given: argparse.Namespace, model: Checkpoint, case: Case
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Return least CPU and wall time of each form, and the labels that it gives."""
    labels: dict[str, np.ndarray] = {}
    names = list(FORMS)
    prepared = {name: prepare(case, model, name) for name in names}
    least = {name: (float("inf"), float("inf")) for name in names}
    for _ in range(given.rounds):
        for name in names:
            image = torch.from_numpy(np.array(prepared[name].image))
            cpu, wall = time.process_time(), time.perf_counter()
            probs = run(name, model, image)
            spent = time.process_time() - cpu, time.perf_counter() - wall
            least[name] = tuple(map(min, least[name], spent))
            say(f"  {name}: {spent[0]:.1f} CPU s, {spent[1]:.1f} s")
            labels[name] = label(prepared[name], probs, model)
    rows = {
        name: {
            "cpu_s": round(cpu, 3),
            "wall_s": round(wall, 3),
            "image": prepared[name].image.shape,
        }
        for name, (cpu, wall) in least.items()
    }
    return rows, labels


def label(prepared: Prepared, probs: torch.Tensor, model: Checkpoint) -> np.ndarray:
    return prepared.geometry.invert_to_labels(probs.numpy(), targets=model.recipe.targets)


def agreement(labels: np.ndarray, others: np.ndarray, brain: np.ndarray) -> dict[str, float]:
    """Compare two label maps: voxels of the brain with equal labels, and Dice of the tumour."""
    same = float((labels == others)[brain].mean())
    both = dice(labels > 0, others > 0, when_both_empty="one")
    return {"labels_equal_in_brain": round(same, 6), "wt_dice": round(both, 4)}


def times(given: argparse.Namespace, model: Checkpoint) -> None:
    case = pick(given)
    rows, labels = measure_times(given, model, case)
    brain = brain_mask(load_scan(replace(case, labels_path=None)).image)
    for name, row in rows.items():
        row["peak_mib"] = None if given.no_memory else ask_memory(given, case, name)
        for other in (REFERENCE, "MONAI brain box fp32"):
            row[f"against {other}"] = agreement(labels[name], labels[other], brain) | {
                "times_faster_cpu": round(rows[other]["cpu_s"] / row["cpu_s"], 2)
            }
        say(f"{name:<36}{json.dumps(row)}")
    save(given, "times", model, {"case": case.id, "rows": rows})


def ask_memory(given: argparse.Namespace, case: Case, name: str) -> float:
    command = [sys.executable, __file__, "memory", str(given.folder), "--case", case.id]
    command += ["--only", name, *(["--model", str(given.model)] if given.model else [])]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(ran.stdout.splitlines()[-1])


def memory(given: argparse.Namespace, model: Checkpoint) -> None:
    """Print the peak of one form in MiB above what the process holds with its image (Linux)."""
    prepared = prepare(pick(given), model, given.only)
    image = torch.from_numpy(prepared.image)
    run(given.only, model, image[:, :48, :48, :48].contiguous())  # lazy imports and caches
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kib("VmRSS")
    run(given.only, model, image)
    say(f"{(status_kib('VmHWM') - before) / 1024:.0f}")


def status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def dice_of_forms(given: argparse.Namespace, model: Checkpoint) -> None:
    path = given.results / f"dice-{model.path.stem}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else {}
    names = given.forms or list(FORMS)
    for case in held_out(given, model):
        scan = None
        for name in names:
            if name in rows.get(case.id, {}):
                continue
            scan = scan or load_scan(case)
            rows.setdefault(case.id, {})[name] = score(name, scan, case, model)
            say(f"{case.id} {name}: {rows[case.id][name]}")
            save(given, "dice", model, {"rows": rows, "means": means(rows)})
    for name, row in means(rows).items():
        say(f"{name:<36}{row}")


def score(name: str, scan: object, case: Case, model: Checkpoint) -> dict[str, float]:
    prepared = prepare(case, model, name)
    labels = label(prepared, run(name, model, torch.from_numpy(prepared.image)), model)
    brain = brain_mask(scan.image)
    labels[~brain] = 0
    labels = tidy(labels, model.recipe.inference, spacing_mm=scan.spacing_mm, brain=brain)
    return {
        region: round(
            dice(np.isin(labels, values), np.isin(scan.labels, values), when_both_empty="one"), 5
        )
        for region, values in REGIONS.items()
    }


def means(rows: dict[str, dict]) -> dict[str, dict]:
    """Average over the patients that every form has labelled; differences from the reference."""
    names = [name for name in FORMS if any(name in row for row in rows.values())]
    whole = [row for row in rows.values() if all(name in row for name in names)]
    found = {}
    for name in names if whole else ():
        mean = {r: float(np.mean([row[name][r] for row in whole])) for r in REGIONS}
        base = {r: float(np.mean([row[names[0]][r] for row in whole])) for r in REGIONS}
        found[name] = {"patients": len(whole)} | {
            r: [round(mean[r], 4), round(mean[r] - base[r], 4)] for r in REGIONS
        }
    return found


def gpu(given: argparse.Namespace, model: Checkpoint) -> None:
    """Time from four files to a written mask on the device that there is; twice, as one warms."""
    case, device, rows = pick(given), pick_device(), {}
    for mirror in ("none", "none", "left-right", "all"):
        recipe = model.recipe
        recipe = replace(recipe, inference=replace(recipe.inference, mirror=mirror))
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            predict_folder([case], folder, model=replace(model, recipe=recipe), device=device)
            rows[mirror] = round(time.perf_counter() - start, 3)
        say(f"{device} mirror={mirror}: {rows[mirror]} s from four files to a mask")
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    save(given, "gpu" if device.type == "cuda" else "files", model, {"device": where, "s": rows})


def held_out(given: argparse.Namespace, model: Checkpoint) -> list[Case]:
    """Name the patients that the network has not learned from, or those that were asked for."""
    learned = set(model.card.get("trained_on", ()))
    cases = find_cases(given.folder, require_labels=True)
    wanted = given.patients or [case.id for case in cases if case.id not in learned]
    return [case for case in cases if case.id in wanted and case.id not in learned]


def pick(given: argparse.Namespace) -> Case:
    return next(case for case in find_cases(given.folder) if given.case in (None, case.id))


def save(given: argparse.Namespace, what: str, model: Checkpoint, found: dict) -> None:
    facts = {
        "model": model.path.name,
        "recipe": model.recipe.name,
        "norm": model.recipe.network.norm,
        "window_vox": model.recipe.inference.window_vox,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "made_by": made_by(),
    }
    text = json.dumps(facts | found, indent=1) + "\n"
    given.results.mkdir(parents=True, exist_ok=True)
    path = given.results / f"{what}-{model.path.stem}.json"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("times", "dice", "gpu", "memory"))
    parser.add_argument("folder", type=Path, help="folder of real cases with masks")
    parser.add_argument("--model", type=Path, help="checkpoint; the shipped network without it")
    parser.add_argument("--case", help="id of the case that is timed; the first one without it")
    parser.add_argument("--patients", nargs="+", metavar="ID", help="of `dice`; else held-out ones")
    parser.add_argument("--forms", nargs="+", choices=FORMS, metavar="FORM", help="of `dice`")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--only", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model = load_checkpoint(given.model or saved_model())
    {"times": times, "dice": dice_of_forms, "gpu": gpu, "memory": memory}[given.what](given, model)


if __name__ == "__main__":
    main()
