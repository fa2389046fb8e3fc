"""One draw moves image and labels together and leaves background at zero."""

import dataclasses

import numpy as np
import pytest
import torch

from bratskit.train import Augmentation, apply_augmentation, draw_augmentation


def identity(batch: int = 1, channels: int = 4) -> Augmentation:
    return Augmentation(
        flips=np.zeros((batch, 3), dtype=bool),
        rotation_rad=np.zeros((batch, 3)),
        zoom=np.ones(batch),
        scale=np.ones((batch, channels)),
        shift=np.zeros((batch, channels)),
        gamma=np.ones((batch, channels)),
        noise_std=np.zeros(batch),
        noise_seed=0,
    )


def marker(shape: tuple[int, int, int] = (8, 10, 12)) -> tuple[torch.Tensor, torch.Tensor]:
    """An L-shaped block: no flip or turn of it is itself; image and labels show the same."""
    labels = torch.zeros(1, *shape, dtype=torch.long)
    labels[0, 1:4, 2:4, 3:9] = 2
    labels[0, 1:4, 4:8, 3:5] = 3
    return labels[:, None].float().repeat(1, 4, 1, 1, 1), labels


def test_no_change_drawn_is_no_change_made():
    image, labels = marker()
    moved, moved_labels = apply_augmentation(image, labels, identity())
    assert torch.equal(moved, image)
    assert torch.equal(moved_labels, labels)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_flip_mirrors_image_and_labels_along_its_own_axis(axis: int):
    params = identity()
    params.flips[0, axis] = True
    image, labels = marker()
    moved, moved_labels = apply_augmentation(image, labels, params)
    assert torch.equal(moved, image.flip(axis + 2))
    assert torch.equal(moved_labels, labels.flip(axis + 1))
    assert not torch.equal(moved_labels, labels)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_quarter_turn_is_a_quarter_turn_about_its_own_axis(axis: int):
    params = identity()
    params.rotation_rad[0, axis] = np.pi / 2
    _, cube = marker((12, 12, 12))
    labels = torch.nn.functional.pad(cube, (4, 4, 2, 2, 0, 0))  # 12 x 16 x 20: no cube
    image = labels[:, None].float().repeat(1, 4, 1, 1, 1)
    moved, moved_labels = apply_augmentation(image, labels, params)
    plane = [other + 1 for other in range(3) if other != axis]
    turned = [cube.rot90(times, plane) for times in (1, -1)]
    assert any(torch.equal(moved_labels[:, :, 2:14, 4:16], item) for item in turned)
    assert torch.allclose(moved[:, 0], moved_labels.float(), atol=1e-4)


def test_a_turn_keeps_volumes_when_the_patch_is_not_a_cube():
    labels = torch.zeros(1, 24, 40, 32, dtype=torch.long)
    labels[0, 9:15, 15:25, 12:20] = 1
    params = identity(channels=1)
    params.rotation_rad[0] = (0.2, -0.25, 0.15)
    _, moved = apply_augmentation(labels[:, None].float(), labels, params)
    assert moved.sum().item() == pytest.approx(labels.sum().item(), rel=0.06)


def test_zoom_scales_volume_by_its_cube():
    labels = torch.zeros(1, 32, 32, 32, dtype=torch.long)
    labels[0, 11:21, 11:21, 11:21] = 1
    params = dataclasses.replace(identity(channels=1), zoom=np.array([1.2]))
    _, moved = apply_augmentation(labels[:, None].float(), labels, params)
    assert moved.sum().item() == 12**3


def test_labels_are_never_mixed_by_interpolation():
    image, labels = marker()
    params = identity()
    params.rotation_rad[0] = (0.2, 0.1, -0.2)
    _, moved = apply_augmentation(image, labels, params)
    assert set(moved.unique().tolist()) <= {0, 2, 3}


