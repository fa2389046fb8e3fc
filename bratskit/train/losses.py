"""Measure how far logits are from labels: Dice plus cross-entropy, always in fp32."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["dice_ce_loss"]

EPS_VOX = 1.0  # softens 2PT/(P+T) where a class covers a handful of voxels; see dice_ce_loss


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
    _refuse_mismatch(logits, labels)
    log_probs = torch.log_softmax(logits.float(), dim=1)
    truth = _one_hot(labels, classes=logits.shape[1])
    # a product with the one-hot truth, because nll_loss has no deterministic form on CUDA
    cross_entropy = -(log_probs * truth).sum() / labels.numel()
    return _soft_dice_loss(log_probs[:, 1:].exp(), truth[:, 1:], eps_vox) + cross_entropy


def _soft_dice_loss(probs: Tensor, truth: Tensor, eps_vox: float) -> Tensor:
    overlap = (probs * truth).flatten(2).sum(-1)
    truth_vox = truth.flatten(2).sum(-1)
    dice = (2 * overlap + eps_vox) / (probs.flatten(2).sum(-1) + truth_vox + eps_vox)
    return ((1 - dice) * (truth_vox > 0)).mean()


def _one_hot(labels: Tensor, *, classes: int) -> Tensor:
    numbers = torch.arange(classes, device=labels.device).view(1, -1, 1, 1, 1)
    return (labels.unsqueeze(1) == numbers).float()


def _refuse_mismatch(logits: Tensor, labels: Tensor) -> None:
    if labels.is_floating_point() or labels.dtype == torch.bool:
        msg = f"labels must hold integers; got {labels.dtype}. Pass labels.long(), not a mask."
        raise TypeError(msg)
    expected = (logits.shape[0], *logits.shape[2:])
    if logits.ndim == 5 and logits.shape[1] >= 2 and tuple(labels.shape) == expected:
        return
    msg = (
        "labels must be (B, I, J, K) for logits (B, L, I, J, K) with L >= 2; "
        f"got labels {tuple(labels.shape)} and logits {tuple(logits.shape)}. "
        "Drop a channel axis with labels[:, 0]."
    )
    raise ValueError(msg)
