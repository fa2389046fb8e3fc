"""Check the form of a stored notebook without running it (HOUSE_STYLE, section Notebooks)."""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from bratskit.jobs.parameters import code_cells, read_parameters

__all__ = ["absolute_paths", "check_structure", "main"]

LARGEST_BYTES = 1_000_000  # GitHub stops rendering not far above
LONGEST_CELL_LINES = 25
MOST_FUNCTIONS = 3
FEWEST_CHECKS = 2
FORBIDDEN = {
    "%matplotlib": "the inline backend is the default",
    "!pip": "the README says how to install",
    ".cuda(": "say device = pick_device()",
    "warnings.filterwarnings": "mend the warning",
}
# Homes of users and machines; in a stored output they tell where it was made and nothing else.
ABSOLUTE = re.compile(
    r"(?<![\w.:/])/(?:home|root|Users|tmp|work|var|mnt|opt|usr|content|kaggle|workspace)/[\w.-]+"
    r"|[A-Z]:\\\\?Users"
)


def check_structure(path: Path | str) -> list[str]:
    """List what is wrong with a stored notebook, one line a problem; empty when all is well.

    Args:
        path: Notebook as stored.

    Raises:
        FileNotFoundError: There is no such notebook.
        ValueError: The file is no notebook.
    """
    path = Path(path)
    code = code_cells(path)
    book = json.loads(path.read_text(encoding="utf-8"))
    problems = [
        *_whole(path, book),
        *_opening_and_end(book["cells"]),
        *_parameters(path, code),
        *_stored_as_run(code),
        *_sources(code),
        *(f"absolute path in an output: {found}" for found in absolute_paths(code)),
    ]
    return [f"{path.name}: {problem}" for problem in problems]


def absolute_paths(cells: list[dict]) -> list[str]:
    """List absolute paths that stand in the text outputs of code cells."""
    found: list[str] = []
    for cell in cells:
        for output in cell["outputs"]:
            texts = {"stream": output.get("text", ""), **output.get("data", {})}
            for kind, text in texts.items():
                if not kind.startswith("image/"):
                    joined = "".join(text) if isinstance(text, list | str) else json.dumps(text)
                    found += ABSOLUTE.findall(joined)
    return sorted(set(found))


def _whole(path: Path, book: dict) -> Iterator[str]:
    size = path.stat().st_size
    if size >= LARGEST_BYTES:
        yield f"{size / 1e6:.2f} MB; must stay under {LARGEST_BYTES / 1e6:.0f} MB"
    for unwanted in ("widgets", "papermill"):
        if book["metadata"].get(unwanted):
            yield f"metadata.{unwanted} must be stripped; run `make notebooks`"
    ids = [cell.get("id") for cell in book["cells"]]
    if None in ids or len(set(ids)) < len(ids):
        yield "every cell needs an id of its own"


def _opening_and_end(cells: list[dict]) -> Iterator[str]:
    texts = ["".join(cell["source"]) for cell in cells]
    wanted = {
        "a title": r"^# \S",
        "a question": r"\*\*Question",
        "a table": r"^\|.+\|\s*$",
        "goals": r"(?i)after this notebook you can",
    }
    for name, pattern in wanted.items():
        if cells[0]["cell_type"] != "markdown" or not re.search(pattern, texts[0], re.MULTILINE):
            yield f"the first cell must have {name}"
    if cells[-1]["cell_type"] != "markdown" or not re.search(r"\]\(\S+\)", texts[-1]):
        yield "the last cell must link to what comes next"


def _parameters(path: Path, code: list[dict]) -> Iterator[str]:
    try:
        declared = read_parameters(path)
    except ValueError as error:
        yield str(error)
        return
    (cell,) = (cell for cell in code if "parameters" in cell["metadata"].get("tags", []))
    for name in declared:
        line = re.search(rf"^{name}\s*=.*$", cell["source"], re.MULTILINE)
        if line is None or "#" not in line[0]:
            yield f"parameter {name} needs a comment with its unit or meaning"
    if any("injected-parameters" in cell["metadata"].get("tags", []) for cell in code):
        yield "the injected-parameters cell of a run was kept; run `make notebooks`"


def _stored_as_run(code: list[dict]) -> Iterator[str]:
    counts = [cell["execution_count"] for cell in code if cell["source"].strip()]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not stored as one run in order (counts {counts}); run `make notebooks`"
    for cell in code:
        if any(output["output_type"] == "error" for output in cell["outputs"]):
            yield f"cell [{cell['execution_count']}] stores an error"
        if "execution" in cell["metadata"]:
            yield f"cell [{cell['execution_count']}] stores timings; run `make notebooks`"


def _sources(code: list[dict]) -> Iterator[str]:
    importing = functions = checks = 0
    for number, cell in enumerate(code, start=1):
        source = cell["source"]
        if len(source.splitlines()) > LONGEST_CELL_LINES:
            yield f"code cell {number} is longer than {LONGEST_CELL_LINES} lines"
        for words, why in FORBIDDEN.items():
            if words in source:
                yield f"code cell {number} has {words}: {why}"
        plain = "\n".join(line for line in source.splitlines() if line[:1] not in ("%", "!"))
        nodes = list(ast.walk(ast.parse(plain)))
        importing += any(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)
        functions += sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in nodes)
        checks += any(isinstance(node, ast.Assert) for node in nodes)
    if importing > 1:
        yield f"all imports belong in one cell; {importing} cells import"
    if functions > MOST_FUNCTIONS:
        yield f"defines {functions} functions; what is used twice belongs in the package"
    if checks < FEWEST_CHECKS:
        yield f"needs at least {FEWEST_CHECKS} check cells (assert); has {checks}"


def main(paths: list[str] | None = None) -> int:
    """Write the problems of the given notebooks to stdout; return 1 if there are any."""
    paths = sys.argv[1:] if paths is None else paths
    problems = [problem for path in paths for problem in check_structure(path)]
    for problem in problems:
        sys.stdout.write(problem + "\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
