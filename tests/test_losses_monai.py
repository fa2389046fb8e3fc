"""Our losses give MONAI's numbers where both mean the same; a test's name says where not."""

from functools import partial

import pytest
import torch

from bratskit.settings import LossSettings, Recipe
from bratskit.train import make_loss, region_targets

EPS = 1e-5


@pytest.fixture(scope="module")
def monai():
    """Return `monai.losses`, skipping where it is not installed."""
    return pytest.importorskip("monai.losses")


@pytest.fixture
def batch():
    """Draw two patches in which each label occurs."""
    return torch.randn(2, 4, 6, 5, 4), torch.randint(0, 4, (2, 6, 5, 4))


def ours(name: str, targets: str = "labels", **settings: object):
    loss = LossSettings(name=name, **({"eps_vox": EPS, "include_absent": True} | settings))
    return make_loss(Recipe(name="a", targets=targets, loss=loss))


def of_labels(make: object, logits: torch.Tensor, labels: torch.Tensor, **options: object) -> float:
    options |= {"smooth_nr": EPS, "smooth_dr": EPS} if options.pop("smooth", True) else {}
    loss = make(softmax=True, to_onehot_y=True, include_background=False, **options)
    return loss(logits, labels[:, None]).item()


def of_regions(
    make: object, logits: torch.Tensor, labels: torch.Tensor, **options: object
) -> float:
    loss = make(sigmoid=True, smooth_nr=EPS, smooth_dr=EPS, **options)
    return loss(logits, region_targets(labels)).item()


def same(found: torch.Tensor, expected: float) -> None:
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_empty", [False, True])
def test_dice_of_labels_is_theirs_once_absent_classes_count(monai, batch, is_empty):
    logits, labels = batch
    labels[0] *= not is_empty
    same(ours("dice")(logits, labels), of_labels(monai.DiceLoss, logits, labels))


def test_dice_of_regions_is_theirs(monai, batch):
    logits, labels = batch[0][:, 1:], batch[1]
    same(ours("dice", "regions")(logits, labels), of_regions(monai.DiceLoss, logits, labels))


def test_dice_and_cross_entropy_is_theirs(monai, batch):
    weighed = ours("dice_ce", dice_weight=2.0, other_weight=3.0)(*batch)
    theirs = of_labels(monai.DiceCELoss, *batch, lambda_dice=2.0, lambda_ce=3.0)
    same(weighed, theirs)


def test_dice_and_cross_entropy_of_regions_is_their_sigmoid_form(monai, batch):
    logits, labels = batch[0][:, 1:], batch[1]
    bce = torch.nn.functional.binary_cross_entropy_with_logits(logits, region_targets(labels))
    expected = of_regions(monai.DiceLoss, logits, labels) + bce.item()
    same(ours("dice_bce", "regions")(logits, labels), expected)


def test_dice_and_focal_of_regions_is_theirs(monai, batch):
    logits, labels = batch[0][:, 1:], batch[1]
    theirs = of_regions(monai.DiceFocalLoss, logits, labels, gamma=3.0)
    same(ours("dice_focal", "regions", focal_gamma=3.0)(logits, labels), theirs)


def test_softmax_focal_sums_over_labels_where_theirs_averages_over_them(monai, batch):
    theirs = monai.FocalLoss(to_onehot_y=True, use_softmax=True)(batch[0], batch[1][:, None])
    same(ours("dice_focal", dice_weight=0)(*batch), 4 * theirs.item())


def test_dice_and_focal_of_labels_is_not_theirs_which_is_sigmoid_beside_a_softmax_dice(
    monai, batch
):
    theirs = of_labels(monai.DiceFocalLoss, *batch)
    dice = of_labels(monai.DiceLoss, *batch)
    sigmoid = monai.FocalLoss(to_onehot_y=True, include_background=False)
    assert theirs - dice == pytest.approx(sigmoid(batch[0], batch[1][:, None]).item(), rel=1e-4)
    assert ours("dice_focal")(*batch).item() != pytest.approx(theirs, rel=0.01)


def test_generalised_dice_is_theirs_but_for_the_scale_of_eps(monai, batch):
    theirs = partial(of_labels, monai.GeneralizedDiceLoss, *batch, smooth=False)
    expected = theirs(smooth_nr=0.0, smooth_dr=0.0)
    assert ours("generalised_dice", eps_vox=1e-7)(*batch).item() == pytest.approx(expected)


def test_generalised_dice_is_not_moved_by_eps_where_theirs_is():
    losses = pytest.importorskip("monai.losses")
    labels = torch.zeros(1, 48, 48, 48, dtype=torch.long)
    labels[:, :24] = 2  # 55,296 voxels: their weight of it is 3e-10, their eps 1e-5
    wrong = 60 * (torch.nn.functional.one_hot(0 * labels, 4).movedim(-1, 1).float() - 0.5)
    assert of_labels(losses.GeneralizedDiceLoss, wrong, labels) < 0.7  # all of it was missed
    assert ours("generalised_dice")(wrong, labels).item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_tversky_is_theirs_with_half_the_eps(monai, batch, targets):
    options = {"alpha": 0.3, "beta": 0.7, "smooth_nr": 0.5, "smooth_dr": 0.5}
    if targets == "labels":
        theirs = of_labels(monai.TverskyLoss, *batch, smooth=False, **options)
        return same(ours("tversky", eps_vox=1.0)(*batch), theirs)
    logits, labels = batch[0][:, 1:], batch[1]
    theirs = monai.TverskyLoss(sigmoid=True, **options)(logits, region_targets(labels)).item()
    return same(ours("tversky", "regions", eps_vox=1.0)(logits, labels), theirs)
