"""The phantoms' data card explains every parameter there is, and none that is no longer there."""

import re
from dataclasses import dataclass

import numpy as np
import pytest

from bratskit.cases import make_phantom
from bratskit.cases.phantoms.anatomy import Head
from bratskit.cases.phantoms.contrast import Contrast, Scanner
from bratskit.cases.phantoms.growth import Cavity, Growth
from bratskit.cases.phantoms.ingredients import INGREDIENTS, Ingredients
from bratskit.jobs.data_card import (
    END,
    START,
    attributes_of,
    draw_plans,
    fill_card,
    range_of,
    read_card,
    tables_of,
)

PLANS = {"Head": Head, "Growth": Growth, "Cavity": Cavity, "Contrast": Contrast, "Scanner": Scanner}
AGAIN = "run `python -m bratskit.jobs.data_card`"


@pytest.fixture(scope="module")
def drawn():
    return draw_plans(range(1000, 1008))


def rows_of(text):
    """Read the rows of the card's tables by the title they stand under."""
    found, title = {}, ""
    for line in text.partition(START)[2].partition(END)[0].splitlines():
        if line.startswith("### "):
            title = line[4:].partition(":")[0].strip("`")
            found[title] = {}
        match = re.match(r"\| `(\w+)` \| (.*) \| (.*) \|$", line)
        if match:
            found[title][match[1]] = (match[2], match[3])
    return found


@pytest.mark.parametrize("name", PLANS)
def test_every_parameter_is_explained_as_its_docstring_does(name):
    kept = {field: meaning for field, (meaning, _) in rows_of(read_card())[name].items()}
    assert kept == attributes_of(PLANS[name]), AGAIN


def test_every_ingredient_is_explained_with_its_default():
    kept = rows_of(read_card())["Ingredients"]
    assert {field: what for field, (_, what) in kept.items()} == INGREDIENTS, AGAIN
    assert {field: float(value) for field, (value, _) in kept.items()} == vars(Ingredients()), AGAIN


def shares_inside(drawn, card):
    """Return, for each field with a range, the share of drawn numbers inside it.

    Numbers are rounded to three digits first, as the card's are.
    """
    shares = {}
    for name, plans in drawn.items():
        for field, (_, text) in card[name].items():
            match = re.match(r"(-?[\d.e+-]+) to (-?[\d.e+-]+)$", text)
            values = np.array([plan[field] for plan in plans if match], dtype=float).ravel()
            if match:
                low, high = (float(end) for end in match.groups())
                near = [low <= float(f"{value:.3g}") <= high for value in values]
                shares[f"{name}.{field}"] = np.mean(near)
    return shares


def stale_rows(drawn, card):
    """Name fields whose range holds under half of what is drawn; 90 % are expected."""
    return {field: share for field, share in shares_inside(drawn, card).items() if share < 0.5}


def test_new_plans_lie_in_the_ranges_of_the_card(drawn):
    shares = shares_inside(drawn, rows_of(read_card()))
    assert len(shares) > 35
    assert np.mean(list(shares.values())) == pytest.approx(0.9, abs=0.06), AGAIN
    assert not stale_rows(drawn, rows_of(read_card())), AGAIN


def test_a_single_stale_row_is_named(drawn):
    card = rows_of(read_card())
    card["Scanner"]["noise"] = ("", "0.9 to 1.2")
    assert list(stale_rows(drawn, card)) == ["Scanner.noise"]


def test_brightness_of_tissues_lies_in_the_ranges_of_the_card(drawn):
    table = read_card().partition("### Brightness of tissues")[2].partition(END)[0]
    rows = re.findall(r"^\| (\w+) \|((?: -?[\d.]+ to -?[\d.]+ \|){4})$", table, re.MULTILINE)
    assert {tissue for tissue, _ in rows} == set(drawn["Contrast"][0]["tissues"]), AGAIN
    for tissue, cells in rows:
        for n, ends in enumerate(re.findall(r"(-?[\d.]+) to (-?[\d.]+)", cells)):
            values = np.array([plan["tissues"][tissue][n] for plan in drawn["Contrast"]])
            inside = (values >= float(ends[0])) & (values <= float(ends[1]))
            assert inside.mean() >= 0.5, f"{tissue}, modality {n}: {AGAIN}"


def test_the_card_is_of_this_generator():
    made = make_phantom(0, spacing_mm=(10, 10, 10)).truth
    assert f"generator {made['generator']}" in read_card().splitlines()[0]
    assert made["ingredients"] == vars(Ingredients())


def test_the_card_says_what_phantoms_cannot_show_and_whose_the_template_is():
    card = " ".join(read_card().split())
    for words in ("not simulated", "do not support", "Louis Collins", "Fonov", "Cite", "seed"):
        assert words in card


def test_tables_stand_between_their_marks_and_nothing_else_changes(drawn):
    card = f"before\n{START}\nstale rows\n{END}\nafter\n"
    again = fill_card(card, tables_of(drawn))
    assert again.startswith("before\n")
    assert again.endswith("after\n")
    assert "stale rows" not in again
    assert set(rows_of(again)["Growth"]) == set(attributes_of(Growth))
    with pytest.raises(ValueError, match="Add them"):
        fill_card("no marks", "")


def test_a_field_without_explanation_is_refused():
    @dataclass
    class Plan:
        """A plan.

        Attributes:
            size_mm: How large,
                in mm.
            other: Something.

        Raises:
            ValueError: Never.
        """

        size_mm: float
        other: float

    assert attributes_of(Plan) == {"size_mm": "How large, in mm.", "other": "Something."}

    @dataclass
    class Bad(Plan):
        """A plan.

        Attributes:
            size_mm: How large.
        """

    with pytest.raises(ValueError, match="must explain other"):
        attributes_of(Bad)


def test_ranges_leave_out_the_extremes_and_what_is_no_number():
    assert range_of([float(n) for n in range(101)]) == "5 to 95"
    assert range_of([None, 2.0]) == "2"
    assert range_of([{"a": 1}]) == ""
    assert range_of([1.0, 5169.7]) == "259 to 4911"
    assert range_of([[[1.0, 2.0]], [[3.0, 4.0]]]) == ""  # a matrix
    assert range_of([2, 2, 1, 2]) == "2 75 %, 1 25 %"
