"""`bratskit predict` labels whom it can, says in a line whom it cannot and why, and goes on."""

import json
import shutil
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from bratskit.cases import make_cohort
from bratskit.cli import main
from bratskit.evaluate import evaluate_paths
from bratskit.labels import MODALITIES
from bratskit.networks import build_network, save_checkpoint
from bratskit.settings import GeometrySettings, NetworkSettings, Recipe, TrainingSettings

RECIPE = Recipe(
    name="nano",
    geometry=GeometrySettings(spacing_mm=None),
    network=NetworkSettings(channels=(4, 8)),
    training=TrainingSettings(patch_vox=(16, 16, 16)),
)


def write_model(path, seed, **changes):
    torch.manual_seed(seed)
    network = build_network(RECIPE.network, in_channels=4, out_channels=4)
    return save_checkpoint(path, network=network, recipe=replace(RECIPE, **changes), card={})


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "best.pt", 0)


@pytest.fixture
def data(tmp_path, write_case):
    for number in range(3):
        write_case(tmp_path / "data", f"BraTS20_Training_{number:03d}")
    return tmp_path / "data"


def predict(capsys, *words):
    """Run the command; return its exit code, stdout and stderr."""
    code = main(["predict", *(str(word) for word in words)])
    said = capsys.readouterr()
    return code, said.out, said.err


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def files_of(data, case_id):
    return [
        word
        for name in MODALITIES
        for word in (f"--{name}", data / case_id / f"{case_id}_{name}.nii.gz")
    ]


def test_four_named_files_give_the_mask_that_their_folder_gives(data, model, tmp_path, capsys):
    case_id = "BraTS20_Training_001"
    predict(capsys, data, tmp_path / "all", "--model", model)
    code, out, _ = predict(
        capsys, "--model", model, *files_of(data, case_id), tmp_path / "one", "--strict"
    )
    assert (code, f"1 mask in {tmp_path / 'one'}" in out) == (0, True)
    assert names(tmp_path / "one") == [f"{case_id}.json", f"{case_id}.nii.gz"]
    one, all_ = (nib.load(tmp_path / place / f"{case_id}.nii.gz") for place in ("one", "all"))
    assert np.array_equal(one.dataobj, all_.dataobj)


def test_files_of_any_name_are_called_as_one_says(data, model, tmp_path, capsys):
    files = files_of(data, "BraTS20_Training_001")
    for at, name in zip((1, 3, 5, 7), "abcd", strict=True):
        files[at] = files[at].rename(tmp_path / f"{name}.nii.gz")
    predict(capsys, *files, tmp_path / "out", "--model", model, "--id", "pat7")
    assert names(tmp_path / "out") == ["pat7.json", "pat7.nii.gz"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--flair", "f", "out"], "got none for --t1, --t1ce, --t2"),
        (["data", "out", "--t1", "f"], "OUT alone"),
        (["data", "out", "--id", "x"], "--id must come with four named files"),
        (["data", "out", "--set", "training.epochs=3"], "must name a setting of inference"),
        (["data", "out", "--set", "inference.overlap=2"], r"overlap must be in [0, 1)"),
        (["data", "out", "--model", "none.pt"], "none.pt"),
    ],
)
def test_words_that_do_not_fit_are_refused_in_a_line(
    data, tmp_path, capsys, monkeypatch, words, named
):
    monkeypatch.chdir(tmp_path)
    code, _, err = predict(capsys, *words)
    assert (code, err.count("\n")) == (2, 1)
    assert named in err


def test_the_rest_go_on_where_one_lacks_a_file_and_one_is_cut_off(data, model, tmp_path, capsys):
    (data / "BraTS20_Training_000" / "BraTS20_Training_000_t1ce.nii.gz").unlink()
    cut = data / "BraTS20_Training_001" / "BraTS20_Training_001_t2.nii.gz"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:300])
    code, out, err = predict(capsys, data, tmp_path / "out", "--model", model)
    assert code == 1
    assert names(tmp_path / "out") == ["BraTS20_Training_002.json", "BraTS20_Training_002.nii.gz"]
    first, second = (line for line in err.splitlines() if " failed: " in line)
    assert "lacks t1ce. Add BraTS20_Training_000_t1ce.nii.gz" in first
    assert "must be a whole gzip file" in second
    assert "2 of 3 patients left out: BraTS20_Training_000, BraTS20_Training_001" in out
    cut.write_bytes(whole)
    code, out, _ = predict(capsys, data, tmp_path / "out", "--model", model)
    assert (code, "1 kept, 1 to make" in out) == (1, True)


