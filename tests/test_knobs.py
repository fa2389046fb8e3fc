"""Knobs change what they say and nothing else; figures of growth and voxels tell the truth."""

import base64
from dataclasses import replace

import IPython.display
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import colours, pixels

from bratskit import cases
from bratskit.cases import make_phantom
from bratskit.cases.phantoms import Ingredients, growth, partial_volumes
from bratskit.cases.phantoms.anatomy import draw_head, shape_anatomy
from bratskit.cases.phantoms.fields import Grid
from bratskit.cases.phantoms.growth import at_age
from bratskit.visualize import PhantomKnobs, coarsen, draw_growth, draw_voxels
from bratskit.visualize.dashboard import REGION_RGB
from bratskit.visualize.growth import growth_curve

COARSE = (8.0, 8.0, 8.0)
RING = 5  # seed of a tumour with a rim


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(RING, spacing_mm=COARSE)


@pytest.fixture(scope="module")
def quiet(phantom):
    """Return a tumour without enhancement."""
    plan = replace(phantom.growth, kind="low-grade", enhancing_share=0.0)
    return make_phantom(RING, spacing_mm=COARSE, growth=plan)


@pytest.fixture(scope="module")
def stages(phantom):
    """Return one tumour at three ages."""
    ages = [share * phantom.growth.age_days for share in (0.5, 0.75, 1.0)]
    plans = [at_age(phantom.growth, days) for days in ages]
    return [make_phantom(RING, spacing_mm=COARSE, growth=plan) for plan in plans]


@pytest.fixture(scope="module")
def panel() -> PhantomKnobs:
    return PhantomKnobs(RING, spacing_mm=8)


@pytest.fixture
def knobs(panel) -> PhantomKnobs:
    """Return the panel with its knobs as drawn."""
    panel.has_mask.value = True
    panel.show_patient(RING)
    return panel


def test_the_ends_of_the_sliders_hold_every_tumour_that_is_drawn(panel):
    use, grid = Ingredients(), Grid((30, 30, 20), (8.0, 8.0, 8.0), (0, 0, 0), "cpu")
    rng = np.random.default_rng(0)
    anatomy = shape_anatomy(rng, draw_head(rng, use), grid)
    rngs = [np.random.default_rng(seed) for seed in range(1500)]
    plans = [growth.draw_growth(rng, anatomy, grid, use) for rng in rngs]
    logarithmic = {
        "age_days": [plan.age_days for plan in plans],
        "diffusion_mm2_day": [plan.diffusion_white_mm2_day for plan in plans],
        "proliferation_per_day": [plan.proliferation_per_day for plan in plans],
    }
    for name, drawn in logarithmic.items():
        knob = getattr(panel, name)
        assert knob.base**knob.min <= min(drawn) <= max(drawn) <= knob.base**knob.max, name
    for name in ("rim_mm", "roughness", "push"):
        knob = getattr(panel, name)
        drawn = [getattr(plan, name) for plan in plans if name != "rim_mm" or plan.rim_mm > 0]
        assert max(drawn) <= knob.max, name


@pytest.fixture
def count(monkeypatch) -> list:
    """Count simulations from here on."""
    calls = []
    make = cases.make_phantom
    monkeypatch.setattr(cases, "make_phantom", lambda *a, **k: calls.append(a) or make(*a, **k))
    return calls


def words(figure) -> str:
    artists = figure.findobj(matplotlib.text.Text)
    return " | ".join(artist.get_text() for artist in artists if artist.get_text())


def test_knobs_start_where_the_seed_drew_them(knobs, phantom):
    assert knobs.growth == at_age(phantom.growth, phantom.growth.age_days)
    assert np.array_equal(knobs.phantom.scan.labels, phantom.scan.labels)
    assert knobs.refusal == ""


@pytest.mark.parametrize(
    ("knob", "value", "field"),
    [
        ("age_days", 150, "seen_days"), ("diffusion_mm2_day", 0.03, "diffusion_white_mm2_day"),
        ("proliferation_per_day", 0.02, "proliferation_per_day"), ("kind", "solid", "kind"),
        ("rim_mm", 9, "enhancing_share"), ("roughness", 0.5, "roughness"), ("push", 0.5, "push"),
    ],
)  # fmt: skip
def test_a_knob_of_the_tumour_changes_its_own_part_of_the_plan(knobs, knob, value, field):
    before, picture = knobs.phantom, knobs._image.value
    getattr(knobs, knob).value = value
    after = knobs.phantom.growth
    changed = {field} | ({"diffusion_grey_mm2_day"} if "diffusion" in field else set())
    changed |= {"enhancing_share"} if knob == "kind" else set()
    same = {name: getattr(before.growth, name) for name in changed}
    assert replace(after, **same) == before.growth
    assert getattr(after, field) != getattr(before.growth, field)
    assert knobs.phantom.truth["head"] == before.truth["head"]
    assert knobs._image.value != picture


def test_a_knob_of_the_scan_leaves_the_mask(knobs):
    before = knobs.phantom.scan
    for name in ("noise", "bias"):
        knobs.scan[name].value = 2.0
    after = knobs.phantom.scan
    assert np.array_equal(after.labels, before.labels)
    assert not np.array_equal(after.image, before.image)


