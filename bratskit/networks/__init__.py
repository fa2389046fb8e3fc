"""Say what is learned: the U-Net, networks by name, and the file a trained one lives in."""

from bratskit.networks.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from bratskit.networks.describe import (
    Description,
    Ledger,
    Level,
    bytes_at_peak,
    describe_network,
    without_data,
)
from bratskit.networks.listing import Listed, list_models, models_table
from bratskit.networks.shipped import saved_model, write_checksums
from bratskit.networks.unet import UNet
from bratskit.networks.zoo import NETWORKS, build_network, network_of

__all__ = [
    "NETWORKS",
    "Checkpoint",
    "Description",
    "Ledger",
    "Level",
    "Listed",
    "UNet",
    "build_network",
    "bytes_at_peak",
    "describe_network",
    "list_models",
    "load_checkpoint",
    "models_table",
    "network_of",
    "save_checkpoint",
    "saved_model",
    "without_data",
    "write_checksums",
]
