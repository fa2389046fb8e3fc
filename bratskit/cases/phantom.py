"""Write phantoms with exact truth, alone or as a cohort; none of them is a real patient."""

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

from bratskit.cases.case import Case
from bratskit.cases.simulate import GENERATOR, Phantom, make_phantom, refuse_odd_settings
from bratskit.cases.write import case_in, facts_path, list_cases, remove_unfinished, write_scan
from bratskit.labels import SCHEMAS, LabelSchema, get_schema
from bratskit.runtime import progress, write_atomically

__all__ = ["Phantom", "make_cohort", "make_phantom", "write_phantom"]


def write_phantom(
    phantom: Phantom, folder: Path | str, *, edition: LabelSchema | str = "brats2017-2021"
) -> Case:
    """Write four int16 modalities, the mask and `<id>_truth.json`, all or nothing.

    They go into `folder/<id>/`, as the edition names them; for MSD Task01 into `imagesTr` (one 4D
    file), `labelsTr` and `factsTr`, and `dataset.json` is brought up to date.

    Args:
        phantom: What to write.
        folder: The cohort's folder; made where absent.
        edition: Whose label integers, file names and file form to use.

    Raises:
        PermissionError: The folder cannot be made or written to.
    """
    edition, folder = get_schema(edition), _writable(folder)
    facts = phantom.truth | {"edition": edition.name}
    case = write_scan(phantom.scan, folder, edition=edition, facts=facts)
    list_cases(folder, edition)
    return case


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
    prefix: str = "Phantom",
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
        prefix: Begins each id; a second cohort of a run needs another one and another seed.
        workers: Processes at once; None means one a core.

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
    refuse_odd_settings((seed,), spacing_mm)
    folder = _writable(folder)
    names = [f"{prefix}_{number:05d}" for number in range(n_cases)]
    wanted = [(folder, name, (seed, i), spacing_mm, edition) for i, name in enumerate(names)]
    todo = [job for job in wanted if not _is_there(*job)]
    for _, name, *_ in todo:
        remove_unfinished(folder, name)
    list_cases(folder, edition)
    workers = min(workers or _cores(), max(len(todo), 1))
    for _ in progress(_done(todo, workers), "phantom", total=len(todo)):
        list_cases(folder, edition)
    return [case_in(folder, name, edition) for name in names]


def _cores() -> int:
    """Count the cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_there(
    folder: Path,
    name: str,
    seeds: tuple[int, int],
    spacing_mm: tuple[float, ...],
    edition: LabelSchema,
) -> bool:
    places = {facts_path(folder, name, get_schema(other)) for other in SCHEMAS}
    path = next((place for place in sorted(places) if place.exists()), None)
    if path is None:
        return False
    truth = json.loads(path.read_text(encoding="utf-8"))
    wanted = {
        "seed": list(seeds),
        "spacing_mm": [*map(float, spacing_mm)],
        "edition": edition.name,
        "generator": GENERATOR,
    }
    for key, value in wanted.items():
        if truth.get(key) != value:
            msg = (
                f"folder must be empty or hold the same cohort; got {folder}, where {name} has "
                f"{key} {truth.get(key)}, not {value}. Choose another folder."
            )
            raise ValueError(msg)
    return all(file.exists() for file in _files(folder, name, edition))


def _files(folder: Path, name: str, edition: LabelSchema) -> set[Path]:
    case = case_in(folder, name, edition)
    return {*case.paths.values(), case.labels_path}


def _leave_with_parent() -> None:
    """End this worker when the process that started it is gone, killed -9 included."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()


def _write_one(
    folder: Path,
    name: str,
    seeds: tuple[int, int],
    spacing_mm: tuple[float, float, float],
    edition: LabelSchema,
) -> str:
    phantom = make_phantom(seeds, spacing_mm=spacing_mm, case_id=name)
    facts = phantom.truth | {"edition": edition.name}
    write_scan(phantom.scan, folder, edition=edition, facts=facts)
    return name


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep new processes from running the caller's script again, guard or no guard.

    A spawned process re-imports `__main__` unless it has neither a file nor a spec; our workers
    need nothing of it, and a script read from a pipe cannot even be found.
    """
    main = sys.modules["__main__"]
    hidden = {name: vars(main).get(name) for name in ("__file__", "__spec__")}
    try:
        main.__spec__ = None
        vars(main).pop("__file__", None)
        yield
    finally:
        vars(main).update({name: value for name, value in hidden.items() if value is not None})


def _done(jobs: list[tuple], workers: int) -> Iterator[str]:
    """Yield the names of cases as they are finished."""
    if workers == 1:
        for job in jobs:
            yield _write_one(*job)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_leave_with_parent) as pool:
        with _main_hidden():
            futures = [pool.submit(_write_one, *job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()
