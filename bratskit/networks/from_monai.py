"""Take four of MONAI's networks behind our own call; what they compute is MONAI's alone.

Where MONAI offers a choice, the operation that has a deterministic form on a GPU is taken:
transposed convolutions instead of trilinear upsampling in SegResNet, and DynUNet's coarse answers
as they are instead of resized. Swin UNETR looks its position biases up by index, whose backward
pass is deterministic only where torch is told so (`train(..., deterministic=True)` does).
"""

import importlib
import math
from collections.abc import Sequence
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bratskit.networks.blocks import MOST_GROUPS, Convolution, refuse_misfit
from bratskit.settings import NetworkSettings

__all__ = [
    "FromMonai",
    "SupervisedDynUNet",
    "build_dynunet",
    "build_segresnet",
    "build_swin_unetr",
    "build_unetr",
]

HEAD_CHANNELS = 64  # of one attention head: 768 over 12 heads, ViT-B, Dosovitskiy et al. (2021)


class FromMonai(nn.Module):
    """Give a network of MONAI the door that ours has: sizes are refused with the nearest that fit.

    Args:
        network: From images to logits.
        in_channels: Modalities of the image.
        multiple_vox: Sizes must be multiples of this.
        size_vox: The one size that it takes; None takes any multiple.
        needs_two: Whether its deepest level must hold two voxels.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        in_channels: int,
        multiple_vox: int,
        size_vox: tuple[int, int, int] | None = None,
        needs_two: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.in_channels = in_channels
        self.multiple_vox = multiple_vox
        self.size_vox = size_vox
        self.needs_two = needs_two

    def forward(
        self, image: Float[Tensor, "b c i j k"]
    ) -> Float[Tensor, "b l i j k"] | tuple[Tensor, ...]:
        """Return one logit a class and voxel.

        Raises:
            ValueError: Wrong number of channels, or a size that does not fit.
        """
        refuse_misfit(
            image,
            in_channels=self.in_channels,
            multiple_vox=self.multiple_vox,
            size_vox=self.size_vox,
            needs_two=self.needs_two,
        )
        return self._answer(image)

    def _answer(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.network(image)


class SupervisedDynUNet(FromMonai):
    """Return DynUNet's coarse answers as ours are: a tuple, each on its own grid, in training only.

    MONAI resizes them to the full grid and stacks them, which costs memory and compares every
    coarse answer with labels that it cannot resolve.
    """

    def _answer(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        net = self.network
        logits = net.output_block(net.skip_layers(image))
        coarse = list(net.heads)
        # MONAI leaves them in the network: the graph would live on, and a copy could not be made.
        net.heads[:] = [torch.zeros(1)] * len(coarse)
        return (logits, *coarse) if self.training else logits


def build_segresnet(
    settings: NetworkSettings,
    in_channels: int,
    out_channels: int,
    size_vox: Sequence[int] | None = None,
) -> nn.Module:
    """Build MONAI's SegResNet: residual blocks, 1, 2, 2, ..., 4 on the way down and 1 each up.

    Source:
        Myronenko (2018), arXiv:1810.11654, table 1, without the autoencoder; first of BraTS 2018.
    """
    levels = len(settings.channels)
    network = _nets().SegResNet(
        in_channels=in_channels,
        out_channels=out_channels,
        init_filters=settings.channels[0],
        norm=_norm(settings, affine=True),
        dropout_prob=settings.dropout or None,
        blocks_down=(1, *[2] * (levels - 2), 4),
        blocks_up=(1,) * (levels - 1),
        upsample_mode="deconv",
    )
    return _open_door(network, settings, in_channels)


def build_swin_unetr(
    settings: NetworkSettings,
    in_channels: int,
    out_channels: int,
    size_vox: Sequence[int] | None = None,
) -> nn.Module:
    """Build MONAI's Swin UNETR: windows of 7 tokens, two blocks a stage, 3, 6, 12 and 24 heads.

    Source:
        Hatamizadeh et al. (2022), arXiv:2201.01266, section 3 (its `channels` begin with 48).
    """
    network = _nets().SwinUNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        feature_size=settings.channels[0],
        norm_name=_norm(settings, affine=False),
        drop_rate=settings.dropout,
        use_checkpoint=settings.checkpointing,
    )
    return _open_door(network, settings, in_channels)


def build_unetr(
    settings: NetworkSettings,
    in_channels: int,
    out_channels: int,
    size_vox: Sequence[int] | None = None,
) -> nn.Module:
    """Build MONAI's UNETR for images of one size: the place of each token is learned.

    The transformer has 12 blocks of `channels[-1]` features, heads of 64 and four times that in
    between; the decoder's width at the full grid is `channels[0]`.

    Raises:
        ValueError: `size_vox` is missing, or no multiple of 16.

    Source:
        Hatamizadeh et al. (2022), UNETR, WACV, section 3.2 (its `channels`: 16, 32, 64, 128, 768).
    """
    size = None if size_vox is None else tuple(size_vox)
    if size is None or len(size) != 3 or any(length < 16 or length % 16 for length in size):
        msg = (
            f"size_vox must be three multiples of 16 for unetr; got {size}. It takes images of one "
            "size: give that of the training patches, for example (96, 96, 96)."
        )
        raise ValueError(msg)
    hidden = settings.channels[-1]
    network = _nets().UNETR(
        in_channels=in_channels,
        out_channels=out_channels,
        img_size=size,
        feature_size=settings.channels[0],
        hidden_size=hidden,
        mlp_dim=4 * hidden,
        num_heads=hidden // HEAD_CHANNELS,
        norm_name=_norm(settings, affine=False),
        dropout_rate=settings.dropout,
    )
    for name, weights in network.named_parameters():
        if "cross_attn" in name:  # MONAI makes them and never calls them: DistributedDataParallel
            weights.requires_grad_(False)  # would wait for their gradients for ever
    return _open_door(network, settings, in_channels, size_vox=size)


def build_dynunet(
    settings: NetworkSettings,
    in_channels: int,
    out_channels: int,
    size_vox: Sequence[int] | None = None,
) -> nn.Module:
    """Build MONAI's DynUNet with kernels of 3 and strides of 2 at every level.

    `dropout` comes after every convolution, that of the logits included: so MONAI has it.

    Source:
        Isensee et al. (2021), Nature Methods 18:203-211; Futrega et al. (2021), arXiv:2110.03352.
    """
    levels = len(settings.channels)
    network = _nets().DynUNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel_size=[3] * levels,
        strides=[1, *[2] * (levels - 1)],
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(settings.channels),
        dropout=settings.dropout or None,
        norm_name=_norm(settings, affine=True),
        deep_supervision=settings.deep_supervision,
        deep_supr_num=max(1, levels - 2),
        res_block=settings.block == "residual",
    )
    return _open_door(network, settings, in_channels)


def _nets() -> ModuleType:
    """Import MONAI's networks, which takes seconds, only when one is asked for."""
    try:
        importlib.import_module("einops")  # Swin UNETR fails late and unclear without it
        return importlib.import_module("monai.networks.nets")
    except ModuleNotFoundError as error:
        msg = (
            f"this network needs MONAI; got no module {error.name!r}. "
            'Install it with `pip install "bratskit[monai]"`, or take our own network, "unet".'
        )
        raise RuntimeError(msg) from error


def _norm(settings: NetworkSettings, *, affine: bool) -> tuple[str, dict[str, object]]:
    """Name a norm in MONAI's words; its transformers' instance norms have no scale."""
    if settings.norm == "group":
        return "group", {"num_groups": math.gcd(MOST_GROUPS, *settings.channels)}
    return settings.norm, {"affine": affine or settings.norm == "batch"}


def _open_door(
    network: nn.Module,
    settings: NetworkSettings,
    in_channels: int,
    *,
    size_vox: tuple[int, int, int] | None = None,
) -> FromMonai:
    for layer in network.modules():
        if type(layer) is nn.Conv3d:  # the same weights by the same names
            layer.__class__ = Convolution
    door = SupervisedDynUNet if settings.deep_supervision else FromMonai
    return door(
        network,
        in_channels=in_channels,
        multiple_vox=settings.multiple_vox,
        size_vox=size_vox,
        needs_two=settings.norm == "instance" and size_vox is None,
    )
