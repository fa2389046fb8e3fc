"""Hold one patient: `Case` is files on disk, `Scan` arrays in memory; neither is written to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.labels import LabelSchema

__all__ = ["Case", "Scan"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One patient on disk.

    Attributes:
        id: Name of the case, for example `BraTS2021_00000`.
        paths: Path of each modality, keyed by the names in `bratskit.labels.MODALITIES`.
        labels_path: Path of the expert mask, or None where there is none.
        schema: Declares what the integers in the mask mean.
        channels: Where each modality stands along the fourth axis, if `paths` name one 4D file;
            empty for one file a modality.
    """

    id: str
    paths: Mapping[str, Path]
    labels_path: Path | None
    schema: LabelSchema
    channels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, repr=False)
class Scan:
    """One patient in memory, on the scanner's own grid.

    Attributes:
        id: Name of the case.
        image: Intensities `(4, I, J, K)` float32, RAS+, channels in the order of `MODALITIES`.
        labels: Internal labels `(I, J, K)` uint8 on the same grid, or None.
        affine: Voxel to world `(4, 4)` of the RAS+ grid, mm.
        schema: Edition that the mask was read from.
        header: Header of the file on disk (its own orientation), needed to write a mask back.
        disk_affine: Voxel to world `(4, 4)` of the file on disk, mm.
    """

    id: str
    image: NDArray[np.float32]
    labels: NDArray[np.uint8] | None
    affine: NDArray[np.float64]
    schema: LabelSchema
    header: nib.Nifti1Header
    disk_affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along I, J, K in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    def __repr__(self) -> str:
        shape = " x ".join(str(length) for length in self.image.shape[1:])
        spacing = " x ".join(f"{length:g}" for length in self.spacing_mm)
        mask = f"labels {self.schema.name}" if self.labels is not None else "no labels"
        return f"<Scan {self.id}: {len(self.image)} x {shape} voxels of {spacing} mm, {mask}>"
