"""Promise: truth there and back is exact without resampling, and what else costs is told."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bratskit.cases import find_cases, load_labels
from bratskit.evaluate import ball_ceiling, ceiling
from bratskit.preprocess import Geometry, Resize
from bratskit.settings import GeometrySettings

IDENTITY = np.eye(4)
MM = (1.0, 1.0, 1.0)
REGION_NAMES = ("WT", "TC", "ET")


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


def trip(geometry, how="linear"):
    return lambda labels: geometry.invert_labels(geometry.apply_labels(labels, how=how), how=how)


def crop(box):
    """Keep what lies in a box of slices, as a centre crop does there and back."""

    def there_and_back(labels):
        kept = np.zeros_like(labels)
        kept[box] = labels[box]
        return kept

    return there_and_back


def region_dice(found):
    return {row.name: row.dice for row in found.scores.pick(kind="region")}


@pytest.mark.parametrize("how", ["linear", "nearest"])
@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0)])
def test_the_ceiling_without_resampling_is_exactly_one(how, spacing_mm):
    geometry = plan(tumour(), spacing_mm=spacing_mm)
    found = ceiling(tumour(), trip(geometry, how), spacing_mm=MM)
    assert region_dice(found) == {"WT": 1.0, "TC": 1.0, "ET": 1.0}
    assert set(found.scores.column("hd95_mm")) == {0.0}
    assert [(lesion.dice, lesion.hd95_mm, lesion.lost_vox) for lesion in found.lesions] == [
        (1.0, 0.0, 0)
    ] * 3


def test_resampling_costs_the_thin_rim_most_and_nearest_more():
    geometry = plan(tumour(), spacing_mm=(2, 2, 2))
    linear = region_dice(ceiling(tumour(), trip(geometry), spacing_mm=MM))
    nearest = region_dice(ceiling(tumour(), trip(geometry, "nearest"), spacing_mm=MM))
    assert 1 > linear["WT"] > linear["ET"] > 0.5
    assert nearest["ET"] < linear["ET"]


def test_an_absent_region_follows_the_named_empty_rule_and_has_no_lesion():
    labels = np.where(tumour() == 3, 1, tumour()).astype(np.uint8)
    geometry = plan(labels, spacing_mm=None)
    brats = ceiling(labels, trip(geometry), spacing_mm=MM)
    left_out = ceiling(labels, trip(geometry), spacing_mm=MM, empty_rule="nan")
    assert region_dice(brats)["ET"] == 1.0
    assert math.isnan(region_dice(left_out)["ET"])
    assert {lesion.region for lesion in brats.lesions} == {"WT", "TC"}


def test_voxels_that_a_crop_cuts_off_are_counted_by_region_and_cost_dice():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[0:4, 0:2, 0:2] = 2  # 16 voxels, 4 of them on the plane that the crop leaves out
    labels[0, 0, 0] = 3
    found = ceiling(labels, crop(np.s_[1:]), spacing_mm=MM)
    assert found.lost_voxels() == {"WT": 4, "TC": 1, "ET": 1}
    assert region_dice(found) == {"WT": float(Fraction(2 * 12, 12 + 16)), "TC": 0.0, "ET": 0.0}


def test_what_resampling_moves_is_not_called_lost():
    geometry = plan(tumour(), size_vox=(16, 20, 17))
    found = ceiling(tumour(), trip(geometry), spacing_mm=MM)
    assert region_dice(found)["WT"] < 1
    assert found.lost_voxels() == {"WT": 0, "TC": 0, "ET": 0}


def test_each_lesion_is_scored_with_what_came_back_nearest_to_it():
    labels = np.zeros((12, 5, 5), np.uint8)
    labels[1:3, 2, 2] = labels[8:10, 2, 2] = 2
    back = labels.copy()
    back[4, 2, 2] = 2  # 2 voxels from the first lesion, 4 from the second
    back[9, 2, 2] = 0
    first, second = ceiling(labels, lambda _: back, spacing_mm=(3, 1, 1)).lesions
    assert (first.dice, second.dice) == (float(Fraction(4, 2 + 3)), float(Fraction(2, 2 + 1)))
    assert first.volume_ml == second.volume_ml == pytest.approx(2 * 3 / 1000)
    # Outlines are whole here. Distances back -> truth 0, 0, 6 mm: their 95th percentile is 5.4.
    assert first.hd95_mm == pytest.approx(0.9 * 6)


def test_nearest_means_millimetres_not_voxels():
    labels = np.zeros((9, 9, 5), np.uint8)
    labels[4, 0, 2] = labels[0, 4, 2] = 2
    back = labels.copy()
    back[4, 3, 2] = 2  # 3 mm from (4, 0); 4 voxels of 0.5 mm and one of 1 mm from (0, 4)
    found = ceiling(labels, lambda _: back, spacing_mm=(0.5, 1, 1))
    dices = {lesion.number: lesion.dice for lesion in found.lesions}
    assert dices == {1: float(Fraction(2, 3)), 2: 1.0}  # lesion 1 is (0, 4): it comes first


def test_voxels_that_touch_at_a_corner_are_one_lesion():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[0, 0, 0] = labels[1, 1, 1] = labels[3, 3, 3] = 2
    found = ceiling(labels, np.copy, spacing_mm=MM)
    assert [lesion.volume_ml for lesion in found.lesions] == pytest.approx([0.002, 0.001])


def test_a_lesion_of_which_nothing_comes_back_is_gone_and_scores_the_rule():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 1, 1] = 2
    (gone,) = ceiling(labels, np.zeros_like, spacing_mm=MM).lesions
    assert (gone.is_gone, gone.dice, gone.hd95_mm) == (True, 0.0, 373.13)
    assert gone.lost_vox == 1  # a grid that reaches nothing


def test_lesions_are_grouped_by_volume_and_a_limit_belongs_to_the_larger_class():
    labels = np.zeros((40, 5, 5), np.uint8)
    labels[0, 0, 0] = labels[2:12, 0:5, 0:2] = labels[14, 0, 0] = 2  # 1, 100 and 1 voxels
    found = ceiling(labels, crop(np.s_[:14]), spacing_mm=MM)
    small, middle, *larger = found.by_size()
    assert (small.n, small.n_gone, small.dice) == (2, 1, 0.5)
    assert (middle.from_ml, middle.to_ml, middle.n) == (0.1, 1.0, 1)
    assert [group.n for group in larger] == [0, 0]
    assert math.isnan(larger[0].dice)


def test_the_table_shows_grids_regions_sizes_and_voxels_out_of_reach():
    both = ceiling(tumour(), np.copy, spacing_mm=MM, case="A", grid="as it is")
    both += ceiling(tumour(), crop(np.s_[17:]), spacing_mm=MM, case="A", grid="half <")
    text, page = str(both), both._repr_html_()
    lost = int((tumour()[:17] > 0).sum())
    line = next(line for line in text.splitlines() if line.startswith("half <") and "WT" in line)
    assert line.endswith(f"  {lost:,}")
    assert "half&nbsp;&lt;" in page
    assert both.grids == ("as it is", "half <")
    assert str(ceiling(np.zeros_like(tumour()), np.copy, spacing_mm=MM)) == "no ceilings"


def test_means_leave_out_the_cases_that_do_not_have_the_region():
    without_et = np.where(tumour() == 3, 1, tumour()).astype(np.uint8)
    found = ceiling(tumour(), crop(np.s_[17:]), spacing_mm=MM, case="A")
    found += ceiling(without_et, crop(np.s_[17:]), spacing_mm=MM, case="B")
    whole, _, et = found.by_region()
    assert (whole.n, et.region, et.n) == (2, "ET", 1)
    assert et.dice == region_dice(found.pick(case="A"))["ET"] < 1
    assert et.lost_vox == found.lost_voxels()["ET"]


def test_picking_by_what_is_no_column_lists_the_columns():
    with pytest.raises(ValueError, match="grid', 'case', 'region"):
        ceiling(tumour(), np.copy, spacing_mm=MM).pick(lesion="1")


def test_a_round_trip_to_another_grid_is_refused():
    with pytest.raises(ValueError, match="native grid first"):
        ceiling(tumour(), lambda labels: labels[1:], spacing_mm=MM)


@given(
    voxels=st.lists(st.tuples(*[st.integers(0, 5)] * 3, st.integers(1, 3)), max_size=12),
    cut=st.integers(0, 5),
    spacing_mm=st.tuples(*[st.sampled_from([0.5, 1.0, 3.0])] * 3),
)
def test_lesions_add_up_to_their_region(voxels, cut, spacing_mm):
    labels = np.zeros((6, 6, 6), np.uint8)
    for i, j, k, label in voxels:
        labels[i, j, k] = label
    found = ceiling(labels, crop(np.s_[cut:]), spacing_mm=spacing_mm)
    lost = found.lost_voxels()
    for row in found.scores.pick(kind="region"):
        lesions = found.pick(region=row.name).lesions
        assert math.isclose(sum(lesion.volume_ml for lesion in lesions), row.truth_ml, abs_tol=1e-9)
        voxel_ml = np.prod(spacing_mm) / 1000
        assert math.isclose(row.truth_ml - row.pred_ml, lost[row.name] * voxel_ml, abs_tol=1e-9)
        assert all(lesion.is_gone == (lesion.dice == 0) for lesion in lesions)


# Halves of brain boxes, mm, that become 64^3: voxels as 128^3 makes of the whole box, here about
# 1.09 x 1.35 x 1.12 mm wide. One box alone is luck: it sets which lesions lose a plane.
HALF_BRAINS = ((69, 85, 69), (70, 87, 73), (69, 88, 74), (72, 86, 71))


def to_128(shape, how="linear"):
    affine = tuple(map(tuple, IDENTITY))
    grid = Geometry(native_shape=shape, native_affine=affine, steps=(Resize((64, 64, 64)),))
    return trip(grid, how)


def rims(shape, *, outer_vox, thickness_vox, rng):
    """Draw eight hollow shells, one in each octant."""
    labels = np.zeros(shape, np.uint8)
    for corner in np.ndindex(2, 2, 2):
        centre = (np.array(corner) + 0.5) * np.array(shape) / 2 + rng.uniform(-1, 1, 3)
        squares = [(np.arange(n) - c) ** 2 for n, c in zip(shape, centre, strict=True)]
        away = np.sqrt(sum(np.ix_(*squares)))
        labels[(away <= outer_vox) & (away > outer_vox - thickness_vox)] = 3
    return labels


@pytest.mark.parametrize(("how", "expected"), [("nearest", 0.83), ("linear", 0.77)])
def test_a_lesion_of_2_mm_through_128_cubed_scores_as_was_measured(how, expected):
    # CORRECTNESS, Geometry: .83 / .77. All voxels whose centre is nearer than 2 mm, 27 of them.
    means = []
    for shape in HALF_BRAINS:
        options = {"spacing_mm": MM, "radii_mm": (1.99,), "n_each": 60}
        found = ball_ceiling(to_128(shape, how), shape, **options).pick(region="ET")
        assert {round(1000 * lesion.volume_ml) for lesion in found.lesions} == {27}
        means.append(np.mean([lesion.dice for lesion in found.lesions]))
    assert np.mean(means) == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize(("how", "expected"), [("nearest", 0.87), ("linear", 0.91)])
def test_a_rim_of_1_and_a_half_mm_through_128_cubed_scores_as_was_measured(how, expected, rng):
    # CORRECTNESS, Geometry: .87 / .91. Shells 30 mm across.
    means = []
    for shape in HALF_BRAINS:
        labels = rims(shape, outer_vox=15, thickness_vox=1.5, rng=rng)
        found = ceiling(labels, to_128(shape, how), spacing_mm=MM)
        means.append(region_dice(found)["ET"])
    assert np.mean(means) == pytest.approx(expected, abs=0.02)


def test_larger_balls_lose_less_and_stay_apart():
    shape = HALF_BRAINS[0]
    found = ball_ceiling(to_128(shape), shape, spacing_mm=MM, radii_mm=(2, 4, 8), n_each=5)
    lesions = sorted(found.pick(region="ET").lesions, key=lambda lesion: lesion.volume_ml)
    means = [np.mean([lesion.dice for lesion in lesions[at : at + 5]]) for at in (0, 5, 10)]
    assert len(lesions) == 15
    assert means[0] < means[1] < means[2] < 1
    assert lesions[-1].volume_ml == pytest.approx(4 / 3 * np.pi * 8**3 / 1000, rel=0.02)


def test_balls_keep_to_where_the_grid_reaches():
    keep = crop(np.s_[8:24, 8:24, 8:24])
    found = ball_ceiling(keep, (32, 32, 32), spacing_mm=MM, radii_mm=(2, 3))
    assert found.lost_voxels()["ET"] == 0


def test_balls_without_room_are_refused():
    with pytest.raises(ValueError, match="Try"):
        ball_ceiling(np.copy, (8, 8, 8), spacing_mm=MM, radii_mm=(9,))


def test_real_truth_comes_back_voxel_for_voxel(real_cases):
    for case in find_cases(real_cases)[::10]:
        labels, affine = load_labels(case.labels_path, schema=case.schema)
        # The mask alone is a tighter box than the brain's: nothing outside it may be lost either.
        geometry = Geometry.plan(labels > 0, GeometrySettings(), affine=affine)
        np.testing.assert_array_equal(trip(geometry)(labels), labels, err_msg=case.id)


@pytest.mark.slow
def test_real_truth_scores_one_through_the_brain_box(real_cases):
    from bratskit.cases import load_scan

    for case in find_cases(real_cases)[::3]:
        scan = load_scan(case)
        geometry = Geometry.plan(scan, GeometrySettings())
        found = ceiling(scan.labels, trip(geometry), spacing_mm=scan.spacing_mm, case=case.id)
        assert set(found.lost_voxels().values()) == {0}, case.id
        assert {lesion.dice for lesion in found.lesions} == {1.0}, case.id


def test_a_table_of_ceilings_is_named_in_one_line():
    labels = np.zeros((8, 8, 8), np.uint8)
    labels[2:5, 2:5, 2:5] = 3
    table = ceiling(labels, np.copy, spacing_mm=(1.0, 1.0, 1.0), case="a", grid="own")
    assert repr(table) == "<Ceilings of own: lesions 3, cases 1>"
