"""A case becomes a row of numbers that can be checked by hand, and two heaps of rows compare."""

from dataclasses import replace

import numpy as np
import pytest

from bratskit.cases import Scan
from bratskit.evaluate.likeness import (
    GROUPS,
    compare_traits,
    group_of,
    kolmogorov_smirnov,
    main,
    measure_scans,
    read_real_traits,
    tell_apart,
    write_traits,
)
from bratskit.evaluate.traits import measure_case
from bratskit.evaluate.traits_look import area_under_curve, measure_look
from bratskit.evaluate.traits_shape import measure_shape
from bratskit.labels import get_schema


def boxes(shape, **sizes):
    """Draw nested boxes round the middle: half widths of ED, ET and NCR."""
    labels = np.zeros(shape, np.uint8)
    for name, label in (("ed", 2), ("et", 3), ("ncr", 1)):
        if name in sizes:
            labels[tuple(slice(n // 2 - sizes[name], n // 2 + sizes[name]) for n in shape)] = label
    return labels


def scan_of(labels, rng, *, spacing_mm=(1.0, 1.0, 1.0), lift=0.0):
    image = rng.normal(100, 10, (4, *labels.shape)).astype(np.float32)
    image[0] += 40 * (labels > 0)
    image[2] += 60 * (labels == 3) + lift
    affine = np.diag([*spacing_mm, 1.0])
    return Scan(
        id="made", image=image, labels=labels, affine=affine, schema=get_schema("brats2017-2021"),
        header=None, disk_affine=affine,
    )  # fmt: skip


def test_volumes_and_shares_count_voxels_of_their_size():
    labels = boxes((20, 20, 20), ed=6, et=4, ncr=2)
    found = measure_shape(labels, labels >= 0, spacing_mm=(1, 1, 3))
    assert found["brain_ml"] == pytest.approx(8000 * 0.003)
    assert found["NCR_ml"] == pytest.approx(64 * 0.003)
    assert found["TC_of_WT"] == pytest.approx(8**3 / 12**3)
    assert found["ET_of_TC"] == pytest.approx((8**3 - 4**3) / 8**3)


def test_a_box_has_the_roundness_of_two_thirds_of_its_faces():
    labels = boxes((20, 20, 20), et=4)
    found = measure_shape(labels, labels >= 0, spacing_mm=(1, 1, 1))
    area = 6 * 8 * 8 * 2 / 3
    assert found["WT_sphericity"] == pytest.approx(np.pi ** (1 / 3) * (6 * 512) ** (2 / 3) / area)


def test_a_ball_is_round_and_its_pieces_are_less_so():
    grid = np.stack(np.meshgrid(*[np.arange(40)] * 3, indexing="ij")) - 19.5
    radius = np.sqrt((grid**2).sum(axis=0))
    ball = np.where(radius < 15, 2, 0).astype(np.uint8)
    shell = np.where(radius < 10, 0, ball)
    ones = np.ones(ball.shape, bool)
    found = [measure_shape(labels, ones, spacing_mm=(1, 1, 1)) for labels in (ball, shell)]
    assert found[0]["WT_sphericity"] == pytest.approx(1, abs=0.03)
    assert found[1]["WT_sphericity"] < 0.7


def test_a_plate_has_its_thickness_in_mm():
    labels = np.zeros((44, 44, 12), np.uint8)
    labels[2:42, 2:42, 4:8] = 3
    for thickness_mm, spacing_mm in ((4, (1, 1, 1)), (8, (2, 2, 2))):
        found = measure_shape(labels, labels >= 0, spacing_mm=spacing_mm)
        assert found["rim_mm"] == pytest.approx(thickness_mm, rel=0.1)


def test_what_lies_behind_the_border_of_the_core_is_told():
    labels = boxes((20, 20, 20), ed=6, et=4, ncr=2)
    found = measure_shape(labels, labels >= 0, spacing_mm=(1, 1, 1))
    assert found["NCR_in_ET"] == 1
    assert found["TC_in_ED"] == 1
    labels[10:] = 0  # half of it is gone, and with it what was behind one face of six
    found = measure_shape(labels, labels >= 0, spacing_mm=(1, 1, 1))
    assert found["TC_in_ED"] == pytest.approx((64 + 4 * 32) / (2 * 64 + 4 * 32))


def test_crumbs_are_counted_apart_from_parts():
    labels = np.zeros((20, 20, 20), np.uint8)
    labels[2:7, 2:7, 2:7] = 2
    labels[12, 12, 12] = 2
    found = measure_shape(labels, labels >= 0, spacing_mm=(1, 1, 1))
    assert (found["WT_parts"], found["WT_crumbs"]) == (1, 1)
    assert found["WT_largest"] == pytest.approx(125 / 126)
    assert np.isnan(found["ET_largest"])


def test_place_is_measured_from_the_middle_of_the_brain():
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[30:34, 18:22, 18:22] = 2
    found = measure_shape(labels, labels >= 0, spacing_mm=(1, 1, 1))
    assert found["WT_midline_mm"] == pytest.approx(31.5 - 19.5)
    assert found["WT_crosses"] == 0
    assert found["WT_front"] == pytest.approx(19.5 / 40)


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (2.0, 2.0, 2.0), (0.6, 1.0, 1.0)])
def test_a_tumour_astride_the_middle_is_on_it_whatever_the_voxels(spacing_mm):
    labels = boxes((40, 40, 40), ed=6)
    found = measure_shape(labels, labels >= 0, spacing_mm=spacing_mm)
    assert found["WT_midline_mm"] == pytest.approx(0, abs=1e-9)
    assert found["WT_crosses"] == 0.5


def test_the_curve_of_equal_heaps_is_one_half_and_of_apart_ones_one():
    assert area_under_curve(np.arange(5), np.arange(5)) == 0.5
    assert area_under_curve(np.arange(5) + 9, np.arange(5)) == 1
    assert np.isnan(area_under_curve(np.array([]), np.arange(5)))


def test_noise_and_sharpness_of_white_noise_are_known(rng):
    labels = boxes((40, 40, 40), ed=4)
    image = (rng.normal(0, 1, (4, 40, 40, 40)) + 50).astype(np.float32)
    found = measure_look(image, labels, spacing_mm=(1, 1, 1))
    assert found["t1_noise"] == pytest.approx(1, rel=0.05)  # in brain z-scores, whose sd is 1
    assert found["t1_detail"] == pytest.approx(2**0.5, rel=0.05)
    assert found["t1_grain"] == pytest.approx(1, rel=0.05)
    assert found["t1_through"] == pytest.approx(1, rel=0.05)
    assert found["t1_spread"] == pytest.approx(1 / 50, rel=0.05)


def test_thick_slices_show_across_and_not_within_them(rng):
    labels = boxes((40, 40, 40), ed=4)
    image = np.repeat(rng.normal(0, 1, (4, 40, 40, 10)) + 50, 4, axis=3).astype(np.float32)
    found = measure_look(image, labels, spacing_mm=(1, 1, 1))
    assert found["t1_through"] == pytest.approx(0.5, rel=0.1)  # one step in four is not 0


def test_bright_tumour_is_brighter_than_healthy_brain_and_as_sharp_as_it_was_made(rng):
    found = measure_case(scan_of(boxes((40, 40, 40), ed=9, et=5, ncr=2), rng))
    assert found["flair_WT_auc"] == pytest.approx(1, abs=0.01)
    assert found["t2_WT_auc"] == pytest.approx(0.5, abs=0.05)
    sd = 10 * found["flair_WT_step"] * found["flair_spread"]  # back to stored units
    assert sd == pytest.approx(40 / (100 + 40 * (18 / 40) ** 3) * 10, rel=0.05)


def test_intensity_scale_changes_the_mean_and_nothing_else(rng):
    scan = scan_of(boxes((40, 40, 40), ed=9, et=5, ncr=2), rng)
    first, second = measure_case(scan), measure_case(replace(scan, image=scan.image * 4))
    for name in first:
        if not name.endswith("_mean"):
            assert second[name] == pytest.approx(first[name], rel=2e-3, abs=2e-3, nan_ok=True), name
    assert second["t1_mean"] - first["t1_mean"] == pytest.approx(np.log10(4), abs=1e-3)


@pytest.mark.parametrize(
    ("change", "what"),
    [({"labels": None}, "no mask"), ({"image": np.zeros((4, 9, 9, 9))}, "no br")],
)
def test_a_case_that_cannot_be_measured_is_refused(rng, change, what):
    scan = replace(scan_of(boxes((9, 9, 9), ed=3), rng), **change)
    with pytest.raises(ValueError, match=rf"got {what}.*require_labels=True"):
        measure_case(scan)


def test_distance_of_distributions_is_that_of_scipy(rng):
    from scipy.stats import ks_2samp

    first, second = rng.normal(size=30), rng.normal(0.5, 1, 41).round(1)
    assert kolmogorov_smirnov(first, second) == pytest.approx(ks_2samp(first, second).statistic)


def test_like_is_not_told_apart_and_unlike_is_by_what_differs(rng):
    real = {f"flair_{i}": rng.normal(size=30) for i in range(5)}
    like = {name: rng.normal(size=60) for name in real}
    unlike = like | {"flair_3": rng.normal(3, 1, 60)}
    assert tell_apart(like, real).auc == pytest.approx(0.5, abs=0.2)
    telling = tell_apart(unlike, real, by="flair")
    assert telling.auc > 0.9
    assert telling.features[0][0] == "flair_3"
    worst = compare_traits(unlike, real)[0]
    assert worst.name == "flair_3"
    assert worst.distance > worst.by_chance


def test_the_numbers_of_thirty_real_cases_are_kept_without_names():
    real = read_real_traits()
    assert {len(values) for values in real.values()} == {30}
    assert list(real["WT_ml"]) == sorted(real["WT_ml"])
    assert np.isnan(real["rim_mm"]).sum() == 2  # two have no enhancing tumour
    assert {group_of(name) for name in real} == set(GROUPS)


def test_the_kept_numbers_are_those_that_are_measured_now(rng):
    assert list(read_real_traits()) == list(measure_case(scan_of(boxes((24,) * 3, ed=5), rng)))


@pytest.mark.slow
def test_the_kept_numbers_are_those_of_the_real_cases(real_cases):
    from bratskit.cases import find_cases, load_scan

    found = measure_scans(load_scan(case) for case in find_cases(real_cases))
    kept = read_real_traits()
    for name, values in found.items():
        np.testing.assert_allclose(values, kept[name], rtol=1e-3, err_msg=name)


def test_numbers_survive_the_file_and_are_compared_by_one_command(tmp_path, capsys, rng):
    made = {name: values + 1 for name, values in read_real_traits().items()}
    write_traits(tmp_path / "made.json", made)
    again = read_real_traits(tmp_path / "made.json")
    assert all(np.array_equal(again[name], made[name], equal_nan=True) for name in made)
    assert main(["--load", str(tmp_path / "made.json")]) == 0
    said = capsys.readouterr().out
    assert "told apart by all" in said
    assert "TC_of_WT" in said


def test_nothing_to_measure_is_refused(capsys):
    assert main([]) == 2
    assert "--make N" in capsys.readouterr().err
    with pytest.raises(ValueError, match="find_cases"):
        measure_scans([])
