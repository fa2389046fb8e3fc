"""Refuse settings that cannot be, in one line each."""

__all__ = ["Triple", "check", "check_choice", "is_whole"]

Triple = tuple[int, int, int]


def check(holds: bool, msg: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not holds:
        raise ValueError(msg)


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a value that is none of the choices."""
    check(value in choices, f"{name} must be one of {choices}; got {value!r}.")


def is_whole(value: object) -> bool:
    """Say whether a value is an int that is no bool."""
    return isinstance(value, int) and not isinstance(value, bool)
