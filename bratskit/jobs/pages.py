"""Turn a stored notebook into one HTML page that needs no script; TeX stays as it was typed."""

import re
from pathlib import Path

from bratskit.runtime import write_atomically

__all__ = ["write_page"]

# Of what an output offers, the first of these is shown: a widget's own view needs a script and a
# kernel, the picture beside it needs nothing.
SHOWN_FIRST = ("image/svg+xml", "image/png", "image/jpeg", "text/html", "text/markdown")
SHOWN_FIRST += ("text/latex", "text/plain")
SCRIPT = re.compile(r"<script\b.*?</script\s*>", re.DOTALL | re.IGNORECASE)


def write_page(notebook: Path | str, html: Path | str) -> Path:
    """Write what a notebook looks like where nothing runs: on GitHub, in a mail, on paper.

    Args:
        notebook: As stored; it is not run.
        html: Page to write, replaced atomically. The pictures of outputs are in it.

    Returns:
        The path of the page.

    Raises:
        FileNotFoundError: There is no such notebook.
        ValueError: The file is no notebook, or `html` does not end in `.html`.
    """
    notebook, html = Path(notebook), Path(html)
    if html.suffix != ".html":
        msg = f"html must end in .html; got {html}. Try {notebook.with_suffix('.html').name}."
        raise ValueError(msg)
    if not notebook.is_file():
        msg = f"notebook must be an existing file; got {notebook}. Stored ones are in notebooks/."
        raise FileNotFoundError(msg)
    text = SCRIPT.sub("", _convert(notebook))
    html.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(html, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return html


def _convert(notebook: Path) -> str:
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    try:
        book = nbformat.read(notebook, as_version=4)
    except nbformat.reader.NotJSONError as error:
        msg = f"{notebook} must be a notebook; got a file that is no JSON. Store it again."
        raise ValueError(msg) from error
    for cell in book.cells:
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
    shown = {"NbConvertBase": {"display_data_priority": list(SHOWN_FIRST)}}
    page, _ = HTMLExporter(config=Config(shown)).from_notebook_node(book)
    return page
