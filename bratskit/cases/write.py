"""Write a scan into the layout and under the names of an edition, whole or not at all."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
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

__all__ = ["case_in", "facts_path", "list_cases", "remove_unfinished", "write_scan"]

_FACTS_FOLDER = "factsTr"  # in an MSD task, where a case has no folder of its own


def write_scan(
    scan: Scan, folder: Path | str, *, edition: LabelSchema, facts: Mapping[str, object]
) -> Case:
    """Write image (int16), labels and facts of a scan; MSD's `dataset.json` is `list_cases`'s.

    A kill at any moment leaves a case that `find_cases` finds whole, or none.

    Args:
        scan: What to write, with labels; its image holds whole numbers that fit int16.
        folder: The cohort's folder; exists.
        edition: Whose label integers, file names and file form to use.
        facts: Goes beside the case as `<case>_truth.json`.

    Raises:
        ValueError: A modality holds other numbers than int16 has.
    """
    layout = layout_of(edition)
    content = json.dumps(facts, indent=1)
    if layout == "decathlon":
        _write_into_task(scan, Path(folder), edition, content)
    else:
        _write_folder(scan, Path(folder), edition, content)
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


def _home(name: str, layout: Layout) -> str:
    return _FACTS_FOLDER if layout == "decathlon" else name


def _write_folder(scan: Scan, folder: Path, edition: LabelSchema, facts: str) -> None:
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
        write_labels(scan.labels, path, like=scan, edition=edition)
        (unfinished / f"{scan.id}_truth.json").write_text(facts, encoding="utf-8")
        rmtree(folder / scan.id, ignore_errors=True)
        unfinished.rename(folder / scan.id)
    finally:
        rmtree(unfinished, ignore_errors=True)


def _write_into_task(scan: Scan, folder: Path, edition: LabelSchema, facts: str) -> None:
    """Write mask and facts first: the image makes it a case."""
    image_path, mask_path = (folder / file_of(scan.id, kind, "decathlon") for kind in ("t1", "seg"))
    with suppress(FileNotFoundError):
        image_path.unlink()
    write_labels(scan.labels, mask_path, like=scan, edition=edition)
    path = facts_path(folder, scan.id, edition)
    for home in (path.parent, image_path.parent):
        home.mkdir(exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(facts, encoding="utf-8"))
    channels = [_as_stored(scan, channel) for channel in range(len(MODALITIES))]
    content = _as_nifti(np.stack(channels, axis=-1), scan)
    if not (folder / LISTING).exists():  # no moment at which images stand without one
        list_cases(folder, edition)
    write_atomically(image_path, lambda temporary: temporary.write_bytes(content))


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
