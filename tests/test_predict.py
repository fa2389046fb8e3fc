"""A mask comes back on the scanner's own grid, in the edition asked for, patient by patient."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from bratskit.cases import load_labels, load_scan
from bratskit.networks import Checkpoint, build_network, load_checkpoint, save_checkpoint
from bratskit.predict import (
    PredictionError,
    edition_of,
    forms,
    predict_case,
    predict_folder,
    predict_prepared,
    predict_scan,
)
from bratskit.preprocess import prepare_scan
from bratskit.settings import (
    GeometrySettings,
    InferenceSettings,
    NetworkSettings,
    Recipe,
    TrainingSettings,
)

SHAPE = (14, 18, 11)
# Anisotropic, oblique (30 degrees about K) and with I and K flipped on disk.
OBLIQUE_FLIPPED = np.array(
    [[-1.12, -0.45, 0, 10], [-0.65, 0.78, 0, -20], [0, 0, -3.0, 30], [0, 0, 0, 1.0]]
)


class Oracle(nn.Module):
    """Say label c where channel c is brighter than that channel's mean over the brain."""

    multiple_vox = 2

    def forward(self, image):
        """Turn brightness into certainty."""
        return 20 * image


@pytest.fixture
def recipe():
    return Recipe(
        name="test",
        geometry=GeometrySettings(spacing_mm=None),
        network=NetworkSettings(channels=(4, 8)),
        training=TrainingSettings(patch_vox=(16, 16, 16)),
        inference=InferenceSettings(mode="single", window_vox=(8, 8, 8)),
    )


@pytest.fixture
def truth(rng):
    """Scatter all four labels over an off-centre brain; internal integers, disk grid."""
    return np.where(brain(), rng.integers(0, 4, SHAPE), 0).astype(np.uint8)


