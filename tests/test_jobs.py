"""A notebook runs in its own process with checked parameters, and its status never lies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from bratskit.jobs import check_parameters, read_parameters, read_status, run_notebook, status_path
from bratskit.jobs.store import clean, store_notebook
from bratskit.jobs.structure import absolute_paths, check_structure

PARAMETERS = """epochs = 2  # passes over the data
rate = 0.5  # step of the optimiser, no unit
resume = True  # go on from last.pt
run_dir = ""  # where to write"""

OPENING = """# 09 · A small one: does it run?
**Question.** Does it?

| you need | CPU time | GPU time | writes |
|---|---|---|---|
| nothing | seconds | not used | nothing |

**After this notebook you can** rest."""


def write_notebook(path: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """Write a small notebook in the house's form, with the given code cells in its middle."""
    book = nbformat.v4.new_notebook()
    code = nbformat.v4.new_code_cell
    tagged = code(parameters, metadata={"tags": ["parameters"]})
    book.cells = [nbformat.v4.new_markdown_cell(OPENING), code("import os\nimport time"), tagged]
    book.cells += [code(source) for source in cells]
    book.cells += [nbformat.v4.new_markdown_cell("**Next:** [10](10.ipynb)")]
    nbformat.write(book, path)
    return path


def wait_for(holds, *, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.05)
    return pytest.fail("it did not happen in time")


# -- parameters: no kernel needed


def test_parameters_are_read_from_the_tagged_cell(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb")
    assert read_parameters(book) == {"epochs": 2, "rate": 0.5, "resume": True, "run_dir": ""}


def test_an_unknown_parameter_is_refused_by_name(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match=r"no parameter epoch; it has epochs, rate, resume"):
        run_notebook(book, out=tmp_path / "out", parameters={"epoch": 3})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epochs": "3"}, r"epochs of a must be int, as its default 2 is; got '3' \(str\)"),
        ({"epochs": True}, r"epochs .* must be int.*got True \(bool\)"),
        ({"epochs": 2.0}, r"epochs .* must be int.*got 2.0 \(float\)"),
        ({"resume": "false"}, r"resume .* must be bool.*got 'false' \(str\)"),
        ({"resume": 1}, r"resume .* must be bool.*got 1 \(int\)"),
        ({"rate": "1e-3"}, r"rate .* must be float.*got '1e-3' \(str\)"),
        ({"run_dir": None}, r"run_dir .* must be str.*got None"),
    ],
)
def test_a_parameter_of_the_wrong_type_is_refused(tmp_path, given, said):
    book = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(TypeError, match=said):
        run_notebook(book, out=tmp_path / "out", parameters=given)


def test_an_int_passes_for_a_float_and_a_path_for_a_string():
    declared = {"rate": 0.5, "run_dir": "", "max_minutes": None}
    given = {"rate": 1, "run_dir": Path("/a/b"), "max_minutes": 3}
    checked = check_parameters(declared, given, where="a")
    assert checked == {"rate": 1.0, "run_dir": "/a/b", "max_minutes": 3}
    assert type(checked["rate"]) is float


def test_a_parameters_cell_that_computes_is_refused(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb", parameters="a = 1  # one\nb = a + 1  # two")
    with pytest.raises(ValueError, match=r"plain literals to names; got 'b = a \+ 1'"):
        read_parameters(book)


def test_a_missing_notebook_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"notebook must exist; got .*none\.ipynb"):
        run_notebook(tmp_path / "none.ipynb", out=tmp_path)


def test_a_notebook_is_never_run_onto_itself(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match=r"must not be the notebook's own folder"):
        run_notebook(book, out=tmp_path)
    assert book.exists()


# -- running: one kernel each


