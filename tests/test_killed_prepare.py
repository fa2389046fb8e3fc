"""Promise: a preparation stopped anywhere leaves whole cases; started again, it ends the same."""

import json
import os
import random
import shutil
import signal
import threading
import time
import traceback
from pathlib import Path

import pytest

from bratskit.cases import Case
from bratskit.preprocess import list_prepared, prepare_cohort
from bratskit.preprocess.budget import FORMS
from bratskit.preprocess.lock import locked
from bratskit.settings import GeometrySettings, Recipe

RECIPE = Recipe(name="test", geometry=GeometrySettings(spacing_mm=(1.5, 1.5, 1.5)))
N_CASES = 5

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")


@pytest.fixture
def cohort(write_case, tmp_path) -> list[Case]:
    return [
        write_case(tmp_path / "data", f"BraTS20_Training_{n:03d}", shape=(44, 48, 40))
        for n in range(1, N_CASES + 1)
    ]


def start(cohort: list[Case], store: Path, form: str) -> int:
    """Prepare in a forked process, which spares each of many kills the import of torch."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # until the child can answer it
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return pid
    code = 1
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            prepare_cohort(cohort, store, recipe=RECIPE, form=form, workers=2)
            code = 0
        except KeyboardInterrupt:
            code = 130
            for thread in threading.enumerate():  # as Python itself does before it ends
                if thread is not threading.current_thread() and not thread.daemon:
                    thread.join()
        except BaseException:
            traceback.print_exc()
    finally:
        os._exit(code)  # no teardown of pytest in a copy of it


def stop_after(pid: int, seconds: float, how: signal.Signals) -> bool:
    """Send a signal; tell whether it came before the work was done."""
    time.sleep(seconds)
    os.kill(pid, how)
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 130, -how), f"the process ended with {code}, not by {how.name}"
    return code != 0


def content(folder: Path) -> dict[str, object]:
    """Read every byte of a stored case but the stamp of who made it when."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    receipt = json.loads(files.pop("receipt.json"))
    receipt.pop("made_by")
    return {"receipt.json": receipt, **files}


def contents(store: Path) -> dict[str, dict[str, object]]:
    return {name: content(store / name) for name in list_prepared(store)}


def stamps(store: Path, form: str) -> dict[str, int]:
    """Say when each finished case of a form was written."""
    paths = {name: store / name / "receipt.json" for name in list_prepared(store)}
    return {
        name: path.stat().st_mtime_ns
        for name, path in paths.items()
        if json.loads(path.read_text())["form"] == form
    }


@pytest.fixture
def whole(cohort, tmp_path) -> dict[str, dict[str, dict[str, object]]]:
    """Return the content of stores, one a form, that nothing disturbed."""
    for form in FORMS:
        prepare_cohort(cohort, tmp_path / form, recipe=RECIPE, form=form)
    return {form: contents(tmp_path / form) for form in FORMS}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_stops", [4, pytest.param(120, marks=pytest.mark.slow)])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_a_store_stopped_at_any_moment_is_whole_and_ends_the_same(
    cohort, whole, tmp_path, form, n_stops, how
):
    """Every second store begins as the finished one of the other form, whose cases are replaced."""
    rng, store, hits, begun = random.Random(0), tmp_path / "store", 0, 0
    other = next(name for name in FORMS if name != form)
    started = time.monotonic()
    os.waitpid(start(cohort, tmp_path / "timed", form), 0)
    longest = time.monotonic() - started
    while hits < n_stops:
        shutil.rmtree(store, ignore_errors=True)
        if begun % 2:
            shutil.copytree(tmp_path / other, store)
        begun += 1
        while stop_after(start(cohort, store, form), rng.uniform(0.02, 1) * longest, how):
            hits += 1
            for name, found in contents(store).items() if store.exists() else ():
                assert found in (whole[form][name], whole[other][name]), name
            if how == signal.SIGINT and store.exists():
                assert not list(store.glob(".*"))
        finished = stamps(store, form)
        prepare_cohort(cohort, store, recipe=RECIPE, form=form)
        assert finished.items() <= stamps(store, form).items()
        assert contents(store) == whole[form]
        assert not list(store.glob(".*"))
    assert hits >= n_stops


def test_a_store_that_a_process_works_on_is_refused_until_that_is_killed(cohort, whole, tmp_path):
    """The second process would clear the first one's half-written case away."""
    store = tmp_path / "store"
    store.mkdir()
    pid = hold(store)
    try:
        with pytest.raises(RuntimeError, match=f"got process {pid} on .* at work there"):
            prepare_cohort(cohort, store, recipe=RECIPE)
        assert list_prepared(store) == []
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (store / ".lock").exists()  # left by the kill, and no hindrance
    prepare_cohort(cohort, store, recipe=RECIPE, form="fast")
    assert contents(store) == whole["fast"]
    assert not list(store.glob(".*"))


def hold(store: Path) -> int:
    """Fork a process that holds a store until it is killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            with locked(store):
                os.write(writer, b"1")
                time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    return pid


def test_auto_goes_on_in_the_form_that_was_begun(cohort, whole, tmp_path, monkeypatch):
    """What is free shrinks as cases are made; the choice must not turn round half-way."""
    store = tmp_path / "store"
    prepare_cohort(cohort[:2], store, recipe=RECIPE, form="compact")
    prepare_cohort(cohort, store, recipe=RECIPE)
    assert contents(store) == whole["compact"]
