"""Average the weights of past steps; the average answers more steadily than the latest weights."""

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    r"""Keep an exponential moving average of a network's weights, as a network of its own.

    $$\bar w_t = d_t\,\bar w_{t-1} + (1 - d_t)\,w_t, \qquad
      d_t = \min\big(d, \tfrac{1 + t}{10 + t}\big)$$

    The decay begins low, so that random weights are soon forgotten, and is a function of the step:
    a run that goes on needs nothing but the average. Running statistics of batch norm are averaged
    as weights are, because they belong to them; counters are copied.

    Args:
        network: Its weights are the first average.
        decay: Weight of the past, `d`, in (0, 1).

    Source:
        Tarvainen and Valpola (2017), Mean teachers, section 3; the low beginning is that of
        TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, network: nn.Module, *, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, step: int) -> float:
        """Return the weight of the past at a step, counted from 1.

        Examples:
            >>> average = WeightAverage(nn.Linear(1, 1), decay=0.5)
            >>> [round(average.decay_at(step), 3) for step in (1, 2, 100)]
            [0.182, 0.25, 0.5]
        """
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, *, step: int) -> None:
        """Move the average towards the weights that step `step`, counted from 1, left."""
        pairs = list(zip(_values(self.network), _values(network), strict=True))
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_(
            [mean for mean, _ in moving], [new for _, new in moving], 1 - self.decay_at(step)
        )
        for mean, new in pairs:
            if not mean.is_floating_point():
                mean.copy_(new)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights as the average, those of a checkpoint or of a network to begin from."""
        self.network.load_state_dict(weights)


def _values(network: nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
