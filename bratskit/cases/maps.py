"""Write what a network says about each voxel, as numbers from 0 to below 4, beside a mask."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.cases.onto_disk import as_nifti, write_into
from bratskit.cases.volume import compress, to_disk_order

__all__ = ["MAPS", "STEP", "is_map", "write_maps"]

# The files hold uint16 times this. As a power of two it makes 0 and 1 exact; no value is off by
# more than half of it, 3e-5, and a file is half as large as with float32.
STEP = 2.0**-14
MOST = 2**16 * STEP

MAPS = ("probabilities", "entropy", "mutual_information")  # <case id>_<name>.nii.gz beside a mask


def write_maps(maps: NDArray[np.floating], path: Path | str, *, like: Scan) -> Path:
    """Write maps of probabilities or entropies on the disk grid of a scan, `STEP` apart.

    Args:
        maps: One map `(I, J, K)`, or several `(L, I, J, K)`, which become the fourth axis of one
            file; RAS+, from 0 to below 4: probabilities, or entropies in bits.
        path: Where to write, `.nii.gz` or `.nii`; its folder is made.
        like: The scan that they belong to; affine, codes and units of the file are its own.

    Returns:
        The path.

    Raises:
        ValueError: The shape is not the scan's, a value is out of range, or the name ends
            otherwise.
        PermissionError: The folder cannot be made or written to.
    """
    path, maps = Path(path), np.asarray(maps)
    if not path.name.endswith((".nii", ".nii.gz")):
        msg = f"path must end in .nii.gz or .nii; got {path}. Try {path.name}.nii.gz."
        raise ValueError(msg)
    if maps.ndim not in (3, 4) or maps.shape[-3:] != like.image.shape[1:]:
        msg = (
            f"maps of case {like.id} must have the native shape {like.image.shape[1:]}; got "
            f"{maps.shape}. Send them back with the geometry's inverse first."
        )
        raise ValueError(msg)
    low, high = float(maps.min()), float(maps.max())
    if not 0 <= low <= high < MOST:
        msg = (
            f"maps of case {like.id} must hold values from 0 to below 4; got {low:g} to {high:g}. "
            "Write other numbers with write_volume."
        )
        raise ValueError(msg)
    several = maps if maps.ndim == 4 else maps[None]
    stored = np.stack([_as_stored(one, like) for one in several], axis=-1)
    stored = stored if maps.ndim == 4 else stored[..., 0]
    raw = as_nifti(stored, like, step=STEP)
    content = compress(raw) if path.suffix == ".gz" else raw
    write_into(path, lambda temporary: temporary.write_bytes(content))
    return path


def is_map(name: str) -> bool:
    """Tell a map that lies beside a mask from a mask, by its name.

    Examples:
        >>> is_map("BraTS2021_00000_entropy.nii.gz"), is_map("BraTS2021_00000.nii.gz")
        (True, False)
    """
    return name.endswith(tuple(f"_{kind}.nii{gz}" for kind in MAPS for gz in ("", ".gz")))


def _as_stored(one: NDArray[np.floating], like: Scan) -> NDArray[np.uint16]:
    return to_disk_order(np.rint(one / np.float32(STEP)).astype("<u2"), like.disk_affine)
