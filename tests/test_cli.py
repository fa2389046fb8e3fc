"""The shell offers what the notebooks call; bad input is one line, exit 2 and nothing written."""

import dataclasses
import gzip
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import torch

from bratskit.cli import main
from bratskit.networks import build_network, save_checkpoint
from bratskit.settings import RECIPES, GeometrySettings, NetworkSettings, Recipe, TrainingSettings
from bratskit.train.trackers import TRACKERS, FolderTracker

NANO = Recipe(
    name="nano",
    geometry=GeometrySettings(spacing_mm=None),
    network=NetworkSettings(channels=(4, 8)),
    training=TrainingSettings(
        patch_vox=(16, 16, 16), epochs=2, steps_per_epoch=2, validate_every=1, augment=False
    ),
)


@pytest.fixture
def data(tmp_path, write_case):
    """Return a folder of four small cases."""
    for number in range(4):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _nano(monkeypatch):
    monkeypatch.setitem(RECIPES, "nano", NANO)


def run(capsys, *words):
    """Run a command; return its exit code, stdout and stderr."""
    code = main([str(word) for word in words])
    said = capsys.readouterr()
    return code, said.out, said.err


def copy_case(home, other):
    """Copy a case under another name."""
    other.mkdir(parents=True)
    for path in home.iterdir():
        shutil.copy(path, other / path.name.replace(home.name, other.name))


def refused(capsys, *words):
    """Return what a command refuses its input with: one line, or one for each broken case."""
    code, _, err = run(capsys, *words)
    assert code == 2
    said = [line for line in err.splitlines() if line.startswith(f"bratskit {words[0]}: ")]
    assert 1 <= len(said) <= 2
    assert "Traceback" not in err
    return "\n".join(said)


def test_a_folder_walks_from_scans_to_scores(data, tmp_path, capsys):
    prepared, results = tmp_path / "prepared", tmp_path / "run"
    code, out, _ = run(capsys, "prepare", data, prepared, "--recipe", "nano")
    assert (code, out.splitlines()[-1]) == (0, f"4 cases prepared in {prepared}")
    code, out, _ = run(capsys, "train", prepared, results, "--recipe", "nano")
    assert code == 0
    assert "2 of 2 epochs are done" in out
    assert {"settings.json", "split.json", "last.pt", "best.pt", "history.jsonl"} <= {
        path.name for path in results.iterdir()
    }
    masks, table = tmp_path / "masks", tmp_path / "scores.csv"
    code, out, _ = run(capsys, "predict", data, masks, "--model", results / "best.pt")
    assert (code, len(list(masks.glob("*.nii.gz")))) == (0, 4)
    code, out, _ = run(capsys, "evaluate", masks, data, "--out", table, "--convention", "all")
    assert code == 0
    assert "WT" in out
    assert len(table.read_text().splitlines()) == 1 + 4 * 6 * 2


def test_predict_writes_another_edition_and_does_not_look_at_the_experts_masks(
    data, tmp_path, capsys
):
    network = build_network(NANO.network, in_channels=4, out_channels=4)
    torch.nn.init.zeros_(network.head.weight)
    network.head.bias.data = torch.tensor([0.0, 0, 0, 9])  # ET everywhere: 4 until 2021, 3 in 2023
    model = save_checkpoint(tmp_path / "best.pt", network=network, recipe=NANO, card={})
    truncate_mask(data)
    for edition, integer in (("brats2023-gli", 3), ("brats2017-2021", 4)):
        words = ["predict", data, tmp_path / edition, "--model", model, "--edition", edition]
        code, out, _ = run(capsys, *words)
        assert (code, "4 masks in" in out) == (0, True)
        for path in (tmp_path / edition).glob("*.nii.gz"):
            assert set(np.unique(np.asarray(nib.load(path).dataobj))) == {0, integer}


def test_truth_scored_against_itself_is_perfect(data, tmp_path, capsys):
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in data.glob("*/*_seg.nii.gz"):
        (masks / path.name.replace("_seg", "")).write_bytes(path.read_bytes())
    code, out, _ = run(capsys, "evaluate", masks, data)
    assert code == 0
    assert out.count("1.000 [1.000, 1.000]") == 3 or out.count("1.000") >= 3


