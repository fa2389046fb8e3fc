"""A TorchIO transform varies training patches, image and labels together, and resumes exactly."""

import numpy as np
import pytest
import torch
from training import make_prepared, small_recipe

from bratskit.train import PatchSampler, feed_epoch, torchio_transform


def patches() -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.zeros(2, 12, 14, 16, dtype=torch.long)
    labels[:, 2:6, 3:9, 4:8] = 3
    return labels[:, None].float().repeat(1, 4, 1, 1, 1), labels


def test_without_torchio_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchio", None)
    with pytest.raises(ImportError, match=r'pip install "bratskit\[torchio\]"'):
        torchio_transform(None)


def test_anything_that_takes_a_batch_and_a_seed_is_fed_by_the_samplers_generator():
    """So the loop needs no TorchIO to be tested; the same state gives the same seeds again."""
    seeds = []

    def spy(image, labels, seed):
        seeds.append(seed)
        return image + 1, labels

    recipe = small_recipe(epochs=1, steps_per_epoch=2, augment=False)
    patch_vox = recipe.training.patch_vox

    def feed() -> list[torch.Tensor]:
        rng = np.random.default_rng(0)
        sampler = PatchSampler([make_prepared()], patch_vox=patch_vox, tumour_share=1, rng=rng)
        epoch = feed_epoch(sampler, recipe.training, device=torch.device("cpu"), transform=spy)
        return [image for _, batches in epoch for image, _ in batches]

    first, second = feed(), feed()
    assert seeds[: len(first)] == seeds[len(first) :]
    assert len({*seeds}) == len(first)
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))


def test_image_and_labels_are_flipped_together():
    torchio = pytest.importorskip("torchio")
    image, labels = patches()
    flip = torchio_transform(torchio.RandomFlip(axes=(0,), flip_probability=1))
    moved, moved_labels = flip(image, labels, 0)
    assert torch.equal(moved, image.flip(2))
    assert torch.equal(moved_labels, labels.flip(1))
    assert (moved.dtype, moved_labels.dtype) == (torch.float32, torch.int64)
    assert torch.equal(image, patches()[0])


def test_the_seed_decides_and_the_global_generators_go_on_undisturbed():
    torchio = pytest.importorskip("torchio")
    image, labels = patches()
    vary = torchio_transform(torchio.Compose([torchio.RandomNoise(std=1), torchio.RandomAffine()]))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (vary(image, labels, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0][0], one[0][1])


def test_what_is_no_transform_or_changes_the_size_is_refused():
    torchio = pytest.importorskip("torchio")
    with pytest.raises(TypeError, match=r"got str\. Try torchio\.Compose"):
        torchio_transform("flip")
    with pytest.raises(ValueError, match=r"keep the size of a patch .* Leave crops"):
        torchio_transform(torchio.CropOrPad(8))(*patches(), 0)
