"""Blur, coarse sampling and lacking channels change the brain alone, nothing where not drawn."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from test_augment import identity, marker
from test_augment_settings import EVERYTHING

from bratskit.train import apply_augmentation, draw_augmentation
from bratskit.train.augment_intensity import find_brain, lose_resolution, measure_brain


def head(channels: int = 4, *, minmax: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Two patches of noise in a brain that has background on three sides."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, channels, 20, 16, 24, generator=generator)
    if minmax:
        image = image.sigmoid()
    image[:, :, :4] = 0
    image[..., 20:] = 0
    image[:, 0, 4:8] = 0  # one modality saw less
    labels = torch.zeros(2, 20, 16, 24, dtype=torch.long)
    labels[:, 8:12, 4:9, 6:15] = 3
    return image, labels


def test_a_blur_is_scipys():
    image, brain = torch.randn(3, 40, 36, 20), torch.ones(40, 36, 20)
    blurred = image.clone()
    lose_resolution(blurred, brain, np.array([0.8, 0, 1.0]), np.ones(3))
    for channel, sigma in ((0, 0.8), (2, 1.0)):
        expected = gaussian_filter(image[channel].double().numpy(), sigma, truncate=3.0)
        middle = (slice(4, -4),) * 3
        apart = blurred[channel].numpy()[middle] - expected[middle]
        assert np.abs(apart).max() < 2e-2
    assert torch.equal(blurred[1], image[1])


def test_coarse_voxels_of_two_are_means_of_eight_drawn_back_by_lines():
    """By hand along one axis: 0 0 6 6 0 0 0 0 keeps its mean and loses its edge."""
    image = torch.zeros(1, 8, 8, 8)
    image[:, 2:4] = 6
    lose_resolution(image, torch.ones(8, 8, 8), np.zeros(1), np.array([2.0]))
    row = [0, 1.5, 4.5, 4.5, 1.5, 0, 0, 0]
    assert torch.allclose(image[0, :, 3, 5], torch.tensor(row), atol=1e-6)


def test_a_blur_alone_does_not_leak_into_the_background():
    image, _ = head()
    brain = find_brain(image[0])
    lose_resolution(image[0], brain, np.ones(4), np.full(4, 2.0))
    assert not image[0][:, brain == 0].any()
    assert image[0, 0, 4:8].any()  # but within the brain it does


@pytest.mark.parametrize("coarse", [1.3, 2.0, 3.7])
def test_a_flat_image_stays_flat(coarse: float):
    image = torch.full((1, 33, 20, 70), 2.5)
    lose_resolution(image, torch.ones(33, 20, 70), np.array([1.0]), np.array([coarse]))
    assert torch.allclose(image, torch.full_like(image, 2.5), atol=1e-5)


@pytest.mark.parametrize("normalise", ["zscore", "minmax"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_background_is_exactly_zero_with_everything_on(normalise: str, channels: int):
    image, labels = head(channels, minmax=normalise == "minmax")
    params = draw_augmentation(np.random.default_rng(2), 2, EVERYTHING, channels=channels)
    still = {"rotation_rad": np.zeros((2, 3)), "zoom": np.ones(2), "bend": None}
    moved, _ = apply_augmentation(
        image, labels, dataclasses.replace(params, **still), normalise=normalise
    )
    brain = (image != 0).any(dim=1).flip(1, 2, 3)
    for channel in range(channels):
        kept = torch.from_numpy(~params.dropped[:, channel])
        assert not moved[:, channel][~brain].any()
        assert (moved[kept, channel][brain[kept]] != 0).float().mean() > 0.99
    assert torch.isfinite(moved).all()


def test_a_dropped_channel_is_zero_and_the_brain_is_that_of_all():
    image, labels = head()
    dropped = np.array([[False, True, False, False], [False] * 4])
    params = dataclasses.replace(identity(2), shift=np.ones((2, 4)), dropped=dropped)
    moved, moved_labels = apply_augmentation(image, labels, params)
    assert not moved[0, 1].any()
    brain = (image[0] != 0).any(dim=0)
    assert torch.equal(moved[0, 2], image[0, 2] + brain)
    assert torch.equal(moved[1, 1], image[1, 1] + brain)
    assert torch.equal(moved_labels, labels)


def test_a_lone_channel_of_the_brain_keeps_it_when_dropped():
    """Voxels that only the dropped modality saw still count as brain for the others."""
    image, labels = head()
    image[0, 1:, 10:12] = 0
    dropped = np.array([[True, False, False, False], [False] * 4])
    params = dataclasses.replace(identity(2), shift=np.ones((2, 4)), dropped=dropped)
    moved, _ = apply_augmentation(image, labels, params)
    assert (moved[0, 1, 10:12][image[0, 0, 10:12] != 0] == 1).all()


def test_nothing_drawn_is_nothing_changed_to_the_bit():
    image, labels = head()
    nothing = {
        "bend": np.zeros((2, 3, 7, 7, 7)),
        "blur_vox": np.zeros((2, 4)),
        "coarse_vox": np.ones((2, 4)),
        "dropped": np.zeros((2, 4), dtype=bool),
    }
    moved, moved_labels = apply_augmentation(
        image, labels, dataclasses.replace(identity(2), **nothing)
    )
    assert torch.equal(moved, image)
    assert torch.equal(moved_labels, labels)


def test_the_same_parameters_give_the_same_patch_and_leave_the_input_alone():
    image, labels = head()
    before = image.clone(), labels.clone()
    params = draw_augmentation(np.random.default_rng(3), 2, EVERYTHING)
    (one, one_labels), (two, two_labels) = (
        apply_augmentation(image, labels, params) for _ in range(2)
    )
    assert torch.equal(one, two)
    assert torch.equal(one_labels, two_labels)
    assert not torch.equal(one, image)
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


def test_everything_at_once_still_moves_image_and_labels_together():
    """Within the moved marker the image is far above what surrounds it."""
    _, labels = marker((24, 28, 32))
    labels[0, 4:16, 6:20, 9:22] = 1
    image = 1 + 20 * (labels > 0).float()[:, None].repeat(1, 4, 1, 1, 1)
    params = draw_augmentation(np.random.default_rng(8), 1, EVERYTHING)
    moved, moved_labels = apply_augmentation(image, labels, params)
    channel = int(np.flatnonzero(~params.dropped[0])[0])
    found = moved[0, channel] > moved[0, channel].max() / 2
    truth = moved_labels[0] > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    before = labels[0] > 0
    assert 2 * (found & before).sum() / (found.sum() + before.sum()) < 0.7


def test_no_operation_is_refused_in_deterministic_mode():
    image, labels = head()
    params = draw_augmentation(np.random.default_rng(3), 2, EVERYTHING)
    torch.use_deterministic_algorithms(True)
    try:
        apply_augmentation(image, labels, params)
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_mean_far_from_zero_eats_no_digits():
    image = 1000 + torch.rand(2, 16, 16, 16, dtype=torch.float64)
    image[:, :4] = 0
    mean, std = measure_brain(image.float(), find_brain(image.float()))
    brain = image[:, 4:].flatten(1)
    assert torch.allclose(mean.double(), brain.mean(dim=1), rtol=1e-6)
    assert torch.allclose(std.double(), brain.std(dim=1, correction=0), rtol=2e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_moves_patches_as_a_cpu_does():
    image, labels = head()
    params = draw_augmentation(np.random.default_rng(3), 2, EVERYTHING)
    params = dataclasses.replace(params, noise_std=np.zeros(2))  # its generator is the device's own
    expected, expected_labels = apply_augmentation(image, labels, params)
    moved, moved_labels = apply_augmentation(image.cuda(), labels.cuda(), params)
    assert torch.allclose(moved.cpu(), expected, atol=1e-3)
    assert (moved_labels.cpu() != expected_labels).float().mean() < 1e-3
