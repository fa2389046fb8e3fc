"""Figures show the right slice the right way round, and say what a reader needs to trust it."""

import base64
import sys

import IPython.display
import matplotlib
import numpy as np
import pytest
from pictures import colours, pixels, small_scan

from bratskit.evaluate import Scores, score_masks
from bratskit.visualize import (
    draw_comparison,
    draw_history,
    draw_modalities,
    draw_overlay,
    draw_scores,
    draw_slices,
    error_map,
)
from bratskit.visualize.frame import paint
from bratskit.visualize.slices import (
    LABEL_COLOURS,
    Plane,
    brain_box,
    intensity_window,
    make_plane,
    spread_indices,
    to_grey,
)

HISTORY = [
    {"epoch": 1, "loss": 1.4, "lr": 1e-3, "dice_WT": None},
    {"epoch": 2, "loss": 0.9, "lr": 5e-4, "dice_WT": 0.5, "dice_TC": 0.4, "dice_ET": 0.41,
     "dice_mean": 0.44, "dice_grid": "native"},
]  # fmt: skip


def texts(figure) -> str:
    """Join every word on a figure."""
    artists = figure.findobj(matplotlib.text.Text)
    return " | ".join(artist.get_text() for artist in artists if artist.get_text())


def corner(axis: str, marker: tuple[int, int, int], convention: str) -> tuple[int, int]:
    """Say where a single bright voxel of a 2x3x4 grid lands on the picture."""
    volume = np.zeros((2, 3, 4))
    volume[marker] = 1
    index = marker[["sagittal", "coronal", "axial"].index(axis)]
    plane = Plane(axis=axis, index=index, box=((0, 2), (0, 3), (0, 4)), spacing_mm=(1, 1, 1),
                  convention=convention)  # fmt: skip
    return tuple(int(place[0]) for place in np.nonzero(plane.cut(volume)))


@pytest.mark.parametrize(
    ("axis", "expected"), [("axial", (0, 0)), ("coronal", (0, 0)), ("sagittal", (0, 0))]
)
def test_right_front_top_is_the_upper_left_corner_in_radiological_view(axis, expected):
    assert corner(axis, (1, 2, 3), "radiological") == expected


def test_neurological_view_puts_the_patients_right_on_the_right():
    assert corner("axial", (1, 2, 3), "neurological") == (0, 1)
    assert corner("sagittal", (1, 2, 3), "neurological") == (0, 0)  # the nose stays on the left


@pytest.mark.parametrize("convention", ["radiological", "neurological"])
def test_letters_agree_with_where_a_voxel_lands(convention):
    plane = make_plane(small_scan(), "axial", convention=convention)
    row, column = corner("axial", (1, 2, 0), convention)  # right, front
    top, _, left, right = plane.letters
    assert (top if row == 0 else "P") == "A"
    assert (left, right)[column] == "R"


def test_anisotropic_voxels_keep_their_shape():
    scan = small_scan(spacing_mm=(1.0, 2.0, 3.0))
    box = ((0, 28), (0, 36), (0, 20))
    assert make_plane(scan, "axial", box=box).size_mm == (72, 28)
    assert make_plane(scan, "coronal", box=box).size_mm == (60, 28)
    assert make_plane(scan, "sagittal", box=box).size_mm == (60, 72)
    ax = draw_modalities(scan, axis="coronal").axes[0]
    left, right, low, high = ax.images[0].get_extent()
    assert (right - left, low - high) == make_plane(scan, "coronal").size_mm[::-1]


def test_the_default_slice_is_the_one_with_most_tumour():
    scan = small_scan()
    labels = np.zeros_like(scan.labels)
    labels[5:9, 5:9, 7] = 2
    labels[5:7, 5:7, 8] = 3
    assert make_plane(scan, "axial", labels=labels).index == 7


def test_spread_slices_stay_inside_the_tumour():
    labels = np.zeros((4, 4, 30), dtype=np.uint8)
    labels[2, 2, 10:21] = 1
    indices = spread_indices(labels, "axial", box=((0, 4), (0, 4), (0, 30)), n_slices=4)
    assert indices == [12, 14, 16, 18]


def test_background_is_black_and_the_window_ends_are_black_and_white():
    assert to_grey(np.array([0.0, -5.0, 100.0, 200.0, 300.0]), (100, 200)).tolist() == [
        0, 0, 0, 255, 255,
    ]  # fmt: skip
    assert to_grey(np.array([0.0, 0.5]), (-1, 1)).tolist() == [0, 191]  # z-scores: 0 is outside


def test_window_ignores_background():
    volume = np.zeros((20, 20, 20))
    volume[:4] = 50
    volume[4:6] = 60
    low, high = intensity_window(volume)
    assert (low, high) == (50, 60)
    assert intensity_window(np.zeros((4, 4, 4))) == (0, 1)


