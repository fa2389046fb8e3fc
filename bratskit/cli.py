"""Offer the rooms' functions to a shell; each command is a few lines over one of them."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import bratskit
from bratskit.jobs.folders import DEFAULT_RECIPE
from bratskit.labels import SCHEMAS
from bratskit.runtime import RunFolder
from bratskit.settings import RECIPES, get_recipe

__all__ = ["main"]

BAD_INPUT = 2
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
        0 when all is done, 1 where `check` found problems, 2 on bad input (one line on stderr, no
        traceback; BRATSKIT_TRACEBACK=1 shows it), 130 after Ctrl-C.
    """
    options = _parser().parse_args(arguments)
    try:
        with _plain_warnings(options.command):
            return options.run(options)
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


class _Parser(argparse.ArgumentParser):
    """Refuse bad arguments in one line, as bad data is refused."""

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message} (see `{self.prog} --help`)\n")
        raise SystemExit(BAD_INPUT)


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

    recipe = get_recipe(options.recipe)
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


def _predict(options: argparse.Namespace) -> int:
    from bratskit.cases import find_cases

    cases = find_cases(options.dir, use_labels=False)
    RunFolder(options.out).create()

    from bratskit.networks import load_checkpoint, saved_model
    from bratskit.predict import predict_folder

    model = load_checkpoint(options.model or saved_model())
    written = predict_folder(cases, options.out, model=model, edition=options.edition)
    _say(f"{len(written)} masks in {options.out}")
    return 0


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


CONVENTIONS = {"brats": ("brats",), "nan-dropped": ("nan",), "all": ("brats", "nan")}


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="bratskit", description=bratskit.__doc__)
    parser.add_argument("--version", action="version", version=f"bratskit {bratskit.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str, *folders: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        for folder in folders:
            added.add_argument(folder.lower(), metavar=folder, type=Path)
        return added

    def recipe(added: argparse.ArgumentParser, default: str | None, text: str) -> None:
        help_text = f"{text}; one of {', '.join(RECIPES)}"
        added.add_argument("--recipe", metavar="NAME", default=default, help=help_text)

    def edition(added: argparse.ArgumentParser, text: str) -> None:
        added.add_argument(
            "--edition", metavar="NAME", default="brats2017-2021", choices=SCHEMAS, help=text
        )

    def editions(added: argparse.ArgumentParser) -> None:
        text = "edition of the masks; again for each further DIR where they differ"
        added.add_argument("--edition", metavar="NAME", action="append", choices=SCHEMAS, help=text)

    demo = command("demo", _demo, "Run notebooks 01-05 and show scores and report.")
    demo.add_argument("--data", metavar="DIR", type=Path, help="cases, or auto; else phantoms")
    demo.add_argument("--edition", metavar="NAME", choices=SCHEMAS, help="edition of all masks")
    demo.add_argument("--out", metavar="DIR", type=Path, help="run folder; runs/demo or runs/real")
    recipe(demo, None, "tiny for phantoms, laptop for real cases")

    check = command("check", _check, "Look folders of cases over; exit 1 on problems.")
    check.add_argument("dirs", metavar="DIR", type=Path, nargs="+")
    check.add_argument("--json", action="store_true", help="findings as JSON on stdout")
    check.add_argument("--all", action="store_true", help="every line, also where many are alike")
    check.add_argument("--workers", metavar="N", type=int, help="threads; one a core, at most 8")
    check.add_argument(
        "--journal", metavar="FILE", default="auto", help="where to go on; auto (cache) or none"
    )
    editions(check)

    phantom = command("phantom", _phantom, "Make phantoms with exact truth.", "OUT")
    phantom.add_argument("--cases", metavar="N", type=int, required=True)
    phantom.add_argument("--seed", metavar="S", type=int, default=0, help="0 to 19999")
    phantom.add_argument("--spacing", metavar="MM", type=float, nargs=3, default=(1.0, 1.0, 1.0))
    phantom.add_argument("--workers", metavar="N", type=int, help="processes; one a core")
    phantom.add_argument(
        "--without",
        metavar="NAME",
        action="append",
        default=[],
        help="leave an effect out, for example mimics; may be given again",
    )
    phantom.add_argument("--level-sets", action="store_true", help="also write <id>_truth.npz")
    edition(phantom, "edition to write the masks in")

    prepare = command("prepare", _prepare, "Turn cases into arrays for training.", "DIR", "OUT")
    prepare.add_argument("--workers", metavar="N", type=int)
    prepare.add_argument(
        "--form",
        choices=("auto", "fast", "compact"),
        default="auto",
        help="how cases are stored; auto: fast where all fit, else compact, a sixth of the size",
    )
    prepare.add_argument("--budget-gb", metavar="GB", type=float, help="of OUT; the free space")
    recipe(prepare, DEFAULT_RECIPE, f"default {DEFAULT_RECIPE}")
    edition(prepare, "edition of the masks")

    split = command("split", _split, "Draw cases into parts by patient, across editions.")
    split.add_argument("dirs", metavar="DIR", type=Path, nargs="+")
    split.add_argument("out", metavar="OUT.json", type=Path)
    split.add_argument("--folds", metavar="K", type=int, help="K folds beside a test part")
    split.add_argument("--seed", metavar="S", type=int, default=0)
    editions(split)

    train = command("train", _train, "Train, going on where an earlier call stopped.", "PREPARED")
    train.add_argument("out", metavar="RUN", type=Path)
    train.add_argument("--split", metavar="FILE", type=Path, help="from `bratskit split`")
    train.add_argument("--fold", metavar="I", type=int, help="which of its folds, from 0")
    train.add_argument("--max-minutes", metavar="M", type=float, help="length of this session")
    train.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        help="insist on a checkpoint to go on from; --no-resume throws an earlier one away",
    )
    train.add_argument(
        "--preflight", action="store_true", help="only say what it will take; exit 1: does not fit"
    )
    recipe(train, None, f"the run's own, or {DEFAULT_RECIPE}")

    predict = command("predict", _predict, "Write a mask for every case.", "DIR", "OUT")
    predict.add_argument("--model", metavar="PATH", type=Path, help="default: the shipped network")
    edition(predict, "edition to write the masks in")

    evaluate = command("evaluate", _evaluate, "Score masks against masks.", "PRED", "TRUTH")
    evaluate.add_argument("--out", metavar="CSV", type=Path, help="also write the rows here")
    evaluate.add_argument("--convention", choices=CONVENTIONS, default="brats")
    edition(evaluate, "edition of both folders")

    report = command("report", _report, "Write one HTML page about a run.")
    report.add_argument("dir", metavar="RUN", type=Path)
    return parser


if __name__ == "__main__":
    sys.exit(main())
