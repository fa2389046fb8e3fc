"""Answer `bratskit train`: pre-flight, trackers and the training itself; it parses no words."""

import argparse
import sys

from bratskit.jobs.folders import recipe_of, train_prepared
from bratskit.runtime import RunFolder

__all__ = ["run_train"]


def run_train(options: argparse.Namespace) -> int:
    """Do what the words after `bratskit train` ask for, and return the exit code."""
    run = RunFolder(options.out)
    if options.preflight:
        from bratskit.train.preflight import preflight

        seen = preflight(recipe_of(options.recipe, run), prepared_dir=options.prepared)
        _say(str(seen))
        return 0 if seen.fits else 1
    recipe, history = train_prepared(
        options.prepared,
        run,
        recipe_name=options.recipe,
        manifest=options.split,
        fold=options.fold,
        max_minutes=options.max_minutes,
        resume=options.resume,
    )
    best = f"; best weights: {run.best}" if run.best.exists() else ""
    _say(f"{len(history)} of {recipe.training.epochs} epochs are done{best}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
