"""Save and restore a run bit for bit, begin from other weights, and refuse what does not belong."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bratskit.cases import Split, patient_of
from bratskit.cases.phantoms import GENERATOR
from bratskit.networks import Checkpoint, load_checkpoint, save_checkpoint, saved_model
from bratskit.preprocess.budget import refuse_full_disk
from bratskit.runtime import RunFolder
from bratskit.settings import Recipe
from bratskit.train.mix import MixedSampler
from bratskit.train.patches import PatchSampler
from bratskit.train.step import Learner
from bratskit.train.track import History

__all__ = [
    "begin_from",
    "determinism_restored",
    "load_last",
    "make_card",
    "refuse_other_settings",
    "restore",
    "save_last",
]

METRICS = {"dice_mean": "mean Dice of WT, TC, ET"}
HISTORY_BYTES = 1e6  # a thousand rows take a fifth of it


@contextmanager
def determinism_restored(wanted: bool) -> Iterator[None]:
    """Restore torch's setting afterwards, so that one deterministic run binds no later one."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        if wanted:
            torch.use_deterministic_algorithms(before)


def save_last(
    run: RunFolder,
    *,
    learner: Learner,
    sampler: PatchSampler | MixedSampler,
    history: History,
    recipe: Recipe,
    card: Mapping[str, object],
    deterministic: bool,
    has_transform: bool = False,
    others: Sequence[Tensor] = (),
) -> None:
    """Write `last.pt`, then the history it contains: a kill between them loses nothing.

    Raises:
        FullDiskError: The disk does not hold one of them.
    """
    training = {
        "learner": learner.state_dict(),
        "sampler": sampler.state_dict(),
        **_generators(learner),
        "history": json.dumps(history),
        "deterministic": deterministic,
        "transform": has_transform,
        "others_rng": list(others),  # generators of further processes
    }
    save_checkpoint(run.last, network=learner.network, recipe=recipe, card=card, training=training)
    _save_history(history, run)


def restore(
    last: Checkpoint, run: RunFolder, *, learner: Learner, sampler: PatchSampler | MixedSampler
) -> History:
    """Put a run back to where `save_last` wrote it, its history file too.

    Returns:
        The rows up to then; a row that a killed run wrote after it is gone.
    """
    training = last.training
    learner.load_weights(last.network.state_dict())
    learner.load_state_dict(training["learner"])
    sampler.load_state_dict(training["sampler"])
    _set_generators(training, learner)
    history = History(json.loads(training["history"]))
    if learner.team.is_first:
        _save_history(history, run)
    return history


def load_last(run: RunFolder) -> Checkpoint:
    """Read `last.pt`.

    Raises:
        ValueError: It is damaged; says how to begin anew.
    """
    try:
        return load_checkpoint(run.last)
    except ValueError as error:
        msg = f"{error} To throw this run away and begin anew: --no-resume (resume=False)."
        raise ValueError(msg) from error


def refuse_other_settings(
    last: Checkpoint,
    run: RunFolder,
    *,
    recipe: Recipe,
    split: Split,
    deterministic: bool,
    has_transform: bool = False,
) -> None:
    """Refuse to go on with a run under settings it was not begun with.

    Raises:
        ValueError: Names the first setting that differs, both values and the two ways out.
    """
    if last.training is None:
        msg = (
            f"{run.last} must hold a training run; got weights only. "
            "Choose another run folder and name it in training.start_from."
        )
        raise ValueError(msg)
    begun = _flat(last.recipe.to_dict()) | {
        "deterministic": last.training["deterministic"],
        "split.train": sorted(last.card["split_train"]),
        "split.validation": sorted(last.card["selected_on"]),
    }
    asked = _flat(recipe.to_dict()) | {
        "deterministic": deterministic,
        "split.train": sorted(split.train),
        "split.validation": sorted(split.validation),
    }
    if "transform" in last.training:  # not in runs of before it was kept
        names = {True: "given to train", False: "left out"}
        begun["transform"], asked["transform"] = (
            names[last.training["transform"]],
            names[has_transform],
        )
    if recipe.training.phantom_share:  # runs from before the card named it go on
        begun["generator"], asked["generator"] = last.card.get("generator", GENERATOR), GENERATOR
    for name, value in asked.items():
        if name != "name" and begun.get(name) != value:
            msg = (
                f"{name} must be {_short(begun.get(name))}, as the run in {run.path} was begun; "
                f"got {_short(value)}. Choose another run folder, or pass resume=False "
                "to throw this run away."
            )
            raise ValueError(msg)


