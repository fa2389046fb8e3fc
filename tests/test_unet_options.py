"""Each option of the U-Net does what its paper says, and leaves the plain net as it was."""

import itertools

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bratskit.networks import UNet, build_network, load_checkpoint, saved_model
from bratskit.networks.blocks import (
    AttentionGate,
    Convolution,
    DenseBlock,
    ResidualBlock,
    make_block,
    make_norm,
)
from bratskit.settings import NetworkSettings

BLOCKS, NORMS = ("plain", "residual", "dense"), ("batch", "instance", "group")
EVERY = [
    {"block": block, "norm": norm, "attention": gated, "deep_supervision": deep, "dropout_at": at}
    for block, norm, gated, (deep, at) in itertools.product(
        BLOCKS, NORMS, (False, True), ((False, "levels"), (True, "bottleneck"))
    )
]


def small(**options):
    torch.manual_seed(0)
    return UNet(4, 3, channels=(4, 8, 16), **options)


def n_weights(module):
    return sum(weights.numel() for weights in module.parameters())


def loss_of(logits):
    """Add every answer up, so that each reaches what stands before it."""
    answers = logits if isinstance(logits, tuple) else (logits,)
    return sum(answer.float().square().mean() for answer in answers)


def say_of(options):
    return " ".join(f"{name}={value}" for name, value in options.items())


@pytest.mark.parametrize("options", EVERY, ids=say_of)
def test_gradient_reaches_every_parameter_for_every_combination(options):
    network = small(dropout=0.2, **options)
    torch.use_deterministic_algorithms(True)
    loss_of(network(torch.randn(2, 4, 8, 8, 16))).backward()
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name
        assert weights.grad.abs().sum() > 0, name


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_learns_a_batch_with_gates_coarse_answers_and_checkpoints(block):
    network = small(block=block, attention=True, deep_supervision=True, checkpointing=True)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    image = torch.randn(1, 4, 8, 8, 16)
    labels = (image[:, 0] > 0).long() + (image[:, 1] > 1)
    losses = []
    for _ in range(25):
        answers = network(image)
        coarse = F.cross_entropy(answers[1], labels[:, ::2, ::2, ::2])
        losses.append(F.cross_entropy(answers[0], labels) + coarse)
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.6 * losses[0]


