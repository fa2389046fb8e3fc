"""Hold every setting of one experiment, and name the recipes."""

from bratskit.settings.augmentation import AUGMENTATIONS, AugmentationSettings
from bratskit.settings.changes import change_recipe
from bratskit.settings.inference import InferenceSettings
from bratskit.settings.loss import LOSSES, TARGET_NAMES, LossSettings, Targets
from bratskit.settings.miniature import miniature
from bratskit.settings.network import NetworkSettings
from bratskit.settings.recipes import RECIPES, get_recipe
from bratskit.settings.stages import GeometrySettings, Recipe
from bratskit.settings.training import TrainingSettings

__all__ = [
    "AUGMENTATIONS",
    "LOSSES",
    "RECIPES",
    "TARGET_NAMES",
    "AugmentationSettings",
    "GeometrySettings",
    "InferenceSettings",
    "LossSettings",
    "NetworkSettings",
    "Recipe",
    "Targets",
    "TrainingSettings",
    "change_recipe",
    "get_recipe",
    "miniature",
]
