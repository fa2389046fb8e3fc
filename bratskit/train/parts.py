"""Open the prepared patients of a split, and refuse a store that does not belong to the recipe."""

import dataclasses
import json
from pathlib import Path

from bratskit.cases import Split
from bratskit.preprocess import Prepared, list_prepared, open_prepared
from bratskit.preprocess.store import FORMAT, read_receipt
from bratskit.settings import Recipe

__all__ = ["open_parts"]

_SHOWN = 5  # names quoted in one message before the rest is counted


def open_parts(
    prepared_dir: Path, split: Split, recipe: Recipe
) -> tuple[list[Prepared], list[Prepared]]:
    """Open training and validation patients; the test part stays closed.

    Args:
        prepared_dir: Folder that `prepare_cohort` filled.
        split: Patients of each part.
        recipe: Its grid and channels must be those of the store.

    Returns:
        Training cases (none where `phantom_share` is 1) and validation cases, memory-mapped.

    Raises:
        FileNotFoundError: A patient was not prepared.
        ValueError: There is nobody to learn from, or a patient was prepared without a mask or by
            other settings, or has a damaged file.
    """
    train = split.train if recipe.training.phantom_share < 1 else ()
    if not train and recipe.training.phantom_share < 1:
        msg = (
            "split.train must hold at least one patient; got none. Make it from more cases, or "
            "learn from phantoms alone: recipe 'phantom', training.phantom_share=1."
        )
        raise ValueError(msg)
    wanted = (*train, *split.validation)
    ready = set(list_prepared(prepared_dir)) if prepared_dir.is_dir() else set()
    missing = [name for name in wanted if name not in ready]
    if missing:
        msg = (
            f"{prepared_dir} must hold every training and validation patient; {len(missing)} are "
            f"missing, first {missing[0]}. Run `bratskit prepare DATA {prepared_dir}`."
        )
        raise FileNotFoundError(msg)
    for name in wanted:
        _refuse_other_preparation(prepared_dir / name, recipe)
    _refuse_bare(prepared_dir, wanted)
    return (
        [_open_whole(prepared_dir / name) for name in train],
        [_open_whole(prepared_dir / name) for name in split.validation],
    )


def _refuse_bare(prepared_dir: Path, names: tuple[str, ...]) -> None:
    """Refuse patients without a mask: nothing is learned from them, and no score comes of them."""
    bare = [name for name in names if not read_receipt(prepared_dir / name)["has_labels"]]
    if bare:
        rest = f" and {len(bare) - _SHOWN} more" if len(bare) > _SHOWN else ""
        msg = (
            f"{prepared_dir} must hold a mask of every training and validation patient; got none "
            f"for {', '.join(bare[:_SHOWN])}{rest}. Add the masks and run `bratskit prepare` "
            "again, or leave those patients out of the split: `bratskit split DATA FILE` draws one."
        )
        raise ValueError(msg)


def _open_whole(folder: Path) -> Prepared:
    """Touch every file of a case now (3 ms), so that a damaged one is not met epochs later."""
    prepared = open_prepared(folder)
    for name in ("image", "labels", "mask", "foreground"):
        getattr(prepared, name)
    return prepared


def _refuse_other_preparation(folder: Path, recipe: Recipe) -> None:
    receipt = read_receipt(folder)
    settings = receipt.get("settings", {})
    if settings.get("format", FORMAT) != FORMAT:
        msg = (
            f"{folder} must be of store format {FORMAT}; got {settings['format']}, made by an "
            f"older version. Make it again: `bratskit prepare DATA {folder.parent} "
            f"--recipe {recipe.name}`."
        )
        raise ValueError(msg)
    wanted = json.loads(json.dumps(dataclasses.asdict(recipe.geometry)))
    for name, found, asked in (
        ("modalities", list(receipt["modalities"]), list(recipe.modalities)),
        # absent where saved by hand
        ("geometry", settings.get("geometry", wanted), wanted),
        ("normalise", settings.get("normalise", recipe.normalise), recipe.normalise),
    ):
        if found != asked:
            msg = (
                f"{name} of {folder} must be {asked}, as recipe {recipe.name!r} asks; got {found}. "
                f"Prepare the cases again with this recipe, `bratskit prepare DATA {folder.parent} "
                f"--recipe {recipe.name}`, or train with the other."
            )
            raise ValueError(msg)
