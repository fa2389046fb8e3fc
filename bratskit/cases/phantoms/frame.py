"""Frame a phantom as BraTS frames a patient: settings, field of view, header; needs no torch."""

from dataclasses import asdict

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.write import cavity_integer
from bratskit.labels import LabelSchema, get_schema

__all__ = ["GENERATOR", "as_scan", "facts_of_order", "field_shape", "ingredients_of", "seeds_of"]

GENERATOR = 2  # raise it when a seed gives another phantom than before

_FIELD_MM = (240.0, 240.0, 155.0)  # BraTS: 240x240x155 voxels of 1 mm


def seeds_of(
    seed: int | tuple[int, ...], spacing_mm: tuple[float, float, float]
) -> tuple[int, ...]:
    """Return the seed as a tuple, once it and the voxel size are such as a phantom can have.

    Raises:
        ValueError: A seed is negative, or the spacing is not three numbers from 0.5 to 10.
    """
    seeds = (seed,) if isinstance(seed, int | np.integer) else tuple(seed)
    if not seeds or min(seeds) < 0:
        msg = f"seed must be 0 or more; got {seeds}. Take 0, for example."
        raise ValueError(msg)
    if len(spacing_mm) != 3 or not all(0.5 <= s <= 10 for s in spacing_mm):
        msg = (
            f"spacing_mm must be three numbers from 0.5 to 10; got {spacing_mm}. BraTS: (1, 1, 1)."
        )
        raise ValueError(msg)
    return tuple(int(s) for s in seeds)


def ingredients_of(edition: LabelSchema | str) -> Ingredients:
    """Return what goes into a cohort by default: where masks mark cavities, some have one.

    Examples:
        >>> ingredients_of("brats2024-gli").cavity, ingredients_of("brats2017-2021").cavity
        (1.0, 0.0)
    """
    return Ingredients(cavity=float(cavity_integer(get_schema(edition)) is not None))


def facts_of_order(
    seeds: tuple[int, ...], spacing_mm: tuple[float, ...], ingredients: Ingredients
) -> dict[str, object]:
    """Say what was ordered, in the words of `<case>_truth.json`: it decides every voxel."""
    return {
        "seed": list(seeds),
        "generator": GENERATOR,
        "spacing_mm": [float(s) for s in spacing_mm],
        "ingredients": asdict(ingredients),
    }


def field_shape(spacing_mm: tuple[float, ...]) -> tuple[int, int, int]:
    """Return the voxels of the whole field of view.

    Examples:
        >>> field_shape((1.0, 1.0, 5.0))
        (240, 240, 31)
    """
    ni, nj, nk = (round(f / s) for f, s in zip(_FIELD_MM, spacing_mm, strict=True))
    return ni, nj, nk


def as_scan(
    name: str, image: NDArray[np.float32], labels: NDArray[np.uint8], spacing_mm: tuple[float, ...]
) -> Scan:
    """Wrap arrays in the header that BraTS files carry: LPS+ on disk, first voxel at y = n - 1."""
    sx, sy, sz = (float(s) for s in spacing_mm)
    ni, nj, _ = labels.shape
    disk_affine = np.diag([-sx, -sy, sz, 1.0])
    disk_affine[1, 3] = (nj - 1) * sy
    affine = np.diag([sx, sy, sz, 1.0])
    affine[0, 3] = -(ni - 1) * sx
    header = nib.Nifti1Header()
    header.set_data_shape(labels.shape)
    header.set_data_dtype(np.int16)
    header.set_qform(disk_affine, code="scanner")
    header.set_sform(disk_affine, code="scanner")
    header.set_xyzt_units("mm")
    return Scan(
        id=name,
        image=image,
        labels=labels,
        affine=affine,
        schema=get_schema("brats2017-2021"),
        header=header,
        disk_affine=disk_affine,
    )
