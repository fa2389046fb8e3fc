"""Put one phantom together from head, tumour and acquisition; nothing is written to disk here."""

import json
from dataclasses import asdict, dataclass
from functools import partial

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.acquisition import Contrast, acquire, draw_contrast, render
from bratskit.cases.anatomy import Anatomy, Grid, Head, draw_head, shape_anatomy
from bratskit.cases.case import Scan
from bratskit.cases.tumour import Growth, Tumour, draw_growth, grow_tumour, push_of
from bratskit.labels import LABELS, MODALITIES, REGIONS, get_schema

__all__ = ["Phantom", "make_phantom", "refuse_odd_settings"]

GENERATOR = 1  # raise it when a seed gives another phantom than before

_FIELD_MM = (240.0, 240.0, 155.0)  # BraTS: 240x240x155 voxels of 1 mm


@dataclass(frozen=True)
class Phantom:
    """One made-up patient.

    Attributes:
        scan: Image and labels in RAS+; `scan.image` holds whole numbers, as int16 files do.
        truth: What is known exactly: `volumes_ml` per label and region, `seed`, `spacing_mm`, and
            the drawn `growth` and `contrast`. Goes into `<case>_truth.json`.
    """

    scan: Scan
    truth: dict


def make_phantom(
    seed: int | tuple[int, ...],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    case_id: str | None = None,
) -> Phantom:
    """Make one phantom; the same seed gives the same patient at any voxel size.

    Coarse voxels are cheap: about 3 s at 1 mm, well under 1 s at 4 mm (60x60x39 voxels).

    Args:
        seed: Decides everything. A tuple seeds one case of a cohort: `(seed, number)`.
        spacing_mm: Voxel size, 0.5 to 10 mm along each axis. An axis at least half as coarse
            again as the finest is averaged over its voxels' thickness.
        case_id: Name of the case; by default made from the seed.

    Raises:
        ValueError: The spacing is out of range, or the seed negative.
        FileNotFoundError: The template is missing (nilearn is not installed).
    """
    seeds = (seed,) if isinstance(seed, int | np.integer) else tuple(seed)
    refuse_odd_settings(seeds, spacing_mm)
    streams = np.random.SeedSequence([int(s) for s in seeds]).spawn(10)
    rngs = [np.random.default_rng(stream) for stream in streams]
    head = draw_head(rngs[0])
    everywhere = Grid((60, 60, 39), (4.0, 4.0, 4.0), (0, 0, 0))
    coarse = shape_anatomy(np.random.default_rng(streams[1]), head, everywhere)
    growth = draw_growth(rngs[2], coarse, everywhere)
    grid, factors = _working_grid(coarse, everywhere, spacing_mm)
    anatomy = shape_anatomy(rngs[1], head, grid, push=partial(push_of, growth))
    tumour = grow_tumour(rngs[3], growth, anatomy, grid)
    contrast = draw_contrast(rngs[4], growth)
    images = render(rngs[5], contrast, anatomy, tumour, grid)
    stored = _coarsen_grid(grid, factors, spacing_mm)
    brain = _average(anatomy.brain, factors) > 0.5
    whole = np.zeros((len(MODALITIES), *_field_shape(spacing_mm)), np.float32)
    place = tuple(
        slice(start, start + n) for start, n in zip(stored.start_vox, stored.shape, strict=True)
    )
    for channel, image in enumerate(images):
        coarse_image = _average(image, factors)
        rng = rngs[6 + channel]
        whole[(channel, *place)] = acquire(rng, contrast, channel, coarse_image, brain, stored)
    labels = np.zeros(whole.shape[1:], np.uint8)
    labels[place] = _voxelise(tumour, grid, factors) * brain
    name = case_id or "Phantom_" + "_".join(f"{s:05d}" for s in seeds)
    scan = _as_scan(name, whole, labels, spacing_mm)
    return Phantom(scan=scan, truth=_truth(scan, seeds, head, growth, contrast))


