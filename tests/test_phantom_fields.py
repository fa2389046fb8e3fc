"""Fields: each bit the same on every machine, and each function what mathematics says it is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage as ndi

torch = pytest.importorskip("torch")

from bratskit.cases.phantoms import fields  # noqa: E402
from bratskit.cases.phantoms.fields import Grid  # noqa: E402

ROOT = Path(__file__).parents[1]
GRID = Grid((20, 22, 18), (1.5, 1.5, 2.0), (60, 40, 20))

# Prints one SHA per function and number of threads; sizes above torch's threshold for threads.
DIGESTS = """
import hashlib, numpy as np, torch
from bratskit.cases.phantoms import fields as F
def sha(x):
    return hashlib.sha256(x.contiguous().cpu().numpy().tobytes()).hexdigest()[:16]
for threads in (1, 2):
    torch.set_num_threads(threads)
    grid = F.Grid((60, 50, 40), (1.0, 1.0, 1.0), (60, 60, 40))
    rng = np.random.default_rng(7)
    voxels = torch.arange(0, 120_000, 3)
    volume = grid.noise(rng, knots_mm=4)
    x = F.white_noise(3, 120_001, device="cpu") * 4
    points = [p * 0.7 - 3 for p in grid.points_mm(voxels)]
    maps = torch.stack([volume, volume * volume], dim=3)
    small = F.block_mean(volume, (3, 2, 3))
    out = dict(
        noise=volume, noise_at=grid.noise_at(rng, knots_mm=13, voxels=voxels), white=x,
        white_at=F.white_noise(9, voxels, device="cpu"), exp=F.exp(x), sigmoid=F.sigmoid(x),
        tanh=F.tanh(x), sqrt=F.sqrt(x.abs()), hypot=F.hypot(x, x + 1), points=points[0],
        sample=F.sample(maps, points), blur=F.blur(volume, (0.8, 1.1, 0.6)), small=small,
        enlarge=F.enlarge(small, (3, 2, 3), grid.shape),
        numbers=torch.tensor([F.total(x), F.threshold_for_count(x, 5000)], dtype=torch.float64),
    )
    for name, value in out.items():
        print(name, sha(value))
