"""Lay a table of scores out for a terminal and for a notebook; computes no score."""

import html
import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bratskit.evaluate.table import Estimate, Scores, Summary

__all__ = ["scores_html", "scores_text"]

METRICS = {"dice": ("Dice", "{:.3f}"), "hd95_mm": ("HD95, mm", "{:.1f}")}
MEANING = "mean [95 % bootstrap interval over patients]"
BETTER = "Dice: higher is better; HD95: lower is better."
WIDTH = 88  # of the sentences below a text table, characters


def scores_text(scores: "Scores", *, kind: str = "region") -> str:
    """Lay out one block a metric, a line a method, a column a region.

    Args:
        scores: The table.
        kind: "region" or "label"; the other one is shown where the table has none of this kind.
    """
    rows, kind = _rows_of(scores, kind)
    if not rows:
        return "no scores"
    methods, names, cells = _cells(rows)
    first = max(len("HD95, mm"), *(len(method) for method in methods))
    width = max(len(text) for text in cells.values())
    lines = [_title(scores, kind)]
    for metric, (title, _) in METRICS.items():
        heads = "  ".join(f"{name:<{width}}" for name in names)
        lines += ["", f"{title:<{first}}  {heads}"]
        lines += [
            f"{method:<{first}}  "
            + "  ".join(f"{cells.get((metric, method, name), '–'):<{width}}" for name in names)
            for method in methods
        ]
    notes = [line for note in _notes(rows) for line in textwrap.wrap(note, WIDTH)]
    return "\n".join(line.rstrip() for line in [*lines, "", *notes])


def scores_html(scores: "Scores", *, kind: str = "region") -> str:
    """Lay the same out as one HTML table, without styles of its own and without scripts.

    Args:
        scores: The table.
        kind: "region" or "label"; the other one is shown where the table has none of this kind.
    """
    rows, kind = _rows_of(scores, kind)
    if not rows:
        return "<p>no scores</p>"
    methods, names, cells = _cells(rows)
    tops = "".join(f'<th colspan="{len(names)}">{title}</th>' for title, _ in METRICS.values())
    heads = "".join(f"<th>{html.escape(name)}</th>" for _ in METRICS for name in names)
    body = "".join(
        f"<tr><th>{_unbroken(html.escape(method))}</th>"
        + "".join(
            f"<td>{_unbroken(cells.get((metric, method, name), '–'))}</td>"
            for metric in METRICS
            for name in names
        )
        + "</tr>"
        for method in methods
    )
    notes = "<br>".join(html.escape(note) for note in _notes(rows))
    return (
        f"<table><caption>{_title(scores, kind)}</caption>"
        f"<thead><tr><th></th>{tops}</tr><tr><th>method</th>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table><p>{notes}</p>"
    )


def _unbroken(text: str) -> str:
    """Let a line break only before an interval, so that narrow columns stay readable."""
    return text.replace(" ", "&nbsp;").replace("&nbsp;[", " [")


def _title(scores: "Scores", kind: str) -> str:
    n_cases = len(scores.cases)
    return f"{kind.capitalize()}s of {n_cases} case{'s' * (n_cases != 1)} · {MEANING}"


def _rows_of(scores: "Scores", kind: str) -> tuple[list["Summary"], str]:
    rows = scores.summary()
    if not any(row.kind == kind for row in rows):
        kind = "label" if kind == "region" else "region"
    return [row for row in rows if row.kind == kind], kind


def _cells(
    rows: list["Summary"],
) -> tuple[list[str], list[str], dict[tuple[str, str, str], str]]:
    """Name the lines and columns, and write each cell, keyed by (metric, line, column)."""
    several = len({row.empty_rule for row in rows}) > 1
    cells = {}
    for row in rows:
        method = f"{row.method} ({row.empty_rule})" if several else row.method
        for metric, (_, digits) in METRICS.items():
            cells[metric, method, row.name] = _write(getattr(row, metric), digits)
    methods = list(dict.fromkeys(method for _, method, _ in cells))
    names = list(dict.fromkeys(name for _, _, name in cells))
    return methods, names, cells


def _write(estimate: "Estimate", digits: str) -> str:
    if math.isnan(estimate.mean):
        return "–"
    mean = digits.format(estimate.mean)
    if math.isnan(estimate.low):
        return mean
    return f"{mean} [{digits.format(estimate.low)}, {digits.format(estimate.high)}]"


def _notes(rows: list["Summary"]) -> list[str]:
    """Say which empty rule was used, how often a mask was empty, and where each method is worst."""
    rules = ", ".join(sorted({row.empty_rule for row in rows}))
    truths = dict.fromkeys(
        f"{row.name} {row.n_empty_truth} of {row.n_cases}" for row in rows if row.n_empty_truth
    )
    notes = [f"{BETTER} Empty rule: {rules}. Empty truth: {', '.join(truths) or 'none'}."]
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        empty = dict.fromkeys(
            f"{row.name} {row.n_empty_pred} of {row.n_cases}" for row in own if row.n_empty_pred
        )
        worst = dict.fromkeys(
            f"{row.name} {row.worst_case}" for row in own if row.n_empty_pred < row.n_cases
        )
        said = [f"empty in {', '.join(empty)}"] if empty else []
        said += [f"worst in {', '.join(worst)}"] if worst and own[0].n_cases > 1 else []
        notes += [f"{method}: {'; '.join(said)}."] if said else []
    return notes
