"""Whatever a user's folder holds, a command says it in a line, exits 2 and leaves no half work."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from bratskit.cases import find_cases
from bratskit.cli import main
from bratskit.jobs import begin_run
from bratskit.networks import build_network, save_checkpoint
from bratskit.runtime import RunFolder
from bratskit.settings import RECIPES, GeometrySettings, NetworkSettings, Recipe, TrainingSettings

NANO = Recipe(
    name="nano",
    geometry=GeometrySettings(spacing_mm=None),
    network=NetworkSettings(channels=(4, 8)),
    training=TrainingSettings(
        patch_vox=(16, 16, 16), epochs=2, steps_per_epoch=2, validate_every=2, augment=False
    ),
)
BROKEN = "BraTS20_Training_001"


@pytest.fixture
def data(tmp_path, write_case):
    """Return a folder of four small cases; the tests break the second one."""
    for number in range(4):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}")
    return tmp_path / "data"


@pytest.fixture
def model(tmp_path):
    """Return the checkpoint of a network that has learned nothing."""
    network = build_network(NANO.network, in_channels=4, out_channels=4)
    return save_checkpoint(tmp_path / "model.pt", network=network, recipe=NANO, card={})


@pytest.fixture(autouse=True)
def _nano(monkeypatch):
    monkeypatch.setitem(RECIPES, "nano", NANO)


def run(capsys, *words):
    """Run a command; return its exit code and the lines it said to stderr under its name."""
    code = main([str(word) for word in words])
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert ".py:" not in err
    return code, [line for line in err.splitlines() if line.startswith(f"bratskit {words[0]}: ")]


def tree(folder):
    """Return every file below a folder with its bytes."""
    return {path: path.is_file() and path.read_bytes() for path in Path(folder).rglob("*")}


def prepare(capsys, data, place):
    assert run(capsys, "prepare", data, place, "--recipe", "nano", "--workers", "1")[0] == 0
    return place


# -- what a file may be


def file_of(data, kind):
    return data / BROKEN / f"{BROKEN}_{kind}.nii.gz"


def rewrite(data, kind, change):
    path = file_of(data, kind)
    file = nib.load(path)
    values, affine = change(np.asarray(file.dataobj).copy(), file.affine.copy())
    nib.save(nib.Nifti1Image(values, affine), path)


def put(value):
    def change(values, affine):
        values = values.astype(np.float32) if np.isnan(value) else values
        values[12, 14, 10] = value
        return values, affine

    return change


def shift(values, affine):
    affine[0, 3] += 3
    return values, affine


DAMAGES = {
    "missing": ("t2", lambda data: file_of(data, "t2").unlink(), "t2"),
    "truncated": (
        "t1",
        lambda data: os.truncate(file_of(data, "t1"), 500),
        "truncated or damaged",
    ),
    "truncated mask": ("seg", lambda data: os.truncate(file_of(data, "seg"), 60), "download"),
    "empty": ("t1", lambda data: os.truncate(file_of(data, "t1"), 0), "empty file"),
    "text": ("flair", lambda data: file_of(data, "flair").write_text("hello"), "dcm2niix"),
    "another grid": ("seg", lambda data: rewrite(data, "seg", shift), "3.00 mm away"),
    "four axes": (
        "t2",
        lambda data: rewrite(data, "t2", lambda a, affine: (np.stack([a, a], -1), affine)),
        "3D volume",
    ),
    "not a number": ("t1", lambda data: rewrite(data, "t1", put(np.nan)), "nan_to_num"),
    "unknown label": ("seg", lambda data: rewrite(data, "seg", put(7)), "[7]"),
    "label of 2023": ("seg", lambda data: rewrite(data, "seg", put(3)), "[3]"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_demo_refuses_a_damaged_cohort_before_anything_is_made(name, data, tmp_path, capsys):
    kind, damage, named = DAMAGES[name]
    damage(data)
    before = tree(tmp_path)
    code, said = run(capsys, "demo", "--data", data, "--out", tmp_path / "run")
    assert code == 2
    assert len(said) == (1 if name == "missing" else 2)  # names are read first, files after
    assert f"{BROKEN}_{kind}" in said[-1]
    assert named in said[-1]
    assert tree(tmp_path) == before


def test_the_demo_leaves_a_run_alone_that_was_begun_with_other_settings(data, tmp_path, capsys):
    begin_run(tmp_path / "run", data_dir=data, recipe_name="nano", is_prepared=False)
    before = tree(tmp_path)
    for words, named in ((["--data", data, "--recipe", "tiny"], "recipe"), ([], "data_dir")):
        words = ["demo", "--out", tmp_path / "run", "--recipe", "nano", *words]
        code, said = run(capsys, *words)
        assert (code, len(said)) == (2, 1)
        assert named in said[0]
        assert "was begun" in said[0]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("name", ["missing", "truncated", "not a number"])
def test_predict_leaves_no_mask_of_a_damaged_case(name, data, tmp_path, capsys, model):
    kind, damage, named = DAMAGES[name]
    damage(data)
    code = main(["predict", str(data), str(tmp_path / "masks"), "--model", str(model)])
    (line,) = (one for one in capsys.readouterr().err.splitlines() if " failed: " in one)
    assert code == 1  # the others are labelled
    assert line.startswith(f"predict: {BROKEN} failed: ")
    assert f"{BROKEN}_{kind}" in line or "missing" in line
    assert named in line
    assert not list(tmp_path.glob(f"masks/*{BROKEN}*"))
    assert list(tmp_path.glob("masks/*.nii.gz"))
    assert not list(tmp_path.glob("masks/.*"))


@pytest.mark.parametrize("name", ["truncated mask", "another grid", "unknown label"])
def test_predict_does_not_mind_a_damaged_mask_of_the_expert(name, data, tmp_path, capsys, model):
    _, damage, _ = DAMAGES[name]
    damage(data)
    code, said = run(capsys, "predict", data, tmp_path / "masks", "--model", model)
    assert (code, said) == (0, [])
    assert len(list(tmp_path.glob("masks/*.nii.gz"))) == 4


# -- what a folder between two commands may hold


@pytest.mark.parametrize("name", ["image.npy", "labels.npy", "foreground.npz", "receipt.json"])
def test_a_damaged_prepared_file_is_named_before_a_run_is_begun(name, data, tmp_path, capsys):
    store = prepare(capsys, data, tmp_path / "store")
    for path in store.glob(f"*/{name}"):  # whichever cases are drawn for training
        os.truncate(path, 40)
    code, said = run(capsys, "train", store, tmp_path / "run", "--recipe", "nano")
    assert (code, len(said)) == (2, 1)
    assert name in said[0]
    assert "bratskit prepare DATA" in said[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"text"])
def test_a_damaged_last_checkpoint_changes_nothing_and_says_both_ways_out(
    content, data, tmp_path, capsys
):
    store = prepare(capsys, data, tmp_path / "store")
    words = ["train", store, tmp_path / "run", "--recipe", "nano"]
    run(capsys, *words, "--max-minutes", "1e-9")
    (tmp_path / "run" / "last.pt").write_bytes(content)
    before = tree(tmp_path / "run")
    code, said = run(capsys, *words)
    assert (code, len(said)) == (2, 1)
    assert "--no-resume" in said[0]
    assert tree(tmp_path / "run") == before
    assert run(capsys, *words, "--no-resume")[0] == 0


def test_damaged_settings_of_a_run_are_named(data, tmp_path, capsys):
    store = prepare(capsys, data, tmp_path / "store")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "settings.json").write_text("{")
    code, said = run(capsys, "train", store, tmp_path / "run")
    assert (code, len(said)) == (2, 1)
    assert "settings.json must be a recipe" in said[0]


def foreign(path):
    torch.save({"state_dict": {"weight": torch.zeros(2)}}, path)


def runs_code(path):
    torch.save(torch.nn.Linear(2, 2), path)


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (foreign, "another program"),
        (runs_code, "would run code"),
        (lambda path: path.write_bytes(b"PK half"), "cut off"),
        (lambda path: path.mkdir(), "existing file"),
    ],
)
def test_a_foreign_model_is_refused_in_a_line(write, named, data, tmp_path, capsys):
    write(tmp_path / "foreign.pt")
    words = ["predict", data, tmp_path / "masks", "--model", tmp_path / "foreign.pt"]
    code, said = run(capsys, *words)
    assert (code, len(said)) == (2, 1)
    assert named in said[0]
    assert not any(tmp_path.glob("masks/*"))


def test_scores_need_a_file_name_and_reports_a_run(data, tmp_path, capsys):
    truths = tmp_path / "truths"
    truths.mkdir()
    for case in find_cases(data):
        shutil.copy(case.labels_path, truths)
    before = tree(tmp_path)
    for words, named in (
        (["evaluate", truths, data, "--out", truths], "scores.csv"),
        (["report", data], "must be a run folder"),
        (["phantom", tmp_path / "phantoms", "--cases", "1", "--spacing", "0", "0", "0"], "0.5"),
    ):
        code, said = run(capsys, *words)
        assert (code, len(said)) == (2, 1)
        assert named in said[0]
    assert tree(tmp_path) == before


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_plain_line_said_once(data, tmp_path, capsys):
    masks = tmp_path / "masks"
    masks.mkdir()
    shutil.copy(file_of(data, "seg"), masks / f"{BROKEN}.nii.gz")
    code, said = run(capsys, "evaluate", masks, data, "--convention", "all")
    assert code == 0
    assert said == [
        "bratskit evaluate: warning: 3 references without a prediction are not scored: "
        "BraTS20_Training_000, BraTS20_Training_002, BraTS20_Training_003"
    ]


# -- names and links


def test_spaces_accents_and_links_are_names_like_any_other(data, tmp_path, capsys):
    place = tmp_path / "données à lire"
    place.mkdir()
    for case in data.iterdir():
        (place / case.name).symlink_to(case)
    (place / "loop").symlink_to(place)
    store = prepare(capsys, place, tmp_path / "préparés ici")
    results = tmp_path / "run № 1"
    assert run(capsys, "train", store, results, "--recipe", "nano")[0] == 0
    masks = tmp_path / "masques"
    assert run(capsys, "predict", place, masks, "--model", results / "best.pt")[0] == 0
    assert run(capsys, "evaluate", masks, place, "--out", tmp_path / "a b.csv")[0] == 0
    assert run(capsys, "report", results)[0] == 0


# -- signals, as a terminal and a machine out of memory send them


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_stopped_training_goes_on_and_repeats_no_row(sent, code, data, tmp_path, capsys):
    store = prepare(capsys, data, tmp_path / "store")
    results = RunFolder(tmp_path / "run")
    script = (
        "import sys; from bratskit.cli import main; from bratskit.settings import *\n"
        f"RECIPES['nano'] = Recipe.from_dict({NANO.to_dict()!r})\n"
        "from bratskit.train import loop\n"
        "save = loop.save_last\n"
        "def save_and_wait(*words, **more):\n"
        "    save(*words, **more); print('saved', flush=True)\n"
        "    import time; time.sleep(60)\n"
        "loop.save_last = save_and_wait\n"
        f"sys.exit(main(['train', {str(store)!r}, {str(results.path)!r}, '--recipe', 'nano']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as command:
        assert any(line == "saved\n" for line in command.stdout)  # after lines of progress
        os.killpg(command.pid, sent)
        _, err = command.communicate(timeout=20)
    assert command.returncode == code
    assert "Traceback" not in err
    stray = results.path / f".{command.pid}-last.pt"  # as a kill in the middle of a write leaves it
    stray.write_bytes(b"half")
    assert run(capsys, "train", store, results.path)[0] == 0
    rows = results.history.read_text().splitlines()
    assert [f'"epoch": {epoch}, ' in row for epoch, row in enumerate(rows, start=1)] == [True, True]
    assert sorted(path.name for path in results.path.iterdir()) == [
        "best.pt",
        "figures",
        "history.jsonl",
        "last.pt",
        "settings.json",
        "split.json",
    ]
