"""Ingredients: each effect is named, bounded, left out by 0, and written down."""

import json
from dataclasses import asdict

import pytest

from bratskit.cases.phantoms.ingredients import INGREDIENTS, Ingredients


def test_each_ingredient_says_in_one_line_what_it_is():
    assert list(INGREDIENTS) == list(asdict(Ingredients()))
    assert all(text and "\n" not in text for text in INGREDIENTS.values())


def test_what_only_damages_or_treats_a_patient_is_left_out_by_default():
    left_out = [name for name, value in asdict(Ingredients()).items() if value == 0]
    assert left_out == ["slabs", "cavity"]


def test_a_whole_number_is_kept_as_a_float_whatever_it_came_as():
    assert Ingredients(noise=2) == Ingredients(noise=2.0)
    assert json.loads(Ingredients(noise=2).to_json())["noise"] == 2.0


def test_json_that_names_some_leaves_the_others_as_they_are():
    assert Ingredients.from_json('{"mimics": 0}') == Ingredients().without(["mimics"])


@pytest.mark.parametrize("value", [-0.1, 2.1, float("nan"), float("inf")])
def test_a_value_out_of_range_is_refused(value: float):
    with pytest.raises(ValueError, match="0 leaves it out"):
        Ingredients(bias=value)


@pytest.mark.parametrize("value", ["1", None, True])
def test_a_value_that_is_no_number_is_refused(value: object):
    with pytest.raises(TypeError, match="bias must be a number"):
        Ingredients(bias=value)


def test_an_unknown_ingredient_is_refused_by_name():
    with pytest.raises(ValueError, match=r"one of bends.*got 'salt'"):
        Ingredients().without(["salt"])
    with pytest.raises(ValueError, match="got 'salt'"):
        Ingredients.from_json('{"salt": 1}')