def test_the_same_train_command_goes_on_and_another_recipe_is_refused(
    data, tmp_path, capsys, monkeypatch
):
    prepared, results = tmp_path / "prepared", tmp_path / "run"
    run(capsys, "prepare", data, prepared, "--recipe", "nano")
    run(capsys, "train", prepared, results, "--recipe", "nano", "--max-minutes", "1e-9")
    assert len((results / "history.jsonl").read_text().splitlines()) == 1
    changed = dataclasses.replace(NANO, network=NetworkSettings(channels=(4, 6)))
    monkeypatch.setitem(RECIPES, "other", changed)
    assert "channels" in refused(capsys, "train", prepared, results, "--recipe", "other")
    code, out, _ = run(capsys, "train", prepared, results)
    assert (code, "2 of 2 epochs are done" in out) == (0, True)


def test_the_printed_command_goes_on_with_its_settings_trackers_and_determinism(
    data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(TRACKERS, "tensorboard", FolderTracker)
    prepared, results = tmp_path / "prepared", tmp_path / "run"
    run(capsys, "prepare", data, prepared, "--recipe", "nano")
    words = ["train", prepared, results, "--recipe", "nano", "--set", "training.epochs=3"]
    words += ["--deterministic", "--track", "tensorboard", "--max-minutes", "0"]
    _, out, _ = run(capsys, *words)
    printed = shlex.split(out.split("or: ")[1].splitlines()[0])
    assert {"--deterministic", "--track"} <= set(printed)
    assert Recipe.load(results / "settings.json").training.epochs == 3
    code, out, _ = run(capsys, *printed[1:])
    assert (code, "3 of 3 epochs are done" in out) == (0, True)


def test_settings_changed_from_the_shell_reach_prepared_cases_and_wrong_names_are_refused(
    data, tmp_path, capsys
):
    prepared, change = tmp_path / "prepared", "geometry.spacing_mm=[2, 2, 2]"
    run(capsys, "prepare", data, prepared, "--recipe", "nano", "--set", change)
    receipt = json.loads(next(prepared.glob("BraTS*/*.json")).read_text())
    assert "[2, 2, 2]" in json.dumps(receipt)
    words = ["train", prepared, tmp_path / "run", "--recipe", "nano", "--set"]
    assert "Nearest: training.ema_decay" in refused(capsys, *words, "ema_decay=0.9")
    assert "training.batch must be a whole number" in refused(capsys, *words, "training.batch=x")
    assert not (tmp_path / "run").exists()


def test_prepared_cases_of_another_grid_are_refused(data, tmp_path, capsys):
    run(capsys, "prepare", data, tmp_path / "prepared", "--recipe", "nano")
    said = refused(capsys, "train", tmp_path / "prepared", tmp_path / "run", "--recipe", "tiny")
    assert "geometry of" in said
    assert "as recipe 'tiny' asks" in said
    assert "--recipe tiny" in said
    assert not (tmp_path / "run").exists()


def test_extra_phantoms_are_learned_from_and_never_scored(data, tmp_path, write_case, capsys):
    prepared = tmp_path / "prepared"
    extra = [write_case(data, f"ExtraPhantom_{number:05d}").id for number in range(8)]
    run(capsys, "prepare", data, prepared, "--recipe", "nano")
    code, *_ = run(capsys, "train", prepared, tmp_path / "run", "--recipe", "nano")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (code, split["train"][-8:]) == (0, extra)
    assert not {*split["validation"], *split["test"]} & {*extra}


@pytest.mark.parametrize("form", ["fast", "compact"])
def test_a_patient_prepared_under_two_names_is_in_one_part(data, tmp_path, capsys, form):
    for number in range(4):
        home = data / f"BraTS20_Training_{number:03d}"
        copy_case(home, data / f"BRATS_10{number}")
    prepared = tmp_path / "prepared"
    run(capsys, "prepare", data, prepared, "--recipe", "nano", "--form", form)
    code, *_ = run(capsys, "train", prepared, tmp_path / "run", "--recipe", "nano")
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    parts = {name: part for part in ("train", "validation", "test") for name in split[part]}
    assert code == 0
    for number in range(4):
        assert parts[f"BRATS_10{number}"] == parts[f"BraTS20_Training_{number:03d}"]


def test_a_fold_drawn_over_two_folders_is_trained_on(tmp_path, write_case, rng, capsys):
    for number in range(5):
        case = write_case(tmp_path / "one", f"Brats18_X_{number}_1")
        texture = rng.normal(0, 40, (24, 28, 20))  # without it all of them look alike
        for path in case.paths.values():
            file = nib.load(path)
            voxels = np.asarray(file.dataobj)
            nib.save(nib.Nifti1Image(voxels + (voxels > 0) * texture, file.affine), path)
    copy_case(tmp_path / "one" / "Brats18_X_2_1", tmp_path / "two" / "BraTS-GLI-00009-000")
    manifest, prepared = tmp_path / "folds.json", tmp_path / "prepared"
    words = ["split", tmp_path / "one", tmp_path / "two", manifest, "--folds", "2"]
    code, out, _ = run(capsys, *words)
    expected = f"Split: {manifest}; one patient each: BraTS-GLI-00009-000 = Brats18_X_2_1"
    assert (code, out.splitlines()[-1]) == (0, expected)
    run(capsys, "prepare", tmp_path / "one", prepared, "--recipe", "nano")
    run(capsys, "prepare", tmp_path / "two", prepared, "--recipe", "nano")
    begin = ["train", prepared, tmp_path / "run", "--recipe", "nano", "--split", manifest]
    assert "fold must be 0 to 1" in refused(capsys, *begin)
    code, out, _ = run(capsys, *begin, "--fold", "1")
    assert (code, "2 of 2 epochs are done" in out) == (0, True)
    kept = json.loads((tmp_path / "run" / "split.json").read_text())
    assert kept["validation"] == json.loads(manifest.read_text())["folds"][1]
    assert "Choose another RUN" in refused(capsys, *begin, "--fold", "0")


def test_a_fold_without_its_manifest_is_refused(data, tmp_path, capsys):
    run(capsys, "prepare", data, tmp_path / "prepared", "--recipe", "nano")
    said = refused(
        capsys, "train", tmp_path / "prepared", tmp_path / "run", "--recipe", "nano", "--fold", "1"
    )
    assert "Add --split FILE" in said


def test_split_refuses_an_output_that_is_a_folder_and_a_case_in_two_folders(data, tmp_path, capsys):
    assert "must be a .json file" in refused(capsys, "split", data, tmp_path)
    said = refused(capsys, "split", data, data, tmp_path / "split.json")
    assert "Leave out the folder that holds them a second time" in said
    assert not (tmp_path / "split.json").exists()


def test_resume_insists_on_a_checkpoint(data, tmp_path, capsys):
    run(capsys, "prepare", data, tmp_path / "prepared", "--recipe", "nano")
    said = refused(
        capsys, "train", tmp_path / "prepared", tmp_path / "run", "--recipe", "nano", "--resume"
    )
    assert "last.pt to go on from" in said


def test_check_exits_0_on_clean_folders_and_1_on_problems(data, capsys):
    code, out, _ = run(capsys, "check", data)
    assert code == 0, out
    next(data.glob("*/*_t2.nii.gz")).unlink()
    code, out, _ = run(capsys, "check", data, "--json")
    findings = json.loads(out)
    assert code == 1
    assert any("t2" in item["what"] + item["where"] for item in findings)
    assert all(item["mend"] for item in findings)


# -- refusals: each breaks one thing in one case and prepares the folder


def first(data, kind):
    return sorted(data.glob(f"*/*_{kind}.nii.gz"))[0]


def leave_out_a_modality(data):
    first(data, "t1ce").unlink()


def truncate(data):
    path = first(data, "flair")
    path.write_bytes(path.read_bytes()[:-200])


def truncate_mask(data):
    path = first(data, "seg")
    path.write_bytes(path.read_bytes()[:40])


def put_mask_on_another_grid(data):
    path = first(data, "seg")
    nib.save(nib.Nifti1Image(np.zeros((24, 28, 19), np.uint8), np.diag([-1.0, -1, 1, 1])), path)


def label_with_a_seven(data):
    path = first(data, "seg")
    mask = nib.load(path)
    values = np.asarray(mask.dataobj).copy()
    values[12, 14, 10] = 7
    nib.save(nib.Nifti1Image(values, mask.affine, mask.header), path)


def replace_by_text(data):
    with gzip.open(first(data, "t1"), "wb") as file:
        file.write(b"no image at all")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (leave_out_a_modality, "t1ce"),
        (truncate, "flair"),
        (put_mask_on_another_grid, "(24, 28, 19)"),
        (label_with_a_seven, "[7]"),
        (replace_by_text, "t1"),
    ],
)
def test_damaged_cases_are_refused_by_name(data, tmp_path, capsys, damage, named):
    damage(data)
    said = refused(capsys, "prepare", data, tmp_path / "prepared", "--recipe", "nano")
    assert "BraTS20_Training_000" in said
    assert named in said
    assert "BraTS20_Training_000" not in {path.name for path in tmp_path.glob("prepared/*")}


