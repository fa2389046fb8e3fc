"""Count disk space before it is used, and choose the form of a store that fits into it."""

import errno
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.volume import read_grid
from bratskit.settings import GeometrySettings, Recipe

__all__ = [
    "FORMS",
    "Form",
    "FullDiskError",
    "Space",
    "choose_form",
    "count_bytes",
    "estimate_bytes",
    "find_space",
    "refuse_full_disk",
    "require_free_space",
]

Form = Literal["fast", "compact"]
FORMS = ("fast", "compact")  # the first that fits is taken

# Bytes a voxel: of each modality, and of labels and brain mask together.
# fast: float16; uint8 and bool. compact: with BRAIN_BOX_ML a margin above fifteen real cases, where
# modalities take 0.37 to 0.46 on grids that end at the brain, 0.51 on a crop from its middle.
BYTES_A_VOXEL = {"fast": (2.0, 2.0), "compact": (0.43, 0.03)}
DENSE_BYTES = 0.56  # compact, of a modality where `crop_vox` or `size_vox` sets the grid
CASE_BYTES = 80_000  # foreground.npz and levels.npy, at most
BRAIN_BOX_ML = 3750  # the largest of thirty BraTS cases; they are 2471 to 3750
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WORK_SHARE, WORK_BYTES = 0.1, 2e9  # left free for checkpoints, predictions and figures of a run


class FullDiskError(OSError):
    """The disk, or the budget, does not hold what is to be written."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """How many bytes a store may take in all, and why.

    Attributes:
        total_bytes: What the finished store may weigh, with the cases that are there already.
        reason: The arithmetic behind it, for people.
    """

    total_bytes: float
    reason: str


def find_space(folder: Path, *, present_bytes: int, budget_gb: float | None) -> Space:
    """Find what a store may weigh.

    Without a budget that is what it weighs already and what is free on its disk, less room to
    work: a tenth of what is free, at most 2 GB.

    Args:
        folder: The store; must exist.
        present_bytes: What the store's cases weigh already.
        budget_gb: Limit for the whole store, 1e9 bytes; never more than the disk has.

    Raises:
        ValueError: The budget is not above 0.
    """
    if budget_gb is not None and not budget_gb > 0:
        msg = f"budget_gb must be above 0; got {budget_gb}. None takes what the disk has."
        raise ValueError(msg)
    free = shutil.disk_usage(folder).free
    there = f" + {_size(present_bytes)} there" if present_bytes else ""
    if budget_gb is not None and budget_gb * 1e9 <= present_bytes + free:
        return Space(total_bytes=budget_gb * 1e9, reason=f"the budget is {_size(budget_gb * 1e9)}")
    work = min(WORK_SHARE * free, WORK_BYTES)
    return Space(
        total_bytes=present_bytes + free - work,
        reason=f"{_size(free)} free{there} - {_size(work)} to work",
    )


def choose_form(
    needed: Mapping[str, float], space: Space, *, wanted: str, there: str | None = None
) -> tuple[Form, str]:
    """Choose how the cases still to be made are stored.

    Args:
        needed: Bytes of the finished store in each of `FORMS`.
        space: What it may weigh.
        wanted: One of `FORMS`, or "auto": the form of the cases that are there where the rest
            fits like that, else "fast" where that fits, else "compact".
        there: Form of the cases that are there, if they agree.

    Returns:
        The form, and one line with the arithmetic.

    Raises:
        FullDiskError: It does not fit; says the need of each form.
    """
    order = (wanted,) if wanted != "auto" else tuple(dict.fromkeys((there or "fast", *FORMS)))
    line = (
        f"store needs about {_size(needed['fast'])} fast or {_size(needed['compact'])} compact, "
        f"may take {_size(space.total_bytes)} ({space.reason})"
    )
    for form in order:
        if needed[form] <= space.total_bytes:
            return form, f"{line}: {form}"
    also = " The compact form would fit: form='compact', or --form compact." * (
        wanted == "fast" and needed["compact"] <= space.total_bytes
    )
    msg = f"{line}.{also} Free some space, raise the budget or choose a folder on another disk."
    raise FullDiskError(msg)


def estimate_bytes(cases: Sequence[Case], recipe: Recipe) -> dict[str, float]:
    """Estimate from headers what prepared cases will weigh in each form, bytes."""
    total = dict.fromkeys(FORMS, 0.0)
    for case in cases:
        voxels, brain = _estimate_voxels(case, recipe.geometry)
        # Background outside the brain costs nothing once compressed.
        for form, counted in (("fast", voxels), ("compact", min(brain, voxels))):
            total[form] += count_bytes(
                form, counted, n_modalities=len(recipe.modalities), is_dense=_is_fixed(recipe)
            )
    return total


def count_bytes(form: str, voxels: float, *, n_modalities: int, is_dense: bool = True) -> float:
    """Say what a prepared case weighs on disk, labels and brain mask included.

    Args:
        form: One of `FORMS`.
        voxels: Size of the prepared grid.
        n_modalities: Channels of the image.
        is_dense: Whether the grid may be mostly brain, which compresses less.
    """
    each, rest = BYTES_A_VOXEL[form]
    if is_dense and form == "compact":
        each = DENSE_BYTES
    return voxels * (n_modalities * each + rest) + CASE_BYTES


def require_free_space(folder: Path, needed_bytes: float, *, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        FullDiskError: Says what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise FullDiskError(_full(folder, needed_bytes, what, _size(free)))


def refuse_full_disk(error: OSError, folder: Path, needed_bytes: float, *, what: str) -> None:
    """Raise `FullDiskError` where an error says that a disk, or a quota, ran full."""
    # NumPy reports a short write in words only: "4000000 requested and 199872 written".
    if error.errno in FULL or (error.errno is None and "written" in str(error)):
        free = shutil.disk_usage(folder).free
        got = f"{_size(free)} and the error {error.strerror or error}"
        raise FullDiskError(_full(folder, needed_bytes, what, got)) from error


def _full(folder: Path, needed_bytes: float, what: str, got: str) -> str:
    return (
        f"{folder} must have {_size(needed_bytes)} free for {what}; got {got}. "
        "Free some space or choose a folder on another disk."
    )


def _is_fixed(recipe: Recipe) -> bool:
    return (recipe.geometry.crop_vox or recipe.geometry.size_vox) is not None


def _estimate_voxels(case: Case, settings: GeometrySettings) -> tuple[float, float]:
    """Estimate the voxels of the prepared grid, and how many a brain box could take of them."""
    fixed = settings.crop_vox or settings.size_vox
    if fixed is not None:
        return float(np.prod(fixed)), float(np.prod(fixed))
    try:
        shape, zooms = read_grid(next(iter(case.paths.values())))
    except (OSError, ValueError):  # reported in its turn
        return 0.0, 0.0
    grid_mm3 = float(np.prod(shape)) * float(np.prod(zooms))
    brain_mm3 = min(grid_mm3, 1000 * BRAIN_BOX_ML)
    region_mm3 = brain_mm3 if settings.region == "brain" else grid_mm3
    voxel_mm3 = float(np.prod(settings.spacing_mm or zooms))
    return region_mm3 / voxel_mm3, brain_mm3 / voxel_mm3


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
