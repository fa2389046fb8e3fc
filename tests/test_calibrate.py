"""The fitted temperature is the one that made the probabilities, and no test patient is needed."""

import numpy as np
import pytest
import torch
from scipy import optimize

from bratskit.predict.calibrate import temper, temperature_of


def labelled(rng, *, n=20_000, n_labels=4):
    """Draw logits, and labels as often as softmax says: the right temperature is 1."""
    logits = rng.normal(size=(n_labels, n)) * 2
    probs = np.exp(logits) / np.exp(logits).sum(axis=0)
    draws = rng.random(n)
    return logits, (draws > np.cumsum(probs, axis=0)).sum(axis=0).clip(max=n_labels - 1)


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=0)


def test_two_thirds_right_at_any_certainty_becomes_two_thirds():
    sure = np.tile([[0.999], [0.001]], 3)
    hot = temperature_of([(sure, np.array([0, 0, 1]))], targets="labels")
    np.testing.assert_allclose(temper(sure, hot, targets="labels")[0], 2 / 3, atol=1e-3)


@pytest.mark.parametrize("made_at", [0.4, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(rng, made_at):
    logits, labels = labelled(rng)
    found = temperature_of([(softmax(made_at * logits), labels)], targets="labels")
    assert found == pytest.approx(made_at, rel=0.03)


def test_regions_are_fitted_each_voxel_and_region_alike(rng):
    logits = rng.normal(size=(3, 40_000)) * 2
    logits[1:] = logits[0]  # all three the same, so that masks can nest
    is_in = rng.random(40_000) < 1 / (1 + np.exp(-logits[0]))
    labels = np.where(is_in, 3, 0)  # ET is in TC and in WT
    probs = 1 / (1 + np.exp(-2.5 * logits))
    assert temperature_of([(probs, labels)], targets="regions") == pytest.approx(2.5, rel=0.05)


def test_it_is_the_minimum_that_scipy_finds(rng):
    logits, labels = labelled(rng, n=2000)

    def loss(temperature):
        return -np.log(softmax(1.7 * logits / temperature)[labels, np.arange(2000)]).mean()

    best = optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded").x
    found = temperature_of([(softmax(1.7 * logits), labels)], targets="labels")
    assert found == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_tempering_is_dividing_the_logits(rng, targets):
    logits = torch.from_numpy(rng.normal(size=(3, 50)) * 4)
    activate = torch.sigmoid if targets == "regions" else lambda x: x.softmax(0)
    found = temper(activate(logits).numpy(), 2.0, targets=targets)
    np.testing.assert_allclose(found, activate(logits / 2), atol=1e-7)


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_tempering_keeps_the_order_and_survives_certainty(rng, targets):
    probs = np.array([[1.0, 0.7], [0.0, 0.2], [0.0, 0.1]], np.float32)
    found = temper(probs, 4.0, targets=targets)
    assert np.isfinite(found).all()
    assert found.dtype == np.float32
    assert np.array_equal(found.argsort(axis=0)[2], probs.argsort(axis=0)[2])


def test_volumes_of_many_patients_are_thinned_and_still_agree(rng):
    pairs = []
    for _ in range(3):
        logits, labels = labelled(rng, n=24_000)
        pairs.append((softmax(2 * logits).reshape(4, 20, 30, 40), labels.reshape(20, 30, 40)))
    every = temperature_of(pairs, targets="labels")
    thinned = temperature_of(iter(pairs), targets="labels", most_vox=8000)
    assert thinned == pytest.approx(every, rel=0.05)
    assert thinned == temperature_of(pairs, targets="labels", most_vox=8000)


def test_no_patient_and_another_grid_are_refused():
    with pytest.raises(ValueError, match="validation patients"):
        temperature_of([], targets="labels")
    with pytest.raises(ValueError, match="both on the prepared grid"):
        temperature_of([(np.ones((4, 2, 2)), np.zeros((2, 3), int))], targets="labels")
    with pytest.raises(ValueError, match="1 changes nothing"):
        temper(np.ones((4, 2)), 0, targets="labels")
