"""Figures of uncertainty show doubt where it is, promises against truth, and refuse guesses."""

import numpy as np
import pytest
from pictures import small_scan

from bratskit.evaluate import reliability, risk_coverage
from bratskit.predict import Prediction, Volume
from bratskit.visualize import (
    draw_reliability,
    draw_risk_coverage,
    draw_sureness,
    draw_uncertainty,
)

REGIONS = ("WT", "TC", "ET")


def texts(figure) -> str:
    found = [text.get_text() for ax in figure.axes for text in ax.texts]
    found += [ax.get_title() for ax in figure.axes]
    for ax in figure.axes:
        legend = ax.get_legend()
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return " | ".join([figure.get_suptitle(), *found])


def prediction_of(scan, **changes):
    entropy = np.zeros((1, *scan.labels.shape), np.float32)
    entropy[0, 17, 21, 11] = 2
    values = {"labels": scan.labels, "entropy": entropy, "mutual_information": entropy / 2}
    return Prediction(id=scan.id, probs=None, **(values | changes))


def picture_of(figure, number):
    return np.asarray(figure.axes[number].images[0].get_array()).astype(int)


def test_doubt_glows_where_it_is_and_nowhere_else():
    scan = small_scan()
    figure = draw_uncertainty(scan, prediction_of(scan), index=11)
    glow = picture_of(figure, 2)
    coloured = np.ptp(glow, axis=2) > 12
    assert coloured.sum() == 1
    assert picture_of(figure, 0)[coloured].any()  # inside the brain
    assert "entropy, bits" in texts(figure)
    assert "Fake_00000" in texts(figure)


def test_a_certain_network_glows_nowhere():
    scan = small_scan()
    sure = prediction_of(scan, entropy=np.zeros((1, *scan.labels.shape), np.float32))
    assert (np.ptp(picture_of(draw_uncertainty(scan, sure), 2), axis=2) <= 3).all()


def test_without_truth_no_error_is_drawn():
    scan, blind = small_scan(), small_scan(labels=False)
    prediction = prediction_of(scan)
    assert "errors" in texts(draw_uncertainty(scan, prediction, name="mutual_information"))
    assert "errors" not in texts(draw_uncertainty(blind, prediction))


def test_of_regions_the_most_unsure_is_shown():
    scan = small_scan()
    entropy = np.zeros((3, *scan.labels.shape), np.float32)
    entropy[0, 17, 21, 11] = entropy[2, 16, 21, 11] = 1
    glow = picture_of(draw_uncertainty(scan, prediction_of(scan, entropy=entropy), index=11), 2)
    assert (np.ptp(glow, axis=2) > 12).sum() == 2


def test_uncertainty_that_was_not_asked_for_or_does_not_exist_is_refused():
    scan = small_scan()
    with pytest.raises(ValueError, match="uncertainty=True"):
        draw_uncertainty(scan, prediction_of(scan, entropy=None))
    with pytest.raises(ValueError, match="got 'doubt'"):
        draw_uncertainty(scan, prediction_of(scan), name="doubt")
    with pytest.raises(ValueError, match="native grid"):
        draw_uncertainty(small_scan(shape=(20, 20, 20)), prediction_of(scan))


def measured(rng, power):
    probs = rng.random(20_000)
    return reliability(probs**power, rng.random(20_000) < probs)


def test_a_promise_and_its_error_are_told_before_and_after(rng):
    before = {name: measured(rng, 3) for name in REGIONS}
    after = {name: measured(rng, 1) for name in REGIONS}
    figure = draw_reliability(before, after)
    assert [ax.get_title() for ax in figure.axes] == list(REGIONS)
    assert f"before, ECE {before['TC'].ece:.4f}" in texts(figure)
    assert f"after, ECE {after['TC'].ece:.4f}" in texts(figure)
    assert "after" not in texts(draw_reliability(before))


def test_bins_of_a_few_voxels_are_left_out():
    found = reliability(np.r_[np.full(500, 0.1), 0.9], np.r_[np.zeros(500, bool), True])
    line = draw_reliability({"WT": found}).axes[0].lines[1]
    assert np.isfinite(line.get_ydata().astype(float)).sum() == 1


def test_curves_stand_between_random_and_ideal(rng):
    uncertainty = rng.random(5000)
    wrong = rng.random(5000) < uncertainty**2
    curve = risk_coverage(uncertainty, wrong)
    figure = draw_risk_coverage({"entropy": curve})
    assert f"entropy ({curve.distance:.2f})" in texts(figure)
    assert "random order" in texts(figure)
    assert "ideal order" in texts(figure)


def test_volumes_inside_their_interval_are_counted(rng):
    same = {name: measured(rng, 1) for name in REGIONS}
    curve = risk_coverage(np.arange(10), np.arange(10) > 7)
    volumes = {"WT": {"a": (Volume(10, 5, 20), 12.0), "b": (Volume(1, 0, 2), 50.0)}}
    figure = draw_sureness(same, same, {"entropy": curve}, volumes, title="two patients")
    assert "WT: 1 of 2 inside" in texts(figure)
    assert "two patients" in texts(figure)


@pytest.mark.parametrize("draw", [draw_reliability, draw_risk_coverage])
def test_nothing_measured_is_refused(draw):
    with pytest.raises(ValueError, match=r"got none\. Measure with"):
        draw({})
