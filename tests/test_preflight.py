"""What a training will take is known before it begins: memory as measured, disk, what fits."""

import collections
import dataclasses
import gc
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from training import fill_store, small_recipe

from bratskit.cli import main
from bratskit.networks import network_of
from bratskit.settings import RECIPES, Recipe, get_recipe
from bratskit.train import Learner
from bratskit.train.losses import make_loss
from bratskit.train.memory import Ledger, StepLedger, count_parameters, predict_step_bytes
from bratskit.train.phantom_stream import PhantomStream
from bratskit.train.preflight import preflight

CPU = torch.device("cpu")


def changed(recipe: Recipe, **training: object) -> Recipe:
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, **training))


def measure_step_bytes(recipe: Recipe) -> int:
    """Ask torch's allocator for the peak of two steps; the second has the optimiser's moments."""
    training = recipe.training
    size = (training.batch, *training.patch_vox)
    gc.collect()  # what is freed below was made below
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        network = network_of(recipe).train()
        learner = Learner(network, training, device=CPU, loss=make_loss(recipe))
        for _ in range(2):
            learner.step(
                (
                    torch.randn(size[0], len(recipe.modalities), *size[1:]),
                    torch.randint(0, 4, size),
                )
                for _ in range(training.accumulate)
            )
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


CASES = [
    {"precision": "fp32"},
    {"precision": "bf16"},
    {"precision": "fp32", "accumulate": 3},
    {"precision": "bf16", "ema_decay": 0.9},
]
BACKWARD = torch.ops.aten.convolution_backward.default
MEASURING = """
import sys
sys.path.insert(0, {tests!r})
from test_preflight import CASES, measure_step_bytes, recipe_of
print([measure_step_bytes(recipe_of(case)) for case in CASES])
"""


def recipe_of(case: dict[str, object]) -> Recipe:
    return small_recipe(**({"patch_vox": (32, 32, 32), "learning_rate": 1e-6} | case))


def test_memory_is_predicted_within_fifteen_percent_of_the_measured_peak():
    # in a process of its own: frees of what other tests left behind would be counted too
    code = MEASURING.format(tests=str(Path(__file__).parent))
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    measured = json.loads(ran.stdout)
    predicted = [predict_step_bytes(recipe_of(case), precision=case["precision"]) for case in CASES]
    assert predicted == pytest.approx(measured, rel=0.15)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_memory_of_every_recipe_is_predicted_within_fifteen_percent(name):
    if predict_step_bytes(get_recipe(name), precision="bf16") > 8e9:
        pytest.skip("needs more memory than a small machine has")
    script = Path(__file__).parents[1] / "benchmarks" / "preflight.py"
    words = [sys.executable, str(script), name, "--one"]
    row = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert row["predicted_mb"] == pytest.approx(row["measured_mb"], rel=0.15)


def test_a_tensor_is_counted_once_while_anything_holds_it():
    with Ledger() as ledger:
        whole = torch.empty(1000)
        view = whole[:10]
        other = torch.empty(500)
        assert ledger.now_bytes == 4 * 1500
        del whole, other
        assert ledger.now_bytes == 4 * 1000
        del view
    assert (ledger.now_bytes, ledger.peak_bytes) == (0, 4 * 1500)


