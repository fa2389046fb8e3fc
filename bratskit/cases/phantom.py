"""Make phantom cases with exact truth, alone or as a cohort on disk; none is a real patient."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from shutil import rmtree

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.acquisition import Contrast, acquire, draw_contrast, render
from bratskit.cases.anatomy import Anatomy, Grid, Head, draw_head, shape_anatomy
from bratskit.cases.case import Case, Scan
from bratskit.cases.nifti import write_labels
from bratskit.cases.tumour import Growth, Tumour, draw_growth, grow_tumour, push_of
from bratskit.cases.volume import compress, to_disk_order
from bratskit.labels import LABELS, MODALITIES, REGIONS, LabelSchema, get_schema
from bratskit.runtime import progress, write_atomically

__all__ = ["Phantom", "make_cohort", "make_phantom", "write_phantom"]

_FIELD_MM = (240.0, 240.0, 155.0)  # BraTS: 240x240x155 voxels of 1 mm
_BRATS_2023_NAMES = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}


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
    _refuse_odd(seeds, spacing_mm)
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


def _refuse_odd(seeds: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
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
        "spacing_mm": list(scan.spacing_mm),
        "voxels": {"labels": labels, "regions": regions},
        "volumes_ml": {
            "labels": {name: n * voxel_ml for name, n in labels.items()},
            "regions": {name: n * voxel_ml for name, n in regions.items()},
        },
        **parts,
    }
    return json.loads(json.dumps(truth, default=lambda a: np.asarray(a).tolist()))


def _file_names(name: str, edition: LabelSchema) -> dict[str, str]:
    if edition.name == "brats2023-gli":
        return {m: f"{name}-{_BRATS_2023_NAMES[m]}.nii.gz" for m in MODALITIES} | {
            "labels": f"{name}-seg.nii.gz"
        }
    return {m: f"{name}_{m}.nii.gz" for m in MODALITIES} | {"labels": f"{name}_seg.nii.gz"}


def write_phantom(
    phantom: Phantom, folder: Path | str, *, edition: LabelSchema | str = "brats2017-2021"
) -> Case:
    """Write `folder/<id>/`: four int16 modalities, the mask and `<id>_truth.json`, all or nothing.

    Args:
        phantom: What to write.
        folder: Holds one folder a case; made where absent.
        edition: Whose label integers and file names to use.

    Raises:
        PermissionError: The folder cannot be made or written to.
    """
    edition = get_schema(edition)
    scan, folder = phantom.scan, _writable(folder)
    names = _file_names(scan.id, edition)
    unfinished = folder / f".{scan.id}-{os.getpid()}"
    try:
        unfinished.mkdir(exist_ok=True)
        for channel, modality in enumerate(MODALITIES):
            stored = to_disk_order(scan.image[channel].astype("<i2"), scan.disk_affine)
            content = compress(nib.Nifti1Image(stored, scan.disk_affine, scan.header).to_bytes())
            (unfinished / names[modality]).write_bytes(content)
        write_labels(scan.labels, unfinished / names["labels"], like=scan, edition=edition)
        truth = phantom.truth | {"edition": edition.name}
        text = json.dumps(truth, indent=1)
        (unfinished / f"{scan.id}_truth.json").write_text(text, encoding="utf-8")
        rmtree(folder / scan.id, ignore_errors=True)
        unfinished.rename(folder / scan.id)
    finally:
        rmtree(unfinished, ignore_errors=True)
    return _case_in(folder, scan.id, edition)


def _case_in(folder: Path, name: str, edition: LabelSchema) -> Case:
    names = _file_names(name, edition)
    home = folder / name
    return Case(
        id=name,
        paths={m: home / names[m] for m in MODALITIES},
        labels_path=home / names["labels"],
        schema=edition,
    )


def _writable(folder: Path | str) -> Path:
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f".writable-{os.getpid()}", lambda path: path.touch())
        (folder / f".writable-{os.getpid()}").unlink()
    except OSError as error:
        msg = (
            f"folder must be writable; got {folder} ({error.strerror}). "
            "Choose another, for example phantoms in your home folder."
        )
        raise PermissionError(msg) from error
    return folder


def make_cohort(
    folder: Path | str,
    *,
    n_cases: int,
    seed: int = 0,
    edition: LabelSchema | str = "brats2017-2021",
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    workers: int | None = None,
) -> list[Case]:
    """Write a cohort of phantoms, `Phantom_00000` and on, with progress; goes on where it stopped.

    A case depends on the seed and its number alone: not on the number of workers, and not on how
    many other cases there are.

    Args:
        folder: Where the case folders go. Cases already there with the same seed, spacing and
            edition are kept.
        n_cases: How many cases the folder shall hold.
        seed: Names the cohort.
        edition: Whose label integers and file names to use.
        spacing_mm: Voxel size.
        workers: Processes at once; None means one a core. More than one needs the usual
            `if __name__ == "__main__":` in a script.

    Returns:
        The cases, by number.

    Raises:
        ValueError: `n_cases` or `workers` is below 1, or the folder holds another cohort.
        PermissionError: The folder cannot be made or written to.
    """
    for name, value in (("n_cases", n_cases), ("workers", 1 if workers is None else workers)):
        if value < 1:
            msg = f"{name} must be 1 or more; got {value}. Try {name}=4."
            raise ValueError(msg)
    edition = get_schema(edition)
    _refuse_odd((seed,), spacing_mm)
    folder = _writable(folder)
    names = [f"Phantom_{number:05d}" for number in range(n_cases)]
    wanted = [(folder, name, (seed, i), spacing_mm, edition) for i, name in enumerate(names)]
    todo = [job for job in wanted if not _is_there(*job)]
    workers = min(workers or len(os.sched_getaffinity(0)), max(len(todo), 1))
    for _ in progress(_done(todo, workers), "phantom", total=len(todo)):
        pass
    return [_case_in(folder, name, edition) for name in names]


def _is_there(
    folder: Path,
    name: str,
    seeds: tuple[int, int],
    spacing_mm: tuple[float, ...],
    edition: LabelSchema,
) -> bool:
    path = folder / name / f"{name}_truth.json"
    if not path.exists():
        return False
    truth = json.loads(path.read_text(encoding="utf-8"))
    wanted = {"seed": list(seeds), "spacing_mm": [*map(float, spacing_mm)], "edition": edition.name}
    for key, value in wanted.items():
        if truth.get(key) != value:
            msg = (
                f"folder must be empty or hold the same cohort; got {folder}, where {name} has "
                f"{key} {truth.get(key)}, not {value}. Choose another folder."
            )
            raise ValueError(msg)
    return True


def _write_one(
    folder: Path,
    name: str,
    seeds: tuple[int, int],
    spacing_mm: tuple[float, float, float],
    edition: LabelSchema,
) -> str:
    phantom = make_phantom(seeds, spacing_mm=spacing_mm, case_id=name)
    write_phantom(phantom, folder, edition=edition)
    return name


def _done(jobs: list[tuple], workers: int) -> Iterator[str]:
    """Yield the names of cases as they are finished."""
    if workers == 1:
        for job in jobs:
            yield _write_one(*job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_write_one, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
