"""Hold how patches are varied at random: a share and a range for each operation."""

import math
from dataclasses import dataclass, fields, replace

from bratskit.settings.checks import check, check_types

__all__ = ["AUGMENTATIONS", "AugmentationSettings"]

_RANGES = {  # beyond these nothing of the patch is left to learn from
    "rotation_deg": (0, 180),
    "zoom": (0, 0.9),
    "elastic": (0, 0.5),
    "gamma": (0, 2),
    "noise": (0, 10),
    "blur_vox": (0.1, 8),
    "low_resolution": (1, 8),
    "brightness": (0, 10),
    "contrast": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """How often each operation is applied to a patch, and how strongly at most.

    A share is the probability that a patch is varied so; 0 turns the operation off. Strengths are
    drawn uniformly, and where channels are varied each gets its own. The defaults are nnU-Net's
    operations and shares (Isensee 2021, supplement note 4), fewer and narrower: our runs are short.

    Attributes:
        flip_share: Probability of a mirror along each of `flip_axes`.
        flip_axes: Axes that may be mirrored: 0 is I (left-right), 1 is J, 2 is K.
        affine_share: Of a turn and zoom together.
        rotation_deg: Largest angle about each of the three axes. The default is 0.26 rad.
        zoom: Content grows or shrinks by at most this share.
        elastic_share: Of a smooth bending.
        elastic: Largest displacement of a knot, as a share of the distance between two. Nothing
            can fold up to 1/6, whatever is drawn: three axes, each with a slope below a third.
        elastic_knots: Knots of the bending along each axis, three more than there are spans between
            them: a patch of 128 voxels has two spans of 64 and is bent by up to 5 voxels or so.
        gamma_share: Of a bent contrast curve that keeps each channel's brain mean and spread.
        gamma: Largest logarithm of the exponent: 0.35 is 0.70 to 1.42.
        noise_share: Of Gaussian noise.
        noise: Largest standard deviation of it, in standard deviations of the brain.
        blur_share: Of a Gaussian blur, of each channel with probability 1/2.
        blur_vox: Largest sigma, voxels; the least is half of it.
        low_resolution_share: Of sampling coarsely and back, of each channel with probability 1/2.
        low_resolution: Largest size of a coarse voxel, in voxels; the least is 1.
        brightness_share: Of a shift of each channel's brain voxels.
        brightness: Largest shift, in standard deviations of the brain.
        contrast_share: Of a factor on each channel: about the brain's mean in z-scores, about
            black in an image of 0..1.
        contrast: Largest deviation of the factor from 1.
        channel_dropout_share: Of one channel set to 0, as if it had not been acquired. The only
            channel of an image is never dropped.
    """

    flip_share: float = 0.5
    flip_axes: tuple[int, ...] = (0, 1, 2)
    affine_share: float = 0.2
    rotation_deg: float = math.degrees(0.26)
    zoom: float = 0.15
    elastic_share: float = 0.0
    elastic: float = 0.16
    elastic_knots: int = 5
    gamma_share: float = 0.3
    gamma: float = 0.35
    noise_share: float = 0.15
    noise: float = 0.1
    blur_share: float = 0.0
    blur_vox: float = 1.0
    low_resolution_share: float = 0.0
    low_resolution: float = 2.0
    brightness_share: float = 1.0
    brightness: float = 0.1
    contrast_share: float = 1.0
    contrast: float = 0.1
    channel_dropout_share: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "augmentation")
        for name in (item.name for item in fields(self) if item.name.endswith("_share")):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} must be in [0, 1]; got {value}. 0 turns it off.")
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            usual = type(self).__dataclass_fields__[name].default
            check(
                least <= value <= most,
                f"{name} must be in [{least}, {most}]; got {value}. Usual: {usual:g}.",
            )
        check(
            4 <= self.elastic_knots <= 32,
            f"elastic_knots must be a whole number from 4 to 32; got {self.elastic_knots}. Try 5.",
        )
        check(
            len(set(self.flip_axes)) == len(self.flip_axes) and set(self.flip_axes) <= {0, 1, 2},
            f"flip_axes must be distinct axes of 0, 1, 2; got {self.flip_axes}. Try (0, 1, 2).",
        )


_NNUNET = AugmentationSettings(
    affine_share=0.3,  # nnU-Net turns one patch in five and zooms one in five, apart
    rotation_deg=30.0,
    zoom=0.3,  # nnU-Net: 0.7 to 1.4
    gamma=0.4,  # exponents of 0.67 to 1.49; nnU-Net: 0.7 to 1.5
    noise_share=0.1,
    blur_share=0.2,
    low_resolution_share=0.25,
    brightness_share=0.15,
    contrast_share=0.28,  # nnU-Net has two factors of 0.75 to 1.25, each for 15 % of patches
    contrast=0.25,
)

# "usual" is the default; "unet-b" has the four operations of reference pipeline B and no others;
# "nnunet" nnU-Net's ranges, made symmetric; "strong" adds bending and a lacking modality to them.
AUGMENTATIONS: dict[str, AugmentationSettings] = {
    "usual": AugmentationSettings(),
    "unet-b": AugmentationSettings(
        affine_share=0.0, elastic_share=0.3, brightness_share=0.0, contrast_share=0.0
    ),
    "nnunet": _NNUNET,
    "strong": replace(_NNUNET, elastic_share=0.2, channel_dropout_share=0.1),
}
