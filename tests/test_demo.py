"""The demo chains notebooks, skips what is done, goes on where it stopped, ends on the scores."""

import nbformat
import pytest

from bratskit.jobs import demo, find_notebooks

PARAMETERS = 'run_dir = ""  # where to write\nrecipe_name = "tiny"  # one dial'
COUNT = """
from pathlib import Path
log = Path(run_dir, "log.txt")
log.open("a").write("{name} " + recipe_name + "\\n")
print("at work on {name}")
"""
SCORE = """
import numpy as np
from bratskit.evaluate import Scores, score_masks
assert Path(run_dir, "go").exists(), "no go"
mask = np.ones((4, 4, 4), dtype=np.uint8)
Scores(score_masks(mask, mask, spacing_mm=(1, 1, 1), case="a")).save(Path(run_dir, "scores.csv"))
"""


def write_notebook(path, source, *, parameters=PARAMETERS):
    code = nbformat.v4.new_code_cell
    tagged = code(parameters, metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[tagged, code(source)]), path)
    return path


@pytest.fixture
def chain(tmp_path, monkeypatch):
    """Put two small notebooks in place of the five; the second one scores a mask."""
    books = tmp_path / "notebooks"
    books.mkdir()
    paths = [
        write_notebook(books / "01_first.ipynb", COUNT.format(name="01")),
        write_notebook(books / "02_last.ipynb", COUNT.format(name="02") + SCORE),
    ]
    monkeypatch.setattr(demo, "find_notebooks", lambda _: paths)
    return paths


@pytest.mark.notebook
def test_the_demo_goes_on_where_it_stopped_and_ends_on_the_scores(chain, tmp_path):
    run, lines = tmp_path / "run", []
    with pytest.raises(RuntimeError, match=r"02_last failed .* no go\. .*goes on from there"):
        demo.run_demo(out=run, on_line=lines.append)
    assert [line for line in lines if line.startswith("[")] == [
        "[1/2] 01_first ...",
        "[2/2] 02_last ...",
    ]
    assert "    at work on 01" in lines
    (run / "go").touch()
    lines.clear()
    demo.run_demo(out=run, on_line=lines.append)
    assert lines[1] == "    done already"
    assert (run / "log.txt").read_text().split("\n")[:-1] == ["01 tiny", "02 tiny", "02 tiny"]
    assert any("1.000" in line for line in lines)
    assert lines[-1] == f"Report: {run / 'report.html'}"

    chain[0].write_text(chain[0].read_text().replace("at work", "busy"))  # changed code: all again
    demo.run_demo(out=run, on_line=lines.append, recipe="laptop")
    assert (run / "log.txt").read_text().split("\n")[3:-1] == ["01 laptop", "02 laptop"]


def test_a_parameter_that_no_notebook_has_is_refused(chain, tmp_path):
    with pytest.raises(ValueError, match=r"no notebook has a parameter speed; there are \['recipe"):
        demo.run_demo(out=tmp_path / "run", speed=3)
    assert not (tmp_path / "run").exists()


def test_data_without_cases_is_refused_before_anything_is_made(chain, tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(ValueError, match="data"):
        demo.run_demo(data=tmp_path / "data", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_package_without_its_notebooks_says_what_to_do():
    with pytest.raises(FileNotFoundError, match=r"must stand beside the package.*pip install -e"):
        find_notebooks("no-such-*.ipynb")


def test_a_recipe_without_training_patients_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"got 'phantom'.*bratskit train PREPARED RUN"):
        demo.run_demo(out=tmp_path / "run", recipe="phantom")
    assert not (tmp_path / "run").exists()