def brain():
    """Mark a box off the middle of the grid, with a corner missing and a hole in it."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[2:11, 3:17, 1:8] = True
    mask[2:4, 3:6, 1:3] = mask[6, 9:11, 4] = False
    return mask


def readable_image(labels):
    """Draw four channels of which channel c lights up where the label is c."""
    lit = labels == np.arange(4)[:, None, None, None]
    return np.where(brain(), np.where(lit, 300, 100), 0).astype(np.int16)


@pytest.fixture
def case(write_case, tmp_path, truth):
    on_disk = np.where(truth == 3, 4, truth)  # the 2017-2021 edition writes ET as 4
    return write_case(
        tmp_path / "in", shape=SHAPE, affine=OBLIQUE_FLIPPED, labels=on_disk,
        image=readable_image(truth),
    )  # fmt: skip


@pytest.fixture
def oracle_model(recipe, tmp_path):
    return Checkpoint(
        network=Oracle(), recipe=recipe, card={}, training=None, path=tmp_path, checksum="oracle"
    )


@pytest.mark.parametrize("mode", ["single", "window"])
def test_a_network_that_knows_gives_the_exact_labels_on_an_oblique_flipped_scan(
    case, oracle_model, truth, mode
):
    recipe = oracle_model.recipe
    model = replace(
        oracle_model, recipe=replace(recipe, inference=replace(recipe.inference, mode=mode))
    )
    scan = load_scan(case)
    assert not np.array_equal(scan.labels, truth)  # RAS differs from the disk, so the test bites
    assert np.array_equal(predict_case(case, model=model).labels, scan.labels)


@pytest.mark.parametrize("edition", ["brats2017-2021", "brats2023-gli"])
def test_the_file_has_the_integers_and_the_grid_of_the_edition_and_the_input(
    case, oracle_model, truth, tmp_path, edition
):
    (path,) = predict_folder([case], tmp_path / "out", model=oracle_model, edition=edition)
    file, original = nib.load(path), nib.load(case.paths["t1ce"])
    expected = np.where(truth == 3, 4, truth) if edition == "brats2017-2021" else truth
    assert np.array_equal(np.asarray(file.dataobj), expected)
    assert np.array_equal(file.affine, original.affine)
    assert file.get_data_dtype().kind in "iu"
    labels, _ = load_labels(path, schema=edition)
    assert np.array_equal(labels, load_scan(case).labels)


def test_probabilities_on_the_native_grid_say_the_same_as_the_labels(case, oracle_model):
    scan = load_scan(case)
    prediction = predict_scan(oracle_model.network, scan, oracle_model.recipe, keep_probs=True)
    assert prediction.probs.shape == (4, *scan.labels.shape)
    np.testing.assert_allclose(prediction.probs.sum(axis=0), 1, atol=1e-5)
    assert np.array_equal(prediction.probs.argmax(axis=0), prediction.labels)
    assert predict_scan(oracle_model.network, scan, oracle_model.recipe).probs is None


@pytest.mark.parametrize("keep_probs", [False, True])
def test_no_tumour_is_found_where_there_is_no_brain(case, recipe, keep_probs):
    class Everywhere(nn.Module):
        def forward(self, image):
            return torch.stack([torch.full_like(image[:, 0], value) for value in (0, 0, 9, 0)], 1)

    scan = load_scan(case)
    prediction = predict_scan(Everywhere(), scan, recipe, keep_probs=keep_probs)
    assert np.array_equal(prediction.labels == 2, (scan.image != 0).any(axis=0))


def test_a_resampled_case_comes_back_on_the_native_grid(case, oracle_model):
    coarse = replace(oracle_model.recipe, geometry=GeometrySettings(spacing_mm=(2.0, 2.0, 2.0)))
    prediction = predict_case(case, model=replace(oracle_model, recipe=coarse))
    assert prediction.labels.shape == load_scan(case).labels.shape
    assert prediction.labels.dtype == np.uint8


@pytest.mark.parametrize("keep_probs", [False, True])
def test_a_middle_that_is_cut_and_padded_comes_back_where_it_was(case, oracle_model, keep_probs):
    middle = GeometrySettings(spacing_mm=None, region="grid", crop_vox=(16, 16, 16))
    model = replace(oracle_model, recipe=replace(oracle_model.recipe, geometry=middle))
    scan = load_scan(case)
    prepared = prepare_scan(scan, model.recipe)
    assert prepared.image.shape == (4, 16, 16, 16)  # of 14, 18 and 11
    prediction = predict_case(case, model=model, keep_probs=keep_probs)
    assert np.array_equal(prediction.labels, scan.labels)


def test_truth_is_not_looked_at(case, oracle_model):
    scan = load_scan(case)
    blind = replace(scan, labels=None)
    results = [
        predict_scan(oracle_model.network, s, oracle_model.recipe).labels for s in (scan, blind)
    ]
    assert np.array_equal(*results)


def test_small_components_go_when_the_recipe_says_so(case, oracle_model):
    recipe = oracle_model.recipe
    strict = replace(recipe, inference=replace(recipe.inference, smallest_component_vox=10**6))
    assert predict_case(case, model=oracle_model).labels.any()
    assert not predict_case(case, model=replace(oracle_model, recipe=strict)).labels.any()


def test_a_training_network_is_lent_and_given_back(case, recipe):
    network = build_network(recipe.network, in_channels=4, out_channels=4).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    prepared = prepare_scan(load_scan(case), recipe)
    first = predict_prepared(network, prepared, recipe)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert np.array_equal(first, predict_prepared(network, prepared, recipe))
    assert first.dtype == np.float32
    assert first.shape == (4, *prepared.geometry.shape)


def test_a_box_too_large_for_the_memory_goes_through_in_windows(case, recipe, monkeypatch):
    prepared = prepare_scan(load_scan(case), recipe)
    monkeypatch.setattr(forms, "free_bytes", lambda device: 1000)
    called = []
    original = forms.sliding_window
    monkeypatch.setattr(
        forms, "sliding_window", lambda *a, **k: called.append(k) or original(*a, **k)
    )
    predict_prepared(Oracle(), prepared, recipe)
    assert [options["window_vox"] for options in called] == [(8, 8, 8)]


def test_channels_in_another_order_are_refused_by_name(case, recipe):
    prepared = prepare_scan(load_scan(case), recipe)
    other = replace(recipe, modalities=("t1", "flair", "t1ce", "t2"))
    with pytest.raises(ValueError, match=r"must be \['t1', 'flair'.*Prepare it"):
        predict_prepared(Oracle(), prepared, other)


@pytest.fixture
def cohort(write_case, tmp_path):
    return [
        write_case(tmp_path / "in", f"BraTS20_Training_00{n}", shape=(12, 10, 8)) for n in (1, 2, 3)
    ]


@pytest.fixture
def model(recipe, tmp_path):
    network = build_network(recipe.network, in_channels=4, out_channels=4)
    return load_checkpoint(
        save_checkpoint(tmp_path / "best.pt", network=network, recipe=recipe, card={})
    )


def times(paths):
    return [path.stat().st_mtime_ns for path in paths]


def test_a_second_run_keeps_finished_masks(cohort, model, tmp_path, capsys):
    paths = predict_folder(cohort, tmp_path / "out", model=model)
    assert [path.name for path in paths] == [f"{case.id}.nii.gz" for case in cohort]
    assert "predict 3/3" in capsys.readouterr().out
    before = times(paths)
    assert times(predict_folder(cohort, tmp_path / "out", model=model)) == before
    assert "3 kept, 0 to make" in capsys.readouterr().out


def test_another_patient_of_the_same_name_gets_a_mask_of_its_own(
    write_case, oracle_model, truth, tmp_path
):
    out, twins = tmp_path / "out", []
    for name, labels in (("a", truth), ("b", truth[:, ::-1])):
        twins.append(write_case(tmp_path / name, shape=SHAPE, image=readable_image(labels)))
    for case in twins:
        (path,) = predict_folder([case], out, model=oracle_model)
        expected, _ = load_labels(path, schema=case.schema)
        assert np.array_equal(predict_case(case, model=oracle_model).labels, expected)
    before = times([path])
    twins[1].labels_path.unlink()  # the expert's mask is no source
    assert times(predict_folder(twins[1:], out, model=oracle_model)) == before


@pytest.mark.parametrize("damage", ["mask gone", "mask empty", "receipt gone", "receipt damaged"])
def test_only_the_unfinished_mask_is_made_again(cohort, model, tmp_path, damage):
    paths = predict_folder(cohort, tmp_path / "out", model=model)
    before, content = times(paths), nib.load(paths[1]).get_fdata()
    receipt = tmp_path / "out" / f"{cohort[1].id}.json"
    if damage.startswith("mask"):
        paths[1].unlink() if damage.endswith("gone") else paths[1].write_bytes(b"")
    else:
        receipt.unlink() if damage.endswith("gone") else receipt.write_text("{")
    after = times(predict_folder(cohort, tmp_path / "out", model=model))
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True]
    assert np.array_equal(nib.load(paths[1]).get_fdata(), content)


def test_another_model_another_edition_or_other_settings_make_new_masks(cohort, model, tmp_path):
    out = tmp_path / "out"
    inference = replace(model.recipe.inference, mode="window")
    changes = [
        {"model": replace(model, checksum="other")},
        {"model": model, "edition": "brats2023-gli"},
        {"model": replace(model, recipe=replace(model.recipe, inference=inference))},
    ]
    for change in changes:
        before = times(predict_folder(cohort[:1], out, model=model))
        assert times(predict_folder(cohort[:1], out, **change)) != before
    receipt = json.loads((out / f"{cohort[0].id}.json").read_text())
    assert receipt["inference"]["mode"] == "window"


def test_masks_say_their_edition_by_their_receipts(cohort, model, tmp_path):
    out = tmp_path / "out"
    assert edition_of(out, otherwise="brats2024-ped") == "brats2024-ped"  # no mask yet
    first, _ = predict_folder(cohort[:2], out, model=model, edition="msd-task01")
    assert edition_of(out, otherwise="brats2024-ped") == "msd-task01"
    predict_folder(cohort[:1], out, model=model, edition="brats2023-gli")
    assert edition_of(first, otherwise="brats2024-ped") == "brats2023-gli"
    with pytest.raises(ValueError, match=r"got brats2023-gli, msd-task01\. Delete that"):
        edition_of(out, otherwise="brats2024-ped")


def test_one_damaged_patient_is_named_while_the_others_go_on(cohort, model, tmp_path, capsys):
    damaged = cohort[1].paths["t2"]
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(
        PredictionError, match=r"1 of 3 cases failed.*BraTS20_Training_002"
    ) as caught:
        predict_folder(cohort, tmp_path / "out", model=model)
    assert list(caught.value.failed) == [cohort[1].id]
    assert "\n" not in str(caught.value)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert names == [f"{cohort[0].id}.nii.gz", f"{cohort[2].id}.nii.gz"]
    errors = capsys.readouterr().err.splitlines()
    assert next(line for line in errors if "failed" in line).startswith(
        f"predict: {cohort[1].id} failed: "
    )


def test_a_stop_leaves_no_half_file_and_no_receipt(cohort, model, tmp_path, monkeypatch):
    from bratskit.predict import folder

    def stop(labels, path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "write_labels", stop)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(cohort, tmp_path / "out", model=model)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_stop_between_mask_and_receipt_leaves_neither(cohort, model, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_folder(cohort[:1], out, model=model)
    before = [file.name for file in sorted(out.iterdir())]

    def stop(*words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("bratskit.predict.folder.sign", stop)
        with pytest.raises(KeyboardInterrupt):
            predict_folder(cohort[:1], out, model=replace(model, checksum="other"))
    assert list(out.iterdir()) == []
    predict_folder(cohort[:1], out, model=model)
    assert [file.name for file in sorted(out.iterdir())] == before


def test_an_unwritable_folder_is_refused_before_any_work(cohort, model, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(PermissionError, match="Choose another"):
        predict_folder(cohort, tmp_path / "file" / "out", model=model)


def test_an_unknown_edition_is_refused_with_those_that_exist(cohort, model, tmp_path):
    with pytest.raises(ValueError, match="brats2017-2021"):
        predict_folder(cohort, tmp_path / "out", model=model, edition="brats1999")
    assert not (tmp_path / "out").exists()


def test_two_cases_of_one_name_are_refused(cohort, model, tmp_path):
    with pytest.raises(ValueError, match="hide the other"):
        predict_folder([cohort[0], cohort[0]], tmp_path / "out", model=model)
