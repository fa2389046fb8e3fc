"""Train small, the same way but for one change, over several seeds: an experiment of minutes."""

import contextlib
import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bratskit.jobs.begin import Run
from bratskit.runtime import RunFolder
from bratskit.settings import InferenceSettings, LossSettings, NetworkSettings, Recipe
from bratskit.train import History, train

__all__ = ["quick_recipe", "run_trials"]

_JUDGED = 2  # validation cases a trial is scored on
_SIDE_VOX = 32  # of a patch: the network halves it twice


def quick_recipe(recipe: Recipe) -> Recipe:
    """Make a recipe that learns in seconds on the cases which another one has prepared.

    Small patches, a small network of labels, Dice + CE, at most six epochs of ten steps, each
    epoch validated. Grid, modalities, sampling and augmentation stay.
    """
    training = recipe.training
    plan = replace(
        training,
        epochs=min(6, training.epochs),
        steps_per_epoch=min(10, training.steps_per_epoch),
        validate_every=1,
        batch=2,
        accumulate=1,
        patience=0,
        ema_decay=0.0,
        patch_vox=tuple(min(side // 2, _SIDE_VOX) for side in training.patch_vox),
    )
    return replace(
        recipe,
        targets="labels",
        network=NetworkSettings(channels=(8, 16, 32), norm="instance"),
        loss=LossSettings(),
        training=plan,
        inference=InferenceSettings(),
    )


def run_trials(
    run: Run,
    recipe: Recipe,
    changes: Mapping[str, Mapping[str, object]],
    *,
    seeds: Sequence[int],
) -> dict[str, list[History]]:
    """Train once with each change and each seed, on the training cases of a run.

    A seed decides first weights, patches and augmentation, so that trials of one seed differ by
    nothing but the change. One line a trial says how long it took; nothing of them is kept.

    Args:
        run: Prepared cases and their split; two of the validation cases judge.
        recipe: What all have in common, usually `quick_recipe(run.recipe)`.
        changes: Fields of the recipe that a trial has otherwise, by the trial's name.
        seeds: Seeds, each as good as the other.

    Returns:
        Histories by name, one a seed, in the order of the seeds.
    """
    split = replace(run.split, validation=run.split.validation[:_JUDGED])
    place = RunFolder(run.folder.path / "trials" / "quick")
    trials: dict[str, list[History]] = {name: [] for name in changes}
    for seed in seeds:
        for name, change in changes.items():
            tried = replace(recipe, seed=seed, **change)
            with contextlib.redirect_stdout(io.StringIO()):  # its lines; the curves say the same
                rows = train(run.folder.prepared, place, recipe=tried, split=split, resume=False)
            trials[name].append(rows)
            sys.stdout.write(f"{name}, seed {seed}: {rows.column('seconds').sum():.0f} s\n")
    return trials