def begin_from(recipe: Recipe, split: Split) -> Checkpoint | None:
    """Load the weights that `training.start_from` names.

    Args:
        recipe: Its `start_from` is a path, or "saved_model" for the shipped network.
        split: Patients that must not have been seen.

    Returns:
        The checkpoint; None where training starts from random weights.

    Raises:
        ValueError: Another network, channel order or kind of targets, or weights that have seen
            validation or test patients, whose scores would then mean nothing.
    """
    name = recipe.training.start_from
    if name is None:
        return None
    start = load_checkpoint(
        saved_model() if name == "saved_model" else Path(name),
        expect_modalities=recipe.modalities,
        expect_targets=recipe.targets,
    )
    theirs, ours = _shape_of(start.recipe), _shape_of(recipe)
    for field, value in ours.items():
        if theirs.get(field) != value:
            msg = (
                f"{field} must be {theirs.get(field)} to start from {start.path}; "
                f"got {value}. Change it, or start from random weights."
            )
            raise ValueError(msg)
    _refuse_leak(start, split)
    return start


def _shape_of(recipe: Recipe) -> dict[str, object]:
    """Return the settings that must be equal for the weights of one run to fit another."""
    shape = _flat(recipe.network.shape_of_weights, "network.")
    if recipe.network.takes_one_size:
        shape["training.patch_vox"] = list(recipe.training.patch_vox)
    return shape


def make_card(recipe: Recipe, split: Split, start: Checkpoint | None) -> dict[str, object]:
    """Say what a network has seen: patients learned from, its forebear's included, and phantoms.

    `generator` is the version of the phantoms that a stream makes; None without one.
    """
    before = start.card if start else {}
    learned = split.train if recipe.training.phantom_share < 1 else ()
    chosen = recipe.training.select_by
    seen = {*learned, *before.get("trained_on", ())}
    return {
        "trained_on": sorted(seen),
        "selected_on": sorted(split.validation),
        "split_train": sorted(split.train),
        "started_from": start.checksum if start else None,
        "metric": f"{METRICS.get(chosen, chosen)} on the prepared grid of the validation cases",
        "recipe_name": recipe.name,
        "generator": GENERATOR if recipe.training.phantom_share else None,
    }


def _save_history(history: History, run: RunFolder) -> None:
    try:
        history.save(run.history)
    except OSError as error:
        refuse_full_disk(error, run.path, HISTORY_BYTES, what=run.history.name)
        raise


def _generators(learner: Learner) -> dict[str, object]:
    """Return the state of every global generator; those of libraries we call are among them."""
    return {
        "torch_rng": torch.get_rng_state(),
        "cuda_rng": [torch.cuda.get_rng_state(learner.device)] if _is_cuda(learner) else [],
        "python_rng": json.dumps(random.getstate()),
        "numpy_rng": json.dumps(np.random.get_state(legacy=False), default=np.ndarray.tolist),  # noqa: NPY002
    }


def _set_generators(training: Mapping[str, object], learner: Learner) -> None:
    torch.set_rng_state(training["torch_rng"])
    if _is_cuda(learner) and training["cuda_rng"]:  # older files hold the state of every GPU
        torch.cuda.set_rng_state(training["cuda_rng"][0], learner.device)
    if "python_rng" in training:  # not in runs of before it was kept
        version, words, gauss = json.loads(training["python_rng"])
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(json.loads(training["numpy_rng"]))  # noqa: NPY002


def _is_cuda(learner: Learner) -> bool:
    return learner.device.type == "cuda"


def _refuse_leak(start: Checkpoint, split: Split) -> None:
    learned = {patient_of(name) for name in start.card.get("trained_on", ())}
    chosen = {patient_of(name) for name in start.card.get("selected_on", ())}
    leaked = [name for name in split.validation if patient_of(name) in learned]
    leaked += [name for name in split.test if patient_of(name) in learned | chosen]
    if leaked:
        msg = (
            f"training.start_from must not have seen validation or test patients; {start.path} "
            f"has seen {_short(leaked)}. Move them to the training part, or start from None."
        )
        raise ValueError(msg)


def _flat(values: object, prefix: str = "") -> dict[str, object]:
    """Turn nested settings into dotted names with JSON values."""
    values = values if isinstance(values, Mapping) else vars(values)
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def _short(value: object) -> object:
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 5:
        return f"{len(value)} values beginning {list(value[:3])}"
    return value
