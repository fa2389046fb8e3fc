"""Networks are built from settings by name, ours and MONAI's behind one door."""

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from training import make_prepared, small_recipe

from bratskit.networks import (
    NETWORKS,
    build_network,
    bytes_at_peak,
    describe_network,
    load_checkpoint,
    save_checkpoint,
)
from bratskit.predict import predict_prepared, single_pass, sliding_window
from bratskit.settings import NetworkSettings, get_recipe
from bratskit.train.memory import predict_forward_bytes, predict_step_bytes
from bratskit.train.step import Learner

SIZE = (32, 64, 32)
SETTINGS = {
    "unet": NetworkSettings(channels=(4, 8, 16), dropout=0.1),
    "segresnet": NetworkSettings(name="segresnet", channels=(4, 8, 16), norm="group", dropout=0.1),
    "swin_unetr": NetworkSettings(
        name="swin_unetr", channels=(12, 24, 48, 96, 192), norm="instance", dropout=0.1
    ),
    "unetr": NetworkSettings(
        name="unetr", channels=(4, 8, 16, 32, 64), norm="instance", dropout=0.1
    ),
    "dynunet": NetworkSettings(
        name="dynunet", channels=(4, 8, 16, 16), norm="instance", block="residual", dropout=0.1
    ),
}
QUICK = sorted(set(SETTINGS) - {"swin_unetr"})
EACH = [*QUICK, pytest.param("swin_unetr", marks=pytest.mark.slow)]  # seconds to build
MULTIPLES = {"unet": 4, "segresnet": 4, "swin_unetr": 32, "unetr": 16, "dynunet": 8}


def build(name, out_channels=3, **changes):
    if name != "unet":
        pytest.importorskip("monai", reason="pip install 'bratskit[monai]'")
    settings = replace(SETTINGS[name], **changes)
    return build_network(settings, in_channels=4, out_channels=out_channels, size_vox=SIZE)


def recipe_for(name, size=SIZE):
    recipe = small_recipe(patch_vox=size, batch=1)
    inference = replace(recipe.inference, window_vox=size, mode="window")
    return replace(recipe, network=SETTINGS[name], inference=inference)


