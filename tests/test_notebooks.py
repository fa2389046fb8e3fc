"""The stored notebooks have the house's form, run small in a fresh kernel, and replay the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bratskit.cases import make_cohort
from bratskit.jobs import begin_run, check_structure, read_parameters, run_notebook

FOLDER = Path(__file__).parents[1] / "notebooks"
STORED = sorted(FOLDER.glob("0*.ipynb"))
CHAIN = sorted(FOLDER.glob("0[1-5]_*.ipynb"))
MARK = "NBVAL_CHECK_OUTPUT"

# What makes a notebook small; each gets those it declares.
SMALL = {"recipe_name": "smoke", "n_cases": 6, "phantom_spacing_mm": 3.0, "deterministic": True}

pytestmark = pytest.mark.notebook
chain_exists = pytest.mark.skipif(len(CHAIN) < 5, reason="notebooks 01-05 are not all written")


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_notebook_has_the_form_of_the_house(path):
    assert check_structure(path) == []


@chain_exists
def test_parameters_of_one_name_have_one_type():
    kinds = {}
    for path in CHAIN:
        for name, value in read_parameters(path).items():
            assert kinds.setdefault(name, type(value)) is type(value), f"{name} of {path.stem}"
    assert {"run_dir", "seed"} <= set(kinds)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Run 01-05 small, deterministic, one after the other; return the run folder and copies."""
    run = tmp_path_factory.mktemp("small") / "run"
    copies = tmp_path_factory.mktemp("executed")
    for path in CHAIN:
        wanted = {"run_dir": str(run), **SMALL}
        declared = read_parameters(path)
        parameters = {name: value for name, value in wanted.items() if name in declared}
        status = run_notebook(path, out=run / "notebooks", parameters=parameters, timeout_s=280)
        assert status.state == "done", str(status)
        shutil.copy(status.output, copies)
    return run, copies


@chain_exists
@pytest.mark.timeout(600)
def test_the_chain_runs_small_and_leaves_its_files(executed):
    run, _ = executed
    names = (
        "split.json history.jsonl last.pt best.pt predictions scores.csv summary.json report.html"
    )
    missing = [name for name in names.split() if not (run / name).exists()]
    assert not missing


@chain_exists
@pytest.mark.timeout(600)
def test_marked_cells_print_the_same_when_replayed(executed):
    run, copies = executed
    marked = [path.name for path in copies.glob("*.ipynb") if MARK in path.read_text("utf-8")]
    assert len(marked) == len(CHAIN), f"mark a cell with # {MARK}; found only in {marked}"
    shutil.rmtree(run)  # what papermill made must come again, from nothing
    command = [sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-current-env"]
    command += ["-c", os.devnull, "--rootdir", str(copies), "-p", "no:cacheprovider"]
    command += ["--nbval-cell-timeout", "280", *map(str, sorted(copies.glob("*.ipynb")))]
    replay = subprocess.run(command, capture_output=True, text=True, check=False, cwd=copies)
    assert replay.returncode == 0, replay.stdout[-4000:] + replay.stderr[-2000:]


@chain_exists
@pytest.mark.timeout(600)
@pytest.mark.parametrize("edition", ["msd-task01", "brats2012-2015"])
def test_files_of_another_layout_are_opened_and_shown_as_any_other(tmp_path, edition):
    words = {"spacing_mm": (4.0, 4.0, 4.0), "edition": edition}
    make_cohort(tmp_path / "data", n_cases=6, **words)
    run = tmp_path / "run"
    begin_run(run, data_dir=tmp_path / "data", edition=edition, recipe_name="smoke")
    parameters = {"run_dir": str(run), "data_dir": str(tmp_path / "data"), "recipe_name": "smoke"}
    for path in (CHAIN[0], CHAIN[2]):  # the two that open files
        status = run_notebook(path, out=run / "notebooks", parameters=parameters, timeout_s=280)
        assert status.state == "done", str(status)
