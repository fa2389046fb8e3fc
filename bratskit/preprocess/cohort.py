"""Prepare a cohort into a store: side by side, within a budget, going on where it was stopped."""

import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path

import torch

from bratskit.cases.case import Case
from bratskit.cases.contradict import refuse_contradiction
from bratskit.preprocess.budget import (
    FORMS,
    Form,
    FullDiskError,
    choose_form,
    estimate_bytes,
    find_space,
)
from bratskit.preprocess.fast import load_prepared
from bratskit.preprocess.lock import locked
from bratskit.preprocess.prepare import allowed_cores
from bratskit.preprocess.receipt import list_prepared, read_receipt, weigh
from bratskit.preprocess.store import FORMAT, save_prepared, sweep
from bratskit.runtime import progress
from bratskit.settings import Recipe

__all__ = ["prepare_cohort"]

MOST_READ = 24  # cases whose labels are compared with their images before the work begins
MOST_LISTED = 10  # failures spelled out in one message
Receipt = Mapping[str, object]


def prepare_cohort(
    cases: Sequence[Case],
    folder: Path | str,
    *,
    recipe: Recipe,
    workers: int | None = None,
    form: str = "auto",
    budget_gb: float | None = None,
) -> list[str]:
    """Prepare every case into a store, several at a time, going on where an earlier call stopped.

    A case whose receipt names the same settings and the same source files is kept; any other is
    made again. Ctrl-C finishes the cases in hand, at most a second or two, and leaves whole
    cases only; so does a kill, and so does a disk that runs full. The store ends up the same as
    if nothing had happened.

    Workers are threads, not processes: reading, decompressing, NumPy and torch all leave the
    interpreter free, and a thread starts at once, in a notebook as in a script without a
    `__main__` guard, where a process first imports torch again.

    Args:
        cases: What to prepare; ids must differ.
        folder: The store; made where absent.
        recipe: Grid, channels and normalisation.
        workers: Cases worked on at once, about 0.5 GB each; None takes the cores allowed to
            this process, at most four.
        form: "fast" (float16, 25 to 38 MB a BraTS case at 1 mm), "compact" (one byte, compressed,
            4 to 6 MB; patches take about three times as long to read) or "auto", which keeps to
            the form of the cases that are there, else takes fast where all cases fit, else compact.
            Cases that are there in the other form are kept by "auto", made again otherwise.
        budget_gb: What the whole store may weigh, 1e9 bytes; None takes what is free on the disk
            but a tenth (at most 2 GB), left for the rest of a run. Judged beforehand by estimates.

    Returns:
        Ids of all cases in the order given, kept or made.

    Raises:
        ValueError: An id occurs twice, `workers`, `form` or `budget_gb` is none, the images
            contradict the label schema, or some cases could not be prepared: all others are, and
            the message has one line for each that is not.
        FullDiskError: An `OSError`. The store would not fit: says what each form needs, and
            nothing is written. Or the disk ran full: finished cases stay.
        NotADirectoryError: `folder` is a file.
        RuntimeError: Another process is preparing this store; says which.
    """
    folder = Path(folder)
    _refuse_twins(cases)
    _refuse_settings(workers, form)
    _make_folder(folder)
    with locked(folder):
        _complete(cases, folder, recipe, workers, form, budget_gb)
    _report_lost(cases, folder, recipe)
    return [case.id for case in cases]


def _complete(
    cases: Sequence[Case],
    folder: Path,
    recipe: Recipe,
    workers: int | None,
    form: str,
    budget_gb: float | None,
) -> None:
    """Make what is not there yet."""
    for case in cases:
        sweep(folder, case.id)
    kept = {case.id: receipt for case in cases if (receipt := _current(case, folder, recipe, form))}
    todo = [case for case in cases if case.id not in kept]
    if kept:
        _say(f"{len(kept)} kept, {len(todo)} to make")
    if todo:
        chosen = _choose(todo, kept, folder, recipe, form, budget_gb)
        _refuse_wrong_schema(todo)
        failures = _prepare_all(todo, folder, recipe, workers, chosen)
        _refuse_failures(failures, len(cases))


def _choose(
    todo: Sequence[Case],
    kept: Mapping[str, Receipt],
    folder: Path,
    recipe: Recipe,
    form: str,
    budget_gb: float | None,
) -> Form:
    present = {name: weigh(folder / name) for name in list_prepared(folder)}
    stale = sum(present.get(case.id, 0) for case in todo)
    staying = sum(present.values()) - stale
    needed = {name: staying + size for name, size in estimate_bytes(todo, recipe).items()}
    space = find_space(folder, present_bytes=staying + stale, budget_gb=budget_gb)
    forms = {receipt.get("form", FORMS[0]) for receipt in kept.values()}
    there = forms.pop() if len(forms) == 1 else None
    chosen, line = choose_form(needed, space, wanted=form, there=there)
    _say(line)
    return chosen


def _refuse_wrong_schema(todo: Sequence[Case]) -> None:
    """Let a few images speak before all are prepared with labels that mean something else."""
    labelled = [case for case in todo if case.labels_path is not None]
    if len(labelled) > 2:
        for case, odd in refuse_contradiction(labelled, most=MOST_READ).items():
            _say(f"warning: {case}: {odd.message}")


