"""What shines outside the tumour lies where anatomy puts it, and shading is shared."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bratskit.cases.phantoms.anatomy import Anatomy, draw_head, shape_anatomy  # noqa: E402
from bratskit.cases.phantoms.contrast import Contrast, draw_contrast  # noqa: E402
from bratskit.cases.phantoms.fields import Grid  # noqa: E402
from bratskit.cases.phantoms.ingredients import Ingredients  # noqa: E402
from bratskit.cases.phantoms.mimics import agent_weight  # noqa: E402
from bratskit.cases.phantoms.noises import Noises, near_place, where  # noqa: E402
from bratskit.cases.phantoms.render import _folia, _shading  # noqa: E402

GRID = Grid((80, 80, 52), (3.0, 3.0, 3.0), (0, 0, 0))


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return shape_anatomy(np.random.default_rng(1), draw_head(np.random.default_rng(2)), GRID)


@pytest.fixture(scope="module")
def contrast() -> Contrast:
    growth = SimpleNamespace(whole_ml=60.0, kind="ring")
    return replace(draw_contrast(np.random.default_rng(3), growth, Ingredients()), mimics=1.0)


@pytest.fixture(scope="module")
def noises(anatomy: Anatomy) -> Noises:
    return Noises(np.random.default_rng(4), anatomy, GRID)


@pytest.fixture(scope="module")
def weight(noises: Noises, contrast: Contrast, anatomy: Anatomy) -> torch.Tensor:
    return agent_weight(noises, contrast, anatomy, anatomy.csf)


def test_vessels_are_faint_in_deep_white_matter_and_bright_in_csf(
    weight: torch.Tensor, anatomy: Anatomy
):
    away = (anatomy.ventricle_mm > 8) & (anatomy.template_x_mm.abs() > 8)
    deep = away & (anatomy.depth_mm > 15) & (anatomy.white > 0.95) & (anatomy.csf < 0.001)
    assert 0 < weight[deep].max() <= 0.07  # 1.5 of a lumen at 0.04
    assert weight[away & (anatomy.csf > 0.5)].max() > 0.9


def test_no_plexus_hangs_in_the_frontal_horns(weight: torch.Tensor, anatomy: Anatomy):
    y = anatomy.template_yz_mm[0]
    inside = (anatomy.ventricle_mm < 0.5) & (anatomy.template_x_mm.abs() > 3)
    assert (inside & (y > 12)).any()
    assert weight[inside & (y > 12)].max() <= 0.07
    assert weight[inside & (y < 0)].max() > 0.3


def test_a_place_is_one_in_its_middle_and_nothing_far_away(anatomy: Anatomy):
    near = near_place(anatomy, where(anatomy.depth_mm > 0), (22, -41, 8), (6, 8, 9))
    y, z = anatomy.template_yz_mm
    offsets = ((anatomy.template_x_mm.abs() - 22) / 6, (y + 41) / 8, (z - 8) / 9)
    radius = torch.sqrt(sum(offset * offset for offset in offsets))
    assert (near[radius < 0.7] == 1).all()
    assert (near[radius > 1.23] == 0).all()
    for side in (1, -1):
        assert near[anatomy.template_x_mm * side > 0].max() == 1


def test_folia_are_fissures_of_the_cerebellum_alone(noises: Noises, anatomy: Anatomy):
    folia = _folia(anatomy, noises.draw("sulci", 5.5))
    assert folia.max() > 0.7
    assert (folia[anatomy.hindbrain == 0] == 0).all()


def test_shading_darkens_the_vertex_and_lifts_a_pole_as_told(
    noises: Noises, contrast: Contrast, anatomy: Anatomy
):
    flat = _shading(noises, replace(contrast, poles=(0.0, 0.0, 0.0)), anatomy)
    added = _shading(noises, replace(contrast, poles=(0.25, 0.0, -0.25)), anatomy) - flat
    y, z = anatomy.template_yz_mm
    assert added[(y < -85) & (z < 20)].min() > 0.1
    assert added[(z > 65) & (y > -40)].max() < -0.1
    assert added[(y > -60) & (z < 38)].abs().max() < 1e-6
