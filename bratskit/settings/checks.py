"""Refuse settings that cannot be, in one line each."""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from numbers import Integral, Real

__all__ = ["Triple", "check", "check_types"]

Triple = tuple[int, int, int]

_PLAIN = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
_COUNTED = {2: "two", 3: "three"}


def check(holds: bool, msg: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not holds:
        raise ValueError(msg)


def check_types(settings: object, stage: str = "") -> None:
    """Refuse a field of a settings dataclass whose value is not of the kind it declares.

    A choice must be one of its `Literal`, a number finite, a tuple as long as declared; a list will
    do for a tuple, and a whole number for a number.

    Args:
        settings: Any settings, in their `__post_init__`.
        stage: What the recipe calls them; it stands before the name of the field.

    Raises:
        ValueError: Names the field with its stage, what it must be and what it is.
    """
    for item in dataclasses.fields(settings):
        value = getattr(settings, item.name)
        name = f"{stage}.{item.name}" if stage else item.name
        usual = "" if item.default is dataclasses.MISSING else f" Default: {item.default!r}."
        check(
            _is_of(value, item.type),
            f"{name} must be {_in_words(item.type)}; got {value!r}.{usual}",
        )


def _is_of(value: object, kind: typing.Any) -> bool:  # noqa: ANN401 - any annotation
    """Say whether a value is of an annotated kind.

    Examples:
        >>> _is_of((1, 2, 3), Triple), _is_of((1, 2), Triple), _is_of(True, int)
        (True, False, False)
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return value in parts
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple | list) and _are_of(value, parts)
    if kind in (int, float):
        is_number = isinstance(value, Integral if kind is int else Real)
        return is_number and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


def _are_of(values: Sequence[object], parts: tuple[typing.Any, ...]) -> bool:
    if parts[-1] is Ellipsis:
        return all(_is_of(value, parts[0]) for value in values)
    return len(values) == len(parts) and all(map(_is_of, values, parts))


def _in_words(kind: typing.Any) -> str:  # noqa: ANN401 - any annotation
    """Say what an annotation allows.

    Examples:
        >>> _in_words(Triple | None)
        'three whole numbers, or None'
    """
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {parts}"
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(_in_words(part) for part in parts)
    if origin is tuple and _PLAIN.get(parts[0], "").startswith("a "):
        count = "" if parts[-1] is Ellipsis else f"{_COUNTED.get(len(parts), len(parts))} "
        return f"{count}{_PLAIN[parts[0]][2:]}s"
    if origin is tuple:
        return "pairs of a name and a number" if typing.get_args(parts[0]) else "a list of names"
    return "None" if kind is type(None) else _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))
