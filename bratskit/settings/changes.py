"""Change single settings of a recipe by dotted names, as a shell writes them."""

import dataclasses
import difflib
import json
from collections.abc import Sequence

from bratskit.settings.checks import check
from bratskit.settings.stages import Recipe

__all__ = ["change_recipe"]


def change_recipe(recipe: Recipe, words: Sequence[str]) -> Recipe:
    """Set some settings to other values, all at once: they may only fit one another.

    Args:
        recipe: Stays as it is.
        words: `NAME=VALUE` each, NAME as in `settings.json` with a dot between stage and setting,
            VALUE in JSON; what is no JSON is text. The last of one name counts.

    Returns:
        The changed recipe, under the same name.

    Raises:
        ValueError: No setting has this name (the message has the nearest), or it cannot be so.

    Examples:
        >>> recipe = change_recipe(Recipe(name="mine"), ["training.ema_decay=0.99", "seed=3"])
        >>> recipe.training.ema_decay, recipe.seed
        (0.99, 3)
    """
    values = recipe.to_dict()
    for word in words:
        name, equals, text = word.partition("=")
        check(bool(equals), f"--set must be NAME=VALUE; got {word!r}. Try training.epochs=30.")
        _refuse_unknown(name, recipe)
        stage, _, own = name.rpartition(".")
        (values[stage] if stage else values)[own] = _read(text)
    return Recipe.from_dict(values)


def _refuse_unknown(name: str, recipe: Recipe) -> None:
    known = []
    for item in dataclasses.fields(recipe):
        inside = getattr(recipe, item.name)
        if dataclasses.is_dataclass(inside):
            known += [f"{item.name}.{own.name}" for own in dataclasses.fields(inside)]
        else:
            known.append(item.name)
    own = name.rpartition(".")[2]
    near = [full for full in known if full.rpartition(".")[2] == own]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    check(name in known, f"--set must name a setting; got {name!r}. Nearest: {', '.join(near)}.")


def _read(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
