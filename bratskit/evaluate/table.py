"""Keep scores as a table of rows that saves, loads and joins; measures nothing itself."""

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.patients import patient_of as patient_of_case
from bratskit.evaluate.render import scores_html, scores_text
from bratskit.evaluate.summary import N_BOOTSTRAP, Summary, summarise
from bratskit.runtime import made_by, write_atomically

__all__ = ["Score", "Scores", "write_summary"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One region or label of one case as one method labelled it: a row of the table.

    Attributes:
        method: Who made the prediction, for example `"network"` or `"predict nothing"`.
        case: Case id.
        kind: `"region"` (WT, TC, ET) or `"label"` (NCR, ED, ET); never averaged together.
        name: Which region or label.
        dice: Overlap in [0, 1]; NaN where `empty_rule` leaves the case out.
        hd95_mm: 95 % Hausdorff distance, mm; NaN where `empty_rule` leaves the case out.
        sensitivity: Share of the reference that was found; NaN where `truth_empty`.
        precision: Share of the prediction that is right; NaN where `pred_empty`.
        pred_ml: Predicted volume, ml.
        truth_ml: Reference volume, ml.
        pred_empty: Whether the prediction has no voxel of it.
        truth_empty: Whether the reference has no voxel of it.
        empty_rule: Name of the convention for empty masks, a key of `EMPTY_RULES`.
    """

    method: str
    case: str
    kind: Literal["region", "label"]
    name: str
    dice: float
    hd95_mm: float
    sensitivity: float
    precision: float
    pred_ml: float
    truth_ml: float
    pred_empty: bool
    truth_empty: bool
    empty_rule: str


COLUMNS = {item.name: item.type for item in dataclasses.fields(Score)}


class Scores(Sequence[Score]):
    """A table of scores: a list of `Score` that can be saved, joined, picked from and summarised.

    `str(scores)` is a text table with methods side by side; a notebook shows the same as HTML.

    Args:
        rows: The rows, in any order.

    Raises:
        ValueError: One method scored the same case, region and empty rule twice.
    """

    def __init__(self, rows: Iterable[Score] = ()) -> None:
        self.rows = tuple(rows)
        seen = set()
        for row in self.rows:
            key = (row.method, row.empty_rule, row.kind, row.name, row.case)
            if key in seen:
                msg = (
                    f"rows must be unique; got {row.name} of {row.case} by {row.method!r} twice. "
                    "Give the second set of predictions another `method`."
                )
                raise ValueError(msg)
            seen.add(key)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> "Score | Scores":
        return Scores(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __iter__(self) -> Iterator[Score]:
        return iter(self.rows)

    def __add__(self, other: "Scores") -> "Scores":
        """Put two tables under each other, for example a network's and a baseline's."""
        return Scores((*self.rows, *other.rows))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Scores) and repr(self.rows) == repr(other.rows)  # NaN equals NaN

    __hash__ = None

    def __repr__(self) -> str:
        return f"Scores({len(self)} rows, {len(self.cases)} cases, methods {list(self.methods)})"

    def __str__(self) -> str:
        return scores_text(self)

    def _repr_html_(self) -> str:
        return scores_html(self)

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods in the order in which they came."""
        return tuple(dict.fromkeys(row.method for row in self.rows))

    @property
    def cases(self) -> tuple[str, ...]:
        """Case ids in the order in which they came."""
        return tuple(dict.fromkeys(row.case for row in self.rows))

    def pick(self, **wanted: str) -> "Scores":
        """Keep the rows whose columns have the given values.

        Args:
            **wanted: Column and value, for example `method="network", kind="region", name="ET"`.

        Raises:
            ValueError: No such column; the message lists the columns.
        """
        unknown = sorted(set(wanted) - set(COLUMNS))
        if unknown:
            msg = f"columns to pick by must be in {list(COLUMNS)}; got {unknown}."
            raise ValueError(msg)
        return Scores(
            row
            for row in self.rows
            if all(getattr(row, name) == value for name, value in wanted.items())
        )

    def column(self, name: str) -> NDArray:
        """Return one column as an array, for example `scores.column("dice")`.

        Raises:
            ValueError: No such column; the message lists the columns.
        """
        if name not in COLUMNS:
            msg = f"column must be in {list(COLUMNS)}; got {name!r}."
            raise ValueError(msg)
        return np.array([getattr(row, name) for row in self.rows])

    def summary(
        self, *, seed: int = 0, patient_of: Callable[[str], str] = patient_of_case
    ) -> list[Summary]:
        """Summarise each method, kind, name and empty rule over patients.

        Args:
            seed: Seeds the bootstrap.
            patient_of: Names the patient behind a case id, so that several scans of one patient
                are drawn together; the default knows the ids of BraTS.
        """
        groups: dict[tuple[str, str, str, str], list[Score]] = {}
        for row in self.rows:
            groups.setdefault((row.method, row.empty_rule, row.kind, row.name), []).append(row)
        return [summarise(rows, seed=seed, patient_of=patient_of) for rows in groups.values()]

    def save(self, path: Path | str) -> Path:
        """Write a plain CSV that pandas reads, and a "made by" stamp beside it, both atomically.

        Args:
            path: For example `run.scores`; the stamp goes to `scores.made_by.json` beside it.

        Returns:
            The path of the CSV.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, self._write_csv)
        rules = sorted({row.empty_rule for row in self.rows})
        stamp = {**made_by(), "n_rows": len(self), "n_cases": len(self.cases), "empty_rules": rules}
        _write_json(path.with_suffix(".made_by.json"), stamp)
        return path

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(COLUMNS))
            writer.writeheader()
            writer.writerows(vars(row) for row in self.rows)

    @classmethod
    def load(cls, path: Path | str) -> "Scores":
        """Read a table that `save` wrote.

        Raises:
            FileNotFoundError: There is no such file; the message says what makes one.
            ValueError: A column is missing, or a value does not fit its column.
        """
        path = Path(path)
        if not path.is_file():
            msg = (
                f"scores file must exist; got {path}. Make it with "
                f"`bratskit evaluate PRED TRUTH --out {path}`."
            )
            raise FileNotFoundError(msg)
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                msg = f"{path} must have the columns of a scores file; missing {missing}."
                raise ValueError(msg)
            return cls(_parse(row, where=f"{path} line {reader.line_num}") for row in reader)


def write_summary(scores: Scores, path: Path | str, *, seed: int = 0) -> Path:
    """Write `scores.summary()` as JSON with a "made by" stamp, atomically; NaN becomes null.

    Args:
        scores: The table.
        path: For example `run.summary`.
        seed: Seeds the bootstrap.

    Returns:
        The path written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dataclasses.asdict(row) for row in scores.summary(seed=seed)]
    interval = f"95 % percentile bootstrap over patients, {N_BOOTSTRAP} draws, seed {seed}"
    _write_json(path, {"made_by": made_by(), "interval": interval, "rows": _without_nan(rows)})
    return path


def _parse(row: dict[str, str], *, where: str) -> Score:
    values: dict[str, object] = {}
    for name, kind in COLUMNS.items():
        try:
            values[name] = _PARSERS.get(kind, str)(row[name])
        except (KeyError, TypeError, ValueError) as error:
            msg = (
                f"{name} in {where} must be a {getattr(kind, '__name__', kind)}; got {row[name]!r}."
            )
            raise ValueError(msg) from error
    return Score(**values)


_PARSERS = {float: float, bool: {"True": True, "False": False}.__getitem__}


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_json(path: Path, values: object) -> None:
    text = json.dumps(values, indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
