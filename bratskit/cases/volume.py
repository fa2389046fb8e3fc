"""Decode one file into RAS+ views of its stored values, refusing what cannot be trusted."""

import dataclasses
import gzip
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from bratskit.cases.mha import is_mha, read_mha, read_mha_grid

try:
    from isal import isal_zlib as fast_zlib  # decodes gzip twice as fast
except ImportError:
    fast_zlib = zlib

__all__ = [
    "Volume",
    "compress",
    "read_channels",
    "read_grid",
    "read_volume",
    "refuse_other_grid",
    "to_disk_order",
]

MOST_GZIP_GROWTH = 1032  # deflate spends at least 2 bits on 258 bytes (zlib technical details)
GRID_TOLERANCE_MM = 0.05  # far above float32 rounding in a header, far below a voxel

_HEADERS = {348: nib.Nifti1Header, 540: nib.Nifti2Header}  # by sizeof_hdr, the first four bytes
_MAGICS = (b"n+1", b"n+2")  # header and data in one file
_RAS = np.array([[0, 1], [1, 1], [2, 1]])


@dataclass(frozen=True)
class Volume:
    """One 3D volume in memory, reoriented to RAS+, its values still as stored.

    Attributes:
        path: File it was read from.
        data: Stored values `(I, J, K)`, a view in RAS+ order.
        slope: Factor from stored to real values; 1 where the file declares none.
        inter: Offset from stored to real values.
        affine: Voxel to world `(4, 4)` of the RAS+ grid, mm.
        header: Header as on disk; of a channel the 3D part, of a MetaImage what NIfTI would say.
        disk_affine: Voxel to world `(4, 4)` of the grid on disk, mm.
    """

    path: Path
    data: NDArray[np.generic]
    slope: float
    inter: float
    affine: NDArray[np.float64]
    header: nib.Nifti1Header = field(repr=False)
    disk_affine: NDArray[np.float64] = field(repr=False)

    def forget(self) -> "Volume":
        """Keep shape, type and header, and let go of the memory: all voxels read 0."""
        nothing = np.zeros((), self.data.dtype)
        return dataclasses.replace(self, data=np.broadcast_to(nothing, self.data.shape))

    def write_values(self, out: NDArray[np.float32]) -> None:
        """Write the real values into an array `(I, J, K)`, each rounded once to float32."""
        if self.inter:
            out[...] = self.data * np.float64(self.slope) + self.inter
        elif self.slope != 1:
            np.multiply(self.data, np.float32(self.slope), out=out, casting="same_kind")
        else:
            out[...] = self.data


def read_volume(path: Path | str, *, case_id: str, channel: int | None = None) -> Volume:
    """Read a single-file NIfTI-1 or -2, compressed or not whatever its suffix says, or a `.mha`.

    Args:
        path: The file.
        case_id: Name of the case, for messages.
        channel: Place along the fourth axis of a 4D file; None wants a 3D file.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is damaged, not a NIfTI, not 3D (or has no such channel), not made of real
            numbers, or its affine is unusable.
    """
    if channel is None:
        return _read(Path(path), case_id, is_4d=False)[0]
    volumes = read_channels(path, case_id=case_id)
    if not 0 <= channel < len(volumes):
        msg = (
            f"{Path(path).name} of case {case_id} must have a channel {channel}; got "
            f"{len(volumes)} channels, counted from 0. Look at its dataset.json."
        )
        raise ValueError(msg)
    return volumes[channel]


def read_channels(path: Path | str, *, case_id: str) -> list[Volume]:
    """Read a 4D file once and return its channels, each as `read_volume` would; 3D gives one.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: As in `read_volume`, or there are more than four axes.
    """
    return _read(Path(path), case_id, is_4d=True)


def _read(path: Path, case_id: str, *, is_4d: bool) -> list[Volume]:
    what = f"{path.name} of case {case_id}"
    raw = _read_bytes(path, what)
    if is_mha(path):
        values, header, disk_affine = read_mha(path, what)
        shape = values.shape
    else:
        header = _parse_header(raw, what)
        shape = _voxel_shape(header, what, is_4d=is_4d)
        disk_affine = _usable_affine(header, what)
        values = _stored_values(raw, header, shape, what)
    slope, inter = _scaling(header)
    if shape[3:]:
        header = header.copy()
        header.set_data_shape(shape[:3])
    orientation = io_orientation(disk_affine)
    affine = disk_affine @ inv_ornt_aff(orientation, shape[:3])
    channels = np.moveaxis(values, -1, 0) if shape[3:] else [values]
    return [
        Volume(
            path=path,
            data=apply_orientation(channel, orientation),
            slope=slope,
            inter=inter,
            affine=affine,
            header=header,
            disk_affine=disk_affine,
        )
        for channel in channels
    ]


