"""Fit the temperature that makes probabilities honest; it needs expert labels of a few patients."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bratskit.labels import PAINTED, REGIONS
from bratskit.predict.predict import predict_prepared
from bratskit.preprocess import Prepared
from bratskit.settings import Recipe, Targets

__all__ = ["MOST_VOX", "fit_temperature", "temper", "temperature_of"]

COLDEST, HOTTEST = 0.05, 20.0  # a network further off than this is not miscalibrated but broken
MOST_VOX = 200_000  # voxels drawn of one patient: the fit moves by less than 1 % with twice as many
GOLDEN = (math.sqrt(5) - 1) / 2
SMALLEST = 1e-30  # a probability that float32 rounded to 0 is taken as this

Pair = tuple[NDArray[np.floating], NDArray[np.integer]]


def fit_temperature(
    network: nn.Module,
    cases: Iterable[tuple[Prepared, NDArray[np.integer]]],
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    rounds: int = 1,
) -> float:
    """Find the temperature of a network as it will be run, over the voxels of the brain.

    Args:
        network: From images to logits.
        cases: Prepared cases and their expert labels `(i, j, k)` on the prepared grid, of
            **validation patients only**. Gone through once a round, a patient at a time.
        recipe: How the network is run; the temperature it says is where the first round starts.
        device: Where to run; None chooses.
        rounds: How often all patients are predicted. One is right where nothing is averaged. With
            windows, mirrors or members a second corrects what averaging changed; see
            `temperature_of`.

    Returns:
        What to write into `recipe.inference.temperature`: it replaces the one that is there.

    Raises:
        ValueError: There is no patient, also where `cases` is an iterator that is used up before
            the last round.
    """
    temperature = recipe.inference.temperature
    for _ in range(rounds):
        settings = dataclasses.replace(recipe.inference, temperature=temperature)
        at = dataclasses.replace(recipe, inference=settings)
        pairs = (
            (predict_prepared(network, prepared, at, device=device)[:, brain], labels[brain])
            for prepared, labels in cases
            for brain in [np.asarray(prepared.mask)]
        )
        temperature *= temperature_of(pairs, targets=recipe.targets, seed=recipe.seed)
    return temperature


def temperature_of(
    pairs: Iterable[Pair], *, targets: Targets, most_vox: int = MOST_VOX, seed: int = 0
) -> float:
    r"""Find the temperature under which the expert's labels are likeliest.

    $$T^* = \arg\min_T \sum_v -\log p_T(y_v), \qquad p_T = \mathrm{softmax}(\log p / T)$$

    One temperature is right for all patients together, not for each: where the shipped network's
    ECE fell over eight held-out patients as one, it fell in two to five of them by themselves
    (`benchmarks/uncertainty.py`), because some it trusts too much and others too little.

    A softmax forgets what is added to all logits, so probabilities serve as well as the logits
    they came from. Where windows, mirrors or members were averaged first, the temperature is fitted
    to their mean, while `recipe.inference.temperature` divides the logits before that: fit again on
    what the new temperature gives and multiply, until the factor is near 1.

    Args:
        pairs: Of each patient, probabilities `(L, N)` or `(L, I, J, K)` made at temperature 1, and
            the expert's internal labels of the same voxels. **Validation patients only**: those
            whose scores are reported must not be among them. Consumed one patient at a time.
        targets: What the channels are: `recipe.targets`.
        most_vox: Voxels drawn at random from one patient, so that hundreds of patients fit into
            memory; each patient weighs as many voxels as were drawn.
        seed: Of the draw.

    Returns:
        Above 1 where the network is too sure of itself. Within 0.05 to 20; the order of the labels
        at a voxel, and so a mask from one pass, does not change with it.

    Raises:
        ValueError: There is no patient, or probabilities and labels do not fit each other.

    Examples:
        >>> sure = np.array([[0.99] * 4, [0.01] * 4])  # right in three of four
        >>> hot = temperature_of([(sure, np.array([0, 0, 0, 1]))], targets="labels")
        >>> [round(p, 2) for p in temper(sure, hot, targets="labels")[:, 0].tolist()]
        [0.75, 0.25]

    Source:
        Guo et al. (2017), On calibration of modern neural networks, ICML, section 4.2.
    """
    rng = np.random.default_rng(seed)
    drawn = [_draw(probs, labels, most_vox, rng, targets) for probs, labels in pairs]
    if not drawn:
        msg = (
            "pairs must hold at least one patient; got none. "
            "Give probabilities and expert labels of the validation patients."
        )
        raise ValueError(msg)
    logits = np.concatenate([logits for logits, _ in drawn], axis=1)
    truth = np.concatenate([truth for _, truth in drawn], axis=1)
    loss = _loss_regions if targets == "regions" else _loss_labels
    found = _golden_section(
        lambda log_t: loss(logits / math.exp(log_t), truth), math.log(COLDEST), math.log(HOTTEST)
    )
    return math.exp(found)


def temper(
    probs: NDArray[np.floating], temperature: float, *, targets: Targets
) -> NDArray[np.floating]:
    """Give the probabilities that logits divided by a temperature would have given.

    Args:
        probs: Probabilities `(L, ...)`.
        temperature: Above 1 flattens, below 1 sharpens.
        targets: What the channels are: `recipe.targets`.

    Raises:
        ValueError: The temperature is not above 0.
    """
    if not temperature > 0:
        msg = f"temperature must be above 0; got {temperature}. 1 changes nothing."
        raise ValueError(msg)
    logits = _logits(probs, targets) / temperature
    if targets == "regions":
        return np.exp(-np.logaddexp(0, -logits)).astype(probs.dtype)
    return np.exp(logits - _log_sum(logits)).astype(probs.dtype)


def _draw(
    probs: NDArray[np.floating],
    labels: NDArray[np.integer],
    most_vox: int,
    rng: np.random.Generator,
    targets: Targets,
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Draw voxels of one patient: logits `(L, n)` and, of the same shape, what is true."""
    if probs.shape[1:] != labels.shape:
        msg = (
            f"labels must have the shape of the probabilities, {probs.shape[1:]}; got "
            f"{labels.shape}. Give both on the prepared grid, or both on the native one."
        )
        raise ValueError(msg)
    probs, labels = probs.reshape(len(probs), -1), labels.reshape(-1)
    if labels.size > most_vox:
        chosen = rng.choice(labels.size, most_vox, replace=False)
        probs, labels = probs[:, chosen], labels[chosen]
    return _logits(probs, targets), _truth_of(labels, len(probs), targets)


