"""A figure of Dice against patients has a panel a region and refuses to draw nothing."""

import pytest

from bratskit.evaluate import Estimate
from bratskit.labels import REGIONS
from bratskit.visualize.patients import draw_patients


def _point(mean: float) -> dict[str, Estimate]:
    made = Estimate(mean=mean, low=mean - 0.1, high=mean + 0.1, median=mean, n=10)
    return dict.fromkeys(REGIONS, made)


def test_each_region_has_a_panel_with_every_point_and_level():
    series = {"real alone": {5: _point(0.4), 20: _point(0.7)}, "with phantoms": {0: _point(0.5)}}
    figure = draw_patients(series, levels={"threshold": dict.fromkeys(REGIONS, 0.3)})
    assert [ax.get_title() for ax in figure.axes] == list(REGIONS)
    for ax in figure.axes:
        assert list(ax.get_xticks()) == [0, 5, 20]
        drawn = [line.get_ydata() for line in ax.get_lines()]
        assert any(list(means) == [0.4, 0.7] for means in drawn)
        assert any(set(means) == {0.3} for means in drawn)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["real alone", "with phantoms", "threshold"]


def test_nothing_to_draw_is_refused():
    with pytest.raises(ValueError, match="series must have at least one point"):
        draw_patients({"real alone": {}}, levels={})
