"""The machine is asked, not assumed; files are whole or absent; progress reaches who watches."""

import io
import os
import random
import sys

import numpy as np
import pytest
import torch

from bratskit.runtime import (
    RunFolder,
    SessionClock,
    made_by,
    pick_device,
    pick_precision,
    progress,
    seed_everything,
    write_atomically,
)


def test_the_files_of_a_run_stand_in_its_folder(tmp_path):
    run = RunFolder(str(tmp_path / "a" / "run")).create()
    assert run.path.is_dir()
    assert run.best == tmp_path / "a" / "run" / "best.pt"
    names = [name for name, kind in vars(RunFolder).items() if isinstance(kind, property)]
    paths = {getattr(run, name) for name in names}
    assert len(paths) == len(names) >= 12
    assert {path.parent for path in paths} == {run.path}


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match=r"must be writable; got .*Choose another"):
        RunFolder(tmp_path / "file" / "run").create()


# -- writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_keeps_the_suffix_for_writers_that_look_at_it(tmp_path):
    seen = []
    write_atomically(tmp_path / "a.nii.gz", lambda path: seen.append(path) or path.touch())
    assert seen[0].name.endswith(".nii.gz")
    assert seen[0].parent == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["a.nii.gz"]


# -- device and precision


def test_a_device_is_one_that_computes():
    device = pick_device()
    assert torch.ones(2, device=device).sum().item() == 2


def test_a_broken_gpu_falls_back_to_the_cpu_and_says_so(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", broken)
    assert pick_device().type == "cpu"
    assert "GPU found but unusable" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_precision_follows_the_hardware_not_the_emulation(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # also true on a T4
    assert pick_precision(torch.device("cuda")) == expected


@pytest.mark.parametrize("wanted", ["fp32", "bf16", "fp16"])
def test_a_precision_that_was_asked_for_is_taken(wanted):
    assert pick_precision(torch.device("cpu"), wanted) == wanted


def test_a_cpu_never_gets_fp16():
    assert pick_precision(torch.device("cpu")) in ("fp32", "bf16")


# -- seeds


def test_the_same_seed_draws_the_same_numbers_everywhere():
    def draw(seed):
        seed_everything(seed)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_deterministic_mode_is_switched_on():
    seed_everything(0, deterministic=True)
    assert torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("first", [pick_device, lambda: seed_everything(0)])
def test_a_later_run_can_be_deterministic_because_cublas_is_told_in_time(monkeypatch, first):
    told = []

    def probe(*_, **__):
        told.append(os.environ.get("CUBLAS_WORKSPACE_CONFIG"))
        return torch.zeros(1)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _: None)
    monkeypatch.setattr(torch, "ones", probe)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # so that it is put back
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    first()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert set(told) <= {":4096:8"}  # at the probe already


def test_each_test_starts_from_its_own_seed():
    assert torch.initial_seed() == 0
    assert not torch.are_deterministic_algorithms_enabled()


# -- the session clock


def test_a_clock_without_a_limit_never_ends():
    assert not SessionClock().is_over()


def test_a_clock_ends_after_its_minutes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    clock = SessionClock(2)
    now[0] += 119
    assert (clock.is_over(), round(clock.minutes * 60)) == (False, 119)
    now[0] += 1
    assert clock.is_over()


# -- progress


def test_without_a_watcher_each_item_is_one_line(capsys):
    assert list(progress("ab", "letters")) == ["a", "b"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["letters 1/2", "letters 2/2"]
    assert all("0 s" in line for line in lines)


def test_quick_items_do_not_flood_a_log_but_the_last_is_told(capsys):
    list(progress(range(50), "numbers"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["numbers 1/50", "numbers 50/50"]


def test_slow_items_have_a_line_each(capsys, monkeypatch):
    monkeypatch.setattr("bratskit.runtime.LINE_EVERY_S", 0.0)
    list(progress(range(5), "numbers"))
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_an_unknown_length_is_left_out(capsys):
    list(progress(iter("a"), "letters"))
    assert capsys.readouterr().out == "letters 1 (0 s)\n"


def test_in_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress([1, 2], "numbers")) == [1, 2]
    assert "numbers: 100%" in sys.stderr.getvalue()


# -- the stamp


def test_a_stamp_says_version_commit_python_and_time():
    stamp = made_by()
    assert set(stamp) == {"bratskit", "commit", "python", "time"}
    assert stamp["time"].endswith("+00:00")


def test_a_machine_without_git_gives_an_unknown_commit(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert made_by()["commit"] == "unknown"
