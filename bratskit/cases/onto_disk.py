"""Put an array into a file that says of the grid what the scan's own file said; whole or not."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.runtime import write_atomically

__all__ = ["as_nifti", "write_into"]


def as_nifti(stored: NDArray[np.generic], like: Scan, *, step: float | None = None) -> bytes:
    """Make the bytes of a NIfTI file with the header of a scan: all that is said of the grid stays.

    Args:
        stored: Values as they stand on disk, `(i, j, k)` or `(i, j, k, L)` in disk order.
        like: The scan.
        step: What a stored 1 means; None declares no scale.
    """
    header = like.header.copy().as_byteswapped("<")
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header["pixdim"][4:] = like.header["pixdim"][4:]  # nibabel resets what 3D leaves unused
    header["cal_min"] = header["cal_max"] = 0  # the display window of another volume
    header["vox_offset"] = 0  # nibabel fills it in
    kind = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
    raw = kind(stored, like.disk_affine, header).to_bytes()
    if step is None:
        return raw
    header = type(header)(raw[: header.sizeof_hdr], check=False)
    header["scl_slope"], header["scl_inter"] = step, 0  # nibabel would divide the values by it
    return header.binaryblock + raw[header.sizeof_hdr :]


def write_into(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all, into a folder that is made; a full disk is named."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, write)
    except OSError as error:
        msg = (
            f"output folder must be writable; got {path.parent} ({error.strerror}). "
            "Choose another, for example predictions in your home folder."
        )
        raise PermissionError(msg) from error
