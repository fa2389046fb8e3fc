"""Split and train from folders alone, where no notebook has begun a run: what the shell needs."""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from bratskit.runtime import RunFolder, progress
from bratskit.settings import Recipe, change_recipe, get_recipe

if TYPE_CHECKING:
    from bratskit.cases import Fingerprint, Folds, Split

__all__ = ["recipe_of", "split_folders", "train_prepared"]

DEFAULT_RECIPE = "laptop"


def split_folders(
    folders: Sequence[Path | str],
    out: Path | str,
    *,
    schemas: Sequence[str] = ("brats2017-2021",),
    n_folds: int | None = None,
    seed: int = 0,
) -> "Split | Folds":
    """Draw the cases of some folders into one split or folds, and save the manifest.

    Every scan that `bratskit check` has not seen is read once, to find a patient that is in two
    folders or editions.

    Args:
        folders: Cohorts; only read.
        out: Manifest to write, `.json`.
        schemas: Edition of the masks: one for all, or one a folder.
        n_folds: Folds beside a test part; None draws one split.
        seed: Decides the draw.

    Raises:
        ValueError: The schemas are neither one nor one a folder, a case id is in two folders, or
            there are too few patients.
    """
    from bratskit.cases import find_cases, make_folds, make_split, read_facts, same_patients
    from bratskit.cases.patients import read_fingerprints
    from bratskit.cases.split import refuse_repeated

    if Path(out).suffix != ".json":
        msg = f"OUT must be a .json file; got {out}. Try {Path(out) / 'split.json'}."
        raise ValueError(msg)
    if len(schemas) not in (1, len(folders)):
        msg = (
            f"schemas must be one, or one a folder ({len(folders)}); got {len(schemas)}. "
            "Name one edition for all folders, or one for each of them in their order."
        )
        raise ValueError(msg)
    schemas = list(schemas) * len(folders) if len(schemas) == 1 else schemas
    cases = [
        case
        for folder, schema in zip(folders, schemas, strict=True)
        for case in find_cases(folder, schema=schema, require_labels=True)
    ]
    refuse_repeated([case.id for case in cases])
    facts = read_facts(cases)
    same = same_patients(cases, prints=read_fingerprints(cases, folders=folders))
    known = {"facts": facts, "same_patient": same}
    if n_folds is None:
        drawn = make_split(cases, seed=seed, **known)
    else:
        drawn = make_folds(cases, seed=seed, n_folds=n_folds, **known)
    drawn.save(out)
    return drawn


def train_prepared(
    prepared: Path,
    run: RunFolder,
    *,
    recipe_name: str | None = None,
    changes: Sequence[str] = (),
    manifest: Path | None = None,
    fold: int | None = None,
    max_minutes: float | None = None,
    resume: bool | None = None,
    deterministic: bool = False,
    track: Sequence[str] = (),
) -> tuple[Recipe, Sequence[Mapping[str, object]]]:
    """Train on a folder of prepared cases, going on where an earlier call stopped.

    Args:
        prepared: Folder of prepared cases.
        run: Run folder, new or begun.
        recipe_name: None takes the run's own recipe, or the default.
        changes: Settings of it that shall be others, `NAME=VALUE` each; see `change_recipe`.
        manifest: Split or folds to train by; None takes the run's own split, or draws one, which
            keeps ids in one part whose prepared images look like one patient.
        fold: Which of the manifest's folds.
        max_minutes: Length of this session; None never ends.
        resume: True insists on a checkpoint to go on from, False throws an earlier one away.
        deterministic: Allow only operations that repeat to the bit; slower on a GPU.
        track: Names of `bratskit.train.trackers.TRACKERS` to tell beside the run folder.

    Returns:
        The recipe, and the history of the run, one row an epoch.

    Raises:
        FileNotFoundError: There is no prepared case, no manifest, or no checkpoint to go on from.
        ValueError: The cases were prepared for another grid, or the run was begun with another
            recipe or split.
    """
    from bratskit.preprocess import list_prepared
    from bratskit.train import train
    from bratskit.train.trackers import make_trackers

    recipe = recipe_of(recipe_name, run, changes)
    ids = list_prepared(prepared)
    if not ids:
        msg = (
            f"PREPARED must hold prepared cases; got {prepared}. "
            f"Make them with `bratskit prepare DATA {prepared}`."
        )
        raise FileNotFoundError(msg)
    if resume and not run.last.exists():
        msg = f"RUN must have a last.pt to go on from; got {run.path}. Leave --resume out to begin."
        raise FileNotFoundError(msg)
    history = train(
        prepared,
        run,
        recipe=recipe,
        split=_split_of(run, prepared, ids, manifest, fold=fold, recipe=recipe),
        max_minutes=max_minutes,
        resume=resume is not False,
        deterministic=deterministic,
        trackers=make_trackers(track),
    )
    return recipe, history


def _split_of(
    run: RunFolder,
    prepared: Path,
    ids: Sequence[str],
    manifest: Path | None,
    *,
    fold: int | None,
    recipe: Recipe,
) -> "Split":
    """Take the split asked for, else the run's own, else draw one."""
    from bratskit.cases import Split, load_split

    if manifest is None and fold is not None:
        msg = f"fold must come with the manifest of the folds; got {fold} alone. Add --split FILE."
        raise ValueError(msg)
    begun = Split.load(run.split) if run.split.exists() else None
    if manifest is None:
        return begun or _draw_split(prepared, ids, recipe=recipe)
    asked = load_split(manifest, fold=fold)
    if begun is not None and begun != asked:
        msg = (
            f"split must be the one that {run.path} was begun with; got another from {manifest}. "
            "Choose another RUN, or leave --split out to go on."
        )
        raise ValueError(msg)
    return asked


def _draw_split(prepared: Path, ids: Sequence[str], *, recipe: Recipe) -> "Split":
    """Draw the parts over the cohort's own cases; extra phantoms are for learning only.

    A recipe that learns from no patient gets no training part, extra phantoms neither.
    One patient under two names is known by the prepared arrays, which stand for the scans.
    """
    from bratskit.cases import find_duplicates, make_split
    from bratskit.jobs.begin import EXTRA, spare_training_part

    extra = [case_id for case_id in ids if case_id.startswith(f"{EXTRA}_")]
    own = [case_id for case_id in ids if case_id not in extra]
    real = [prepared / case_id for case_id in own if not case_id.startswith("Phantom_")]
    prints = list(progress(_fingerprints(real), "comparing cases", total=len(real)))
    same = [(found.first, found.second) for found in find_duplicates(prints)]
    drawn = make_split(own, seed=recipe.seed, same_patient=same)
    if recipe.training.phantom_share == 1:
        return spare_training_part(drawn, recipe)
    return dataclasses.replace(drawn, train=(*drawn.train, *extra))


def _fingerprints(folders: Sequence[Path]) -> "Iterator[Fingerprint]":
    from bratskit.cases import fingerprint
    from bratskit.preprocess import open_prepared

    def read(folder: Path) -> "Fingerprint":
        case = open_prepared(folder)
        image, _ = case.cut((slice(None),) * 3)
        return fingerprint(case.id, dict(zip(case.modalities, image, strict=True)))

    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:
        yield from pool.map(read, folders)


def recipe_of(name: str | None, run: RunFolder, changes: Sequence[str] = ()) -> Recipe:
    """Take the recipe asked for, else the run's own, else the default; then change it."""
    if name is None and run.settings.exists():
        return change_recipe(Recipe.load(run.settings), changes)
    return change_recipe(get_recipe(name or DEFAULT_RECIPE), changes)