@pytest.mark.notebook
def test_a_run_passes_parameters_streams_lines_and_says_done(tmp_path):
    source = "print('epochs', epochs, os.getcwd())\nfor i in range(epochs): print('row', i)"
    book = write_notebook(tmp_path / "a.ipynb", source)
    before, lines = book.read_bytes(), []
    out = tmp_path / "with {braces}" / "out"
    status = run_notebook(book, out=out, parameters={"epochs": 3}, on_line=lines.append)
    assert lines == [f"epochs 3 {tmp_path}", "row 0", "row 1", "row 2"]
    assert (status.state, status.parameters) == ("done", {"epochs": 3})
    assert status == read_status(status_path(out, book))
    assert status.output == str(out / "a.ipynb")
    assert sorted(p.name for p in out.iterdir()) == ["a.ipynb", "a.status.json"]
    assert book.read_bytes() == before
    assert not problems_beside_form(out / "a.ipynb")


def problems_beside_form(path: Path) -> list[str]:
    counts = [c["execution_count"] for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return [] if counts == list(range(1, len(counts) + 1)) else [str(counts)]


@pytest.mark.notebook
def test_a_failing_cell_is_named_and_the_half_run_is_not_taken_for_whole(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb", "1 / 1", "raise ValueError('one\\ntwo lines')", "2")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.ipynb").write_text("of an earlier run")
    status = run_notebook(book, out=tmp_path / "out", on_line=lambda _: None)
    assert (status.state, status.cell, status.error) == ("failed", 4, "ValueError: two lines")
    assert str(status).startswith("a failed after")
    assert not (tmp_path / "out" / "a.ipynb").exists()
    assert Path(status.output).name == "a.failed.ipynb"


@pytest.mark.notebook
def test_a_kernel_that_dies_is_a_failure(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb", "os.kill(os.getpid(), 9)")
    status = run_notebook(book, out=tmp_path / "out", on_line=lambda _: None)
    assert status.state == "failed"
    assert "died" in status.error
    assert not (tmp_path / "out" / "a.ipynb").exists()


# A cell that starts a worker of its own, as a data loader does, and then sleeps.
SLEEP = """import subprocess
from pathlib import Path
worker = subprocess.Popen(["sleep", "120"], start_new_session=True)
Path(run_dir, "pids").write_text(f"{os.getpid()} {worker.pid}")
print("asleep")
time.sleep(120)"""


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def nothing_is_left(folder: Path) -> bool:
    return all(is_gone(int(pid)) for pid in (folder / "pids").read_text().split())


@pytest.mark.notebook
def test_a_time_limit_ends_the_run_and_its_kernel(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb", SLEEP)
    given = {"run_dir": tmp_path}
    out = tmp_path / "out"
    status = run_notebook(book, out=out, timeout_s=8, parameters=given, on_line=lambda _: None)
    assert (status.state, status.error) == ("failed", "took longer than 8 s")
    if (tmp_path / "pids").exists():  # a busy machine may not have come as far as the cell
        wait_for(lambda: nothing_is_left(tmp_path))


def start_run(book: Path, out: Path) -> subprocess.Popen:
    """Run a notebook from another Python, as a shell would, and wait until its cell is asleep."""
    code = (
        "import sys; from bratskit.jobs import run_notebook\n"
        f"run_notebook({str(book)!r}, out={str(out)!r}, parameters={{'run_dir': {str(out)!r}}})"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert runner.stdout.readline() == "asleep\n"
    return runner


@pytest.fixture
def asleep(tmp_path):
    """Yield a run that sleeps in its last cell: the process, its notebook and its folder."""
    book = write_notebook(tmp_path / "a.ipynb", SLEEP)
    out = tmp_path / "out"
    out.mkdir()
    with start_run(book, out) as runner:
        yield runner, book, out
        runner.kill()
        runner.communicate()


@pytest.mark.notebook
def test_ctrl_c_takes_the_kernel_along_and_says_stopped(asleep):
    runner, book, out = asleep
    assert read_status(status_path(out, book)).state == "running"
    runner.send_signal(signal.SIGINT)
    _, said = runner.communicate(timeout=20)
    assert "KeyboardInterrupt" in said
    assert read_status(status_path(out, book)).state == "stopped"
    assert nothing_is_left(out)
    assert not list(out.glob("*.ipynb"))
    assert not list(out.glob(".*.ipynb"))


@pytest.mark.notebook
def test_a_killed_child_is_noticed_and_leaves_no_kernel(asleep):
    runner, book, out = asleep
    os.kill(read_status(status_path(out, book)).process, signal.SIGKILL)
    runner.communicate(timeout=20)
    on_disk = json.loads(status_path(out, book).read_text())
    assert on_disk["state"] == "stopped"
    assert "killed" in on_disk["error"]
    assert nothing_is_left(out)
    assert not list(out.glob("*.ipynb"))


@pytest.mark.notebook
def test_a_killed_caller_takes_child_and_kernel_along(asleep):
    runner, book, out = asleep
    runner.kill()
    runner.communicate()
    wait_for(lambda: nothing_is_left(out))
    wait_for(lambda: read_status(status_path(out, book)).state == "stopped")


@pytest.mark.notebook
def test_the_same_notebook_is_not_run_twice_at_once(asleep):
    _, book, out = asleep
    with pytest.raises(RuntimeError, match=r"a is running into .* already \(process \d+\)"):
        run_notebook(book, out=out)


# -- form and storing


@pytest.mark.notebook
def test_storing_keeps_ids_and_leaves_nothing_of_the_run(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb", "assert epochs == 2", "assert rate\nrate")
    ids = [cell.id for cell in nbformat.read(book, 4).cells]
    store_notebook(book)
    stored = nbformat.read(book, 4)
    nbformat.validate(stored)
    assert [cell.id for cell in stored.cells] == ids
    assert set(stored.metadata) == {"kernelspec", "language_info"}
    assert check_structure(book) == []
    assert stored.cells[-2].outputs[0].data["text/plain"] == "0.5"


@pytest.mark.notebook
def test_lines_printed_one_by_one_are_stored_as_one_block():
    streams = [("stdout", "1\n"), ("stdout", "2\n"), ("stderr", "oh\n"), ("stdout", "3\n")]
    outputs = [{"output_type": "stream", "name": name, "text": text} for name, text in streams]
    stored = clean({"cells": [{"metadata": {}, "outputs": outputs}]})["cells"][0]["outputs"]
    assert [output["text"] for output in stored] == ["1\n2\n", "oh\n", "3\n"]


def test_an_absolute_path_in_an_output_is_not_stored(tmp_path):
    book = write_notebook(tmp_path / "a.ipynb", "assert 1", "assert 2\nprint('/home/me/data')")
    before = book.read_bytes()
    with pytest.raises(RuntimeError, match=r"not stored: .*absolute path in an output: /home/me"):
        store_notebook(book)
    assert book.read_bytes() == before


def test_structure_names_each_broken_rule(tmp_path):
    long = "\n".join(f"a{i} = {i}" for i in range(26))
    functions = "\n".join(f"def f{i}(): pass" for i in range(4))
    book = write_notebook(
        tmp_path / "a.ipynb", long, functions, "import sys\nmodel.cuda()", parameters="a = 1"
    )
    said = "\n".join(check_structure(book))
    for words in (
        "not stored as one run in order",
        "code cell 3 is longer than 25 lines",
        "defines 4 functions",
        "2 cells import",
        r"has .cuda(",
        "at least 2 check cells",
        "parameter a needs a comment",
    ):
        assert words in said


def test_relative_paths_and_addresses_are_no_absolute_paths():
    def cell(text):
        return {"outputs": [{"output_type": "stream", "name": "stdout", "text": text}]}

    assert absolute_paths([cell("../runs/demo and https://a.org/home/b and 3 / 4")]) == []
    assert absolute_paths([cell("made /tmp/x1")]) == ["/tmp/x1"]
