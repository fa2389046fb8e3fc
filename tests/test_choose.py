"""A clean-up is chosen where it helps, left alone where it does not, and judged on others."""

import dataclasses
import math

import numpy as np
import pytest

from bratskit.evaluate import dice
from bratskit.jobs.choose import GRID, LEAST_GAIN, Patient, choose_clean_up, untidied
from bratskit.labels import REGIONS
from bratskit.predict import tidy
from bratskit.settings import InferenceSettings

START = InferenceSettings()


def patient(name: str, labels: np.ndarray, truth: np.ndarray) -> Patient:
    brain = np.ones(truth.shape, dtype=bool)
    return Patient(id=name, labels=labels, truth=truth, brain=brain, spacing_mm=(1.0, 1.0, 1.0))


@pytest.fixture
def truth():
    """Draw 8 x 8 x 8 voxels of tumour: a shell of ED around 216 of NCR around 64 of ET."""
    truth = np.zeros((12, 12, 30), dtype=np.uint8)
    for value, first, last in ((2, 2, 10), (1, 3, 9), (3, 4, 8)):
        truth[first:last, first:last, first:last] = value
    return truth


def with_crumb(truth: np.ndarray, n_vox: int, value: int = 2) -> np.ndarray:
    labels = truth.copy()
    labels[0, 0, 14 : 14 + min(n_vox, 14)] = value
    return labels


def test_a_false_island_is_removed_by_the_smallest_size_that_does(truth):
    choice = choose_clean_up([patient("A", with_crumb(truth, 14), truth)], START)
    assert choice.values == {**{name: values[0] for name, values in GRID.items()}, **{
        "smallest_component_vox": 50}}  # fmt: skip
    assert choice.dice["without"]["WT"] == pytest.approx(2 * 512 / (512 + 526))
    assert choice.dice["chosen"] == {"WT": 1.0, "TC": 1.0, "ET": 1.0}


def test_false_et_of_a_tumour_without_any_becomes_necrosis(truth):
    without_et = np.where(truth == 3, 1, truth)
    labels = without_et.copy()
    labels[5, 5, 4:7] = 3  # three voxels inside the core
    choice = choose_clean_up([patient("A", labels, without_et)], START)
    assert choice.values["smallest_et_vox"] == 25
    assert choice.dice["without"]["ET"] == 0
    assert choice.dice["chosen"]["ET"] == 1


def test_a_perfect_mask_is_left_alone(truth):
    choice = choose_clean_up([patient("A", truth, truth)], START)
    assert choice.settings == START


def test_what_brings_less_than_the_least_gain_is_left_out(truth):
    labels = with_crumb(truth, 1)  # one voxel in 513: 0.001 of WT, a third of that on average
    gain = (1 - 2 * 512 / (512 + 513)) / 3
    assert 0 < gain < LEAST_GAIN
    assert choose_clean_up([patient("A", labels, truth)], START).settings == START


def test_a_size_that_helps_one_patient_and_costs_another_more_is_not_taken(truth):
    small = np.zeros_like(truth)
    small[5, 5, 5:19] = 2  # a whole tumour of 14 voxels
    patients = [patient("A", with_crumb(truth, 14), truth), patient("B", small, small)]
    assert choose_clean_up(patients, START).values["smallest_component_vox"] == 0


def test_a_patient_left_out_is_tidied_as_the_others_would_choose(truth):
    small = np.zeros_like(truth)
    small[5, 5, 5:19] = 2
    patients = [patient("A", with_crumb(truth, 14), truth), patient("B", small, small)]
    crumbs = 2 * 512 / (512 + 526)  # B alone would keep A's crumb; A alone would remove B whole
    found = choose_clean_up(patients, START).dice["left out"]
    assert found["WT"] == pytest.approx((crumbs + 0) / 2)


def test_the_recipes_own_value_is_tried_too(truth):
    own = dataclasses.replace(START, smallest_component_vox=14)
    labels = with_crumb(truth, 13)
    choice = choose_clean_up([patient("A", labels, truth)], own)
    tried = [t.value for t in choice.trials if t.setting == "smallest_component_vox"]
    assert tried == [0, 14, 50, 100, 200, 500, 1000, 2000]
    assert choice.values["smallest_component_vox"] == 14
    assert choice.dice["recipe"] == choice.dice["chosen"]


def test_every_number_is_that_of_tidy_and_dice(truth, rng):
    noisy = np.where(rng.random(truth.shape) < 0.1, 2, truth).astype(np.uint8)
    patients = [patient(name, noisy[:: 1 - 2 * k], truth) for k, name in enumerate("AB")]
    choice = choose_clean_up(patients, START)
    for trial in choice.trials[:3]:  # the first setting, with all others off
        settings = dataclasses.replace(untidied(START), **{trial.setting: trial.value})
        for region, members in REGIONS.items():
            found = [
                dice(
                    np.isin(tidy(one.labels, settings, spacing_mm=one.spacing_mm), members),
                    np.isin(truth, members),
                )
                for one in patients
            ]
            assert math.isclose(trial.dice[region], np.mean(found))
    assert choice.patients["A"]["chosen"].keys() == REGIONS.keys()


def test_other_settings_pass_through(truth):
    start = dataclasses.replace(START, temperature=1.7, mirror="all", smallest_et_vox=30)
    settings = choose_clean_up([patient("A", truth, truth)], start).settings
    assert settings == dataclasses.replace(start, smallest_et_vox=0)


def test_one_patient_alone_leaves_nobody_out_and_none_is_refused(truth):
    choice = choose_clean_up([patient("A", truth, truth)], START)
    assert list(choice.dice) == ["without", "recipe", "chosen"]
    with pytest.raises(ValueError, match="Give the validation patients"):
        choose_clean_up([], START)
