"""Hold how weights are learned, and from what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bratskit.settings.checks import Triple, check, is_whole

__all__ = ["TrainingSettings"]

_COUNTS = ("batch", "accumulate", "epochs", "steps_per_epoch", "validate_every")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How weights are learned.

    Attributes:
        patch_vox: Size of a training patch.
        batch: Patches held in memory at once.
        accumulate: Batches whose gradients are averaged before one optimiser step.
        epochs: Times `steps_per_epoch` optimiser steps are taken.
        steps_per_epoch: Optimiser steps between two history rows.
        validate_every: Epochs between two validations on whole validation cases.
        learning_rate: Peak of the AdamW learning rate.
        weight_decay: AdamW weight decay.
        warmup: Share of all steps over which the learning rate rises, before a cosine falls to 0.
        clip_norm: Largest L2 norm of the gradient.
        tumour_share: Share of patches centred on a tumour voxel.
        extra_phantoms: Phantoms added to the training patients of a real cohort: exact truth, free,
            and different each, where patients are few.
        phantom_share: Share of the patches cut from phantoms that are made while the network
            learns and never touch the disk. With 1 no patient is learned from, and none is needed.
        phantom_pool: Phantoms held at once. Patches are cut from each in turn, so that as many in
            a row come from different phantoms.
        phantom_reuse: Patches cut from a phantom before the next one takes its place: making one
            takes about as long as learning from one patch on a CPU.
        phantom_spacing_mm: Voxel size that phantoms of the stream are made at before they are
            prepared, mm, as patients' scans have theirs; None makes them at the recipe's own, in a
            third of the time at 1.5 mm and at most a quarter rougher, for want of a resample.
        phantom_ingredients: Strengths of simulated effects that are not as in real cases, by name:
            see `bratskit.cases.phantoms.INGREDIENTS`. A mapping will do; pairs are kept.
        augment: Whether to flip, scale and shift intensities and add noise.
        precision: Arithmetic of the forward pass; "auto" chooses by device capability.
        start_from: Checkpoint whose weights training begins with; None starts from random ones.
    """

    patch_vox: Triple = (128, 128, 128)
    batch: int = 1
    accumulate: int = 1
    epochs: int = 30
    steps_per_epoch: int = 50
    validate_every: int = 5
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    warmup: float = 0.05
    clip_norm: float = 12.0
    tumour_share: float = 0.67
    extra_phantoms: int = 0
    phantom_share: float = 0.0
    phantom_pool: int = 8
    phantom_reuse: int = 8
    phantom_spacing_mm: tuple[float, float, float] | None = None
    phantom_ingredients: tuple[tuple[str, float], ...] = ()
    augment: bool = True
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    start_from: str | None = None

    def __post_init__(self) -> None:
        for name in (*_COUNTS, "phantom_pool", "phantom_reuse"):
            value = getattr(self, name)
            check(
                is_whole(value) and value >= 1,
                f"{name} must be a whole number, at least 1; got {value}. Try 8.",
            )
        for name, usual in (("tumour_share", 0.67), ("phantom_share", 0.5)):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} must be in [0, 1]; got {value}. Try {usual}.")
        object.__setattr__(self, "phantom_ingredients", _pairs(self.phantom_ingredients))
        check(
            self.phantom_spacing_mm is None or _is_of_phantoms(self.phantom_spacing_mm),
            "phantom_spacing_mm must be three numbers from 0.5 to 10, or None; got "
            f"{self.phantom_spacing_mm}. BraTS: (1.0, 1.0, 1.0).",
        )
        check(
            is_whole(self.extra_phantoms) and self.extra_phantoms >= 0,
            f"extra_phantoms must be a whole number, 0 or more; got {self.extra_phantoms}. Try 24.",
        )
        check(
            self.learning_rate > 0,
            f"learning_rate must be positive; got {self.learning_rate}. Try 1e-3.",
        )


def _is_of_phantoms(spacing_mm: tuple[float, ...]) -> bool:
    """Say whether phantoms can be made at a voxel size, as `make_phantom` will check again."""
    return len(spacing_mm) == 3 and all(0.5 <= s <= 10 for s in spacing_mm)


def _pairs(
    ingredients: Mapping[str, float] | Iterable[Iterable[object]],
) -> tuple[tuple[str, float], ...]:
    """Bring ingredients into one form whatever they came as: pairs in the order of their names."""
    try:
        named = ingredients.items() if isinstance(ingredients, Mapping) else ingredients
        given = [(str(name), value) for name, value in named]
        pairs = sorted((name, float(value)) for name, value in given)
        is_sound = len(dict(pairs)) == len(pairs) and not any(isinstance(v, bool) for _, v in given)
        check(is_sound, "one is named twice, or no number")
    except (TypeError, ValueError) as error:
        msg = (
            f"phantom_ingredients must be numbers by name, each once; got {ingredients!r}. "
            'Try {"mimics": 0}.'
        )
        raise ValueError(msg) from error
    return tuple(pairs)
