"""Windows cover every voxel, agree with a single pass, and weigh their middle most."""

import itertools
import math

import pytest
import torch
from torch import nn

from bratskit.networks import UNet
from bratskit.predict import gaussian_weights, single_pass, sliding_window, window_starts


class Pointwise(nn.Module):
    """Answer each voxel from that voxel alone: no window can change what it says."""

    multiple_vox = 4

    def forward(self, image):
        """Return two classes that mirror each other."""
        return torch.cat([image, -image], dim=1)


@pytest.fixture
def unet():
    return UNet(2, 3, channels=(4, 8, 16)).eval()


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize(("length", "window"), [(8, 8), (9, 8), (17, 8), (40, 16), (5, 1)])
def test_windows_cover_the_axis_and_overlap_as_asked(length, window, overlap):
    starts = window_starts(length, window, overlap)
    assert {place for start in starts for place in range(start, start + window)} == set(
        range(length)
    )
    steps = [after - before for before, after in itertools.pairwise(starts)]
    assert all(0 < step <= max(1, window * (1 - overlap)) for step in steps)


def test_gaussian_weights_are_symmetric_and_know_their_axes():
    weight = gaussian_weights((8, 12, 16))
    for axis in range(3):
        torch.testing.assert_close(weight, weight.flip(axis))
    torch.testing.assert_close(weight.transpose(0, 2), gaussian_weights((16, 12, 8)))


def test_gaussian_weight_one_sigma_from_the_middle_by_hand():
    weight = gaussian_weights((1, 1, 17))[0, 0]  # middle at 8, sigma 17 / 8
    assert weight[8].item() == 1
    assert weight[10].item() == pytest.approx(math.exp(-0.5 * (2 * 8 / 17) ** 2))


def test_gaussian_weights_never_vanish():
    assert gaussian_weights((128, 128, 128)).min() > 1e-12


@pytest.mark.parametrize("weights", ["gaussian", "flat"])
def test_one_window_over_everything_is_a_single_pass(unet, weights):
    image = torch.randn(2, 13, 16, 20)
    with torch.no_grad():
        tiled = sliding_window(unet, image, window_vox=(64, 64, 64), weights=weights)
        torch.testing.assert_close(tiled, single_pass(unet, image), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [(13, 20, 9), (8, 8, 8), (3, 30, 17)])
@pytest.mark.parametrize("weights", ["gaussian", "flat"])
def test_tiling_does_not_show_where_no_context_is_needed(size, weights):
    image = torch.randn(1, *size)
    expected = torch.cat([image, -image]).softmax(dim=0)
    tiled = sliding_window(Pointwise(), image, window_vox=(8, 12, 8), overlap=0.3, weights=weights)
    torch.testing.assert_close(tiled, expected)
    torch.testing.assert_close(single_pass(Pointwise(), image), expected)


class Constant(nn.Module):
    """Answer the n-th window with the n-th logit, everywhere in it."""

    def __init__(self, logits):
        super().__init__()
        self.logits = iter(logits)

    def forward(self, image):
        """Return logit 0 and the next one of the list."""
        logit = next(self.logits)
        return torch.stack([torch.zeros_like(image[:, 0]), torch.full_like(image[:, 0], logit)], 1)


def test_flat_windows_average_their_probabilities_by_hand():
    image = torch.zeros(1, 1, 1, 6)  # windows of 4 at 0 and 2; voxels 2 and 3 seen twice
    network = Constant([math.log(3), math.log(1 / 3)])  # probabilities 3/4 and 1/4
    probs = sliding_window(network, image, window_vox=(1, 1, 4), weights="flat")
    expected = [0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert probs[1, 0, 0].tolist() == pytest.approx(expected)


def test_gaussian_windows_lean_to_the_nearer_middle():
    image = torch.zeros(1, 1, 1, 6)
    network = Constant([math.log(3), math.log(1 / 3)])
    probs = sliding_window(network, image, window_vox=(1, 1, 4), weights="gaussian")[1, 0, 0]
    assert 0.5 < probs[2] < 0.75
    assert probs[2] + probs[3] == pytest.approx(1)  # mirror images of each other


def test_probabilities_sum_to_one_in_float32_under_bf16(unet):
    image = torch.randn(2, 14, 9, 30)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        for probs in (
            single_pass(unet, image),
            sliding_window(unet, image, window_vox=(8, 8, 8)),
        ):
            assert probs.dtype == torch.float32
            assert probs.shape == (3, 14, 9, 30)
            torch.testing.assert_close(probs.sum(0), torch.ones(14, 9, 30))


class Overflowing(nn.Module):
    """Give infinity in half precision, as a feature above 65,504 does in float16."""

    def __init__(self, *, in_float32=False):
        super().__init__()
        self.convolution = nn.Conv3d(1, 2, 1)
        self.in_float32 = in_float32

    def forward(self, image):
        """Return logits, spoilt where the arithmetic is too short for them."""
        logits = self.convolution(image)
        is_spoilt = self.in_float32 or logits.dtype != torch.float32
        return logits * math.inf if is_spoilt else logits


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_window_that_overflows_is_run_again_in_float32(dtype):
    network, image = Overflowing(), torch.randn(1, 8, 8, 12)
    with torch.no_grad():
        expected = network(image[None])[0].softmax(dim=0)
        with torch.autocast("cpu", dtype=dtype):
            whole = single_pass(network, image)
            tiled = sliding_window(network, image, window_vox=(8, 8, 8))
    torch.testing.assert_close(whole, expected)
    torch.testing.assert_close(tiled, expected)


def test_a_network_that_is_never_finite_is_refused_in_one_line():
    with pytest.raises(RuntimeError, match=r"^logits must be finite; got NaN.*other weights\.$"):
        single_pass(Overflowing(in_float32=True), torch.randn(1, 8, 8, 8))


def test_shift_by_the_multiple_shifts_the_mask(unet):
    image = torch.zeros(2, 64, 16, 16)
    image[:, 28:36] = torch.randn(2, 8, 16, 16)
    moved = torch.roll(image, 4, dims=1)
    with torch.no_grad():
        before, after = single_pass(unet, image), single_pass(unet, moved)
    torch.testing.assert_close(after[:, 24:48], before[:, 20:44], rtol=1e-4, atol=1e-5)


def test_a_window_that_cannot_be_halved_is_refused_with_the_nearest(unet):
    with pytest.raises(ValueError, match=r"Nearest: \(32, 32, 28\)"):
        sliding_window(unet, torch.zeros(2, 40, 40, 40), window_vox=(32, 32, 29))


def test_a_full_overlap_is_refused():
    with pytest.raises(ValueError, match=r"Try 0\.5"):
        sliding_window(Pointwise(), torch.zeros(1, 8, 8, 8), window_vox=(4, 4, 4), overlap=1.0)


def test_unknown_weights_are_refused():
    with pytest.raises(ValueError, match="'gaussian' or 'flat'"):
        sliding_window(Pointwise(), torch.zeros(1, 8, 8, 8), window_vox=(4, 4, 4), weights="cone")


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_temperature_divides_the_logits_by_hand(targets):
    image = torch.full((1, 8, 8, 8), math.log(3))  # logits of Pointwise: ln 3 and -ln 3
    options = {"targets": targets, "temperature": 2.0}
    odds = 3 if targets == "labels" else math.sqrt(3)  # ln 3 - -ln 3, or ln 3, halved
    for probs in (
        single_pass(Pointwise(), image, **options),
        sliding_window(Pointwise(), image, window_vox=(8, 8, 4), **options),
    ):
        assert probs[0].flatten().tolist() == pytest.approx([odds / (1 + odds)] * 512)
