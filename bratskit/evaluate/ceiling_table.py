"""Lay lesions by size out for a terminal and for a notebook; computes no score."""

import html
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bratskit.evaluate.ceiling import Ceilings, SizeClass

__all__ = ["lesions_html", "lesions_text"]

TITLE = "Lesions by volume · mean Dice (lesions; of them gone)"


def lesions_text(ceilings: "Ceilings") -> str:
    """Lay out a line a grid and region, a column a class of volumes, and the voxels lost."""
    heads, lines = _cells(ceilings)
    if not lines:
        return "no lesions"
    table = [heads, *lines]
    widths = [max(len(line[column]) for line in table) for column in range(len(heads))]
    rows = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
    return "\n".join([TITLE, "", *rows])


def lesions_html(ceilings: "Ceilings") -> str:
    """Lay the same out as one HTML table, without styles of its own and without scripts."""
    heads, lines = _cells(ceilings)
    if not lines:
        return "<p>no lesions</p>"
    top = "".join(f"<th>{_escape(cell)}</th>" for cell in heads)
    body = "".join(
        "<tr>"
        + "".join(f"<th>{_escape(cell)}</th>" for cell in line[:2])
        + "".join(f"<td>{_escape(cell)}</td>" for cell in line[2:])
        + "</tr>"
        for line in lines
    )
    return (
        f"<table><caption>{TITLE}</caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _cells(ceilings: "Ceilings") -> tuple[list[str], list[list[str]]]:
    classes = ceilings.by_size()
    keys = list(dict.fromkeys((row.grid, row.region) for row in classes))
    spans = list(dict.fromkeys((row.from_ml, row.to_ml) for row in classes))
    cells = {(row.grid, row.region, row.from_ml): _write(row) for row in classes}
    heads = ["grid", "region", *(_span(low, high) for low, high in spans), "voxels out of reach"]
    return heads, [
        [grid, region, *(cells[grid, region, low] for low, _ in spans), lost]
        for grid, region in keys
        for lost in [_lost(ceilings, grid=grid, region=region)]
    ]


def _lost(ceilings: "Ceilings", *, grid: str, region: str) -> str:
    return f"{ceilings.pick(grid=grid, region=region).lost_voxels()[region]:,}"


def _write(row: "SizeClass") -> str:
    if not row.n:
        return "–"
    gone = f"; {row.n_gone} gone" if row.n_gone else ""
    return f"{row.dice:.3f} ({row.n}{gone})"


def _span(low: float, high: float) -> str:
    if not low:
        return f"< {high:g} ml"
    return f"≥ {low:g} ml" if math.isinf(high) else f"{low:g} to {high:g} ml"


def _escape(text: str) -> str:
    return html.escape(text).replace(" ", "&nbsp;")
