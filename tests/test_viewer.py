"""Each control of the slice viewer changes the picture as it says; a picture stays without it."""

import base64
import re

import IPython.display
import numpy as np
import pytest
from pictures import colours, pixels, small_scan

from bratskit.visualize import SliceViewer
from bratskit.visualize.picture import Palette, outline_of
from bratskit.visualize.slices import ERROR_COLOURS, LABEL_COLOURS


@pytest.fixture
def viewer() -> SliceViewer:
    """Return a viewer whose prediction is the truth moved by three voxels."""
    scan = small_scan()
    return SliceViewer(scan, pred=np.roll(scan.labels, 3, axis=0))


def shown(viewer: SliceViewer) -> bytes:
    """Return the picture that the browser has."""
    return viewer._image.value


@pytest.mark.parametrize(
    ("control", "value"),
    [
        ("axis", "coronal"), ("axis", "sagittal"), ("index", 5), ("modality", "t1ce"),
        ("modality", "all four"), ("overlay", "none"), ("overlay", "truth"),
        ("overlay", "prediction"), ("overlay", "errors"), ("opacity", 0.9),
    ],
)  # fmt: skip
def test_every_control_changes_the_picture(viewer, control, value):
    before = shown(viewer)
    getattr(viewer, control).value = value
    assert shown(viewer) != before
    assert shown(viewer) == viewer.render()


def test_every_overlay_gives_another_picture(viewer):
    seen = set()
    for overlay in viewer.overlay.options:
        viewer.overlay.value = overlay
        seen.add(viewer.render())
    assert viewer.overlay.options == ("none", "truth", "prediction", "both", "errors")
    assert len(seen) == 5


def test_turning_keeps_the_place_on_each_axis(viewer):
    viewer.index.value = 6
    viewer.axis.value = "sagittal"
    assert viewer.index.max == viewer._box[0][1] - 1
    viewer.axis.value = "axial"
    assert viewer.index.value == 6


def test_one_turn_draws_once(viewer, monkeypatch):
    drawn = []
    render = viewer.render
    monkeypatch.setattr(viewer, "render", lambda: drawn.append(1) or render())
    viewer.axis.value = "sagittal"
    assert len(drawn) == 1


def test_the_browser_is_told_not_to_stretch_the_picture(viewer):
    assert viewer._image.layout.align_self == "flex-start"


def test_first_slice_is_the_busiest(viewer):
    counts = (viewer.truth > 0).sum(axis=(0, 1))
    assert counts[viewer.index.value] == counts.max()


def test_no_opacity_and_no_labels_are_the_same_picture(viewer):
    viewer.overlay.value = "truth"
    viewer.opacity.value = 0.0
    faded = pixels(viewer.render()).astype(int)
    viewer.overlay.value = "none"
    assert abs(faded - pixels(viewer.render())).max() <= 6  # tints have fewer grey levels


def test_full_opacity_shows_the_pure_label_colours(viewer):
    viewer.overlay.value = "truth"
    viewer.opacity.value = 1.0
    assert set(LABEL_COLOURS.values()) <= colours(viewer.render())


def test_both_outlines_the_prediction_only(viewer):
    viewer.overlay.value = "both"
    viewer.opacity.value = 0.3
    assert set(LABEL_COLOURS.values()) <= colours(viewer.render())
    viewer.overlay.value = "truth"
    assert not set(LABEL_COLOURS.values()) & colours(viewer.render())


def test_errors_have_their_own_colours(viewer):
    viewer.overlay.value = "errors"
    viewer.opacity.value = 1.0
    assert {ERROR_COLOURS[2], ERROR_COLOURS[3]} <= colours(viewer.render())
    perfect = SliceViewer(viewer.scan, pred=viewer.scan.labels)
    perfect.overlay.value, perfect.opacity.value = "errors", 1.0
    assert not {ERROR_COLOURS[2], ERROR_COLOURS[3], ERROR_COLOURS[4]} & colours(perfect.render())


def test_tumour_lies_where_the_letters_say(viewer):
    viewer.overlay.value, viewer.opacity.value = "truth", 1.0  # right front, see small_scan
    picture = pixels(viewer.render())
    rows, columns = np.nonzero((picture == LABEL_COLOURS[1]).all(axis=2))
    assert rows.mean() < picture.shape[0] / 2
    assert columns.mean() < picture.shape[1] / 2


def test_statistics_are_millilitres_of_all_and_of_the_slice(viewer):
    truth, place = viewer.truth, viewer.index.value
    line = viewer.statistics()[0]
    total_ml, slice_ml = (np.sum(part == 2) * 3 / 1000 for part in (truth, truth[:, :, place]))
    assert f"ED {total_ml:.1f} ({slice_ml:.2f})" in line
    assert line in viewer._text.value


def test_a_scan_without_any_labels_can_be_browsed():
    viewer = SliceViewer(small_scan(labels=False))
    assert viewer.overlay.options == ("none",)
    viewer.axis.value = "coronal"
    assert viewer.statistics() == []
    assert viewer.render(has_caption=True)


def test_display_publishes_widget_picture_and_text_in_one_bundle(viewer, monkeypatch):
    published = []
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: published.append((a, k)))
    viewer._ipython_display_()
    [((bundle,), options)] = published
    assert options == {"raw": True}
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == viewer.model_id
    assert base64.b64decode(bundle["image/png"]) == viewer.render(has_caption=True)
    assert re.search(r"Fake_00000, axial K = \d+", bundle["text/plain"])


def test_the_stored_picture_carries_a_caption(viewer):
    plain, captioned = pixels(viewer.render()), pixels(viewer.render(has_caption=True))
    assert captioned.shape[0] > plain.shape[0] + 80
    assert captioned[plain.shape[0] :].max() > 150


def test_a_prediction_on_another_grid_is_refused():
    scan = small_scan()
    with pytest.raises(ValueError, match=r"pred must be on the native grid.*invert_labels"):
        SliceViewer(scan, pred=scan.labels[1:])


def test_outline_is_the_rim_of_a_square():
    square = np.pad(np.full((4, 4), 3, dtype=np.uint8), 2)
    rim = outline_of(square)
    assert (rim > 0).sum() == 12
    assert not rim[3:5, 3:5].any()


def test_palette_holds_256_colours_and_ends_white():
    palette = Palette(opacity=0.5)
    assert len(palette.colours) <= 256
    assert palette.colours[palette.table[0][255]].tolist() == [255, 255, 255]
    assert palette.colours[palette.table[2][0]].tolist() == [43, 90, 116]  # half of sky blue
