"""Modalities that were moved by a known rigid movement come back to less than a voxel."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from bratskit.cases import find_doubts, find_scans, make_cohort
from bratskit.cli import main
from bratskit.labels import MODALITIES
from bratskit.preprocess.register import register_case
from bratskit.preprocess.registered import register_folder

SPACING_MM = 3.0


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Return one phantom of 80 x 80 x 52 voxels of 3 mm; read-only."""
    folder = tmp_path_factory.mktemp("cohort")
    (made,) = make_cohort(folder, n_cases=1, seed=7, spacing_mm=(SPACING_MM,) * 3, workers=1)
    return replace(made, labels_path=None)


def rigid(degrees, shift_mm):
    """Turn about K, then move; world coordinates, mm."""
    turn = np.deg2rad(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    matrix[:3, 3] = shift_mm
    return matrix


def rewrite(case, folder, name, *, affine=None, array=None):
    """Copy a case whose one modality has another array or affine."""
    folder.mkdir(parents=True, exist_ok=True)
    file = nib.load(case.paths[name])
    array = np.asarray(file.dataobj) if array is None else array
    path = folder / f"{case.id}_{name}.nii.gz"
    nib.save(nib.Nifti1Image(array, file.affine if affine is None else affine), path)
    return replace(case, paths={**case.paths, name: path})


def worst_mm(case, found, movement):
    """Compare two movements at every hundredth voxel of the brain."""
    file = nib.load(case.paths["t1ce"])
    brain = np.argwhere(np.asarray(file.dataobj) > 0)[::100]
    world = np.c_[brain, np.ones(len(brain))] @ file.affine.T
    return np.linalg.norm((world @ (found - movement).T)[:, :3], axis=1).max()


@pytest.mark.parametrize(
    ("degrees", "shift_mm"),
    [(9, (-6, 8, 3)), pytest.param(0, (7, -5, 4), marks=pytest.mark.slow)],
)
def test_a_header_that_moves_a_modality_is_found_out(case, tmp_path, degrees, shift_mm):
    movement = rigid(degrees, shift_mm)
    affine = movement @ nib.load(case.paths["t2"]).affine
    moved = register_case(rewrite(case, tmp_path, "t2", affine=affine), spacing_mm=None)
    assert worst_mm(case, moved["t2"].to_file, movement) < SPACING_MM / 2
    assert worst_mm(case, moved["t1"].to_file, np.eye(4)) < SPACING_MM / 2
    before, after = moved["t2"].likeness
    assert after > before
    assert not moved["t2"].is_left
    assert moved["t2"].image.shape == moved["t1ce"].image.shape
    brains = [one.image != 0 for one in (moved["t2"], moved["t1ce"])]
    assert 2 * np.sum(brains[0] & brains[1]) / np.sum(brains) > 0.97


@pytest.mark.slow
def test_voxels_that_were_moved_under_a_true_header_come_back_too(case, tmp_path):
    flair = nib.load(case.paths["flair"])
    movement = rigid(6, (4, 3, -5))  # content at x is found at movement(x)
    to_old = np.linalg.inv(flair.affine) @ np.linalg.inv(movement) @ flair.affine
    array = affine_transform(
        np.asarray(flair.dataobj).astype(np.float32), to_old[:3, :3], to_old[:3, 3], order=1
    )
    moved = register_case(rewrite(case, tmp_path, "flair", array=array), spacing_mm=None)
    assert worst_mm(case, moved["flair"].to_file, movement) < SPACING_MM / 2


@pytest.mark.slow
def test_what_lies_right_stays_to_the_bit(case):
    moved = register_case(case, spacing_mm=None)
    for name in MODALITIES:
        file = nib.as_closest_canonical(nib.load(case.paths[name]))
        if moved[name].is_left:
            np.testing.assert_array_equal(moved[name].image, file.get_fdata())
            np.testing.assert_allclose(moved[name].affine, file.affine)
    assert moved["t1ce"].is_left
    assert moved["t1ce"].moved_mm == 0


@pytest.mark.slow
def test_cubes_of_one_size_cover_what_the_reference_covers(case):
    moved = register_case(case, spacing_mm=4.0)["t1"]
    old = nib.as_closest_canonical(nib.load(case.paths["t1ce"]))
    np.testing.assert_allclose(np.linalg.norm(moved.affine[:3, :3], axis=0), 4)
    wanted = np.array(old.shape) * SPACING_MM
    assert np.abs(np.array(moved.image.shape) * 4 - wanted).max() <= 2
    middles = [
        affine @ [*((np.array(shape) - 1) / 2), 1]
        for affine, shape in ((moved.affine, moved.image.shape), (old.affine, old.shape))
    ]
    np.testing.assert_allclose(*middles, atol=1e-3)


def test_a_modality_that_is_missing_is_not_made_up(case):
    three = {name: path for name, path in case.paths.items() if name != "t2"}
    with pytest.raises(ValueError, match="makes no modality up"):
        register_case(replace(case, paths=three))


def test_the_command_turns_a_refused_case_into_one_without_doubt(case, tmp_path, capsys):
    array = np.asarray(nib.load(case.paths["t2"]).dataobj)
    affine = rigid(7, (9, 2, -4)) @ nib.load(case.paths["t2"]).affine
    moved = rewrite(case, tmp_path / "in", "t2", affine=affine, array=array[..., 2:])
    assert {one.kind for one in find_doubts(moved)} >= {"grid"}
    files = [word for name in MODALITIES for word in (f"--{name}", str(moved.paths[name]))]
    out = tmp_path / "out"
    words = ["register", *files, str(out), "--id", "pat7", "--keep-grid"]
    assert main(words) == 0
    assert "1 case in" in capsys.readouterr().out
    (found,), faults = find_scans(out)
    assert (found.id, faults) == ("pat7", {})
    assert not [one.kind for one in find_doubts(found) if one.severity == "problem"]
    receipt = json.loads((out / "pat7" / "pat7_register.json").read_text())
    assert receipt["modalities"]["t2"]["moved_mm"] > 5
    before = found.paths["t2"].stat().st_mtime_ns
    assert main(words) == 0
    assert "1 kept, 0 to make" in capsys.readouterr().out
    assert found.paths["t2"].stat().st_mtime_ns == before


@pytest.mark.slow
def test_one_damaged_case_is_named_while_the_others_go_on(case, tmp_path, capsys):
    damaged = tmp_path / "cut.nii.gz"
    damaged.write_bytes(case.paths["t1"].read_bytes()[:500])
    broken = replace(case, id="broken", paths={**case.paths, "t1": damaged})
    written, failed = register_folder([broken, case], tmp_path / "out", spacing_mm=None)
    assert [one.id for one in written] == [case.id]
    assert "must be a whole gzip file" in failed["broken"]
    assert "register: broken failed: " in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [case.id]


@pytest.mark.parametrize("form", ["the folder of cases", "the parent of the four files"])
def test_the_files_of_a_patient_are_never_replaced(form, case, tmp_path, capsys):
    folder = tmp_path / "in"
    (folder / case.id).mkdir(parents=True)
    for path in case.paths.values():
        (folder / case.id / path.name).write_bytes(path.read_bytes())
    (folder / case.id / f"{case.id}_seg.nii.gz").write_bytes(case.paths["t1"].read_bytes())
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    words = [str(folder)]
    if form != "the folder of cases":
        named = {name: folder / case.id / path.name for name, path in case.paths.items()}
        words = [str(word) for name, path in named.items() for word in (f"--{name}", path)]
        words += ["--id", case.id]
    assert main(["register", *words, str(folder)]) == 2
    assert "Choose a new folder beside the scans" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
