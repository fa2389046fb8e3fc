"""Anatomy: real tissue maps in a new head, nothing folded, the same bits on every machine."""

import hashlib
import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bratskit.cases.phantoms import template as template_module  # noqa: E402
from bratskit.cases.phantoms.anatomy import (  # noqa: E402
    Anatomy,
    Head,
    draw_head,
    jacobian_range,
    load_template,
    shape_anatomy,
)
from bratskit.cases.phantoms.fields import Grid, exp, total  # noqa: E402
from bratskit.cases.phantoms.ingredients import Ingredients  # noqa: E402
from bratskit.cases.phantoms.warp import Coarse, coarse_grid  # noqa: E402

ROOT = Path(__file__).parents[1]
GRID = Grid((60, 60, 39), (4.0, 4.0, 4.0), (0, 0, 0))
VOXEL_ML = 0.064


def push_at(centre_mm: np.ndarray, strength: float, reach_mm: float):
    """Return the mass effect of one Gaussian, as a tumour's."""

    def push(points: list) -> list:
        axes = [p - float(c) for p, c in zip(points, centre_mm, strict=True)]
        squares = axes[0] * axes[0] + axes[1] * axes[1] + axes[2] * axes[2]
        fall = exp(squares * (-0.5 / reach_mm**2)) * -strength
        return [axis * fall for axis in axes]

    return push


def shape(head: Head, **options: object) -> Anatomy:
    return shape_anatomy(np.random.default_rng(1), head, options.pop("grid", GRID), **options)


@pytest.fixture(scope="module")
def head() -> Head:
    return draw_head(np.random.default_rng(2))


@pytest.fixture(scope="module")
def plain(head: Head) -> Head:
    """Straight, neither bent nor aged nor lopsided."""
    still = {"ventricles": 0.0, "ventricle_asymmetry": 0.0, "petalia_mm": 0.0, "atrophy": 0.0}
    return replace(head, bend_mm=(0.0, 0.0), **still)


@pytest.fixture(scope="module")
def anatomy(head: Head) -> Anatomy:
    return shape(head)


# -- nothing folds --------------------------------------------------------------------------


def worst_jacobian(seed: int, strength: float, grid: Grid, ingredients: Ingredients) -> float:
    """Push hard at a random place, near the surface too, with a random reach."""
    rng = np.random.default_rng([seed, 1])
    head = draw_head(np.random.default_rng(seed), ingredients)
    centre = head.centre_mm + rng.uniform(-40, 40, 3)
    coarse = Coarse(head, grid)
    push = push_at(centre, strength, rng.uniform(10, 40))
    return coarse.jacobian(push)[0]


def test_no_head_of_fifty_folds_under_a_strong_push():
    settings = [Ingredients(), Ingredients(bends=2, age=2)]
    worst = [worst_jacobian(seed, 0.85, GRID, settings[seed % 2]) for seed in range(50)]
    assert min(worst) > 0


@pytest.mark.slow
def test_no_head_of_a_hundred_folds_seen_at_two_millimetres():
    grid = Grid((74, 90, 74), (2.0, 2.0, 2.0), (22, 8, 1))
    settings = [Ingredients(), Ingredients(bends=2, age=2)]
    worst = [worst_jacobian(seed, 0.85, grid, settings[seed % 2]) for seed in range(100)]
    assert min(worst) > 0


def test_a_fold_would_be_seen(head: Head):
    assert jacobian_range(replace(head, bend_mm=(14.0, 6.0)), GRID)[0] < 0


def test_a_straight_head_has_jacobian_one_and_a_push_its_power_of_three(plain: Head):
    assert jacobian_range(plain, GRID) == pytest.approx((1, 1), abs=2e-3)
    middle = 4.0 * (np.floor(plain.centre_mm / 4) + 0.5)  # the centre of a voxel
    low, high = jacobian_range(plain, coarse_grid("cpu"), push_at(middle, 0.4, 20))
    assert low == pytest.approx(0.6**3, abs=0.02)
    assert high > 1