def _truth_of(labels: NDArray[np.integer], n: int, targets: Targets) -> NDArray[np.bool_]:
    if targets == "regions":
        return np.stack([np.isin(labels, REGIONS[name]) for name in PAINTED])
    return labels == np.arange(n)[:, None]


def _logits(probs: NDArray[np.floating], targets: Targets) -> NDArray[np.float64]:
    """Undo softmax or sigmoid; float32 has nothing between 1 - 6e-8 and 1: logits end at 17."""
    probs = np.asarray(probs, dtype=np.float64)
    if targets == "labels":
        return np.log(np.maximum(probs, SMALLEST))
    inside = np.clip(probs, 2.0**-25, 1 - 2.0**-25)
    return np.log(inside) - np.log1p(-inside)


def _loss_labels(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    return float(
        (_log_sum(logits) - logits[truth.argmax(axis=0), np.arange(logits.shape[1])]).mean()
    )


def _loss_regions(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    return float(np.logaddexp(0, np.where(truth, -logits, logits)).mean())


def _log_sum(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add up exponentials over the channels without overflow."""
    largest = logits.max(axis=0)
    return largest + np.log(np.exp(logits - largest).sum(axis=0))


def _golden_section(
    loss: Callable[[float], float], low: float, high: float, *, tolerance: float = 1e-4
) -> float:
    """Find the minimum of a function with one valley, as the loss is in 1/T: it is convex there."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > tolerance:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - GOLDEN * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + GOLDEN * (high - low)
            at_right = loss(right)
    return (low + high) / 2
