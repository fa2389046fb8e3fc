"""Fold probability volumes into their mean and how sure it is; it runs no network."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from bratskit.settings import Targets

__all__ = ["RunningUncertainty", "entropy_bits"]


def entropy_bits(probs: Float[Tensor, "l i j k"], targets: Targets) -> Float[Tensor, "e i j k"]:
    r"""Measure how undecided probabilities are, in bits.

    $$H = -\sum_l p_l \log_2 p_l$$

    Args:
        probs: Probabilities `(L, I, J, K)`.
        targets: What the channels are. "labels" exclude each other and have one entropy, up to 2
            bits for four of them. "regions" have one each, of being inside or outside, up to 1 bit.

    Returns:
        Entropy `(E, I, J, K)`, E being 1 for labels and L for regions.

    Examples:
        >>> entropy_bits(torch.full((4, 1, 1, 1), 0.25), "labels").item()
        2.0
    """
    probs = probs.clamp(0, 1)  # averaged windows and members may round to just above 1
    parts = torch.special.entr(probs)
    if targets == "regions":
        return (parts + torch.special.entr(1 - probs)) / math.log(2)
    return parts.sum(dim=0, keepdim=True) / math.log(2)


class RunningUncertainty:
    r"""Take members' probabilities one at a time; memory does not grow with their number.

    Three things are kept: the sum of the probabilities, the sum of their entropies, the count.

    $$\underbrace{H(\bar p)}_{\text{entropy}} =
    \underbrace{\overline{H(p_m)}}_{\text{each member is unsure}} +
    \underbrace{I}_{\text{members disagree}}$$

    Args:
        targets: What the channels are: `recipe.targets`.

    Examples:
        >>> running = RunningUncertainty("labels")
        >>> for certain in ([1.0, 0.0], [0.0, 1.0]):  # each is sure, of something else
        ...     running.add(torch.tensor(certain).reshape(2, 1, 1, 1))
        >>> running.entropy().item(), running.mutual_information().item()
        (1.0, 1.0)

    Source:
        Gal (2016), Uncertainty in deep learning, section 3.3.1; the decomposition as in Depeweg et
        al. (2018), ICML, equation 5.
    """

    def __init__(self, targets: Targets) -> None:
        self.targets = targets
        self.n_members = 0
        self._probs: Tensor | None = None
        self._entropies: Tensor | None = None

    def add(self, probs: Float[Tensor, "l i j k"]) -> None:
        """Fold one member in; the tensor that came is left as it is.

        Raises:
            ValueError: It has another shape than those before it.
        """
        entropy = entropy_bits(probs, self.targets)
        self.n_members += 1
        if self._probs is None:
            self._probs, self._entropies = probs.float().clone(), entropy
            return
        if probs.shape != self._probs.shape:
            msg = (
                f"shape of member {self.n_members} must be {tuple(self._probs.shape)}, as of those "
                f"before it; got {tuple(probs.shape)}. Do its geometry and targets agree?"
            )
            raise ValueError(msg)
        self._probs += probs
        self._entropies += entropy

    def mean(self) -> Float[Tensor, "l i j k"]:
        """Return the mean of the members' probabilities, which the labels are decided from.

        Raises:
            RuntimeError: No member was added.
        """
        if self._probs is None:
            msg = "members must be added before their mean is asked for; got none. Call add first."
            raise RuntimeError(msg)
        return self._probs / self.n_members

    def entropy(self) -> Float[Tensor, "e i j k"]:
        """Return the entropy of the mean, bits: all the uncertainty there is."""
        return entropy_bits(self.mean(), self.targets)

    def expected_entropy(self) -> Float[Tensor, "e i j k"]:
        """Return the mean of the members' entropies, bits: how unsure each is by itself."""
        self.mean()
        return self._entropies / self.n_members

    def mutual_information(self) -> Float[Tensor, "e i j k"]:
        """Return the part of the entropy that comes from members disagreeing, bits.

        Returns:
            From 0, where all say the same (always so with one member), to the entropy itself.
            Rounding below 0 is set to 0.
        """
        return (self.entropy() - self.expected_entropy()).clamp_(min=0)
