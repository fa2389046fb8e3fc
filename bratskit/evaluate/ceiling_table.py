"""Lay ceilings out for a terminal and for a notebook; computes no score of its own."""

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bratskit.evaluate.ceilings import Ceilings, RegionMean, SizeClass

__all__ = ["ceilings_html", "ceilings_text"]

MEANING = "Columns in ml: lesions of that volume, mean Dice (number; of them gone)"
LOST = "voxels cut off"


def ceilings_text(ceilings: "Ceilings") -> str:
    """Lay out a line a grid and region: means over cases, then over lesions of each size."""
    table = _cells(ceilings)
    if len(table) == 1:
        return "no ceilings"
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = (
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
    return "\n".join([_title(ceilings), f"{MEANING}.", "", *rows])


def ceilings_html(ceilings: "Ceilings") -> str:
    """Lay the same out as one HTML table, without styles of its own and without scripts."""
    heads, *lines = _cells(ceilings)
    if not lines:
        return "<p>no ceilings</p>"
    body = "".join(
        f"<tr>{_row('th', line[:2])}{_row('td', line[2:])}</tr>" for line in map(_unbroken, lines)
    )
    top = _row("th", [html.escape(head) for head in heads])
    return (
        f"<table><caption>{_title(ceilings)}</caption>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table><p>{MEANING}.</p>"
    )


def _title(ceilings: "Ceilings") -> str:
    n_cases = len(ceilings.scores.cases)
    cases = f"{n_cases} case{'s' * (n_cases != 1)}"
    return f"Truth there and back, {cases} · means over those that have the region"


def _cells(ceilings: "Ceilings") -> list[list[str]]:
    """Write every cell; the first line is the heads."""
    classes = ceilings.by_size()
    spans = list(dict.fromkeys((row.from_ml, row.to_ml) for row in classes))
    cells = {(row.grid, row.region, row.from_ml): _write(row) for row in classes}
    sizes = [_span(low, high) for low, high in spans]
    return [
        ["grid", "region", "Dice", "HD95, mm", *sizes, LOST],
        *(
            [
                *(mean.grid, mean.region, *_write_mean(mean)),
                *(cells[mean.grid, mean.region, low] for low, _ in spans),
                f"{mean.lost_vox:,}",
            ]
            for mean in ceilings.by_region()
        ),
    ]


def _write_mean(mean: "RegionMean") -> tuple[str, str]:
    return f"{mean.dice:.3f}", f"{mean.hd95_mm:.2f}"


def _write(row: "SizeClass") -> str:
    if not row.n:
        return "–"
    gone = f"; {row.n_gone} gone" if row.n_gone else ""
    return f"{row.dice:.3f} ({row.n}{gone})"


def _span(low: float, high: float) -> str:
    if not low:
        return f"< {high:g} ml"
    return f"≥ {low:g} ml" if math.isinf(high) else f"{low:g} to {high:g} ml"


def _unbroken(line: Sequence[str]) -> list[str]:
    """Escape cells, and keep each on one line but for what follows a semicolon."""
    return [html.escape(cell).replace(" ", "&nbsp;").replace(";&nbsp;", "; ") for cell in line]


def _row(tag: str, cells: Sequence[str]) -> str:
    return "".join(f"<{tag}>{cell}</{tag}>" for cell in cells)
