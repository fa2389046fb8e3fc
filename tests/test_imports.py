"""The house's walls: imports run only downwards, light doors stay light, files stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bratskit"

# A name may import only names before it (../shared/DESIGN.md, the rooms of the package).
ORDER = (
    "labels", "settings", "runtime", "cases", "preprocess", "networks", "predict", "evaluate",
    "train", "visualize", "jobs", "cli", "__main__",
)  # fmt: skip
LARGEST_FILE_LINES = 350
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(source: str) -> list[str]:
    """List every module that a file imports, also inside functions."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found += (
                [f"bratskit.{alias.name}" for alias in node.names]
                if module == "bratskit"
                else [module]
            )
    return found


def rooms_imported(source: str) -> set[str]:
    modules = [name.split(".") for name in imported_modules(source)]
    return {parts[1] for parts in modules if parts[0] == "bratskit" and parts[1:]}


def upward_imports(room: str, source: str) -> list[str]:
    allowed = {*ORDER[: ORDER.index(room) + 1]} if room in ORDER else set()
    return sorted(name for name in rooms_imported(source) & set(ORDER) if name not in allowed)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_run_only_downwards(path):
    room = room_of(path)
    assert room in (*ORDER, "__init__"), f"{room} is no room of the house; its place is in ORDER"
    source = path.read_text(encoding="utf-8")
    assert room == "__init__" or not upward_imports(room, source)
    assert not any(name.startswith(".") for name in imported_modules(source)), "say bratskit.<room>"


@pytest.mark.parametrize("path", sorted((PACKAGE / "evaluate").glob("*.py")), ids=name_of)
def test_the_judge_shares_no_code_with_the_judged(path):
    source = path.read_text(encoding="utf-8")
    assert not any(name.split(".")[0] == "torch" for name in imported_modules(source))
    rooms = rooms_imported(source) & set(ORDER)
    assert rooms <= {"labels", "settings", "runtime", "cases", "evaluate"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "predict").glob("*.py")), ids=name_of)
def test_predict_knows_nothing_of_losses(path):
    source = path.read_text(encoding="utf-8")
    assert "loss" not in {part for name in imported_modules(source) for part in name.split(".")}


def test_labels_needs_only_the_standard_library():
    names = imported_modules((PACKAGE / "labels.py").read_text(encoding="utf-8"))
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    "name", ["", ".labels", ".settings", ".runtime", ".cases", ".evaluate", ".jobs", ".cli"]
)
def test_light_doors_import_no_torch(name):
    code = f"import sys, bratskit{name}; sys.exit('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr or f"bratskit{name} imports torch"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_files_stay_small(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LARGEST_FILE_LINES, "which idea in this file wants a name of its own?"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_the_package_does_not_print(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not any(isinstance(func, ast.Name) and func.id == "print" for func in calls)


def test_an_upward_import_is_seen():
    assert upward_imports("cases", "def f():\n    from bratskit.train import train") == ["train"]
    assert upward_imports("train", "import bratskit.predict.window") == []
    assert upward_imports("evaluate", "from bratskit import visualize") == ["visualize"]
