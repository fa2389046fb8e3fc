"""The pictures of phantoms are drawn from cases as they are, and kept for this generator."""

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bratskit.cases import make_phantom
from bratskit.evaluate.likeness import read_real_traits
from bratskit.jobs.phantom_samples import GALLERY, LIKENESS, write_phantom_samples
from bratskit.visualize import draw_gallery, draw_likeness, make_tile
from bratskit.visualize.gallery import PANEL_MM
from bratskit.visualize.likeness import SHOWN

SAMPLES = Path(__file__).parents[1] / "samples"


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, spacing_mm=(6, 6, 6))


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@pytest.mark.parametrize("name", [GALLERY, LIKENESS])
def test_the_kept_pictures_are_small_and_of_this_generator(name, phantom):
    again = "run `python -m bratskit.jobs.phantom_samples`, and look at them"
    picture = Image.open(SAMPLES / name)
    made_by = re.match(r"generator (\d+), seed", picture.text["Description"])
    assert int(made_by[1]) == phantom.truth["generator"], again
    assert (SAMPLES / name).stat().st_size < 1_500_000


def test_a_tile_shows_the_voxels_of_the_slice_with_most_tumour(phantom):
    tile = make_tile(phantom.scan, px_a_mm=1 / 6)
    sums = (phantom.scan.labels > 0).sum(axis=(0, 1))
    assert np.count_nonzero(tile.mask) == sums.max()  # a voxel is a pixel, and none is cut off
    assert f"axial K = {sums.argmax()}" in tile.caption
    assert tile.grey.shape == (4, PANEL_MM[0] / 6, round(PANEL_MM[1] / 6))


def test_a_tile_names_sizes_in_ml(phantom):
    whole_ml = phantom.truth["volumes_ml"]["regions"]["WT"]
    assert f"WT {whole_ml:.3g}" in make_tile(phantom.scan, note="ring").caption


def test_left_of_the_patient_is_on_the_right(phantom):
    tile = make_tile(phantom.scan, px_a_mm=1 / 6)
    half = phantom.scan.labels[::-1].copy()
    other = make_tile(replace(phantom.scan, labels=half, image=phantom.scan.image[:, ::-1]),
                      px_a_mm=1 / 6)  # fmt: skip
    assert tile.letters == ("R", "L")
    assert np.count_nonzero(tile.mask[:, ::-1] != other.mask) < 0.1 * np.count_nonzero(tile.mask)


def test_a_gallery_has_five_panels_a_case_and_paints_only_the_mask(phantom):
    tile = make_tile(phantom.scan)
    picture = pixels(draw_gallery([tile] * 3, title="three"))
    height, width = tile.mask.shape
    assert picture.shape[1] == 2 * 5 * width + 14
    assert picture.shape[0] == 46 + 2 * (17 + height)
    row = picture[46 + 17 : 46 + 17 + height, : 5 * width].astype(int)
    coloured = np.ptp(row, axis=2) > 0
    assert not coloured[:, : 4 * width].any()
    assert np.array_equal(coloured[:, 4 * width :] | (tile.mask == 0), tile.mask >= 0)


def test_a_gallery_of_nothing_and_a_case_without_mask_are_refused(phantom):
    with pytest.raises(ValueError, match="make_tile"):
        draw_gallery([], title="none")
    with pytest.raises(ValueError, match="must carry labels"):
        make_tile(replace(phantom.scan, labels=None))


def test_the_comparison_draws_every_number_with_its_distance():
    real = read_real_traits()
    made = {name: values + 1e6 for name, values in real.items()}
    figure = draw_likeness(made, real)
    assert len(figure.axes) == len(SHOWN) == 40
    texts = [ax.texts[0].get_text() for ax in figure.axes]
    assert set(texts) == {"KS 1.00*"}  # nothing of the one overlaps the other
    alike = draw_likeness(real, real, shown=["WT_ml"]).axes[0]
    assert alike.texts[0].get_text() == "KS 0.00"
    medians = [line.get_xdata()[0] for line in alike.lines if len(line.get_xdata()) == 2]
    assert medians == [np.median(real["WT_ml"])] * 2


def test_a_zero_counts_in_the_distance_where_a_logarithmic_axis_cannot_draw_it():
    real = {"ET_ml": np.array([0.0, 0, 1, 2])}
    made = {"ET_ml": np.array([1.0, 2, 1, 2])}
    [panel] = draw_likeness(made, real, shown=["ET_ml"], n_across=1).axes
    assert panel.texts[0].get_text() == "KS 0.50"
    assert panel.get_xscale() == "log"


def test_a_number_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="'WT_ml'"):
        draw_likeness(read_real_traits(), {}, shown=["WT_ml"])


def test_both_pictures_come_from_one_command(tmp_path):
    paths = write_phantom_samples(
        tmp_path, n_gallery=2, n_measured=2, spacing_mm=(8, 8, 8), numbers=tmp_path / "made.json"
    )
    assert [path.name for path in paths] == [GALLERY, LIKENESS]
    assert "generator" in Image.open(paths[0]).text["Description"]
    assert len(read_real_traits(tmp_path / "made.json")["WT_ml"]) == 2
