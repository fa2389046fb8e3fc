"""Draw the 3D U-Net in code: a path down, a path up, bridges between; it knows no training."""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["UNet"]

NEGATIVE_SLOPE = 0.01  # nnU-Net's LeakyReLU, Isensee et al. (2021), methods


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
            fixed after training; "instance" recomputes them on every window it is given.
        dropout: Probability of dropping a whole feature channel in the bottleneck.

    Raises:
        ValueError: Fewer than two levels, or an unknown norm.

    Examples:
        >>> network = UNet(4, 4, channels=(4, 8, 16))
        >>> network.multiple_vox
        4
        >>> network(torch.zeros(1, 4, 8, 12, 16)).shape
        torch.Size([1, 4, 8, 12, 16])

    Source:
        Çiçek et al. (2016), 3D U-Net, MICCAI; strided convolutions and LeakyReLU as in Isensee et
        al. (2021), Nature Methods 18:203-211.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(channels) < 2:
            msg = f"channels must name at least two levels; got {channels}. Try (16, 32, 64)."
            raise ValueError(msg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.multiple_vox = 2 ** (len(channels) - 1)
        widths = list(itertools.pairwise(channels))
        self.stem = _two_convolutions(in_channels, channels[0], norm=norm)
        self.down = nn.ModuleList(
            _two_convolutions(shallow, deep, norm=norm, stride=2) for shallow, deep in widths
        )
        self.dropout = nn.Dropout3d(dropout)
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(deep, shallow, kernel_size=2, stride=2) for shallow, deep in widths
        )
        self.merge = nn.ModuleList(
            _two_convolutions(2 * shallow, shallow, norm=norm) for shallow, _ in widths
        )
        self.head = nn.Conv3d(channels[0], out_channels, kernel_size=1)
        self.apply(_initialise)

    def forward(self, image: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b l i j k"]:
        """Return one logit a class and voxel.

        Args:
            image: Z-scored intensities `(B, C, I, J, K)`, sizes multiples of `multiple_vox`.

        Returns:
            Logits `(B, out_channels, I, J, K)`; the softmax over axis 1 is the caller's.

        Raises:
            ValueError: Wrong number of channels, or a size the levels cannot halve.
        """
        self._refuse_misfit(image)
        features = self.stem(image)
        skips = []
        for down in self.down:
            skips.append(features)
            features = down(features)
        features = self.dropout(features)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, skips, strict=True))):
            features = merge(torch.cat([skip, up(features)], dim=1))
        return self.head(features)

    def _refuse_misfit(self, image: Tensor) -> None:
        if image.ndim != 5 or image.shape[1] != self.in_channels:
            msg = (
                f"image must be (B, {self.in_channels}, I, J, K); got {tuple(image.shape)}. "
                "Give as many channels as the network was built for."
            )
            raise ValueError(msg)
        size, multiple = tuple(image.shape[2:]), self.multiple_vox
        if any(length % multiple for length in size):
            nearest = tuple(max(1, round(length / multiple)) * multiple for length in size)
            msg = (
                f"image size must be multiples of {multiple}; got {size}. Nearest: {nearest}; "
                "bratskit.predict.single_pass pads and crops for you."
            )
            raise ValueError(msg)


class _InstanceNorm(nn.Module):
    """Normalise each channel of each sample by itself, as `nn.InstanceNorm3d(affine=True)` does.

    The same numbers from the same weights, in 0.7 of the time of a whole training step on a CPU:
    PyTorch's own copies channels-last features to the other memory order and back, but batch norm
    does not, and of a batch of one it is the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b c i j k"]:
        """Return the features, each channel of each sample at mean 0 and deviation 1 at first."""
        if features.shape[0] == 1:
            return self._one(features)
        return torch.cat([self._one(sample) for sample in features.split(1)])

    def _one(self, sample: Tensor) -> Tensor:
        return F.batch_norm(sample, None, None, self.weight, self.bias, training=True)


def _two_convolutions(inside: int, outside: int, *, norm: str, stride: int = 1) -> nn.Sequential:
    """Build convolution, norm, LeakyReLU twice; the first convolution may halve the grid."""
    return nn.Sequential(
        # No bias: the norm that follows would subtract it again.
        nn.Conv3d(inside, outside, kernel_size=3, stride=stride, padding=1, bias=False),
        _norm(norm, outside),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
        nn.Conv3d(outside, outside, kernel_size=3, padding=1, bias=False),
        _norm(norm, outside),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    )


def _norm(name: str, channels: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm3d(channels)
    if name == "instance":
        return _InstanceNorm(channels)
    msg = f"norm must be 'batch' or 'instance'; got {name!r}."
    raise ValueError(msg)


def _initialise(layer: nn.Module) -> None:
    """Keep the variance of the features from layer to layer (He et al. 2015, equation 15)."""
    if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d)):
        nn.init.kaiming_normal_(layer.weight, a=NEGATIVE_SLOPE)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
