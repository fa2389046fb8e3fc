"""Write phantoms with exact truth, alone or as a cohort; none of them is a real patient."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread, current_thread, main_thread
from typing import TYPE_CHECKING

from bratskit.cases.case import Case
from bratskit.cases.phantoms.frame import (
    facts_of_order,
    ingredients_of,
    refuse_kept_seed,
    seeds_of,
)
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.write import case_in, facts_path, list_cases, remove_unfinished, write_scan
from bratskit.labels import SCHEMAS, LabelSchema, get_schema
from bratskit.runtime import progress, write_atomically

if TYPE_CHECKING:  # the simulation needs torch; who only orders a cohort does not wait for it
    from bratskit.cases.phantoms.truth import Phantom

__all__ = ["make_cohort", "write_phantom"]


@dataclass(frozen=True)
class _Order:
    """One case of a cohort, as a worker is told of it."""

    folder: Path
    name: str
    seeds: tuple[int, int]
    spacing_mm: tuple[float, float, float]
    edition: LabelSchema
    ingredients: Ingredients
    level_sets: bool


def write_phantom(
    phantom: "Phantom",
    folder: Path | str,
    *,
    edition: LabelSchema | str = "brats2017-2021",
    level_sets: bool = False,
) -> Case:
    """Write four int16 modalities, the mask and `<id>_truth.json`, all or nothing.

    They go into `folder/<id>/`, as the edition names them; for MSD Task01 into `imagesTr` (one 4D
    file), `labelsTr` and `factsTr`, and `dataset.json` is brought up to date. A resection cavity
    is written where the edition has an integer for it (4 in brats2024-gli), else as background.

    Args:
        phantom: What to write.
        folder: The cohort's folder; made where absent.
        edition: Whose label integers, file names and file form to use.
        level_sets: Whether to write `<id>_truth.npz` too: `WT`, `TC` and `ET`, `(I, J, K)` float32
            in RAS+ as `load_scan` gives the labels (the mask on disk is LPS+), and `affine`; some
            2 MB at 1 mm.

    Raises:
        PermissionError: The folder cannot be made or written to.
    """
    edition, folder = get_schema(edition), _writable(folder)
    case = _write(phantom, folder, edition, level_sets=level_sets)
    list_cases(folder, edition)
    return case


def _write(phantom: "Phantom", folder: Path, edition: LabelSchema, *, level_sets: bool) -> Case:
    return write_scan(
        phantom.scan,
        folder,
        edition=edition,
        facts=phantom.truth | {"edition": edition.name},
        cavity=phantom.cavity,
        level_sets=phantom.level_sets if level_sets else {},
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
    ingredients: Ingredients | None = None,
    level_sets: bool = False,
    prefix: str = "Phantom",
    workers: int | None = None,
    is_for_training: bool = False,
) -> list[Case]:
    """Write a cohort of phantoms, `Phantom_00000` and on, with progress; goes on where it stopped.

    A case depends on the seed and its number alone: not on the number of workers, and not on how
    many other cases there are.

    Args:
        folder: Where the case folders go. Cases already there with the same seed, spacing and
            edition and with the same ingredients are kept.
        n_cases: How many cases the folder shall hold.
        seed: Names the cohort, 0 to 19999; phantoms of later seeds are kept for training.
        edition: Whose label integers and file names to use.
        spacing_mm: Voxel size.
        ingredients: How much of each simulated effect goes in; None means each as in real cases,
            resection cavities where the edition has a label for them.
        level_sets: Whether each case gets its level sets too, in `<id>_truth.npz`.
        prefix: Begins each id; a second cohort of a run needs another one and another seed.
        workers: Processes at once; None means one a core.
        is_for_training: Whether a network shall learn from all cases, whose seed is then one of
            those kept for that, 20000 to 39999.

    Returns:
        The cases, by number.

    Raises:
        ValueError: `n_cases` or `workers` is below 1, the seed is kept for training, or the folder
            holds another cohort.
        PermissionError: The folder cannot be made or written to.
    """
    for name, value in (("n_cases", n_cases), ("workers", 1 if workers is None else workers)):
        if value < 1:
            msg = f"{name} must be 1 or more; got {value}. Try {name}=4."
            raise ValueError(msg)
    edition = get_schema(edition)
    seeds_of(seed, spacing_mm)
    refuse_kept_seed(seed, is_for_training=is_for_training)
    ingredients = ingredients_of(edition) if ingredients is None else ingredients
    folder = _writable(folder)
    names = [f"{prefix}_{number:05d}" for number in range(n_cases)]
    spacing_mm = tuple(float(s) for s in spacing_mm)
    wanted = [
        _Order(folder, name, (seed, i), spacing_mm, edition, ingredients, level_sets)
        for i, name in enumerate(names)
    ]
    todo = [order for order in wanted if not _is_there(order)]
    for order in todo:
        remove_unfinished(folder, order.name)
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


def _is_there(order: _Order) -> bool:
    places = {facts_path(order.folder, order.name, get_schema(other)) for other in SCHEMAS}
    path = next((place for place in sorted(places) if place.exists()), None)
    if path is None:
        return False
    truth = json.loads(path.read_text(encoding="utf-8"))
    wanted = facts_of_order(order.seeds, order.spacing_mm, order.ingredients)
    for key, value in (wanted | {"edition": order.edition.name}).items():
        if truth.get(key) != value:
            difference = _difference(key, truth.get(key), value)
            msg = (
                f"folder must be empty or hold the same cohort; got {order.folder}, where "
                f"{order.name} has {difference}. Choose another folder."
            )
            raise ValueError(msg)
    return all(file.exists() for file in _files(order))


def _difference(key: str, found: object, wanted: object) -> str:
    """Say what is not as wanted; of a table, the first entry that differs."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        names = sorted({*found, *wanted})
        key = next(name for name in names if found.get(name) != wanted.get(name))
        found, wanted = found.get(key), wanted.get(key)
    return f"{key} {found}, not {wanted}"


def _files(order: _Order) -> set[Path]:
    case = case_in(order.folder, order.name, order.edition)
    facts = facts_path(order.folder, order.name, order.edition)
    extra = {facts.with_suffix(".npz")} if order.level_sets else set()
    return {*case.paths.values(), case.labels_path, *extra}


def _begin_worker() -> None:
    """Work on one core, and end when the process that started it is gone, killed -9 included."""

    def wait() -> None:
        parent_process().join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _write_one(order: _Order) -> str:
    from bratskit.cases.phantoms.truth import make_phantom

    phantom = make_phantom(
        order.seeds,
        spacing_mm=order.spacing_mm,
        case_id=order.name,
        ingredients=order.ingredients,
    )
    _write(phantom, order.folder, order.edition, level_sets=order.level_sets)
    return order.name


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Let new processes be born deaf to Ctrl-C: the one that started them hears it and ends them.

    Only a main thread may set signals; elsewhere nothing is changed.
    """
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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


def _done(orders: list[_Order], workers: int) -> Iterator[str]:
    """Yield the names of cases as they are finished."""
    if workers == 1:
        for order in orders:
            yield _write_one(order)
        return
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker) as pool:
        with _main_hidden(), _deaf_children():
            futures = [pool.submit(_write_one, order) for order in orders]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
