"""Hold how weights are learned, and from what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from bratskit.labels import LABELS
from bratskit.settings.checks import Triple, check, check_types

__all__ = ["TrainingSettings"]

_COUNTS = ("batch", "accumulate", "epochs", "steps_per_epoch", "validate_every")
_TUMOUR = tuple(LABELS[value] for value in sorted(LABELS) if value)


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
        optimiser: "adamw", "adam" (its weight decay is an L2 penalty, scaled as the gradient is),
            or "sgd" with Nesterov's momentum.
        momentum: Momentum of "sgd"; nnU-Net's 0.99. The other two do not read it.
        learning_rate: Peak of the learning rate. "sgd" usually wants ten times that of "adamw".
        weight_decay: Weight decay of the optimiser.
        schedule: How the learning rate falls after the warm-up: along a "cosine" to 0, along nnU-
            Net's "poly" to 0, or not at all, "constant".
        warmup: Share of all steps over which the learning rate rises, before it falls.
        clip_norm: Largest L2 norm of the gradient; 0 clips nothing.
        ema_decay: Weight of the past in the moving average of the weights that is validated and
            kept as the best, beside those that learn; 0 keeps none. Try 0.999.
        patience: Validations in a row without a better `select_by` after which training stops; 0
            never stops early.
        select_by: The validated metric that chooses the best weights.
        tumour_share: Share of patches centred on a tumour voxel.
        label_share: Which label those are centred on, shares that sum to 1 by name: (("NCR", 0.25),
            ("ED", 0.25), ("ET", 0.5)). Where a case lacks a label, those it has take its share;
            where it has none of those named, and with (), all it has are equally likely. A mapping
            will do; pairs are kept.
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
    optimiser: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = 0.99
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup: float = 0.05
    clip_norm: float = 12.0
    ema_decay: float = 0.0
    patience: int = 0
    select_by: str = "dice_mean"
    tumour_share: float = 0.67
    label_share: tuple[tuple[str, float], ...] = ()
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
        for name, example in (
            ("phantom_ingredients", '{"mimics": 0}'),
            ("label_share", '{"NCR": 0.25, "ED": 0.25, "ET": 0.5}'),
        ):
            object.__setattr__(self, name, _pairs(name, getattr(self, name), example=example))
        check_types(self, "training")
        for name in (*_COUNTS, "phantom_pool", "phantom_reuse"):
            value = getattr(self, name)
            check(
                value >= 1,
                f"{name} must be a whole number, at least 1; got {value}. Try 8.",
            )
        for name, usual in (("tumour_share", 0.67), ("phantom_share", 0.5), ("warmup", 0.05)):
            value = getattr(self, name)
            check(0 <= value <= 1, f"{name} must be in [0, 1]; got {value}. Try {usual}.")
        for name, usual in (("ema_decay", 0.999), ("momentum", 0.99)):
            value = getattr(self, name)
            check(0 <= value < 1, f"{name} must be in [0, 1); got {value}. Try {usual}.")
        for name, usual in (("clip_norm", 12.0), ("weight_decay", 1e-4)):
            value = getattr(self, name)
            check(value >= 0, f"{name} must be 0 or more; got {value}. Try {usual}.")
        check(
            not self.label_share or _is_mix(self.label_share),
            f"label_share must be shares from 0 to 1 of {_TUMOUR} that sum to 1; got "
            f'{self.label_share}. Try {{"NCR": 0.25, "ED": 0.25, "ET": 0.5}}.',
        )
        check(
            self.phantom_spacing_mm is None or _is_of_phantoms(self.phantom_spacing_mm),
            "phantom_spacing_mm must be three numbers from 0.5 to 10, or None; got "
            f"{self.phantom_spacing_mm}. BraTS: (1.0, 1.0, 1.0).",
        )
        for name, usual in (("extra_phantoms", 24), ("patience", 10)):
            value = getattr(self, name)
            check(
                value >= 0,
                f"{name} must be a whole number, 0 or more; got {value}. Try {usual}.",
            )
        check(
            self.learning_rate > 0,
            f"learning_rate must be positive; got {self.learning_rate}. Try 1e-3.",
        )


def _is_of_phantoms(spacing_mm: tuple[float, ...]) -> bool:
    """Say whether phantoms can be made at a voxel size, as `make_phantom` will check again."""
    return len(spacing_mm) == 3 and all(0.5 <= s <= 10 for s in spacing_mm)


def _is_mix(pairs: tuple[tuple[str, float], ...]) -> bool:
    """Say whether pairs are shares of tumour labels."""
    shares = [share for _, share in pairs]
    is_known = all(name in _TUMOUR for name, _ in pairs)
    return is_known and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6


def _pairs(
    name: str, given: Mapping[str, float] | Iterable[Iterable[object]], *, example: str
) -> tuple[tuple[str, float], ...]:
    """Bring numbers by name into one form whatever they came as: pairs in order of their names."""
    try:
        named = given.items() if isinstance(given, Mapping) else given
        values = [(str(key), value) for key, value in named]
        pairs = sorted((key, float(value)) for key, value in values)
        is_sound = len(dict(pairs)) == len(pairs) and not any(
            isinstance(value, bool) for _, value in values
        )
        check(is_sound, "one is named twice, or no number")
    except (TypeError, ValueError) as error:
        msg = f"{name} must be numbers by name, each once; got {given!r}. Try {example}."
        raise ValueError(msg) from error
    return tuple(pairs)