def test_brain_box_of_nothing_is_the_whole_grid():
    assert brain_box(np.zeros((4, 5, 6, 7))) == ((0, 5), (0, 6), (0, 7))


def test_paint_mixes_by_opacity_and_leaves_the_rest_grey():
    rgb = paint(np.array([[100, 100]], dtype=np.uint8), np.array([[0, 2]]), opacity=0.5)
    assert rgb[0, 0].tolist() == [100, 100, 100]
    assert rgb[0, 1].tolist() == [(100 + part) // 2 for part in LABEL_COLOURS[2]]


def test_error_map_names_each_kind_of_error():
    pred, truth = np.array([0, 1, 0, 2, 3]), np.array([0, 1, 2, 0, 1])
    assert error_map(pred=pred, truth=truth).tolist() == [0, 1, 2, 3, 4]
    assert error_map(pred=truth, truth=pred).tolist() == [0, 1, 3, 2, 4]


def test_every_case_figure_says_what_a_reader_needs():
    scan = small_scan()
    pred = np.roll(scan.labels, 2, axis=0)
    figures = [
        draw_modalities(scan, labels=scan.labels),
        draw_overlay(scan, scan.labels),
        draw_slices(scan, pred=pred, n_slices=3),
        draw_comparison([(scan, pred)], notes=["WT 0.71"]),
    ]
    for figure in figures:
        words = texts(figure)
        for wanted in (
            "Fake_00000",
            "axial K = ",
            "radiological: patient left on the right",
            "window",
            " mm",
            "ET enhancing",
        ):
            assert wanted in words, wanted


def test_orientation_letters_are_on_every_first_panel():
    panel = draw_overlay(small_scan(), small_scan().labels).axes[2]
    assert {text.get_text() for text in panel.texts} >= {"S", "I", "A", "P"}


def test_error_maps_have_their_own_legend():
    scan = small_scan()
    assert "missed" in texts(draw_slices(scan, pred=scan.labels))
    assert "missed" not in texts(draw_slices(small_scan(labels=False), pred=scan.labels))


def test_figures_are_small_and_leave_no_global_state():
    png = draw_modalities(small_scan()).to_png()
    assert len(png) < 100_000
    assert pixels(png).shape[1] < 800
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_a_notebook_shows_a_figure_without_pyplot(monkeypatch):
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: shown.append((a, k)))
    draw_modalities(small_scan())._ipython_display_()
    [((bundle,), options)] = shown
    assert options == {"raw": True}
    assert base64.b64decode(bundle["image/png"]) == draw_modalities(small_scan()).to_png()
    assert "Fake_00000" in bundle["text/plain"]


def test_legend_colours_survive_the_palette():
    png = draw_overlay(small_scan(), small_scan().labels).to_png()
    assert {*LABEL_COLOURS.values(), (255, 255, 255)} <= colours(png)


def test_history_marks_the_best_epoch_and_the_grid():
    words = texts(draw_history(HISTORY))
    assert "best, epoch 2" in words
    assert "native grid" in words
    assert "TC 0.40" in words


def test_history_without_validation_says_so():
    assert "not recorded" in texts(draw_history([{"epoch": 1, "loss": 2.0}]))


def test_scores_show_every_case_and_name_the_empty_rule():
    scan = small_scan()
    rows = []
    for number in range(3):
        pred = np.roll(scan.labels, number, axis=0)
        rows += score_masks(pred, scan.labels, spacing_mm=(1, 1, 3), case=f"c{number}")
    figure = draw_scores(Scores(rows))
    dots = [len(ax.collections[0].get_offsets()) for ax in figure.axes]
    assert dots == [3, 3, 3]
    assert "empty rule: brats" in texts(figure)


def test_labels_on_another_grid_are_refused():
    scan = small_scan()
    with pytest.raises(ValueError, match=r"native grid \(28, 36, 20\).*invert_labels"):
        draw_overlay(scan, scan.labels[:-1])


def test_unknown_choices_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="'sagittal', 'coronal', 'axial'"):
        draw_modalities(small_scan(), axis="K")
    with pytest.raises(ValueError, match="'flair', 't1', 't1ce', 't2'"):
        draw_overlay(small_scan(), small_scan().labels, modality="T1c")
    with pytest.raises(ValueError, match=r"in 0\.\.19 along axial"):
        draw_modalities(small_scan(), index=20)


def test_comparison_without_truth_is_refused():
    scan = small_scan(labels=False)
    with pytest.raises(ValueError, match="draw_slices"):
        draw_comparison([(scan, np.zeros(scan.image.shape[1:], np.uint8))])
