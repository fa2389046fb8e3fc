"""Contrast, render, acquire: each effect does what its name says, and 0 leaves it out."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bratskit.cases.phantoms.acquire import acquire
from bratskit.cases.phantoms.contrast import Contrast, draw_contrast
from bratskit.cases.phantoms.fields import Grid
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.phantoms.render import render, strip_skull
from bratskit.labels import MODALITIES

FLAIR, T1, T1CE, T2 = range(4)
# Everything that `render` and `acquire` can leave out.
PLAIN = Ingredients(
    white_lesions=0, mimics=0, contrast=0, texture=0, partial_volume=0, thick_slices=0, bias=0,
    noise=0, ghosts=0, strip=0, regions=0,
)  # fmt: skip
RING = SimpleNamespace(whole_ml=60.0, kind="ring")
SHAPE = (40, 44, 36)


def fresh() -> np.random.Generator:
    return np.random.default_rng(5)


class Ball:
    """A brain that is a ball: white inside, grey outside, a ventricle in its middle."""

    def __init__(self, grid: Grid) -> None:
        middle = [float(axis.mean()) for axis in grid.axes_mm()]
        axes = [axis - m for axis, m in zip(grid.axes_mm(), middle, strict=True)]
        radius = torch.sqrt(sum(axis * axis for axis in axes))
        self.brain = radius < 32
        self.voxels = torch.nonzero(self.brain.reshape(-1)).reshape(-1)
        self.depth_mm = 32 - self.at_brain(radius)
        self.ventricle_mm = torch.clamp(self.at_brain(radius) - 6, min=0)
        self.csf = (self.at_brain(radius) < 6).float()
        self.white = (self.depth_mm > 6).float() * (1 - self.csf)
        self.grey = 1 - self.white - self.csf
        self.deep_grey, self.limbic = (torch.zeros_like(self.grey) for _ in range(2))
        self.hindbrain = (self.depth_mm < 12).float()
        x, y, z = (self.at_brain((axis + torch.zeros(grid.shape)).contiguous()) for axis in axes)
        self.template_x_mm, self.template_yz_mm = x, (y, z)

    def at_brain(self, whole: torch.Tensor) -> torch.Tensor:
        return whole.reshape(-1)[self.voxels]

    def volume(self, values: torch.Tensor, *, outside: float = 0.0) -> torch.Tensor:
        whole = torch.full(self.brain.shape, outside)
        whole.view(-1)[self.voxels] = values
        return whole


def ball_tumour(grid: Grid, *, cavity: bool = False) -> SimpleNamespace:
    """Core of 9 mm with a rim of 4 mm, oedema of 15 mm, at (1, 0, 0) * 14 mm off the middle."""
    middle = [
        float(axis.mean()) + shift for axis, shift in zip(grid.axes_mm(), (14, 0, 0), strict=True)
    ]
    axes = [axis - m for axis, m in zip(grid.axes_mm(), middle, strict=True)]
    radius = torch.sqrt(sum(axis * axis for axis in axes)) + torch.zeros(grid.shape)
    return SimpleNamespace(
        core=9 - radius,
        enhancing=radius - 5,
        oedema=15 - radius,
        cavity=4 - radius if cavity else None,
        box=(slice(None),) * 3,
    )


GRID = Grid(SHAPE, (2.0, 2.0, 2.0), (10, 10, 10))
BALL, TUMOUR = Ball(GRID), ball_tumour(GRID)


def plan(ingredients: Ingredients = PLAIN, seed: int = 0) -> Contrast:
    return draw_contrast(np.random.default_rng(seed), RING, ingredients)


def rendered(contrast: Contrast, tumour: SimpleNamespace = TUMOUR) -> list[torch.Tensor]:
    return render(fresh(), contrast, BALL, tumour, GRID)


def acquired(contrast: Contrast, image: torch.Tensor, channel: int = T1) -> torch.Tensor:
    return acquire(fresh(), contrast, channel, image, BALL.brain, GRID)


def with_scanner(contrast: Contrast, **changes: object) -> Contrast:
    scanners = tuple(replace(scanner, **changes) for scanner in contrast.scanners)
    return replace(contrast, scanners=scanners)


def voxel(x_mm: float, y_mm: float = 0.0, z_mm: float = 0.0) -> tuple[int, ...]:
    """Return the voxel at a place off the middle of the ball."""
    return tuple(round(n / 2 - 0.5 + v / 2) for n, v in zip(SHAPE, (x_mm, y_mm, z_mm), strict=True))


def test_without_any_ingredient_each_tissue_has_one_intensity():
    contrast = plan()
    images = rendered(contrast)
    places = {
        "white": voxel(-20),
        "grey": voxel(-29),
        "csf": voxel(-4),
        "oedema": voxel(14, 12),
        "enhancing": voxel(14, 7),
        "necrosis": voxel(14),
    }
    for name, place in places.items():
        found = [float(image[place]) for image in images]
        assert found == pytest.approx(contrast.tissues[name], abs=1e-5), name


def test_without_any_ingredient_what_is_stored_is_the_tissue_times_the_scale():
    contrast = with_scanner(plan(), spread=0.25, scale=400.0)
    stored = acquired(contrast, rendered(contrast)[T1])
    white = contrast.tissues["white"][T1]
    assert int(stored[voxel(-20)]) == round(400 * (1 + 0.25 * white))
    assert (stored[~BALL.brain] == 0).all()
    assert stored.dtype == torch.int16


def test_only_what_takes_up_agent_differs_between_t1_and_t1ce_in_the_enhancing_rim():
    contrast = plan(replace(PLAIN, texture=1.0), seed=3)
    images = rendered(contrast)
    rim = (TUMOUR.core > 0) & (TUMOUR.enhancing > 0)
    gain = images[T1CE] - images[T1]
    assert gain[rim].median() > gain[(TUMOUR.oedema > 0) & ~rim].median() + 0.5


EFFECTS = {  # what an ingredient changes, seen where it must be seen
    "mimics": (T1CE, lambda x, y: (y - x).max() > 1.0),
    "white_lesions": (FLAIR, lambda x, y: (y - x).max() > 0.5),
    "texture": (T2, lambda x, y: (y - x).std() > 0.03),
    "regions": (FLAIR, lambda x, y: (y - x).abs().max() > 0.1),
    "strip": (T1, lambda x, y: (y - x).abs().max() > 0.5),
}


def test_a_region_stands_apart_in_its_tissue_and_nowhere_else():
    offsets = {"hindbrain": (0.5, -0.25, 0.0, 0.125), "limbic": (9.0, 9.0, 9.0, 9.0)}
    moved = rendered(replace(plan(PLAIN), regions=offsets))
    for channel, before in enumerate(rendered(plan(PLAIN))):
        by = BALL.at_brain(moved[channel] - before)
        inside = (BALL.hindbrain > 0) & (by != 0)
        assert (by[BALL.hindbrain == 0] == 0).all()
        meant = torch.tensor(offsets["hindbrain"][channel])
        assert torch.isclose(by[inside], meant, atol=1e-5).float().mean() > 0.8 or meant == 0


@pytest.mark.parametrize("name", EFFECTS)
def test_an_ingredient_of_the_tissues_shows(name: str):
    channel, shows = EFFECTS[name]
    plain, more = plan(), plan(replace(PLAIN, **{name: 2.0}), seed=8)
    more = replace(more, tissues=plain.tissues)
    before, after = rendered(plain)[channel], rendered(more)[channel]
    assert shows(before[BALL.brain], after[BALL.brain])


def test_half_the_mimics_take_up_half_the_agent():
    shown = plan(replace(PLAIN, mimics=1.0))
    none, some, twice = (
        rendered(replace(shown, mimics=strength))[T1CE] for strength in (0.0, 0.25, 0.5)
    )
    assert (some - none).abs().max() > 0.3
    assert torch.allclose(2 * (some - none), twice - none, atol=1e-4)


def test_mimics_take_up_agent_so_t1_hardly_shows_them():
    plain = plan()
    mimicking = replace(plain, mimics=1.0)
    change = [rendered(mimicking)[c] - rendered(plain)[c] for c in (T1, T1CE)]
    assert change[1].max() > 2
    assert change[0].abs().max() < 0.7


def test_white_lesions_lie_in_white_matter_and_are_bright_on_flair_only_where_it_is_healthy():
    plain = plan()
    aged = replace(plain, confluent=1.3, punctate=1.0)
    change = rendered(aged)[FLAIR] - rendered(plain)[FLAIR]
    assert change.max() > 1
    grey = BALL.volume(BALL.grey) == 1
    assert (change[grey] == 0).all()
    assert (change[TUMOUR.core > 1] == 0).all()


def test_a_cavity_looks_like_csf_and_not_like_the_core_it_was_cut_from():
    contrast = plan()
    with_cavity = rendered(contrast, ball_tumour(GRID, cavity=True))
    place = voxel(14)
    for channel in range(4):
        assert float(with_cavity[channel][place]) == pytest.approx(
            contrast.tissues["cavity"][channel], abs=1e-5
        )
    assert contrast.tissues["cavity"][T2] > contrast.tissues["white"][T2] + 2


def test_blood_is_bright_on_t1_without_agent():
    contrast = replace(plan(), blood=0.4)
    core = TUMOUR.enhancing < -1
    without = rendered(replace(contrast, blood=0.0))[T1][core]
    assert (rendered(contrast)[T1][core] - without).max() > 1


def test_a_careless_strip_loses_cortex_and_nothing_deeper():
    contrast = replace(plan(), lost_mm=5.0)
    kept = strip_skull(fresh(), contrast, BALL, GRID)
    lost = BALL.at_brain(BALL.brain & ~kept)
    assert 0 < int(lost.sum()) < lost.numel() // 4
    assert BALL.depth_mm[lost].max() < 5
    assert torch.equal(strip_skull(fresh(), plan(), BALL, GRID), BALL.brain)


def test_thick_slices_are_averages_interpolated_back():
    """By hand: slices of 4 voxels along k of the image k; their means 1.5, 5.5, 9.5, ..."""
    contrast = with_scanner(
        plan(), spread=1.0, scale=100.0, slice_mm=8.0, slice_axis=2, slice_offset=0.0
    )
    ramp = torch.arange(36.0)[None, None, :] + torch.zeros(SHAPE)
    step = (ramp >= 18).float() * 9  # 4 | 2 below the step and 2 above it | 4
    middle = SHAPE[0] // 2, SHAPE[1] // 2
    stored = acquired(contrast, step)[middle].tolist()
    # slice 4 covers voxels 16-19 (half of the step), centre 17.5; slices 3 and 5 at 13.5, 21.5
    assert stored[13] == 100  # below
    for k, share in ((14, 0.5 / 4), (15, 1.5 / 4), (16, 2.5 / 4), (17, 3.5 / 4)):
        assert stored[k] == pytest.approx(100 + 450 * share, abs=1)
    assert stored[22] == 1000


def test_noise_is_rician_so_darkness_is_never_empty():
    """Magnitude of noise alone: mean sqrt(pi / 2) sigma (Gudbjartsson and Patz 1995)."""
    contrast = with_scanner(plan(), spread=0.5, scale=1000.0, noise=0.4)
    dark = torch.full(SHAPE, -2.0)  # the signal is the smallest there is, 0.04
    found = acquired(contrast, dark)[BALL.brain].float().mean()
    assert float(found) == pytest.approx(1000 * 0.2 * np.sqrt(np.pi / 2), rel=0.03)


def test_resampling_makes_neighbours_noise_alike():
    contrast = with_scanner(plan(), spread=0.5, scale=1000.0, noise=0.2)

    def likeness(resample: float) -> float:
        stored = acquired(with_scanner(contrast, resample=resample), torch.zeros(SHAPE)).float()
        noise = stored[12:28, 12:28, 12:28] - stored[12:28, 12:28, 12:28].mean()
        return float((noise[1:] * noise[:-1]).mean() / (noise * noise).mean())

    assert abs(likeness(0.0)) < 0.06
    assert likeness(0.5) == pytest.approx(2 / 3, abs=0.08)  # [1 2 1] / 4: 4 / 6


def test_a_ghost_is_the_image_rolled_along_the_phase_axis():
    contrast = with_scanner(
        plan(), spread=1.0, scale=1000.0, ghost=0.1, ghost_mm=20.0, phase_axis=1, slice_axis=2
    )
    spot = torch.zeros(SHAPE)
    spot[20, 22, 18] = 9.0
    plain = acquired(with_scanner(contrast, ghost=0.0), spot).float()
    change = acquired(contrast, spot).float() - plain
    flat = acquired(contrast, torch.zeros(SHAPE)).float() - 1000 * BALL.brain
    seen = (change - flat)[20, :, 18]
    assert set(torch.nonzero(seen.abs() > 20).reshape(-1).tolist()) == {12, 32}


def test_motion_keeps_what_does_not_change_along_the_phase_axis():
    contrast = with_scanner(
        plan(), spread=1.0, scale=1000.0, motion_mm=3.0, phase_axis=0, slice_axis=2
    )
    along = (torch.arange(44) % 5).float()[None, :, None] + torch.zeros(SHAPE)
    still = acquired(with_scanner(contrast, motion_mm=0.0), along)
    assert (acquired(contrast, along) - still).abs().max() <= 1
    across = (torch.arange(40) % 5).float()[:, None, None] + torch.zeros(SHAPE)
    still = acquired(with_scanner(contrast, motion_mm=0.0), across)
    assert (acquired(contrast, across) - still).abs().max() > 300


def test_a_bias_field_is_slow_and_a_factor():
    contrast = with_scanner(plan(), spread=1.0, scale=1000.0, bias=0.1)
    factor = acquired(contrast, torch.zeros(SHAPE)).float() / 1000
    inside = factor[12:28, 12:28, 12:28]
    assert 0.6 < inside.min() < inside.max() < 1.5
    assert inside.std() > 0.005
    assert (inside[1:] - inside[:-1]).abs().max() < 0.03


def test_a_lost_slab_is_empty_in_one_modality_of_a_third_of_the_cases():
    plans = [plan(Ingredients(slabs=1.0), seed) for seed in range(120)]
    lost = [[s.slab[1] > s.slab[0] for s in contrast.scanners].count(True) for contrast in plans]
    assert set(lost) == {0, 1}
    assert 20 < sum(lost) < 60
    contrast = with_scanner(plan(), slab=(0.0, 0.25))
    stored = acquired(contrast, torch.zeros(SHAPE))
    heights = torch.nonzero(BALL.brain.any(0).any(0)).reshape(-1)
    cut = int(heights[0]) + round(0.25 * len(heights))
    assert (stored[:, :, :cut] == 0).all()
    assert (stored[:, :, cut:][BALL.brain[:, :, cut:]] > 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_leaving_one_ingredient_out_leaves_every_other_choice(seed: int):
    everything = plan(Ingredients(slabs=1.0), seed)
    no_noise = plan(Ingredients(slabs=1.0, noise=0.0), seed)
    assert no_noise == with_noise_of(no_noise, everything)
    assert plan(Ingredients(slabs=1.0, mimics=0.0), seed) == replace(
        everything, mimics=0.0, inflow=0.0
    )


def with_noise_of(noiseless: Contrast, other: Contrast) -> Contrast:
    assert all(scanner.noise == 0 for scanner in noiseless.scanners)
    return replace(other, scanners=tuple(replace(scanner, noise=0.0) for scanner in other.scanners))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["ring", "solid", "patchy", "low-grade"]))
def test_every_plan_is_within_what_a_scan_can_be(seed: int, kind: str):
    growth = SimpleNamespace(whole_ml=60.0, kind=kind)
    contrast = draw_contrast(
        np.random.default_rng(seed), growth, Ingredients(contrast=2.0, slabs=2.0, ghosts=2.0)
    )
    enhancing, necrosis = contrast.tissues["enhancing"], contrast.tissues["necrosis"]
    assert enhancing[T1CE] >= necrosis[T1CE] + 0.9
    for scanner in contrast.scanners:
        assert 10 < scanner.scale < 30_000
        assert scanner.slice_mm == 0 or 2 <= scanner.slice_mm <= 6
        assert scanner.phase_axis != scanner.slice_axis
        assert 0 <= scanner.slab[0] <= scanner.slab[1] <= 1


def test_no_contrast_variation_gives_every_scan_the_same_tissues():
    assert plan(seed=1).tissues == plan(seed=2).tissues
    varied = Ingredients(contrast=1.0)
    assert plan(varied, 1).tissues != plan(varied, 2).tissues


def all_bytes() -> bytes:
    contrast = plan(Ingredients(ghosts=2.0, slabs=1.0), seed=4)
    images = rendered(contrast)
    stored = [acquired(contrast, image, channel) for channel, image in enumerate(images)]
    return b"".join(image.numpy().tobytes() for image in [*images, *stored])


def test_the_same_seed_gives_the_same_bits_on_any_instruction_set_and_threads():
    code = (
        "import sys, hashlib, torch; sys.path.insert(0, 'tests')\n"
        "import test_phantom_acquire as t\n"
        "torch.set_num_threads(2)\n"
        "print(hashlib.sha256(t.all_bytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == hashlib.sha256(all_bytes()).hexdigest()


def test_every_modality_is_rendered():
    assert len(rendered(plan())) == len(MODALITIES)
