"""Frame a phantom as BraTS frames a patient: settings, field of view, header; needs no torch."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.write import cavity_integer
from bratskit.labels import LabelSchema, get_schema

if TYPE_CHECKING:
    from bratskit.cases.phantoms.growth import Growth

__all__ = [
    "COHORT_SEEDS",
    "EXTRA_SEED",
    "FIT_SEED",
    "GENERATOR",
    "KINDS",
    "STREAM_SEED",
    "as_scan",
    "facts_of_order",
    "field_shape",
    "ingredients_of",
    "refuse_kept_seed",
    "refuse_odd_growth",
    "seeds_of",
]

GENERATOR = 3  # raise it when a seed gives another phantom than before

# Seeds of cohorts and recipes are below COHORT_SEEDS. What a network learns from has its recipe's
# seed plus one of these, so that no cohort that it is scored on can hold the same phantoms.
COHORT_SEEDS = 20_000
EXTRA_SEED = 20_000  # phantoms added to the patients of a real cohort
STREAM_SEED = 40_000  # phantoms made while a network learns
FIT_SEED = 60_000  # phantoms that a benchmark fits something to

KINDS = ("ring", "solid", "patchy", "low-grade")  # of tumours; `Growth` says what they are
_FIELD_MM = (240.0, 240.0, 155.0)  # BraTS: 240x240x155 voxels of 1 mm


def seeds_of(
    seed: int | tuple[int, ...], spacing_mm: tuple[float, float, float]
) -> tuple[int, ...]:
    """Return the seed as a tuple, once it and the voxel size are such as a phantom can have.

    A single seed is case 0 of the cohort of that seed: NumPy fills seeds up with zeros.

    Raises:
        TypeError: A seed is no whole number, or the spacing is not a sequence.
        ValueError: A seed is negative or needs more than 32 bits, which NumPy would split into two
            seeds; or the spacing is not three numbers from 0.5 to 10.
    """
    seeds = tuple(seed) if isinstance(seed, tuple | list) else (seed,)
    if not all(isinstance(s, int | np.integer) for s in seeds):
        msg = f"seed must be a whole number, or a tuple of them; got {seed!r}. Take 0, for example."
        raise TypeError(msg)
    if not isinstance(spacing_mm, tuple | list | np.ndarray):
        msg = f"spacing_mm must be three numbers; got {spacing_mm!r}. BraTS: (1, 1, 1)."
        raise TypeError(msg)
    if not seeds or min(seeds) < 0 or max(seeds) >= 2**32:
        msg = f"seed must be 0 or more, and below 2**32; got {seeds}. Take 0, for example."
        raise ValueError(msg)
    if len(spacing_mm) != 3 or not all(0.5 <= s <= 10 for s in spacing_mm):
        msg = (
            f"spacing_mm must be three numbers from 0.5 to 10; got {spacing_mm}. BraTS: (1, 1, 1)."
        )
        raise ValueError(msg)
    return tuple(int(s) for s in seeds)


def refuse_odd_growth(growth: "Growth") -> None:
    """Refuse a plan that is no tumour's: one changed by hand may hold anything.

    Raises:
        ValueError: A value is out of its range; the message says which.
    """
    limits = {
        "whole_ml": (0.05, 400),
        "core_share": (0, 1),
        "enhancing_share": (0, 1),
        "push": (0, 0.85),
        "diffusion_white_mm2_day": (1e-6, 10),
        "diffusion_grey_mm2_day": (0, 10),
        "proliferation_per_day": (1e-6, 10),
    }
    for name, (low, high) in limits.items():
        value = getattr(growth, name)
        if not low <= value <= high:
            msg = f"growth.{name} must be from {low:g} to {high:g}; got {value}."
            raise ValueError(msg)
    if growth.kind not in KINDS:
        msg = f"growth.kind must be one of {KINDS}; got {growth.kind!r}."
        raise ValueError(msg)


def refuse_kept_seed(seed: int, *, is_for_training: bool = False) -> None:
    """Refuse a seed of a cohort or a recipe whose phantoms a network may have learned from.

    Args:
        seed: Seed of the cohort or the recipe.
        is_for_training: Whether the cohort is one of those that networks learn from.

    Raises:
        ValueError: The seed is not below 20000; for training, not from 20000 to 39999.
    """
    low = EXTRA_SEED if is_for_training else 0
    if not low <= seed < low + COHORT_SEEDS:
        msg = (
            f"seed must be 0 to {COHORT_SEEDS - 1} (from {COHORT_SEEDS} on phantoms are kept for "
            f"training); got {seed}. Take 0, for example."
            if not is_for_training
            else f"seed must be {low} to {low + COHORT_SEEDS - 1} for training; got {seed}. "
            f"Add {EXTRA_SEED} to the recipe's."
        )
        raise ValueError(msg)


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