def read_grid(path: Path | str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Read shape `(I, J, K)` and spacing in mm, axes as on disk, from the header alone.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It has no header that can be read.
    """
    path = Path(path)
    if is_mha(path):
        shape, spacing_mm = read_mha_grid(path)
        return shape[:3], spacing_mm[:3]
    try:
        header = nib.load(path).header
    except nib.filebasedimages.ImageFileError as error:
        msg = f"{path} must be a NIfTI file; got {error}. Copy or download it again."
        raise ValueError(msg) from error
    return header.get_data_shape()[:3], tuple(map(float, header.get_zooms()[:3]))


def to_disk_order(
    array_ras: NDArray[np.generic], disk_affine: NDArray[np.float64]
) -> NDArray[np.generic]:
    """Undo the flips and the permutation of `read_volume`, exactly."""
    back = ornt_transform(_RAS, io_orientation(disk_affine))
    return apply_orientation(array_ras, back)


def refuse_other_grid(volume: Volume, reference: Volume, *, case_id: str) -> None:
    """Refuse a file whose RAS+ grid is not the one of the reference file.

    Raises:
        ValueError: Shapes differ, or a corner lies more than `GRID_TOLERANCE_MM` elsewhere.
    """
    what = f"{volume.path.name} of case {case_id} must lie on the grid of {reference.path.name}"
    todo = "Resample it to that grid (labels: nearest neighbour) or take the file made with it."
    if volume.data.shape != reference.data.shape:
        msg = f"{what}, shape {reference.data.shape}; got shape {volume.data.shape}. {todo}"
        raise ValueError(msg)
    apart_mm = grid_distance_mm(volume.affine, reference.affine, volume.data.shape)
    if apart_mm > GRID_TOLERANCE_MM:
        msg = f"{what}; got an affine that puts a corner {apart_mm:.2f} mm away. {todo}"
        raise ValueError(msg)


def grid_distance_mm(
    affine: NDArray[np.float64], other: NDArray[np.float64], shape: tuple[int, ...]
) -> float:
    """Measure how far apart two affines put the corners of one grid, at most, in mm."""
    ends = [(0, length - 1) for length in shape]
    corners = np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
    difference = (affine - other)[:3]
    offsets = corners @ difference[:, :3].T + difference[:, 3]
    return float(np.linalg.norm(offsets, axis=1).max())


def compress(raw: bytes) -> bytes:
    """Compress to gzip without a time stamp, so that equal content gives equal files.

    By the standard library, at 0.1 s a BraTS volume: isal takes a tenth of that, but now and then
    gives other bytes for the same content (seen with isal 1.9.1), and where it is not installed
    all bytes would differ.
    """
    return gzip.compress(raw, compresslevel=3, mtime=0)


def _read_bytes(path: Path, what: str) -> bytes:
    if not path.is_file():
        msg = f"{what} must exist; got no file at {path}. Copy it there again."
        raise FileNotFoundError(msg)
    raw = path.read_bytes()
    if not raw:
        msg = f"{what} must hold an image; got an empty file. Copy or download {path} again."
        raise ValueError(msg)
    if not raw.startswith(b"\x1f\x8b"):  # gzip's own magic: suffixes lie
        return raw
    try:
        return _decompress(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error, fast_zlib.error) as error:
        msg = (
            f"{what} must be a whole gzip file; got {len(raw)} bytes that are truncated or damaged "
            f"({error}). Copy or download {path} again."
        )
        raise ValueError(msg) from error


def _decompress(raw: bytes) -> bytes:
    """Decode in one go into a buffer of the right size: half the time of one that must grow."""
    declared = int.from_bytes(raw[-4:], "little")
    if declared <= MOST_GZIP_GROWTH * len(raw):  # else no gzip trailer, or a file of 4 GiB
        decoded = fast_zlib.decompress(raw, wbits=31, bufsize=declared + 1)
        trailer = struct.pack("<II", fast_zlib.crc32(decoded), len(decoded) & 0xFFFFFFFF)
        if raw.endswith(trailer):  # the first member of the file is its last
            return decoded
    return _decompress_members(raw)


def _decompress_members(raw: bytes) -> bytes:
    decoder = fast_zlib.decompressobj(wbits=31)  # 31: gzip header and checksum
    decoded = decoder.decompress(raw)
    if not decoder.eof:
        msg = "the end is missing"
        raise EOFError(msg)
    if decoder.unused_data.strip(
        b"\0"
    ):  # several gzip members in one file, or junk after the first
        return gzip.decompress(raw)
    return decoded


def _parse_header(raw: bytes, what: str) -> nib.Nifti1Header:
    sizes = [int.from_bytes(raw[:4], order) for order in ("little", "big")]
    kind = next((_HEADERS[size] for size in sizes if size in _HEADERS), None)
    header = None
    if kind is not None and len(raw) >= kind.sizeof_hdr:
        # checks are ours: nibabel would repair a spacing of zero or less without a word
        header = kind(raw[: kind.sizeof_hdr], check=False)
    if header is None or header["magic"].item()[:3] not in _MAGICS:
        msg = (
            f"{what} must be a single-file NIfTI (.nii or .nii.gz); got {len(raw)} bytes starting "
            f"with {raw[:4]!r}. Convert it, for example with dcm2niix or nibabel."
        )
        raise ValueError(msg)
    return header


def _voxel_shape(header: nib.Nifti1Header, what: str, *, is_4d: bool) -> tuple[int, ...]:
    n_axes = int(header["dim"][0])
    shape = tuple(int(length) for length in header["dim"][1 : 1 + n_axes])
    n_wanted = 4 if is_4d and shape[3:4] > (1,) else 3
    if n_axes < 3 or min(shape) < 1 or any(length > 1 for length in shape[n_wanted:]):
        msg = (
            f"{what} must be one {n_wanted}D volume; got shape {shape}. "
            "Save the volume you mean on its own, for example image.slicer[..., 0]."
        )
        raise ValueError(msg)
    return shape[:n_wanted]


def _usable_affine(header: nib.Nifti1Header, what: str) -> NDArray[np.float64]:
    spacing_mm = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(spacing_mm).all() and spacing_mm.min() > 0):
        got = ", ".join(f"{length:g}" for length in spacing_mm)
        msg = f"{what} must have a spacing above 0 mm; got ({got}). Repair pixdim in its header."
        raise ValueError(msg)
    try:
        affine = np.asarray(header.get_best_affine(), float)
    except (HeaderDataError, ValueError):
        affine = np.full((4, 4), np.nan)
    edges_mm = np.prod(np.linalg.norm(affine[:3, :3], axis=0))
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * edges_mm:
        msg = (
            f"{what} must have an affine that can be inverted; got {affine[:3].tolist()}. "
            "Copy qform and sform from another modality of the case."
        )
        raise ValueError(msg)
    return affine


def _scaling(header: nib.Nifti1Header) -> tuple[float, float]:
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not np.isfinite(slope) or slope == 0:  # NIfTI-1 standard: a slope of 0 means no scaling
        return 1.0, 0.0
    return slope, inter if np.isfinite(inter) else 0.0


def _stored_values(
    raw: bytes, header: nib.Nifti1Header, shape: tuple[int, ...], what: str
) -> NDArray[np.generic]:
    try:
        dtype = header.get_data_dtype()
    except HeaderDataError:
        dtype = np.dtype("V")
    if dtype.kind not in "iuf":
        code = int(header["datatype"])
        msg = (
            f"{what} must hold integers or real numbers; got NIfTI data type {code}. "
            "Save it as int16 or float32."
        )
        raise ValueError(msg)
    offset = int(header["vox_offset"])
    n_voxels = int(np.prod(shape))
    if not header.sizeof_hdr <= offset <= len(raw) - n_voxels * dtype.itemsize:
        msg = (
            f"{what} must hold {n_voxels * dtype.itemsize} bytes of voxels for shape {shape}; got "
            f"{max(len(raw) - offset, 0)}: it is truncated. Copy or download it again."
        )
        raise ValueError(msg)
    return np.frombuffer(raw, dtype, n_voxels, offset).reshape(shape, order="F")
