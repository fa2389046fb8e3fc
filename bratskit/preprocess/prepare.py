"""Turn scans into prepared cases: one in memory, or a cohort into a store that resumes."""

import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from bratskit.cases.case import Case, Scan
from bratskit.labels import MODALITIES
from bratskit.preprocess.geometry import Geometry
from bratskit.preprocess.steps import NORMALISE, brain_mask
from bratskit.preprocess.store import (
    BYTES_A_VOXEL,
    FORMAT,
    Prepared,
    read_receipt,
    require_free_space,
    save_prepared,
)
from bratskit.runtime import progress
from bratskit.settings import Recipe

__all__ = ["prepare_cohort", "prepare_scan"]

BOX_SHARE = 0.5  # of the native grid; the brain boxes of thirty BraTS cases take 0.28 to 0.42
MOST_LISTED = 10  # failures spelled out in one message


def prepare_scan(scan: Scan, recipe: Recipe) -> Prepared:
    """Prepare a scan in memory; `prepare_channels` says how.

    Args:
        scan: The scan, native grid.
        recipe: `recipe.geometry` sets the grid, `recipe.modalities` the channels and
            `recipe.normalise` their scale.

    Raises:
        ValueError: The scan holds no brain.
    """
    return prepare_channels(
        scan.image, scan.labels, case_id=scan.id, affine=scan.affine, recipe=recipe
    )


def prepare_channels(
    channels: Sequence[NDArray],
    labels: NDArray[np.uint8] | None,
    *,
    case_id: str,
    affine: ArrayLike,
    recipe: Recipe,
    threads: int | None = None,
) -> Prepared:
    """Crop to the brain, normalise each modality, resample if the recipe asks for another grid.

    The brain mask and its box come from all modalities, on the native grid and before anything is
    resampled, so that the geometry does not depend on which ones the network sees. Intensities are
    normalised on measured voxels before the resample; the image is masked again after it.

    Args:
        channels: One array `(I, J, K)` a modality in the order of `MODALITIES`, of any real type
            and memory order, in any unit whose zero means that nothing was measured.
        labels: Internal labels `(I, J, K)`, or None.
        case_id: Name of the case.
        affine: Voxel to world `(4, 4)`, mm.
        recipe: Grid, modalities and scale.
        threads: Modalities normalised at once; None means one a core.

    Raises:
        ValueError: No channel has a voxel other than zero.
    """
    native_mask = brain_mask(channels)
    try:
        geometry = Geometry.plan(native_mask, recipe.geometry, affine=affine)
    except ValueError as error:
        msg = f"{case_id}: {error}"
        raise ValueError(msg) from error
    mask = geometry.apply_mask(native_mask)
    boxes = [geometry.crop(channels[MODALITIES.index(name)]) for name in recipe.modalities]
    image = geometry.resample(_normalise(boxes, recipe, threads))
    if geometry.is_resampling:
        np.copyto(image, 0, where=~mask)
    return Prepared(
        id=case_id,
        image=image,
        labels=None if labels is None else geometry.apply_labels(labels),
        mask=mask,
        geometry=geometry,
        modalities=recipe.modalities,
    )


def prepare_cohort(
    cases: Sequence[Case], folder: Path | str, *, recipe: Recipe, workers: int | None = None
) -> list[str]:
    """Prepare every case into a store, several at a time, going on where an earlier call stopped.

    A case whose receipt names the same settings and the same source files is kept; any other is
    made again. Ctrl-C finishes the cases in hand, at most a second or two, and leaves whole
    cases only.

    Workers are threads, not processes: reading, decompressing, NumPy and torch all leave the
    interpreter free, and a thread starts at once, in a notebook as in a script without a
    `__main__` guard, where a process first imports torch again.

    Args:
        cases: What to prepare; ids must differ.
        folder: The store; made where absent.
        recipe: Grid and channels.
        workers: Cases worked on at once, about 0.5 GB each; None takes the cores allowed to
            this process, at most four.

    Returns:
        Ids of all cases in the order given, kept or made.

    Raises:
        ValueError: An id occurs twice, `workers` is below 1, or some cases could not be prepared:
            all others are, and the message has one line for each that is not.
        OSError: The disk is nearly full; says what is needed. Nothing is written.
    """
    folder = Path(folder)
    _refuse_twins(cases)
    if workers is not None and workers < 1:
        msg = f"workers must be at least 1; got {workers}. None takes the cores, at most four."
        raise ValueError(msg)
    folder.mkdir(parents=True, exist_ok=True)
    todo = [case for case in cases if not _is_current(case, folder, recipe)]
    if len(todo) < len(cases):
        sys.stdout.write(f"prepare: {len(cases) - len(todo)} kept, {len(todo)} to make\n")
    if todo:
        needed = sum(_estimate_bytes(case, recipe) for case in todo)
        require_free_space(folder, needed, what=f"{len(todo)} prepared cases")
        _refuse_failures(_prepare_all(todo, folder, recipe, workers), len(cases))
    return [case.id for case in cases]


