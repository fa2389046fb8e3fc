"""Entropies are those a pencil gives, folding forgets no member, an interval says what it says."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from bratskit.predict.uncertainty import RunningUncertainty, entropy_bits
from bratskit.predict.volumes import region_probs, volumes_of


def volume(*channels: float) -> torch.Tensor:
    return torch.tensor(channels).reshape(-1, 1, 1, 1)


def some_members(rng, targets, *, n=5):
    logits = torch.from_numpy(rng.normal(size=(n, 3 if targets == "regions" else 4, 3, 4, 5)) * 3)
    return (logits.sigmoid() if targets == "regions" else logits.softmax(dim=1)).float()


@pytest.mark.parametrize(
    ("probs", "targets", "bits"),
    [
        ((1, 0, 0, 0), "labels", [0]),
        ((0.25, 0.25, 0.25, 0.25), "labels", [2]),
        ((0.5, 0.25, 0.25, 0), "labels", [1.5]),
        ((0.5, 1, 0.25), "regions", [1, 0, 2 - 0.75 * math.log2(3)]),
    ],
)
def test_entropy_is_the_one_by_hand(probs, targets, bits):
    found = entropy_bits(volume(*map(float, probs)), targets)
    np.testing.assert_allclose(found.ravel(), bits, atol=1e-6)


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_an_average_that_rounds_to_above_one_is_certain(targets):
    above = np.nextafter(np.float32(1), np.float32(2))
    found = entropy_bits(volume(float(above), 0.0, 0.0), targets)
    assert found.ravel().tolist() == [0.0] * len(found)
    regions = region_probs(np.full((3 if targets == "regions" else 4, 2), above), targets=targets)
    assert all(p.max() <= 1 for p in regions.values())


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_entropy_is_scipys(rng, targets):
    probs = some_members(rng, targets)[0]
    if targets == "labels":
        expected = stats.entropy(probs.double().numpy(), base=2, axis=0)[None]
    else:
        both = np.stack([probs.double().numpy(), 1 - probs.double().numpy()])
        expected = stats.entropy(both, base=2, axis=0)
    np.testing.assert_allclose(entropy_bits(probs, targets), expected, atol=1e-5)


def test_members_that_are_each_sure_but_disagree_are_all_mutual_information():
    running = RunningUncertainty("labels")
    for member in ((1.0, 0.0), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0)):
        running.add(volume(*member))
    assert running.expected_entropy().item() == 0
    assert running.entropy().item() == running.mutual_information().item() == 1


def test_members_that_share_a_doubt_have_entropy_and_no_mutual_information():
    running = RunningUncertainty("regions")
    for _ in range(3):
        running.add(volume(0.5, 0.5, 0.5))
    assert running.entropy().ravel().tolist() == [1, 1, 1]
    assert running.mutual_information().ravel().tolist() == [0, 0, 0]


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_folding_one_by_one_equals_the_stack(rng, targets):
    stack = some_members(rng, targets)
    running = RunningUncertainty(targets)
    for member in stack:
        running.add(member)
    mean = stack.mean(dim=0)
    each = torch.stack([entropy_bits(member, targets) for member in stack]).mean(dim=0)
    torch.testing.assert_close(running.mean(), mean)
    torch.testing.assert_close(running.expected_entropy(), each)
    torch.testing.assert_close(
        running.mutual_information(), (entropy_bits(mean, targets) - each).clamp(min=0)
    )


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_mutual_information_lies_between_nothing_and_the_entropy(rng, targets):
    running = RunningUncertainty(targets)
    for member in some_members(rng, targets):
        running.add(member)
    assert (running.mutual_information() >= 0).all()
    assert (running.mutual_information() <= running.entropy() + 1e-6).all()


def test_the_order_of_the_members_does_not_matter_and_they_are_left_alone(rng):
    stack = some_members(rng, "labels")
    kept = stack.clone()
    forward, backward = RunningUncertainty("labels"), RunningUncertainty("labels")
    for member, other in zip(stack, stack.flip(0), strict=True):
        forward.add(member)
        backward.add(other)
    torch.testing.assert_close(forward.entropy(), backward.entropy())
    assert torch.equal(stack, kept)


def test_one_member_agrees_with_itself(rng):
    running = RunningUncertainty("labels")
    running.add(some_members(rng, "labels")[0])
    assert running.mutual_information().max() == 0


def test_a_member_of_another_shape_is_refused():
    running = RunningUncertainty("labels")
    running.add(torch.ones(4, 2, 2, 2))
    with pytest.raises(ValueError, match="geometry and targets agree"):
        running.add(torch.ones(4, 2, 2, 3))


def test_no_member_has_no_mean():
    with pytest.raises(RuntimeError, match="Call add first"):
        RunningUncertainty("labels").entropy()


def test_a_region_is_the_sum_of_its_labels():
    probs = np.array([0.1, 0.2, 0.3, 0.4])
    found = region_probs(probs, targets="labels")
    assert {name: round(float(p), 6) for name, p in found.items()} == {
        "WT": 0.9, "TC": 0.6, "ET": 0.4,
    }  # fmt: skip
    assert region_probs(probs[:3], targets="regions") == {"WT": 0.1, "TC": 0.2, "ET": 0.3}


def test_an_interval_runs_from_sure_voxels_to_possible_ones():
    probs = np.array([1.0, 0.96, 0.9, 0.5, 0.06, 0.04])
    found = volumes_of({"WT": probs}, voxel_ml=0.5)["WT"]
    assert found.low_ml == 2 * 0.5  # above 0.95
    assert found.high_ml == 5 * 0.5  # above 0.05
    assert found.ml == 3 * 0.5  # above 0.5


def test_a_wider_level_has_a_wider_interval_and_certainty_has_none(rng):
    probs = rng.random((4, 5, 6))
    narrow, wide = (volumes_of({"": probs}, voxel_ml=1.0, level=q)[""] for q in (0.5, 0.9))
    assert wide.low_ml < narrow.low_ml < narrow.ml < narrow.high_ml < wide.high_ml
    mask = (probs > 0.5).astype(np.float32)
    assert len(set(volumes_of({"": mask}, voxel_ml=1.0)[""])) == 1


def test_the_interval_covers_one_threshold_for_all_voxels_as_often_as_it_says(rng):
    probs = rng.random(1000)
    found = volumes_of({"": probs}, voxel_ml=1.0)[""]
    drawn = [np.count_nonzero(probs > threshold) for threshold in rng.random(4000)]
    inside = np.mean([found.low_ml <= ml <= found.high_ml for ml in drawn])
    assert inside == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize(("how", "match"), [({"level": 1.0}, "level must"), ({}, "voxel_ml must")])
def test_an_interval_of_nonsense_is_refused(how, match):
    with pytest.raises(ValueError, match=match):
        volumes_of({}, voxel_ml=1.0 if how else 0.0, **how)