"""


def digests(capability: str) -> list[tuple[str, str]]:
    """Run in a fresh process, as the instruction set is chosen once; torch decides the best."""
    env = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": str(ROOT)}
    env.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-c", DIGESTS]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return [tuple(line.split()) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def plain() -> list[tuple[str, str]]:
    return digests("default")


def test_the_number_of_threads_does_not_change_a_bit(plain: list[tuple[str, str]]):
    assert len(plain) == 30
    assert plain[:15] == plain[15:]


@pytest.mark.parametrize("capability", ["avx2", pytest.param("avx512", marks=pytest.mark.slow)])
def test_the_instruction_set_does_not_change_a_bit(plain: list, capability: str):
    here = torch.backends.cpu.get_cpu_capability().lower()
    if capability not in {"avx2": ["avx2"], "avx512": ["avx2", "avx512"]}.get(here, []):
        pytest.skip(f"this processor has no {capability}")
    assert digests(capability) == plain


# Rounded otherwise from one machine to the next, or in one step where two are meant.
INEXACT = re.compile(
    r"torch\.(sqrt|rsqrt|exp|log|tanh|sigmoid|sin|cos|pow|square|hypot|norm|matmul|einsum|lerp"
    r"|addcmul|addcdiv|softmax|cumsum|mean|std|var|rand\w*|normal)\(|functional"
    r"|(?<!np)(?<!math)(?<!fields)(?<!exact)\.(sqrt|exp|log|tanh|sigmoid|lerp|addcmul|addcdiv)_?\("
)
SOURCES = sorted((ROOT / "bratskit" / "cases" / "phantoms").glob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_file_of_the_phantoms_calls_an_operation_whose_bits_differ_between_machines(path: Path):
    lines = path.read_text().splitlines()
    allowed = "x.double().sqrt().float()"  # twice the digits, rounded once: exact
    calls = [line.strip() for line in lines if INEXACT.search(line) and allowed not in line]
    assert calls == [], "take sqrt, exp, tanh, total, white_noise from phantoms.fields"


def test_exp_and_its_kin_are_what_mathematics_says():
    x = torch.linspace(-20, 20, 4001)
    true = np.exp(x.double().numpy())
    error = np.abs(fields.exp(x).numpy() / true - 1)
    assert error[np.abs(x.numpy()) <= 8].max() < 1e-4
    assert error.max() < 1e-3
    assert np.allclose(fields.sigmoid(x).numpy(), true / (1 + true), atol=2e-5)
    assert np.allclose(fields.tanh(x).numpy(), np.tanh(x.numpy()), atol=2e-5)


def test_exp_of_nothing_is_one_and_the_ends_are_finite():
    ends = torch.tensor([-1e30, 0.0, 1e30])
    assert fields.exp(ends)[1] == 1
    assert torch.isfinite(fields.exp(ends)).all()
    assert fields.sigmoid(ends).tolist()[1:] == [0.5, 1.0]
    assert fields.tanh(ends).tolist() == [-1, 0, 1]


def test_a_root_is_rounded_exactly():
    x = torch.arange(0x3F800000, 0x40800000, 97, dtype=torch.int32).view(torch.float32)
    exact = np.sqrt(x.double().numpy()).astype(np.float32)
    assert np.array_equal(fields.sqrt(x).numpy(), exact)
    assert np.array_equal(x.double().sqrt().float().numpy(), exact)  # what a GPU does
    assert fields.hypot(torch.tensor([3.0]), torch.tensor([4.0])).item() == 5


def test_a_total_does_not_depend_on_the_order():
    x = fields.white_noise(1, 50_000, device="cpu")
    assert fields.total(x) == fields.total(x.flip(0)) == fields.total(x.view(250, 200).t())
    assert fields.total(x) == pytest.approx(x.double().sum().item(), abs=0.05)
    assert fields.total(torch.ones(7, dtype=torch.bool)) == 7


def test_a_threshold_leaves_that_many_values_below():
    x = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0])
    assert fields.threshold_for_count(x, 2) == 3
    assert fields.threshold_for_count(x, 0) == -np.inf
    assert fields.threshold_for_count(x, 5) == np.inf


def test_smooth_noise_has_variance_one_and_no_offset():
    grid = Grid((64, 64, 64), (3.0, 3.0, 2.5), (0, 0, 0))
    field = grid.noise(np.random.default_rng(0), knots_mm=4.5)
    assert abs(field.double().mean().item()) < 0.03
    assert field.double().std().item() == pytest.approx(1, abs=0.03)


def test_smooth_noise_is_the_same_at_any_voxel_size():
    fine = Grid((24, 24, 24), (1.0, 1.0, 1.0), (30, 30, 30))
    coarse = Grid((8, 8, 8), (3.0, 3.0, 3.0), (10, 10, 10))  # its centres are voxels 1, 4, ...
    one, three = (g.noise(np.random.default_rng(2), knots_mm=7) for g in (fine, coarse))
    assert torch.allclose(one[1::3, 1::3, 1::3], three, atol=1e-5)


@pytest.mark.parametrize("knots_mm", [2.5, 32.0])
def test_noise_at_voxels_is_the_noise_of_the_grid(knots_mm: float):
    voxels = torch.nonzero(fields.white_noise(0, 20 * 22 * 18, device="cpu") > 1)[:, 0]
    whole = GRID.noise(np.random.default_rng(3), knots_mm=knots_mm)
    some = GRID.noise_at(np.random.default_rng(3), knots_mm=knots_mm, voxels=voxels)
    assert torch.equal(whole.view(-1)[voxels], some)


def test_points_are_the_centres_of_the_voxels():
    voxels = torch.tensor([0, 1, 18, 22 * 18])
    points = torch.stack(GRID.points_mm(voxels), dim=1).tolist()
    first = [60.5 * 1.5, 40.5 * 1.5, 41.0]
    assert points[0] == first
    assert points[1] == [first[0], first[1], 43]
    assert points[2] == [first[0], first[1] + 1.5, 41]
    assert points[3] == [first[0] + 1.5, first[1], 41]


@pytest.mark.parametrize("sigma_vox", [(0.8, 0.8, 0.8), (0.0, 0.0, 1.5), (2.0, 0.0, 0.7)])
def test_a_blur_is_scipys_gaussian(sigma_vox: tuple[float, float, float], rng: np.random.Generator):
    volume = rng.random((12, 15, 13), dtype=np.float32)
    expected = ndi.gaussian_filter(volume.astype(np.float64), sigma_vox, mode="nearest")
    found = fields.blur(torch.from_numpy(volume), sigma_vox).numpy()
    assert np.allclose(found, expected, atol=1e-6)


def test_sampling_is_scipys_and_repeats_the_edge(rng: np.random.Generator):
    maps = rng.random((7, 9, 8, 2), dtype=np.float32)
    points = [rng.uniform(-2, n + 2, 500).astype(np.float32) for n in maps.shape[:3]]
    found = fields.sample(torch.from_numpy(maps), [torch.from_numpy(p) for p in points])
    for channel in range(2):
        expected = ndi.map_coordinates(maps[..., channel], points, order=1, mode="nearest")
        assert np.allclose(found[:, channel].numpy(), expected, atol=1e-6)


def test_sampling_a_map_of_bytes_is_sampling_its_numbers(rng: np.random.Generator):
    maps = torch.from_numpy(rng.integers(0, 256, (7, 9, 8, 1), dtype=np.uint8))
    points = [torch.from_numpy(rng.uniform(0, 7, 300).astype(np.float32)) for _ in range(3)]
    assert torch.equal(fields.sample(maps, points), fields.sample(maps.float(), points))


def test_block_means_repeat_the_edge_and_come_back_enlarged():
    x = torch.arange(5.0).view(5, 1, 1)
    small = fields.block_mean(x, (2, 1, 1))
    assert small.view(-1).tolist() == [0.5, 2.5, 4.0]
    large = fields.enlarge(small, (2, 1, 1), (5, 1, 1)).view(-1)
    assert large.tolist() == [0.5, 1.0, 2.0, 2.875, 3.625]  # a quarter of the way between centres


def test_means_of_ones_are_exactly_one():
    ones = torch.ones(10, 7, 9)
    assert (fields.block_mean(ones, (3, 3, 3)) == 1).all()
    assert (fields.enlarge(ones, (3, 3, 3), (30, 21, 27)) == 1).all()


def test_white_noise_is_a_bell_of_mean_zero_and_variance_one():
    noise = fields.white_noise(5, 1_000_000, device="cpu").double()
    assert abs(noise.mean().item()) < 0.004
    assert noise.var().item() == pytest.approx(1, abs=0.006)
    assert (noise**3).mean().item() == pytest.approx(0, abs=0.02)
    assert (noise**4).mean().item() == pytest.approx(2.7, abs=0.03)  # 3 - 1.2 / 4: four uniforms


def test_white_noise_knows_neither_its_neighbours_nor_another_seed():
    noise = fields.white_noise(5, 1_000_000, device="cpu").double()
    for step in (1, 2, 146, 146 * 178):
        assert abs((noise[:-step] * noise[step:]).mean().item()) < 0.005
    for seed in (4, 6, -5, 5 + 2**32):
        other = fields.white_noise(seed, 1_000_000, device="cpu").double()
        assert abs((noise * other).mean().item()) < 0.005


def test_white_noise_belongs_to_the_voxel_not_to_its_place_in_the_list():
    whole = fields.white_noise(5, 200_000, device="cpu")
    voxels = torch.arange(199_999, 0, -7)
    assert torch.equal(fields.white_noise(5, voxels, device="cpu"), whole[voxels])


def test_the_whole_at_once_as_on_a_gpu_gives_the_bits_of_the_planes(
    monkeypatch: pytest.MonkeyPatch,
):
    knots = fields.draw_coefficients(np.random.default_rng(4), knots_mm=6)
    planes = GRID.spline(knots, knots_mm=6)
    taps = [fields._taps(line, 6) for line in GRID.lines_mm()]
    whole = torch.from_numpy(knots)
    for axis in (2, 1, 0):
        whole = fields._along(whole, axis, *taps[axis])
    assert torch.equal(whole, planes)
    half = fields._gaussian(1.2)
    assert torch.equal(fields._blur_along(planes, 0, half), fields._blur_planes(planes, half))
    x = fields.white_noise(1, 5001, device="cpu")
    parts = [fields.exp(x), fields.white_noise(2, 5001, device="cpu")]
    monkeypatch.setattr("bratskit.cases.phantoms.exact._CHUNK", 1000)
    again = [fields.exp(x), fields.white_noise(2, 5001, device="cpu")]
    assert all(torch.equal(a, b) for a, b in zip(parts, again, strict=True))
    assert fields.threshold_for_count(x, 70) == float(x.kthvalue(71).values)
