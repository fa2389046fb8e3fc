"""Make phantoms: patients that never were, in real anatomy, with exact truth; torch comes late."""

from importlib import import_module

from bratskit.cases.phantoms.cohort import make_cohort, write_phantom
from bratskit.cases.phantoms.frame import GENERATOR, ingredients_of
from bratskit.cases.phantoms.ingredients import INGREDIENTS, Ingredients

__all__ = [
    "GENERATOR",
    "INGREDIENTS",
    "Growth",
    "Ingredients",
    "Phantom",
    "Surface",
    "ingredients_of",
    "make_cohort",
    "make_phantom",
    "partial_volumes",
    "surface_of",
    "write_phantom",
]

_NEED_TORCH = {
    "Growth": "growth",
    "Phantom": "truth",
    "Surface": "truth",
    "make_phantom": "truth",
    "partial_volumes": "truth",
    "surface_of": "truth",
}


def __getattr__(name: str) -> object:
    """Import what simulates only when it is asked for: it brings torch, a second or two."""
    if name not in _NEED_TORCH:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
