"""Compose one self-contained HTML page: no script, no font, no picture from anywhere else."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

__all__ = ["STYLE", "escape", "missing", "page", "picture", "section", "table"]

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: #1d2329;
  background: #fff; max-width: 70rem; margin: 0 auto; padding: 1.2rem 1rem 3rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.4rem 0 0.2rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 0.6rem; padding-bottom: 0.2rem;
  border-bottom: 1px solid #d8dde2; }
p { margin: 0.5rem 0; max-width: 46rem; }
.note { color: #5b6670; font-size: 0.88rem; }
.warn { border-left: 4px solid #e69f00; background: #fff8e8; padding: 0.45rem 0.8rem;
  font-size: 0.92rem; max-width: 46rem; }
.tiles { display: flex; flex-wrap: wrap; gap: 0.7rem; margin: 1rem 0; }
.tile { border: 1px solid #d8dde2; border-radius: 8px; padding: 0.6rem 0.9rem; min-width: 9rem;
  flex: 1 1 9rem; max-width: 16rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: #5b6670; font-size: 0.82rem; display: block; line-height: 1.35; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; margin: 0.4rem 0;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #5b6670; padding: 0 0 0.3rem; }
.scroll p { color: #5b6670; font-size: 0.86rem; }
th, td { text-align: right; padding: 0.28rem 0.45rem; border-bottom: 1px solid #e6eaed;
  white-space: nowrap; }
th { font-weight: 600; }
thead th { color: #5b6670; border-bottom: 1px solid #aab3bb; }
th:first-child, td:first-child, .words td, .words th { text-align: left; }
thead th[colspan] { text-align: center; }
.words td { white-space: normal; }
.tag { font-size: 0.72rem; border: 1px solid currentColor; border-radius: 4px; padding: 0 0.3rem;
  margin-left: 0.4rem; }
.best { color: #00674a; } .worst { color: #a34700; } .median { color: #5b6670; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { color: #5b6670; font-size: 0.86rem; margin-top: 0.3rem; }
figure { overflow-x: auto; }
@media screen and (max-width: 40rem) { figure.wide img { max-width: none; width: 44rem; }
  .tile { flex-basis: 100%; max-width: none; } }
details { margin: 0.5rem 0; } summary { cursor: pointer; }
@media print { body { font-size: 10.5pt; padding: 0; max-width: none; }
  figure, .tile, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { overflow: visible; } th, td { padding: 0.15rem 0.35rem; } table { font-size: 8pt; } }
""".strip()


def escape(value: object) -> str:
    """Make text safe to stand in HTML."""
    return html.escape(str(value))


def page(title: str, body: Iterable[str]) -> str:
    """Wrap sections into a whole document."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Put parts under a heading."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(parts) + "</section>"


def missing(what: str, how: str) -> str:
    """Say that a piece is not there, and what makes it."""
    return f'<p class="note">Not here, or not readable: {escape(what)}. {escape(how)}</p>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, is_words: bool = False) -> str:
    """Lay rows of ready HTML out under a head; scrolls sideways on a narrow screen.

    Args:
        head: Column names as plain text; empty leaves the head out.
        rows: Cells as HTML, the first being the row's name.
        is_words: Whether cells are sentences, set left and wrapped, rather than numbers.
    """
    heads = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{heads}</tr></thead>" if heads else ""
    kind = ' class="words"' if is_words else ""
    return f'<div class="scroll"><table{kind}>{top}<tbody>{lines}</tbody></table></div>'


def picture(data: bytes, *, alt: str, caption: str = "", kind: str = "png") -> str:
    """Put a picture into the page itself."""
    code = base64.b64encode(data).decode("ascii")
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    width = ' class="wide"' if kind == "png" else ""  # a figure scrolls on a phone, a GIF fits
    source = f"data:image/{kind};base64,{code}"
    return f'<figure{width}><img alt="{escape(alt)}" src="{source}">{below}</figure>'


def flatten(values: Mapping[str, object], *, prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as dotted names with their values.

    Examples:
        >>> flatten({"a": {"b": [1, 2]}, "c": None})
        [('a.b', '1, 2'), ('c', 'none')]
    """
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += flatten(value, prefix=f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((prefix + name, ", ".join(map(str, value))))
        else:
            rows.append((prefix + name, "none" if value is None else str(value)))
    return rows
