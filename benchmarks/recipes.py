"""Train the five reference recipes under equal conditions, and score them on held-out patients.

    python benchmarks/recipes.py CASES WORK [--minutes 30] [--rows unet-a ...] [--table] [--dry]

CASES is a folder of thirty real BraTS cases with masks. Each recipe learns from the same twenty of
them for the same CPU time, and is scored on the other ten in their native grid; beside them stand a
FLAIR threshold, fitted on phantoms, and `nothing`. A recipe is as it is named, but for two things:

* epochs: CPU seconds of a step are measured first (three steps, one warm-up, outside the budget),
  and as many are asked for as fit, so that the learning rate falls to its end within the budget;
* no early stopping: there are no validation patients, and the last weights are taken.

Preparing and predicting are outside the budget. Kill it at any moment and run it again: it goes on
in the middle of a training. Each row leaves one JSON in `--results` with settings, the plan, steps,
CPU minutes, device, commit and every case's scores. `--dry` takes miniatures for a tenth of a
minute on three patients, to see it run.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from phantom_rows import Row, draw_parts
from phantoms import run_row

from bratskit.cases import Case, Split, find_cases
from bratskit.preprocess import prepare_cohort
from bratskit.preprocess.lock import locked
from bratskit.runtime import RunFolder, write_atomically
from bratskit.settings import Recipe, get_recipe, miniature
from bratskit.train import History, train

REFERENCES = ("unet-a", "unet-b", "segresnet-c", "unet-d", "unet-e")
BASELINES = ("nothing", "threshold")
RESULTS = Path(__file__).parent / "results" / "recipes"
MINUTES, DRY_MINUTES = 30.0, 0.1
LEARNED_FROM = 20  # patients, of those that `draw_parts` draws
PROBE_STEPS = 3
EPOCH_STEPS = 10  # a kill loses fewer


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked of every row.

    Attributes:
        minutes: CPU minutes that a training may take.
        patients: Ids learned from.
        tested: Ids scored.
        dry: Whether recipes are miniatures.
    """

    minutes: float
    patients: tuple[str, ...]
    tested: tuple[str, ...]
    dry: bool

    def recipe(self, name: str) -> Recipe | None:
        """Return a recipe before it has a budget; None for a baseline."""
        if name in BASELINES:
            return None
        recipe = miniature(get_recipe(name)) if self.dry else get_recipe(name)
        return _train_as(recipe, patience=0)

    def asked(self, name: str) -> dict[str, object]:
        """Return what a stored result must have been made for, as JSON gives it back."""
        recipe = self.recipe(name)
        values = {"tested": sorted(self.tested), "recipe": None}
        if recipe:
            values |= {"recipe": recipe.to_dict(), "patients": sorted(self.patients)}
            values["minutes"] = self.minutes
        return json.loads(json.dumps(values))


def _train_as(recipe: Recipe, **changed: object) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changed))


