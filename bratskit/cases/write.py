"""Write a scan into the layout and under the names of an edition, whole or not at all."""

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import rmtree

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case, Scan
from bratskit.cases.decathlon import IMAGE_FOLDERS, LABEL_FOLDER, LISTING, write_listing
from bratskit.cases.layouts import Layout, file_of, layout_of
from bratskit.cases.mha import write_mha
from bratskit.cases.nifti import write_labels
from bratskit.cases.volume import compress, to_disk_order
from bratskit.labels import MODALITIES, LabelSchema
from bratskit.runtime import write_atomically

__all__ = [
    "case_in",
    "cavity_integer",
    "facts_path",
    "list_cases",
    "remove_unfinished",
    "write_scan",
]

_FACTS_FOLDER = "factsTr"  # in an MSD task, where a case has no folder of its own


def write_scan(
    scan: Scan,
    folder: Path | str,
    *,
    edition: LabelSchema,
    facts: Mapping[str, object],
    cavity: NDArray[np.bool_] | None = None,
    level_sets: Mapping[str, NDArray[np.float32]] | None = None,
) -> Case:
    """Write image (int16), labels and facts of a scan; MSD's `dataset.json` is `list_cases`'s.

    A kill at any moment leaves a case that `find_cases` finds whole, or none.

    Args:
        scan: What to write, with labels; its image holds whole numbers that fit int16.
        folder: The cohort's folder; exists.
        edition: Whose label integers, file names and file form to use.
        facts: Goes beside the case as `<case>_truth.json`.
        cavity: Resection cavity `(I, J, K)`, background in `scan.labels`; written where the edition
            has an integer for it.
        level_sets: Go beside the case as `<case>_truth.npz`, by name, with `affine`, their RAS+
            voxels to mm; nothing is written for none.

    Raises:
        ValueError: A modality holds other numbers than int16 has.
    """
    layout = layout_of(edition)
    beside = {f"{scan.id}_truth.json": json.dumps(facts, indent=1).encode()}
    if level_sets:
        beside[f"{scan.id}_truth.npz"] = _as_npz({**level_sets, "affine": scan.affine})
    write = _write_into_task if layout == "decathlon" else _write_folder
    write(scan, Path(folder), edition, beside, cavity)
    return case_in(Path(folder), scan.id, edition)


def case_in(folder: Path, name: str, edition: LabelSchema) -> Case:
    """Name the files that `write_scan` gives a case."""
    layout = layout_of(edition)
    return Case(
        id=name,
        paths={kind: folder / file_of(name, kind, layout) for kind in MODALITIES},
        labels_path=folder / file_of(name, "seg", layout),
        schema=edition,
        channels=dict(zip(MODALITIES, range(4), strict=True)) if layout == "decathlon" else {},
    )


def facts_path(folder: Path, name: str, edition: LabelSchema) -> Path:
    """Name the file of facts that `write_scan` puts beside a case."""
    return folder / _home(name, layout_of(edition)) / f"{name}_truth.json"


