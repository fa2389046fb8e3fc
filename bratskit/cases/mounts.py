"""Find the cohorts that Kaggle or Colab has mounted, by looking at names only, and not for long."""

import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bratskit.cases.decathlon import IMAGE_FOLDERS, LABEL_FOLDER, LISTING
from bratskit.cases.layouts import CaseFiles, add_brats, add_vsd, is_volume, own_folders

__all__ = ["default_roots", "find_cohorts", "pick_cohort"]

# Kaggle mounts a data set at /kaggle/input/<slug>, or since 2025 at
# /kaggle/input/datasets/<owner>/<slug>; archives add up to three folders of their own.
DEEPEST = 8  # folders below a root
MOST_FOLDERS = 3000  # opened in one search: a Drive can be large, and each costs a request
_RUN = {"settings.json", "source.json"}  # what makes a folder one of our runs
_GRADES = ("hgg", "lgg", "hg", "lg")  # folders that divide one cohort of BraTS 2013-2019


def default_roots(environment: Mapping[str, str] | None = None) -> list[Path]:
    """Name the folders below which this platform mounts data; none on a machine of one's own.

    Kaggle is asked first, because its image sets Colab's variables too.
    """
    environment = os.environ if environment is None else environment
    if "KAGGLE_KERNEL_RUN_TYPE" in environment:
        return [Path("/kaggle/input")]
    if "COLAB_RELEASE_TAG" in environment:
        return [Path("/content")]  # Drive is mounted below it
    return []


def find_cohorts(
    roots: Sequence[Path | str] | None = None, *, require_labels: bool = False
) -> list[Path]:
    """Find the folders below some roots that hold cases, in any layout `find_cases` knows.

    A folder of case folders is one cohort, `HGG` and `LGG` side by side too; case folders are not
    opened beyond the first that has images. Run folders are passed by: their phantoms are no data.

    Args:
        roots: Where to look; None takes what `default_roots` says of this platform.
        require_labels: Whether to leave out cohorts whose first case has no mask.

    Returns:
        The cohorts, sorted; empty where there is none.
    """
    found: dict[Path, bool] = {}
    for root in default_roots() if roots is None else map(Path, roots):
        for cohort, has_mask in _search(root):
            found[cohort] = found.get(cohort, False) or has_mask
    return sorted(path for path, has_mask in found.items() if has_mask or not require_labels)


def pick_cohort(roots: Sequence[Path | str] | None = None) -> Path | None:
    """Find the one cohort with masks that is mounted here.

    Returns:
        Its folder; None where there is none.

    Raises:
        ValueError: There are several; lists them.
    """
    found = find_cohorts(roots, require_labels=True)
    if len(found) > 1:
        listed = ", ".join(str(path) for path in found)
        msg = f"data_dir 'auto' must find one cohort; got {len(found)}: {listed}. Name one of them."
        raise ValueError(msg)
    return found[0] if found else None


def _search(root: Path) -> Iterator[tuple[Path, bool]]:
    """Open folders level by level; yield each cohort and whether a case of it has a mask."""
    waiting = deque([(root, 0)])
    done: set[Path] = set()  # folders of case folders: the first case speaks for the others
    n_opened = 0
    while waiting and n_opened < MOST_FOLDERS:
        folder, depth = waiting.popleft()
        if folder.parent in done:
            continue
        n_opened += 1
        folders, names = _contents(folder)
        if names >= _RUN:
            continue
        if LISTING in names and set(folders) & set(IMAGE_FOLDERS):
            yield folder, LABEL_FOLDER in folders
            continue
        cases = _cases_in(folder, folders, names)
        if cases:
            cohort = folder
            if len(cases) == 1 and depth:
                cohort = folder.parent
                done.add(cohort)
            is_part = cohort.name.lower() in _GRADES
            has_mask = any("seg" in files.files for files in cases.values())
            yield (cohort.parent if is_part else cohort), has_mask
        elif depth < DEEPEST:
            waiting.extend((folder / name, depth + 1) for name in folders)


def _cases_in(folder: Path, folders: list[str], names: set[str]) -> dict[str, CaseFiles]:
    """Collect what this folder alone holds, and volumes that have a folder of their own name."""
    found: dict[str, CaseFiles] = {}
    volumes = [folder / name for name in sorted(names) if is_volume(name)]
    volumes += own_folders(folder, folders)
    add_brats([path for path in volumes if path.suffix.lower() != ".mha"], found)
    inner = [folder / name / f"{name}.mha" for name in folders if name.upper().startswith("VSD.")]
    add_vsd([*volumes, *inner], found)
    return found


def _contents(folder: Path) -> tuple[list[str], set[str]]:
    folders, names = [], set()
    for entry in _entries(folder):
        (folders.append if entry.is_dir() else names.add)(entry.name)
    return sorted(folders), names


def _entries(folder: Path) -> Iterator[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError:  # not ours to read
        return