def test_what_is_asked_for_is_written_and_kept_and_no_map_outlives_its_mask(
    data, model, tmp_path, capsys
):
    words = [data, tmp_path / "out", "--model", model]
    asked = ["--probabilities", "--uncertainty", "--set", "inference.mirror=left-right"]
    predict(capsys, *words, *asked)
    ends = [".json", ".nii.gz", "_entropy.nii.gz", "_mutual_information.nii.gz"]
    ends.append("_probabilities.nii.gz")
    assert names(tmp_path / "out")[:5] == [f"BraTS20_Training_000{end}" for end in ends]
    load = {end: nib.load(tmp_path / "out" / f"BraTS20_Training_000{end}") for end in ends[1:]}
    probs = load["_probabilities.nii.gz"].get_fdata()
    np.testing.assert_allclose(probs.sum(axis=-1), 1, atol=2e-4)
    assert probs.shape == (*load[".nii.gz"].shape, 4)
    assert load["_entropy.nii.gz"].shape == load[".nii.gz"].shape
    assert np.isclose(load["_entropy.nii.gz"].get_fdata().max(), 2, atol=0.1)  # it never learned
    receipt = json.loads((tmp_path / "out" / "BraTS20_Training_000.json").read_text())
    assert set(receipt["volumes"]["WT"]) == {"ml", "low_ml", "high_ml"}
    _, out, _ = predict(capsys, *words, "--set", "inference.mirror=left-right")
    assert "3 kept, 0 to make" in out  # more was written than is asked for now
    assert evaluate_paths(tmp_path / "out", data).rows  # maps are no masks
    predict(capsys, *words)  # other masks: the maps of those before would be lies
    assert not list((tmp_path / "out").glob("*_probabilities.nii.gz"))


def test_two_models_are_an_ensemble_with_a_mask_of_its_own(data, model, tmp_path, capsys):
    other, out = write_model(tmp_path / "other.pt", 1), tmp_path / "out"
    probs = {}
    for name, models in {"a": [model], "b": [other], "ab": [model, other]}.items():
        flags = [word for path in models for word in ("--model", path)]
        predict(capsys, data, out, *flags, "--probabilities")
        path = out / "BraTS20_Training_000_probabilities.nii.gz"
        probs[name] = nib.load(path).get_fdata()
    np.testing.assert_allclose(probs["ab"], (probs["a"] + probs["b"]) / 2, atol=1e-3)
    assert not np.allclose(probs["a"], probs["b"], atol=0.01)


def test_mirrors_are_asked_for_by_one_word(data, model, tmp_path, capsys):
    predict(capsys, data, tmp_path / "out", "--model", model, "--tta")
    receipt = json.loads((tmp_path / "out" / "BraTS20_Training_000.json").read_text())
    assert receipt["inference"]["mirror"] == "all"


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    make_cohort(folder, n_cases=3, seed=7, spacing_mm=(4.0, 4.0, 4.0), workers=1)
    return folder


def swap(folder, case_id, one, other):
    first, second = (folder / case_id / f"{case_id}_{name}.nii.gz" for name in (one, other))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


@pytest.fixture
def swapped(phantoms, tmp_path):
    """Copy three phantoms and put T1 and T2 of the second under each other's names."""
    folder = tmp_path / "phantoms"
    shutil.copytree(phantoms, folder)
    ids = sorted(path.name for path in folder.iterdir() if path.is_dir())
    swap(folder, ids[1], "t1", "t2")
    return folder, ids


