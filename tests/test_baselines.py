"""The baselines label without learning, look only at the scan, and find what is plain to see."""

import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases.case import Scan
from bratskit.evaluate import dice, fit_flair_threshold, predict_nothing, threshold_flair
from bratskit.labels import MODALITIES, REGIONS, get_schema

# What each tissue adds to a brain of 300 +- 50: enhancing tumour is bright on T1ce alone.
ADDED = {"flair": (0, 60, 150, 120), "t1": (0, -40, 0, 0), "t1ce": (0, -40, 0, 250)}


def balls(shape: tuple[int, int, int], radii_vox: tuple[float, float, float]) -> np.ndarray:
    """Draw an oedema ball with a rim and a core inside it."""
    grid = np.indices(shape) - np.reshape([length // 2 for length in shape], (3, 1, 1, 1))
    distance_vox = np.sqrt((grid**2).sum(axis=0))
    labels = np.zeros(shape, dtype=np.uint8)
    for value, radius_vox in zip((2, 3, 1), radii_vox, strict=True):
        labels[distance_vox < radius_vox] = value
    return labels


def make_scan(labels: np.ndarray, rng: np.random.Generator, *, skull_vox: int = 4) -> Scan:
    image = np.zeros((4, *labels.shape), dtype=np.float32)
    inner = (slice(skull_vox, -skull_vox),) * 3
    anatomy = 300 + rng.normal(0, 50, labels.shape)  # the same in every modality
    for channel, name in enumerate(MODALITIES):
        added = np.array(ADDED.get(name, (0, 0, 0, 0)))[labels]
        image[channel][inner] = (anatomy + added + rng.normal(0, 10, labels.shape))[inner]
    return Scan(
        id="A", image=image, labels=labels, affine=np.eye(4), schema=get_schema("brats2017-2021"),
        header=nib.Nifti1Header(), disk_affine=np.eye(4),
    )  # fmt: skip


@pytest.fixture
def scan(rng) -> Scan:
    return make_scan(balls((48, 44, 40), (11, 7, 3.5)), rng)


def region(labels: np.ndarray, name: str) -> np.ndarray:
    return np.isin(labels, REGIONS[name])


def test_nothing_is_nothing_on_the_native_grid(scan):
    labels = predict_nothing(scan)
    assert labels.shape == scan.image.shape[1:]
    assert labels.dtype == np.uint8
    assert not labels.any()


@pytest.mark.parametrize("name", ["WT", "TC", "ET"])
def test_a_bright_ball_with_an_enhancing_rim_is_found(scan, name):
    labels = threshold_flair(scan, threshold=fit_flair_threshold([scan]))
    assert dice(region(labels, name), region(scan.labels, name)) > 0.75


def test_the_core_inside_the_rim_is_filled_as_necrosis(scan):
    labels = threshold_flair(scan, threshold=fit_flair_threshold([scan]))
    middle = tuple(length // 2 for length in labels.shape)
    assert labels[middle] == 1


def test_only_the_largest_part_is_kept(rng):
    labels = balls((48, 44, 40), (9, 0, 0))
    labels[6:13, 6:13, 6:13] = 2
    found = threshold_flair(make_scan(labels, rng), threshold=1.5)
    assert found[24, 22, 20]
    assert not found[5:14, 5:14, 5:14].any()


def test_the_labels_of_the_scan_are_never_looked_at(scan):
    blind = replace(scan, labels=None)
    assert np.array_equal(
        threshold_flair(blind, threshold=1.5), threshold_flair(scan, threshold=1.5)
    )


def test_regions_are_nested_and_nothing_is_labelled_outside_the_brain(scan):
    labels = threshold_flair(scan, threshold=0.5)
    assert set(np.unique(labels)) <= {0, 1, 2, 3}
    assert not labels[(scan.image == 0).all(axis=0)].any()


def test_a_higher_threshold_never_finds_more(scan):
    sizes = [np.count_nonzero(threshold_flair(scan, threshold=z)) for z in (1, 1.5, 2, 2.5, 3)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flipped_scan_is_labelled_the_same_but_flipped(scan, axis):
    flipped = replace(scan, image=np.flip(scan.image, axis + 1), labels=None)
    found = threshold_flair(flipped, threshold=1.5)
    assert np.array_equal(np.flip(found, axis), threshold_flair(scan, threshold=1.5))


def test_brighter_units_change_nothing(scan):
    scaled = replace(scan, image=scan.image * 8)
    same = threshold_flair(scaled, threshold=1.5) == threshold_flair(scan, threshold=1.5)
    assert same.mean() > 0.9999  # float32 rounding may move a voxel that lies on the threshold


def test_empty_and_flat_scans_are_labelled_as_nothing(scan):
    empty = replace(scan, image=np.zeros_like(scan.image))
    flat = replace(scan, image=np.ones_like(scan.image))
    assert not threshold_flair(empty, threshold=1.5).any()
    assert not threshold_flair(flat, threshold=1.5).any()


def test_the_scan_is_left_as_it_came(scan):
    before = scan.image.copy()
    threshold_flair(scan, threshold=1.5)
    assert np.array_equal(scan.image, before)


def test_the_threshold_follows_the_training_cases(rng):
    plain, bright = (make_scan(balls((48, 44, 40), (11, 7, 3.5)), rng) for _ in range(2))
    bright.image[0][bright.labels > 0] += 250
    assert fit_flair_threshold(iter([bright])) > fit_flair_threshold(iter([plain]))


def test_the_chosen_threshold_is_no_worse_than_any_other(scan):
    truth = region(scan.labels, "WT")
    scores = {
        z: dice(threshold_flair(scan, threshold=z) > 0, truth) for z in np.arange(0.5, 3.1, 0.25)
    }
    assert scores[fit_flair_threshold([scan])] == max(scores.values())


def test_fitting_refuses_cases_without_labels_and_no_cases(scan):
    with pytest.raises(ValueError, match=r"none for A\. Find such cases with .*require_labels"):
        fit_flair_threshold([replace(scan, labels=None)])
    with pytest.raises(ValueError, match=r"at least one training case.*load_scan"):
        fit_flair_threshold([])


@pytest.mark.slow
def test_a_brats_sized_scan_takes_at_most_three_seconds(rng):
    scan = make_scan(balls((240, 240, 155), (30, 20, 10)), rng, skull_vox=30)
    started = time.process_time()
    threshold_flair(scan, threshold=1.5)
    assert time.process_time() - started < 3
