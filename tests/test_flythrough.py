"""A fly-through is a small, looping GIF of every slice, written whole or not at all."""

import numpy as np
import pytest
from pictures import small_scan
from PIL import Image

from bratskit.visualize import write_flythrough
from bratskit.visualize.slices import LABEL_COLOURS


def test_every_slice_of_the_brain_is_a_frame_and_the_loop_never_ends(tmp_path):
    scan = small_scan()
    path = write_flythrough(scan, scan.labels, tmp_path / "new" / "fly.gif", seconds=2.0)
    with Image.open(path) as gif:
        assert gif.n_frames == 20
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 100


def test_the_first_frame_has_most_tumour(tmp_path):
    scan = small_scan()
    labels = np.zeros_like(scan.labels)
    labels[9:19, 9:19, 14] = 2  # one slice, late in the journey
    path = write_flythrough(scan, labels, tmp_path / "fly.gif", opacity=1.0)
    painted = []
    with Image.open(path) as gif:
        for number in range(gif.n_frames):
            gif.seek(number)
            frame = np.asarray(gif.convert("RGB"))
            painted.append((frame == LABEL_COLOURS[2]).all(axis=2).sum())
    assert np.argmax(painted) == 0
    assert painted[0] > max(painted[1:]) + 50


def test_opaque_labels_show_in_their_colours_and_nothing_is_laid_over_without(tmp_path):
    scan = small_scan()
    counts = []
    for labels in (scan.labels, None):
        path = write_flythrough(scan, labels, tmp_path / "fly.gif", opacity=1.0)
        with Image.open(path) as gif:
            frame = np.asarray(gif.convert("RGB"))
            counts.append((frame == LABEL_COLOURS[2]).all(axis=2).sum())
    assert counts[0] > counts[1] + 50  # the legend's swatch stays


def test_detail_is_given_up_before_size(tmp_path):
    scan = small_scan()
    path = write_flythrough(scan, scan.labels, tmp_path / "fly.gif", max_bytes=20_000)
    large = write_flythrough(scan, scan.labels, tmp_path / "large.gif")
    assert path.stat().st_size <= 20_000 < large.stat().st_size


def test_another_axis_is_another_journey(tmp_path):
    scan = small_scan()
    paths = [
        write_flythrough(scan, None, tmp_path / f"{axis}.gif", axis=axis)
        for axis in ("axial", "sagittal")
    ]
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_other_endings_are_refused_with_the_right_one(tmp_path):
    with pytest.raises(ValueError, match=r"Try .*fly\.gif"):
        write_flythrough(small_scan(), None, tmp_path / "fly.mp4")


def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "fly.gif"
    path.write_bytes(b"old")
    monkeypatch.setattr("bratskit.visualize.flythrough._frames", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_flythrough(small_scan(), None, path)
    assert [item.name for item in tmp_path.iterdir()] == ["fly.gif"]
    assert path.read_bytes() == b"old"
