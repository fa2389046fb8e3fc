"""Turn prepared arrays into a trained network: patches, augmentation, loss, the loop."""

from bratskit.train.augment import Augmentation, apply_augmentation, draw_augmentation
from bratskit.train.batches import feed_epoch
from bratskit.train.blame import NotFiniteError
from bratskit.train.loop import train
from bratskit.train.losses import (
    deep_supervised,
    dice_ce_loss,
    make_loss,
    measure_loss,
    region_targets,
)
from bratskit.train.memory import predict_step_bytes
from bratskit.train.mix import MixedSampler, open_sampler
from bratskit.train.optimise import learning_rate
from bratskit.train.patches import PatchPlace, PatchSampler
from bratskit.train.phantom_stream import PhantomStream
from bratskit.train.preflight import Preflight, preflight
from bratskit.train.step import Learner
from bratskit.train.torchio_plugin import torchio_transform
from bratskit.train.track import History, stopped_early
from bratskit.train.validate import validate

__all__ = [
    "Augmentation",
    "History",
    "Learner",
    "MixedSampler",
    "NotFiniteError",
    "PatchPlace",
    "PatchSampler",
    "PhantomStream",
    "Preflight",
    "apply_augmentation",
    "deep_supervised",
    "dice_ce_loss",
    "draw_augmentation",
    "feed_epoch",
    "learning_rate",
    "make_loss",
    "measure_loss",
    "open_sampler",
    "predict_step_bytes",
    "preflight",
    "region_targets",
    "stopped_early",
    "torchio_transform",
    "train",
    "validate",
]