def test_bends_that_would_fold_are_made_weaker():
    def drawn(bends: float) -> list[Head]:
        amounts = Ingredients(bends=bends, age=0)
        return [draw_head(np.random.default_rng(seed), amounts) for seed in range(16)]

    strong = drawn(2)
    assert min(jacobian_range(head, GRID)[0] for head in strong) > 0.25
    shares = [a.bend_mm[0] / b.bend_mm[0] for a, b in zip(strong, drawn(1), strict=True)]
    assert max(shares) == pytest.approx(2, rel=1e-3)
    assert min(shares) < 1.9


# -- tissues --------------------------------------------------------------------------------


def test_fractions_add_up_to_one_and_deep_grey_matter_is_grey(anatomy: Anatomy):
    whole = anatomy.white + anatomy.grey + anatomy.csf
    assert torch.allclose(whole, torch.ones_like(whole), atol=1e-6)
    for part in (anatomy.white, anatomy.grey, anatomy.csf, anatomy.deep_grey):
        assert part.min() >= -1e-6
        assert part.max() <= 1
    assert (anatomy.deep_grey <= anatomy.grey).all()


def test_a_brain_is_as_large_as_a_brain(anatomy: Anatomy):
    assert 1000 < len(anatomy.voxels) * VOXEL_ML < 1700
    assert 15 < total(anatomy.deep_grey) * VOXEL_ML < 60
    assert 110 < total(anatomy.hindbrain) * VOXEL_ML < 230  # cerebellum 140, brain stem 25
    assert torch.equal(torch.nonzero(anatomy.brain.view(-1))[:, 0], anatomy.voxels)


def test_the_same_head_has_the_same_volumes_at_any_voxel_size(head: Head, anatomy: Anatomy):
    fine = shape(head, grid=Grid((120, 120, 78), (2.0, 2.0, 2.0), (0, 0, 0)))
    for name in ("white", "grey", "csf", "deep_grey"):
        coarse_ml = total(getattr(anatomy, name)) * VOXEL_ML
        assert total(getattr(fine, name)) * 0.008 == pytest.approx(coarse_ml, rel=0.03)


def test_nuclei_lie_where_an_atlas_has_them():
    deep = load_template().tissue[..., 2]
    x, y, z = template_module._MNI_ZERO_VOX
    nuclei = {"caudate": (13, 13, 6), "putamen": (26, 5, 0), "pallidum": (19, -4, -1)}
    for name, (right, front, up) in {**nuclei, "thalamus": (11, -17, 7)}.items():
        for side in (right, -right):
            assert deep[x + side, y + front, z + up] > 120, name
    for right, front, up in ((28, -20, 30), (45, 10, 0), (0, 30, 5), (0, -60, -30)):
        assert deep[x + right, y + front, z + up] == 0


def test_hindbrain_and_limbic_regions_lie_where_an_atlas_has_them():
    tissue = load_template().tissue
    x, y, z = template_module._MNI_ZERO_VOX

    def share(channel: int, place: tuple[int, int, int]) -> float:
        right, front, up = place
        return float(tissue[x + right, y + front, z + up, channel]) / 255

    cerebellum = ((20, -60, -40), (-35, -65, -35), (0, -60, -25))
    for place in (*cerebellum, (0, -25, -35), (0, -30, -12)):  # pons, midbrain
        assert share(4, place) > 0.9, place
    for place in ((20, -85, 0), (45, -30, -20), (25, 0, -30), (10, -20, 8), (0, 40, -10)):
        assert share(4, place) < 0.1, place
    for place in ((27, -22, -14), (-22, -4, -19), (39, 4, 2)):
        assert share(5, place) > 0.9, place
    assert share(5, (30, -50, 40)) == 0


def test_the_template_is_symmetric_and_nothing_lies_around_it():
    template = load_template()
    x = template_module._MNI_ZERO_VOX[0]
    reach = min(x, template.depth.shape[0] - 1 - x)
    right = template.tissue[x : x + reach + 1]
    assert torch.equal(right[..., :3], template.tissue[x - reach : x + 1].flip(0)[..., :3])
    for axis in range(3):
        assert template.depth.select(axis, 0).max() == 0
        assert template.depth.select(axis, -1).max() == 0


# -- what steers it -------------------------------------------------------------------------


