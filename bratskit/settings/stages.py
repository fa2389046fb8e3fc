"""Join the settings of all stages into one recipe; it names none."""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bratskit.labels import MODALITIES
from bratskit.settings.augmentation import AugmentationSettings
from bratskit.settings.checks import Triple, check, check_types
from bratskit.settings.inference import InferenceSettings
from bratskit.settings.loss import TARGET_NAMES, LossSettings, Targets
from bratskit.settings.network import NetworkSettings
from bratskit.settings.training import TrainingSettings

__all__ = ["GeometrySettings", "Recipe"]


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
        check_types(self, "geometry")
        check(
            self.spacing_mm is None or min(self.spacing_mm) > 0,
            f"spacing_mm must be positive; got {self.spacing_mm}. Try (1.0, 1.0, 1.0).",
        )
        for name in ("size_vox", "crop_vox"):
            value = getattr(self, name)
            check(
                value is None or min(value) >= 16,
                f"{name} must be at least 16 along each axis; got {value}. Try (128, 128, 128).",
            )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every setting of one experiment.

    Attributes:
        name: Name of the recipe this one began as.
        modalities: Channels of the network's input, in order.
        normalise: What happens to intensities: "zscore" gives each modality mean 0 and deviation 1
            over the brain, "minmax" brings it to 0..1. Background is 0 in both.
        geometry: How a scan becomes an array.
        targets: What the network answers: "labels", one of four for each voxel (softmax), or
            "regions", whether each voxel lies in WT, in TC, in ET (three sigmoids).
        network: Which network.
        loss: What training minimises.
        training: How it learns.
        augmentation: How patches are varied, where `training.augment` is on.
        inference: How it labels a whole case.
        seed: Seeds weights, sampling, augmentation and the split.
    """

    name: str
    modalities: tuple[str, ...] = MODALITIES
    normalise: Literal["zscore", "minmax"] = "zscore"
    geometry: GeometrySettings = field(default_factory=GeometrySettings)
    targets: Targets = "labels"
    network: NetworkSettings = field(default_factory=NetworkSettings)
    loss: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    augmentation: AugmentationSettings = field(default_factory=AugmentationSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        unknown = [name for name in self.modalities if name not in MODALITIES]
        check(
            not unknown and len(set(self.modalities)) == len(self.modalities) > 0,
            f"modalities must be distinct names from {MODALITIES}; got {self.modalities}.",
        )
        self.loss.refuse_misfit(self.targets)
        multiple = self.network.multiple_vox
        for name, size in (
            ("training.patch_vox", self.training.patch_vox),
            ("inference.window_vox", self.inference.window_vox),
        ):
            nearest = tuple(max(multiple, round(length / multiple) * multiple) for length in size)
            check(
                all(length > 0 and length % multiple == 0 for length in size),
                f"{name} must be multiples of {multiple}; got {tuple(size)}. Nearest: {nearest}.",
            )
        patch, window = tuple(self.training.patch_vox), tuple(self.inference.window_vox)
        check(
            not self.network.takes_one_size or patch == window,
            f"inference.window_vox must be training.patch_vox for {self.network.name}, which takes "
            f"images of one size; got {window} and {patch}.",
        )

    @property
    def target_names(self) -> tuple[str, ...]:
        """What each channel of the network's answer is about, in order."""
        return TARGET_NAMES[self.targets]

    @property
    def out_channels(self) -> int:
        """Channels of the network's answer: 4 labels, background first, or WT, TC and ET."""
        return len(self.target_names)

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


def _from_dict(cls: type, values: dict[str, object], *, where: str) -> typing.Any:  # noqa: ANN401
    check(isinstance(values, dict), f"{where} must be settings by name; got {values!r}.")
    fields = {item.name: item.type for item in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    check(not unknown, f"{where} has no setting {unknown}; it has {sorted(fields)}.")
    check(cls is not Recipe or "name" in values, "recipe must have a name. Try 'mine'.")
    built = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(fields[name]):
            value = _from_dict(fields[name], value, where=f"{where}.{name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
