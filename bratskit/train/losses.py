"""Measure how far logits are from labels, by the loss a recipe names; always in fp32."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from bratskit.labels import REGIONS
from bratskit.settings import LossSettings, Recipe, Targets
from bratskit.train import loss_terms as terms

__all__ = [
    "EPS_VOX",
    "Loss",
    "deep_supervised",
    "dice_ce_loss",
    "make_loss",
    "measure_loss",
    "region_targets",
]

EPS_VOX = 1.0  # softens 2PT/(P+T) where a class covers a handful of voxels; see dice_ce_loss

Loss: TypeAlias = Callable[[Tensor | Sequence[Tensor], Tensor], Tensor]


def make_loss(recipe: Recipe) -> Loss:
    """Return the loss of a recipe, a function of logits and internal labels.

    Args:
        recipe: Its `loss` and `targets` count.

    Returns:
        A function of the logits `(B, recipe.out_channels, I, J, K)`, or of several of them as
        `deep_supervised` takes them, and of internal labels `(B, I, J, K)`. It can be pickled.

    Examples:
        >>> loss = make_loss(Recipe(name="a"))
        >>> loss(torch.zeros(1, 4, 2, 2, 2), torch.zeros(1, 2, 2, 2, dtype=torch.long)).item()
        1.3862943649291992
    """
    return deep_supervised(partial(measure_loss, settings=recipe.loss, targets=recipe.targets))


def measure_loss(
    logits: Float[Tensor, "b c i j k"],
    labels: Int[Tensor, "b i j k"],
    *,
    settings: LossSettings,
    targets: Targets = "labels",
) -> Float[Tensor, ""]:
    r"""Add the overlap of whole patches and the cost of each voxel, as the settings weigh them.

    * **Every term is a mean over patches.** The loss of a batch is then the mean of the losses of
      its parts, so that four accumulated batches of one equal one batch of four.
    * **The background has no overlap of its own**: the tumour classes, or the regions, have.
    * **A class absent from a patch** has an overlap only where `settings.counts_absent`; see
      `dice_ce_loss` for what speaks against it, and `LossSettings` for where nothing else is left.

    Args:
        logits: Scores before softmax (labels, background first) or sigmoid (regions, in the order
            of `REGIONS`), any float type. Cast to fp32 first: in fp16 a mask sum over 65,504
            voxels is already infinite.
        labels: Internal labels, integers; regions are made from them here.
        settings: Which loss.
        targets: What the logits answer.

    Returns:
        A scalar in fp32; about 0 for a perfect and certain prediction.

    Raises:
        ValueError: The shapes do not belong together; broadcasting would hide it.
        TypeError: `labels` does not hold integers.
    """
    settings.refuse_misfit(targets)
    _refuse_mismatch(logits, labels, targets)
    scores = logits.float().contiguous()
    if targets == "regions":
        truth = region_targets(labels)
        probs, counted = scores.sigmoid(), truth
    else:
        scores = torch.log_softmax(scores, dim=1)
        truth = _one_hot(labels, classes=logits.shape[1])
        probs, counted = scores[:, 1:].exp(), truth[:, 1:]
    loss = settings.dice_weight * _overlap(probs, counted, settings)
    if settings.other == "none":
        return loss
    return loss + settings.other_weight * _voxel_cost(scores, truth, settings, targets)


def dice_ce_loss(
    logits: Float[Tensor, "b l i j k"],
    labels: Int[Tensor, "b i j k"],
    *,
    eps_vox: float = EPS_VOX,
) -> Float[Tensor, ""]:
    r"""Add soft Dice of the tumour classes to the cross-entropy of all classes.

    $$\frac{1}{BC}\sum_{b}\sum_{c>0,\;T_{bc}>0}
      \Big(1-\frac{2\sum p_{bc}t_{bc}+\epsilon}{P_{bc}+T_{bc}+\epsilon}\Big) + \mathrm{CE}$$

    Two choices are worth knowing:

    * **Dice is taken per patch, then averaged.** The loss of a batch is then exactly the mean of
      the losses of its parts, so that four accumulated batches of one equal one batch of four.
    * **A class absent from a patch has no Dice term.** Its Dice would be `eps / (P + eps)`. With
      a tiny eps that reads 0 whatever is predicted, without a gradient: the term only shifts the
      loss. With an eps of a voxel its slope `eps / (P + eps)**2` vanishes while much is invented
      and grows to 1 a voxel as P nears 0, against `1 / N` from cross-entropy: a 64^3 patch
      without enhancing tumour would then press every last doubt to 0, 87,000 times (N / 3) as
      hard as cross-entropy does. Left to cross-entropy, invented tumour costs evenly.

    Args:
        logits: Scores `(B, L, I, J, K)` before softmax, any float type; class 0 is background.
            Cast to fp32 first: in fp16 a mask sum over 65,504 voxels is already infinite.
        labels: Internal labels `(B, I, J, K)`, integers in `0..L-1`.
        eps_vox: Softening of the Dice ratio, voxels. It is added to both sides, so that a perfect
            prediction still scores 1.

    Returns:
        A scalar in fp32; 0 for a perfect and certain prediction, for patches without tumour too.

    Raises:
        ValueError: The shapes do not belong together; broadcasting would hide it.
        TypeError: `labels` does not hold integers.

    Examples:
        >>> labels = torch.tensor([[[[0, 1]]]])
        >>> certain = torch.tensor([[[[[99.0, -99.0]]], [[[-99.0, 99.0]]]]])
        >>> round(dice_ce_loss(certain, labels).item(), 6)
        0.0

    Source:
        Milletari et al. (2016), V-Net, equation in section 3; Isensee et al. (2021), nnU-Net.
    """
    return measure_loss(logits, labels, settings=LossSettings(name="dice_ce", eps_vox=eps_vox))


def deep_supervised(loss: Loss) -> Loss:
    """Let a loss take the answers of several decoder levels, the finer ones weighing more.

    A tuple of logits, the full size first, costs the mean of their losses with weights 1, 1/2,
    1/4 and so on, divided by their sum. Labels are thinned to each size by taking every second,
    fourth, ... voxel. One tensor costs what it costs without deep supervision.

    Raises:
        ValueError: A size does not divide that of the labels.

    Source:
        Isensee et al. (2021), Nature Methods 18:203-211, training.
    """
    return partial(_weigh_levels, loss)


def region_targets(labels: Int[Tensor, "b i j k"]) -> Float[Tensor, "b r i j k"]:
    """Say of each voxel whether it lies in WT, in TC, in ET: 1 or 0, in the order of `REGIONS`.

    Examples:
        >>> region_targets(torch.tensor([[[[0, 1, 2, 3]]]])).flatten(2)[0].int().tolist()
        [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 1]]
    """
    masks = [sum((labels == value) for value in values) for values in REGIONS.values()]
    return torch.stack(masks, dim=1).float()


def _weigh_levels(loss: Loss, logits: Tensor | Sequence[Tensor], labels: Tensor) -> Tensor:
    if isinstance(logits, Tensor):
        return loss(logits, labels)
    weights = [0.5**level for level in range(len(logits))]
    losses = [loss(level, _thin(labels, tuple(level.shape[2:]))) for level in logits]
    return sum(w * value for w, value in zip(weights, losses, strict=True)) / sum(weights)


def _thin(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    full = tuple(labels.shape[1:])
    if len(size) != len(full) or any(a % b for a, b in zip(full, size, strict=True)):
        msg = f"sizes of deep logits must divide {full}, that of the labels; got {size}."
        raise ValueError(msg)
    i, j, k = (a // b for a, b in zip(full, size, strict=True))
    return labels[:, ::i, ::j, ::k]


def _overlap(probs: Tensor, truth: Tensor, settings: LossSettings) -> Tensor:
    options = {"eps_vox": settings.eps_vox, "count_absent": settings.counts_absent}
    if settings.overlap == "generalised_dice":
        return terms.generalised_dice_loss(probs, truth, **options)
    if settings.overlap == "tversky":
        options |= {"invented": settings.tversky_alpha, "missed": settings.tversky_beta}
    return terms.overlap_loss(probs, truth, **options)


def _voxel_cost(scores: Tensor, truth: Tensor, settings: LossSettings, targets: Targets) -> Tensor:
    """Judge each voxel by itself; scores are log-probabilities of labels, or logits of regions."""
    if settings.other == "ce":
        return terms.cross_entropy(scores, truth)
    if settings.other == "bce":
        return terms.binary_cross_entropy(scores, truth)
    cost = terms.focal if targets == "labels" else terms.binary_focal
    return cost(scores, truth, gamma=settings.focal_gamma)


def _one_hot(labels: Tensor, *, classes: int) -> Tensor:
    numbers = torch.arange(classes, device=labels.device).view(1, -1, 1, 1, 1)
    return (labels.unsqueeze(1) == numbers).float()


def _refuse_mismatch(logits: Tensor, labels: Tensor, targets: Targets) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        msg = f"labels must hold integers; got {labels.dtype}. Pass labels.long(), not a mask."
        raise TypeError(msg)
    expected = (logits.shape[0], *logits.shape[2:])
    is_wide = logits.ndim == 5 and logits.shape[1] >= 2
    if targets == "regions":
        is_wide = logits.ndim == 5 and logits.shape[1] == len(REGIONS)
    if is_wide and tuple(labels.shape) == expected:
        return
    channels = "L >= 2" if targets == "labels" else f"L = {len(REGIONS)}, one a region"
    msg = (
        f"labels must be (B, I, J, K) for logits (B, L, I, J, K) with {channels}; "
        f"got labels {tuple(labels.shape)} and logits {tuple(logits.shape)}. "
        "Drop a channel axis with labels[:, 0]."
    )
    raise ValueError(msg)
