"""The stored notebooks have the house's form, run small in a fresh kernel, and replay the same."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases import make_cohort
from bratskit.cli import main
from bratskit.evaluate import Scores
from bratskit.jobs import begin_run, check_structure, read_parameters, run_notebook
from bratskit.labels import get_schema
from bratskit.settings import get_recipe, miniature

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
@pytest.mark.filterwarnings("default:.*are not scored")
@pytest.mark.parametrize("edition", ["msd-task01", "brats2012-2015"])
def test_files_of_another_layout_are_opened_labelled_and_shown_as_any_other(tmp_path, edition):
    words = {"spacing_mm": (4.0, 4.0, 4.0), "edition": edition}
    make_cohort(tmp_path / "data", n_cases=6, **words)
    run = tmp_path / "run"
    begin_run(run, data_dir=tmp_path / "data", edition=edition, recipe_name="smoke")
    data = {"data_dir": str(tmp_path / "data")}
    run_small(CHAIN[0], run, **data)
    for path in CHAIN[2:4]:  # the last one is run below
        run_small(path, run, **data)
        assert integers_in(run / "predictions") == set(get_schema(edition).to_source.values())
    command = ["evaluate", run / "predictions", tmp_path / "data", "--edition", edition]
    assert main([*map(str, command), "--out", str(tmp_path / "scores.csv")]) == 0
    assert dices_in(tmp_path / "scores.csv") == dices_in(run / "scores.csv")


@chain_exists
@pytest.mark.timeout(600)
def test_masks_written_in_another_edition_on_purpose_are_read_in_it_and_kept(tmp_path):
    make_cohort(tmp_path / "data", n_cases=6, spacing_mm=(4.0, 4.0, 4.0))
    run, data = tmp_path / "run", {"data_dir": str(tmp_path / "data")}
    run_small(CHAIN[2], run, edition="brats2023-gli", **data)
    before = {path: path.stat().st_mtime_ns for path in (run / "predictions").iterdir()}
    for path in (CHAIN[4], CHAIN[3]):  # 05 makes the scores, 04 makes them again
        run_small(path, run, **data)
    assert {path: path.stat().st_mtime_ns for path in (run / "predictions").iterdir()} == before
    assert integers_in(run / "predictions") == {0, 1, 2, 3}


def run_small(path, run, **parameters):
    words = {"run_dir": str(run), "recipe_name": "smoke", **parameters}
    status = run_notebook(path, out=run / "notebooks", parameters=words, timeout_s=280)
    assert status.state == "done", str(status)


def dices_in(path):
    rows = Scores.load(path).pick(method="network")
    return {(row.case, row.kind, row.name): round(row.dice, 6) for row in rows}


def integers_in(folder):
    masks = [np.asarray(nib.load(path).dataobj) for path in folder.glob("*.nii.gz")]
    return set(np.unique(np.concatenate([mask.ravel() for mask in masks])).tolist())


SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("unet-a", "unet-b", "segresnet-c", "unet-e", "t4")
]


@chain_exists
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["unet-d", *SLOW])
def test_notebook_02_trains_each_reference_for_a_few_steps(tmp_path, name):
    """Regions, three channels, deep supervision and MONAI's network all go through its cells."""
    recipe = miniature(get_recipe(name), epochs=1, steps_per_epoch=2)
    channels = recipe.network.channels[:3]  # pre-flight and steps take a third of the time
    recipe = dataclasses.replace(
        recipe, network=dataclasses.replace(recipe.network, channels=channels)
    )
    if recipe.network.name != "unet":
        pytest.importorskip("monai")
    words = {"recipe_name": name, "n_cases": 6, "phantom_spacing_mm": 4.0}
    begun = begin_run(tmp_path / "run", is_prepared=False, **words)
    recipe.save(begun.folder.settings)  # the folder decides
    run_small(CHAIN[1], tmp_path / "run", **words)
    assert (tmp_path / "run" / "best.pt").exists()
