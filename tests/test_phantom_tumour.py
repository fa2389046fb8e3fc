"""A planned tumour reaches its volumes, follows white matter, grows in time, and repeats itself."""

import hashlib
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage as ndi

pytest.importorskip("nilearn", reason="the template comes with nilearn")

from bratskit.cases.phantoms.anatomy import Anatomy, draw_head, shape_anatomy
from bratskit.cases.phantoms.fields import Grid
from bratskit.cases.phantoms.growth import Cavity, Growth, at_age, draw_growth, grown_to, push_of
from bratskit.cases.phantoms.infiltrate import Tissue, infiltrate
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.phantoms.tumour import Tumour, grow_tumour

GRID = Grid((60, 60, 39), (4.0, 4.0, 4.0), (0, 0, 0))
CUBE = Grid((40, 40, 40), (2.0, 2.0, 2.0), (0, 0, 0))


@pytest.fixture(scope="module")
def head() -> Anatomy:
    """Return one head from the template, 4 mm voxels."""
    rng = np.random.default_rng(3)
    return shape_anatomy(rng, draw_head(rng, Ingredients()), GRID)


def plan(head: Anatomy, seed: int, **amounts: float) -> Growth:
    """Draw a plan in a head."""
    return draw_growth(np.random.default_rng(seed), head, GRID, Ingredients(**amounts))


def block(white: torch.Tensor, csf: torch.Tensor | None = None) -> Anatomy:
    """Return a made-up brain that fills a grid, of given white matter and CSF."""
    csf = torch.zeros_like(white) if csf is None else csf
    flat = [part.reshape(-1).clone() for part in (white, 1 - white - csf, csf)]
    count = flat[0].numel()
    return Anatomy(
        brain=torch.ones(white.shape, dtype=torch.bool),
        voxels=torch.arange(count),
        white=flat[0],
        grey=flat[1],
        csf=flat[2],
        deep_grey=torch.zeros(count),
        hindbrain=torch.zeros(count),
        limbic=torch.zeros(count),
        depth_mm=torch.full((count,), 30.0),
        ventricle_mm=torch.full((count,), 30.0),
        template_x_mm=torch.full((count,), 30.0),
        template_yz_mm=(torch.zeros(count), torch.zeros(count)),
        jacobian=(1.0, 1.0),
    )


def smooth_ball(head: Anatomy, **amounts: float) -> Growth:
    """Plan a round tumour of 60 ml, a third of it core, in the middle of `CUBE`."""
    drawn = plan(head, 0, raggedness=0, multifocal=0, non_enhancing=0, **amounts)
    return replace(
        drawn,
        centre_mm=(40.0, 40.0, 40.0),
        axes=(1.0, 1.0, 1.0),
        whole_ml=60.0,
        core_share=0.33,
        enhancing_share=0.5,
        lopsided=0.0,
        satellites=(),
    )


def grow(growth: Growth, anatomy: Anatomy, grid: Grid = GRID) -> Tumour:
    """Grow with a generator of its own, so that two calls give the same tumour."""
    return grow_tumour(np.random.default_rng(5), growth, anatomy, grid)


def volumes_ml(tumour: Tumour, grid: Grid = GRID) -> tuple[float, float, float]:
    """Return whole tumour, core and enhancing."""
    counts = torch.bincount(tumour.labels().reshape(-1), minlength=4).tolist()
    voxel_ml = math.prod(grid.spacing_mm) / 1000
    parts = (sum(counts[1:]), counts[1] + counts[3], counts[3])
    return tuple(part * voxel_ml for part in parts)


def digest(tumour: Tumour) -> str:
    """Hash the level sets bit by bit."""
    parts = (tumour.core, tumour.enhancing, tumour.oedema)
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in parts)).hexdigest()


@pytest.mark.parametrize("seed", range(6))
def test_the_volumes_aimed_at_are_reached(head, seed):
    growth = plan(head, seed)
    whole, core, enhancing = volumes_ml(grow(growth, head))
    aim = growth.whole_ml
    voxel_ml = 0.064
    assert core == pytest.approx(max(aim * growth.core_share, 8 * voxel_ml), abs=voxel_ml)
    assert enhancing == pytest.approx(core * growth.enhancing_share, abs=voxel_ml)
    assert whole == pytest.approx(aim, rel=0.05, abs=8 * voxel_ml)


def test_regions_nest_whatever_the_level_sets_say():
    up = torch.tensor([[[1.0, -1.0]]])
    tumour = Tumour(core=up, enhancing=-up * 0 + 1, oedema=-up, box=(slice(0, 1),) * 3)
    assert tumour.labels().flatten().tolist() == [3, 2]  # enhancing outside the core is oedema


