"""Hold every setting of one experiment, and name the recipes."""

from bratskit.settings.network import NetworkSettings
from bratskit.settings.recipes import RECIPES, get_recipe
from bratskit.settings.stages import GeometrySettings, InferenceSettings, Recipe
from bratskit.settings.training import TrainingSettings

__all__ = [
    "RECIPES",
    "GeometrySettings",
    "InferenceSettings",
    "NetworkSettings",
    "Recipe",
    "TrainingSettings",
    "get_recipe",
]
