"""Hold the terms losses are made of: overlaps of whole patches, costs of each voxel; all fp32."""

from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "Volumes",
    "binary_cross_entropy",
    "binary_focal",
    "cross_entropy",
    "focal",
    "generalised_dice_loss",
    "overlap_loss",
]

Volumes: TypeAlias = Float[Tensor, "b c i j k"]
Scalar: TypeAlias = Float[Tensor, ""]


def overlap_loss(
    probs: Volumes,
    truth: Volumes,
    *,
    eps_vox: float,
    count_absent: bool,
    invented: float = 0.5,
    missed: float = 0.5,
) -> Scalar:
    r"""Take 1 minus the Tversky overlap of each class of each patch; of halves it is Dice.

    $$1-\frac{2\,TP+\epsilon}{2\,TP+2\alpha\,FP+2\beta\,FN+\epsilon},\qquad
      TP=\sum pt,\; FP=\sum p-TP,\; FN=\sum t-TP$$

    Args:
        probs: Probabilities `(B, C, I, J, K)` of the classes that count.
        truth: 0 or 1, of the same shape.
        eps_vox: Softening, voxels.
        count_absent: Whether a class without truth in a patch counts; if not its term is 0.
        invented: Alpha, the cost of a voxel that is said to be in the class and is not.
        missed: Beta, the cost of a voxel of the class that is not said to be.

    Returns:
        The mean over patches and classes, absent classes counted in the divisor, so that the loss
        of a batch is the mean of the losses of its patches.

    Source:
        Milletari et al. (2016), V-Net, section 3; Salehi et al. (2017), arXiv 1706.05721, eq. 3.
    """
    agreed, said, real = (_voxels(x) for x in (probs * truth, probs, truth))
    total = 2 * invented * said + 2 * missed * real + 2 * (1 - invented - missed) * agreed
    loss = 1 - (2 * agreed + eps_vox) / (total + eps_vox)
    return (loss if count_absent else loss * (real > 0)).mean()


def generalised_dice_loss(
    probs: Volumes, truth: Volumes, *, eps_vox: float, count_absent: bool
) -> Scalar:
    r"""Take 1 minus one Dice of all classes, each weighed by the inverse square of its volume.

    $$1-\frac{2\sum_c w_c\sum pt+\epsilon}{\sum_c w_c\sum(p+t)+\epsilon},\qquad
      w_c=\Big(\frac{T_{\min}}{T_c}\Big)^2$$

    The weights are those of the paper times the square of the rarest class's volume, which cancels
    in the fraction: they lie in (0, 1], and eps is a number of voxels of the rarest class. In the
    paper's own scale, 1e-12 for a million voxels, an eps of 1e-5 would be most of the fraction.

    Args:
        probs: Probabilities `(B, C, I, J, K)`.
        truth: 0 or 1, of the same shape.
        eps_vox: Softening, voxels of the rarest class.
        count_absent: Whether a class without truth in a patch weighs as much as the rarest one
            there; if not it weighs nothing.

    Returns:
        The mean over patches. A patch in which nothing weighs costs 0.

    Source:
        Sudre et al. (2017), arXiv 1707.03237, section 2.1.
    """
    agreed, said, real = (_voxels(x) for x in (probs * truth, probs, truth))
    is_there = real > 0
    rarest = torch.where(is_there, real, torch.inf).amin(dim=1, keepdim=True)
    rarest = torch.where(rarest.isinf(), 1.0, rarest)  # a patch without any class
    weight = torch.where(is_there, (rarest / real.clamp_min(1)) ** 2, float(count_absent))
    ratio = (2 * (weight * agreed).sum(1) + eps_vox) / ((weight * (said + real)).sum(1) + eps_vox)
    return (1 - ratio).mean()


def cross_entropy(log_probs: Volumes, truth: Volumes) -> Scalar:
    """Average the negative log of the true class's softmax probability over patches and voxels."""
    # a product with the one-hot truth, because nll_loss has no deterministic form on CUDA
    return -(log_probs * truth).sum() / _count(truth)


def focal(log_probs: Volumes, truth: Volumes, *, gamma: float) -> Scalar:
    r"""Average $-(1-p)^\gamma \log p$ of the true class over patches and voxels.

    Source:
        Lin et al. (2017), arXiv 1708.02002, equation 4; without its class weights.
    """
    true_log = (log_probs * truth).sum(1)
    return -(_doubt(true_log, gamma) * true_log).mean()


def binary_cross_entropy(logits: Volumes, truth: Volumes) -> Scalar:
    """Average the sigmoid cross-entropy over patches, regions and voxels."""
    return F.binary_cross_entropy_with_logits(logits, truth)


def binary_focal(logits: Volumes, truth: Volumes, *, gamma: float) -> Scalar:
    r"""Average $-(1-p)^\gamma \log p$ over patches, regions and voxels; p is that of the truth.

    Source:
        Lin et al. (2017), arXiv 1708.02002, equation 4; without its class weights.
    """
    true_log = F.logsigmoid(logits * (2 * truth - 1))
    return -(_doubt(true_log, gamma) * true_log).mean()


def _doubt(true_log: Tensor, gamma: float) -> Tensor:
    """Take (1 - p) to the power gamma; expm1 keeps its digits where p is near 1."""
    return (-torch.expm1(true_log)) ** gamma


def _voxels(volumes: Tensor) -> Tensor:
    return volumes.flatten(2).sum(-1)


def _count(truth: Tensor) -> int:
    return truth.numel() // truth.shape[1]