def run_name(name: str, plan: Plan, cases: dict[str, Case], work: Path, results: Path) -> None:
    """Measure, train, predict and score one row, going on where an earlier call was killed."""
    recipe, asked = plan.recipe(name), {"asked": plan.asked(name)}
    if recipe:
        measured = measure(name, recipe, plan, cases, work)
        asked |= measured
        recipe = fit(recipe, step_s=measured["step_cpu_s"], minutes=plan.minutes)
    patients = plan.patients if recipe else ()
    row = Row(name=name, part="recipes", recipe=recipe, patients=patients, tested=plan.tested)
    run_row(row, cases, work, results)
    path = results / f"{name}.json"
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | asked, indent=1) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def fit(recipe: Recipe, *, step_s: float, minutes: float) -> Recipe:
    """Ask for as many steps as fit into a budget, in epochs of about a tenth of them at most."""
    steps = max(1, int(60 * minutes / step_s))
    per_epoch = max(1, min(EPOCH_STEPS, steps // 10))
    epochs = steps // per_epoch
    return _train_as(recipe, epochs=epochs, steps_per_epoch=per_epoch, validate_every=epochs)


def measure(
    name: str, recipe: Recipe, plan: Plan, cases: dict[str, Case], work: Path
) -> dict[str, object]:
    """Take a few steps, each with all that belongs to an epoch; remember what one costs.

    What is remembered is used again when a killed run goes on, so that its schedule stays as it is.
    """
    path, asked = work / name / "measured.json", plan.asked(name)
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known.pop("asked") == asked:
            return known
    prepared = work / name / "prepared"
    prepare_cohort([cases[case_id] for case_id in plan.patients], prepared, recipe=recipe)
    split = Split(train=plan.patients, validation=(), test=plan.tested)
    probe = _train_as(
        recipe, epochs=PROBE_STEPS, steps_per_epoch=1, validate_every=PROBE_STEPS, warmup=0.0
    )
    ends_s: list[float] = []

    def note(_history: History) -> None:
        ends_s.append(time.process_time())

    run = RunFolder(work / name / "probe")
    train(prepared, run, recipe=probe, split=split, resume=False, on_epoch=note)
    values = {"step_cpu_s": round(float(np.mean(np.diff(ends_s))), 3)}
    text = json.dumps({"asked": asked, **values})
    write_atomically(path, lambda temporary: temporary.write_text(text))
    return values


def is_done(name: str, plan: Plan, results: Path) -> bool:
    """Say whether a row was finished for the same recipe, budget and patients."""
    path = results / f"{name}.json"
    if not path.exists():
        return False
    return json.loads(path.read_text(encoding="utf-8")).get("asked") == plan.asked(name)


def run_all(
    names: Sequence[str], plan: Plan, cases: dict[str, Case], work: Path, results: Path
) -> None:
    """Run each row that nobody has finished or is at."""
    for name in names:
        (work / name).mkdir(parents=True, exist_ok=True)
        try:
            with locked(work / name):
                if not is_done(name, plan, results):
                    run_name(name, plan, cases, work, results)
        except RuntimeError as error:
            if "one process at a time" not in str(error):
                raise
            say(f"{name}: another process is at it")


def show_table(names: Sequence[str], plan: Plan, results: Path) -> None:
    """Print every finished row as a line of Markdown."""
    say("| recipe | steps of patches | CPU min | s a step | WT | TC | ET | HD95, mm |")
    say("|---|---|---|---|---|---|---|---|")
    for name in names:
        if is_done(name, plan, results):
            say(_line(json.loads((results / f"{name}.json").read_text(encoding="utf-8"))))


def _line(content: dict) -> str:
    cost = ["-", "-", "-"]
    if "steps" in content:
        patches = content["patches"] // content["steps"]
        cost = [f"{content['steps']} of {patches}", content["cpu_minutes"], content["step_cpu_s"]]
    regions = content["scores"]["summary"].values()
    dice = [
        f"{found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
        for found in (region["dice"] for region in regions)
    ]
    hd95 = " / ".join(f"{region['hd95_mm']['mean']:.0f}" for region in regions)
    return f"| {' | '.join(map(str, [content['name'], *cost, *dice, hd95]))} |"


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", type=Path, help="folder of real cases with masks")
    parser.add_argument("work", type=Path, help="folder for trainings and predictions")
    parser.add_argument("--minutes", type=float, help=f"CPU minutes of a training; {MINUTES:.0f}")
    parser.add_argument("--rows", nargs="+", choices=[*BASELINES, *REFERENCES], metavar="NAME")
    parser.add_argument("--results", type=Path, help="folder of the rows' JSON files")
    parser.add_argument("--table", action="store_true", help="only print what is finished")
    parser.add_argument("--dry", action="store_true", help="miniatures, to see it run")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases = {case.id: case for case in find_cases(given.cases, require_labels=True)}
    parts = draw_parts(list(cases.values()))
    shown = slice(3) if given.dry else slice(None)
    plan = Plan(
        minutes=given.minutes or (DRY_MINUTES if given.dry else MINUTES),
        patients=parts[LEARNED_FROM][shown],
        tested=parts[0][shown],
        dry=given.dry,
    )
    # fitting the threshold takes minutes whatever the size, so that a dry run leaves it out
    names = given.rows or [*BASELINES[: 1 if given.dry else 2], *REFERENCES]
    results = given.results or (given.work / "results" if given.dry else RESULTS)
    if not given.table:
        run_all(names, plan, cases, given.work, results)
    show_table(names, plan, results)


if __name__ == "__main__":
    main()