@given(
    options=st.sampled_from(EVERY),
    levels=st.integers(3, 4),
    times=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(2, 3)),
    batch=st.integers(1, 2),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_multiples_come_back_in_their_size_and_coarse_answers_in_halves(
    options, levels, times, batch
):
    network = UNet(2, 3, channels=(2, 4, 6, 8)[:levels], **options)
    size = tuple(network.multiple_vox * n for n in times)
    image = torch.randn(batch, 2, *size)
    assert network.eval()(image).shape == (batch, 3, *size)
    answers = network.train()(image)
    if not options["deep_supervision"]:
        assert answers.shape == (batch, 3, *size)
        return
    shapes = [tuple(answer.shape) for answer in answers]
    halves = [tuple(n // 2**level for n in size) for level in range(levels - 1)]
    assert shapes == [(batch, 3, *half) for half in halves]


@pytest.mark.parametrize("norm", NORMS)
def test_residual_without_its_shortcut_is_plain(norm):
    plain = make_block("plain", 3, 6, norm=norm, stride=2)
    residual = make_block("residual", 3, 6, norm=norm, stride=2)
    residual.body.load_state_dict(plain[:-1].state_dict())
    with torch.no_grad():
        residual.shortcut[0].weight.zero_()
        image = torch.randn(2, 3, 8, 8, 8)
        assert torch.equal(residual(image), plain(image))


def test_residual_with_silent_convolutions_hands_on_what_came_in():
    block = ResidualBlock(4, 4, norm="batch").eval()
    assert isinstance(block.shortcut, nn.Identity)  # neither width nor grid change
    with torch.no_grad():
        for layer in block.body:
            if isinstance(layer, nn.Conv3d):
                layer.weight.zero_()
    image = torch.randn(1, 4, 4, 4, 4)
    torch.testing.assert_close(block(image), F.leaky_relu(image, 0.01))


def test_dense_hands_the_first_layers_features_past_the_others():
    block = DenseBlock(4, 6, norm="instance")
    with torch.no_grad():
        for layer in block.layers[1:]:
            layer[0].weight.zero_()
    one, other = (block(torch.randn(1, 4, 4, 4, 4)) for _ in range(2))
    assert not torch.allclose(one, other)


def test_dense_weights_counted_by_hand():
    block = DenseBlock(4, 6, norm="batch")  # three layers of 3, from 4, 3 and 3 + 3 channels
    convolutions = 27 * (4 * 3 + 3 * 3 + 6 * 3) + (3 + 3 + 3) * 6
    assert n_weights(block) == convolutions + 2 * (3 + 3 + 3 + 6)  # scale and shift of the norms


@pytest.mark.parametrize("norm", NORMS)
def test_attention_that_lets_all_through_is_the_net_without(norm):
    plain, gated = small(norm=norm), small(norm=norm, attention=True)
    gated.load_state_dict(plain.state_dict(), strict=False)
    image = torch.randn(2, 4, 8, 8, 16)
    assert not torch.allclose(gated(image), plain(image))
    with torch.no_grad():
        for gate in gated.gates:
            gate.psi.weight.zero_()
            gate.psi.bias.fill_(50.0)  # its sigmoid is 1 in float32
        assert torch.equal(gated(image), plain(image))


def test_a_gate_by_hand():
    gate = AttentionGate(2, norm="batch").eval()  # 2 channels compared in 1
    with torch.no_grad():
        gate.of_skip[0].weight.copy_(torch.tensor([1.0, 2.0]).view(1, 2, 1, 1, 1))
        gate.of_below[0].weight.copy_(torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1, 1))
        gate.psi.weight.fill_(0.5)
        gate.psi.bias.fill_(-1.0)
        skip, below = torch.ones(1, 2, 1, 1, 1), torch.tensor([1.0, 4.0]).view(1, 2, 1, 1, 1)
        weight = torch.sigmoid(torch.tensor(0.5 * (1 + 2 - 1 + 4) - 1))
        torch.testing.assert_close(gate(skip, below), weight * skip, rtol=1e-4, atol=0)


def test_group_norm_takes_eight_groups_or_as_many_as_divide():
    assert [make_norm("group", n).num_groups for n in (32, 12, 6, 3)] == [8, 4, 2, 1]


@pytest.mark.parametrize(("at", "drops"), [("bottleneck", 1), ("levels", 5)])
def test_dropout_comes_after_the_bottleneck_or_after_each_of_three_levels_down_and_two_up(
    at, drops
):
    network = small(dropout=0.9, dropout_at=at)
    seen = []
    network.dropout.register_forward_hook(lambda _m, given, _o: seen.append(given[0].shape[1]))
    network(torch.randn(1, 4, 8, 8, 8))
    assert seen == {1: [16], 5: [4, 8, 16, 8, 4]}[drops]


def test_dropped_channels_are_missing_from_the_skip_too():
    network, image = small(dropout=0.9, dropout_at="levels"), torch.randn(1, 4, 8, 8, 8)
    seen = []
    network.merge[0].register_forward_hook(lambda _m, given, _o: seen.append(given[0][:, :4]))
    network(image)
    silent = [not channel.any() for channel in seen[0][0]]
    assert any(silent)


def test_without_dropout_it_does_not_matter_where():
    image = torch.randn(1, 4, 8, 8, 8)
    one, other = small(dropout_at="bottleneck"), small(dropout_at="levels")
    assert torch.equal(one(image), other(image))


def test_coarse_answers_leave_the_fine_one_as_it_was():
    image = torch.randn(2, 4, 8, 8, 16)
    plain, deep = small(), small(deep_supervision=True)
    deep.load_state_dict(plain.state_dict(), strict=False)
    assert torch.equal(deep(image)[0], plain(image))
    assert torch.equal(deep.eval()(image), plain.eval()(image))


@pytest.mark.parametrize("options", EVERY[::3], ids=say_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_checkpointing_gives_the_same_bits_gradients_dropout_and_statistics(options, dtype):
    kept = small(dropout=0.5, **options)
    again = small(dropout=0.5, checkpointing=True, **options)
    image = torch.randn(2, 4, 8, 8, 16)
    after = []
    for network in (kept, again):
        torch.manual_seed(1)  # of the dropout
        for _ in range(2):
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                loss = loss_of(network(image))
            loss.backward()
        after.append((loss, torch.get_rng_state()))
    assert torch.equal(after[0][0], after[1][0])
    assert torch.equal(after[0][1], after[1][1])  # what follows draws alike
    for (name, one), other in zip(kept.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad), name
    for (name, one), other in zip(kept.named_buffers(), again.buffers(), strict=True):
        assert torch.equal(one, other), name
        assert not name.endswith("num_batches_tracked") or one == 2, name


def test_kernels_run_in_float32_where_torchs_bf16_gradients_are_whatever_stood_in_memory():
    convolution = Convolution(4, 4, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert convolution(torch.randn(1, 4, 2, 4, 4)).dtype == torch.float32
        assert convolution(torch.randn(1, 4, 4, 4, 1)).dtype == torch.float32
        assert convolution(torch.randn(1, 4, 4, 4, 4)).dtype == torch.bfloat16


def test_bf16_gradients_are_right_on_grids_of_two_voxels():
    """They are often right without our own convolution too, but not when memory is dirty."""
    block, image = make_block("plain", 8, 8, norm="instance"), torch.randn(2, 8, 2, 2, 4)
    gradients = []
    for enabled in (False, True, True, True):
        block.zero_grad()
        dirty = [torch.full((8 * 8 * 27 * n,), torch.nan) for n in range(1, 40)]
        del dirty
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = loss_of(block(image))
        loss.backward()
        gradients.append([weights.grad for weights in block.parameters()])
    for exact, *rounded in zip(*gradients, strict=True):
        for one in rounded:
            assert (one - exact).abs().max() <= 0.05 * exact.abs().max() + 1e-4


def bytes_kept(network):
    """Add up what the backward pass of a network is kept for, weights aside."""
    own = {weights.data_ptr() for weights in network.parameters()}
    sizes = {}

    def note(tensor):
        if tensor.data_ptr() not in own:
            sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        answer = network(torch.randn(1, 4, 32, 32, 32))
    del answer
    return sum(sizes.values())


def test_checkpointing_keeps_a_fraction_of_the_features():
    assert bytes_kept(small(checkpointing=True)) < 0.3 * bytes_kept(small())


def test_a_corner_voxel_hears_of_the_far_corner_of_a_patch():
    """The receptive field of four levels covers a patch of 32: nine voxels at the coarsest."""
    network = UNet(1, 1, channels=(2, 2, 2, 2), norm="batch").eval()
    image = torch.zeros(1, 1, 32, 32, 32, requires_grad=True)
    with torch.no_grad():
        for weights in network.parameters():
            weights.abs_()  # so that nothing cancels out
    network(image)[0, 0, 0, 0, 0].backward()
    assert image.grad[0, 0, -1, -1, -1] > 0


def test_the_shipped_network_keeps_its_names_and_its_answer():
    """The plain net of before, written out with the weights of the file."""
    model = load_checkpoint(saved_model())
    weights = model.network.state_dict()
    assert isinstance(model.network, UNet)
    image = torch.randn(1, 4, 32, 48, 32)

    def block(features, name, stride=1):
        for conv, norm, step in ((0, 1, stride), (3, 4, 1)):
            kernel = weights[f"{name}.{conv}.weight"]
            features = F.conv3d(features, kernel, stride=step, padding=1)
            scale, shift = weights[f"{name}.{norm}.weight"], weights[f"{name}.{norm}.bias"]
            features = F.leaky_relu(F.instance_norm(features, weight=scale, bias=shift), 0.01)
        return features

    with torch.no_grad():
        levels = [block(image, "stem")]
        for number in range(4):
            levels.append(block(levels[-1], f"down.{number}", stride=2))
        features = levels.pop()
        for number in reversed(range(4)):
            kernel, shift = weights[f"up.{number}.weight"], weights[f"up.{number}.bias"]
            wider = F.conv_transpose3d(features, kernel, shift, stride=2)
            features = block(torch.cat([levels.pop(), wider], dim=1), f"merge.{number}")
        by_hand = F.conv3d(features, weights["head.weight"], weights["head.bias"])
        torch.testing.assert_close(model.network(image), by_hand, rtol=1e-3, atol=1e-3)
    assert len(weights) == 9 * 6 + 4 * 2 + 2  # blocks of 2 x 3 tensors, ups, head: none besides


@pytest.mark.parametrize("size", [(64, 128, 128), (128, 128, 128), (160, 192, 128)])
@pytest.mark.parametrize("block", BLOCKS)
def test_the_sizes_that_patches_have_go_through(size, block):
    options = {"block": block, "attention": True, "deep_supervision": True, "norm": "instance"}
    with torch.device("meta"):  # sizes without data
        network = build_network(NetworkSettings(**options), in_channels=4, out_channels=3)
        answers = network(torch.empty(2, 4, *size))
    assert [answer.shape[2:] for answer in answers] == [
        tuple(length // 2**level for length in size) for level in range(4)
    ]


def test_one_voxel_at_the_bottom_is_refused_where_a_norm_looks_at_it_alone():
    with pytest.raises(ValueError, match="Take 8, or a network of fewer levels"):
        small(norm="instance")(torch.zeros(1, 4, 4, 4, 4))
    assert small(norm="group")(torch.zeros(1, 4, 4, 4, 4)).shape == (1, 3, 4, 4, 4)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"block": "mixed"}, r"'dense', 'plain', 'residual'"),
        ({"dropout_at": "everywhere"}, "'bottleneck' or 'levels'"),
        ({"deep_supervision": True, "channels": (4, 8)}, "three levels for deep supervision"),
    ],
)
def test_options_that_do_not_exist_are_refused(options, cure):
    with pytest.raises(ValueError, match=cure):
        UNet(4, 4, **({"channels": (4, 8, 16)} | options))
