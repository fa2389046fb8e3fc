"""Make phantoms: patients that never were, in real anatomy, with exact truth."""

from bratskit.cases.phantoms.ingredients import INGREDIENTS, Ingredients

__all__ = ["INGREDIENTS", "Ingredients"]
