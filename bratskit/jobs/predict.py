"""Answer `bratskit predict`: cases of a folder or four named files, to masks; parses no words."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from bratskit.cases import Case, case_of_files, find_scans
from bratskit.labels import MODALITIES
from bratskit.runtime import RunFolder
from bratskit.settings import Recipe, change_recipe

__all__ = ["cases_of", "run_predict"]

LEFT_OUT = 1  # exit code where some patients were labelled and others could not be


def run_predict(options: argparse.Namespace) -> int:
    """Do what the words after `bratskit predict` ask for, and return the exit code."""
    cases, failed = cases_of(options)
    RunFolder(options.out).create()

    from bratskit.networks import load_checkpoint, saved_model
    from bratskit.predict import PredictionError, predict_folder

    models = [load_checkpoint(path) for path in options.model or [saved_model()]]
    changes = [*options.changes, *(["inference.mirror=all"] if options.tta else [])]
    models = [dataclasses.replace(one, recipe=_changed(one.recipe, changes)) for one in models]
    for case_id, why in failed.items():
        sys.stderr.write(f"predict: {case_id} failed: {why}\n")
    try:
        written = predict_folder(
            cases,
            options.out,
            model=models if len(models) > 1 else models[0],
            edition=options.edition,
            outputs=_outputs(options),
            doubts="trust" if options.trust else "strict" if options.strict else "refuse",
            memory_bytes=None if options.memory_gb is None else int(1e9 * options.memory_gb),
        )
    except PredictionError as error:
        failed, written = {**failed, **error.failed}, error.written
    _say(f"{len(written)} mask{'' if len(written) == 1 else 's'} in {options.out}")
    if failed:
        _say(
            f"{len(failed)} of {len(written) + len(failed)} patients left out: {_some(failed)}. "
            "Mend them and run the same command again; finished ones are kept."
        )
    return LEFT_OUT if failed else 0


def cases_of(options: argparse.Namespace) -> tuple[list[Case], dict[str, str]]:
    """Find the cases that DIR or the four files name, and say what ails those that are not whole.

    Raises:
        ValueError: Both are named, or only some of the four files.
    """
    files = {name: getattr(options, name) for name in MODALITIES}
    lacking = [f"--{name}" for name, path in files.items() if path is None]
    if len(lacking) == len(files):
        if options.id is not None:
            msg = f"--id must come with four named files; got {options.id} and a folder. Drop it."
            raise ValueError(msg)
        return find_scans(options.dir)
    if options.dir is not None:
        msg = f"DIR must be left out where files are named; got {options.dir}. Give OUT alone."
        raise ValueError(msg)
    if lacking:
        msg = (
            f"files must be named for all of {', '.join(MODALITIES)}; got none for "
            f"{', '.join(lacking)}. The network has learned from all four and guesses at none: "
            "export the missing one from the same examination."
        )
        raise ValueError(msg)
    return [case_of_files(**files, id=options.id)], {}


def _changed(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """Change how a network is run; what it has learned by cannot change any more."""
    for change in changes:
        if not change.startswith("inference."):
            msg = (
                f"--set must name a setting of inference here; got {change}. The rest belongs to "
                "the trained network. Try --set inference.overlap=0.25."
            )
            raise ValueError(msg)
    return change_recipe(recipe, changes)


def _outputs(options: argparse.Namespace) -> list[str]:
    asked = ["probabilities"] if options.probabilities else []
    return asked + (["entropy", "mutual_information"] if options.uncertainty else [])


def _some(names: Sequence[str]) -> str:
    shown = list(names)[:5]
    rest = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(shown) + rest


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