def test_a_kind_without_a_rim_has_no_knob_for_it(knobs):
    knobs.kind.value = "low-grade"
    assert knobs.rim_mm.disabled
    assert knobs.phantom.truth["volumes_ml"]["regions"]["ET"] == 0
    knobs.kind.value = "ring"
    assert not knobs.rim_mm.disabled
    assert knobs.phantom.truth["volumes_ml"]["regions"]["ET"] > 0


@pytest.mark.parametrize(("days", "advice"), [(9000, "stay under 260 ml"), (10, "must have 0.1")])
def test_nonsense_is_refused_in_one_line_and_the_picture_stays(knobs, days, advice):
    before = knobs.phantom, knobs._image.value
    knobs.age_days.value = days
    assert advice in knobs.refusal
    assert "\n" not in knobs.refusal
    assert knobs.refusal in knobs._text.value
    assert (knobs.phantom, knobs._image.value) == before
    knobs.age_days.value = before[0].growth.seen_days
    assert knobs.refusal == ""


def test_a_turn_simulates_once_and_a_knob_turned_back_not_at_all(knobs, count):
    knobs.push.value = 0.55
    first = knobs.phantom
    assert len(count) == 1
    knobs.push.value = 0.45
    knobs.push.value = 0.55
    assert len(count) == 2
    assert knobs.phantom is first


def test_slices_and_outlines_are_shown_without_simulating(knobs, count):
    assert set(REGION_RGB.values()) <= colours(knobs._image.value)
    knobs.index.value += 1
    knobs.has_mask.value = False
    assert not set(REGION_RGB.values()) & colours(knobs._image.value)
    assert not count


def test_buttons_show_another_patient_and_the_same_as_drawn(knobs):
    another, as_drawn = knobs._knob_box.children[0].children
    drawn = knobs.growth
    knobs.push.value, knobs.scan["noise"].value = 0.02, 0.0
    as_drawn.click()
    assert knobs.growth == drawn
    assert knobs.scan["noise"].value == 1.0
    another.click()
    assert knobs.seed == RING + 1
    assert knobs.growth != drawn


def test_display_publishes_widget_picture_and_text_in_one_bundle(knobs, monkeypatch):
    published = []
    monkeypatch.setattr(IPython.display, "display", lambda *a, **k: published.append((a, k)))
    knobs._ipython_display_()
    [((bundle,), options)] = published
    assert options == {"raw": True}
    assert bundle["application/vnd.jupyter.widget-view+json"]["model_id"] == knobs.model_id
    assert base64.b64decode(bundle["image/png"]) == knobs.render()
    assert f"ring, {knobs.growth.seen_days:.0f} days" in bundle["text/plain"]
    assert pixels(knobs.render()).shape[1] > 900


def test_the_curve_of_a_plan_passes_through_its_detection(phantom):
    growth = phantom.growth
    curve = growth_curve(growth, until_days=growth.age_days)
    wanted = growth.whole_ml, growth.whole_ml * growth.core_share
    assert (curve.ml["WT"][-1], curve.ml["TC"][-1]) == pytest.approx(wanted, rel=1e-3)
    assert all((np.diff(line) >= 0).all() for line in curve.ml.values())


def test_a_figure_of_growth_names_ages_volumes_and_rates(stages):
    said = words(draw_growth(stages))
    for stage in stages:
        ml = stage.truth["volumes_ml"]["regions"]["WT"]
        assert f"{stage.growth.seen_days:.0f} days: {ml:.0f} ml" in said
    assert f"ring: D = {stages[0].growth.diffusion_white_mm2_day:.3g} mm" in said
    assert "radiological" in said
    dots = [line for line in draw_growth(stages).axes[-1].lines if line.get_marker() == "o"]
    whole = max((line.get_ydata() for line in dots), key=max)
    assert list(whole) == [stage.truth["volumes_ml"]["regions"]["WT"] for stage in stages]


def test_stages_of_two_patients_are_refused(phantom, quiet):
    with pytest.raises(ValueError, match="Change a plan with `at_age` only"):
        draw_growth([phantom, quiet])
    with pytest.raises(ValueError, match="at least one phantom"):
        draw_growth([])


def test_half_a_wide_voxel_is_none_of_the_mask_and_half_of_the_volume():
    sheet = np.zeros((4, 4, 4))
    sheet[:, :, 1] = 1  # one fine voxel thick
    wide = coarsen(sheet, 2)
    assert not (wide > 0.5).any()
    assert wide.sum() * 2**3 == sheet.sum()


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_wide_voxels_keep_the_volume(seed, step):
    share = np.random.default_rng(seed).random((7, 5, 6))
    assert coarsen(share, step).sum() * step**3 == pytest.approx(share.sum())


def test_wide_voxels_must_be_whole():
    with pytest.raises(ValueError, match=r"whole number above 0; got 1\.5"):
        coarsen(np.ones((2, 2, 2)), 1.5)


def test_a_figure_of_voxels_counts_as_coarsen_does(phantom):
    figure = draw_voxels(phantom, "WT", steps=(1, 2))
    wide = coarsen(partial_volumes(phantom, "WT"), 2)
    counted = (wide > 0.5).sum() * 16**3 / 1000
    assert f"voxels of 16 mm\ncounted {counted:.1f} ml" in words(figure)
    assert f"exact volume {phantom.truth['volumes_ml']['continuous']['WT']:.1f} ml" in words(figure)


def test_voxels_of_a_region_that_is_not_there_are_refused(quiet):
    with pytest.raises(ValueError, match="ET, of which it has none"):
        draw_voxels(quiet, "ET")