def test_there_are_five():
    assert set(NETWORKS) == set(SETTINGS)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_each_maps_channels_to_classes_and_refuses_what_its_multiple_says(name):
    network, multiple = build(name).eval(), MULTIPLES[name]
    assert SETTINGS[name].multiple_vox == network.multiple_vox == multiple
    with torch.inference_mode():
        assert network(torch.zeros(1, 4, *SIZE)).shape == (1, 3, *SIZE)
    with pytest.raises(ValueError, match=r"must be \(B, 4, I, J, K\)"):
        network(torch.zeros(1, 3, *SIZE))
    with pytest.raises(ValueError, match=r"Nearest: |this network was built for"):
        network(torch.zeros(1, 4, SIZE[0] + multiple // 2, *SIZE[1:]))


@pytest.mark.parametrize("name", EACH)
def test_a_training_step_moves_every_weight_in_bf16_by_operations_that_repeat(name):
    torch.use_deterministic_algorithms(True)
    network = build(name)
    learner = Learner(
        network,
        replace(get_recipe("tiny").training, precision="bf16", weight_decay=0.0),
        device=torch.device("cpu"),
    )
    before = copy.deepcopy(network.state_dict())
    image = torch.randn(1, 4, *SIZE)
    learner.step([(image, torch.randint(0, 3, (1, *SIZE)))] * learner.settings.accumulate)
    learned = {key for key, weights in network.named_parameters() if weights.requires_grad}
    for key in learned:
        assert not torch.equal(before[key], network.state_dict()[key]), key


@pytest.mark.parametrize("name", EACH)
def test_a_checkpoint_brings_back_the_network_with_its_settings(name, tmp_path):
    network, recipe = build(name, out_channels=4).eval(), recipe_for(name)
    path = save_checkpoint(tmp_path / "a.pt", network=network, recipe=recipe, card={})
    back = load_checkpoint(path)
    assert back.recipe.network == SETTINGS[name]
    image = torch.randn(1, 4, *SIZE)
    with torch.inference_mode():
        assert torch.equal(back.network(image), network(image))


@pytest.mark.parametrize("mode", ["single", "window"])
@pytest.mark.parametrize("name", EACH)
def test_predict_works_with_each_at_once_and_by_windows(name, mode):
    size = (64, 32, 32) if name == "swin_unetr" else (32, 32, 32)
    recipe = recipe_for(name, size)
    recipe = replace(recipe, inference=replace(recipe.inference, mode=mode))
    recipe = replace(recipe, training=replace(recipe.training, precision="auto"))  # bf16 if it is
    if name != "unet":
        pytest.importorskip("monai", reason="pip install 'bratskit[monai]'")
    network = build_network(recipe.network, in_channels=4, out_channels=4, size_vox=size)
    prepared = make_prepared()  # 36 x 32 x 28
    probs = predict_prepared(network, prepared, recipe)
    assert probs.shape == (4, 36, 32, 28)
    np.testing.assert_allclose(probs.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("name", EACH)
def test_counting_leaves_the_network_as_it_was_and_needs_no_time(name):
    network = build(name, dropout=0.0).train()
    before = copy.deepcopy(network.state_dict())
    described = describe_network(network, SIZE)
    assert network.training
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert described.parameters == sum(
        weights.numel() for weights in network.parameters() if weights.requires_grad
    )
    assert described.levels[0].size_vox == SIZE
    assert str(described).count("\n") == 1 + len(described.levels)


@pytest.mark.parametrize("name", EACH)
def test_the_memory_of_a_step_is_counted_for_each_before_it_is_taken(name):
    if name != "unet":
        pytest.importorskip("monai", reason="pip install 'bratskit[monai]'")
    recipe = recipe_for(name)
    forward = predict_forward_bytes(recipe, precision="fp32", size_vox=SIZE)
    assert predict_step_bytes(recipe, precision="fp32") > forward > 4 * 4 * np.prod(SIZE)


def test_multiply_adds_and_features_counted_by_hand():
    network = build_network(
        NetworkSettings(channels=(2, 3), norm="batch"), in_channels=1, out_channels=2
    )
    described = describe_network(network, (8, 4, 4))
    fine, coarse = described.levels
    stem, merge, head = 27 * (1 * 2 + 2 * 2), 27 * (4 * 2 + 2 * 2), 2 * 2
    down, up = 27 * (2 * 3 + 3 * 3), 8 * 3 * 2
    assert (fine.size_vox, fine.channels) == ((8, 4, 4), 2)
    assert (coarse.size_vox, coarse.channels) == ((4, 2, 2), 3)
    assert fine.multiply_adds == 128 * (stem + merge + head) + 16 * up
    assert coarse.multiply_adds == 16 * down
    assert described.multiply_adds == fine.multiply_adds + coarse.multiply_adds
    # in float32, while the last block's first norm answers: its answer, what it was given, both
    # joined, the skip; and what rose from the coarse grid, with what batch norm keeps of means
    at_once = 4 * (128 * (2 + 2 + 4 + 2) + 16 * 3)
    assert at_once <= described.bytes_at_peak < 1.15 * at_once


def test_memory_grows_with_batch_and_size():
    network = build("unet")
    one = bytes_at_peak(network, (1, 4, 16, 16, 16))
    assert bytes_at_peak(network, (2, 4, 16, 16, 16)) == pytest.approx(2 * one, rel=1e-3)
    assert bytes_at_peak(network, (1, 4, 32, 16, 16)) == pytest.approx(2 * one, rel=1e-3)


@pytest.mark.parametrize("levels", [3, 5])
def test_dynunets_coarse_answers_are_a_tuple_in_halves_and_leave_no_graph_behind(levels):
    network = build("dynunet", channels=(4,) * levels, deep_supervision=True, dropout=0.0)
    answers = network.train()(torch.randn(1, 4, *SIZE))
    assert [tuple(answer.shape[2:]) for answer in answers] == [
        tuple(n // 2**level for n in SIZE) for level in range(levels - 1)
    ]
    sum(answer.square().mean() for answer in answers).backward()
    assert all(weights.grad is not None for weights in network.parameters())
    twin = copy.deepcopy(network)  # an average of the weights is begun like this
    image = torch.randn(1, 4, *SIZE)
    assert torch.equal(twin.eval()(image), network.eval()(image))
    stacked = network.network.train()(image)  # MONAI's own form: resized and stacked
    ours = network.train()(image)
    assert torch.equal(stacked[:, 0], ours[0])
    assert torch.equal(stacked[:, 1, :, ::2, ::2, ::2], ours[1])


@pytest.mark.slow
def test_swin_checkpoints_its_stages_with_the_same_gradients():
    image = torch.randn(1, 4, *SIZE)
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = build("swin_unetr", dropout=0.0, checkpointing=checkpointing)
        network(image).square().mean().backward()
        gradients.append([weights.grad for weights in network.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_a_network_of_one_size_gets_small_volumes_padded_and_large_ones_by_windows():
    network = build("unetr").eval()
    small, large = torch.randn(4, 20, 50, 32), torch.randn(4, 40, 64, 32)
    with torch.inference_mode():
        at_once = single_pass(network, small)
        assert at_once.shape == (3, 20, 50, 32)
        torch.testing.assert_close(at_once, sliding_window(network, small, window_vox=SIZE))
        assert sliding_window(network, large, window_vox=SIZE).shape == (3, 40, 64, 32)
        with pytest.raises(ValueError, match="sliding_window with that window"):
            single_pass(network, large)
        with pytest.raises(ValueError, match=r"window_vox must be \(32, 64, 32\)"):
            sliding_window(network, large, window_vox=(32, 32, 32))


@pytest.mark.parametrize("name", ["segresnet", "dynunet"])
def test_one_voxel_at_the_bottom_is_refused_before_torch_stumbles_over_it(name):
    network = build(name, norm="instance").eval()
    with pytest.raises(ValueError, match="or a network of fewer levels"):
        network(torch.zeros(1, 4, *[MULTIPLES[name]] * 3))


def test_patches_and_windows_of_a_network_of_one_size_must_be_alike():
    recipe = recipe_for("unetr")
    with pytest.raises(ValueError, match=r"window_vox must be training\.patch_vox for unetr"):
        replace(recipe, inference=replace(recipe.inference, window_vox=(64, 64, 64)))


@pytest.mark.parametrize("size", [None, (32, 32), (24, 32, 32)])
def test_unetr_without_a_size_that_it_can_have_is_refused(size):
    with pytest.raises(ValueError, match="three multiples of 16 for unetr"):
        build_network(SETTINGS["unetr"], in_channels=4, out_channels=4, size_vox=size)


@pytest.mark.parametrize("name", sorted(set(SETTINGS) - {"unet"}))
def test_without_monai_one_line_says_how_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(RuntimeError, match=r'pip install "bratskit\[monai\]"'):
        build_network(SETTINGS[name], in_channels=4, out_channels=4, size_vox=SIZE)


def test_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"one of \['dynunet', 'segresnet', .*'unetr'\]"):
        build_network(NetworkSettings(name="vnet"), in_channels=4, out_channels=4)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"channels": (8, 0)}, r"whole numbers from 1; got \(8, 0\)"),
        ({"norm": "layer"}, "'instance', 'batch', 'group'"),
        ({"block": "dense", "name": "dynunet"}, "block must be 'plain' or 'residual' for dynunet"),
        ({"attention": True, "name": "segresnet"}, "attention must be False for segresnet"),
        ({"dropout_at": "levels", "name": "unetr"}, "dropout_at must be 'bottleneck' for unetr"),
        ({"attention": "yes"}, "attention must be True or False"),
        ({"name": "segresnet", "channels": (8, 16, 24)}, "double from level to level"),
        ({"name": "swin_unetr"}, r"multiple of 12, for swin_unetr.*Try \(24, 48"),
        ({"name": "unetr", "channels": (16, 32, 64, 128, 100)}, "then a multiple of 64"),
        ({"name": "dynunet", "channels": (8, 16)}, "name at least three levels"),
        ({"deep_supervision": True, "channels": (8, 16)}, "three levels for deep_supervision"),
    ],
)
def test_settings_that_a_network_cannot_have_or_does_not_read_are_refused(options, cure):
    with pytest.raises(ValueError, match=cure):
        NetworkSettings(**options)


def test_settings_of_before_the_options_are_the_plain_network():
    recipe = get_recipe("tiny")
    values = recipe.to_dict()
    old = ("name", "channels", "norm", "dropout")
    values["network"] = {name: values["network"][name] for name in old}
    assert type(recipe).from_dict(values) == recipe
