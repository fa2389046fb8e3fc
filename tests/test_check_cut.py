"""A mask that stops all at once at a plane is told; one that ends gently, or with the head, not."""

import numpy as np
import pytest

from bratskit.cases import check_case

SHAPE = (48, 48, 48)


def ball(centre=24):
    grid = np.indices(SHAPE) - np.array([centre, 24, 24])[:, None, None, None]
    return (2 * ((grid**2).sum(axis=0) < 12**2)).astype(np.uint8)


def cuts_in(write_case, folder, labels):
    case = write_case(folder, "pat7", shape=SHAPE, labels=labels)
    return [one for one in check_case(case) if one.kind == "mask-cut"]


def test_a_whole_ball_ends_gently(write_case, tmp_path):
    assert cuts_in(write_case, tmp_path, ball()) == []


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_half_lost_at_a_plane_is_told_with_its_slice(write_case, tmp_path, axis):
    labels = np.moveaxis(ball(), axis, 0)
    labels[:24] = 0
    (finding,) = cuts_in(write_case, tmp_path, np.moveaxis(labels, 0, axis))
    place = (23, 23, 24)[axis]  # disk 24 counted in RAS+
    assert f"slice {'IJK'[axis]} = {place}," in finding.what
    assert (finding.severity, finding.where) == ("warning", "pat7_seg.nii.gz")


def test_every_second_slice_empty_and_six_empty_slices_are_told(write_case, tmp_path):
    second, six = ball(), ball()
    second[..., ::2] = 0
    six[:, 21:27] = 0
    (finding,) = cuts_in(write_case, tmp_path, second)
    assert "slices K = " in finding.what
    assert "more, in RAS+" in finding.what
    (finding,) = cuts_in(write_case, tmp_path, six)
    assert "slices J = 20, 27, in RAS+" in finding.what


def test_where_the_head_itself_is_cut_off_nothing_is_said(write_case, tmp_path):
    assert cuts_in(write_case, tmp_path, ball(centre=0)) == []
