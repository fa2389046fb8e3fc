"""Promise: truth there and back is exact without resampling, and what else costs is told."""

import math
from fractions import Fraction

import numpy as np
import pytest

from bratskit.cases import find_cases, load_labels
from bratskit.preprocess import Geometry, ceiling, lost_voxels
from bratskit.settings import GeometrySettings

IDENTITY = np.eye(4)


def ball(radius_vox, shape=(32, 32, 32)):
    offsets = np.indices(shape) - np.array(shape).reshape(3, 1, 1, 1) / 2
    return (offsets**2).sum(axis=0) <= radius_vox**2


def tumour():
    labels = np.zeros((32, 32, 32), np.uint8)
    for radius, label in ((9, 2), (6, 3), (4.5, 1)):
        labels[ball(radius)] = label
    return labels


def plan(labels, **wanted):
    return Geometry.plan(ball(14) | (labels > 0), GeometrySettings(**wanted), affine=IDENTITY)


@pytest.mark.parametrize("how", ["linear", "nearest"])
@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_the_ceiling_without_resampling_is_exactly_one(how, spacing_mm):
    geometry = plan(tumour(), spacing_mm=spacing_mm)
    assert ceiling(tumour(), geometry, how=how) == {"WT": 1.0, "TC": 1.0, "ET": 1.0}


def test_resampling_costs_the_thin_rim_most_and_nearest_more():
    geometry = plan(tumour(), spacing_mm=(2, 2, 2))
    linear = ceiling(tumour(), geometry)
    nearest = ceiling(tumour(), geometry, how="nearest")
    assert 1 > linear["WT"] > linear["ET"] > 0.5
    assert nearest["ET"] < linear["ET"]


def test_a_region_that_is_absent_has_no_ceiling():
    labels = np.where(tumour() == 3, 1, tumour()).astype(np.uint8)
    scores = ceiling(labels, plan(labels, spacing_mm=None))
    assert math.isnan(scores["ET"])
    assert scores["TC"] == 1.0


def test_voxels_outside_the_box_are_counted_and_cost_dice():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0:4, 0:2, 0:2] = 2  # 16 voxels, 4 of them on the plane that the box leaves out
    box = np.zeros((8, 8, 8), bool)
    box[1:] = True
    geometry = Geometry.plan(box, GeometrySettings(spacing_mm=None), affine=IDENTITY)
    assert lost_voxels(labels, geometry) == 4
    assert ceiling(labels, geometry)["WT"] == float(Fraction(2 * 12, 12 + 16))


def test_real_truth_comes_back_voxel_for_voxel(real_cases):
    for case in find_cases(real_cases)[::10]:
        labels, affine = load_labels(case.labels_path, schema=case.schema)
        # The mask alone is a tighter box than the brain's: nothing outside it may be lost either.
        geometry = Geometry.plan(labels > 0, GeometrySettings(), affine=affine)
        back = geometry.invert_labels(geometry.apply_labels(labels))
        np.testing.assert_array_equal(back, labels, err_msg=case.id)


@pytest.mark.slow
def test_real_truth_scores_one_through_the_brain_box(real_cases):
    from bratskit.cases import load_scan

    for case in find_cases(real_cases)[::3]:
        scan = load_scan(case)
        geometry = Geometry.plan(scan, GeometrySettings())
        assert lost_voxels(scan.labels, geometry) == 0, case.id
        scores = {name: s for name, s in ceiling(scan.labels, geometry).items() if s == s}
        assert set(scores.values()) == {1.0}, case.id
