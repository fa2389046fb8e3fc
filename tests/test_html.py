"""A stored notebook read without JavaScript shows every figure and every viewer as a picture."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bratskit.jobs.pages import write_page

FOLDER = Path(__file__).parents[1] / "notebooks"
STORED = sorted(FOLDER.glob("0*.ipynb"))
VIEW = "application/vnd.jupyter.widget-view+json"
PNG = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~"
    b"\x9bU\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
).decode()


class Page(HTMLParser):
    """Collect what a browser without scripts would load or show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags, self.pictures, self.sources = set(), [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        source = dict(attrs).get("src") or ""
        self.sources.append(source)
        if tag == "img":
            self.pictures.append(source)


def shown_outputs(path):
    """List the data of outputs that are a figure or a widget."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    data = [output.get("data", {}) for output in outputs]
    return [item for item in data if VIEW in item or any(k.startswith("image/") for k in item)]


def write_book(path, *outputs, source="1"):
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1, "source": source}
    cell["outputs"] = [
        {"output_type": "display_data", "metadata": {}, "data": data} for data in outputs
    ]
    book = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=STORED, ids=lambda path: path.stem)
def stored(request, tmp_path_factory):
    """Return the path of a stored notebook and its page."""
    html = write_page(request.param, tmp_path_factory.mktemp("pages") / "page.html")
    return request.param, Page(html.read_text(encoding="utf-8"))


@pytest.mark.notebook
def test_every_figure_and_viewer_of_a_stored_notebook_is_a_picture_without_script(stored):
    path, page = stored
    shown = shown_outputs(path)
    assert shown, f"{path.name} stores no figure; run `make notebooks`"
    bare = [sorted(data) for data in shown if "image/png" not in data]
    assert not bare, f"outputs of {path.name} leave no picture: {bare}"
    wanted = ["".join("".join(data["image/png"]).split()) for data in shown]
    there = {"".join(source.split()) for source in page.pictures}
    missing = [code[:40] for code in wanted if f"data:image/png;base64,{code}" not in there]
    assert not missing
    assert "script" not in page.tags


@pytest.mark.notebook
def test_a_page_of_a_stored_notebook_loads_nothing_from_elsewhere(stored):
    _, page = stored
    assert not [source for source in page.sources if re.match(r"(https?:)?//", source)]


def test_of_a_widget_with_a_picture_the_picture_is_shown(tmp_path):
    view = {"version_major": 2, "version_minor": 0, "model_id": "a"}
    bundle = {VIEW: view, "image/png": PNG, "text/plain": "SliceViewer(...)"}
    book = write_book(tmp_path / "book.ipynb", bundle)
    page = Page(write_page(book, tmp_path / "out" / "page.html").read_text(encoding="utf-8"))
    assert [source.replace("\n", "") for source in page.pictures] == [
        f"data:image/png;base64,{PNG}"
    ]


def test_a_script_in_an_output_goes_and_one_quoted_in_a_cell_stays(tmp_path):
    output = {"text/html": "<b>kept</b><script>document.title = 'ran'</script>"}
    book = write_book(tmp_path / "book.ipynb", output, source='"<script>" in page')
    html = write_page(book, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<b>kept</b>" in html
    assert "document.title" not in html
    assert "&lt;script&gt;" in html
    assert "script" not in Page(html).tags


def test_a_solution_stays_folded(tmp_path):
    book = write_book(tmp_path / "book.ipynb")
    text = "<details><summary>Solution</summary>\n\n```python\nx = 42\n```\n</details>"
    cell = {"cell_type": "markdown", "id": "b", "metadata": {}, "source": text}
    content = json.loads(book.read_text(encoding="utf-8"))
    book.write_text(json.dumps({**content, "cells": [cell]}), encoding="utf-8")
    html = write_page(book, tmp_path / "page.html").read_text(encoding="utf-8")
    folded = re.search(r"<details>.*?</details>", html, re.DOTALL)[0]
    assert "42" in folded


def test_a_file_that_is_no_notebook_is_refused(tmp_path):
    path = tmp_path / "book.ipynb"
    with pytest.raises(FileNotFoundError, match="Stored ones are in notebooks/"):
        write_page(path, tmp_path / "page.html")
    path.write_text("no JSON", encoding="utf-8")
    with pytest.raises(ValueError, match="no JSON"):
        write_page(path, tmp_path / "page.html")


def test_a_page_ends_in_html(tmp_path):
    with pytest.raises(ValueError, match=r"Try book\.html"):
        write_page(tmp_path / "book.ipynb", tmp_path / "book.ipynb")
