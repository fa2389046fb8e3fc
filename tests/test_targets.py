"""A network that answers regions gives the same masks as one of labels, and is never mistaken."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training import fill_store, make_prepared, small_recipe, small_split

from bratskit.cases import find_cases, load_labels, load_scan
from bratskit.labels import paint_regions
from bratskit.networks import Checkpoint, UNet, build_network, load_checkpoint, save_checkpoint
from bratskit.predict import (
    predict_case,
    predict_folder,
    predict_prepared,
    predict_scan,
    single_pass,
    sliding_window,
)
from bratskit.preprocess import Crop, Geometry, decide
from bratskit.runtime import RunFolder
from bratskit.settings import GeometrySettings, InferenceSettings, LossSettings, Recipe, get_recipe
from bratskit.train import Learner, PatchSampler, feed_epoch, make_loss, train, validate

CPU = torch.device("cpu")
GRID = (14, 18, 11)
# Anisotropic, oblique (30 degrees about K) and with I and K flipped on disk.
OBLIQUE_FLIPPED = np.array(
    [[-1.12, -0.45, 0, 10], [-0.65, 0.78, 0, -20], [0, 0, -3.0, 30], [0, 0, 0, 1.0]]
)


class Oracle(nn.Module):
    """Answer WT, TC, ET by hand from an image whose channel c is bright where the label is c."""

    def forward(self, image):
        """Turn brightness into certainty."""
        _, necrosis, edema, enhancing = (20 * image).unbind(1)
        core = torch.maximum(necrosis, enhancing)
        return torch.stack([torch.maximum(core, edema), core, enhancing], dim=1)


def readable(labels, brain):
    """Draw four channels of which channel c lights up where the label is c."""
    lit = labels == np.arange(4)[:, None, None, None]
    return np.where(brain, np.where(lit, 300, 100), 0).astype(np.int16)


@pytest.fixture
def recipe():
    return replace(
        small_recipe(),
        geometry=GeometrySettings(spacing_mm=None),
        targets="regions",
        loss=LossSettings(name="dice_bce"),
        inference=InferenceSettings(mode="single", window_vox=(8, 8, 8)),
    )


@pytest.fixture
def case(write_case, tmp_path, rng):
    """Scatter all four labels over an off-centre brain with a hole in it."""
    brain = np.zeros(GRID, dtype=bool)
    brain[2:11, 3:17, 1:8] = True
    brain[6, 9:11, 4] = False
    truth = np.where(brain, rng.integers(0, 4, GRID), 0)
    return write_case(
        tmp_path / "in", shape=GRID, affine=OBLIQUE_FLIPPED,
        labels=np.where(truth == 3, 4, truth), image=readable(truth, brain),
    )  # fmt: skip


@pytest.fixture
def oracle(recipe, tmp_path):
    return Checkpoint(
        network=Oracle(), recipe=recipe, card={}, training=None, path=tmp_path, checksum="oracle"
    )


def set_mode(model, mode):
    inference = replace(model.recipe.inference, mode=mode)
    return replace(model, recipe=replace(model.recipe, inference=inference))


# WT, TC, ET as the network has them -> the label that is painted
PAINTED_BY_HAND = {
    (0, 0, 0): 0,
    (1, 0, 0): 2,  # in the whole tumour only: edema
    (1, 1, 0): 1,  # in the core, not enhancing: necrosis
    (1, 1, 1): 3,
    (0, 1, 0): 0,  # a core outside the tumour is none
    (0, 0, 1): 0,
    (0, 1, 1): 0,
    (1, 0, 1): 2,  # enhancing outside the core is none: what is left is edema
}


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_regions_are_painted_from_the_outside_in_and_the_outer_one_has_the_last_word(library):
    masks = np.array(list(itertools.product([False, True], repeat=3))).T
    expected = [PAINTED_BY_HAND[tuple(int(v) for v in column)] for column in masks.T]
    onto = np.zeros(8, np.uint8)
    if library == "torch":
        masks, onto = torch.from_numpy(masks), torch.zeros(8, dtype=torch.uint8)
    assert paint_regions(masks, onto).tolist() == expected


def test_masks_that_are_not_three_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        paint_regions([np.ones(2, bool)] * 2, np.zeros(2, np.uint8))


def test_a_region_needs_more_than_one_half():
    probs = np.array([[0.5, 0.51, 0.9], [0.9, 0.5, 0.51], [0.9, 0.9, 0.49]], np.float32)
    assert decide(probs.reshape(3, 3, 1, 1), targets="regions").ravel().tolist() == [0, 2, 1]


def test_labels_and_regions_have_their_own_number_of_channels():
    assert get_recipe("tiny").out_channels == 4
    assert get_recipe("unet-c").target_names == ("WT", "TC", "ET")
    with pytest.raises(ValueError, match=r"targets must be one of .*'regions'\); got 'region'"):
        Recipe(name="a", targets="region")


@pytest.mark.parametrize("run", [single_pass, sliding_window])
def test_a_logit_of_a_region_becomes_a_probability_by_itself(run):
    image = torch.randn(3, 8, 9, 8)
    options = {"window_vox": (8, 8, 8)} if run is sliding_window else {}
    probs = run(nn.Identity(), image, targets="regions", **options)
    torch.testing.assert_close(probs, 1 / (1 + torch.exp(-image)))


@pytest.mark.parametrize("mode", ["single", "window"])
def test_a_network_that_knows_the_regions_gives_the_exact_labels(case, oracle, mode):
    model = set_mode(oracle, mode)
    truth = load_scan(case).labels
    assert set(np.unique(truth)) == {0, 1, 2, 3}
    assert np.array_equal(predict_case(case, model=model).labels, truth)


@pytest.mark.parametrize("keep_probs", [False, True])
@pytest.mark.parametrize(
    "geometry",
    [
        GeometrySettings(spacing_mm=None, region="grid", crop_vox=(16, 16, 16)),
        GeometrySettings(spacing_mm=(2.0, 2.0, 2.0)),
    ],
)
def test_both_ways_back_to_the_native_grid_agree(case, oracle, geometry, keep_probs):
    model = replace(oracle, recipe=replace(oracle.recipe, geometry=geometry))
    scan = load_scan(case)
    labels = predict_case(case, model=model, keep_probs=keep_probs).labels
    assert np.array_equal(labels, predict_case(case, model=model, keep_probs=not keep_probs).labels)
    if geometry.crop_vox:
        assert np.array_equal(labels, scan.labels)


def test_probabilities_of_regions_are_those_of_wt_tc_and_et_and_0_outside_the_brain(case, oracle):
    scan = load_scan(case)
    prediction = predict_scan(oracle.network, scan, oracle.recipe, keep_probs=True)
    assert prediction.channels == ("WT", "TC", "ET")
    by_hand = np.isin(scan.labels, (1, 2, 3)), np.isin(scan.labels, (1, 3)), scan.labels == 3
    assert np.array_equal(prediction.probs > 0.5, np.stack(by_hand))
    assert not prediction.probs[:, ~(scan.image != 0).any(axis=0)].any()


def test_what_the_prepared_grid_does_not_reach_is_in_no_region():
    affine = tuple(tuple(row) for row in np.eye(4).tolist())
    middle = ((2, 6), (2, 6), (2, 6))
    geometry = Geometry(native_shape=(8, 8, 8), native_affine=affine, steps=(Crop(middle),))
    expected = np.zeros((8, 8, 8))
    expected[2:6, 2:6, 2:6] = 1
    probs = np.ones((3, 4, 4, 4), np.float32)
    native = geometry.invert(probs, targets="regions")
    assert np.array_equal(native, [expected] * 3)
    assert np.array_equal(geometry.invert_to_labels(probs, targets="regions"), 3 * expected)


def test_the_mask_in_the_file_is_in_the_edition_asked_for(case, oracle, tmp_path):
    (path,) = predict_folder([case], tmp_path / "out", model=oracle, edition="brats2024-ped")
    labels, _ = load_labels(path, schema="brats2024-ped")
    assert np.array_equal(labels, load_scan(case).labels)


def test_a_network_of_labels_is_not_read_as_one_of_regions(recipe):
    with pytest.raises(ValueError, match=r"\['WT', 'TC', 'ET'\].*got 4 channels\. Build it"):
        predict_prepared(nn.Identity(), make_prepared(shape=(16, 16, 16)), recipe, device=CPU)


def test_validation_scores_a_knowing_network_of_regions_1(recipe):
    prepared = make_prepared(shape=(16, 16, 16))
    image = 9 * (np.asarray(prepared.labels) == np.arange(4)[:, None, None, None]) - 4.5
    prepared = replace(prepared, image=image.astype(np.float32))
    scores = validate(Oracle(), [prepared], recipe, device=CPU)
    assert [scores[f"dice_{name}"] for name in ("WT", "TC", "ET")] == [1, 1, 1]


@pytest.fixture
def path(recipe, tmp_path):
    network = build_network(recipe.network, in_channels=4, out_channels=recipe.out_channels)
    return save_checkpoint(tmp_path / "best.pt", network=network, recipe=recipe, card={})


def test_a_checkpoint_of_regions_says_so_and_comes_back(path, recipe):
    checkpoint = load_checkpoint(path, expect_targets="regions")
    assert checkpoint.card["targets"] == ["WT", "TC", "ET"]
    assert checkpoint.recipe == recipe


def test_a_checkpoint_of_other_targets_is_refused_by_name(path, recipe, tmp_path):
    with pytest.raises(ValueError, match=r"must be \['background'.*got \['WT', 'TC', 'ET'\]"):
        load_checkpoint(path, expect_targets="labels")
    content = torch.load(path, weights_only=True)
    content["card"]["targets"] = ["ET", "TC", "WT"]
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"must be \['WT', 'TC', 'ET'\].*got \['ET', 'TC', 'WT'\]"):
        load_checkpoint(path)
    with pytest.raises(ValueError, match="neither turns into the other"):
        save_checkpoint(
            tmp_path / "x.pt", network=nn.Identity(), recipe=recipe,
            card={"targets": ["background", "NCR", "ED", "ET"]},
        )  # fmt: skip


def test_thirty_steps_of_regions_on_one_phantom_beat_predicting_nothing(recipe):
    settings = small_recipe(epochs=1, steps_per_epoch=30, learning_rate=1e-2).training
    phantom = make_prepared()
    torch.manual_seed(1)  # from seed 0, whose core begins in saturation, it takes thrice as long
    network = UNet(4, recipe.out_channels, channels=(8, 16, 32))
    learner = Learner(network, settings, device=CPU, loss=make_loss(recipe))
    sampler = PatchSampler(
        [phantom], patch_vox=(16, 16, 16), tumour_share=0.67, rng=np.random.default_rng(1)
    )
    for _, batches in feed_epoch(sampler, settings, device=CPU):
        learner.step(batches)
    assert validate(network, [phantom], recipe, device=CPU)["dice_mean"] > 0.5


def test_a_run_of_regions_goes_from_patches_to_a_mask_and_starts_no_run_of_labels(
    recipe, case, tmp_path, capsys
):
    ids = fill_store(tmp_path / "prepared", n_cases=4)
    training = small_recipe(epochs=2, steps_per_epoch=1, validate_every=1).training
    run, split = RunFolder(tmp_path / "run"), small_split(ids)
    history = train(
        tmp_path / "prepared", run, recipe=replace(recipe, training=training), split=split,
        device=CPU,
    )  # fmt: skip
    assert np.isfinite(history.column("dice_ET")).all()
    best = load_checkpoint(run.best)
    assert best.network(torch.zeros(1, 4, 16, 16, 16)).shape[1] == 3
    assert predict_case(case, model=best).labels.shape == load_scan(case).labels.shape
    labels = small_recipe(start_from=str(run.best))
    with pytest.raises(ValueError, match=r"must be \['background'.*got \['WT', 'TC', 'ET'\]"):
        train(
            tmp_path / "prepared", RunFolder(tmp_path / "b"), recipe=labels, split=split, device=CPU
        )


def test_every_level_of_a_deeply_supervised_network_learns(recipe):
    network = UNet(4, 3, channels=(4, 8, 8, 8), deep_supervision=True).train()
    image, labels = torch.randn(1, 4, 16, 16, 16), torch.randint(0, 4, (1, 16, 16, 16))
    assert len(network(image)) == 3
    loss = make_loss(recipe)(network(image), labels)
    loss.backward()
    assert all(weights.grad.abs().sum() > 0 for weights in network.parameters())


@pytest.mark.parametrize("name", ["dice", "dice_focal", "generalised_dice_bce"])
def test_four_accumulated_patches_of_regions_move_weights_as_one_batch_of_four(recipe, name):
    loss = make_loss(replace(recipe, loss=LossSettings(name=name)))
    image, labels = torch.randn(4, 4, 16, 16, 16), torch.randint(0, 4, (4, 16, 16, 16))
    labels[1] = 0  # one of them holds no tumour
    gradients = []
    for size in (4, 1):
        torch.manual_seed(0)
        network = UNet(4, 3, channels=(4, 8), norm="instance")
        settings = small_recipe(batch=size, accumulate=4 // size).training
        learner = Learner(network, settings, device=CPU, loss=loss)
        learner.step(zip(image.split(size), labels.split(size), strict=True))
        gradients.append(torch.cat([item.grad.flatten() for item in network.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_real_masks_come_back_voxel_for_voxel_through_regions(real_cases, oracle):
    for case in find_cases(real_cases, schema="brats2017-2021")[::10]:
        scan = load_scan(case)
        brain = (scan.image != 0).any(axis=0)
        shown = replace(scan, image=readable(scan.labels, brain).astype(np.float32))
        prediction = predict_scan(oracle.network, shown, oracle.recipe)
        assert np.array_equal(prediction.labels, np.where(brain, scan.labels, 0))
