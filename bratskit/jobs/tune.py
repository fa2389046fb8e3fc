"""Answer `bratskit tune`: choose temperature and clean-up on a run's validation patients only."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bratskit.cases import Case, Split, find_cases, load_labels, load_scan, patient_of
from bratskit.evaluate.metrics import box_of
from bratskit.jobs.choose import Choice, Patient, choose_clean_up, untidied
from bratskit.networks import Checkpoint, load_checkpoint, save_checkpoint
from bratskit.predict import fit_temperature, predict_folder
from bratskit.preprocess import Prepared, brain_mask, prepare_scan
from bratskit.runtime import RunFolder, made_by, progress, write_atomically
from bratskit.settings import InferenceSettings, Recipe

__all__ = ["run_tune", "tune", "validation_cases"]


def tune(
    run: RunFolder,
    cases: Sequence[Case],
    *,
    with_temperature: bool = True,
    device: torch.device | None = None,
) -> Choice:
    """Choose what happens to a network's answer, on the patients that chose its epoch.

    Writes `tuning.json` (all that was tried, with its scores) and `tuned.pt`: `best.pt` with the
    chosen settings in its recipe and with the scores without and with them in its card. Each
    patient is predicted once, and a call that was stopped goes on where it was.

    Args:
        run: A run with `best.pt`.
        cases: Its validation patients, with masks; see `validation_cases`.
        with_temperature: Whether to fit the temperature first, at the price of one more pass over
            the patients, or two where the recipe averages windows, mirrors or dropout.
        device: Where to run; None chooses.

    Returns:
        What was chosen, as it stands in the two files.

    Raises:
        FileNotFoundError: The run has no `best.pt`.
        ValueError: A case is a test or a training patient of the run, or none of it at all; names
            it. Or there is no case, or one without mask.
    """
    model = load_checkpoint(run.best)
    _refuse_others(cases, model, run)
    settings = model.recipe.inference
    if with_temperature:
        temperature = _temperature(run, cases, model, device)
        settings = dataclasses.replace(settings, temperature=temperature)
    raw = dataclasses.replace(model, recipe=_with(model.recipe, untidied(settings)))
    schema = cases[0].schema
    folder = _tuning_folder(run)
    masks = predict_folder(cases, folder, model=raw, edition=schema.name, device=device)
    pairs = list(zip(cases, masks, strict=True))
    read = (_patient(case, mask) for case, mask in pairs)
    choice = choose_clean_up(list(progress(read, "tune", total=len(pairs))), settings)
    _write(run, model, choice)
    return choice


def validation_cases(run: RunFolder, folder: Path | str, *, schema: str) -> list[Case]:
    """Find a run's validation patients, and no others, below a folder.

    Raises:
        FileNotFoundError: The run has no `best.pt`.
        ValueError: One of them is not there or has no mask; names it. Or the run has none.
    """
    wanted = load_checkpoint(run.best).card["selected_on"]
    if not wanted:
        msg = f"RUN must have validation patients; got {run.path}, whose split has none."
        raise ValueError(msg)
    found = {case.id: case for case in find_cases(folder, schema=schema)}
    missing = [name for name in wanted if name not in found or not found[name].labels_path]
    if missing:
        msg = (
            f"DIR must hold the validation patients of {run.path} with their masks; got none for "
            f"{', '.join(missing[:3])} ({len(missing)} of {len(wanted)}) in {folder}. "
            "Give the folder that the run was prepared from."
        )
        raise ValueError(msg)
    return [found[name] for name in wanted]


def run_tune(options: argparse.Namespace) -> int:
    """Do what the words after `bratskit tune` ask for, and return the exit code."""
    run = RunFolder(options.run)
    cases = validation_cases(run, _source_of(run, options.dir), schema=options.edition)
    choice = tune(run, cases, with_temperature=options.temperature)
    temperature = choice.settings.temperature
    sys.stdout.write(f"{choice}\ntemperature {temperature:.2f}\nTuned: {run.tuned}\n")
    return 0


def _source_of(run: RunFolder, folder: Path | None) -> Path:
    """Take the folder asked for, else the one that the run was begun with."""
    if folder is not None:
        return folder
    known = json.loads(run.source.read_text(encoding="utf-8")) if run.source.is_file() else {}
    data_dir = known.get("data_dir")
    if not data_dir and not run.cases.is_dir():
        msg = f"DIR must be given for {run.path}, which does not say where its cases are."
        raise FileNotFoundError(msg)
    return Path(data_dir) if data_dir else run.cases


def _refuse_others(cases: Sequence[Case], model: Checkpoint, run: RunFolder) -> None:
    """Refuse whoever must not choose anything: test patients above all."""
    split = Split.load(run.split) if run.split.is_file() else None
    groups = {
        "learned from": model.card["trained_on"],
        "test": split.test if split else (),
        "validation": model.card["selected_on"],
    }
    part_of = {patient_of(name): part for part in reversed(groups) for name in groups[part]}
    found = {case.id: part_of.get(patient_of(case.id), "not of this run") for case in cases}
    wrong = [f"{name} ({part})" for name, part in found.items() if part != "validation"]
    if wrong or not cases:
        msg = (
            f"cases must be validation patients of {run.path}; got {', '.join(wrong) or 'none'}. "
            f"Those are {', '.join(groups['validation']) or 'none'}."
        )
        raise ValueError(msg)


def _temperature(
    run: RunFolder, cases: Sequence[Case], model: Checkpoint, device: torch.device | None
) -> float:
    """Fit the temperature, or read what an earlier call with the same network fitted."""
    path = _tuning_folder(run) / "temperature.json"
    asked = {"model": model.checksum, "cases": sorted(case.id for case in cases)}
    if path.is_file():
        known = json.loads(path.read_text(encoding="utf-8"))
        if {name: known.get(name) for name in asked} == asked:
            return known["temperature"]
    is_averaged = _is_averaged(model.recipe.inference)
    fitted = fit_temperature(
        model.network,
        _Prepared(cases, model.recipe),
        model.recipe,
        device=device,
        rounds=2 if is_averaged else 1,
    )
    text = json.dumps(asked | {"temperature": fitted}, indent=2) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return fitted


def _is_averaged(settings: InferenceSettings) -> bool:
    return settings.mode == "window" or settings.mirror != "none" or settings.dropout_samples > 0


class _Prepared:
    """Prepare cases anew each time they are gone through, so that one is held at a time."""

    def __init__(self, cases: Sequence[Case], recipe: Recipe) -> None:
        self._cases, self._recipe = cases, recipe

    def __iter__(self) -> Iterator[tuple[Prepared, NDArray[np.uint8]]]:
        for case in progress(self._cases, "temperature", total=len(self._cases)):
            prepared = prepare_scan(load_scan(case), self._recipe)
            yield prepared, np.asarray(prepared.labels)


def _patient(case: Case, mask: Path) -> Patient:
    """Read prediction and truth of a patient, cropped to the box that holds both."""
    scan = load_scan(case)
    pred, _ = load_labels(mask, schema=case.schema)
    box = box_of((pred > 0) | (scan.labels > 0)) or (slice(0, 1),) * 3
    return Patient(
        id=case.id,
        labels=pred[box].copy(),
        truth=scan.labels[box].copy(),
        brain=brain_mask(scan.image)[box].copy(),
        spacing_mm=scan.spacing_mm,
    )


def _write(run: RunFolder, model: Checkpoint, choice: Choice) -> None:
    known = {
        "patients": sorted(choice.patients),
        "settings": {"temperature": choice.settings.temperature, **choice.values},
        "dice": choice.dice,
    }
    content = {
        "made_by": made_by(),
        "model": model.checksum,
        **known,
        "empty_rule": "brats",
        "grid": "native",
        "trials": [dataclasses.asdict(trial) for trial in choice.trials],
        "by_patient": choice.patients,
    }
    text = json.dumps(content, indent=2) + "\n"
    save_checkpoint(
        run.tuned,
        network=model.network,
        recipe=_with(model.recipe, choice.settings),
        card={**model.card, "tuned": known | {"from": model.checksum}},
    )
    write_atomically(run.tuning, lambda part: part.write_text(text, encoding="utf-8"))


def _with(recipe: Recipe, settings: InferenceSettings) -> Recipe:
    return dataclasses.replace(recipe, inference=settings)


def _tuning_folder(run: RunFolder) -> Path:
    return RunFolder(run.path / "tuning").create().path
