"""Hold every setting of one experiment in frozen dataclasses, one a stage; it names no recipe."""

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bratskit.labels import MODALITIES

__all__ = [
    "GeometrySettings",
    "InferenceSettings",
    "NetworkSettings",
    "Recipe",
    "TrainingSettings",
]

Triple = tuple[int, int, int]

_COUNTS = ("batch", "accumulate", "epochs", "steps_per_epoch", "validate_every")


@dataclass(frozen=True, kw_only=True)
class GeometrySettings:
    """How a native scan becomes the array a network sees.

    Attributes:
        region: What is prepared: the "brain" box, or the whole "grid" of the scanner.
        spacing_mm: Voxel size to resample the region to, mm; None keeps the scanner's own.
        size_vox: Size to resize the region to, instead of `spacing_mm`; None resizes to no size.
        crop_vox: Size to cut from the middle of the region after that, padded where the region is
            smaller; None cuts nothing. It may cut tumour: the receipts count what is lost.
    """

    region: Literal["brain", "grid"] = "brain"
    spacing_mm: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
    size_vox: Triple | None = None
    crop_vox: Triple | None = None

    def __post_init__(self) -> None:
        _check(
            self.spacing_mm is None or min(self.spacing_mm) > 0,
            f"spacing_mm must be positive; got {self.spacing_mm}. Try (1.0, 1.0, 1.0).",
        )
        for name in ("size_vox", "crop_vox"):
            value = getattr(self, name)
            _check(
                value is None or min(value) >= 16,
                f"{name} must be at least 16 along each axis; got {value}. Try (128, 128, 128).",
            )
        _check_choice("region", self.region, ("brain", "grid"))


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Which network, and how wide.

    Attributes:
        name: Name known to `bratskit.networks.build_network`.
        channels: Feature channels of each level, the last being the bottleneck.
        norm: Normalisation layer after each convolution.
        dropout: Probability of dropping a feature channel in the bottleneck.
    """

    name: str = "unet"
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    norm: Literal["instance", "batch"] = "batch"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check(
            len(self.channels) >= 2,
            f"channels must name at least two levels; got {self.channels}. Try (16, 32, 64).",
        )
        _check(0 <= self.dropout < 1, f"dropout must be in [0, 1); got {self.dropout}. Try 0.2.")

    @property
    def multiple_vox(self) -> int:
        """Patch and window sizes must be multiples of this many voxels."""
        return 2 ** (len(self.channels) - 1)


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
            _check(
                _is_whole(value) and value >= 1,
                f"{name} must be a whole number, at least 1; got {value}. Try 8.",
            )
        for name, usual in (("tumour_share", 0.67), ("phantom_share", 0.5)):
            value = getattr(self, name)
            _check(0 <= value <= 1, f"{name} must be in [0, 1]; got {value}. Try {usual}.")
        object.__setattr__(self, "phantom_ingredients", _pairs(self.phantom_ingredients))
        _check(
            self.phantom_spacing_mm is None or _is_of_phantoms(self.phantom_spacing_mm),
            "phantom_spacing_mm must be three numbers from 0.5 to 10, or None; got "
            f"{self.phantom_spacing_mm}. BraTS: (1.0, 1.0, 1.0).",
        )
        _check(
            _is_whole(self.extra_phantoms) and self.extra_phantoms >= 0,
            f"extra_phantoms must be a whole number, 0 or more; got {self.extra_phantoms}. Try 24.",
        )
        _check(
            self.learning_rate > 0,
            f"learning_rate must be positive; got {self.learning_rate}. Try 1e-3.",
        )


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How a network labels a whole prepared case.

    Attributes:
        mode: "single" runs the whole brain box at once, "window" slides a window over it.
        window_vox: Size of the window; ignored by "single".
        overlap: Share of a window that the next one covers again.
        weights: How overlapping windows are averaged.
        smallest_component_vox: Tumour components (26-connected) smaller than this are removed. It
            counts voxels of the scanner's grid, whatever grid the network works on.
    """

    mode: Literal["single", "window"] = "single"
    window_vox: Triple = (128, 128, 128)
    overlap: float = 0.5
    weights: Literal["gaussian", "flat"] = "gaussian"
    smallest_component_vox: int = 0

    def __post_init__(self) -> None:
        _check(0 <= self.overlap < 1, f"overlap must be in [0, 1); got {self.overlap}. Try 0.5.")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of one experiment.

    Attributes:
        name: Name of the recipe this one began as.
        modalities: Channels of the network's input, in order.
        normalise: What happens to intensities: "zscore" gives each modality mean 0 and deviation 1
            over the brain, "minmax" brings it to 0..1. Background is 0 in both.
        geometry: How a scan becomes an array.
        network: Which network.
        training: How it learns.
        inference: How it labels a whole case.
        seed: Seeds weights, sampling, augmentation and the split.
    """

    name: str
    modalities: tuple[str, ...] = MODALITIES
    normalise: Literal["zscore", "minmax"] = "zscore"
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.modalities if name not in MODALITIES]
        _check(
            not unknown and len(set(self.modalities)) == len(self.modalities) > 0,
            f"modalities must be distinct names from {MODALITIES}; got {self.modalities}.",
        )
        _check_choice("normalise", self.normalise, ("zscore", "minmax"))
        multiple = self.network.multiple_vox
        for name, size in (
            ("training.patch_vox", self.training.patch_vox),
            ("inference.window_vox", self.inference.window_vox),
        ):
            nearest = tuple(max(multiple, round(length / multiple) * multiple) for length in size)
            _check(
                all(length > 0 and length % multiple == 0 for length in size),
                f"{name} must be multiples of {multiple}; got {tuple(size)}. Nearest: {nearest}.",
            )

    def to_dict(self) -> dict[str, object]:
        """Return plain JSON values, nested as the dataclasses are."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, object]) -> "Recipe":
        """Rebuild a recipe from `to_dict`, refusing names that no setting has.

        Raises:
            ValueError: A name is unknown; the message says which and what exists.
        """
        return _from_dict(cls, values, where="recipe")

    def save(self, path: Path | str) -> None:
        """Write the recipe as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> "Recipe":
        """Read a recipe that `save` wrote.

        Raises:
            ValueError: The file is no JSON, or no recipe.
        """
        try:
            values = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            msg = f"{path} must be a recipe in JSON; got damaged text ({error}). Delete the file."
            raise ValueError(msg) from error
        return cls.from_dict(values)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_of_phantoms(spacing_mm: tuple[float, ...]) -> bool:
    """Say whether phantoms can be made at a voxel size, as `make_phantom` will check again."""
    return len(spacing_mm) == 3 and all(0.5 <= s <= 10 for s in spacing_mm)


def _check(holds: bool, msg: str) -> None:
    if not holds:
        raise ValueError(msg)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    _check(value in choices, f"{name} must be one of {choices}; got {value!r}.")


def _pairs(
    ingredients: Mapping[str, float] | Iterable[Iterable[object]],
) -> tuple[tuple[str, float], ...]:
    """Bring ingredients into one form whatever they came as: pairs in the order of their names."""
    try:
        named = ingredients.items() if isinstance(ingredients, Mapping) else ingredients
        given = [(str(name), value) for name, value in named]
        pairs = sorted((name, float(value)) for name, value in given)
        is_sound = len(dict(pairs)) == len(pairs) and not any(isinstance(v, bool) for _, v in given)
        _check(is_sound, "one is named twice, or no number")
    except (TypeError, ValueError) as error:
        msg = (
            f"phantom_ingredients must be numbers by name, each once; got {ingredients!r}. "
            'Try {"mimics": 0}.'
        )
        raise ValueError(msg) from error
    return tuple(pairs)


def _from_dict(cls: type, values: dict[str, object], *, where: str) -> typing.Any:  # noqa: ANN401
    fields = {item.name: item.type for item in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    _check(not unknown, f"{where} has no setting {unknown}; it has {sorted(fields)}.")
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):
            value = _from_dict(fields[name], value, where=f"{where}.{name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
