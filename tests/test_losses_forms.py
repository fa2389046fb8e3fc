"""Each loss by name agrees with a pencil, adds up over patches, and cannot mistake one tissue."""

import math
import pickle
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bratskit.settings import LOSSES, LossSettings, Recipe
from bratskit.train import deep_supervised, dice_ce_loss, make_loss, measure_loss, region_targets

FITTING = [
    (name, targets)
    for name, (_, other) in LOSSES.items()
    for targets, misfit in (("labels", "bce"), ("regions", "ce"))
    if other != misfit
]
LABELS = torch.tensor([0, 0, 1, 2, 3, 3, 0, 2]).view(1, 2, 2, 2)


def loss_of(name: str, targets: str, **settings: object):
    return make_loss(Recipe(name="a", targets=targets, loss=LossSettings(name=name, **settings)))


def row(*values: int) -> torch.Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def regions_by_hand(labels: torch.Tensor) -> torch.Tensor:
    # written out, not read from bratskit.labels: whole tumour, core without edema, enhancing
    return torch.stack([labels > 0, (labels == 1) | (labels == 3), labels == 3], 1).float()


def certain(labels: torch.Tensor, targets: str) -> torch.Tensor:
    if targets == "regions":
        return 60 * (regions_by_hand(labels) - 0.5)
    return 60 * (torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float() - 0.5)


