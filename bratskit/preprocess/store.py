"""Keep prepared cases on disk, one folder a case, and read them back patch by patch."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bratskit.labels import LABELS, MODALITIES
from bratskit.preprocess.geometry import Geometry
from bratskit.runtime import made_by, write_atomically

__all__ = [
    "BYTES_A_VOXEL",
    "Prepared",
    "foreground_index",
    "list_prepared",
    "open_prepared",
    "read_patch",
    "read_receipt",
    "require_free_space",
    "save_prepared",
]

Triple = tuple[int, int, int]

FORMAT = 1  # raise it when a stored file changes its meaning: older folders are then made again
# float16 image of four modalities, uint8 labels, bool mask; 36 MB for a BraTS brain box at 1 mm.
# float16 keeps a z-score to 1/2048 of its value, takes half of float32, and is read faster than
# anything compressed (PERFORMANCE.md).
BYTES_A_VOXEL = 4 * 2 + 1 + 1
MOST_VOXELS_A_LABEL = 2000  # plenty to centre patches on; 48 kB a case and label


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One case as the network sees it.

    Attributes:
        id: Name of the case.
        image: z-scores `(C, i, j, k)`, float32 in memory, float16 from the store.
        labels: Internal labels `(i, j, k)` uint8, or None.
        mask: Brain mask `(i, j, k)` bool; the image is exactly 0 outside.
        geometry: The way back to the native grid.
        modalities: Name of each channel.
    """

    id: str
    image: NDArray[np.floating] = field(repr=False)
    labels: NDArray[np.uint8] | None = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    geometry: Geometry
    modalities: tuple[str, ...] = MODALITIES

    @cached_property
    def foreground(self) -> dict[int, NDArray[np.int32]]:
        """Voxels `(N, 3)` of each label that occurs, at most a few thousand each, sorted."""
        return {} if self.labels is None else foreground_index(self.labels, case_id=self.id)