def test_what_each_thread_reorders_in_a_bf16_convolution_is_counted_by_hand():
    image = torch.zeros(2, 4, 8, 8, 8, dtype=torch.bfloat16)
    weight = torch.zeros(3, 4, 3, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    threads = torch.get_num_threads()
    with StepLedger() as ledger:
        answer = torch.nn.functional.conv3d(image, weight, padding=1)
        before = ledger.peak_bytes
        answer.sum().backward()
    kept = 2 * (2 * 3 * 512) + 2 * weight.numel()  # answer, its gradient, that of the weight
    assert ledger.peak_bytes - before >= threads * 2 * (4 + 16) * 512
    assert ledger.peak_bytes <= kept * 2 + threads * 2 * (4 + 16) * 512
    half, stride = image.float(), [2] * 3
    with StepLedger() as ledger:
        gradient = torch.zeros(2, 3, 8, 8, 8, dtype=torch.bfloat16)
        one = ([1] * 3, [1] * 3, [1] * 3, False, [0] * 3, 1, [False, True, False])
        assert ledger.scratch_bytes(BACKWARD, (gradient.float(), half, weight, None, *one)) == 0
        assert (
            ledger.scratch_bytes(BACKWARD, (gradient, image, weight, None, stride, *one[1:])) == 0
        )


def test_weights_are_counted_by_hand():
    recipe = small_recipe()
    levels = 4 * 4 * 27 + 4 * 4 * 27 + 4 * 4  # two convolutions and two norms
    levels += 4 * 8 * 27 + 8 * 8 * 27 + 4 * 8 + 8 * 16 * 27 + 16 * 16 * 27 + 4 * 16
    up = 8 * 4 * 8 + 4 + 16 * 8 * 8 + 8
    merge = 8 * 4 * 27 + 4 * 4 * 27 + 4 * 4 + 16 * 8 * 27 + 8 * 8 * 27 + 4 * 8
    assert count_parameters(recipe) == levels + up + merge + 4 * 4 + 4


def test_the_largest_batch_fits_and_one_more_does_not():
    recipe = small_recipe(batch=1)
    seen = preflight(recipe, n_cases=3, device=CPU, measure_time=False)
    assert seen.fits
    assert seen.largest_batch == 64
    assert seen.largest_patch_vox == (256, 256, 256)


def test_a_machine_without_memory_is_told_so(monkeypatch):
    monkeypatch.setattr(sys.modules["bratskit.train.preflight"], "_free_ram_bytes", lambda: 1e5)
    recipe = small_recipe()
    seen = preflight(recipe, n_cases=3, device=CPU, measure_time=False)
    assert not seen.fits
    assert "DOES NOT FIT" in str(seen)
    assert seen.largest_batch == 0
    assert seen.largest_patch_vox is None


def test_patch_and_batch_are_the_largest_that_fit(monkeypatch):
    recipe = changed(small_recipe(), patch_vox=(32, 32, 32))

    def step(**changes: object) -> int:
        return predict_step_bytes(recipe, precision="fp32", **changes)

    room = step(batch=5) + 1
    kept = 0.5 * step()
    monkeypatch.setattr(
        sys.modules["bratskit.train.preflight"], "_free_ram_bytes", lambda: room / 0.9 + kept
    )
    seen = preflight(recipe, n_cases=3, device=CPU, measure_time=False)
    assert seen.largest_batch == 5
    side = seen.largest_patch_vox[0]
    assert step(patch_vox=(side,) * 3) <= room < step(patch_vox=(side + 4,) * 3)


def test_hours_follow_from_timed_steps():
    recipe = small_recipe(epochs=2, steps_per_epoch=5)
    seen = preflight(recipe, n_cases=0, device=CPU)
    assert seen.hours == pytest.approx(10 * seen.step_s / 3600)
    assert 0 < seen.step_s < 5
    assert math.isnan(preflight(recipe, device=CPU, measure_time=False).hours)


def test_room_is_looked_up_on_the_disk_of_the_run(tmp_path, monkeypatch):
    fill_store(tmp_path / "store")
    (tmp_path / "other").mkdir()
    room = {tmp_path / "store": 9e9, tmp_path / "other": 1e6}
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(room[path]))
    where = {"prepared_dir": tmp_path / "store", "run_dir": tmp_path / "other" / "run"}
    seen = preflight(small_recipe(), **where, device=CPU, measure_time=False)
    assert (seen.disk_free_gb, seen.fits) == (1e-3, False)


def test_a_store_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"must hold prepared cases.*bratskit prepare DATA"):
        preflight(small_recipe(), prepared_dir=tmp_path / "no", device=CPU, measure_time=False)
    words = ["train", str(tmp_path / "no"), str(tmp_path / "run"), "--preflight"]
    assert main(words) == 2
    assert "must hold prepared cases" in capsys.readouterr().err


def test_phantoms_made_on_the_way_are_timed_and_shown(monkeypatch):
    monkeypatch.setattr(PhantomStream, "cut", lambda stream, number: time.sleep(0.05))
    counts = {"epochs": 2, "steps_per_epoch": 10, "batch": 2, "accumulate": 1}
    recipe = small_recipe(**counts, phantom_share=0.5, phantom_pool=3, phantom_reuse=5)
    seen = preflight(recipe, n_cases=3, device=CPU)
    assert seen.phantom_hours == pytest.approx((3 + 4) * 0.05 / 3600, rel=0.5)
    assert "phantoms made beside it" in str(seen)
    assert "phantoms" not in str(preflight(small_recipe(), device=CPU, measure_time=False))


def test_disk_of_a_store_that_is_there_is_measured(tmp_path):
    ids = fill_store(tmp_path)
    seen = preflight(small_recipe(), prepared_dir=tmp_path, device=CPU, measure_time=False)
    weighed = sum(path.stat().st_size for name in ids for path in (tmp_path / name).iterdir())
    assert seen.store_gb == {"fast": weighed / 1e9}
    weights = 4 * count_parameters(small_recipe())
    assert seen.run_gb == pytest.approx((7 * weights + 20e6) / 1e9)


def test_disk_of_cases_not_yet_prepared_is_estimated_in_both_forms():
    seen = preflight(get_recipe("unet-e"), n_cases=10, device=CPU, measure_time=False)
    voxels = 10 * 128**3 / 1e9
    assert seen.store_gb["fast"] == pytest.approx(voxels * 10, rel=0.01)  # 4 float16 and 2 bytes
    assert 0 < seen.store_gb["compact"] < seen.store_gb["fast"] / 3


def test_the_shell_shows_the_table_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(RECIPES, "small", small_recipe())
    fill_store(tmp_path / "prepared")
    words = ["train", str(tmp_path / "prepared"), str(tmp_path / "run"), "--recipe", "small"]
    assert main([*words, "--preflight"]) == 0
    assert "recipe small: fits" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
