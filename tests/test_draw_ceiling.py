"""The ceiling figure shows every lesion once, at its volume and Dice, and says what was cut off."""

import numpy as np
import pytest

from bratskit.evaluate import Ceilings, ball_ceiling, ceiling
from bratskit.visualize import draw_ceiling
from bratskit.visualize.curves import REGION_COLOURS

MM = (1.0, 1.0, 1.0)


def truth():
    labels = np.zeros((20, 8, 8), np.uint8)
    labels[0, 0, 0] = labels[4:8, 1:5, 1:5] = 2
    labels[5, 2, 2] = 3
    return labels


def cut(labels):
    kept = labels.copy()
    kept[:5] = 0
    return kept


def both():
    whole = ceiling(truth(), np.copy, spacing_mm=MM, case="A", grid="whole")
    return whole + ceiling(truth(), cut, spacing_mm=MM, case="A", grid="cut")


def dots(ax):
    return np.concatenate([group.get_offsets().data for group in ax.collections])


def legend(figure):
    found = [*figure.legends, *(ax.get_legend() for ax in figure.axes)]
    return {text.get_text() for one in found if one is not None for text in one.get_texts()}


def test_each_grid_has_a_panel_and_each_lesion_a_dot():
    figure = draw_ceiling(both())
    whole, cut_off = figure.axes
    assert whole.get_title().startswith("whole\n")
    # WT has two lesions, TC and ET one: 1, 64, 1 and 1 voxels.
    assert sorted(dots(whole)[:, 0]) == pytest.approx([0.001, 0.001, 0.001, 0.064])
    assert set(dots(whole)[:, 1]) == {1.0}
    assert sorted(dots(cut_off)[:, 1]) == pytest.approx([0, 2 * 48 / (48 + 64), 1, 1])


def test_what_the_grid_cuts_off_is_said_and_marked():
    figure = draw_ceiling(both())
    assert {"partly cut off", "gone"} <= legend(figure)
    said = [text.get_text() for text in figure.axes[1].texts]
    assert said == [f"{17 / 65:.1%} of the tumour is cut off,\nin 1 case"]
    assert not figure.axes[0].texts


def test_nothing_lost_needs_no_words():
    figure = draw_ceiling(both().pick(grid="whole"))
    assert legend(figure) == {*REGION_COLOURS}


def test_balls_are_a_line_through_the_mean_of_each_size():
    balls = ball_ceiling(np.copy, (24, 24, 24), spacing_mm=MM, radii_mm=(1, 2), n_each=3)
    one = ceiling(truth(), np.copy, spacing_mm=MM, grid="prepared grid")
    (line,) = draw_ceiling(one, balls=balls).axes[0].lines
    assert line.get_xdata().tolist() == pytest.approx([0.007, 0.033])  # voxels in such balls
    assert line.get_ydata().tolist() == [1.0, 1.0]


def test_a_table_without_lesions_is_refused():
    with pytest.raises(ValueError, match="Add up"):
        draw_ceiling(Ceilings())
