"""Build a network from its settings by name; adding one is adding a line to `NETWORKS`."""

from collections.abc import Callable

from torch import nn

from bratskit.networks.unet import UNet
from bratskit.settings import NetworkSettings

__all__ = ["NETWORKS", "build_network"]


def _build_unet(settings: NetworkSettings, in_channels: int, out_channels: int) -> nn.Module:
    return UNet(
        in_channels,
        out_channels,
        channels=settings.channels,
        norm=settings.norm,
        dropout=settings.dropout,
    )


NETWORKS: dict[str, Callable[[NetworkSettings, int, int], nn.Module]] = {"unet": _build_unet}


def build_network(settings: NetworkSettings, *, in_channels: int, out_channels: int) -> nn.Module:
    """Build the network that the settings name, with random weights.

    Args:
        settings: Name, width and norm.
        in_channels: Modalities of the image.
        out_channels: Classes, the background among them.

    Returns:
        A module from images `(B, in_channels, I, J, K)` to logits `(B, out_channels, I, J, K)`,
        sizes being multiples of `settings.multiple_vox`.

    Raises:
        ValueError: No network has this name; the message lists those that exist.

    Examples:
        >>> settings = NetworkSettings(channels=(4, 8))
        >>> build_network(settings, in_channels=4, out_channels=4).multiple_vox
        2
    """
    if settings.name not in NETWORKS:
        msg = f"network name must be one of {sorted(NETWORKS)}; got {settings.name!r}."
        raise ValueError(msg)
    return NETWORKS[settings.name](settings, in_channels, out_channels)