def ventricle_ml(anatomy: Anatomy, side: int = 0) -> float:
    near = anatomy.ventricle_mm < 0.5
    if side:
        near = near & (anatomy.template_x_mm * side > 0)
    return total(anatomy.csf[near]) * VOXEL_ML


def test_age_widens_ventricles_and_sulci(plain: Head):
    young, old = shape(plain), shape(replace(plain, ventricles=0.4, atrophy=1.0))
    assert ventricle_ml(old) > 1.7 * ventricle_ml(young)
    assert total(old.csf) > 1.1 * total(young.csf)


def test_one_ventricle_may_be_wider(plain: Head):
    lopsided = shape(replace(plain, ventricles=0.3, ventricle_asymmetry=0.5))
    assert ventricle_ml(lopsided, 1) > 1.3 * ventricle_ml(lopsided, -1)


def test_petalia_moves_the_right_frontal_lobe_forward(plain: Head):
    voxel = GRID.lines_mm()
    fronts = []
    for petalia_mm in (0.0, 4.0):
        brain = shape(replace(plain, petalia_mm=petalia_mm)).brain
        right = brain[voxel[0] > plain.centre_mm[0] + 15]
        fronts.append(int(torch.nonzero(right)[:, 1].sum()) / int(right.sum()))
    assert fronts[1] > fronts[0]


def test_an_ingredient_of_zero_leaves_the_template_straight():
    head = draw_head(np.random.default_rng(2), Ingredients(bends=0, age=0))
    assert head.bend_mm == (0, 0)
    assert (head.ventricles, head.atrophy, head.petalia_mm, head.ventricle_asymmetry) == (0,) * 4


def test_an_ingredient_leaves_the_other_choices_as_they_are(head: Head):
    other = draw_head(np.random.default_rng(2), Ingredients(bends=0.5, age=0))
    assert np.array_equal(other.matrix, head.matrix)
    assert (other.age, other.bend_seed) == (head.age, head.bend_seed)


def test_a_push_moves_tissue_and_leaves_the_skull(head: Head, anatomy: Anatomy):
    pushed = shape(head, push=push_at(head.centre_mm + np.array([30, 10, 15]), 0.6, 22))
    assert torch.equal(pushed.brain, anatomy.brain)
    assert torch.equal(pushed.depth_mm, anatomy.depth_mm)
    moved = (pushed.template_x_mm - anatomy.template_x_mm).abs()
    assert moved.max() > 4
    assert moved[anatomy.depth_mm < 1].max() < 1
    assert pushed.jacobian[0] < anatomy.jacobian[0]


def test_values_go_to_the_grid_and_come_back(anatomy: Anatomy):
    whole = anatomy.volume(anatomy.white, outside=-1)
    assert torch.equal(anatomy.at_brain(whole), anatomy.white)
    assert (whole[~anatomy.brain] == -1).all()


# -- everywhere the same --------------------------------------------------------------------


def digest() -> str:
    """Return a fingerprint of one head and its anatomy."""
    head = draw_head(np.random.default_rng(2))
    made = shape(head, push=push_at(head.centre_mm + 10, 0.5, 20))
    names = ("voxels", "white", "csf", "deep_grey", "hindbrain", "ventricle_mm", "template_x_mm")
    parts = (getattr(made, name).contiguous().numpy().tobytes() for name in names)
    return f"{hashlib.sha256(b''.join(parts)).hexdigest()} {head} {made.jacobian}"


def test_a_plain_processor_with_two_threads_makes_the_same_anatomy():
    numpy_core = np._core._multiarray_umath
    better = [n for n in numpy_core.__cpu_dispatch__ if numpy_core.__cpu_features__.get(n)]
    plain = {"ATEN_CPU_CAPABILITY": "default", "NPY_DISABLE_CPU_FEATURES": " ".join(better)}
    script = "import sys, torch; sys.path.insert(0, 'tests'); torch.set_num_threads(2)\n"
    script += "import test_phantom_anatomy; print(test_phantom_anatomy.digest())"
    env = {**os.environ, "PYTHONPATH": str(ROOT), **plain}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_a_missing_template_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps nilearn"):
        template_module._read("wm")
