"""Measure what the compact form of the store costs a trained network in Dice.

    python benchmarks/compact_cost.py CASES [--model PATH] [--most 8]

Patients that the network neither learned from nor was chosen on are prepared once each and
predicted three times: from memory (float32), from a fast store (float16) and from a compact one.
Dice is measured on the native grid against the experts. The fast form is the yardstick: a change
no larger than its own is rounding. Only prediction is measured, not training on either form.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bratskit.cases import Case, find_cases, load_scan
from bratskit.evaluate import dice
from bratskit.labels import REGIONS
from bratskit.networks import Checkpoint, load_checkpoint, saved_model
from bratskit.predict import predict_prepared
from bratskit.predict.clean import remove_small_components
from bratskit.preprocess import (
    Prepared,
    brain_mask,
    open_prepared,
    prepare_scan,
    save_prepared,
)
from bratskit.preprocess.budget import FORMS


def predict(model: Checkpoint, prepared: Prepared, brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Label a prepared case on the native grid, as `predict_scan` does."""
    probs = predict_prepared(model.network, prepared, model.recipe)
    labels = prepared.geometry.invert_to_labels(probs)
    labels[~brain] = 0
    return remove_small_components(labels, model.recipe.inference.smallest_component_vox)


def dices(pred: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return Dice of WT, TC and ET; both empty counts 1."""
    masks = [[np.isin(labels, members) for labels in (pred, truth)] for members in REGIONS.values()]
    return np.array([dice(p, t, when_both_empty="one") for p, t in masks])


def score(case: Case, model: Checkpoint, folder: Path) -> dict[str, NDArray[np.float64]]:
    """Return the Dices of one case from memory and from each form, and print them."""
    scan = load_scan(case)
    prepared = prepare_scan(scan, model.recipe)
    brain = brain_mask(scan.image)
    labels = {"memory": predict(model, prepared, brain)}
    for form in FORMS:
        stored = open_prepared(save_prepared(prepared, folder / form, form=form))
        labels[form] = predict(model, stored, brain)
    found = {name: dices(pred, scan.labels) for name, pred in labels.items()}
    for form in FORMS:
        changed = int(np.count_nonzero(labels[form] != labels["memory"]))
        change = " ".join(f"{value:+.5f}" for value in found[form] - found["memory"])
        say(f"{case.id} {form}: {changed} labels differ from memory, Dice WT TC ET {change}")
    return found


def report(scores: Sequence[Mapping[str, NDArray[np.float64]]]) -> None:
    """Print mean Dice by form, and how far the stored forms are from memory."""
    stacked = {name: np.stack([item[name] for item in scores]) for name in scores[0]}
    for name, found in stacked.items():
        change = found - stacked["memory"]
        text = ", ".join(
            f"{region} {found[:, at].mean():.4f} (mean {change[:, at].mean():+.5f}, "
            f"largest {np.abs(change[:, at]).max():.5f})"
            for at, region in enumerate(REGIONS)
        )
        say(f"{len(scores)} cases from {name}: {text}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="folder of cases")
    parser.add_argument("--model", help="checkpoint; the shipped one without it")
    parser.add_argument("--most", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = load_checkpoint(given.model or saved_model())
    seen = {*model.card.get("trained_on", ()), *model.card.get("selected_on", ())}
    cases = [case for case in find_cases(given.folder) if case.id not in seen][: given.most]
    with tempfile.TemporaryDirectory(prefix="bratskit-compact-") as folder:
        report([score(case, model, Path(folder)) for case in cases])


if __name__ == "__main__":
    main()
