"""Hold which network is built, and how wide."""

from dataclasses import dataclass
from typing import Literal

from bratskit.settings.checks import check

__all__ = ["NetworkSettings"]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network, and how wide.

    Attributes:
        name: Name known to `bratskit.networks.build_network`.
        channels: Feature channels of each level, the last being the bottleneck.
        norm: Normalisation layer after each convolution.
        dropout: Probability of dropping a feature channel in the bottleneck.
    """

    name: str = "unet"
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: Literal["instance", "batch"] = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check(
            len(self.channels) >= 2,
            f"channels must name at least two levels; got {self.channels}. Try (16, 32, 64).",
        )
        check(0 <= self.dropout < 1, f"dropout must be in [0, 1); got {self.dropout}. Try 0.2.")

    @property
    def multiple_vox(self) -> int:
        """Patch and window sizes must be multiples of this many voxels."""
        return 2 ** (len(self.channels) - 1)
