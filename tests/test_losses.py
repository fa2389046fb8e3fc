"""The loss agrees with a pencil, adds up over parts of a batch, and is fp32 whatever comes in."""

import math
from fractions import Fraction

import pytest
import torch

from bratskit.train import dice_ce_loss


def certain(labels: torch.Tensor, classes: int = 4) -> torch.Tensor:
    one_hot = torch.nn.functional.one_hot(labels, classes).movedim(-1, 1).float()
    return 60 * (one_hot - 0.5)


def blocks(*values: int) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_a_perfect_prediction_costs_nothing_with_and_without_tumour():
    for labels in (blocks(0, 1, 2, 3), blocks(0, 0, 0, 0)):
        assert dice_ce_loss(certain(labels), labels).item() == pytest.approx(0, abs=1e-5)


def test_the_loss_of_an_undecided_network_is_the_fraction_on_paper():
    # four voxels, two classes, every probability 1/2, truth 0 0 0 1, eps 1:
    # Dice = (2 * 1/2 + 1) / (4 * 1/2 + 1 + 1) = 1/2 ; CE = ln 2
    labels = blocks(0, 0, 0, 1)
    dice = (Fraction(2, 2) + 1) / (Fraction(4, 2) + 1 + 1)
    expected = float(1 - dice) + math.log(2)
    assert dice_ce_loss(torch.zeros(1, 2, 1, 1, 4), labels).item() == pytest.approx(expected)


def test_a_class_absent_from_the_patch_has_no_dice_term():
    # class 1 has probability 1/3 everywhere but no truth; only class 2 counts, divided by both
    labels = blocks(0, 0, 2, 2)
    dice = (2 * Fraction(2, 3) + 1) / (Fraction(4, 3) + 2 + 1)
    expected = float((1 - dice) / 2) + math.log(3)
    assert dice_ce_loss(torch.zeros(1, 3, 1, 1, 4), labels).item() == pytest.approx(expected)


def test_invented_tumour_still_costs_where_the_class_is_absent():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    logits = torch.zeros(1, 4, 4, 4, 4, requires_grad=True)
    dice_ce_loss(logits, labels).backward()
    assert (logits.grad[:, 3] > 0).all()
    # the push is that of cross-entropy, p/N a voxel, not thousands of times more
    assert logits.grad[:, 3].max().item() == pytest.approx(0.25 / 64)


def test_the_loss_of_a_batch_is_the_mean_of_its_parts():
    logits, labels = torch.randn(4, 4, 6, 5, 4), torch.randint(0, 4, (4, 6, 5, 4))
    labels[0] = 0
    parts = [dice_ce_loss(logits[at : at + 1], labels[at : at + 1]) for at in range(4)]
    assert torch.stack(parts).mean().item() == pytest.approx(dice_ce_loss(logits, labels).item())


def test_sums_beyond_65504_voxels_are_right_from_fp16_logits():
    labels = torch.ones(1, 48, 48, 48, dtype=torch.long)  # 110,592 voxels: infinite in fp16
    loss = dice_ce_loss(certain(labels, classes=2).half(), labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0, abs=1e-5)


def test_flipping_prediction_and_truth_together_changes_nothing():
    logits, labels = torch.randn(2, 4, 4, 5, 6), torch.randint(0, 4, (2, 4, 5, 6))
    flipped = dice_ce_loss(logits.flip(2, 4), labels.flip(1, 3))
    assert flipped.item() == pytest.approx(dice_ce_loss(logits, labels).item(), abs=1e-6)


def test_cross_entropy_agrees_with_torch():
    logits, labels = torch.randn(2, 4, 4, 4, 4), torch.zeros(2, 4, 4, 4, dtype=torch.long)
    expected = torch.nn.functional.cross_entropy(logits, labels)  # no tumour: no Dice term
    assert dice_ce_loss(logits, labels).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 4, 4, 4), (2, 4, 4, 1)])
def test_shapes_that_would_broadcast_are_refused(shape: tuple[int, ...]):
    labels = torch.zeros(shape, dtype=torch.long)
    with pytest.raises(ValueError, match=r"Drop a channel axis with labels\[:, 0\]"):
        dice_ce_loss(torch.zeros(2, 4, 4, 4, 4), labels)


def test_a_mask_of_one_region_is_refused():
    with pytest.raises(TypeError, match=r"labels\.long\(\)"):
        dice_ce_loss(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.bool))
