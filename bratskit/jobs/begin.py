"""Open a run folder from any notebook: find or make its cases, split them, prepare them, once."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bratskit.cases import (
    Case,
    Split,
    find_cases,
    find_duplicates,
    make_cohort,
    make_split,
    patient_of,
    read_facts,
    refuse_leaks,
    same_patients,
)
from bratskit.cases.mounts import DEEPEST, default_roots, pick_cohort
from bratskit.cases.patients import known_fingerprints, read_fingerprints
from bratskit.cases.phantoms.frame import EXTRA_SEED, refuse_kept_seed
from bratskit.labels import get_schema
from bratskit.runtime import RunFolder, write_atomically
from bratskit.settings import Recipe, get_recipe

__all__ = [
    "AUTO",
    "Run",
    "begin_run",
    "refuse_other_run",
    "resolve_data",
    "spare_training_part",
]

AUTO = "auto"  # as data_dir: what Kaggle or Colab has mounted
DEFAULT_EDITION = "brats2017-2021"

EXTRA = "ExtraPhantom"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What every notebook starts from.

    Attributes:
        folder: Where files are handed over.
        recipe: Every setting of the run.
        cases: All cases, by id; extra phantoms too.
        split: Which case belongs to which part; extra phantoms are training cases.
        extra: Ids of phantoms that were added to the training part of a real cohort.
        is_phantom: Whether the cases were made here.
        data_dir: Folder that the cohort was found in.
        edition: Edition that the masks of the cohort are declared to be in.
    """

    folder: RunFolder
    recipe: Recipe
    cases: dict[str, Case]
    split: Split
    extra: frozenset[str]
    is_phantom: bool
    data_dir: Path
    edition: str = DEFAULT_EDITION

    def part(self, name: str) -> list[Case]:
        """List the cohort's own cases of "train", "validation" or "test", no extra phantoms."""
        own = [case_id for case_id in getattr(self.split, name) if case_id not in self.extra]
        return [self.cases[case_id] for case_id in own]


def begin_run(
    run_dir: Path | str,
    *,
    data_dir: Path | str = "",
    edition: str | None = None,
    recipe_name: str = "tiny",
    n_cases: int = 40,
    seed: int = 0,
    epochs: int = 0,
    phantom_spacing_mm: float = 1.0,
    is_prepared: bool = True,
) -> Run:
    """Open a run folder, doing only what is not done yet.

    A new folder gets its settings, its cases (phantoms where `data_dir` is empty), a split by
    patient (without a training part where the recipe learns from a stream of phantoms alone) and
    prepared arrays. Every scan is read for the split, unless `bratskit check` has: one
    patient under two names is in one part. A folder that has them keeps them: the files decide, so
    that notebooks opened in any order agree.

    Args:
        run_dir: Run folder, made if absent.
        data_dir: Folder of BraTS cases; empty makes phantoms; "auto" takes the one cohort that
            Kaggle or Colab has mounted, and phantoms where there is none.
        edition: Edition of their masks, phantoms' too; None takes the run's own, for a new one
            brats2017-2021.
        recipe_name: Recipe of a new run.
        n_cases: Phantoms to make.
        seed: Of the phantoms, the split and the training, 0 to 19999.
        epochs: Epochs of a new run; 0 takes the recipe's.
        phantom_spacing_mm: Voxel size of the phantoms, mm; coarse ones are made faster.
        is_prepared: Whether to prepare the cases too.

    Raises:
        ValueError: The folder was begun with another recipe or other data; says which. Or the seed
            is one of those kept for the phantoms that networks learn from. Or "auto" found several
            cohorts; lists them. Or its split has one patient in two parts.
        FileNotFoundError: `data_dir` holds no case.
        PermissionError: The folder cannot be written to.
    """
    refuse_kept_seed(seed)
    folder = RunFolder(Path(run_dir).expanduser()).create()
    data_dir = resolve_data(data_dir)
    words = {"n_cases": n_cases, "seed": seed, "spacing_mm": phantom_spacing_mm}
    recipe = _settle(
        folder,
        _source(data_dir, edition=edition, **words),
        _recipe(recipe_name, seed=seed, epochs=epochs),
    )
    source = json.loads(folder.source.read_text(encoding="utf-8"))
    own = _cases(folder, source)
    extra = _extra_phantoms(folder, recipe) if data_dir else []
    split = _split(folder, own, extra, recipe=recipe, data_dir=data_dir)
    cases = [*own, *extra]
    if is_prepared:
        from bratskit.preprocess import prepare_cohort  # needs torch; a look at a run does not

        prepare_cohort(cases, folder.prepared, recipe=recipe)
    return Run(
        folder=folder,
        recipe=recipe,
        cases={case.id: case for case in cases},
        split=split,
        extra=frozenset(case.id for case in extra),
        is_phantom=not data_dir,
        data_dir=Path(data_dir) if data_dir else folder.cases,
        edition=source.get("edition", DEFAULT_EDITION),
    )