class _Stored(Prepared):
    """A case in the store: opens a file only while it is asked for.

    A thousand cases then need no thousand open files, and a worker process is sent a path
    instead of the arrays.
    """

    def __init__(self, folder: Path) -> None:
        receipt = read_receipt(folder)
        facts = {
            "_folder": folder,
            "_has_labels": receipt["has_labels"],
            "id": receipt["id"],
            "geometry": Geometry.from_dict(receipt["geometry"]),
            "modalities": tuple(receipt["modalities"]),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def image(self) -> NDArray[np.float16]:
        return self._load("image.npy")

    @property
    def labels(self) -> NDArray[np.uint8] | None:
        return self._load("labels.npy") if self._has_labels else None

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self._load("mask.npy")

    @cached_property
    def foreground(self) -> dict[int, NDArray[np.int32]]:
        if not self._has_labels:
            return {}
        with self._whole("foreground.npz") as path, path.open("rb") as file:
            stored = np.load(file)
            return {int(label): stored[label] for label in stored.files}

    def _load(self, name: str) -> np.ndarray:
        with self._whole(name) as path:
            return np.load(path, mmap_mode="r")

    @contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        path = self._folder / name
        try:
            yield path
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise _damaged(path) from error


def _damaged(path: Path) -> ValueError:
    return ValueError(
        f"{path} must be a whole file of a prepared case; got a missing or damaged one. "
        f"Delete {path.parent}, then `bratskit prepare DATA {path.parent.parent}` makes it again."
    )


def foreground_index(
    labels: NDArray[np.uint8], *, case_id: str, most: int = MOST_VOXELS_A_LABEL
) -> dict[int, NDArray[np.int32]]:
    """List voxels of each tumour label, so that a sampler need not search the volume.

    Args:
        labels: Internal labels `(i, j, k)`.
        case_id: Seeds the choice where a label has more than `most` voxels.
        most: Voxels kept a label, drawn evenly.

    Returns:
        `(N, 3)` int32 coordinates a label, sorted; labels that do not occur are absent.
    """
    rng = np.random.default_rng(zlib.crc32(case_id.encode()))
    index = {}
    for label in sorted(set(LABELS) - {0}):
        flat = np.flatnonzero(labels == label)
        if len(flat) > most:
            flat = np.sort(rng.choice(flat, size=most, replace=False))
        if len(flat):
            index[label] = np.stack(np.unravel_index(flat, labels.shape), axis=1).astype(np.int32)
    return index


def save_prepared(
    prepared: Prepared, folder: Path | str, *, settings: Mapping[str, object] | None = None
) -> Path:
    """Write one case as `<folder>/<id>/`, whole or not at all.

    Files: `image.npy` (float16), `labels.npy` (uint8), `mask.npy` (bool), `foreground.npz`,
    `receipt.json`. They are written to a hidden neighbour that is renamed at the end.

    Args:
        prepared: The case.
        folder: The store.
        settings: What it was made from; `prepare_cohort` compares it to decide what to redo.

    Returns:
        The folder of the case.

    Raises:
        OSError: The disk is nearly full; says what is needed. Nothing is written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    require_free_space(folder, prepared.mask.size * BYTES_A_VOXEL, what=prepared.id)
    place, partial = folder / prepared.id, folder / f".{prepared.id}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        _write_arrays(prepared, partial)
        _write_receipt(prepared, partial, settings or {})
        shutil.rmtree(place, ignore_errors=True)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return place


def open_prepared(folder: Path | str) -> Prepared:
    """Open one stored case without reading its arrays; `image`, `labels`, `mask` are memory maps.

    Args:
        folder: `<store>/<id>`.

    Raises:
        FileNotFoundError: No finished case is there; names the command that makes one.
    """
    return _Stored(Path(folder))


def list_prepared(folder: Path | str) -> list[str]:
    """Name the finished cases of a store, sorted; unfinished ones are not listed."""
    return sorted(
        path.parent.name
        for path in Path(folder).glob("*/receipt.json")
        if not path.parent.name.startswith(".")
    )


def read_receipt(folder: Path | str) -> dict[str, object]:
    """Read what was written beside a stored case.

    Raises:
        FileNotFoundError: There is no receipt; names the command that makes one.
        ValueError: It is damaged.
    """
    path = Path(folder) / "receipt.json"
    if not path.is_file():
        store = path.parent.parent
        msg = (
            f"folder must be a prepared case; got {path.parent} without receipt.json. "
            f"Make it with `bratskit prepare DATA {store}`; it holds {list_prepared(store)[:5]}."
        )
        raise FileNotFoundError(msg)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path) from error


def read_patch(
    prepared: Prepared, start: Triple, size_vox: Triple
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Read one patch, reading from disk no more than that.

    Args:
        prepared: The case, stored or in memory.
        start: First voxel `(i, j, k)`; may be negative or reach past the end.
        size_vox: Size of the patch.

    Returns:
        Image `(C, *size_vox)` float32 and labels `(*size_vox)` uint8 (None without labels);
        both 0 where the patch lies outside the case.
    """
    source, target = [], []
    for first, size, length in zip(start, size_vox, prepared.geometry.shape, strict=True):
        low, high = min(max(first, 0), length), min(max(first + size, 0), length)
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    image = np.zeros((len(prepared.modalities), *size_vox), dtype=np.float32)
    inside = all(part.start < part.stop for part in source)
    if inside:
        image[(slice(None), *target)] = _to_float32(prepared.image[(slice(None), *source)])
    stored = prepared.labels
    if stored is None:
        return image, None
    labels = np.zeros(size_vox, dtype=np.uint8)
    if inside:
        labels[tuple(target)] = stored[tuple(source)]
    return image, labels


def require_free_space(folder: Path, needed_bytes: int, *, what: str) -> None:
    """Refuse to begin what the disk cannot hold.

    Raises:
        OSError: Says what is needed and what is free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        msg = (
            f"{folder} must have {needed_bytes / 2**20:.0f} MiB free for {what}; got "
            f"{free / 2**20:.0f} MiB. Free some space or choose a folder on another disk."
        )
        raise OSError(msg)


def _write_arrays(prepared: Prepared, folder: Path) -> None:
    largest = float(np.finfo(np.float16).max)
    image = torch.from_numpy(_to_float32(prepared.image)).clamp_(-largest, largest)
    np.save(folder / "image.npy", image.half().numpy())
    np.save(folder / "mask.npy", prepared.mask)
    if prepared.labels is not None:
        np.save(folder / "labels.npy", prepared.labels)
        index = {str(label): voxels for label, voxels in prepared.foreground.items()}
        np.savez(folder / "foreground.npz", **index)


def _to_float32(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Copy to float32 by torch, which converts from float16 four times faster than NumPy."""
    return torch.from_numpy(np.array(image)).float().numpy()


def _write_receipt(prepared: Prepared, folder: Path, settings: Mapping[str, object]) -> None:
    receipt = {
        "id": prepared.id,
        "has_labels": prepared.labels is not None,
        "modalities": prepared.modalities,
        "geometry": prepared.geometry.to_dict(),
        "settings": settings,
        "made_by": made_by(),
    }
    text = json.dumps(receipt, indent=2) + "\n"
    write_atomically(folder / "receipt.json", lambda path: path.write_text(text, encoding="utf-8"))
