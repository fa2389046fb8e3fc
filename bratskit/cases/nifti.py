"""Load scans and masks in RAS+ without loss, and put masks back on the grid they came from."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case, Scan
from bratskit.cases.memory import extent
from bratskit.cases.mha import is_mha, write_mha
from bratskit.cases.onto_disk import as_nifti, write_into
from bratskit.cases.volume import (
    Volume,
    compress,
    read_channels,
    read_volume,
    refuse_other_grid,
    to_disk_order,
)
from bratskit.labels import LABELS, MODALITIES, LabelSchema, get_schema

__all__ = [
    "load_labels",
    "load_scan",
    "read_case",
    "to_internal",
    "write_finite",
    "write_labels",
    "write_volume",
]

_UNKNOWN = 255  # marks, in a look-up table, an integer that the schema does not define


def load_scan(case: Case, *, threads: int | None = None) -> Scan:
    """Load the four modalities of a case, and its mask where there is one, in RAS+.

    Axes are only flipped and permuted, so every voxel keeps its value. `Scan.header` is the one of
    the mask, or else of the first modality: the file that a prediction should look like.

    Args:
        case: Files of one patient.
        threads: Files decoded at once; None means one a core, at most one a file.

    Raises:
        FileNotFoundError: A file of the case does not exist.
        ValueError: A modality is missing, a file is damaged or not 3D, grids differ, or a value is
            not finite, not an integer label or unknown to the schema. Names case and file.
    """
    modalities, mask = read_case(case, threads=threads)
    first = modalities[0]
    image = np.empty((len(modalities), *first.data.shape), np.float32)
    with ThreadPoolExecutor(threads or _workers(len(modalities))) as pool:
        jobs = [
            pool.submit(write_finite, volume, out, case_id=case.id)
            for volume, out in zip(modalities, image, strict=True)
        ]
        labels = to_internal(mask, schema=case.schema, case_id=case.id) if mask else None
        for job in jobs:
            job.result()
    like = mask or first
    return Scan(
        id=case.id,
        image=image,
        labels=labels,
        affine=first.affine,
        schema=case.schema,
        header=like.header,
        disk_affine=like.disk_affine,
    )


def read_case(
    case: Case,
    *,
    threads: int | None = None,
    take: Callable[[str, Volume], Volume] = lambda _, volume: volume,
) -> tuple[list[Volume], Volume | None]:
    """Decode the files of a case, values as stored; a 4D file once for all its modalities.

    Args:
        case: Files of one patient.
        threads: Files decoded at once; None means one a core, at most one a file.
        take: Called with name and volume of each modality as soon as it is decoded, on its thread;
            what it returns is kept. `volume.forget()` makes room for the next file.

    Returns:
        The modalities in the order of `MODALITIES`, and the mask where the case has one, all on
        one grid.

    Raises:
        FileNotFoundError: A file of the case does not exist.
        ValueError: A modality is missing, a file is damaged or not 3D, or grids differ.
    """
    paths = _paths_of(case)

    def read(path: Path, name: str | None) -> Volume:
        volume = read_volume(path, case_id=case.id)
        return take(name, volume) if name else volume

    with ThreadPoolExecutor(threads or _workers(len(paths))) as pool:
        if case.channels:
            image = pool.submit(_read_modalities, case)
            rest = list(pool.map(read, paths[len(MODALITIES) :], [None]))
            volumes = [*map(take, MODALITIES, image.result()), *rest]
        else:
            volumes = list(pool.map(read, paths, [*MODALITIES, None]))
    for volume in volumes[1:]:
        refuse_other_grid(volume, volumes[0], case_id=case.id)
    mask = volumes[len(MODALITIES)] if case.labels_path is not None else None
    return volumes[: len(MODALITIES)], mask


def load_labels(
    path: Path | str, *, schema: LabelSchema | str
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Load one mask, made by anybody, as internal labels in RAS+.

    Args:
        path: A `.nii`, `.nii.gz` or `.mha` file.
        schema: Edition whose integers the mask uses.

    Returns:
        Labels `(I, J, K)` uint8 and the RAS+ affine `(4, 4)`, mm.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is damaged, not 3D, or holds a value that is no integer of the schema.
    """
    path = Path(path)
    case_id = path.name.removesuffix(".mha").split(".nii")[0].removesuffix("_seg")
    volume = read_volume(path, case_id=case_id)
    return to_internal(volume, schema=get_schema(schema), case_id=case_id), volume.affine