def resolve_data(data_dir: Path | str) -> str:
    """Turn a data folder as given into one that can be kept: absolute, or "" for phantoms.

    "auto" searches what Kaggle or Colab has mounted, and says on stdout what came of it.

    Raises:
        ValueError: "auto" found several cohorts; lists them.
    """
    if str(data_dir) != AUTO:
        return str(Path(data_dir).expanduser().resolve()) if data_dir else ""
    found = pick_cohort()
    if found is None:
        roots = ", ".join(str(root) for root in default_roots())
        where = (
            f"no cohort with masks within {DEEPEST} folders of {roots}"
            if roots
            else "nothing is mounted by Kaggle or Colab here"
        )
        sys.stdout.write(f"data_dir 'auto': {where}; phantoms are made instead\n")
        return ""
    sys.stdout.write(f"data_dir 'auto': {found}\n")
    return str(found.resolve())


def refuse_other_run(
    run_dir: Path | str,
    *,
    data_dir: Path | str = "",
    edition: str | None = None,
    recipe_name: str = "tiny",
    n_cases: int = 40,
    seed: int = 0,
    phantom_spacing_mm: float = 1.0,
) -> None:
    """Refuse what `begin_run` would refuse, before anything is run; nothing is written.

    Raises:
        ValueError: The folder was begun with another recipe or other data; says which.
    """
    refuse_kept_seed(seed)
    words = {"n_cases": n_cases, "seed": seed, "spacing_mm": phantom_spacing_mm}
    source = _source(resolve_data(data_dir), edition=edition, **words)
    _begun(RunFolder(Path(run_dir).expanduser()), source, recipe_name=recipe_name, seed=seed)


def _source(data_dir: str, *, edition: str | None, **phantoms: float) -> dict[str, object]:
    """Say where the cases of a run come from, as `source.json` keeps it."""
    named = {} if edition is None else {"edition": get_schema(edition).name}
    return {"data_dir": data_dir, **({} if data_dir else phantoms), **named}


def _recipe(name: str, *, seed: int, epochs: int) -> Recipe:
    recipe = dataclasses.replace(get_recipe(name), seed=seed)
    if not epochs:
        return recipe
    return dataclasses.replace(recipe, training=dataclasses.replace(recipe.training, epochs=epochs))


def _settle(folder: RunFolder, source: dict[str, object], wanted: Recipe) -> Recipe:
    begun = _begun(folder, source, recipe_name=wanted.name, seed=wanted.seed)
    if begun is not None:
        return begun
    write_atomically(folder.settings, wanted.save)
    text = json.dumps(source, indent=2) + "\n"
    write_atomically(folder.source, lambda path: path.write_text(text, encoding="utf-8"))
    return wanted