def list_cases(folder: Path, edition: LabelSchema) -> None:
    """Bring the `dataset.json` of an MSD task up to date; other layouts have no listing."""
    if layout_of(edition) == "decathlon":
        write_listing(folder, description="Phantoms made by bratskit; none is a real patient")


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove what a killed `write_scan` of this case left."""
    for stale in folder.glob(f".{name}-*"):
        rmtree(stale, ignore_errors=True)
    for home in (*IMAGE_FOLDERS, LABEL_FOLDER, _FACTS_FOLDER):
        for stale in (folder / home).glob(f".*-{name}[._]*"):
            stale.unlink(missing_ok=True)


def cavity_integer(edition: LabelSchema) -> int | None:
    """Return the integer that marks a resection cavity in an edition's masks, or None.

    Examples:
        >>> from bratskit.labels import SCHEMAS
        >>> cavity_integer(SCHEMAS["brats2024-gli"])
        4
    """
    named = {name: value for value, name in edition.outside.items()}
    return named.get("resection cavity")


def _home(name: str, layout: Layout) -> str:
    return _FACTS_FOLDER if layout == "decathlon" else name


def _write_folder(
    scan: Scan,
    folder: Path,
    edition: LabelSchema,
    beside: Mapping[str, bytes],
    cavity: NDArray[np.bool_] | None,
) -> None:
    layout = layout_of(edition)
    unfinished = folder / f".{scan.id}-{os.getpid()}"
    try:
        unfinished.mkdir(exist_ok=True)
        for channel, kind in enumerate(MODALITIES):
            path = unfinished / file_of(scan.id, kind, layout).relative_to(scan.id)
            path.parent.mkdir(exist_ok=True)
            stored = _as_stored(scan, channel)
            if layout == "vsd":
                write_mha(path, stored, scan.disk_affine)
            else:
                path.write_bytes(_as_nifti(stored, scan))
        path = unfinished / file_of(scan.id, "seg", layout).relative_to(scan.id)
        _write_mask(scan, path, edition, cavity)
        for name, content in beside.items():
            (unfinished / name).write_bytes(content)
        rmtree(folder / scan.id, ignore_errors=True)
        unfinished.rename(folder / scan.id)
    finally:
        rmtree(unfinished, ignore_errors=True)


def _write_into_task(
    scan: Scan,
    folder: Path,
    edition: LabelSchema,
    beside: Mapping[str, bytes],
    cavity: NDArray[np.bool_] | None,
) -> None:
    """Write mask and facts first: the image makes it a case."""
    image_path, mask_path = (folder / file_of(scan.id, kind, "decathlon") for kind in ("t1", "seg"))
    with suppress(FileNotFoundError):
        image_path.unlink()
    _write_mask(scan, mask_path, edition, cavity)
    for home in (folder / _FACTS_FOLDER, image_path.parent):
        home.mkdir(exist_ok=True)
    for name, one in beside.items():
        write_atomically(folder / _FACTS_FOLDER / name, partial(Path.write_bytes, data=one))
    channels = [_as_stored(scan, channel) for channel in range(len(MODALITIES))]
    content = _as_nifti(np.stack(channels, axis=-1), scan)
    if not (folder / LISTING).exists():  # no moment at which images stand without one
        list_cases(folder, edition)
    write_atomically(image_path, lambda temporary: temporary.write_bytes(content))


def _write_mask(
    scan: Scan, path: Path, edition: LabelSchema, cavity: NDArray[np.bool_] | None
) -> None:
    """Write the labels, and over the background what an edition marks and no region holds."""
    integer = cavity_integer(edition)
    if cavity is None or integer is None:
        write_labels(scan.labels, path, like=scan, edition=edition)
        return
    to_source = edition.to_source
    values = np.array([to_source[label] for label in sorted(to_source)], np.uint8)[scan.labels]
    values[cavity & (scan.labels == 0)] = integer
    write_labels(values, path, like=scan, edition=edition.as_written)


def _as_npz(arrays: Mapping[str, NDArray[np.float32]]) -> bytes:
    """Pack arrays as `numpy.savez_compressed` does: without a time stamp, so always the same."""
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def _as_stored(scan: Scan, channel: int) -> NDArray[np.int16]:
    whole = scan.image[channel].astype("<i2")
    if not np.array_equal(whole, scan.image[channel]):
        msg = (
            f"image of case {scan.id} must hold whole numbers from -32768 to 32767; got others in "
            f"{MODALITIES[channel]}. Round or rescale it first."
        )
        raise ValueError(msg)
    return to_disk_order(whole, scan.disk_affine)


def _as_nifti(stored: NDArray[np.int16], scan: Scan) -> bytes:
    header = scan.header.copy()
    header.set_data_dtype(stored.dtype)  # that of a mask would squeeze the image into 8 bits
    return compress(nib.Nifti1Image(stored, scan.disk_affine, header).to_bytes())