def test_background_stays_zero_and_the_brain_does_not():
    rng = np.random.default_rng(0)
    image = torch.randn(6, 4, 12, 12, 12)
    image[..., :4] = 0
    labels = torch.zeros(6, 12, 12, 12, dtype=torch.long)
    params = draw_augmentation(rng, 6)
    upright = {"rotation_rad": np.zeros((6, 3)), "zoom": np.ones(6)}
    loud = {"flips": np.zeros((6, 3), bool), "noise_std": np.ones(6), "shift": np.ones((6, 4))}
    bent = {"gamma": np.full((6, 4), 1.3)}
    params = dataclasses.replace(params, **upright, **loud, **bent)
    moved, _ = apply_augmentation(image, labels, params)
    assert (moved[..., :4] == 0).all()
    assert (moved[..., 4:] != image[..., 4:]).float().mean() > 0.99


def test_gamma_keeps_mean_and_spread_of_each_channel():
    image = torch.rand(1, 4, 10, 10, 10) ** 2 - 0.5
    params = dataclasses.replace(identity(), gamma=np.array([[0.7, 1.4, 1.0, 1.2]]))
    moved, _ = apply_augmentation(image, torch.zeros(1, 10, 10, 10, dtype=torch.long), params)
    assert torch.allclose(moved.mean((2, 3, 4)), image.mean((2, 3, 4)), atol=1e-4)
    assert torch.allclose(moved.std((2, 3, 4)), image.std((2, 3, 4)), atol=1e-4)
    assert torch.allclose(moved[:, 2], image[:, 2], atol=1e-4)
    assert not torch.allclose(moved[:, 0], image[:, 0], atol=1e-2)


def test_the_same_draw_applied_twice_gives_the_same_patch():
    params = dataclasses.replace(identity(), noise_std=np.array([0.5]))
    image, labels = marker()
    first, _ = apply_augmentation(image, labels, params)
    second, _ = apply_augmentation(image, labels, params)
    assert torch.equal(first, second)
    assert not torch.equal(first, image)


def test_the_input_is_left_alone():
    image, labels = marker()
    before = image.clone(), labels.clone()
    apply_augmentation(image, labels, draw_augmentation(np.random.default_rng(3), 1))
    assert torch.equal(image, before[0])
    assert torch.equal(labels, before[1])


def test_each_patch_of_a_batch_gets_its_own_draw():
    params = draw_augmentation(np.random.default_rng(0), 64)
    assert len({tuple(row) for row in params.flips}) == 8
    assert 0 < (params.zoom != 1).mean() < 0.5
    assert len(np.unique(params.scale)) == 64 * 4


def test_shift_and_noise_are_as_strong_for_minmax_as_for_zscores():
    """The same patch on both scales differs by the same share of its spread."""
    generator = torch.Generator().manual_seed(0)
    zscores = torch.randn(2, 4, 16, 16, 16, generator=generator)
    zscores[..., :4] = 0
    brain = zscores[..., 4:]
    brain -= brain.mean((2, 3, 4), keepdim=True)
    brain /= brain.std((2, 3, 4), keepdim=True, correction=0)
    width = torch.tensor([0.02, 0.05, 0.1, 0.2]).view(1, 4, 1, 1, 1)
    scaled = torch.where(zscores != 0, 0.4 + width * zscores, 0)
    shift = np.linspace(-0.1, 0.1, 8).reshape(2, 4)
    params = dataclasses.replace(identity(2), shift=shift, noise_std=np.array([0.1, 0]))
    labels = torch.zeros(2, 16, 16, 16, dtype=torch.long)
    moved, _ = apply_augmentation(zscores, labels, params)
    varied, _ = apply_augmentation(scaled, labels, params, normalise="minmax")
    assert torch.allclose((varied - scaled) / width, moved - zscores, atol=1e-4)
    assert (varied[..., :4] == 0).all()
    assert 0.05 < (moved - zscores)[0, 0, ..., 4:].std() < 0.15


def test_zscores_are_varied_exactly_as_drawn():
    """Also where a patch's own spread is not 1: stored results stay what they were."""
    image = 3 + 2 * torch.rand(1, 4, 8, 8, 8)
    labels = torch.zeros(1, 8, 8, 8, dtype=torch.long)
    params = dataclasses.replace(identity(), shift=np.array([[0.25, -0.5, 0, 1]]))
    moved, _ = apply_augmentation(image, labels, params)
    assert torch.equal(moved, image + image.new_tensor(params.shift).view(1, 4, 1, 1, 1))
