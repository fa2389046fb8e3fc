"""Say how much of each simulated effect a phantom gets; draws and computes nothing."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace

__all__ = ["INGREDIENTS", "Ingredients"]

STRONGEST = 2.0

# What is left out where an ingredient is 0.
INGREDIENTS = {
    "bends": "deformation of the template into another head, pose and size apart",
    "age": "wide ventricles and sulci",
    "white_lesions": "white-matter lesions, the more the older, which no label marks",
    "mimics": "vessels, dura, sinuses and choroid plexus, bright on T1ce like a tumour's rim",
    "regions": "cerebellum, brain stem and limbic cortex apart from other tissue, as in a tumour",
    "mass_effect": "tissue that the tumour pushes aside",
    "infiltration": "oedema along white matter; without it a plain shell around the core",
    "raggedness": "rough cores, broken rims; without it even ellipsoids, but for patchy tumours",
    "multifocal": "satellites beside the main tumour",
    "non_enhancing": "patchy and low-grade tumours, with little enhancement or none",
    "contrast": "variation of tissue contrasts between scans",
    "texture": "mottled tumours, bright patches and unrest of healthy tissue",
    "partial_volume": "in-plane blur and soft borders between tissues",
    "thick_slices": "slices thicker than the voxels they were resampled to",
    "bias": "slow shading across the brain",
    "noise": "Rician noise",
    "ghosts": "ghosts and blur of a head that moves",
    "strip": "errors of the skull strip: scraps left, a ragged rim",
    "slabs": "missing slabs at the top or bottom of the brain; 1 for a third of the cases",
    "cavity": "resection cavities; 1 for a third of the cases",
}


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """How much of each simulated effect goes in: 0 leaves it out, 1 is as real cases, 2 the most.

    Changing one leaves every other choice of a seed as it is: the patient stays the same. What
    each means stands in `INGREDIENTS`. Slabs and cavities are left out by default: the data doctor
    reports the first, and only edition brats2024-gli has a label for the second.

    Raises:
        TypeError: A value is no number.
        ValueError: A value is not within 0 to 2.

    Examples:
        >>> plain = Ingredients(mimics=0, noise=2)
        >>> plain.mimics, plain.noise, plain.bias
        (0.0, 2.0, 1.0)
        >>> Ingredients.from_json(plain.to_json()) == plain
        True
    """

    bends: float = 1.0
    age: float = 1.0
    white_lesions: float = 1.0
    mimics: float = 1.0
    regions: float = 1.0
    mass_effect: float = 1.0
    infiltration: float = 1.0
    raggedness: float = 1.0
    multifocal: float = 1.0
    non_enhancing: float = 1.0
    contrast: float = 1.0
    texture: float = 1.0
    partial_volume: float = 1.0
    thick_slices: float = 1.0
    bias: float = 1.0
    noise: float = 1.0
    ghosts: float = 1.0
    strip: float = 1.0
    slabs: float = 0.0
    cavity: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool | str) or not hasattr(value, "__float__"):
                msg = f"{name} must be a number; got {value!r}. Take 0 to leave it out, or 1."
                raise TypeError(msg)
            if not 0 <= float(value) <= STRONGEST:
                msg = f"{name} must be from 0 to 2; got {value}. 0 leaves it out, 1 is as real."
                raise ValueError(msg)
            object.__setattr__(self, name, float(value))

    def without(self, names: Iterable[str]) -> "Ingredients":
        """Leave ingredients out.

        Raises:
            ValueError: A name is none of `INGREDIENTS`.

        Examples:
            >>> Ingredients().without(["bias", "noise"]) == Ingredients(bias=0, noise=0)
            True
        """
        names = list(names)
        _refuse_unknown(names)
        return replace(self, **dict.fromkeys(names, 0.0))

    def to_json(self) -> str:
        """Return every value as one line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Ingredients":
        """Read what `to_json` wrote; what is not named takes its default.

        Raises:
            ValueError: The text is no JSON object, or names what is no ingredient.
        """
        values = json.loads(text)
        if not isinstance(values, dict):
            msg = f'ingredients must be a JSON object; got {text}. Try {{"mimics": 0}}.'
            raise ValueError(msg)
        _refuse_unknown(values)
        return cls(**values)


def _refuse_unknown(names: Iterable[str]) -> None:
    known = [field.name for field in fields(Ingredients)]
    for name in names:
        if name not in known:
            msg = f"ingredient must be one of {', '.join(known)}; got {name!r}."
            raise ValueError(msg)
