"""Find out how far phantoms carry: networks trained on them, judged on real patients only.

    python benchmarks/phantoms.py CASES WORK [--rows alone scarce-5 ...] [--plan] [--table] [--dry]

CASES is a folder of real BraTS cases with masks. Rows, each a training from random weights:

* `alone`: phantoms alone, 4,000 steps at 2 mm, scored on all cases, which it never saw; beside it
  `threshold` (FLAIR threshold, fitted on phantoms) and `nothing`.
* `full`, `full-again` and `without-...`: a small network at 2 mm in one small budget, on phantoms
  with every ingredient, with another seed, and with some left out; scored on all cases.
* `scarce-5`, `-10`, `-20` and the same with `-phantoms`: real patients (each draw within the next)
  alone, or every other patch a phantom's, the same steps; scored on the ten cases held out.
  `-longer`: the same with three times the steps, where few patients are seen too often.

Kill it at any moment and run it again: it goes on in the middle of a training. Two may run at once
on one WORK: a row belongs to whoever has begun it. Each row leaves one JSON in `--results` with
settings, steps, minutes, device, commit and every case's score in its native grid.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from phantom_rows import DRAWS, Row, draw_parts, plan_rows

from bratskit.cases import (
    Case,
    Split,
    find_cases,
    load_scan,
    make_phantom,
    patient_of,
    write_labels,
)
from bratskit.cases.phantoms.frame import FIT_SEED
from bratskit.evaluate import (
    Estimate,
    Scores,
    fit_flair_threshold,
    predict_nothing,
    score_folder,
    threshold_flair,
)
from bratskit.labels import REGIONS
from bratskit.networks import load_checkpoint
from bratskit.predict import predict_folder
from bratskit.preprocess import prepare_cohort
from bratskit.preprocess.lock import locked
from bratskit.runtime import RunFolder, made_by, pick_device, pick_precision, write_atomically
from bratskit.train import History, train
from bratskit.visualize.patients import draw_patients

N_FITTED = 24  # phantoms that the FLAIR threshold is fitted on
EDITION = "brats2017-2021"
RESULTS = Path(__file__).parent / "results" / "phantoms"


def run_row(row: Row, cases: dict[str, Case], work: Path, results: Path) -> None:
    """Train, predict and score one row, going on where an earlier call was killed."""
    tested = [cases[case_id] for case_id in row.tested]
    folder = work / row.name
    facts: dict[str, object] = {}
    if row.recipe is None:
        _label_without_learning(row, tested, folder / "predictions")
    else:
        facts = _train_and_predict(row, cases, work)
    scores = score_folder(folder / "predictions", tested, method=row.name, edition=EDITION)
    content = {"name": row.name, **row.settings(), **facts, "made_by": made_by()}
    content["scores"] = {"summary": _summary(scores), "cases": _by_case(scores)}
    text = json.dumps(content, indent=1) + "\n"
    results.mkdir(parents=True, exist_ok=True)
    write_atomically(results / f"{row.name}.json", lambda path: path.write_text(text))
    say(f"{row.name}: {_line(content)}")


def _train_and_predict(row: Row, cases: dict[str, Case], work: Path) -> dict[str, object]:
    run, device = RunFolder(work / row.name / "run"), pick_device()
    prepared = work / row.name / "prepared"
    if row.patients:
        prepare_cohort([cases[name] for name in row.patients], prepared, recipe=row.recipe)
    clock = _Clock(run.path / "cpu_s.json")
    split = Split(train=row.patients, validation=(), test=row.tested)
    history = train(prepared, run, recipe=row.recipe, split=split, on_epoch=clock.keep)
    tested = [cases[name] for name in row.tested]
    model = load_checkpoint(run.last)
    predict_folder(tested, work / row.name / "predictions", model=model, edition=EDITION)
    training = row.recipe.training
    return {
        "steps": history[-1]["step"],
        "patches": history[-1]["step"] * training.batch * training.accumulate,
        "minutes": round(sum(history.column("seconds")) / 60, 1),
        "cpu_minutes": round(clock.seconds / 60, 1),
        "loss": history[-1]["loss"],
        "device": f"{device.type}, {torch.get_num_threads()} thread(s), {platform.machine()}",
        "precision": pick_precision(device, training.precision),
        "weights_made_by": load_checkpoint(run.last).card["made_by"],
    }


class _Clock:
    """Add the CPU seconds of all sessions of one training; a killed epoch is not counted."""

    def __init__(self, path: Path) -> None:
        self.path, self.began_s = path, time.process_time()
        self.before_s = json.loads(path.read_text()) if path.exists() else 0.0
        self.seconds = self.before_s

    def keep(self, _history: History) -> None:
        self.seconds = self.before_s + time.process_time() - self.began_s
        write_atomically(self.path, lambda path: path.write_text(json.dumps(self.seconds)))


def _label_without_learning(row: Row, tested: Sequence[Case], folder: Path) -> None:
    label = predict_nothing
    if row.name == "threshold":
        phantoms = (make_phantom((FIT_SEED, number)).scan for number in range(N_FITTED))
        threshold = fit_flair_threshold(phantoms)
        say(f"FLAIR threshold {threshold} fitted on {N_FITTED} phantoms")
        label = partial(threshold_flair, threshold=threshold)
    RunFolder(folder).create()
    for case in tested:
        scan = load_scan(case)
        write_labels(label(scan), folder / f"{case.id}.nii.gz", like=scan, edition=EDITION)


def _summary(scores: Scores) -> dict[str, dict[str, dict[str, float]]]:
    rows = [row for row in scores.summary() if row.kind == "region"]
    return {
        row.name: {
            measure: {
                key: round(value, 4)
                for key, value in dataclasses.asdict(getattr(row, measure)).items()
            }
            for measure in ("dice", "hd95_mm")
        }
        for row in rows
    }


def _by_case(scores: Scores) -> dict[str, dict[str, list[float]]]:
    """Keep Dice and HD95 of every case and region: enough for other means and subsets."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in scores.pick(kind="region"):
        found.setdefault(row.case, {})[row.name] = [round(row.dice, 4), round(row.hd95_mm, 2)]
    return found


