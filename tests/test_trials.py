"""Trials show every seed, curves are drawn live only where watched, variants keep their slice."""

import dataclasses

import IPython.display
import numpy as np
import pytest
from pictures import small_scan

from bratskit.visualize import LiveCurves, draw_trials, draw_variants, patch_scan
from bratskit.visualize.live import is_watched

ROWS = [{"epoch": 1, "dice_WT": 0.1}, {"epoch": 2, "dice_WT": None}, {"epoch": 3, "dice_WT": 0.3}]
BETTER = [{**row, "dice_WT": row["dice_WT"] and row["dice_WT"] + 0.2} for row in ROWS]
HISTORY = [{"epoch": 1, "loss": 1.4, "lr": 1e-3}]


def test_a_trial_shows_each_seed_thin_and_their_mean_thick():
    (ax,) = draw_trials({"a": [ROWS, BETTER]}, columns=["dice_WT"]).axes
    thin, other, thick = ax.lines
    assert thick.get_linewidth() > thin.get_linewidth()
    assert list(thin.get_ydata()) == [0.1, 0.3]
    assert list(other.get_ydata()) == [0.1 + 0.2, 0.3 + 0.2]
    assert np.allclose(thick.get_ydata(), [0.2, 0.4])  # epoch 2 was not validated
    assert list(thick.get_xdata()) == [1, 3]


def test_trials_that_were_never_validated_leave_an_empty_panel():
    rows = [{"epoch": 1, "dice_WT": None}]
    (ax,) = draw_trials({"a": [rows, rows]}, columns=["dice_WT"]).axes
    assert all(len(line.get_xdata()) == 0 for line in ax.lines)


def test_trials_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"'a' must be equally long; got \[3, 2\]"):
        draw_trials({"a": [ROWS, ROWS[:2]]})
    with pytest.raises(ValueError, match="at least one history"):
        draw_trials({"a": []})


class Place:
    def __init__(self):
        self.pictures = []

    def update(self, picture):
        self.pictures.append(picture)


@pytest.fixture
def page(monkeypatch):
    """Stand in for a page; it lists what was added to it."""
    added = []
    place = Place()
    monkeypatch.setattr(IPython.display, "display", lambda *a, **_: added.append(a) or place)
    return added, place


def test_live_curves_replace_one_picture(page):
    added, place = page
    curves = LiveCurves(every_s=0, watched=True)
    for _ in range(3):
        curves(HISTORY)
    assert (len(added), len(place.pictures), curves.drawn) == (1, 2, 3)


def test_quick_epochs_are_not_slowed_by_pictures(page):
    curves = LiveCurves(every_s=60, watched=True)
    for _ in range(3):
        curves(HISTORY)
    assert curves.drawn == 1


def test_nothing_is_drawn_where_nobody_watches(page, monkeypatch):
    assert not is_watched()  # no kernel here
    curves = LiveCurves(every_s=0)
    curves(HISTORY)
    assert page[0] == []


def test_a_picture_that_fails_never_stops_a_training(page, capsys):
    curves = LiveCurves(every_s=0, watched=True)
    curves([])  # no row to draw
    curves(HISTORY)
    assert capsys.readouterr().out.startswith("live curves stop: ValueError")
    assert curves.drawn == 0


def test_a_patch_of_three_channels_keeps_each_under_its_name():
    scan = small_scan()
    three = ("flair", "t1ce", "t2")
    words = {"like": scan, "name": "patch", "affine": scan.affine}
    patch = patch_scan(scan.image[[0, 2, 3]], scan.labels, modalities=three, **words)
    assert np.array_equal(patch.image[[0, 2, 3]], scan.image[[0, 2, 3]])
    assert not patch.image[1].any()
    with pytest.raises(ValueError, match="name each of the 4 channels"):
        patch_scan(scan.image, scan.labels, modalities=three, **words)


def test_variants_show_the_slice_and_window_of_the_first():
    scan = small_scan()
    dark = dataclasses.replace(scan, image=scan.image * 0.5)
    figure = draw_variants({"as it is": scan, "dark": dark})
    first, second = (np.asarray(ax.images[0].get_array()) for ax in figure.axes[:2])
    assert first.mean() > second.mean()  # not stretched to white again
    assert [ax.get_title() for ax in figure.axes] == ["as it is", "dark", "", ""]
    with pytest.raises(ValueError, match="versions of one shape"):
        draw_variants({})
