"""Draw the 3D U-Net in code: a path down, a path up, bridges between; it knows no training."""

import itertools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from bratskit.networks.blocks import (
    NEGATIVE_SLOPE,
    AttentionGate,
    TransposedConvolution,
    make_block,
    refuse_misfit,
    run_again_in_backward,
)

__all__ = ["UNet"]


class UNet(nn.Module):
    """Label each voxel from what surrounds it at several scales.

    The encoder halves the grid from level to level and widens the channels; the decoder doubles the
    grid again and is handed, at each level, the encoder's features of the same size (the skip), so
    that what a tissue is and where exactly it ends meet in one place.

    Each operation has a deterministic form, also on a GPU: strided convolutions instead of max
    pooling on the way down, transposed convolutions instead of trilinear upsampling on the way up.

    Args:
        in_channels: Modalities of the image.
        out_channels: Classes to tell apart, the background among them.
        channels: Feature channels of each level, the last being the bottleneck.
        norm: "batch" answers for a whole head as it does for a patch, because its statistics are
            fixed after training; "instance" and "group" recompute them on every window.
        dropout: Probability of dropping a whole feature channel.
        dropout_at: Drop after the "bottleneck" only, or after all "levels" of both paths.
        block: What a level is made of: "plain", "residual" or "dense".
        attention: Whether gates weigh the voxels of the skips.
        deep_supervision: Whether a network in training mode returns a tuple: the logits, then those
            of each coarser decoder level, on its own grid.
        checkpointing: Whether levels are computed again in the backward pass instead of kept.

    Raises:
        ValueError: Fewer than two levels (three with `deep_supervision`), an unknown norm, block
            or place of dropout.

    Examples:
        >>> network = UNet(4, 4, channels=(4, 8, 16), deep_supervision=True)
        >>> network.multiple_vox
        4
        >>> [tuple(logits.shape[2:]) for logits in network(torch.zeros(1, 4, 8, 12, 16))]
        [(8, 12, 16), (4, 6, 8)]
        >>> network.eval()(torch.zeros(1, 4, 8, 12, 16)).shape
        torch.Size([1, 4, 8, 12, 16])

    Source:
        Çiçek et al. (2016), 3D U-Net, MICCAI; strided convolutions, LeakyReLU and deep supervision
        as in Isensee et al. (2021), Nature Methods 18:203-211.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        norm: str = "batch",
        dropout: float = 0.0,
        dropout_at: str = "bottleneck",
        block: str = "plain",
        attention: bool = False,
        deep_supervision: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        _refuse_options(channels, dropout_at, deep_supervision)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.multiple_vox = 2 ** (len(channels) - 1)
        self.needs_two = norm == "instance"
        self.dropout_at = dropout_at
        self.checkpointing = checkpointing
        widths = list(itertools.pairwise(channels))
        self.stem = make_block(block, in_channels, channels[0], norm=norm)
        self.down = nn.ModuleList(
            make_block(block, shallow, deep, norm=norm, stride=2) for shallow, deep in widths
        )
        self.dropout = nn.Dropout3d(dropout)
        self.up = nn.ModuleList(
            TransposedConvolution(deep, shallow, kernel_size=2, stride=2)
            for shallow, deep in widths
        )
        self.merge = nn.ModuleList(
            make_block(block, 2 * shallow, shallow, norm=norm) for shallow, _ in widths
        )
        self.head = nn.Conv3d(channels[0], out_channels, kernel_size=1)
        gated = channels[:-1] if attention else ()
        self.gates = nn.ModuleList(AttentionGate(width, norm=norm) for width in gated)
        supervised = channels[1:-1] if deep_supervision else ()
        self.coarse_heads = nn.ModuleList(
            nn.Conv3d(width, out_channels, kernel_size=1) for width in supervised
        )
        self.apply(_initialise)

    def forward(
        self, image: Float[Tensor, "b c i j k"]
    ) -> Float[Tensor, "b l i j k"] | tuple[Tensor, ...]:
        """Return one logit a class and voxel.

        Args:
            image: Z-scored intensities `(B, C, I, J, K)`, sizes multiples of `multiple_vox`.

        Returns:
            Logits `(B, out_channels, I, J, K)`; the softmax over axis 1 is the caller's. In
            training mode with deep supervision a tuple, from this size to the coarsest.

        Raises:
            ValueError: Wrong number of channels, or a size the levels cannot halve.
        """
        refuse_misfit(
            image,
            in_channels=self.in_channels,
            multiple_vox=self.multiple_vox,
            needs_two=self.needs_two,
        )
        features, skips = image, []
        for level in range(len(self.down) + 1):
            features = self._call(self._go_down, features, level)
            skips.append(features)
        skips.pop()
        coarse = []
        for level in reversed(range(len(self.up))):
            features = self._call(self._go_up, features, skips.pop(), level)
            if self.training and 0 < level <= len(self.coarse_heads):
                coarse.append(self.coarse_heads[level - 1](features))
        logits = self.head(features)
        return (logits, *reversed(coarse)) if coarse else logits

    def _go_down(self, features: Tensor, level: int) -> Tensor:
        features = self.down[level - 1](features) if level else self.stem(features)
        return self._drop(features) if level < len(self.down) else self.dropout(features)

    def _go_up(self, features: Tensor, skip: Tensor, level: int) -> Tensor:
        return self._drop(self.merge[level](self._join(features, skip, level)))

    def _join(self, features: Tensor, skip: Tensor, level: int) -> Tensor:
        features = self.up[level](features)
        if self.gates:
            skip = self.gates[level](skip, features)
        return torch.cat([skip, features], dim=1)

    def _drop(self, features: Tensor) -> Tensor:
        return self.dropout(features) if self.dropout_at == "levels" else features

    def _call(self, part: Callable[..., Tensor], *inputs: object) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return run_again_in_backward(part, *inputs, owner=self)
        return part(*inputs)


def _refuse_options(channels: Sequence[int], dropout_at: str, deep_supervision: bool) -> None:
    fewest = 3 if deep_supervision else 2
    if len(channels) < fewest:
        number = {2: "two levels", 3: "three levels for deep supervision"}[fewest]
        msg = f"channels must name at least {number}; got {channels}. Try (16, 32, 64)."
        raise ValueError(msg)
    if dropout_at not in ("bottleneck", "levels"):
        msg = f"dropout_at must be 'bottleneck' or 'levels'; got {dropout_at!r}."
        raise ValueError(msg)


def _initialise(layer: nn.Module) -> None:
    """Keep the variance of the features from layer to layer (He et al. 2015, equation 15)."""
    if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(layer.weight, a=NEGATIVE_SLOPE)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
