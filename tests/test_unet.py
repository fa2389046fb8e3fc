"""The U-Net keeps sizes, refuses those it cannot halve, and moves with its input."""

import pytest
import torch
from torch import nn

from bratskit.networks import UNet
from bratskit.networks.blocks import InstanceNorm, TransposedConvolution


@pytest.fixture
def network():
    torch.manual_seed(0)
    return UNet(4, 4, channels=(4, 8, 16)).eval()


def test_one_logit_a_class_and_voxel_on_an_anisotropic_grid(network):
    assert network(torch.zeros(2, 4, 8, 12, 16)).shape == (2, 4, 8, 12, 16)


def test_default_has_four_levels_down_and_four_up():
    network = UNet(4, 4)
    assert (len(network.down), len(network.up), network.multiple_vox) == (4, 4, 16)


def test_parameters_of_the_smallest_net_counted_by_hand():
    network = UNet(1, 2, channels=(2, 3))
    stem = 27 * (1 * 2 + 2 * 2) + 2 * (2 * 2)  # two kernels, and scale + shift of two norms
    down = 27 * (2 * 3 + 3 * 3) + 2 * (2 * 3)
    up = 8 * 3 * 2 + 2  # a 2x2x2 kernel with bias
    merge = 27 * (4 * 2 + 2 * 2) + 2 * (2 * 2)
    head = 2 * 2 + 2
    assert (
        sum(weights.numel() for weights in network.parameters()) == stem + down + up + merge + head
    )


def test_shift_by_the_multiple_shifts_the_answer(network):
    image = torch.zeros(1, 4, 64, 16, 16)
    image[:, :, 24:32] = torch.randn(1, 4, 8, 16, 16)
    moved = torch.roll(image, network.multiple_vox, dims=2)
    inside = slice(20, 44)  # away from the zero padding at the ends
    torch.testing.assert_close(
        network(moved)[:, :, 24:48], network(image)[:, :, inside], rtol=1e-4, atol=1e-5
    )


def test_batch_equals_one_by_one(network):
    images = torch.randn(3, 4, 8, 8, 8)
    apart = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), apart, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_weight_gets_a_finite_gradient_from_deterministic_operations(norm):
    network = UNet(4, 4, channels=(4, 8, 16), norm=norm, dropout=0.5)
    torch.use_deterministic_algorithms(True)
    try:
        network(torch.randn(2, 4, 8, 8, 16)).square().mean().backward()
    finally:
        torch.use_deterministic_algorithms(False)
    for name, weights in network.named_parameters():
        assert weights.grad is not None, name
        assert weights.grad.isfinite().all(), name


@pytest.mark.parametrize("batch", [1, 3])
def test_instance_norm_says_what_torch_says_and_stays_channels_last(batch):
    features = 2 + 3 * torch.randn(batch, 5, 4, 6, 8).to(memory_format=torch.channels_last_3d)
    ours, theirs = InstanceNorm(5), nn.InstanceNorm3d(5, affine=True)
    theirs.load_state_dict({name: value + 0.5 for name, value in ours.state_dict().items()})
    ours.load_state_dict(theirs.state_dict())  # the names of the weights are the same
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-4, atol=1e-5)
    assert ours(features).is_contiguous(memory_format=torch.channels_last_3d)


@pytest.mark.parametrize("batch", [1, 2])
def test_transposed_convolution_says_and_learns_what_torchs_own_does(batch):
    ours = TransposedConvolution(6, 3, kernel_size=2, stride=2)
    torchs = nn.ConvTranspose3d(6, 3, kernel_size=2, stride=2)
    torchs.load_state_dict(ours.state_dict())
    image = torch.randn(batch, 6, 3, 4, 5)
    for layer in (ours, torchs):
        layer(image).square().sum().backward()
    torch.testing.assert_close(ours(image), torchs(image), rtol=0, atol=0)
    torch.testing.assert_close(ours.bias.grad, torchs.bias.grad)
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)


def test_gradient_of_a_transposed_bias_counted_by_hand():
    layer = TransposedConvolution(1, 2, kernel_size=2, stride=2)
    made = layer(torch.zeros(1, 1, 2, 3, 4))
    (made[:, 0].sum() + 10 * made[:, 1].sum()).backward()
    voxels = 8 * 2 * 3 * 4
    assert layer.bias.grad.tolist() == [voxels, 10 * voxels]


def test_skips_carry_detail_that_the_bottleneck_cannot(network):
    with torch.no_grad():
        for up in network.up:  # silence everything that came from below
            up.weight.zero_()
        noise = torch.randn(1, 4, 8, 8, 8)
        assert not torch.allclose(network(noise), network(torch.zeros_like(noise)))


def test_bf16_channels_last_says_nearly_the_same(network):
    image = torch.randn(1, 4, 16, 16, 16)
    last = network.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = last(image.to(memory_format=torch.channels_last_3d)).float()
    expected = network(image)
    assert (rounded - expected).abs().max() < 0.05 * expected.abs().max()


def test_a_size_that_cannot_be_halved_is_refused_with_the_nearest(network):
    with pytest.raises(ValueError, match=r"Nearest: \(60, 64, 64\)"):
        network(torch.zeros(1, 4, 61, 64, 64))


def test_wrong_channels_are_refused_with_the_number_expected(network):
    with pytest.raises(ValueError, match=r"must be \(B, 4, I, J, K\)"):
        network(torch.zeros(1, 3, 8, 8, 8))


def test_unknown_norm_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="'batch', 'instance' or 'group'"):
        UNet(4, 4, norm="layer")


def test_a_single_level_is_refused():
    with pytest.raises(ValueError, match=r"Try \(16, 32, 64\)"):
        UNet(4, 4, channels=(8,))
