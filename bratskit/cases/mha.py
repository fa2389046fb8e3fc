"""Read and write MetaImage (.mha), in which BraTS 2012-2015 came, as if it had been NIfTI."""

import errno
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

__all__ = ["is_mha", "read_mha", "read_mha_grid", "write_mha"]

_FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's world points to left and posterior, NIfTI's away


def is_mha(path: Path) -> bool:
    """Tell a MetaImage by its suffix."""
    return path.suffix.lower() == ".mha"


def read_mha(
    path: Path, what: str
) -> tuple[NDArray[np.generic], nib.Nifti1Header, NDArray[np.float64]]:
    """Decode a MetaImage with SimpleITK.

    Args:
        path: The file.
        what: Names file and case, for messages.

    Returns:
        Stored values `(I, J, K)` in the order of the file, the header that NIfTI would have had,
        and voxel to world `(4, 4)`, mm, x to the right and y to the front.

    Raises:
        ValueError: It is damaged, no MetaImage, not 3D, or not made of real numbers.
    """
    import SimpleITK  # takes long, and few cohorts need it

    try:
        image = SimpleITK.ReadImage(str(path), imageIO="MetaImageIO")
    except RuntimeError as error:
        msg = (
            f"{what} must be a whole MetaImage; got {path.stat().st_size} bytes that are truncated "
            f"or damaged ({_reason(error)}). Copy or download {path} again."
        )
        raise ValueError(msg) from error
    values = SimpleITK.GetArrayFromImage(image)
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        msg = (
            f"{what} must be one 3D volume; got shape {values.T.shape}. "
            "Save the volume you mean on its own."
        )
        raise ValueError(msg)
    if values.dtype.kind not in "iuf":
        msg = f"{what} must hold integers or real numbers; got {values.dtype}. Save it as int16."
        raise ValueError(msg)
    affine = _affine_of(image)
    return values.T, _header_of(values.T, affine), affine


def read_mha_grid(path: Path) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Read shape and spacing in mm from the header alone.

    Raises:
        ValueError: The header cannot be read.
    """
    import SimpleITK

    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        msg = f"{path} must be a MetaImage; got {_reason(error)}. Copy or download it again."
        raise ValueError(msg) from error
    return reader.GetSize(), reader.GetSpacing()


def write_mha(path: Path, stored: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Write values `(I, J, K)` on the grid of a NIfTI-like affine, compressed, as BraTS did.

    Raises:
        OSError: The file cannot be written.
    """
    import SimpleITK

    lps = _FLIP_XY @ affine + 0.0  # + 0.0 turns -0 into 0
    spacing_mm = np.linalg.norm(lps[:3, :3], axis=0)
    native = np.dtype(stored.dtype).newbyteorder("=")
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(stored.T, native))
    image.SetSpacing(spacing_mm.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing_mm).ravel().tolist())
    try:
        SimpleITK.WriteImage(image, str(path), useCompression=True)
    except RuntimeError as error:  # of ITK, whatever the reason
        raise OSError(errno.EIO, _reason(error)) from error


def _reason(error: RuntimeError) -> str:
    return " ".join(str(error).strip().split("\n")[-1].split())


def _affine_of(image: object) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return _FLIP_XY @ affine + 0.0


def _header_of(values: NDArray[np.generic], affine: NDArray[np.float64]) -> nib.Nifti1Header:
    header = nib.Nifti1Header()
    header.set_data_shape(values.shape)
    header.set_data_dtype(values.dtype)
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    return header
