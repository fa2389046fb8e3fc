"""Read the one cell of a notebook tagged `parameters` and check values against what it declares."""

import ast
import json
from collections.abc import Mapping
from pathlib import Path

__all__ = ["Value", "check_parameters", "code_cells", "read_parameters"]

Value = str | int | float | bool | list | tuple | dict | None


def code_cells(path: Path | str) -> list[dict]:
    """Return the code cells of a notebook, each with its `source` as one string.

    Raises:
        FileNotFoundError: There is no such notebook.
        ValueError: The file is no notebook.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"notebook must exist; got {path}. Look in the notebooks folder of a checkout."
        raise FileNotFoundError(msg)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError, TypeError) as error:
        msg = f"notebook must be a Jupyter notebook (nbformat 4); got {path} ({error})."
        raise ValueError(msg) from error
    return [
        {**cell, "source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"
    ]


def read_parameters(path: Path | str) -> dict[str, Value]:
    """Return the names and values that a notebook's parameters cell declares.

    Args:
        path: Notebook with exactly one code cell tagged `parameters` that holds nothing but
            assignments of plain literals.

    Returns:
        Declared values by name, in the order of the cell.

    Raises:
        ValueError: There is no such cell or several, or one assigns something else.
    """
    tagged = [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]
    if len(tagged) != 1:
        msg = f"{path} must have exactly one code cell tagged 'parameters'; got {len(tagged)}."
        raise ValueError(msg)
    declared: dict[str, Value] = {}
    for statement in ast.parse(tagged[0]["source"]).body:
        try:
            (target,) = statement.targets
            declared[target.id] = ast.literal_eval(statement.value)
        except (AttributeError, ValueError) as error:
            line = ast.unparse(statement)
            msg = f"parameters cell of {path} must assign plain literals to names; got {line!r}."
            raise ValueError(msg) from error
    return declared


def check_parameters(
    declared: Mapping[str, Value], given: Mapping[str, Value | Path], *, where: str
) -> dict[str, Value]:
    """Return `given` as the notebook wants it, refusing unknown names and wrong types.

    papermill itself only warns of an unknown name, and takes `"false"` for a truth value.

    Args:
        declared: What `read_parameters` found.
        given: Values to run with. An int is taken for a float, a `Path` for a string; a bool is
            no number. A parameter declared None takes any plain value.
        where: Name of the notebook, for messages.

    Raises:
        ValueError: A name is not declared; the message lists those that are.
        TypeError: A value is of another type than the declared one.

    Examples:
        >>> check_parameters({"dropout": 0.5}, {"dropout": 1}, where="02_train")
        {'dropout': 1.0}
    """
    unknown = sorted(set(given) - set(declared))
    if unknown:
        msg = f"{where} has no parameter {', '.join(unknown)}; it has {', '.join(declared)}."
        raise ValueError(msg)
    return {
        name: _as_declared(name, declared[name], value, where=where)
        for name, value in given.items()
    }


def _as_declared(name: str, declared: Value, value: Value | Path, *, where: str) -> Value:
    if isinstance(value, Path):
        value = str(value)
    if declared is None or type(value) is type(declared):
        return value
    if isinstance(declared, float) and type(value) is int:
        return float(value)
    if isinstance(declared, list | tuple) and isinstance(value, list | tuple):
        return list(value)
    msg = (
        f"parameter {name} of {where} must be {type(declared).__name__}, as its default "
        f"{declared!r} is; got {value!r} ({type(value).__name__})."
    )
    raise TypeError(msg)
