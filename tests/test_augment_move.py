"""Mirror, turn, zoom and bend are one resampling, the same for image and labels."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bratskit.train import augment_move
from bratskit.train.augment_move import Warp, move_patch

NO_TURN, NO_FLIP = np.zeros(3), np.zeros(3, dtype=bool)
SIZE = (24, 20, 28)


def asymmetric(size: tuple[int, int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth head of two labels that no mirror and no turn maps onto itself."""
    axes = [torch.linspace(-1, 1, n) for n in size]
    i, j, k = torch.meshgrid(*axes, indexing="ij")
    labels = ((i**2 + 1.5 * j**2 + (k + 0.1 * i) ** 2) < 0.6).long()
    labels[(i - 0.3) ** 2 + (j + 0.2) ** 2 + (k - 0.1) ** 2 < 0.08] = 3
    return torch.stack([labels.float(), labels.float() * 2]), labels


def some_bend(seed: int = 0, size: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-size, size, (3, 5, 5, 5))


CHANGES = {
    "flip": {"flips": np.array([True, False, True])},
    "turn": {"rotation_rad": np.array([0.2, -0.1, 0.15])},
    "zoom": {"zoom": 1.2},
    "bend": {"bend": some_bend()},
    "all": {
        "flips": np.array([True, False, True]),
        "rotation_rad": np.array([0.2, -0.1, 0.15]),
        "zoom": 0.9,
        "bend": some_bend(),
    },
}


def move(image: torch.Tensor, labels: torch.Tensor, **change) -> tuple[torch.Tensor, torch.Tensor]:
    still = {"flips": NO_FLIP, "rotation_rad": NO_TURN, "zoom": 1.0}
    out = torch.empty_like(image), torch.empty_like(labels)
    move_patch(image, labels, **(still | change), out=out)
    return out


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_image_and_labels_move_together(change):
    """An image that is the label map differs from it only where tissues were mixed."""
    image, labels = asymmetric()
    moved, moved_labels = move(image, labels, **change)
    assert not torch.equal(moved_labels, labels)
    apart = (moved[0] - moved_labels).abs()
    assert apart.max() <= 2.5  # of labels 0 and 3, the nearest of eight may weigh a little over 1/8
    assert ((apart < 1e-4).float().mean()) > 0.7
    inside = F.max_pool3d(moved_labels[None].float(), 5, 1, 2) == -F.max_pool3d(
        -moved_labels[None].float(), 5, 1, 2
    )
    assert torch.allclose(moved[0][inside[0]], moved_labels[inside[0]].float(), atol=1e-4)
    assert torch.allclose(moved[1], 2 * moved[0], atol=1e-5)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_tiles_leave_no_seam(change, monkeypatch):
    image, labels = asymmetric()
    whole = move(image, labels, **change)
    monkeypatch.setattr(augment_move, "TILE_VOX", 7)
    tiled = move(image, labels, **change)
    assert torch.allclose(tiled[0], whole[0], atol=1e-5)
    assert torch.equal(tiled[1], whole[1])


def test_grid_sample_of_torch_agrees():
    """A second opinion on interpolation, on the nearest label and on zeros outside."""
    generator = torch.Generator().manual_seed(0)
    image, (_, labels) = torch.rand(3, *SIZE, generator=generator), asymmetric()
    change = CHANGES["all"]
    moved, moved_labels = move(image, labels, **change)
    turn = augment_move._turn(change["rotation_rad"]) / change["zoom"]
    matrix = turn * np.where(change["flips"], -1, 1)[:, None]
    points = Warp(SIZE, matrix, change["bend"], like=image).points()
    grid = torch.stack(
        [(2 * point + 1) / n - 1 for point, n in zip(points, SIZE, strict=True)][::-1], dim=-1
    )
    expected = F.grid_sample(image[None], grid[None], align_corners=False)[0]
    nearest = F.grid_sample(labels[None, None].float(), grid[None], "nearest", align_corners=False)
    assert torch.allclose(moved, expected, atol=1e-4)
    assert (moved_labels != nearest[0, 0]).float().mean() < 1e-3  # ties


def test_a_mirror_beside_a_turn_is_the_turn_of_the_mirrored_patch():
    image, labels = asymmetric()
    flips, rest = np.array([False, True, True]), {"zoom": 1.1, "bend": some_bend()}
    one, one_labels = move(image, labels, flips=flips, **rest)
    two, two_labels = move(image.flip(2, 3), labels.flip(1, 2), **rest)
    assert torch.allclose(one, two, atol=1e-4)
    assert (one_labels != two_labels).float().mean() < 1e-3


@pytest.mark.parametrize("size", [(24, 24, 24), (32, 24, 16)])
def test_nothing_folds_up_to_a_sixth_whatever_is_drawn(size):
    """Knots at their limits in the worst pattern, and at random: each small cube keeps its hand."""
    worst = np.indices((7, 7, 7)).sum(axis=0) % 2 * 2.0 - 1
    rng = np.random.default_rng(0)
    signs = [np.stack([worst, -worst, worst]), *np.sign(rng.normal(size=(6, 3, 7, 7, 7)))]
    for sign in signs:
        points = Warp(size, np.eye(3), sign / 6, like=torch.ones(1)).points()
        jacobian = torch.stack([torch.stack(torch.gradient(point)) for point in points])
        assert torch.linalg.det(jacobian.permute(2, 3, 4, 0, 1)).min() > 0


def test_a_bend_is_smooth_and_no_larger_than_its_knots():
    points = Warp((32, 32, 32), np.eye(3), some_bend(), like=torch.ones(1)).points()
    still = torch.meshgrid(*[torch.arange(32.0)] * 3, indexing="ij")
    for point, rest in zip(points, still, strict=True):
        moved = point - rest
        assert 0.5 < moved.abs().max() <= 0.3 * 32 / 2
        assert torch.diff(moved, n=2, dim=0).abs().max() < 0.15


def test_equal_knots_shift_the_whole_patch():
    """The weights of a spline sum to 1: by hand, a displacement of one voxel along J."""
    image, labels = asymmetric((16, 16, 16))
    bend = np.zeros((3, 7, 7, 7))
    bend[1] = 4 / 16  # knots are 16 / 4 voxels apart
    moved, moved_labels = move(image, labels, bend=bend)
    assert torch.allclose(moved[:, :, :-1], image[:, :, 1:], atol=1e-5)
    assert torch.equal(moved_labels[:, :-1], labels[:, 1:])
    assert not moved_labels[:, -1].any()


def test_what_lies_outside_is_exactly_background():
    image, labels = torch.ones(2, 16, 16, 16), torch.ones(16, 16, 16, dtype=torch.long)
    moved, moved_labels = move(image, labels, zoom=0.5)
    assert moved_labels.sum() == 8**3
    assert not moved[:, :3].any()
    assert (moved[:, 5:11, 5:11, 5:11] == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inputs_and_types_are_left_alone(dtype):
    image, labels = asymmetric()
    image, small = image.to(dtype), labels.to(torch.uint8)
    before = image.clone(), small.clone()
    moved, moved_labels = move(image, small, **CHANGES["all"])
    assert (moved.dtype, moved_labels.dtype) == (dtype, torch.uint8)
    assert torch.equal(image, before[0])
    assert torch.equal(small, before[1])
