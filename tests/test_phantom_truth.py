"""Truth: volumes and areas of level sets by pencil, and a phantom's masks are their signs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.cases import Phantom, make_phantom
from bratskit.cases.phantoms import Ingredients, partial_volumes, surface_of
from bratskit.cases.phantoms.levels import area_mm2, fractions, volume_ml
from bratskit.labels import REGIONS

COARSE = (4.0, 4.0, 4.0)
THICK = (3.0, 4.0, 8.0)  # averaged along two axes


@pytest.fixture(scope="module", params=[COARSE, THICK], ids=["coarse", "thick"])
def phantom(request) -> Phantom:
    return make_phantom(3, spacing_mm=request.param)


def ball(radius_mm: float, centre_mm: tuple[float, ...], spacing_mm: tuple[float, ...]):
    """Return the signed distance to a ball's surface at the voxel centres of an 80 mm box."""
    lines = [
        (np.arange(round(80 / s)) + 0.5) * s - c for s, c in zip(spacing_mm, centre_mm, strict=True)
    ]
    axes = np.ix_(*lines)
    return torch.from_numpy((radius_mm - np.sqrt(sum(a * a for a in axes))).astype(np.float32))


def ball_ml(radius_mm: float) -> float:
    return 4 / 3 * math.pi * radius_mm**3 / 1000


def test_a_half_space_fills_half_of_the_voxels_its_border_cuts():
    level = (torch.arange(8, dtype=torch.float32) - 3).reshape(8, 1, 1) * 2  # border in voxel 3
    parts = fractions(level.expand(8, 3, 3), (2.0, 2.0, 2.0))
    assert parts[:, 1, 1].tolist() == [0, 0, 0, 0.5, 1, 1, 1, 1]


def test_a_border_a_quarter_voxel_inwards_leaves_a_quarter():
    level = (torch.arange(8, dtype=torch.float32) - 3.25).reshape(8, 1, 1) * 2
    parts = fractions(level.expand(8, 3, 3), (2.0, 2.0, 2.0))
    assert parts[3, 1, 1].item() == 0.25


@settings(max_examples=30, deadline=None)
@given(
    st.floats(11, 25),  # below three voxels a ball centred on a corner errs by up to 4%
    st.tuples(*[st.floats(38, 42)] * 3),
    st.sampled_from([(4.0, 4.0, 4.0), (2.0, 4.0, 5.0), (5.0, 4.0, 2.5)]),
)
def test_a_ball_has_its_volume_and_area_wherever_it_lies(radius, centre, spacing):
    level = ball(radius, centre, spacing)
    assert volume_ml(level, spacing) == pytest.approx(ball_ml(radius), rel=0.025)
    assert area_mm2(level, spacing) == pytest.approx(4 * math.pi * radius**2, rel=0.03)


def test_the_worst_small_ball_errs_by_four_percent_in_volume_and_five_in_area():
    level = ball(10.0, (40.0, 40.0, 40.0), (4.0, 4.0, 4.0))  # centred on a corner of eight voxels
    errors = (
        abs(volume_ml(level, (4.0, 4.0, 4.0)) / ball_ml(10.0) - 1),
        abs(area_mm2(level, (4.0, 4.0, 4.0)) / (400 * math.pi) - 1),
    )
    assert 0.03 < errors[0] < 0.04
    assert 0.04 < errors[1] < 0.05


def test_parts_of_voxels_beat_counting_them_at_4_mm():
    rng = np.random.default_rng(0)
    missed = {"counted": [], "parts": []}
    for _ in range(40):
        radius, centre = rng.uniform(6, 15), rng.uniform(38, 42, 3)
        level = ball(radius, tuple(centre), COARSE)
        counted = float((level > 0).sum()) * 4**3 / 1000
        missed["counted"].append(counted / ball_ml(radius) - 1)
        missed["parts"].append(volume_ml(level, COARSE) / ball_ml(radius) - 1)
    spread = {name: float(np.sqrt(np.mean(np.square(v)))) for name, v in missed.items()}
    assert spread["parts"] < 0.01 < 0.03 < spread["counted"]


