"""The README's pictures are those of the stored notebook 05, which ran on phantoms, and small."""

import base64
import json
from pathlib import Path

import pytest

from bratskit.jobs import read_parameters
from bratskit.jobs.samples import SAMPLES, read_picture, write_samples

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "05_visualize.ipynb"


def write_book(path, pictures):
    cells = [
        {
            "cell_type": "code",
            "id": cell_id,
            "metadata": {},
            "execution_count": 1,
            "source": "",
            "outputs": [{"output_type": "display_data", "metadata": {}, "data": data}],
        }
        for cell_id, data in pictures.items()
    ]
    book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(book), encoding="utf-8")
    return path


@pytest.mark.notebook
@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_what_the_stored_notebook_shows(name):
    kept = (ROOT / "samples" / name).read_bytes()
    again = "run `python -m bratskit.jobs.samples` after `make notebooks`"
    assert kept == read_picture(NOTEBOOK, SAMPLES[name]), again
    assert kept.startswith(b"GIF89a" if name.endswith(".gif") else b"\x89PNG")
    assert len(kept) < 300_000


@pytest.mark.notebook
def test_the_stored_notebook_shows_phantoms_and_no_patient():
    assert read_parameters(NOTEBOOK)["data_dir"] == ""
    assert "Phantom_" in NOTEBOOK.read_text(encoding="utf-8")
    assert "BraTS2021_" not in NOTEBOOK.read_text(encoding="utf-8")


def test_the_picture_of_each_cell_goes_into_its_file(tmp_path):
    coded = {cell: base64.b64encode(cell.encode()).decode() for cell in SAMPLES.values()}
    data = {cell: {"image/png": code, "text/plain": ""} for cell, code in coded.items()}
    book = write_book(tmp_path / "book.ipynb", data)
    paths = write_samples(tmp_path / "samples", notebook=book)
    assert {path.name: path.read_text() for path in paths} == SAMPLES


def test_a_notebook_that_was_not_stored_as_run_is_refused(tmp_path):
    book = write_book(tmp_path / "book.ipynb", {"compare": {"text/plain": "no picture"}})
    with pytest.raises(ValueError, match=r"python -m bratskit\.jobs\.store"):
        write_samples(tmp_path / "samples", notebook=book)