def refuse_odd_settings(seeds: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    """Refuse seeds and voxel sizes that no phantom has.

    Raises:
        ValueError: A seed is negative, or the spacing is not three numbers from 0.5 to 10.
    """
    if not seeds or min(seeds) < 0:
        msg = f"seed must be 0 or more; got {seeds}. Take 0, for example."
        raise ValueError(msg)
    if len(spacing_mm) != 3 or not all(0.5 <= s <= 10 for s in spacing_mm):
        msg = (
            f"spacing_mm must be three numbers from 0.5 to 10; got {spacing_mm}. BraTS: (1, 1, 1)."
        )
        raise ValueError(msg)


def _field_shape(spacing_mm: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(round(f / s) for f, s in zip(_FIELD_MM, spacing_mm, strict=True))


def _working_grid(
    coarse: Anatomy, everywhere: Grid, spacing_mm: tuple[float, ...]
) -> tuple[Grid, tuple[int, ...]]:
    """Find the box of the brain, and how many fine voxels make one stored voxel."""
    finest = max(1.0, min(spacing_mm))
    factors = tuple(max(1, round(s / finest)) for s in spacing_mm)
    found = np.argwhere(coarse.brain)
    low_mm, high_mm = (found.min(0) - 1) * 4.0, (found.max(0) + 2) * 4.0
    start, shape = [], []
    for axis, n in enumerate(_field_shape(spacing_mm)):
        first = max(0, int(low_mm[axis] / spacing_mm[axis]))
        last = min(n, int(np.ceil(high_mm[axis] / spacing_mm[axis])))
        start.append(first * factors[axis])
        shape.append((last - first) * factors[axis])
    fine = tuple(float(s / f) for s, f in zip(spacing_mm, factors, strict=True))
    return Grid(tuple(shape), fine, tuple(start)), factors


def _coarsen_grid(grid: Grid, factors: tuple[int, ...], spacing_mm: tuple[float, ...]) -> Grid:
    shape = tuple(n // f for n, f in zip(grid.shape, factors, strict=True))
    start = tuple(n // f for n, f in zip(grid.start_vox, factors, strict=True))
    return Grid(shape, tuple(float(s) for s in spacing_mm), start)


def _average(array: NDArray, factors: tuple[int, ...]) -> NDArray[np.float32]:
    """Average fine voxels into stored ones."""
    if factors == (1, 1, 1):
        return array.astype(np.float32, copy=False)
    form = [v for n, f in zip(array.shape, factors, strict=True) for v in (n // f, f)]
    return array.astype(np.float32).reshape(form).mean(axis=(1, 3, 5))


def _voxelise(tumour: Tumour, grid: Grid, factors: tuple[int, ...]) -> NDArray[np.uint8]:
    """Average the level sets over each stored voxel, then take their signs."""
    sets = []
    for name in ("core", "enhancing", "oedema"):
        whole = np.full(grid.shape, -20, np.float32)
        whole[tumour.box] = np.clip(getattr(tumour, name), -20, 20)
        sets.append(_average(whole, factors))
    everything = (slice(None),) * 3
    return Tumour(core=sets[0], enhancing=sets[1], oedema=sets[2], box=everything).labels()


def _as_scan(
    name: str, image: NDArray[np.float32], labels: NDArray[np.uint8], spacing_mm: tuple[float, ...]
) -> Scan:
    """Wrap arrays in the header that BraTS files carry: LPS+ on disk, first voxel at y = n - 1."""
    sx, sy, sz = (float(s) for s in spacing_mm)
    ni, nj, _ = labels.shape
    disk_affine = np.diag([-sx, -sy, sz, 1.0])
    disk_affine[1, 3] = (nj - 1) * sy
    affine = np.diag([sx, sy, sz, 1.0])
    affine[0, 3] = -(ni - 1) * sx
    header = nib.Nifti1Header()
    header.set_data_shape(labels.shape)
    header.set_data_dtype(np.int16)
    header.set_qform(disk_affine, code="scanner")
    header.set_sform(disk_affine, code="scanner")
    header.set_xyzt_units("mm")
    return Scan(
        id=name,
        image=image,
        labels=labels,
        affine=affine,
        schema=get_schema("brats2017-2021"),
        header=header,
        disk_affine=disk_affine,
    )


def _truth(
    scan: Scan, seeds: tuple[int, ...], head: Head, growth: Growth, contrast: Contrast
) -> dict:
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    counts = np.bincount(scan.labels.ravel(), minlength=len(LABELS))
    labels = {LABELS[label]: int(counts[label]) for label in LABELS if label}
    regions = {name: int(sum(counts[i] for i in members)) for name, members in REGIONS.items()}
    parts = {"head": asdict(head), "growth": asdict(growth), "contrast": asdict(contrast)}
    truth = {
        "case": scan.id,
        "seed": [int(s) for s in seeds],
        "generator": GENERATOR,
        "spacing_mm": list(scan.spacing_mm),
        "voxels": {"labels": labels, "regions": regions},
        "volumes_ml": {
            "labels": {name: n * voxel_ml for name, n in labels.items()},
            "regions": {name: n * voxel_ml for name, n in regions.items()},
        },
        **parts,
    }
    return json.loads(json.dumps(truth, default=lambda a: np.asarray(a).tolist()))
