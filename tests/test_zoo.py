"""Networks are built from settings by name."""

import pytest
import torch

from bratskit.networks import NETWORKS, build_network
from bratskit.settings import NetworkSettings


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_every_network_maps_channels_to_classes(name, norm):
    settings = NetworkSettings(name=name, channels=(4, 8, 16), norm=norm, dropout=0.1)
    network = build_network(settings, in_channels=3, out_channels=5).eval()
    assert network(torch.zeros(1, 3, 8, 8, 12)).shape == (1, 5, 8, 8, 12)


def test_settings_and_network_agree_on_the_multiple():
    settings = NetworkSettings(channels=(4, 8, 16, 32))
    network = build_network(settings, in_channels=1, out_channels=2)
    assert network.multiple_vox == settings.multiple_vox == 8


def test_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"one of \['unet'\]"):
        build_network(NetworkSettings(name="vnet"), in_channels=4, out_channels=4)
