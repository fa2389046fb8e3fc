"""Chain the five notebooks into one run, going on where an earlier one stopped."""

from collections.abc import Callable
from pathlib import Path

from bratskit.jobs.notebooks import find_notebooks, fingerprint, run_notebook, write_line
from bratskit.jobs.parameters import Value, check_parameters, read_parameters
from bratskit.jobs.status import read_status, status_path
from bratskit.runtime import RunFolder
from bratskit.settings import get_recipe

__all__ = ["run_demo"]

ASKED = ("data_dir", "recipe_name", "n_cases", "seed", "phantom_spacing_mm")  # of `begin_run`


def run_demo(
    *,
    data: Path | str | None = None,
    edition: str | None = None,
    out: Path | str,
    recipe: str | None = None,
    on_line: Callable[[str], None] = write_line,
    **parameters: Value,
) -> RunFolder:
    """Run notebooks 01-05 one after the other into one run folder and show the scores.

    A notebook that is done already, with the same code and parameters and after the same
    predecessors, is not run again; training goes on from its last checkpoint.

    Args:
        data: Folder of BraTS cases; None makes phantoms; "auto" as in `begin_run`.
        edition: Edition of their masks, of phantoms and of the run's predictions; None takes the
            run's own, for a new one brats2017-2021.
        out: Run folder, made if absent.
        recipe: Name of a recipe; None takes "tiny" for phantoms and "laptop" for real cases.
        on_line: Called with each line of progress.
        parameters: Further notebook parameters by name, for example `n_cases=6`; each goes to
            the notebooks that declare it.

    Returns:
        The run folder; its `report` is one page about the run.

    Raises:
        FileNotFoundError: The data folder or the notebooks do not exist.
        ValueError: The data folder holds no case or a damaged one (nothing is written then), the
            run was begun with other settings, no such recipe or parameter exists, or the recipe
            learns from no patient.
        RuntimeError: A notebook failed; the message names the cell and its error.
        KeyboardInterrupt: Ctrl-C; the same call goes on from there.
    """
    from bratskit.jobs.begin import resolve_data

    data_dir = resolve_data(data or "")
    recipe = recipe or ("laptop" if data_dir else "tiny")
    _refuse_stream(recipe)
    run = RunFolder(Path(out).expanduser().resolve())
    notebooks = find_notebooks("0[1-5]_*.ipynb")
    _refuse_undeclared(parameters, notebooks)
    values = {"data_dir": data_dir, "recipe_name": recipe, **parameters}
    wanted = {**read_parameters(notebooks[0]), **values}
    _refuse_other_run(run, wanted, edition)
    if data_dir:
        _refuse_bad_data(data_dir, edition, is_new=not run.source.exists())
    run.create()
    if edition is not None:
        _begin(run, wanted, edition)
    values["run_dir"] = str(run.path)
    ran_before = False
    for number, notebook in enumerate(notebooks, start=1):
        on_line(f"[{number}/{len(notebooks)}] {notebook.stem} ...")
        declared = read_parameters(notebook)
        wanted = {name: value for name, value in values.items() if name in declared}
        if not ran_before and _is_done(notebook, run, wanted):
            on_line("    done already")
            continue
        ran_before = True
        status = run_notebook(
            notebook,
            out=run.notebooks,
            parameters=wanted,
            on_line=lambda line: on_line(f"    {line}"),
        )
        if status.state != "done":
            seen = f" Its cells so far: {status.output}." if status.output else ""
            msg = f"{str(status).rstrip('.')}.{seen} The same command goes on from there."
            raise RuntimeError(msg)
        on_line(f"    done in {status.seconds:.0f} s")
    _show_scores(run, on_line)
    return run


def _refuse_bad_data(folder: str, edition: str | None, *, is_new: bool) -> None:
    from bratskit.cases import find_cases, refuse_problems
    from bratskit.jobs.begin import DEFAULT_EDITION

    cases = find_cases(folder, schema=edition or DEFAULT_EDITION, require_labels=True)
    if is_new:  # a run that was begun has prepared them, or will say which it cannot
        refuse_problems(cases)


def _refuse_other_run(run: RunFolder, values: dict[str, Value], edition: str | None) -> None:
    from bratskit.jobs.begin import refuse_other_run

    asked = {name: values[name] for name in ASKED if name in values}
    refuse_other_run(run.path, edition=edition, **asked)


def _begin(run: RunFolder, values: dict[str, Value], edition: str) -> None:
    """Begin the run before the notebooks do, which take the edition from it."""
    from bratskit.jobs.begin import begin_run

    asked = {name: values[name] for name in (*ASKED, "epochs") if name in values}
    begin_run(run.path, edition=edition, is_prepared=False, **asked)


def _refuse_stream(recipe: str) -> None:
    """Refuse a recipe without training patients: the notebooks look at them."""
    if get_recipe(recipe).training.phantom_share == 1:
        msg = (
            f"recipe must learn from patients, which the notebooks show; got {recipe!r}, which "
            "learns from phantoms made on the way. Take another, or train this one by "
            f"`bratskit train PREPARED RUN --recipe {recipe}`."
        )
        raise ValueError(msg)


def _refuse_undeclared(parameters: dict[str, Value], notebooks: list[Path]) -> None:
    known = {name for notebook in notebooks for name in read_parameters(notebook)}
    unknown = sorted(set(parameters) - known)
    if unknown:
        msg = f"no notebook has a parameter {', '.join(unknown)}; there are {sorted(known)}."
        raise ValueError(msg)


def _is_done(notebook: Path, run: RunFolder, wanted: dict[str, Value]) -> bool:
    status = read_status(status_path(run.notebooks, notebook))
    return (
        status is not None
        and status.state == "done"
        and status.source == fingerprint(notebook)
        and status.parameters
        == check_parameters(read_parameters(notebook), wanted, where=notebook.stem)
        and (run.notebooks / notebook.name).is_file()
    )


def _show_scores(run: RunFolder, on_line: Callable[[str], None]) -> None:
    from bratskit.evaluate import Scores

    for line in str(Scores.load(run.scores)).splitlines():
        on_line(line)
    on_line(f"Scores: {run.scores}")
    on_line(f"Report: {run.report}")