def write_labels(
    labels: NDArray[np.uint8],
    path: Path | str,
    *,
    like: Scan,
    edition: LabelSchema | str | None = None,
) -> Path:
    """Write internal labels as a mask file on the disk grid of a scan.

    Orientation is undone exactly; affine, qform, sform and their codes, spacing and units are
    those of `like`. The integer type is the one of the mask that the scan came with, else uint8.

    Args:
        labels: Internal labels `(I, J, K)` in RAS+.
        path: Where to write, `.nii.gz`, `.nii` or `.mha`; its folder is made.
        like: The scan that the labels belong to.
        edition: Whose integers to write; None means the edition of `like`.

    Returns:
        The path.

    Raises:
        TypeError: Labels are not integers.
        ValueError: Their shape is not the scan's, or a value is no internal label.
        PermissionError: The folder cannot be made or written to.
    """
    schema = like.schema if edition is None else get_schema(edition)
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu":
        msg = (
            f"labels of case {like.id} must be integers; got dtype {labels.dtype}. "
            "Take the argmax first, then astype('uint8')."
        )
        raise TypeError(msg)
    _refuse_other_shape(labels, like, name="labels")
    values = _lookup(labels, schema.to_source)
    if values is None:
        unknown = sorted(set(np.unique(labels).tolist()) - set(schema.to_source))
        msg = (
            f"labels of case {like.id} must be internal labels {sorted(schema.to_source)}; got "
            f"{unknown}. Internally they mean {', '.join(LABELS.values())}."
        )
        raise ValueError(msg)
    had_mask = like.labels is not None and like.header.get_data_dtype().kind in "iu"
    return _write(values, path, like=like, dtype=like.header.get_data_dtype() if had_mask else "u1")


def write_volume(array: NDArray[np.floating], path: Path | str, *, like: Scan) -> Path:
    """Write a map of real numbers `(I, J, K)` in RAS+ as float32 on the disk grid of a scan.

    Raises:
        ValueError: Its shape is not the scan's.
        PermissionError: The folder cannot be made or written to.
    """
    array = np.asarray(array, np.float32)
    _refuse_other_shape(array, like, name="array")
    return _write(array, path, like=like, dtype="f4")


def to_internal(volume: Volume, *, schema: LabelSchema, case_id: str) -> NDArray[np.uint8]:
    """Map the integers of a mask to internal labels.

    Raises:
        ValueError: A value is not finite, not an integer, or unknown to the schema.
    """
    values = volume.data
    where = f"{volume.path.name} (case {case_id})"
    if values.dtype.kind == "f" or (volume.slope, volume.inter) != (1.0, 0.0):
        values = _as_integers(volume, where)
    labels = _lookup(values, schema.to_internal)
    if labels is None:
        schema.refuse_unknown(np.unique(values).tolist(), where=where)
    return labels


def _paths_of(case: Case) -> list[Path]:
    missing = [name for name in MODALITIES if name not in case.paths]
    if missing:
        msg = (
            f"case {case.id} must have the modalities {', '.join(MODALITIES)}; "
            f"got none for {', '.join(missing)}. Add {case.id}_{missing[0]}.nii.gz."
        )
        raise ValueError(msg)
    masks = [] if case.labels_path is None else [Path(case.labels_path)]
    return [Path(case.paths[name]) for name in MODALITIES] + masks