def _prepare_all(
    todo: Sequence[Case], folder: Path, recipe: Recipe, workers: int | None, form: Form
) -> dict[str, Exception]:
    workers = max(1, min(workers or min(4, allowed_cores()), len(todo)))
    torch_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    failures = {}
    try:
        futures = {pool.submit(_prepare_case, case, folder, recipe, form): case for case in todo}
        with closing(_finished(futures)) as finished:
            for future in finished:
                if error := future.exception():
                    failures[futures[future].id] = error
                if isinstance(error, FullDiskError):
                    break
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(torch_threads)  # the workers' 1 would be every later thread's
    _refuse_full_disk(futures, failures, folder, form)
    return failures


def _finished(futures: Mapping[Future, Case]) -> Iterator[Future]:
    yield from progress(as_completed(futures), "prepare", total=len(futures))


def _prepare_case(case: Case, folder: Path, recipe: Recipe, form: Form) -> None:
    prepared = load_prepared(case, recipe, threads=1)
    save_prepared(prepared, folder, form=form, settings=_settings(case, recipe))


def _refuse_full_disk(
    futures: Mapping[Future, Case], failures: Mapping[str, Exception], folder: Path, form: Form
) -> None:
    full = next((item for item in failures.items() if isinstance(item[1], FullDiskError)), None)
    if full is None:
        return
    made = sum(not future.cancelled() and future.exception() is None for future in futures)
    then = ", or take the compact form, which needs a sixth," if form == "fast" else ""
    msg = (
        f"{_line(*full)} {made} of {len(futures)} cases were made and stay: free some space{then} "
        "and start again."
    )
    raise FullDiskError(msg)


def _settings(case: Case, recipe: Recipe) -> dict[str, object]:
    """Say what a stored case depends on, as JSON gives it back."""
    paths = [*case.paths.values(), *([case.labels_path] if case.labels_path else [])]
    sources = {}
    for path in dict.fromkeys(map(Path, paths)):
        facts = path.stat()
        # MSD's mask is called as its image is
        name = f"{path.parent.name}/{path.name}" if path.name in sources else path.name
        sources[name] = {"bytes": facts.st_size, "modified_s": int(facts.st_mtime)}
    settings = {
        "format": FORMAT,
        "geometry": dataclasses.asdict(recipe.geometry),
        "modalities": recipe.modalities,
        "channels": dict(case.channels),
        "normalise": recipe.normalise,
        "schema": case.schema.name,
        "sources": sources,
    }
    return json.loads(json.dumps(settings))


def _current(case: Case, folder: Path, recipe: Recipe, form: str) -> Receipt | None:
    """Return the receipt of a stored case that need not be made again."""
    try:
        receipt = read_receipt(folder / case.id)
        is_same = receipt["settings"] == _settings(case, recipe)
        is_same &= receipt["bytes"] == weigh(folder / case.id)  # a crash may cut files short
        return receipt if is_same and form in ("auto", receipt["form"]) else None
    except (OSError, ValueError, KeyError):  # none yet, unreadable, or a source is gone
        return None


def _report_lost(cases: Sequence[Case], folder: Path, recipe: Recipe) -> None:
    """Say in one line what the recipe's crop leaves out: no prediction can reach it."""
    lost = {case.id: read_receipt(folder / case.id).get("lost_vox", {}) for case in cases}
    hit = {name: counts for name, counts in lost.items() if any(counts.values())}
    if hit:
        worst = max(hit, key=lambda name: sum(hit[name].values()))
        counts = ", ".join(f"{label} {count}" for label, count in hit[worst].items())
        _say(
            f"the crop of recipe {recipe.name!r} loses tumour in {len(hit)} of {len(cases)} cases, "
            f"most in {worst}: {sum(hit[worst].values())} voxels ({counts})"
        )


def _say(line: str) -> None:
    sys.stdout.write(f"prepare: {line}\n")
    sys.stdout.flush()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        msg = f"folder must be a folder; got {folder}, a file or a place in one. Choose another."
        raise NotADirectoryError(msg) from error


def _refuse_twins(cases: Sequence[Case]) -> None:
    ids = [case.id for case in cases]
    twins = sorted({name for name in ids if ids.count(name) > 1})
    if twins:
        msg = f"cases must have different ids; got {twins} more than once. Rename or drop them."
        raise ValueError(msg)


def _refuse_settings(workers: int | None, form: str) -> None:
    if workers is not None and workers < 1:
        msg = f"workers must be at least 1; got {workers}. None takes the cores, at most four."
        raise ValueError(msg)
    if form not in ("auto", *FORMS):
        msg = f"form must be one of {['auto', *FORMS]}; got {form!r}. auto looks at the space."
        raise ValueError(msg)


def _refuse_failures(failures: dict[str, Exception], n_cases: int) -> None:
    if not failures:
        return
    lines = [_line(name, error) for name, error in sorted(failures.items())]
    if len(lines) == 1 == n_cases:
        raise ValueError(lines[0])
    hidden = len(lines) - MOST_LISTED
    shown = lines[:MOST_LISTED] + ([f"and {hidden} more"] if hidden > 0 else [])
    others = "; the others are" if len(lines) < n_cases else ""
    msg = (
        f"{len(lines)} of {n_cases} cases could not be prepared{others}. "
        "Mend or leave out, then start again:\n  " + "\n  ".join(shown)
    )
    raise ValueError(msg)


def _line(case_id: str, error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if case_id in text else f"{case_id}: {text}"