def guess(targets: str, patches: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(patches, 4 if targets == "labels" else 3, 6, 5, 4, generator=generator)
    labels = torch.randint(0, 4, (patches, 6, 5, 4), generator=generator)
    labels[0] = 0  # a patch without tumour
    return logits, labels


def test_edema_is_in_the_whole_tumour_and_never_in_the_core():
    assert region_targets(row(0, 1, 2, 3)).flatten(2)[0].tolist() == [
        [0, 1, 1, 1],  # WT: necrosis, edema, enhancing
        [0, 1, 0, 1],  # TC: without the edema
        [0, 0, 0, 1],  # ET
    ]


def test_undecided_regions_cost_the_fraction_on_paper():
    # four voxels, every probability 1/2, the last one ET and so in all three regions, eps 1:
    # Dice of each (2 * 1/2 + 1) / (2 + 1 + 1) = 1/2 ; BCE = ln 2
    logits, labels = torch.zeros(1, 3, 1, 1, 4), row(0, 0, 0, 3)
    assert loss_of("dice", "regions")(logits, labels).item() == pytest.approx(1 / 2)
    both = loss_of("dice_bce", "regions", dice_weight=3, other_weight=2)(logits, labels)
    assert both.item() == pytest.approx(3 / 2 + 2 * math.log(2))


def test_tversky_charges_inventing_and_missing_by_their_own_prices():
    # truth 0 0 0 1, all 1/2: TP 1/2, FP 3/2, FN 1/2, prices .3 and .7, eps 1
    expected = 1 - (1 + 1) / (1 + 2 * Fraction(3, 10) * Fraction(3, 2) + Fraction(7, 10) + 1)
    logits = torch.zeros(1, 2, 1, 1, 4)
    assert expected == Fraction(4, 9)
    assert loss_of("tversky", "labels")(logits, row(0, 0, 0, 1)).item() == pytest.approx(4 / 9)
    other_way = loss_of("tversky", "labels", tversky_alpha=0.7, tversky_beta=0.3)
    expected = 1 - 2 / (1 + Fraction(7, 10) * 3 + Fraction(3, 10) + 1)
    assert other_way(logits, row(0, 0, 0, 1)).item() == pytest.approx(float(expected))


@pytest.mark.parametrize("targets", ["labels", "regions"])
def test_tversky_of_equal_prices_is_dice(targets):
    logits, labels = guess(targets, 3)
    halves = loss_of("tversky", targets, tversky_alpha=0.5, tversky_beta=0.5)(logits, labels)
    assert halves.item() == pytest.approx(loss_of("dice", targets)(logits, labels).item())


def test_generalised_dice_weighs_a_class_by_its_volume_squared():
    # truth 0 1 2 2, three classes of 1/3: weights 1 and (1/2)^2, one fraction of both, eps 1
    agreed = Fraction(1, 3) + Fraction(1, 4) * Fraction(2, 3)
    total = (Fraction(4, 3) + 1) + Fraction(1, 4) * (Fraction(4, 3) + 2)
    expected = 1 - (2 * agreed + 1) / (total + 1)
    assert expected == Fraction(13, 25)
    loss = loss_of("generalised_dice", "labels")(torch.zeros(1, 3, 1, 1, 4), row(0, 1, 2, 2))
    assert loss.item() == pytest.approx(13 / 25)


def test_focal_counts_an_undecided_voxel_by_its_doubt():
    alone = {"dice_weight": 0, "focal_gamma": 2}
    loss = loss_of("dice_focal", "labels", **alone)(torch.zeros(1, 4, 1, 1, 4), row(0, 1, 2, 3))
    assert loss.item() == pytest.approx((3 / 4) ** 2 * math.log(4))
    loss = loss_of("dice_focal", "regions", **alone)(torch.zeros(1, 3, 1, 1, 4), row(0, 1, 2, 3))
    assert loss.item() == pytest.approx((1 / 2) ** 2 * math.log(2))


@pytest.mark.parametrize(("targets", "other"), [("labels", "ce"), ("regions", "bce")])
def test_focal_without_a_power_is_cross_entropy(targets, other):
    logits, labels = guess(targets, 2)
    focal = loss_of("dice_focal", targets, focal_gamma=0, include_absent=False)(logits, labels)
    assert focal.item() == pytest.approx(loss_of(f"dice_{other}", targets)(logits, labels).item())


def test_where_only_dice_judges_a_class_absent_from_the_patch_is_judged_too():
    # no tumour, four voxels of 1/2 in each region: eps / (P + eps) = 1 / 3
    logits, labels = torch.zeros(1, 3, 1, 1, 4, requires_grad=True), row(0, 0, 0, 0)
    loss = loss_of("dice", "regions")(logits, labels)
    assert loss.item() == pytest.approx(2 / 3)
    loss.backward()
    assert (logits.grad > 0).all()
    assert loss_of("dice", "regions", include_absent=False)(logits, labels).item() == 0
    beside = loss_of("dice_bce", "regions")(logits, labels)  # BCE sees it: no Dice term
    assert beside.item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("overlap", ["dice", "generalised_dice", "tversky"])
def test_a_patch_without_tumour_has_no_overlap_where_voxels_are_judged(overlap):
    logits, labels = torch.randn(1, 3, 4, 4, 4), torch.zeros(1, 4, 4, 4, dtype=torch.long)
    expected = torch.nn.functional.softplus(logits).mean()  # BCE of "no" everywhere
    loss = loss_of(f"{overlap}_bce", "regions")(logits, labels)
    assert loss.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(("name", "targets"), FITTING)
def test_a_perfect_and_certain_answer_costs_nothing(name, targets):
    for labels in (LABELS, torch.zeros_like(LABELS), torch.full_like(LABELS, 3)):
        assert loss_of(name, targets)(certain(labels, targets), labels).item() == pytest.approx(
            0, abs=1e-5
        )


@pytest.mark.parametrize(("name", "targets"), FITTING)
@pytest.mark.parametrize("mistake", [(1, 2), (1, 3), (2, 3), (0, 2)])
def test_taking_one_tissue_for_another_costs(name, targets, mistake):
    swapped = LABELS.clone()
    swapped[mistake[0] == LABELS], swapped[mistake[1] == LABELS] = mistake[1], mistake[0]
    assert loss_of(name, targets)(certain(LABELS, targets), swapped) > 0.05


@pytest.mark.parametrize(("name", "targets"), FITTING)
def test_the_loss_of_a_batch_is_the_mean_of_its_patches_in_any_order(name, targets):
    logits, labels = guess(targets, 4)
    loss = loss_of(name, targets)
    parts = [loss(logits[[at]], labels[[at]]).item() for at in range(4)]
    order = torch.tensor([2, 0, 3, 1])
    assert loss(logits, labels).item() == pytest.approx(sum(parts) / 4, rel=1e-5)
    assert loss(logits[order], labels[order]).item() == pytest.approx(sum(parts) / 4, rel=1e-5)


@pytest.mark.parametrize(("name", "targets"), FITTING)
def test_it_is_better_to_lean_towards_the_truth(name, targets):
    _, labels = guess(targets, 2)
    steps = [loss_of(name, targets)(certain(labels, targets) * s, labels) for s in (0, 0.02, 0.1)]
    assert steps[0] > steps[1] > steps[2]


@pytest.mark.parametrize(("name", "targets"), FITTING)
@pytest.mark.parametrize(
    ("dtype", "largest"), [(torch.float16, 65504), (torch.bfloat16, 1e30), (torch.float32, 1e30)]
)
def test_extreme_logits_have_finite_gradients(name, targets, dtype, largest):
    logits, labels = guess(targets, 2)
    logits = (logits.sign() * largest).to(dtype).requires_grad_()
    torch.use_deterministic_algorithms(True)
    loss = loss_of(name, targets)(logits, labels)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(("name", "targets"), FITTING)
def test_logits_that_overflowed_are_not_hidden(name, targets):
    logits, labels = guess(targets, 1)
    logits[0, 0, 0, 0, 0] = math.nan
    assert not torch.isfinite(loss_of(name, targets)(logits, labels))


@pytest.mark.parametrize("name", ["dice", "generalised_dice", "tversky"])
def test_sums_beyond_65504_voxels_are_right_from_fp16_logits(name):
    labels = torch.full((1, 48, 48, 48), 3)  # 110,592 voxels: infinite in fp16
    loss = loss_of(name, "regions")(certain(labels, "regions").half(), labels)
    assert loss.item() == pytest.approx(0, abs=1e-5)


@given(seed=st.integers(0, 2**16), axis=st.sampled_from([1, 2, 3]))
def test_flipping_answer_and_truth_together_changes_nothing(seed, axis):
    for name, targets in (("generalised_dice_ce", "labels"), ("tversky_bce", "regions")):
        logits, labels = guess(targets, 2, seed)
        loss = loss_of(name, targets)
        flipped = loss(logits.flip(axis + 1), labels.flip(axis))
        assert flipped.item() == pytest.approx(loss(logits, labels).item(), rel=1e-5)


def test_the_default_loss_is_dice_and_cross_entropy():
    logits, labels = guess("labels", 2)
    assert torch.equal(make_loss(Recipe(name="a"))(logits, labels), dice_ce_loss(logits, labels))


def test_deep_answers_weigh_by_halves_and_see_every_second_voxel():
    logits, labels = torch.randn(1, 4, 4, 4, 4), torch.randint(0, 4, (1, 4, 4, 4))
    half, quarter = logits[..., ::2, ::2, ::2] * 2, logits[..., :1, :1, :1] * 3
    losses = [
        dice_ce_loss(logits, labels),
        dice_ce_loss(half, labels[:, ::2, ::2, ::2]),
        dice_ce_loss(quarter, labels[:, :1, :1, :1]),
    ]
    expected = (losses[0] + losses[1] / 2 + losses[2] / 4) / 1.75
    deep = deep_supervised(dice_ce_loss)
    assert deep((logits, half, quarter), labels).item() == pytest.approx(expected.item())
    assert torch.equal(deep(logits, labels), losses[0])
    assert torch.equal(deep((logits,), labels), losses[0])


def test_deep_answers_that_do_not_divide_the_patch_are_refused():
    labels = torch.zeros(1, 4, 4, 4, dtype=torch.long)
    with pytest.raises(ValueError, match=r"must divide \(4, 4, 4\).*got \(3, 4, 4\)"):
        make_loss(Recipe(name="a"))((torch.zeros(1, 4, 3, 4, 4),), labels)


def test_a_loss_travels_to_another_process():
    logits, labels = guess("regions", 2)
    loss = loss_of("dice_bce", "regions")
    assert torch.equal(pickle.loads(pickle.dumps(loss))(logits, labels), loss(logits, labels))


def test_four_channels_are_no_regions():
    labels = torch.zeros(1, 2, 2, 2, dtype=torch.long)
    with pytest.raises(ValueError, match=r"with L = 3, one a region; .*\(1, 4, 2, 2, 2\)"):
        loss_of("dice", "regions")(torch.zeros(1, 4, 2, 2, 2), labels)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"name": "jaccard"}, r"loss\.name must be one of .*'dice_ce'.*got 'jaccard'"),
        ({"dice_weight": -1.0}, r"loss\.dice_weight must be at least 0; got -1\.0"),
        ({"name": "dice", "dice_weight": 0}, "'dice' must weigh something"),
        ({"focal_gamma": 0.5}, r"focal_gamma must be 0 or at least 1; got 0\.5\. Try 2"),
        ({"eps_vox": 0}, r"eps_vox must be positive; got 0\. Try 1"),
        ({"tversky_alpha": 0, "tversky_beta": 0}, "must not both be 0"),
    ],
)
def test_a_loss_that_cannot_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        LossSettings(**settings)


@pytest.mark.parametrize(("name", "targets"), [("dice_ce", "regions"), ("tversky_bce", "labels")])
def test_the_cross_entropy_of_the_other_targets_is_refused(name, targets):
    with pytest.raises(ValueError, match=rf"for targets '{targets}'; got '{name}'\. Try Loss"):
        Recipe(name="a", targets=targets, loss=LossSettings(name=name))
    with pytest.raises(ValueError, match="Try LossSettings"):
        measure_loss(*guess(targets, 1), settings=LossSettings(name=name), targets=targets)


def test_absent_classes_count_where_nothing_else_judges_unless_told():
    assert LossSettings(name="dice").counts_absent
    assert LossSettings(name="dice_ce", other_weight=0).counts_absent
    assert not LossSettings(name="dice_ce").counts_absent
    assert replace(LossSettings(name="dice_ce"), include_absent=True).counts_absent