def _read_modalities(case: Case) -> list[Volume]:
    """Take the modalities of a case out of its one 4D file."""
    (path,) = {Path(case.paths[name]) for name in MODALITIES}
    volumes = read_channels(path, case_id=case.id)
    wanted = [case.channels[name] for name in MODALITIES]
    if len(volumes) != len(MODALITIES) or not set(wanted) <= set(range(len(volumes))):
        msg = (
            f"{path.name} of case {case.id} must have {len(MODALITIES)} channels, one a modality; "
            f"got {len(volumes)}. Its dataset.json says where each stands: {dict(case.channels)}."
        )
        raise ValueError(msg)
    return [volumes[at] for at in wanted]


def _workers(n_files: int) -> int:
    return min(n_files, os.cpu_count() or 1)


def write_finite(volume: Volume, out: NDArray[np.float32], *, case_id: str) -> None:
    """Write the real values of a modality into an array `(I, J, K)`.

    Raises:
        ValueError: A value is not finite. Names case and file.
    """
    with np.errstate(over="ignore"):  # what overflows is refused below
        volume.write_values(out)
    scaled = volume.data.dtype.kind == "f" or (volume.slope, volume.inter) != (1.0, 0.0)
    if scaled and not np.isfinite(out).all():
        n_bad = int(out.size - np.isfinite(out).sum())
        msg = (
            f"{volume.path.name} of case {case_id} must hold finite numbers; got NaN or infinity "
            f"in {n_bad} voxels. Set them to 0, for example with numpy.nan_to_num."
        )
        raise ValueError(msg)


def _as_integers(volume: Volume, where: str) -> NDArray[np.int64]:
    real = volume.data * np.float64(volume.slope) + volume.inter
    whole = np.isfinite(real) & (real == np.rint(real))
    if not whole.all():
        shown = ", ".join(f"{value:g}" for value in np.unique(real[~whole])[:3])
        msg = (
            f"labels of {where} must be integers; got {shown}. A mask was interpolated: "
            "resample it again with nearest neighbour."
        )
        raise ValueError(msg)
    return real.astype(np.int64)


def _lookup(values: NDArray[np.integer], table: dict[int, int]) -> NDArray[np.uint8] | None:
    """Map integers through a table into C order; None where one is not in it.

    Where 0 stays 0, as in every edition, only the box of the tumour is looked up.
    """
    mapped = np.zeros(values.shape, np.uint8)
    box = extent(values) if table.get(0) == 0 else [(0, length) for length in values.shape]
    if box is None:
        return mapped
    where = tuple(slice(start, stop) for start, stop in box)
    found = values[where]
    if found.dtype != np.uint8:
        if found.min() < 0 or found.max() > _UNKNOWN:
            return None
        found = found.astype(np.uint8)
    look_up = np.full(256, _UNKNOWN, np.uint8)
    look_up[list(table)] = list(table.values())
    inside = mapped[where]
    inside[...] = look_up[found]
    return None if inside.max() == _UNKNOWN else mapped


def _refuse_other_shape(array: NDArray[np.generic], like: Scan, *, name: str) -> None:
    if array.shape != like.image.shape[1:]:
        msg = (
            f"{name} of case {like.id} must have the native shape {like.image.shape[1:]}; got "
            f"{array.shape}. Send it back with the geometry's inverse first."
        )
        raise ValueError(msg)


def _write(
    array: NDArray[np.generic], path: Path | str, *, like: Scan, dtype: np.dtype | str
) -> Path:
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz", ".mha")):
        msg = (
            f"path must end in .nii.gz, .nii or .mha; got {path}. "
            f"Try {path.with_suffix('.nii.gz')}."
        )
        raise ValueError(msg)
    stored = to_disk_order(array, like.disk_affine).astype(np.dtype(dtype).newbyteorder("<"))
    if is_mha(path):
        write_into(path, lambda temporary: write_mha(temporary, stored, like.disk_affine))
        return path
    raw = as_nifti(stored, like)
    content = compress(raw) if path.suffix == ".gz" else raw
    write_into(path, lambda temporary: temporary.write_bytes(content))
    return path