def test_what_was_resected_has_no_label():
    up = torch.tensor([[[1.0, 1.0]]])
    cavity = torch.tensor([[[0.5, -0.5]]])
    tumour = Tumour(core=up, enhancing=up, oedema=up, box=(slice(0, 1),) * 3, cavity=cavity)
    assert tumour.cavity_mask().flatten().tolist() == [True, False]
    assert tumour.labels().flatten().tolist() == [0, 3]


def test_the_tentorium_holds_a_tumour_back(head):
    growth = replace(plan(head, 0), centre_mm=(88.0, 66.0, 70.0), whole_ml=100.0, satellites=())
    below, crossed = head.volume(head.hindbrain) > 0.5, []
    for anatomy in (head, replace(head, hindbrain=torch.zeros_like(head.hindbrain))):
        tumour = grow(growth, anatomy)
        crossed.append(int(((tumour.labels() > 0) & below[tumour.box]).sum()))
    assert crossed[1] > 50
    assert crossed[0] < 0.3 * crossed[1]


def test_without_infiltration_the_oedema_is_an_even_shell(head):
    sides = torch.zeros(CUBE.shape)
    sides[:20] = 1.0  # white to the left, grey to the right
    anatomy = replace(block(sides), white=block(sides).white)
    growth = smooth_ball(head, infiltration=0)
    growth = replace(growth, roughness=0.0)
    whole = torch.zeros(CUBE.shape, dtype=torch.bool)
    tumour = grow(growth, anatomy, CUBE)
    whole[tumour.box] = (tumour.oedema > 0) & (tumour.core < -4)
    left, right = int(whole[:20].sum()), int(whole[20:].sum())
    assert left == pytest.approx(right, rel=0.25)
    tumour = grow(smooth_ball(head), anatomy, CUBE)
    whole[tumour.box] = (tumour.oedema > 0) & (tumour.core < -4)
    assert int(whole[:20].sum()) > 5 * int(whole[20:].sum())


def test_oedema_spares_csf_and_cortex(head):
    growth = replace(plan(head, 0), whole_ml=120.0, core_share=0.2, satellites=())
    shell = replace(growth, diffusion_grey_mm2_day=growth.diffusion_white_mm2_day, lopsided=0.0)
    shares = []
    for one in (growth, shell):
        tumour = grow(one, head)
        only = tumour.labels() == 2
        parts = (head.csf, head.grey, head.white)
        shares.append([float(head.volume(part)[tumour.box][only].mean()) for part in parts])
    (csf, grey, white), (csf_in_shell, grey_in_shell, white_in_shell) = shares
    assert csf < 0.5 * csf_in_shell
    assert grey < 0.85 * grey_in_shell
    assert white > white_in_shell


def test_the_front_moves_as_fisher_says(head):
    """Days waited, as mm at speed 2 sqrt(D rho), rise by one mm a mm; no cell passes CSF."""
    growth = replace(smooth_ball(head), diffusion_white_mm2_day=0.13, proliferation_per_day=0.012)
    line = torch.arange(60.0).reshape(60, 1, 1).expand(60, 5, 5).contiguous() * 3
    wall = (line > 90).float() * (line < 94).float()
    tissue = Tissue(torch.ones_like(line), 1 - wall, torch.zeros_like(line), wall)
    outside = line - growth.core_radius_mm
    cost = infiltrate(growth, outside, tissue, torch.ones_like(line), (3.0, 3.0, 3.0))[:, 2, 2]
    assert float(cost[12] - cost[7]) / 15 == pytest.approx(1, abs=0.25)
    assert bool((cost[1:30] - cost[:29] > -1e-4).all())
    assert float(cost[32]) == float(cost[59]) == float(cost.max())


def test_grey_matter_slows_cells_and_more_diffusion_widens_the_front(head):
    growth = smooth_ball(head)
    wide = replace(growth, diffusion_white_mm2_day=4 * growth.diffusion_white_mm2_day)
    assert wide.front_mm == pytest.approx(2 * growth.front_mm)
    assert wide.speed_mm_day == pytest.approx(2 * growth.speed_mm_day)
    assert growth.diffusion_grey_mm2_day < 0.2 * growth.diffusion_white_mm2_day


@pytest.mark.parametrize("seed", [0, 3, 4])
def test_an_older_tumour_holds_the_younger_one(head, seed):
    growth = replace(plan(head, seed), whole_ml=80.0)
    before = None
    for share in (0.4, 0.7, 1.0, 1.3):
        tumour = grow(at_age(growth, share * growth.age_days), head)
        now = torch.zeros(GRID.shape, dtype=torch.uint8)
        now[tumour.box] = tumour.labels()
        if before is not None:
            assert int(((before > 0) & (now == 0)).sum()) <= 0.01 * int((before > 0).sum())
            assert int((now > 0).sum()) > int((before > 0).sum())
            core, older = (before == 1) | (before == 3), (now == 1) | (now == 3)
            assert bool((older | ~core).all())
        before = now


