"""Offer the rooms' functions to a shell; each command is a few lines over one of them."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bratskit.jobs.words import BAD_INPUT, CONVENTIONS, make_parser
from bratskit.runtime import RunFolder
from bratskit.settings import change_recipe, get_recipe

__all__ = ["main"]

FOUND_PROBLEMS = 1
INTERRUPTED = 130  # what shells report after Ctrl-C

# What the rooms raise on bad input, a full disk or a run gone wrong; anything else is a bug of
# ours and shows its traceback.
EXPECTED = (ValueError, TypeError, OSError, RuntimeError, ArithmeticError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Words after `bratskit`; None takes them from the command line.

    Returns:
        0 when all is done, 1 where `check` found problems or `predict` left patients out, 2 on bad
        input (one line on stderr, no traceback; BRATSKIT_TRACEBACK=1 shows it), 130 after Ctrl-C.
    """
    options = make_parser().parse_args(arguments)
    try:
        with _plain_warnings(options.command):
            return _run_of(options.command)(options)
    except KeyboardInterrupt:
        _complain(options.command, "stopped; the same command goes on from there")
        return INTERRUPTED
    except EXPECTED as error:
        if os.environ.get("BRATSKIT_TRACEBACK"):
            raise
        message = str(error) or type(error).__name__
        _complain(options.command, _as_typed(message) if options.command == "phantom" else message)
        return BAD_INPUT


def _as_typed(message: str) -> str:
    """Put the shell's names for those of `make_cohort`: `--cases 4` for `n_cases=4`."""
    for name, flag in (("n_cases", "cases"), ("spacing_mm", "spacing")):
        message = message.replace(f"{name}=", f"--{flag} ").replace(name, f"--{flag}")
    return re.sub(r"^(seed|workers) must", r"--\1 must", message).replace("workers=", "--workers ")


def _complain(command: str, message: str) -> None:
    for line in message.splitlines():  # a cohort's message has one line a case
        sys.stderr.write(f"bratskit {command}: {line.strip()}\n")


@contextlib.contextmanager
def _plain_warnings(command: str) -> Iterator[None]:
    """Show a warning as one line without the source line it came from, as a refusal is shown."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        _complain(command, f"warning: {' '.join(str(message).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _say(message: str) -> None:
    sys.stdout.write(message + "\n")
    sys.stdout.flush()


def _demo(options: argparse.Namespace) -> int:
    from bratskit.jobs.begin import resolve_data
    from bratskit.jobs.demo import run_demo

    data = resolve_data(options.data or "")
    out = options.out or ("runs/real" if data else "runs/demo")
    run_demo(data=data, edition=options.edition, out=out, recipe=options.recipe)
    return 0


def _check(options: argparse.Namespace) -> int:
    from bratskit.cases import check_folders, findings_table

    with contextlib.redirect_stdout(sys.stderr):  # progress; stdout is for the findings
        findings = check_folders(
            options.dirs,
            schemas=options.edition or ["brats2017-2021"],
            workers=options.workers,
            journal=None if options.journal == "none" else options.journal,
        )
    if options.json:
        _say(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        _say(findings_table(findings, show_all=options.all))
    return FOUND_PROBLEMS if any(item.severity == "problem" for item in findings) else 0


def _phantom(options: argparse.Namespace) -> int:
    from bratskit.cases.phantoms import ingredients_of, make_cohort

    cases = make_cohort(
        options.out,
        n_cases=options.cases,
        seed=options.seed,
        edition=options.edition,
        spacing_mm=tuple(options.spacing),
        ingredients=ingredients_of(options.edition).without(options.without),
        level_sets=options.level_sets,
        workers=options.workers,
    )
    there = len({path.name for path in Path(options.out).rglob("Phantom_*_truth.json")})
    _say(f"{len(cases)} phantoms in {options.out}" + f", where {there} lie" * (there > len(cases)))
    return 0


def _prepare(options: argparse.Namespace) -> int:
    from bratskit.cases import find_cases
    from bratskit.preprocess import prepare_cohort

    recipe = change_recipe(get_recipe(options.recipe), options.changes)
    cases = find_cases(options.dir, schema=options.edition)
    RunFolder(options.out).create()
    ids = prepare_cohort(
        cases,
        options.out,
        recipe=recipe,
        workers=options.workers,
        form=options.form,
        budget_gb=options.budget_gb,
    )
    _say(f"{len(ids)} cases prepared in {options.out}")
    return 0


def _split(options: argparse.Namespace) -> int:
    from bratskit.cases.strata import counts_table
    from bratskit.jobs.folders import split_folders

    drawn = split_folders(
        options.dirs,
        options.out,
        schemas=options.edition or ["brats2017-2021"],
        n_folds=options.folds,
        seed=options.seed,
    )
    _say(counts_table(drawn.summary()))
    together = "; ".join(" = ".join(group) for group in drawn.same_patient)
    _say(f"Split: {options.out}" + (f"; one patient each: {together}" if together else ""))
    return 0


def _train(options: argparse.Namespace) -> int:
    from bratskit.jobs.train import run_train

    return run_train(options)


def _tune(options: argparse.Namespace) -> int:
    from bratskit.jobs.tune import run_tune

    return run_tune(options)


def _models(options: argparse.Namespace) -> int:
    from bratskit.networks import list_models, models_table

    listed = list_models(options.dir)
    _say(models_table(listed))
    return FOUND_PROBLEMS if any(item.problem for item in listed) else 0


def _export(options: argparse.Namespace) -> int:
    from bratskit.networks import load_checkpoint
    from bratskit.predict import export_onnx

    model = load_checkpoint(options.model)
    RunFolder(options.out.absolute().parent).create()
    _say(f"Network: {export_onnx(model, options.out, size_vox=options.size)}")
    return 0


def _register(options: argparse.Namespace) -> int:
    from bratskit.jobs.register import run_register

    return run_register(options)


def _predict(options: argparse.Namespace) -> int:
    from bratskit.jobs.predict import run_predict

    return run_predict(options)


def _evaluate(options: argparse.Namespace) -> int:
    from bratskit.evaluate import Scores, evaluate_paths

    if options.out is not None:
        if options.out.is_dir():
            msg = f"CSV must be a file; got the folder {options.out}. Try {options.out}/scores.csv."
            raise IsADirectoryError(msg)
        RunFolder(options.out.absolute().parent).create()
    scores = Scores()
    for rule in CONVENTIONS[options.convention]:
        scores += evaluate_paths(
            options.pred, options.truth, edition=options.edition, empty_rule=rule
        )
    _say(str(scores))
    if options.out is not None:
        scores.save(options.out)
        _say(f"Scores: {options.out}")
    return 0


def _report(options: argparse.Namespace) -> int:
    run = RunFolder(options.dir)
    if not any(path.exists() for path in (run.settings, run.history, run.scores)):
        msg = (
            f"RUN must be a run folder, with settings.json, history.jsonl or scores.csv; got "
            f"{options.dir}. Make one with `bratskit demo`."
        )
        raise FileNotFoundError(msg)
    from bratskit.visualize.report import write_report

    _say(f"Report: {write_report(run)}")
    return 0


def _run_of(command: str) -> Callable[[argparse.Namespace], int]:
    return {
        "demo": _demo,
        "check": _check,
        "phantom": _phantom,
        "prepare": _prepare,
        "split": _split,
        "train": _train,
        "tune": _tune,
        "models": _models,
        "export": _export,
        "register": _register,
        "predict": _predict,
        "evaluate": _evaluate,
        "report": _report,
    }[command]


if __name__ == "__main__":
    sys.exit(main())
