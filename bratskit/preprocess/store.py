"""Keep prepared cases on disk, one folder a case, and read them back patch by patch."""

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

from bratskit.labels import MODALITIES
from bratskit.preprocess.budget import (
    FORMS,
    Form,
    count_bytes,
    refuse_full_disk,
    require_free_space,
)
from bratskit.preprocess.compact import CompactArray, decode, encode, read_compact, write_compact
from bratskit.preprocess.geometry import Geometry
from bratskit.preprocess.receipt import damaged, list_prepared, read_receipt, write_receipt
from bratskit.preprocess.tumour import foreground_index

__all__ = [
    "FORMAT",
    "Prepared",
    "list_prepared",
    "open_prepared",
    "read_patch",
    "read_receipt",
    "save_prepared",
    "sweep",
]

Triple = tuple[int, int, int]

FORMAT = 2  # raise it when a stored file changes its meaning: older folders are then made again
# What a truncated or overwritten file raises: numpy, zipfile, and RuntimeError from blosc2.
DAMAGE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One case as the network sees it.

    Attributes:
        id: Name of the case.
        image: z-scores, or 0..1 where the recipe says "minmax", `(C, i, j, k)`: float32 in memory,
            float16 from a fast store, a `CompactArray` of float32 from a compact one.
        labels: Internal labels `(i, j, k)` uint8, or None.
        mask: Brain mask `(i, j, k)` bool; the image is exactly 0 outside.
        geometry: The way back to the native grid.
        modalities: Name of each channel.
        lost_vox: Tumour voxels of the native grid that a crop left out, by name of the label, each
            counted once; empty where there are no labels.
    """

    id: str
    image: NDArray[np.floating] = field(repr=False)
    labels: NDArray[np.uint8] | None = field(repr=False)
    mask: NDArray[np.bool_] = field(repr=False)
    geometry: Geometry
    modalities: tuple[str, ...] = MODALITIES
    lost_vox: Mapping[str, int] = field(default_factory=dict)

    @property
    def has_labels(self) -> bool:
        """Whether there are labels, without reading them."""
        return self.labels is not None

    @cached_property
    def foreground(self) -> dict[int, NDArray[np.int32]]:
        """Voxels `(N, 3)` of each label that occurs, at most a few thousand each, sorted."""
        return {} if self.labels is None else foreground_index(self.labels, case_id=self.id)

    def cut(self, part: tuple[slice, ...]) -> tuple[NDArray, NDArray | None]:
        """Copy one part of the grid, image float32 and labels, reading no more than that."""
        labels = None if self.labels is None else np.array(self.labels[part])
        return _to_float32(self.image[(slice(None), *part)]), labels


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
            "_is_compact": receipt.get("form") == "compact",
            "id": receipt["id"],
            "geometry": Geometry.from_dict(receipt["geometry"]),
            "modalities": tuple(receipt["modalities"]),
            "lost_vox": receipt.get("lost_vox", {}),
        }
        for name, value in facts.items():
            object.__setattr__(self, name, value)

    @property
    def image(self) -> "NDArray[np.float16] | CompactArray":
        if not self._is_compact:
            return self._map("image")
        levels = self._levels
        with self._whole("image.b2nd") as path:
            return CompactArray(path, levels)

    @property
    def labels(self) -> NDArray[np.uint8] | None:
        return self._one_byte("labels") if self._has_labels else None

    @property
    def has_labels(self) -> bool:
        return self._has_labels

    @property
    def mask(self) -> NDArray[np.bool_]:
        return self._one_byte("mask").view(np.bool_)

    @cached_property
    def foreground(self) -> dict[int, NDArray[np.int32]]:
        if not self._has_labels:
            return {}
        with self._whole("foreground.npz") as path, path.open("rb") as file:
            stored = np.load(file)
            return {int(label): stored[label] for label in stored.files}

    def cut(self, part: tuple[slice, ...]) -> tuple[NDArray, NDArray | None]:
        if not self._is_compact:
            return super().cut(part)
        levels = self._levels
        with self._whole("image.b2nd") as path:
            image = decode(read_compact(path, (slice(None), *part)), levels)
        return image, self._one_byte("labels", part) if self._has_labels else None

    @cached_property
    def _levels(self) -> NDArray[np.float32]:
        with self._whole("levels.npy") as path:
            return np.load(path)

    def _map(self, name: str) -> np.memmap:
        with self._whole(f"{name}.npy") as path:
            return np.load(path, mmap_mode="r")

    def _one_byte(self, name: str, part: tuple[slice, ...] | None = None) -> NDArray:
        if not self._is_compact:
            return self._map(name)
        with self._whole(f"{name}.b2nd") as path:
            return read_compact(path, part)

    @contextmanager
    def _whole(self, name: str) -> Iterator[Path]:
        path = self._folder / name
        try:
            yield path
        except DAMAGE as error:
            raise damaged(path) from error


def save_prepared(
    prepared: Prepared,
    folder: Path | str,
    *,
    form: Form = "fast",
    settings: Mapping[str, object] | None = None,
) -> Path:
    """Write one case as `<folder>/<id>/`, whole or not at all.

    Files of the fast form: `image.npy` (float16), `labels.npy` (uint8), `mask.npy` (bool). It
    keeps a z-score to 1/2048 of its value and is read faster than anything compressed. Of the
    compact form, a sixth of the size: `image.b2nd` (a code of one byte a voxel), `levels.npy`
    (what the codes stand for), `labels.b2nd`, `mask.b2nd`. Of both: `foreground.npz`,
    `receipt.json`. They are written to a hidden neighbour that is renamed at the end, so a kill at
    any moment leaves the old case, the new one or none.

    Args:
        prepared: The case.
        folder: The store; it may hold cases of both forms.
        form: "fast" or "compact".
        settings: What it was made from; `prepare_cohort` compares it to decide what to redo.

    Returns:
        The folder of the case.

    Raises:
        FullDiskError: The disk is nearly full; says what is needed. Nothing is written.
        ValueError: There is no such form.
    """
    if form not in FORMS:
        msg = f"form must be one of {list(FORMS)}; got {form!r}."
        raise ValueError(msg)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    needed = count_bytes(form, prepared.mask.size, n_modalities=len(prepared.modalities))
    require_free_space(folder, needed, what=prepared.id)
    sweep(folder, prepared.id)
    place, partial, old = _places(folder, prepared.id)
    partial.mkdir()
    try:
        _write_arrays(prepared, partial, form)
        write_receipt(partial, _facts(prepared, form, settings or {}))
        if place.exists():
            place.rename(old)  # one step: half of it must never be listed
        partial.rename(place)
    except OSError as error:
        refuse_full_disk(error, folder, needed, what=prepared.id)
        raise
    finally:
        sweep(folder, prepared.id)
    return place


def sweep(folder: Path, case_id: str) -> None:
    """Clear what a killed process left of one case, or of the case it replaced."""
    for path in _places(folder, case_id)[1:]:
        shutil.rmtree(path, ignore_errors=True)


def _places(folder: Path, case_id: str) -> tuple[Path, Path, Path]:
    return folder / case_id, folder / f".{case_id}.partial", folder / f".{case_id}.old"


def open_prepared(folder: Path | str) -> Prepared:
    """Open one stored case of either form without reading its arrays.

    `image`, `labels` and `mask` read when they are asked for: as memory maps in the fast form; in
    the compact form `image` is a `CompactArray` and the other two are decompressed.

    Args:
        folder: `<store>/<id>`.

    Raises:
        FileNotFoundError: No finished case is there; names the command that makes one.
    """
    return _Stored(Path(folder))


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
    if any(part.start >= part.stop for part in source):
        nothing = np.zeros((len(prepared.modalities), *size_vox), dtype=np.float32)
        return nothing, np.zeros(size_vox, dtype=np.uint8) if prepared.has_labels else None
    image, labels = prepared.cut(tuple(source))
    return (
        _pad(image, tuple(target), size_vox),
        None if labels is None else _pad(labels, tuple(target), size_vox),
    )


def _pad(array: NDArray, target: tuple[slice, ...], size_vox: Triple) -> NDArray:
    """Put a part into zeros of the size asked for; a part that has that size is handed on."""
    if array.shape[-3:] == tuple(size_vox):
        return array
    padded = np.zeros((*array.shape[:-3], *size_vox), dtype=array.dtype)
    padded[(..., *target)] = array
    return padded


def _write_arrays(prepared: Prepared, folder: Path, form: Form) -> None:
    if form == "compact":
        codes, levels = encode(np.asarray(prepared.image))
        np.save(folder / "levels.npy", levels)
        write_compact(codes, folder / "image.b2nd")
        write_compact(prepared.mask, folder / "mask.b2nd")
        if prepared.labels is not None:
            write_compact(prepared.labels, folder / "labels.b2nd")
    else:
        largest = float(np.finfo(np.float16).max)
        image = torch.from_numpy(_to_float32(prepared.image)).clamp_(-largest, largest)
        np.save(folder / "image.npy", image.half().numpy())
        np.save(folder / "mask.npy", prepared.mask)
        if prepared.labels is not None:
            np.save(folder / "labels.npy", prepared.labels)
    if prepared.labels is not None:
        index = {str(label): voxels for label, voxels in prepared.foreground.items()}
        np.savez(folder / "foreground.npz", **index)


def _to_float32(image: NDArray[np.floating]) -> NDArray[np.float32]:
    """Copy to float32 by torch, which converts from float16 four times faster than NumPy."""
    return torch.from_numpy(np.array(image)).float().numpy()


def _facts(prepared: Prepared, form: Form, settings: Mapping[str, object]) -> dict[str, object]:
    return {
        "id": prepared.id,
        "has_labels": prepared.labels is not None,
        "modalities": prepared.modalities,
        "form": form,
        "lost_vox": dict(prepared.lost_vox),
        "geometry": prepared.geometry.to_dict(),
        "settings": settings,
    }