def test_seen_at_detection_it_has_the_planned_volumes(head):
    growth = plan(head, 2)
    seen = at_age(growth, growth.age_days).seen_ml()
    assert seen == pytest.approx(growth.seen_ml(), rel=1e-2)
    assert grown_to(growth, 20.0).seen_ml()[0] == pytest.approx(20.0, rel=1e-3)


def test_necrosis_comes_with_age(head):
    growth = smooth_ball(head)
    _, young_core, young_enhancing = grown_to(growth, 12.0).seen_ml()
    _, old_core, old_enhancing = grown_to(growth, 120.0).seen_ml()
    assert young_enhancing / young_core > 0.9
    assert old_enhancing / old_core < 0.5


def test_the_rim_encloses_the_necrosis_where_nothing_is_ragged(head):
    tumour = grow(smooth_ball(head), block(torch.ones(CUBE.shape)), CUBE)
    labels = tumour.labels()
    deep = tumour.core > float(tumour.core.max()) * 0.7
    near = (tumour.core > 0) & (tumour.core < 1.5)
    assert bool((labels[deep] == 1).all())
    assert bool((labels[near] == 3).all())


def test_level_sets_are_about_mm_near_the_border(head):
    tumour = grow(smooth_ball(head), block(torch.ones(CUBE.shape)), CUBE)
    step = (tumour.core[1:] - tumour.core[:-1]) / 2
    centre = tumour.core.argmax().item() // math.prod(tumour.core.shape[1:])
    middle = [n // 2 for n in tumour.core.shape]
    line, slope = tumour.core[:, middle[1], middle[2]], step[:, middle[1], middle[2]]
    border = int((line[:centre] < 0).sum())
    assert float(slope[border - 1]) == pytest.approx(1, abs=0.2)


def test_low_grade_tumours_do_not_enhance_at_all(head):
    quiet = [plan(head, seed, non_enhancing=2) for seed in range(40)]
    low = next(growth for growth in quiet if growth.kind == "low-grade")
    assert low.enhancing_share == 0
    assert volumes_ml(grow(low, head))[2] == 0


def test_plans_cover_what_thirty_cases_show(head):
    plans = [plan(head, seed) for seed in range(150)]
    whole = np.array([growth.whole_ml for growth in plans])
    share = np.array([growth.enhancing_share for growth in plans])
    assert whole.min() < 4
    assert whole.max() > 150
    assert 65 < np.median(whole) < 110  # thirty cases: 94 ml
    assert 0.02 < np.mean(share == 0) < 0.16  # two of thirty
    assert 0.05 < np.mean((share > 0) & (share < 0.12)) < 0.25  # four of thirty
    assert {growth.kind for growth in plans} == {"ring", "solid", "patchy", "low-grade"}
    assert 0.05 < np.mean([len(growth.satellites) > 0 for growth in plans]) < 0.25


def test_tumours_start_in_white_matter_off_the_midline(head):
    white = head.volume(head.white)
    side = head.volume(head.template_x_mm)
    for seed in range(20):
        voxel = tuple(int(c / 4) for c in plan(head, seed).centre_mm)
        assert float(white[voxel]) > 0.2
        assert abs(float(side[voxel])) > 5


@pytest.mark.parametrize(
    ("name", "field", "gone"),
    [
        ("mass_effect", "push", 0.0),
        ("raggedness", "roughness", 0.0),
        ("raggedness", "rim_roughness", 0.0),
        ("infiltration", "lopsided", 0.0),
        ("multifocal", "satellites", ()),
    ],
)
def test_an_ingredient_at_zero_changes_its_own_choice_only(head, name, field, gone):
    for seed in range(6):
        full, without = plan(head, seed), plan(head, seed, **{name: 0})
        assert getattr(without, field) == gone
        kept = ("kind", "centre_mm", "whole_ml", "core_share", "enhancing_share", "rotation")
        assert all(getattr(full, key) == getattr(without, key) for key in kept)


def test_cavities_come_only_when_asked_for(head):
    assert all(plan(head, seed).cavity is None for seed in range(30))
    share = np.mean([plan(head, seed, cavity=1).cavity is not None for seed in range(60)])
    assert 0.15 < share < 0.5


def test_a_cavity_lies_outside_every_region(head):
    growth = replace(smooth_ball(head), whole_ml=90.0, core_share=0.5)
    before = grow(growth, block(torch.ones(CUBE.shape)), CUBE)
    cavity = Cavity(share=0.6, residual=0.5, toward_surface=0.3)
    after = grow(replace(growth, cavity=cavity), block(torch.ones(CUBE.shape)), CUBE)
    hole, labels = after.cavity_mask(), after.labels()
    core = before.core > 0
    assert int((hole & core).sum()) == pytest.approx(0.6 * int(core.sum()), rel=0.02)
    assert bool((labels[hole] == 0).all())
    assert bool((labels[core & ~hole] > 0).all())  # what is left is core or oedema
    assert 0 < int((labels == 3).sum()) < int((before.labels() == 3).sum())
    assert not before.cavity_mask().any()


def test_mass_effect_pushes_outwards_without_folding(head):
    growth = replace(smooth_ball(head), push=0.8)
    r = torch.linspace(0, 80, 200)
    x, y, z = push_of(growth, [r + 40, torch.full_like(r, 40), torch.full_like(r, 40)])
    pushing = (0.33 + 0.3 * 0.67) * 60  # ml: the core, and a third of the oedema, which swells
    reach = 1.1 * (750 * pushing / math.pi) ** (1 / 3) + 7
    expected = [-0.8 * v * math.exp(-v * v / (2 * reach * reach)) for v in r.tolist()]
    assert x.tolist() == pytest.approx(expected, abs=1e-3)
    assert not y.any()
    assert not z.any()
    assert bool(((r + x)[1:] > (r + x)[:-1]).all())


def test_oedema_pushes_too(head):
    dry = replace(smooth_ball(head), push=0.5, whole_ml=12.0, core_share=0.9)
    wet = replace(dry, whole_ml=108.0, core_share=0.1)  # the same core
    edge = [torch.tensor([70.0]), torch.tensor([40.0]), torch.tensor([40.0])]
    moved = [abs(float(push_of(growth, edge)[0])) for growth in (dry, wet)]
    assert moved[1] > 1.5 * moved[0] > 0


@pytest.mark.parametrize("seed", range(4))
def test_necrosis_and_rim_hang_together_but_for_crumbs(head, seed):
    ragged = replace(smooth_ball(head), rim_roughness=1.4, rim_gaps=0.6, grain=0.8)
    labels = grow_tumour(
        np.random.default_rng(seed), ragged, block(torch.ones(CUBE.shape)), CUBE
    ).labels()
    for tissue in (1, 3):
        parts, _ = ndi.label((labels == tissue).numpy(), np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        assert ((sizes <= 2) | (sizes >= 0.2 * sizes.max())).all()  # in voxels of 8 mm3


def test_a_tumour_crosses_the_midline_through_the_callosum_only(head):
    shape = CUBE.shape
    x = (torch.arange(shape[0]) - 20.0).mul(2).reshape(-1, 1, 1).expand(shape)
    for bridge, crosses in ((0.0, False), (1.0, True)):
        white = torch.ones(shape)
        white[19:21] = bridge
        anatomy = replace(block(white), template_x_mm=x.reshape(-1).clone())
        growth = replace(smooth_ball(head), centre_mm=(30.0, 40.0, 40.0))
        tumour = grow(growth, anatomy, CUBE)
        beyond = tumour.labels() * (x[tumour.box] > 1.5)
        assert bool((beyond > 0).any()) == crosses


def test_oedema_fades_over_mm_in_white_matter_and_cortex_alike(head):
    growth = replace(plan(head, 1), whole_ml=120.0, core_share=0.2, satellites=())
    tumour = grow(growth, head)
    slopes = []
    for part in (head.white, head.grey):
        near = (tumour.oedema.abs() < 6) & (head.volume(part)[tumour.box] > 0.6)
        near = near[:-1] & (tumour.core[:-1] < -8)
        steps = (tumour.oedema[1:] - tumour.oedema[:-1]).abs() / 4
        slopes.append(float(steps[near].mean()))
    assert max(slopes) < 3 * min(slopes)


@pytest.mark.parametrize(("call", "hint"), [(at_age, "detected at"), (grown_to, "At detection")])
def test_ages_and_volumes_that_no_tumour_has_are_refused(head, call, hint):
    with pytest.raises(ValueError, match=hint):
        call(plan(head, 0), 0)


SPECKLED = (
    "import sys; sys.path.insert(0, 'tests')\n"
    "import numpy as np, torch, test_phantom_tumour as t\n"
    "white = torch.from_numpy(np.random.default_rng(1).random(t.CUBE.shape, np.float32))\n"
    "head = t.block(white)\n"
    "growth = t.draw_growth(np.random.default_rng(7), head, t.CUBE, t.Ingredients(cavity=2))\n"
    "told = f'{growth} {t.digest(t.grow(growth, head, t.CUBE))}'\n"
)


def test_the_same_plan_gives_the_same_bits_on_other_instructions():
    here = {}
    exec(SPECKLED, here)
    told = subprocess.run(
        [sys.executable, "-c", SPECKLED + "print(told)"],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == here["told"]