def test_swapped_modalities_get_no_mask_unless_they_are_trusted(swapped, model, tmp_path, capsys):
    folder, ids = swapped
    code, _, err = predict(capsys, folder, tmp_path / "out", "--model", model)
    assert code == 1
    assert next(line for line in err.splitlines() if "failed" in line).startswith(
        f"predict: {ids[1]} failed: "
    )
    assert "t1 holds t2, t2 holds t1" in err
    assert "--trust" in err
    assert not (tmp_path / "out" / f"{ids[1]}.nii.gz").exists()
    code, out, err = predict(capsys, folder, tmp_path / "out", "--model", model, "--trust")
    assert (code, "2 kept, 1 to make" in out) == (0, True)
    assert f"predict: {ids[1]} warning: " in err
    receipt = json.loads((tmp_path / "out" / f"{ids[1]}.json").read_text())
    assert receipt["doubts"][0] == "swapped"
    code, out, err = predict(capsys, folder, tmp_path / "out", "--model", model)
    assert (code, "2 kept, 1 to make" in out) == (1, True)  # trusted then, refused now
    assert f"predict: {ids[1]} failed: " in err


def test_modalities_exchanged_in_the_whole_folder_stop_it_before_any_work(
    swapped, model, tmp_path, capsys
):
    folder, ids = swapped
    swap(folder, ids[0], "t1", "t2")
    swap(folder, ids[2], "t1", "t2")
    code, _, err = predict(capsys, folder, tmp_path / "out", "--model", model)
    assert code == 2
    assert "modalities are exchanged in 3 of 3 cases: t1 holds t2, t2 holds t1" in err
    assert names(tmp_path / "out") == []
    assert predict(capsys, folder, tmp_path / "out", "--model", model, "--trust")[0] == 0


def test_memory_that_holds_no_window_is_refused_with_what_it_takes(data, model, tmp_path, capsys):
    words = data, tmp_path / "out", "--model", model, "--memory-gb"
    code, _, err = predict(capsys, *words, "0.001")
    assert code == 1
    assert "memory_bytes must be at least" in err
    assert "Give 0.1 GB" in err
    assert predict(capsys, *words, "0.1")[0] == 0


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("there", ["scan", "expert mask", "json"])
def test_a_file_that_predict_did_not_write_is_never_replaced(there, data, model, tmp_path, capsys):
    out, case_id = tmp_path / "taken", "BraTS20_Training_001"
    out.mkdir()
    words = [data]
    if there == "scan":
        out = data / case_id
        words = [*files_of(data, case_id), "--id", f"{case_id}_flair"]
    elif there == "expert mask":
        shutil.copy(data / case_id / f"{case_id}_seg.nii.gz", out / f"{case_id}.nii.gz")
    else:
        (out / f"{case_id}.json").write_text('{"mine": 1}')
    before = contents(tmp_path)
    code, _, err = predict(capsys, *words, out, "--model", model)
    assert code == 2
    assert "Choose another OUT" in err
    assert contents(tmp_path) == before


def test_four_files_in_another_order_are_labelled_again(data, model, tmp_path, capsys):
    words = files_of(data, "BraTS20_Training_000")
    out = tmp_path / "out"
    more = ["--id", "one", "--model", model, "--trust"]
    assert predict(capsys, *words, out, *more)[0] == 0
    words[1], words[3] = words[3], words[1]
    code, said, _ = predict(capsys, *words, out, *more)
    assert code == 0
    assert "kept" not in said


def test_four_files_of_one_name_are_told_apart(data, model, tmp_path, capsys):
    words = files_of(data, "BraTS20_Training_000")
    for at in (1, 3, 5, 7):
        place = tmp_path / words[at - 1].strip("-") / "image.nii.gz"
        place.parent.mkdir()
        words[at] = shutil.copy(words[at], place)
    out = tmp_path / "out"
    more = ["--id", "one", "--model", model, "--trust"]
    assert predict(capsys, *words, out, *more)[0] == 0
    shutil.copy(words[3], words[1])  # another image under the name of the first
    assert "kept" not in predict(capsys, *words, out, *more)[1]


def test_a_fault_of_the_request_is_one_line_before_any_patient(data, model, tmp_path, capsys):
    code, _, err = predict(
        capsys, data, tmp_path / "out", "--model", model, "--set", "inference.dropout_samples=2"
    )
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "network must have dropout for 2 dropout passes" in err
