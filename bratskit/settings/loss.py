"""Hold what training minimises, and what a network answers: labels or regions."""

from dataclasses import dataclass
from typing import Literal

from bratskit.labels import LABELS, REGIONS
from bratskit.settings.checks import check, check_types

__all__ = ["LOSSES", "TARGET_NAMES", "LossName", "LossSettings", "Targets"]

Targets = Literal["labels", "regions"]
Overlap = Literal["dice", "generalised_dice", "tversky"]
Other = Literal["ce", "bce", "focal", "none"]
LossName = Literal[
    "dice",
    "dice_ce",
    "dice_bce",
    "dice_focal",
    "generalised_dice",
    "generalised_dice_ce",
    "generalised_dice_bce",
    "generalised_dice_focal",
    "tversky",
    "tversky_ce",
    "tversky_bce",
    "tversky_focal",
]

# What the channels of a network's answer are about, in order, for each kind of targets.
TARGET_NAMES: dict[str, tuple[str, ...]] = {
    "labels": tuple(LABELS.values()),
    "regions": tuple(REGIONS),
}

# Name of each loss -> how overlap is measured, and what judges each voxel by itself.
LOSSES: dict[str, tuple[Overlap, Other]] = {
    overlap if other == "none" else f"{overlap}_{other}": (overlap, other)
    for overlap in ("dice", "generalised_dice", "tversky")
    for other in ("none", "ce", "bce", "focal")
}
_MISFIT = {"labels": "bce", "regions": "ce"}  # softmax and sigmoid have a cross-entropy each


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What training minimises: an overlap of whole patches and, beside it, a cost of each voxel.

    Attributes:
        name: Overlap and cost. "dice", "generalised_dice" (rare classes weigh more) or "tversky"
            (inventing and missing cost differently); then "_ce" (softmax cross-entropy, targets
            "labels"), "_bce" (sigmoid, targets "regions"), "_focal" (either, easy voxels count
            less) or nothing.
        dice_weight: Factor of the overlap, whichever it is; 0 leaves the cost of voxels alone.
        other_weight: Factor of the cost of voxels; without effect where the name has none.
        focal_gamma: How much less easy voxels count: a voxel of probability p weighs (1 - p) to
            this power. 0 is cross-entropy; between 0 and 1 the gradient has no bound.
        tversky_alpha: Cost of an invented voxel, in the overlap "tversky".
        tversky_beta: Cost of a missed voxel; 0.5 and 0.5 are Dice.
        include_absent: Whether a class that a patch does not hold has an overlap of its own, which
            falls from 1 towards 0 as soon as some of it is invented. None does so only where
            nothing else would see what is invented: in a loss without a cost of voxels.
        eps_vox: Softening of the overlap, voxels, added above and below the fraction line.
    """

    name: LossName = "dice_ce"
    dice_weight: float = 1.0
    other_weight: float = 1.0
    focal_gamma: float = 2.0  # Lin et al. (2017), section 4.1
    tversky_alpha: float = 0.3  # Salehi et al. (2017), table 1: missing costs more
    tversky_beta: float = 0.7
    include_absent: bool | None = None
    eps_vox: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, "loss")
        for name in ("dice_weight", "other_weight", "tversky_alpha", "tversky_beta"):
            value = getattr(self, name)
            check(value >= 0, f"loss.{name} must be at least 0; got {value}. Try 1.0.")
        check(self.eps_vox > 0, f"loss.eps_vox must be positive; got {self.eps_vox}. Try 1.0.")
        check(
            self.dice_weight > 0 or (self.other_weight > 0 and self.other != "none"),
            f"loss {self.name!r} must weigh something; got dice_weight {self.dice_weight} and "
            f"other_weight {self.other_weight}. Try 1.0 and 1.0.",
        )
        check(
            self.focal_gamma == 0 or self.focal_gamma >= 1,
            f"loss.focal_gamma must be 0 or at least 1; got {self.focal_gamma}. Try 2.0.",
        )
        check(
            self.tversky_alpha + self.tversky_beta > 0,
            "loss.tversky_alpha and tversky_beta must not both be 0. Try 0.3 and 0.7.",
        )

    @property
    def overlap(self) -> Overlap:
        """How overlap is measured."""
        return LOSSES[self.name][0]

    @property
    def other(self) -> Other:
        """What judges each voxel by itself."""
        return LOSSES[self.name][1]

    @property
    def counts_absent(self) -> bool:
        """Whether a class that a patch does not hold has an overlap of its own."""
        if self.include_absent is None:
            return self.other == "none" or self.other_weight == 0
        return self.include_absent

    def refuse_misfit(self, targets: Targets) -> None:
        """Refuse the cross-entropy that belongs to the other kind of targets.

        Raises:
            ValueError: Names the losses that fit.
        """
        fitting = [name for name, (_, other) in LOSSES.items() if other != _MISFIT[targets]]
        check(
            self.name in fitting,
            f"loss.name must be one of {fitting} for targets {targets!r}; got {self.name!r}. "
            f"Try LossSettings(name={'dice_ce' if targets == 'labels' else 'dice_bce'!r}).",
        )
