"""The rows of the phantom benchmark: who learns from whom, in which budget, judged on whom."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from bratskit.cases import Case, read_facts
from bratskit.cases.patients import group_patients
from bratskit.cases.phantoms import INGREDIENTS
from bratskit.cases.phantoms.frame import GENERATOR
from bratskit.cases.strata import share_out, strata_of
from bratskit.settings import Recipe, get_recipe

EPOCH_STEPS = 50  # a kill loses fewer
HELD_OUT, DRAWS = 10, (5, 10, 20)
LONGER = 3  # times the steps, in the rows that end in "-longer"

# Left out together: what acts on the same thing.
GROUPS = {
    "bends": ("bends",),
    "age": ("age", "white_lesions"),
    "mimics": ("mimics", "regions"),
    "growth": ("mass_effect", "infiltration", "raggedness", "multifocal"),
    "non-enhancing": ("non_enhancing",),
    "contrast": ("contrast",),
    "texture": ("texture",),
    "resolution": ("partial_volume", "thick_slices"),
    "bias": ("bias",),
    "noise-and-ghosts": ("noise", "ghosts"),
    "strip": ("strip",),
}


if {name for group in GROUPS.values() for name in group} != {*INGREDIENTS} - {"slabs", "cavity"}:
    msg = "GROUPS must name every ingredient once that is in by default; one is missing or unknown."
    raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training and whom it is judged on.

    Attributes:
        name: Names its folder and its result.
        part: "alone", "leave-one-out" or "scarce".
        recipe: Every setting; None for a baseline.
        patients: Ids of the real patients learned from.
        tested: Ids of the cases scored.
    """

    name: str
    part: str
    recipe: Recipe | None
    patients: tuple[str, ...] = ()
    tested: tuple[str, ...]

    def settings(self) -> dict[str, object]:
        """Return what a stored result must have been made with, as JSON gives it back."""
        values = {
            "part": self.part,
            "patients": sorted(self.patients),
            "tested": sorted(self.tested),
            "recipe": None if self.recipe is None else self.recipe.to_dict(),
        }
        if self.needs_phantoms:
            values["generator"] = GENERATOR
        return json.loads(json.dumps(values))

    @property
    def needs_phantoms(self) -> bool:
        """Whether another generator gives another result."""
        if self.recipe is None:
            return self.name == "threshold"
        return self.recipe.training.phantom_share > 0

    def fits(self, found: Mapping[str, object]) -> bool:
        """Say whether a stored result was made with today's settings.

        Settings that did not exist when it was made count as what they are by default.
        """
        wanted = self.settings()
        recipe = found.get("recipe")
        same_recipe = recipe == wanted["recipe"] or (
            recipe is not None and Recipe.from_dict(recipe) == self.recipe
        )
        return same_recipe and all(
            found.get(key) == value for key, value in wanted.items() if key != "recipe"
        )


def plan_rows(ids: Sequence[str], parts: dict[int, tuple[str, ...]], *, dry: bool) -> list[Row]:
    """List every row, the ones that others are compared with first."""
    alone, small = _recipes(dry=dry)
    everyone = partial(Row, tested=tuple(ids))
    rows = [
        everyone(name="nothing", part="alone", recipe=None),
        everyone(name="threshold", part="alone", recipe=None),
        everyone(name="alone", part="alone", recipe=alone),
        everyone(name="full", part="leave-one-out", recipe=small),
        everyone(name="full-again", part="leave-one-out", recipe=replace(small, seed=1)),
    ]
    for count in DRAWS:
        rows += _scarce(count, parts, small)
    for name, group in GROUPS.items():
        recipe = _train(small, phantom_ingredients=dict.fromkeys(group, 0.0))
        rows.append(everyone(name=f"without-{name}", part="leave-one-out", recipe=recipe))
    longer = _train(small, epochs=LONGER * small.training.epochs)
    for count in DRAWS:
        rows += _scarce(count, parts, longer, suffix="-longer")
    return rows


def _scarce(
    count: int, parts: dict[int, tuple[str, ...]], recipe: Recipe, *, suffix: str = ""
) -> list[Row]:
    """Learn from so many patients alone, and with every other patch from a phantom."""
    return [
        Row(
            name=f"scarce-{count}{name}{suffix}",
            part="scarce",
            recipe=_train(recipe, phantom_share=share),
            patients=parts[count],
            tested=parts[0],
        )
        for share, name in ((0.0, ""), (0.5, "-phantoms"))
    ]


def _recipes(*, dry: bool) -> tuple[Recipe, Recipe]:
    """Return the settings of `alone` and of all other rows."""
    if dry:
        smoke = _train(get_recipe("smoke"), epochs=2, steps_per_epoch=3, phantom_share=1.0)
        return replace(smoke, name="dry-alone"), replace(smoke, name="dry-small")
    tiny, wide = get_recipe("tiny"), get_recipe("phantom").network
    budget = {"batch": 1, "steps_per_epoch": EPOCH_STEPS, "phantom_share": 1.0}
    small = _train(tiny, epochs=16, learning_rate=6e-3, **budget)
    small = replace(
        small, name="small", inference=replace(tiny.inference, smallest_component_vox=500)
    )
    alone = _train(small, epochs=80, learning_rate=4e-3)
    return replace(alone, name="wide", network=wide), small


def _train(recipe: Recipe, **changed: object) -> Recipe:
    return replace(recipe, training=replace(recipe.training, **changed))


def draw_parts(cases: Sequence[Case]) -> dict[int, tuple[str, ...]]:
    """Hold ten cases out (0), and draw 5, 10 and 20 of the others, each within the next."""
    facts = read_facts(cases)
    patients = group_patients(sorted(facts))
    steps = [HELD_OUT, *np.diff([0, *DRAWS])]
    sizes = [round(len(patients) * step / sum(steps)) for step in steps[:-1]]
    sizes.append(len(patients) - sum(sizes))
    drawn = share_out(strata_of(patients, facts), sizes, np.random.default_rng(0))
    named = [[case_id for patient in part for case_id in patients[patient]] for part in drawn]
    nested = {0: tuple(sorted(named[0]))}
    for at, count in enumerate(DRAWS, start=2):
        nested[count] = tuple(sorted(name for part in named[1:at] for name in part))
    return nested