def _line(content: dict) -> str:
    summary = content["scores"]["summary"]
    dice = "  ".join(
        f"{name} {found['dice']['mean']:.3f} [{found['dice']['low']:.3f} "
        f"{found['dice']['high']:.3f}] median {found['dice']['median']:.3f}"
        for name, found in summary.items()
    )
    hd95 = "/".join(f"{found['hd95_mm']['mean']:.0f}" for found in summary.values())
    cost = ""
    if "steps" in content:
        cost = f"  {content['steps']} steps, {content['cpu_minutes']} CPU min"
    return f"{dice}  HD95 {hd95} mm, {len(content['tested'])} cases{cost}"


def load_results(rows: Iterable[Row], work: Path, results: Path) -> dict[str, dict]:
    """Read every row that was finished with the settings and the generator of today."""
    return {
        row.name: json.loads((results / f"{row.name}.json").read_text(encoding="utf-8"))
        for row in rows
        if state_of(row, work, results) == "done"
    }


def state_of(row: Row, work: Path, results: Path) -> str:
    """Say how far a row is, without opening a network."""
    path = results / f"{row.name}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        return "done" if row.fits(found) else "done with other settings"
    history = History.load(work / row.name / "run" / "history.jsonl")
    if history:
        return f"begun, epoch {len(history)} of {row.recipe.training.epochs}"
    return "to do"


def show_plan(rows: Iterable[Row], work: Path, results: Path) -> None:
    """Print one line a row: what it is, how long it trains, how far it is."""
    for row in rows:
        steps = "no training"
        if row.recipe is not None:
            training = row.recipe.training
            count = training.epochs * training.steps_per_epoch
            steps = f"{count} steps of {row.recipe.name}, {len(row.patients)} patients"
        state = state_of(row, work, results)
        say(f"{row.name:28s} {row.part:14s} {len(row.tested):3d} tested  {steps:42s} {state}")


