"""Hold what networks are made of: convolutions of three kinds, norms, gates; no network."""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = [
    "NEGATIVE_SLOPE",
    "AttentionGate",
    "Convolution",
    "DenseBlock",
    "InstanceNorm",
    "ResidualBlock",
    "TransposedConvolution",
    "make_block",
    "make_norm",
    "refuse_misfit",
    "run_again_in_backward",
]

NEGATIVE_SLOPE = 0.01  # nnU-Net's LeakyReLU, Isensee et al. (2021), methods
MOST_GROUPS = 8  # of GroupNorm; Myronenko (2018), section 2.1, of BraTS 2018's winner


class Convolution(nn.Conv3d):
    """Convolve as `nn.Conv3d` does, also where torch's own bf16 gradients are wrong on a CPU.

    On a CPU with AVX-512 bf16, torch 2.13 gives kernels of 3 voxels a gradient of whatever stood in
    memory, up to 1e37 or NaN, where the first axis of the grid has two voxels (a patch of 32 at the
    fifth level), or where a stride of 2 meets an axis of one voxel. Such grids are tiny: float32,
    in which 2,600 shapes were right on memory filled with 3e38, costs nothing there.
    """

    def forward(self, features: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """Return what `nn.Conv3d` returns, in float32 where an axis has two voxels on a CPU."""
        if features.device.type != "cpu" or min(features.shape[2:]) > 2:
            return super().forward(features)
        with torch.autocast("cpu", enabled=False):
            return super().forward(features.float())


class TransposedConvolution(nn.ConvTranspose3d):
    """Do what `nn.ConvTranspose3d` does, with a faster gradient of the bias on a CPU.

    There torch 2.13 takes 37 ms for the backward pass to 16 channels on two patches of 64 voxels,
    26 of them for a sum over voxels that otherwise takes one: 6 % of a whole training step.
    """

    def forward(self, features: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """Return what `nn.ConvTranspose3d` returns."""
        if features.device.type != "cpu" or self.bias is None or not torch.is_grad_enabled():
            return super().forward(features)
        made = F.conv_transpose3d(
            features, self.weight, self.bias.detach(), self.stride, self.padding
        )
        return _BiasGradient.apply(made, self.bias)


class _BiasGradient(torch.autograd.Function):
    """Pass on what has a bias added already; the bias's gradient is that of the sum."""

    @staticmethod
    def forward(ctx: object, made: Tensor, bias: Tensor) -> Tensor:
        ctx.dtype = bias.dtype
        return made.view_as(made)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.sum((0, 2, 3, 4), dtype=ctx.dtype)


class InstanceNorm(nn.Module):
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


class ResidualBlock(nn.Module):
    """Add what came in to what two convolutions made of it, so that they learn the difference.

    Where width or grid change, the shortcut is a convolution of one voxel (He's option B).

    Source:
        He et al. (2016), Deep residual learning, CVPR, figure 2 and section 3.3.
    """

    def __init__(self, inside: int, outside: int, *, norm: str, stride: int = 1) -> None:
        super().__init__()
        self.body = _plain(inside, outside, norm=norm, stride=stride)[:-1]
        self.shortcut = nn.Identity()
        if inside != outside or stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv3d(inside, outside, kernel_size=1, stride=stride, bias=False),
                make_norm(norm, outside),
            )
        self.activation = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, features: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """Return `outside` channels on the grid divided by `stride`."""
        return self.activation(self.body(features) + self.shortcut(features))


class DenseBlock(nn.Module):
    """Hand each convolution what all before it found, then fuse everything into `outside` channels.

    Three layers of half the width: fewer weights than two of the whole width, and a short way from
    the loss to each of them.

    Source:
        Huang et al. (2017), Densely connected convolutional networks, CVPR, equation 2.
    """

    def __init__(self, inside: int, outside: int, *, norm: str, stride: int = 1) -> None:
        super().__init__()
        growth = max(1, outside // 2)
        self.layers = nn.ModuleList(
            nn.Sequential(*_convolution(channels, growth, norm=norm, stride=step))
            for channels, step in ((inside, stride), (growth, 1), (2 * growth, 1))
        )
        self.fuse = nn.Sequential(*_convolution(3 * growth, outside, norm=norm, size=1))

    def forward(self, features: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b d i2 j2 k2"]:
        """Return `outside` channels on the grid divided by `stride`."""
        found = [self.layers[0](features)]
        for layer in self.layers[1:]:
            found.append(layer(torch.cat(found, dim=1)))
        return self.fuse(torch.cat(found, dim=1))


class AttentionGate(nn.Module):
    r"""Weigh each voxel of a skip by what the level below has found there.

    $$\alpha = \sigma\left(\psi^T \, \mathrm{ReLU}(W_x x + W_g g) + b\right), \qquad
    \hat{x} = \alpha x$$

    The paper compares on the coarse grid and resamples the weights; here `g` is on the fine grid
    already, upsampled by the decoder's own transposed convolution, because trilinear upsampling has
    no deterministic backward pass on a GPU.

    Source:
        Oktay et al. (2018), Attention U-Net, MIDL, equations 1 and 2.
    """

    def __init__(self, channels: int, *, norm: str) -> None:
        super().__init__()
        between = max(1, channels // 2)
        self.of_skip = nn.Sequential(
            nn.Conv3d(channels, between, kernel_size=1, bias=False), make_norm(norm, between)
        )
        self.of_below = nn.Sequential(
            nn.Conv3d(channels, between, kernel_size=1, bias=False), make_norm(norm, between)
        )
        self.psi = nn.Conv3d(between, 1, kernel_size=1)

    def forward(
        self, skip: Float[Tensor, "b c i j k"], below: Float[Tensor, "b c i j k"]
    ) -> Float[Tensor, "b c i j k"]:
        """Return the skip, each voxel times a weight in (0, 1) that its channels share."""
        return skip * torch.sigmoid(self.psi(F.relu(self.of_skip(skip) + self.of_below(below))))


def make_block(kind: str, inside: int, outside: int, *, norm: str, stride: int = 1) -> nn.Module:
    """Build what one level is made of.

    Args:
        kind: "plain", "residual" or "dense".
        inside: Channels that come in.
        outside: Channels that go out.
        norm: "batch", "instance" or "group".
        stride: 2 halves the grid.

    Raises:
        ValueError: There is no such kind, or no such norm.

    Examples:
        >>> block = make_block("residual", 4, 8, norm="group", stride=2)
        >>> block(torch.zeros(1, 4, 6, 8, 10)).shape
        torch.Size([1, 8, 3, 4, 5])
    """
    kinds = {"plain": _plain, "residual": ResidualBlock, "dense": DenseBlock}
    if kind not in kinds:
        msg = f"block must be one of {sorted(kinds)}; got {kind!r}."
        raise ValueError(msg)
    return kinds[kind](inside, outside, norm=norm, stride=stride)


def make_norm(name: str, channels: int) -> nn.Module:
    """Build a normalisation layer.

    Raises:
        ValueError: There is none of this name.
    """
    if name == "batch":
        return nn.BatchNorm3d(channels)
    if name == "instance":
        return InstanceNorm(channels)
    if name == "group":
        return nn.GroupNorm(math.gcd(MOST_GROUPS, channels), channels)
    msg = f"norm must be 'batch', 'instance' or 'group'; got {name!r}."
    raise ValueError(msg)


def run_again_in_backward(
    function: Callable[..., Tensor], *inputs: object, owner: nn.Module
) -> Tensor:
    """Call a part of a network without keeping its features: the backward pass calls it again.

    The second call draws the same dropout, because the generators' states are kept, and leaves the
    running statistics of batch norm alone, which would otherwise move twice a step.

    Args:
        function: A part of the network, from tensors to a tensor.
        *inputs: What it is called with; the tensors among them are kept.
        owner: The network, whose batch norms hold still in the second call.

    Source:
        Chen et al. (2016), Training deep nets with sublinear memory cost, arXiv:1604.06174.
    """
    return checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _still_statistics(owner)),
    )


def refuse_misfit(
    image: Tensor,
    *,
    in_channels: int,
    multiple_vox: int,
    size_vox: Sequence[int] | None = None,
    needs_two: bool = False,
) -> None:
    """Refuse an image of the wrong channels, or of a size that a network cannot take.

    Args:
        image: What is about to go in.
        in_channels: Channels that the network was built for.
        multiple_vox: Sizes must be multiples of this.
        size_vox: The one size that can go in, where there is only one.
        needs_two: Whether the deepest level must hold two voxels, because a norm takes its mean and
            deviation over them.

    Raises:
        ValueError: It does not fit; the message names the nearest size that does.
    """
    if image.ndim != 5 or image.shape[1] != in_channels:
        msg = (
            f"image must be (B, {in_channels}, I, J, K); got {tuple(image.shape)}. "
            "Give as many channels as the network was built for."
        )
        raise ValueError(msg)
    size = tuple(image.shape[2:])
    if size_vox is not None and size != tuple(size_vox):
        msg = (
            f"image size must be {tuple(size_vox)}, which this network was built for; got {size}. "
            "bratskit.predict.sliding_window cuts and pads for you."
        )
        raise ValueError(msg)
    if any(length % multiple_vox for length in size):
        nearest = tuple(max(1, round(length / multiple_vox)) * multiple_vox for length in size)
        msg = (
            f"image size must be multiples of {multiple_vox}; got {size}. Nearest: {nearest}; "
            "bratskit.predict.single_pass pads and crops for you."
        )
        raise ValueError(msg)
    if needs_two and all(length == multiple_vox for length in size):
        msg = (
            f"image size must be above {multiple_vox} along one axis, or the deepest level is a "
            f"single voxel, whose deviation is 0; got {size}. "
            f"Take {2 * multiple_vox}, or a network of fewer levels."
        )
        raise ValueError(msg)


def _plain(inside: int, outside: int, *, norm: str, stride: int = 1) -> nn.Sequential:
    """Build convolution, norm, LeakyReLU twice; the first convolution may halve the grid."""
    return nn.Sequential(
        *_convolution(inside, outside, norm=norm, stride=stride),
        *_convolution(outside, outside, norm=norm),
    )


def _convolution(
    inside: int, outside: int, *, norm: str, stride: int = 1, size: int = 3
) -> list[nn.Module]:
    return [
        # No bias: the norm that follows would subtract it again.
        Convolution(
            inside, outside, kernel_size=size, stride=stride, padding=size // 2, bias=False
        ),
        make_norm(norm, outside),
        nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
    ]


@contextlib.contextmanager
def _still_statistics(network: nn.Module) -> Iterator[None]:
    """Keep batch norms from moving their running statistics; what they return is the same."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d) and m.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
