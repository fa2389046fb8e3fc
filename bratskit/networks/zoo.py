"""Build a network from its settings by name; adding one is adding a line to `NETWORKS`."""

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from bratskit.networks.from_monai import (
    build_dynunet,
    build_segresnet,
    build_swin_unetr,
    build_unetr,
)
from bratskit.networks.unet import UNet
from bratskit.settings import NetworkSettings, Recipe

__all__ = ["NETWORKS", "build_network", "network_of"]


class _Builder(Protocol):
    def __call__(
        self,
        settings: NetworkSettings,
        in_channels: int,
        out_channels: int,
        size_vox: Sequence[int] | None = None,
    ) -> nn.Module:
        """Build a network with random weights."""


def _build_unet(
    settings: NetworkSettings,
    in_channels: int,
    out_channels: int,
    size_vox: Sequence[int] | None = None,
) -> nn.Module:
    return UNet(
        in_channels,
        out_channels,
        channels=settings.channels,
        norm=settings.norm,
        dropout=settings.dropout,
        dropout_at=settings.dropout_at,
        block=settings.block,
        attention=settings.attention,
        deep_supervision=settings.deep_supervision,
        checkpointing=settings.checkpointing,
    )


NETWORKS: dict[str, _Builder] = {
    "unet": _build_unet,
    "segresnet": build_segresnet,
    "swin_unetr": build_swin_unetr,
    "unetr": build_unetr,
    "dynunet": build_dynunet,
}


def build_network(
    settings: NetworkSettings,
    *,
    in_channels: int,
    out_channels: int,
    size_vox: Sequence[int] | None = None,
) -> nn.Module:
    """Build the network that the settings name, with random weights.

    Args:
        settings: Name, width and options.
        in_channels: Modalities of the image.
        out_channels: Classes, the background among them, or regions.
        size_vox: Size of the training patches. Only "unetr" needs it, which takes no other.

    Returns:
        A module from images `(B, in_channels, I, J, K)` to logits `(B, out_channels, I, J, K)`,
        sizes being multiples of its `multiple_vox`. With `deep_supervision` it returns in training
        mode a tuple of logits, from the full grid to the coarsest.

    Raises:
        ValueError: No network has this name; the message lists those that exist. Or "unetr" was
            given no size that it can be built for.
        RuntimeError: The network is MONAI's, and MONAI is not installed.

    Examples:
        >>> settings = NetworkSettings(channels=(4, 8))
        >>> build_network(settings, in_channels=4, out_channels=4).multiple_vox
        2
    """
    if settings.name not in NETWORKS:
        msg = f"network name must be one of {sorted(NETWORKS)}; got {settings.name!r}."
        raise ValueError(msg)
    return NETWORKS[settings.name](settings, in_channels, out_channels, size_vox)


def network_of(recipe: Recipe, *, size_vox: Sequence[int] | None = None) -> nn.Module:
    """Build the network of a recipe for its modalities and targets, with random weights.

    Args:
        recipe: Its network, modalities, targets and patch size count.
        size_vox: Size of the patches instead of the recipe's; see `build_network`.
    """
    return build_network(
        recipe.network,
        in_channels=len(recipe.modalities),
        out_channels=recipe.out_channels,
        size_vox=size_vox or recipe.training.patch_vox,
    )
