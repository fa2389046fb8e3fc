"""Hold which network is built, how wide, and with which of the options that are known to help."""

import itertools
from dataclasses import dataclass, fields
from typing import Literal

from bratskit.settings.checks import check, check_types

__all__ = ["NetworkSettings"]

# Two networks can hold the same weights if these are equal; the other settings shape none.
_SHAPE_WEIGHTS = ("name", "channels", "norm", "block", "attention", "deep_supervision")

# What MONAI's networks read beside `name` and `channels`; our own U-Net reads every setting.
_READ_BY = {
    "segresnet": ("norm", "dropout"),
    "swin_unetr": ("norm", "dropout", "checkpointing"),
    "unetr": ("norm", "dropout"),
    "dynunet": ("norm", "dropout", "block", "deep_supervision"),
}


def _double(channels: tuple[int, ...]) -> bool:
    """Say whether each level is twice as wide as the one before."""
    return all(deep == 2 * shallow for shallow, deep in itertools.pairwise(channels))


# Which widths MONAI's architectures can have: a test, the rule in words, and usual ones.
_WIDTHS = {
    "segresnet": (_double, "double from level to level", (16, 32, 64, 128)),
    "swin_unetr": (
        lambda c: len(c) == 5 and _double(c) and c[0] % 12 == 0,
        "be five that double, the first a multiple of 12,",
        (24, 48, 96, 192, 384),
    ),
    "unetr": (
        lambda c: len(c) == 5 and _double(c[:-1]) and c[-1] % 64 == 0,
        "be four that double, then a multiple of 64,",
        (16, 32, 64, 128, 768),
    ),
    "dynunet": (lambda c: len(c) >= 3, "name at least three levels", (32, 64, 128, 256, 320, 320)),
}


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network, how wide, and with which options.

    "unet" is ours and reads all of this. Four are MONAI's (`pip install "bratskit[monai]"`), which
    read `norm`, `dropout` and what stands here; any other option is refused.

    * "segresnet": as many levels as `channels`, which double from each to the next.
    * "swin_unetr": five `channels` that double, the first a multiple of 12. Reads `checkpointing`.
    * "unetr": five `channels`; four decoder levels that double, then the width of the transformer,
      a multiple of 64. It takes images of one size: patches and windows must be alike.
    * "dynunet": nnU-Net's network. Reads `block` (plain or residual) and `deep_supervision`.

    Attributes:
        name: Name known to `bratskit.networks.build_network`.
        channels: Feature channels of each level, the last being the bottleneck.
        norm: Normalisation layer after each convolution. "group" takes up to 8 groups, less where
            8 does not divide the channels.
        dropout: Probability of dropping a feature channel where `dropout_at` says; MONAI's networks
            have places of their own for it.
        dropout_at: "bottleneck" drops after the deepest level only, "levels" after each level on
            the way down and up.
        block: What a level is made of: two convolutions ("plain"), the same with a shortcut around
            them ("residual"), or three of which each is handed what all before it found ("dense").
        attention: Whether a gate weighs each voxel of a skip by what the level below has found.
        deep_supervision: Whether the coarser decoder levels answer too in training, so that the
            loss reaches them directly.
        checkpointing: Whether features are computed again in the backward pass rather than kept:
            the same numbers and gradients, less memory, more time.
    """

    name: str = "unet"
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: Literal["instance", "batch", "group"] = "batch"
    dropout: float = 0.0
    dropout_at: Literal["bottleneck", "levels"] = "bottleneck"
    block: Literal["plain", "residual", "dense"] = "plain"
    attention: bool = False
    deep_supervision: bool = False
    checkpointing: bool = False

    def __post_init__(self) -> None:
        check_types(self, "network")
        check(
            len(self.channels) >= 2,
            f"channels must name at least two levels; got {self.channels}. Try (16, 32, 64).",
        )
        check(
            all(width >= 1 for width in self.channels),
            f"channels must be whole numbers from 1; got {self.channels}. Try (16, 32, 64).",
        )
        check(0 <= self.dropout < 1, f"dropout must be in [0, 1); got {self.dropout}. Try 0.2.")
        check(
            not self.deep_supervision or len(self.channels) >= 3,
            "channels must name at least three levels for deep_supervision, or there is no coarser "
            f"answer; got {self.channels}. Try (16, 32, 64).",
        )
        if self.name in _READ_BY:
            self._refuse_unread()
            self._refuse_channels()

    @property
    def multiple_vox(self) -> int:
        """Patch and window sizes must be multiples of this many voxels."""
        own = {"swin_unetr": 32, "unetr": 16}
        return own.get(self.name, 2 ** (len(self.channels) - 1))

    @property
    def takes_one_size(self) -> bool:
        """Say whether every image must be as large as the training patches."""
        return self.name == "unetr"

    @property
    def shape_of_weights(self) -> dict[str, object]:
        """Return the settings that must be equal for weights of one network to fit another."""
        return {name: getattr(self, name) for name in _SHAPE_WEIGHTS}

    def _refuse_unread(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            unread = item.name not in ("name", "channels", *_READ_BY[self.name])
            check(
                not unread or value == item.default,
                f"{item.name} must be {item.default!r} for {self.name}, which does not read it; "
                f"got {value!r}. Our own network, 'unet', does.",
            )

    def _refuse_channels(self) -> None:
        """Refuse widths that the architecture cannot have."""
        holds, rule, usual = _WIDTHS[self.name]
        check(
            holds(self.channels),
            f"channels must {rule} for {self.name}; got {self.channels}. Try {usual}.",
        )
        check(
            self.name != "dynunet" or self.block != "dense",
            "block must be 'plain' or 'residual' for dynunet; got 'dense'. Our 'unet' has it.",
        )
