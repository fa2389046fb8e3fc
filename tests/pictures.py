"""Make a small scan in memory whose every picture can be worked out by hand."""

import io
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES, get_schema


def small_scan(
    *, shape=(28, 36, 20), spacing_mm=(1.0, 1.0, 3.0), seed=0, name="Fake_00000", labels=True
) -> Scan:
    """Draw an ellipsoid brain with a nested tumour in its right front upper part."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    brain = (grid**2).sum(axis=0) < 0.7
    middle = np.array([0.3, 0.2, 0.1])[:, None, None, None]
    distance = np.sqrt(((grid - middle) ** 2).sum(axis=0))
    tumour = np.zeros(shape, dtype=np.uint8)
    for label, radius in ((2, 0.38), (3, 0.26), (1, 0.14)):
        tumour[brain & (distance < radius)] = label
    noise = rng.normal(0, 15, (4, *shape))
    bright = 400 + 100 * np.arange(4)[:, None, None, None] + 60 * tumour
    image = np.where(brain, bright + noise, 0).astype(np.float32)
    affine = np.diag([*spacing_mm, 1.0])
    return Scan(
        id=name,
        image=image,
        labels=tumour if labels else None,
        affine=affine,
        schema=get_schema("brats2017-2021"),
        header=nib.Nifti1Header(),
        disk_affine=affine,
    )


def write_scan(scan: Scan, folder: Path) -> None:
    """Write a scan as a BraTS 2017-2021 case of uncompressed files."""
    place = folder / scan.id
    place.mkdir(parents=True)
    on_disk = np.array([scan.schema.to_source[label] for label in range(4)], dtype=np.uint8)
    files = dict(zip(MODALITIES, scan.image, strict=True)) | {"seg": on_disk[scan.labels]}
    for name, array in files.items():
        nib.save(nib.Nifti1Image(array, scan.affine), place / f"{scan.id}_{name}.nii")


def pixels(png: bytes) -> np.ndarray:
    """Decode a picture to `(rows, columns, 3)`."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def colours(png: bytes) -> set[tuple[int, ...]]:
    """List every RGB in a picture."""
    found = Image.open(io.BytesIO(png)).convert("RGB").getcolors(maxcolors=1 << 24)
    return {rgb for _, rgb in found}
