"""Promise: labelling stopped anywhere leaves whole masks; started again, it ends the same."""

import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from bratskit.networks import Checkpoint
from bratskit.predict import predict_folder
from bratskit.predict.receipts import is_done, receipt_of
from bratskit.preprocess.lock import locked
from bratskit.settings import GeometrySettings, Recipe, TrainingSettings

N_CASES = 4
OUTPUTS = ("probabilities",)
EDITION = "brats2017-2021"

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


class Oracle(nn.Module):
    """Say label c where channel c is bright."""

    def forward(self, image):
        """Turn brightness into certainty."""
        return 2 * image


def model_of(checksum: str, tmp_path: Path) -> Checkpoint:
    recipe = Recipe(
        name="test",
        geometry=GeometrySettings(spacing_mm=None),
        training=TrainingSettings(precision="fp32"),
    )
    return Checkpoint(
        network=Oracle(), recipe=recipe, card={}, training=None, path=tmp_path, checksum=checksum
    )


@pytest.fixture
def cohort(write_case, tmp_path):
    cases = [
        write_case(tmp_path / "data", f"BraTS20_Training_{n:03d}", shape=(40, 44, 36))
        for n in range(1, N_CASES + 1)
    ]
    return [replace(case, labels_path=None) for case in cases]


def start(cohort, out: Path, model: Checkpoint) -> int:
    """Label in a forked process, which spares each of many kills the import of torch."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)  # a fork has no threads of its parent's pool
        predict_folder(cohort, out, model=model, outputs=OUTPUTS, device="cpu")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)  # no teardown of pytest in a copy of it


def stop_after(pid: int, seconds: float) -> bool:
    """Kill; tell whether it came before the work was done."""
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name[0] != "."}


def finished(out: Path, cohort, model: Checkpoint) -> list[str]:
    """Name the patients whose receipt says that all is there."""
    receipts = {case.id: receipt_of(case, [model], EDITION) for case in cohort}
    return [name for name, one in receipts.items() if is_done(out, name, one, OUTPUTS)]


def stamps(out: Path, names: Iterable[str]) -> dict[str, int]:
    return {name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in names}


@pytest.mark.parametrize("n_stops", [5, pytest.param(80, marks=pytest.mark.slow)])
def test_a_folder_killed_at_any_moment_is_whole_and_ends_the_same(cohort, tmp_path, n_stops):
    """Every second folder begins as the finished one of another model, whose masks are replaced."""
    torch.set_num_threads(1)
    new, old = model_of("new", tmp_path), model_of("old", tmp_path)
    whole, before = tmp_path / "whole", tmp_path / "before"
    started = time.monotonic()
    os.waitpid(start(cohort, whole, new), 0)
    longest = time.monotonic() - started
    predict_folder(cohort, before, model=old, outputs=OUTPUTS, device="cpu")
    expected, rng, out, hits, begun = contents(whole), random.Random(0), tmp_path / "out", 0, 0
    assert len(expected) == 3 * N_CASES
    while hits < n_stops:
        shutil.rmtree(out, ignore_errors=True)
        if begun % 2:
            shutil.copytree(before, out)
        begun += 1
        while stop_after(start(cohort, out, new), rng.uniform(0.02, 1) * longest):
            hits += 1
            if not out.exists():
                continue
            found = contents(out)
            for name in finished(out, cohort, new):  # a receipt never speaks of other files
                for end in (".nii.gz", ".json", "_probabilities.nii.gz"):
                    assert found[name + end] == expected[name + end]
        kept = {
            name: (out / f"{name}.nii.gz").stat().st_mtime_ns for name in finished(out, cohort, new)
        }
        predict_folder(cohort, out, model=new, outputs=OUTPUTS, device="cpu")
        assert kept == stamps(out, kept)
        assert contents(out) == expected
        assert not list(out.glob(".*"))


def test_a_folder_that_a_process_fills_is_refused_to_a_second(cohort, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (
        locked(out, work="filled"),
        pytest.raises(RuntimeError, match="must be filled by one process at a time"),
    ):
        predict_folder(cohort, out, model=model_of("new", tmp_path), device="cpu")
