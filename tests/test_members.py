"""Mirrors, dropout passes and ensembles average what each would say alone, and say how unsure."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bratskit.cases import load_scan
from bratskit.networks import UNet
from bratskit.predict import (
    MIRRORS,
    fit_temperature,
    fold_members,
    list_members,
    predict_case,
    predict_prepared,
    predict_scan,
    run_member,
)
from bratskit.preprocess import prepare_scan
from bratskit.settings import (
    GeometrySettings,
    InferenceSettings,
    LossSettings,
    NetworkSettings,
    Recipe,
    TrainingSettings,
)

CPU = torch.device("cpu")


@pytest.fixture
def recipe():
    return Recipe(
        name="test",
        geometry=GeometrySettings(spacing_mm=None),
        network=NetworkSettings(channels=(4, 8)),
        training=TrainingSettings(patch_vox=(16, 16, 16), precision="fp32"),
        inference=InferenceSettings(mode="single", window_vox=(8, 8, 8)),
    )


def asked(recipe, **changes):
    return replace(recipe, inference=replace(recipe.inference, **changes))


def unet(seed=0, *, dropout=0.0, at="levels", out=4):
    torch.manual_seed(seed)
    return UNet(4, out, channels=(4, 8), dropout=dropout, dropout_at=at).eval()


@pytest.fixture
def scan(write_case, tmp_path):
    return load_scan(write_case(tmp_path, shape=(12, 16, 10)))


@pytest.fixture
def prepared(scan, recipe):
    return prepare_scan(scan, recipe)


@pytest.fixture
def image(rng):
    return torch.from_numpy(rng.normal(size=(4, 8, 12, 6)).astype(np.float32))


@pytest.mark.parametrize(("mirror", "passes"), [("none", 1), ("left-right", 2), ("all", 8)])
def test_mirrors_are_all_different_and_the_first_is_plain(recipe, mirror, passes):
    members = list_members(unet(), asked(recipe, mirror=mirror))
    assert len({member.mirrored for member in members}) == len(members) == passes
    assert members[0].mirrored == ()
    assert set(MIRRORS["left-right"]) == {(), (0,)}  # I of RAS+ runs from left to right


def test_a_pass_over_the_mirror_image_comes_back_to_where_voxels_lay(image, recipe):
    class Pointwise(nn.Module):
        def forward(self, image):
            return image  # each voxel by itself: no mirror can change it

    for member in list_members(Pointwise(), asked(recipe, mirror="all")):
        torch.testing.assert_close(run_member(member, image), image.softmax(0))


def test_averaged_over_all_mirrors_a_mirrored_volume_gives_the_mirrored_answer(
    scan, prepared, recipe
):
    network, every = unet(), asked(recipe, mirror="all")
    turned = replace(prepared, image=prepared.image[:, ::-1, :, ::-1])
    there = predict_prepared(network, prepared, every)
    back = predict_prepared(network, turned, every)[:, ::-1, :, ::-1]
    np.testing.assert_allclose(there, back, atol=1e-5)
    plain = predict_prepared(network, prepared, recipe)
    assert not np.allclose(
        plain, predict_prepared(network, turned, recipe)[:, ::-1, :, ::-1], atol=1e-3
    )


def test_passes_of_networks_mirrors_and_dropout_multiply(recipe):
    networks = [unet(0, dropout=0.5), unet(1, dropout=0.5)]
    members = list_members(networks, asked(recipe, mirror="left-right", dropout_samples=3))
    assert len(members) == 2 * 2 * (1 + 3)
    assert sum(member.seed is None for member in members) == 2 * 2
    seeds = [member.seed for member in members if member.seed is not None]
    assert len(set(seeds)) == len(seeds)


def test_an_ensemble_is_the_mean_of_its_networks_each_at_its_own_temperature(prepared, recipe):
    networks, recipes = [unet(0), unet(1)], [recipe, asked(recipe, temperature=3.0)]
    alone = [
        predict_prepared(network, prepared, its)
        for network, its in zip(networks, recipes, strict=True)
    ]
    together = predict_prepared(networks, prepared, recipes)
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-6)


def test_folding_gives_the_same_mean_and_the_disagreement_beside_it(prepared, recipe):
    networks = [unet(seed) for seed in range(3)]
    members = list_members(networks, recipe)
    folded = fold_members(members, prepared, device=CPU)
    assert np.array_equal(folded.probs, predict_prepared(networks, prepared, recipe))
    assert folded.entropy.shape == (1, *prepared.geometry.shape)
    assert folded.mutual_information.max() > 0.01
    assert (folded.mutual_information <= folded.entropy + 1e-5).all()
    alone = fold_members(members[:1], prepared, device=CPU)
    assert alone.mutual_information.max() == 0
    assert np.array_equal(alone.probs, predict_prepared(networks[0], prepared, recipe))


def test_volumes_are_counted_over_the_brain_in_ml(write_case, tmp_path, recipe):
    affine = np.diag([2.0, 1.0, 5.0, 1.0])
    scan = load_scan(write_case(tmp_path, shape=(12, 16, 10), affine=affine))

    class Half(nn.Module):
        def forward(self, image):
            return torch.zeros_like(image)  # 1/4 each: WT 0.75, TC 0.5, ET 0.25

    prepared = prepare_scan(scan, recipe)
    folded = fold_members(list_members(Half(), recipe), prepared, device=CPU)
    brain_ml = pytest.approx(np.count_nonzero(prepared.mask) * 2 * 1 * 5 / 1000)
    assert folded.volumes == {
        "WT": (brain_ml, 0, brain_ml), "TC": (0, 0, brain_ml), "ET": (0, 0, brain_ml),
    }  # fmt: skip
    assert folded.member_ml == {"WT": (brain_ml,), "TC": (0,), "ET": (0,)}


def test_regions_have_an_entropy_each(prepared, recipe):
    folded = fold_members(
        list_members(
            unet(out=3), replace(recipe, targets="regions", loss=LossSettings(name="dice_bce"))
        ),
        prepared,
        device=CPU,
    )
    assert folded.entropy.shape == (3, *prepared.geometry.shape)
    assert folded.entropy.max() <= 1


def test_dropout_is_the_only_layer_that_wakes_and_sleeps_again_afterwards(image, recipe):
    network = unet(dropout=0.5)
    seen = []
    network.register_forward_hook(
        lambda net, *_: seen.append({type(m).__name__ for m in net.modules() if m.training})
    )
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for member in list_members(network, asked(recipe, dropout_samples=1)):
        run_member(member, image)
    assert seen[0] == set()  # beside the passes themselves, their memory is counted without data
    assert seen[-1] == {"Dropout3d"}
    assert not any(layer.training for layer in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not network._forward_pre_hooks


def test_dropout_masks_are_the_patients_own_and_the_same_next_time(image, recipe):
    network, drop = unet(dropout=0.5), asked(recipe, dropout_samples=2)

    def runs(case_id):
        torch.rand(3)  # where the global generator stands does not matter
        members = list_members(network, drop, case_id=case_id)
        return torch.stack([run_member(member, image) for member in members])

    first, again, other = runs("a"), runs("a"), runs("b")
    assert torch.equal(first, again)
    assert not torch.equal(first[1], first[2])
    assert torch.equal(first[0], other[0])  # the plain pass
    assert not torch.equal(first[1], other[1])


def test_dropout_leaves_the_global_generator_where_it_was(image, recipe):
    members = list_members(unet(dropout=0.5), asked(recipe, dropout_samples=1))
    before = torch.get_rng_state()
    for member in members:
        run_member(member, image)
    assert torch.equal(before, torch.get_rng_state())


def test_one_dropout_pass_is_one_network_in_all_of_its_windows(recipe):
    network = nn.Sequential(nn.Conv3d(4, 16, 1), nn.Dropout3d(0.5), nn.Conv3d(16, 4, 1)).eval()
    flat = torch.ones(4, 16, 16, 16)
    drop = asked(recipe, dropout_samples=1, mode="window")
    found = run_member(list_members(network, drop)[1], flat)
    torch.testing.assert_close(found, found[:, :1, :1, :1].expand_as(found))


def test_dropout_of_a_network_without_it_is_refused(recipe):
    with pytest.raises(ValueError, match=r"got none in unet \(test\)\. Set .*dropout_samples to 0"):
        list_members(unet(), asked(recipe, dropout_samples=4))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"modalities": ("t1", "flair", "t1ce", "t2")}, "modalities of all.*other things"),
        ({"geometry": GeometrySettings(spacing_mm=(2.0, 2.0, 2.0))}, "geometry.*number 2"),
        ({"targets": "regions", "loss": LossSettings(name="dice_bce")}, "targets of all networks"),
        ({"normalise": "minmax"}, "normalise.*scaled differently"),
    ],
)
def test_networks_that_cannot_be_averaged_are_refused_by_name(recipe, changes, match):
    with pytest.raises(ValueError, match=match):
        list_members([unet(0), unet(1)], [recipe, replace(recipe, name="other", **changes)])


def test_an_ensemble_of_none_is_refused(recipe):
    with pytest.raises(ValueError, match="0 networks"):
        list_members([], recipe)


def test_maps_come_back_on_the_native_grid_and_only_when_asked_for(scan, recipe):
    coarse = replace(recipe, geometry=GeometrySettings(spacing_mm=(1.5, 1.5, 1.5)))
    coarse = asked(coarse, mirror="left-right")
    sure = predict_scan(unet(), scan, coarse)
    assert sure.entropy is sure.mutual_information is sure.volumes is None
    told = predict_scan(unet(), scan, coarse, uncertainty=True, keep_probs=True)
    assert told.entropy.shape == told.mutual_information.shape == (1, *scan.image.shape[1:])
    assert told.entropy.dtype == np.float32
    outside = (scan.image == 0).all(axis=0)
    assert not told.entropy[:, outside].any()
    assert told.entropy[:, ~outside].min() > 0
    assert np.array_equal(sure.labels, told.labels)
    assert told.volumes["WT"].low_ml <= told.volumes["WT"].ml <= told.volumes["WT"].high_ml


def test_a_case_is_labelled_by_several_models_as_one(write_case, tmp_path, recipe):
    from bratskit.networks import load_checkpoint, save_checkpoint

    case = write_case(tmp_path, shape=(12, 16, 10))
    models = [
        load_checkpoint(
            save_checkpoint(tmp_path / f"{seed}.pt", network=unet(seed), recipe=recipe, card={})
        )
        for seed in (0, 1)
    ]
    alone = [predict_case(case, model=model, keep_probs=True).probs for model in models]
    both = predict_case(case, model=models, keep_probs=True)
    np.testing.assert_allclose(both.probs, np.mean(alone, axis=0), atol=1e-6)


@pytest.mark.parametrize("mode", ["single", "window"])
def test_a_fitted_temperature_undoes_what_made_the_network_too_sure(prepared, recipe, rng, mode):
    class Loud(nn.Module):
        """Say the image as logits, three times too loud."""

        multiple_vox = 2

        def forward(self, image):
            return 3 * image

    odds = np.exp(prepared.image)
    shares = np.cumsum(odds / odds.sum(axis=0), axis=0)
    labels = (rng.random(shares.shape[1:]) > shares).sum(axis=0).clip(max=3)
    fitted = fit_temperature(Loud(), [(prepared, labels)], asked(recipe, mode=mode))
    assert fitted == pytest.approx(3, rel=0.15)
    again = fit_temperature(
        Loud(), [(prepared, labels)], asked(recipe, mode=mode, temperature=fitted)
    )
    assert again == pytest.approx(fitted, rel=0.01)
    assert fit_temperature(
        Loud(), [(prepared, labels)], asked(recipe, mode=mode), rounds=2
    ) == pytest.approx(fitted, rel=0.01)
