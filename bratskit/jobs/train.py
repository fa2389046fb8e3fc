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

        recipe = recipe_of(options.recipe, run, options.changes)
        seen = preflight(recipe, prepared_dir=options.prepared, run_dir=run.path)
        _say(str(seen))
        return 0 if seen.fits else 1
    from bratskit.train.parallel import Team, rank_here

    with Team(rank=rank_here()).quiet():
        return _train(options, run)


def _train(options: argparse.Namespace, run: RunFolder) -> int:
    recipe, history = train_prepared(
        options.prepared,
        run,
        recipe_name=options.recipe,
        changes=options.changes,
        manifest=options.split,
        fold=options.fold,
        max_minutes=options.max_minutes,
        resume=options.resume,
        deterministic=options.deterministic,
        track=options.track,
    )
    best = f"; best weights: {run.best}" if run.best.exists() else ""
    _say(f"{len(history)} of {recipe.training.epochs} epochs are done{best}")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