def test_each_voxel_of_a_ball_has_the_fraction_that_points_drawn_in_it_have():
    level = ball(12.0, (40.3, 39.1, 41.0), COARSE)
    fine = ball(12.0, (40.3, 39.1, 41.0), (0.5, 0.5, 0.5))
    drawn = (fine > 0).float().reshape(20, 8, 20, 8, 20, 8).mean((1, 3, 5))
    missed = (fractions(level, COARSE) - drawn).abs()
    assert missed.max() < 0.08
    assert missed[(drawn > 0) & (drawn < 1)].mean() < 0.03


def test_a_mask_is_where_its_level_set_is_above_zero(phantom: Phantom):
    for region, members in REGIONS.items():
        mask = np.isin(phantom.scan.labels, members)
        np.testing.assert_array_equal(phantom.level_sets[region] > 0, mask)


def test_regions_lie_in_each_other_in_level_sets_and_in_parts_of_voxels(phantom: Phantom):
    whole, core, enhancing = (phantom.level_sets[name] for name in ("WT", "TC", "ET"))
    assert (whole >= core).all() and (core >= enhancing).all()


def test_parts_of_voxels_add_up_to_the_volume_that_truth_states(phantom: Phantom):
    voxel_ml = math.prod(phantom.scan.spacing_mm) / 1000
    for region in REGIONS:
        parts = partial_volumes(phantom, region)
        assert parts.shape == phantom.scan.labels.shape
        assert parts.min() == 0 and parts.max() <= 1
        stated = phantom.truth["volumes_ml"]["continuous"][region]
        assert parts.sum(dtype=float) * voxel_ml == pytest.approx(stated, rel=1e-3)
        assert stated == pytest.approx(phantom.truth["volumes_ml"]["regions"][region], rel=0.35)


def test_a_full_voxel_is_in_the_mask_and_an_empty_one_is_not(phantom: Phantom):
    parts, mask = partial_volumes(phantom, "WT"), phantom.scan.labels > 0
    assert mask[parts > 0.9].mean() > 0.97
    assert not mask[parts == 0].any()


def test_a_mesh_is_closed_and_encloses_the_volume_of_the_mask():
    pytest.importorskip("skimage")
    phantom = make_phantom(3, spacing_mm=COARSE)
    surface = surface_of(phantom, "TC")
    a, b, c = np.moveaxis(surface.vertices_mm[surface.faces], 1, 0)
    enclosed = abs(np.einsum("ij,ij->i", a, np.cross(b, c)).sum()) / 6000
    assert enclosed == pytest.approx(phantom.truth["volumes_ml"]["continuous"]["TC"], rel=0.1)
    edges = np.sort(surface.faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _, times = np.unique(edges, axis=0, return_counts=True)
    assert (times == 2).all()
    assert surface.area_mm2 == pytest.approx(phantom.truth["areas_mm2"]["TC"], rel=0.15)


def test_a_mesh_lies_where_the_mask_lies_in_the_world():
    pytest.importorskip("skimage")
    phantom = make_phantom(3, spacing_mm=THICK)
    middle = surface_of(phantom, "WT").vertices_mm.mean(0)
    voxels = np.argwhere(phantom.scan.labels > 0)
    ends = np.stack([voxels.min(0), voxels.max(0)])
    lowest, highest = ends @ phantom.scan.affine[:3, :3].T + phantom.scan.affine[:3, 3]
    assert (lowest < middle).all() and (middle < highest).all()


def test_a_cavity_belongs_to_no_region():
    made = (
        make_phantom(s, spacing_mm=COARSE, ingredients=Ingredients(cavity=2)) for s in range(20)
    )
    phantom = next(one for one in made if one.cavity is not None)
    assert phantom.cavity.any()
    assert (phantom.scan.labels[phantom.cavity] == 0).all()
    assert (phantom.level_sets["WT"][phantom.cavity] <= 0).all()
    test_a_mask_is_where_its_level_set_is_above_zero(phantom)


def test_a_region_that_is_none_is_refused_by_name():
    phantom = make_phantom(3, spacing_mm=(8.0, 8.0, 8.0))
    with pytest.raises(ValueError, match="one of WT, TC, ET; got 'ED'"):
        partial_volumes(phantom, "ED")