@pytest.mark.parametrize("command", ["prepare", "predict"])
def test_an_unwritable_output_folder_is_refused_before_any_work(data, tmp_path, capsys, command):
    (tmp_path / "file").write_text("in the way")
    said = refused(capsys, command, data, tmp_path / "file" / "out")
    assert "must be writable" in said


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["prepare", "/no/such", "out"], "/no/such"),
        (["evaluate", "/no/such", "/no/such"], "/no/such"),
        (["predict", "/no/such", "out"], "/no/such"),
        (["report", "/no/such"], "/no/such"),
        (["train", "/no/such", "out"], "bratskit prepare"),
        (["demo", "--recipe", "huge"], "tiny"),
        (["demo", "--data", "/no/such"], "/no/such"),
        (["phantom", "out", "--cases", "0"], "--cases must be 1 or more; got 0. Try --cases 4."),
        (["phantom", "out", "--cases", "1", "--spacing", "0", "1", "1"], "--spacing must be three"),
        (["phantom", "out", "--cases", "1", "--seed", "-1"], "--seed must be 0"),
        (["phantom", "out", "--cases", "1", "--workers", "0"], "Try --workers 4."),
    ],
)
def test_what_does_not_exist_is_named_and_nothing_is_made(
    tmp_path, capsys, monkeypatch, words, named
):
    monkeypatch.chdir(tmp_path)
    assert named in refused(capsys, *words)
    assert not any((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("workers", [0, -3])
def test_fewer_than_one_worker_are_refused(data, tmp_path, capsys, workers):
    out = tmp_path / "prepared"
    said = refused(capsys, "prepare", data, out, "--workers", workers)
    assert f"workers must be at least 1; got {workers}" in said
    assert not any(out.glob("*"))


@pytest.mark.parametrize("minutes", ["-1", "nan"])
def test_a_session_of_no_length_is_refused_and_throws_nothing_away(data, tmp_path, capsys, minutes):
    prepared, results = tmp_path / "prepared", tmp_path / "run"
    run(capsys, "prepare", data, prepared, "--recipe", "nano")
    run(capsys, "train", prepared, results, "--recipe", "nano")
    said = refused(capsys, "train", prepared, results, "--no-resume", "--max-minutes", minutes)
    assert "max_minutes must be 0 or more" in said
    assert (results / "last.pt").exists()


@pytest.mark.parametrize(
    "words", [["train"], ["no-such-command"], ["phantom", "out", "--cases", "x"]]
)
def test_bad_arguments_are_one_line_too(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(words)
    err = capsys.readouterr().err
    assert (stop.value.code, err.count("\n")) == (2, 1)


def test_a_traceback_is_there_for_who_asks(monkeypatch):
    monkeypatch.setenv("BRATSKIT_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError, match="must exist"):
        main(["prepare", "/no/such", "out"])


def test_ctrl_c_is_one_line_that_says_how_to_go_on(tmp_path):
    code = (
        "import bratskit.cli as cli\n"
        "def sleep(_):\n"
        "    import time; print('asleep', flush=True); time.sleep(60)\n"
        "cli._report = sleep\n"
        f"raise SystemExit(cli.main(['report', {str(tmp_path)!r}]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout.readline() == "asleep\n"
        os.kill(command.pid, signal.SIGINT)
        _, err = command.communicate(timeout=20)
    assert (command.returncode, err) == (
        130,
        "bratskit report: stopped; the same command goes on from there\n",
    )
