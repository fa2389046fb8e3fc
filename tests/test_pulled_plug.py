"""A checkpoint is whole, or still the one before it, wherever a kill or a full disk hits."""

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from training import fill_store, small_recipe, small_split, weight_hash

from bratskit.cli import main
from bratskit.networks import build_network, load_checkpoint, save_checkpoint
from bratskit.preprocess.budget import FullDiskError
from bratskit.runtime import RunFolder
from bratskit.settings import Recipe
from bratskit.train import train

CPU = torch.device("cpu")
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)

# Each attempt is a fork that kills itself at one moment of a write; some are killed from outside.
PULL = """
import json, os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from bratskit.networks import build_network, checkpoint, load_checkpoint, save_checkpoint
from bratskit.settings import NetworkSettings, Recipe

checkpoint.made_by = dict  # asking git takes longer than writing
path = Path(sys.argv[1])
recipe = Recipe(name="a", network=NetworkSettings(channels=(4, 8)))
networks = []
for version in (0, 1):
    networks.append(build_network(recipe.network, in_channels=4, out_channels=4))
    torch.nn.init.constant_(networks[version].head.bias, version)

def save(version):
    save_checkpoint(path, network=networks[version], recipe=recipe, card={"version": version})

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def die_writing(share):
    def write(self, data):
        with self.open("wb") as file:
            file.write(data[: int(len(data) * share)])
            file.flush()
            die()
    return write

def die_after(real):
    return lambda *given: (real(*given), die())

MOMENTS = {f"written {share}": (Path, "write_bytes", die_writing(share)) for share in SHARES}
MOMENTS |= {
    "before the flush": (os, "fsync", die),
    "after the flush": (os, "fsync", die_after(os.fsync)),
    "before the rename": (Path, "replace", die),
    "after the rename": (Path, "replace", die_after(Path.replace)),
}

def attempt(prepare, work, kill_after=None):
    save(0)
    process = os.fork()
    if not process:
        prepare()
        work()
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    whole = load_checkpoint(path)
    assert (whole.network.head.bias == whole.card["version"]).all()
    return whole.card["version"]

def for_ever():
    while True:
        save(1)
        save(0)

found = {name: attempt(lambda: setattr(*moment), lambda: save(1))
         for name, moment in MOMENTS.items()}
for number in range(15):
    attempt(lambda: None, for_ever, kill_after=0.003 * number)
print(json.dumps(found))
"""


@pytest.fixture
def store(tmp_path: Path) -> tuple[Path, list[str]]:
    return tmp_path / "prepared", fill_store(tmp_path / "prepared", n_cases=3)


@pytest.fixture
def short_files() -> Iterator[Callable[[int], None]]:
    """Return a function that lets no file of this process grow past so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Return a function that mounts a disk of so many bytes, where this user may."""
    place = tmp_path / "disk"

    def mount(n_bytes: int) -> Path:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True, check=False).returncode == 0
        except OSError:
            done = False
        if not done:
            pytest.skip("mounting a small disk needs root")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", str(place)], check=True)


def run_of(tmp_path: Path, **changes: object) -> tuple[RunFolder, Recipe]:
    return RunFolder(tmp_path / "run"), small_recipe(epochs=3, steps_per_epoch=1, **changes)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_kill_at_any_moment_of_a_write_leaves_a_checkpoint_that_loads(tmp_path):
    code = f"SHARES = {SHARES}\n{PULL}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "last.pt")],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 9
    assert {name for name, version in found.items() if version == 1} == {"after the rename"}