def show_table(found: dict[str, dict]) -> None:
    """Print every finished row, and what leaving an ingredient out changed."""
    for name, content in found.items():
        say(f"{name:28s} {_line(content)}")
    full = [_mean_dice(found[name]) for name in ("full", "full-again") if name in found]
    for name, content in found.items():
        if name.startswith("without-") and full:
            change = [
                mean - np.mean([one[region] for one in full])
                for region, mean in _mean_dice(content).items()
            ]
            text = "  ".join(
                f"{region} {x:+.3f}" for region, x in zip(REGIONS, change, strict=True)
            )
            say(f"{name:28s} {text}  mean {np.mean(change):+.3f}")


def _mean_dice(content: dict) -> dict[str, float]:
    return {name: found["dice"]["mean"] for name, found in content["scores"]["summary"].items()}


def write_figure(found: dict[str, dict], held_out: Sequence[str], path: Path) -> None:
    """Draw Dice on the held-out cases against the number of patients, of the longer rows if any."""
    longer = "-longer" if any(name.endswith("-phantoms-longer") for name in found) else ""
    series: dict[str, dict[int, dict[str, Estimate]]] = {
        "real patients alone": {},
        "with phantoms": {},
    }
    for count in DRAWS:
        for label, name in zip(
            series, (f"scarce-{count}{longer}", f"scarce-{count}-phantoms{longer}"), strict=True
        ):
            if name in found:
                series[label][count] = estimate(found[name], held_out)
    if "full" in found and not longer:  # the same steps
        series["with phantoms"][0] = estimate(found["full"], held_out)
    levels = {}
    if "threshold" in found:
        level = estimate(found["threshold"], held_out)
        levels["FLAIR threshold"] = {region: level[region].mean for region in REGIONS}
    drawn = [
        found[name]
        for name in found
        if name.startswith("scarce") and name.endswith("-longer") == bool(longer)
    ]
    steps = {content["steps"] for content in drawn}
    note = (
        f"{'/'.join(map(str, sorted(steps)))} steps each at 2 mm, judged on {len(held_out)} cases"
    )
    figure = draw_patients(series, levels=levels, note=f"{note} in their native grid")
    png = figure.to_png(dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_bytes(png))


def estimate(content: dict, ids: Sequence[str]) -> dict[str, Estimate]:
    """Average the stored Dice of some cases."""
    cases = content["scores"]["cases"]
    return {
        region: Estimate.over_patients(
            [cases[name][region][0] for name in ids], [patient_of(name) for name in ids]
        )
        for region in REGIONS
    }


def run_all(rows: Sequence[Row], cases: dict[str, Case], work: Path, results: Path) -> None:
    """Run each row that nobody has finished or is at."""
    for row in rows:
        (work / row.name).mkdir(parents=True, exist_ok=True)
        try:
            with locked(work / row.name):
                if state_of(row, work, results) != "done":
                    run_row(row, cases, work, results)
        except RuntimeError as error:
            if "one process at a time" not in str(error):
                raise
            say(f"{row.name}: another process is at it")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="folder of real cases with masks")
    parser.add_argument("work", type=Path, help="folder for trainings and predictions")
    parser.add_argument("--rows", nargs="+", help="only these rows, in this order")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, help="PNG to draw the scarce rows in")
    parser.add_argument("--plan", action="store_true", help="list the rows and how far they are")
    parser.add_argument("--table", action="store_true", help="print what is finished")
    parser.add_argument("--dry", action="store_true", help="a few steps at 4 mm, to see it run")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases = {case.id: case for case in find_cases(given.cases, require_labels=True)}
    parts = draw_parts(list(cases.values()))
    tested = sorted(cases)
    if given.dry:
        parts[0] = tested = parts[0][:3]
    rows = plan_rows(tested, parts, dry=given.dry)
    if given.rows:
        known = {row.name: row for row in rows}
        rows = [known[name] for name in given.rows]
    if given.plan:
        show_plan(rows, given.work, given.results)
    elif not (given.table or given.figure):
        run_all(rows, cases, given.work, given.results)
    found = load_results(rows, given.work, given.results)
    if given.table:
        show_table(found)
    if given.figure:
        write_figure(found, parts[0], given.figure)


if __name__ == "__main__":
    main()