def _begun(
    folder: RunFolder, source: dict[str, object], *, recipe_name: str, seed: int
) -> Recipe | None:
    """Return the recipe of a begun run, refusing another one or another source by name."""
    if not (folder.source.exists() and folder.settings.exists()):
        return None
    begun = json.loads(folder.source.read_text(encoding="utf-8"))
    if "edition" not in source:  # not asked for: whatever the run has
        begun.pop("edition", None)
    else:
        begun.setdefault("edition", DEFAULT_EDITION)
    recipe = Recipe.load(folder.settings)
    for name, got, kept in (
        ("recipe_name", recipe_name, recipe.name),
        ("seed", seed, recipe.seed),
        *((name, source.get(name), begun.get(name)) for name in sorted({*source, *begun})),
    ):
        if got != kept:
            msg = (
                f"{name} must be {kept!r}, with which {folder.path} was begun; got {got!r}. "
                "Choose another run_dir, or delete that folder to begin anew."
            )
            raise ValueError(msg)
    return recipe


def _cases(folder: RunFolder, source: dict[str, object]) -> list[Case]:
    edition = source.get("edition", DEFAULT_EDITION)
    if source["data_dir"]:
        return find_cases(source["data_dir"], schema=edition, require_labels=True)
    spacing_mm = float(source["spacing_mm"])
    return make_cohort(
        folder.cases,
        n_cases=int(source["n_cases"]),
        seed=int(source["seed"]),
        edition=edition,
        spacing_mm=(spacing_mm, spacing_mm, spacing_mm),
    )


def _extra_phantoms(folder: RunFolder, recipe: Recipe) -> list[Case]:
    n_cases = recipe.training.extra_phantoms
    if not n_cases:
        return []
    seed = recipe.seed + EXTRA_SEED
    return make_cohort(folder.cases, n_cases=n_cases, seed=seed, prefix=EXTRA, is_for_training=True)


def spare_training_part(drawn: Split, recipe: Recipe) -> Split:
    """Give the training part to the test where a recipe learns from no patient."""
    if recipe.training.phantom_share < 1:
        return drawn
    test = tuple(sorted((*drawn.train, *drawn.test)))
    return dataclasses.replace(drawn, train=(), test=test)


def _split(
    folder: RunFolder, own: list[Case], extra: list[Case], *, recipe: Recipe, data_dir: str = ""
) -> Split:
    """Read the manifest, or draw it: only the cohort's own cases are validated and tested on.

    Phantoms of ours are not compared: their seeds differ.
    """
    places = [data_dir] if data_dir else []
    if not folder.split.exists():
        facts = read_facts(own)
        enhancing = {name: fact.has_et for name, fact in facts.items() if fact.has_et is not None}
        same = same_patients(own, prints=read_fingerprints(own, folders=places)) if places else ()
        # by `has_et`, as the stored results were drawn
        drawn = make_split(own, seed=recipe.seed, has_et=enhancing, same_patient=same)
        drawn = spare_training_part(drawn, recipe)
        train = (*drawn.train, *(case.id for case in extra))
        dataclasses.replace(drawn, train=train, facts=facts).save(folder.split)
        _say_twins(same)
    split = Split.load(folder.split)
    known = {case.id for case in (*own, *extra)}
    strangers = {*split.train, *split.validation, *split.test} - known
    if strangers:
        msg = (
            f"{folder.split} must name cases of this run; got {sorted(strangers)[:3]} among "
            f"{len(strangers)} others. Delete it to draw a new split."
        )
        raise ValueError(msg)
    if places:
        prints = list(known_fingerprints(own, folders=places).values())
        mend = f"Choose another run_dir: {folder.split} was drawn without comparing images"
        refuse_leaks(split, find_duplicates(prints), mend=mend)
    return split


def _say_twins(groups: Sequence[Sequence[str]]) -> None:
    """Say which ids are one patient although their names do not tell."""
    told = [" = ".join(group) for group in groups if len({patient_of(name) for name in group}) > 1]
    if told:
        sys.stdout.write(f"one patient each, kept in one part: {'; '.join(told)}\n")