def test_the_disk_has_the_new_file_before_the_old_one_goes(tmp_path, monkeypatch):
    _, recipe = run_of(tmp_path)
    network = build_network(recipe.network, in_channels=4, out_channels=4)
    done = []
    real_fsync, real_replace = os.fsync, Path.replace

    def fsync(descriptor: int) -> None:
        done.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_fsync(descriptor)

    def replace(self: Path, other: Path) -> None:
        done.append(f"rename to {other.name}")
        real_replace(self, other)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    save_checkpoint(tmp_path / "last.pt", network=network, recipe=recipe, card={})
    assert done == [f"flush .{os.getpid()}-last.pt", "rename to last.pt", f"flush {tmp_path.name}"]


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk", "quota"])
def test_a_disk_that_is_full_after_any_byte_keeps_the_old_file(tmp_path, monkeypatch, share, code):
    _, recipe = run_of(tmp_path)
    path = tmp_path / "last.pt"
    network = build_network(recipe.network, in_channels=4, out_channels=4)
    save_checkpoint(path, network=network, recipe=recipe, card={})
    before = path.read_bytes()

    def fill(self: Path, data: memoryview) -> None:
        with self.open("wb") as file:
            file.write(data[: int(len(data) * share)])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(
        FullDiskError, match=r"must have .* free for last\.pt; got .*Free some space"
    ):
        save_checkpoint(path, network=network, recipe=recipe, card={})
    assert path.read_bytes() == before
    assert names(tmp_path) == {"last.pt"}


def test_a_full_disk_stops_the_command_in_one_line_and_loses_nothing(
    store, tmp_path, short_files, capsys
):
    folder, ids = store
    run, recipe = run_of(tmp_path)
    options = {"recipe": recipe, "split": small_split(ids), "device": CPU}
    whole = RunFolder(tmp_path / "whole")
    train(folder, whole, **options)
    train(folder, run, max_minutes=0, **options)
    before = run.last.read_bytes()
    capsys.readouterr()
    short_files(len(before) // 2)
    assert main(["train", str(folder), str(run.path), "--resume"]) == 2
    short_files(resource.RLIM_INFINITY)
    said = capsys.readouterr().err.splitlines()
    (line,) = [line for line in said if "no picture of" not in line]
    assert "MB free for best.pt" in line or "MB free for last.pt" in line
    assert "kept as it was after epoch 1 of 3. Go on by calling train again, or: brats" in line
    assert run.last.read_bytes() == before
    assert not [name for name in names(run.path) if name.startswith(".")]
    assert main(["train", str(folder), str(run.path), "--resume"]) == 0
    assert weight_hash(run.last) == weight_hash(whole.last)
    assert weight_hash(run.best) == weight_hash(whole.best)


def test_a_disk_that_is_really_full_is_survived_too(store, tmp_path, small_disk):
    folder, ids = store
    _, recipe = run_of(tmp_path)
    options = {"recipe": recipe, "split": small_split(ids), "device": CPU}
    whole = RunFolder(tmp_path / "whole")
    train(folder, whole, **options)
    n_bytes = sum(path.stat().st_size for path in whole.path.rglob("*") if path.is_file())
    run = RunFolder(small_disk(3 * n_bytes) / "run")
    train(folder, run, max_minutes=0, **options)
    ballast = run.path.parent / "ballast"
    room = whole.last.stat().st_size // 2
    ballast.write_bytes(bytes(shutil.disk_usage(run.path).free - room))
    with pytest.raises(FullDiskError, match="kept as it was after epoch 1 of 3"):
        train(folder, run, **options)
    assert not [name for name in names(run.path) if name.startswith(".")]
    assert load_checkpoint(run.last).training is not None
    ballast.unlink()
    train(folder, run, **options)
    assert weight_hash(run.last) == weight_hash(whole.last)
    assert weight_hash(run.best) == weight_hash(whole.best)


def test_a_disk_that_is_full_at_the_start_is_told_in_the_same_words(store, tmp_path, monkeypatch):
    folder, ids = store
    run, recipe = run_of(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FullDiskError, match="free for settings and split"):
        train(folder, run, recipe=recipe, split=small_split(ids), device=CPU)
    assert names(run.path) == set()


def test_an_interrupt_in_the_middle_of_a_write_leaves_the_old_file(tmp_path, monkeypatch):
    _, recipe = run_of(tmp_path)
    path = tmp_path / "last.pt"
    network = build_network(recipe.network, in_channels=4, out_channels=4)
    save_checkpoint(path, network=network, recipe=recipe, card={})
    before = path.read_bytes()

    def interrupt(self: Path, data: memoryview) -> None:
        with self.open("wb") as file:
            file.write(data[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, network=network, recipe=recipe, card={})
    assert path.read_bytes() == before
    assert names(tmp_path) == {"last.pt"}
