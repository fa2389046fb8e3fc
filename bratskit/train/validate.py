"""Score a network on whole validation cases with the real predictor and the real judge."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bratskit.evaluate import dice
from bratskit.labels import REGIONS
from bratskit.predict import predict_prepared, tidy
from bratskit.preprocess import Geometry, Prepared, decide
from bratskit.settings import InferenceSettings, Recipe

__all__ = ["validate"]

OnCase: TypeAlias = Callable[[Prepared, NDArray[np.uint8]], None]

GRID = "prepared"  # where validation measures; native-grid scores are notebook 04's job


def validate(
    network: nn.Module,
    prepared: Sequence[Prepared],
    recipe: Recipe,
    *,
    device: torch.device,
    on_case: OnCase | None = None,
) -> dict[str, float | str | None]:
    """Average Dice over whole cases on the prepared grid, quick enough to do between epochs.

    Two empty masks count as 1 (the BraTS rule), so that a network which invents enhancing tumour
    where there is none does not become the best one.

    Args:
        network: Put into evaluation mode for the time being.
        prepared: Validation cases with labels; none gives None for every score.
        recipe: How to predict.
        device: Where the network runs.
        on_case: Called with each case and its predicted labels, for pictures.

    Returns:
        `dice_WT`, `dice_TC`, `dice_ET`, `dice_mean` over cases and regions, and `dice_grid`.
    """
    was_training = network.training
    network.eval()
    rows = [_score(network, item, recipe, device, on_case) for item in prepared]
    network.train(was_training)
    means = np.mean(rows, axis=0) if rows else [None] * len(REGIONS)
    scores = {
        f"dice_{region}": None if mean is None else float(mean)
        for region, mean in zip(REGIONS, means, strict=True)
    }
    return scores | {"dice_mean": float(np.mean(means)) if rows else None, "dice_grid": GRID}


def _score(
    network: nn.Module,
    prepared: Prepared,
    recipe: Recipe,
    device: torch.device,
    on_case: OnCase | None,
) -> list[float]:
    probs = predict_prepared(network, prepared, recipe, device=device)
    pred = np.where(prepared.mask, decide(probs, targets=recipe.targets), 0).astype(np.uint8)
    settings = _on_prepared_grid(recipe.inference, prepared.geometry)
    pred = tidy(pred, settings, spacing_mm=prepared.geometry.spacing_mm, brain=prepared.mask)
    if on_case:
        on_case(prepared, pred)
    truth = np.asarray(prepared.labels)
    return [
        dice(np.isin(pred, labels), np.isin(truth, labels), when_both_empty="one")
        for labels in REGIONS.values()
    ]


def _on_prepared_grid(settings: InferenceSettings, geometry: Geometry) -> InferenceSettings:
    """Count in voxels of the prepared grid what is stated in those of the scanner's."""
    native_mm3, prepared_mm3 = map(math.prod, (geometry.spacing_native_mm, geometry.spacing_mm))
    sizes = {
        name: round(getattr(settings, name) * native_mm3 / prepared_mm3)
        for name in ("smallest_component_vox", "smallest_et_vox")
    }
    return dataclasses.replace(settings, **sizes)
