"""Fill the tables of the phantoms' data card: `python -m bratskit.jobs.data_card`.

Meanings come from the docstrings of the plans, ranges from plans that are drawn: the card cannot
say what the generator no longer does.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path

import numpy as np

from bratskit.labels import MODALITIES
from bratskit.runtime import progress, write_atomically

__all__ = ["CARD", "attributes_of", "draw_plans", "fill_card", "main", "read_card", "tables_of"]

CARD = Path(str(files("bratskit"))) / "cases" / "phantoms" / "DATA_CARD.md"
START, END = "<!-- tables: python -m bratskit.jobs.data_card -->", "<!-- end of tables -->"
_PLANS = 200  # drawn for the ranges
_FEW = 5  # different words or integers up to which the share of each is told


def read_card() -> str:
    """Return the data card as it is shipped."""
    return CARD.read_text(encoding="utf-8")


def attributes_of(cls: type) -> dict[str, str]:
    """Return what a dataclass's docstring says of each field, on one line each.

    Raises:
        ValueError: A field is not explained.
    """
    text = inspect.getdoc(cls) or ""
    part = re.split(r"\n\n(?=[A-Z]\w*:\n)", text.partition("Attributes:\n")[2])[0]
    found: dict[str, str] = {}
    name = ""
    for line in part.splitlines():
        match = re.match(r" {4}(\w+): (.*)", line)
        if match:
            name = match[1]
            found[name] = match[2]
        elif name:
            found[name] += " " + line.strip()
    for field in fields(cls):
        if field.name not in found:
            msg = (
                f"{cls.__name__} must explain {field.name} under Attributes; got nothing. "
                "Add a line to its docstring."
            )
            raise ValueError(msg)
    return {field.name: found[field.name].strip() for field in fields(cls)}


def draw_plans(seeds: Iterable[int]) -> dict[str, list[dict]]:
    """Draw the plans of phantoms without simulating them.

    Returns:
        The fields of every drawn `Head`, `Growth`, `Contrast` and `Scanner`, by class name, and
        every `Cavity` of a cohort that has them.
    """
    from bratskit.cases.phantoms.anatomy import draw_head, shape_anatomy
    from bratskit.cases.phantoms.contrast import draw_contrast
    from bratskit.cases.phantoms.fields import Grid
    from bratskit.cases.phantoms.growth import draw_growth
    from bratskit.cases.phantoms.ingredients import Ingredients
    from bratskit.cases.phantoms.simulate import aged

    use = Ingredients()
    grid = Grid((30, 30, 20), (8.0, 8.0, 8.0), (0, 0, 0), "cpu")  # only to place tumours
    kinds = ("Head", "Growth", "Contrast", "Scanner", "Cavity")
    plans: dict[str, list[dict]] = {name: [] for name in kinds}
    for seed in seeds:
        rngs = [np.random.default_rng([seed, part]) for part in range(4)]
        head = draw_head(rngs[0], use)
        anatomy = shape_anatomy(rngs[1], head, grid)
        growth = draw_growth(rngs[2], anatomy, grid, Ingredients(cavity=2))
        contrast = aged(draw_contrast(rngs[3], growth, use), head)
        for name, plan in (("Head", head), ("Growth", growth), ("Contrast", contrast)):
            plans[name].append(asdict(plan))
        plans["Scanner"] += [asdict(scanner) for scanner in contrast.scanners]
        plans["Cavity"] += [asdict(growth.cavity)] if growth.cavity else []
    return plans


def range_of(values: Sequence[object]) -> str:
    """Describe what was drawn: 5 to 95 % of numbers, the share of each word or integer, or nothing.

    Examples:
        >>> range_of([0.0, 1.0, 2.0, 3.0, 4.0])
        '0.2 to 3.8'
        >>> range_of(["ring", "solid", "ring", "ring"])
        'ring 75 %, solid 25 %'
        >>> range_of([(1.0, 2.0), (3.0, 4.0)])
        '1.15 to 3.85'
    """
    if all(isinstance(value, str | int) for value in values) and len(set(values)) <= _FEW:
        names = sorted(set(values), key=lambda name: -values.count(name))
        return ", ".join(f"{name} {100 * values.count(name) / len(values):.0f} %" for name in names)
    if all(isinstance(value, str | int) for value in values):
        return ""
    try:
        numbers = np.array([value for value in values if value is not None], dtype=float).ravel()
    except (TypeError, ValueError):
        return ""
    if not numbers.size or not _is_row(values):
        return ""
    low, high = np.percentile(numbers, (5, 95))
    return f"{_short(low)} to {_short(high)}" if high > low else _short(low)


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _is_row(values: Sequence[object]) -> bool:
    """Say whether each value is a number or a row of numbers; a matrix has no range of its own."""
    return all(value is None or np.ndim(value) <= 1 for value in values)


def tables_of(plans: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """Write one table a plan, one for the ingredients, and one of the tissues' brightness."""
    from bratskit.cases.phantoms.anatomy import Head
    from bratskit.cases.phantoms.contrast import Contrast, Scanner
    from bratskit.cases.phantoms.growth import Cavity, Growth
    from bratskit.cases.phantoms.ingredients import INGREDIENTS, Ingredients

    default = asdict(Ingredients())
    lines = ["### Ingredients", "", "| name | default | what 0 leaves out |", "|---|---|---|"]
    lines += [f"| `{name}` | {default[name]:g} | {what} |" for name, what in INGREDIENTS.items()]
    for cls, title in (
        (Head, "`Head`: the shape of the head"),
        (Growth, "`Growth`: the plan of the tumour"),
        (Cavity, "`Cavity`: what was resected, where `cavity` is above 0"),
        (Contrast, "`Contrast`: the look of the scan"),
        (Scanner, "`Scanner`: one modality's acquisition"),
    ):
        lines += [
            "",
            f"### {title}",
            "",
            "| name | what it is | drawn (5 to 95 %) |",
            "|---|---|---|",
        ]
        drawn = plans[cls.__name__]
        for name, what in attributes_of(cls).items():
            lines.append(f"| `{name}` | {what} | {range_of([row[name] for row in drawn])} |")
    return "\n".join([*lines, "", *_tissue_table(plans["Contrast"])]) + "\n"


def _tissue_table(drawn: Sequence[Mapping[str, object]]) -> list[str]:
    lines = [
        "### Brightness of tissues, brain z-scores before blur and noise (5 to 95 %)",
        "",
        f"| tissue | {' | '.join(MODALITIES)} |",
        "|---|" + "---|" * len(MODALITIES),
    ]
    for tissue in drawn[0]["tissues"]:
        cells = [range_of([row["tissues"][tissue][i] for row in drawn]) for i in range(4)]
        lines.append(f"| {tissue} | {' | '.join(cells)} |")
    return lines


def fill_card(card: str, tables: str) -> str:
    """Put the tables between their marks.

    Raises:
        ValueError: The marks are missing.
    """
    before, start, rest = card.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        msg = f"card must hold the lines {START!r} and {END!r}; got neither or one. Add them."
        raise ValueError(msg)
    return f"{before}{start}\n\n{tables}\n{end}{after}"


def main() -> int:
    """Draw plans, and write the tables of the shipped card."""
    plans = draw_plans(progress(range(_PLANS), "plans"))
    card = fill_card(read_card(), tables_of(plans))
    write_atomically(CARD, lambda path: path.write_text(card, encoding="utf-8"))
    sys.stdout.write(f"{CARD}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