def _prepare_all(
    todo: Sequence[Case], folder: Path, recipe: Recipe, workers: int | None
) -> dict[str, Exception]:
    workers = max(1, min(workers or min(4, _allowed_cores()), len(todo)))
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    failures = {}
    try:
        futures = {pool.submit(_prepare_case, case, folder, recipe): case for case in todo}
        with closing(_finished(futures)) as finished:
            for future in finished:
                if error := future.exception():
                    failures[futures[future].id] = error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(torch_threads)  # the workers' 1 would be every later thread's
    return failures


def _finished(futures: Sequence[Future]) -> Iterator[Future]:
    yield from progress(as_completed(futures), "prepare", total=len(futures))


def _prepare_case(case: Case, folder: Path, recipe: Recipe) -> None:
    from bratskit.preprocess.fast import load_prepared  # which stands on this module

    save_prepared(load_prepared(case, recipe, threads=1), folder, settings=_settings(case, recipe))


def _settings(case: Case, recipe: Recipe) -> dict[str, object]:
    """Say what a stored case depends on, as JSON gives it back."""
    paths = [*case.paths.values(), *([case.labels_path] if case.labels_path else [])]
    sources = {}
    for path in map(Path, paths):
        facts = path.stat()
        sources[path.name] = {"bytes": facts.st_size, "modified_s": int(facts.st_mtime)}
    settings = {
        "format": FORMAT,
        "geometry": dataclasses.asdict(recipe.geometry),
        "modalities": recipe.modalities,
        "normalise": recipe.normalise,
        "schema": case.schema.name,
        "sources": sources,
    }
    return json.loads(json.dumps(settings))


def _is_current(case: Case, folder: Path, recipe: Recipe) -> bool:
    try:
        return read_receipt(folder / case.id)["settings"] == _settings(case, recipe)
    except (OSError, ValueError, KeyError):  # none yet, unreadable, or a source is gone
        return False


def _estimate_bytes(case: Case, recipe: Recipe) -> int:
    if recipe.geometry.size_vox is not None:
        return int(np.prod(recipe.geometry.size_vox)) * BYTES_A_VOXEL
    try:
        header = nib.load(next(iter(case.paths.values()))).header
    except (OSError, nib.filebasedimages.ImageFileError):  # reported when its turn comes
        return 0
    voxels = float(np.prod(header.get_data_shape()[:3]))
    if recipe.geometry.spacing_mm is not None:
        voxels *= np.prod(header.get_zooms()[:3]) / np.prod(recipe.geometry.spacing_mm)
    return int(voxels * BOX_SHARE * BYTES_A_VOXEL)


def _refuse_twins(cases: Sequence[Case]) -> None:
    ids = [case.id for case in cases]
    twins = sorted({name for name in ids if ids.count(name) > 1})
    if twins:
        msg = f"cases must have different ids; got {twins} more than once. Rename or drop them."
        raise ValueError(msg)


def _refuse_failures(failures: dict[str, Exception], n_cases: int) -> None:
    if not failures:
        return
    lines = [_line(name, error) for name, error in sorted(failures.items())]
    if len(lines) == 1 == n_cases:
        raise ValueError(lines[0])
    hidden = len(lines) - MOST_LISTED
    shown = lines[:MOST_LISTED] + ([f"and {hidden} more"] if hidden > 0 else [])
    msg = (
        f"{len(lines)} of {n_cases} cases could not be prepared, the others are. "
        "Mend or leave out, then start again:\n  " + "\n  ".join(shown)
    )
    raise ValueError(msg)


def _line(case_id: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if case_id in text else f"{case_id}: {text}"


def _allowed_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _normalise(
    boxes: Sequence[NDArray], recipe: Recipe, threads: int | None
) -> NDArray[np.float32]:
    """Normalise each modality on a thread of its own, straight into the image."""
    image = np.empty((len(boxes), *boxes[0].shape), dtype=np.float32)

    def write(box: NDArray, out: NDArray[np.float32]) -> None:
        NORMALISE[recipe.normalise]([box], out=out[None])

    with ThreadPoolExecutor(threads or min(len(boxes), _allowed_cores())) as pool:
        list(pool.map(write, boxes, image))
    return image
