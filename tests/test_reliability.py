"""Reliability, ECE and risk-coverage give the numbers a pencil gives."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from bratskit.evaluate import Reliability, RiskCoverage, reliability, risk_coverage


def test_a_bin_promises_its_mean_and_observes_its_share():
    probs = np.array([0.1, 0.3, 0.7, 0.8, 1.0])
    found = reliability(probs, np.array([False, True, True, False, True]), n_bins=2)
    assert found.count.tolist() == [2, 3]
    np.testing.assert_allclose(found.promised, [0.2, 2.5 / 3])
    np.testing.assert_allclose(found.observed, [1 / 2, 2 / 3])
    by_hand = Fraction(2, 5) * Fraction(3, 10) + Fraction(3, 5) * (
        Fraction(25, 30) - Fraction(2, 3)
    )
    assert found.ece == pytest.approx(float(by_hand))


def test_an_edge_belongs_to_the_bin_above_and_one_to_the_last():
    found = reliability(np.array([0.0, 0.5, 1.0]), np.array([False, True, True]), n_bins=2)
    assert found.count.tolist() == [1, 2]


def test_the_promise_kept_has_no_error_and_an_empty_bin_no_number():
    found = reliability(np.full(4, 0.75), np.array([True, True, True, False]), n_bins=4)
    assert found.ece == 0
    assert np.isnan(found.observed[:3]).all()
    assert found.observed[3] == 0.75


def test_two_patients_added_are_both_measured_at_once(rng):
    probs, truth = rng.random((2, 50)), rng.random((2, 50)) < 0.3
    apart = reliability(probs[0], truth[0]) + reliability(probs[1], truth[1])
    together = reliability(probs, truth)
    assert apart.ece == pytest.approx(together.ece)
    assert np.array_equal(apart.count, together.count)


def test_honest_probabilities_have_a_small_error_and_inverted_ones_a_large_one(rng):
    probs = rng.random(100_000)
    truth = rng.random(100_000) < probs
    assert reliability(probs, truth).ece < 0.01
    assert reliability(1 - probs, truth).ece > 0.4


def test_no_voxel_has_no_error():
    assert np.isnan(reliability(np.zeros(0), np.zeros(0, bool)).ece)


@pytest.mark.parametrize(
    ("probs", "truth", "error", "match"),
    [
        (np.array([2.0]), np.array([True]), ValueError, "not logits"),
        (np.array([np.nan]), np.array([True]), ValueError, "not logits"),
        (np.array([0.5]), np.array([1]), TypeError, "labels > 0"),
        (np.array([0.5]), np.array([True, True]), ValueError, "shape of probs"),
    ],
)
def test_what_is_no_probability_of_a_mask_is_refused(probs, truth, error, match):
    with pytest.raises(error, match=match):
        reliability(probs, truth)


def test_other_bins_do_not_add_up():
    two = reliability(np.array([0.5]), np.array([True]), n_bins=2)
    three = reliability(np.array([0.5]), np.array([True]), n_bins=3)
    with pytest.raises(ValueError, match="same n_bins"):
        two + three
    assert isinstance(two + two, Reliability)


def test_errors_that_come_last_are_the_ideal_and_first_the_worst():
    wrong = np.array([False, False, True, True])
    last = risk_coverage(np.array([1, 2, 3, 4]), wrong, n_points=4)
    np.testing.assert_allclose(last.risk, [0, 0, 1 / 3, 1 / 2])
    assert last.area == last.ideal_area == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert last.distance == 0
    first = risk_coverage(np.array([4, 3, 2, 1]), wrong, n_points=4)
    np.testing.assert_allclose(first.risk, [1, 1, 2 / 3, 1 / 2])
    assert first.distance > 1


def test_voxels_equally_sure_give_the_mean_over_all_their_orders(rng):
    uncertainty, wrong = np.array([0, 1, 1, 1, 2]), np.array([True, False, True, False, True])
    risks = []
    for middle in itertools.permutations([1, 2, 3]):
        ordered = wrong[[0, *middle, 4]]
        risks.append(np.cumsum(ordered) / np.arange(1, 6))
    found = risk_coverage(uncertainty, wrong, n_points=5)
    np.testing.assert_allclose(found.risk, np.mean(risks, axis=0))


def test_only_the_order_counts_not_where_voxels_lie_nor_the_unit(rng):
    uncertainty, wrong = rng.random((6, 5)), rng.random((6, 5)) < 0.3
    found = risk_coverage(uncertainty, wrong)
    again = risk_coverage(np.exp(uncertainty)[::-1], wrong[::-1])
    assert found.area == pytest.approx(again.area)
    np.testing.assert_allclose(found.risk, again.risk)


def test_a_random_order_is_as_far_from_ideal_as_random_is(rng):
    wrong = rng.random(200_000) < 0.1
    assert risk_coverage(rng.random(200_000), wrong).distance == pytest.approx(1, abs=0.02)


def test_all_coverage_has_the_error_rate_and_no_error_has_no_distance():
    found = risk_coverage(np.arange(10), np.arange(10) < 3)
    assert found.risk[-1] == found.error_rate == 0.3
    assert np.isnan(risk_coverage(np.arange(3), np.zeros(3, bool)).distance)
    assert np.isnan(risk_coverage(np.arange(3), np.ones(3, bool)).distance)


def test_patients_weigh_the_same_however_many_voxels_they_have():
    few = risk_coverage(np.array([0, 1]), np.array([False, True]), n_points=2)
    many = risk_coverage(np.zeros(1000), np.zeros(1000, bool), n_points=2)
    both = RiskCoverage.over_patients([few, many])
    assert both.error_rate == 0.25
    np.testing.assert_allclose(both.risk, [0, 0.25])
    with pytest.raises(ValueError, match=r"got \[2, 3\]\. Measure every patient"):
        RiskCoverage.over_patients([few, risk_coverage(np.zeros(3), np.zeros(3, bool), n_points=3)])


@pytest.mark.parametrize(
    ("uncertainty", "wrong", "error", "match"),
    [
        (np.zeros(2), np.zeros(2), TypeError, "pred != truth"),
        (np.zeros(2), np.zeros(3, bool), ValueError, "shape of uncertainty"),
        (np.zeros(0), np.zeros(0, bool), ValueError, "got no voxel"),
        (np.array([np.nan]), np.zeros(1, bool), ValueError, "got a NaN"),
    ],
)
def test_what_cannot_be_ordered_is_refused(uncertainty, wrong, error, match):
    with pytest.raises(error, match=match):
        risk_coverage(uncertainty, wrong)
