"""Read from masks and names what a split is balanced by: edition, enhancing tumour, tumour size."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bratskit.cases.case import Case
from bratskit.cases.nifti import to_internal
from bratskit.cases.volume import read_volume
from bratskit.runtime import progress

__all__ = ["CaseFacts", "edition_of", "facts_by_name", "read_facts"]

_ET = 3  # internal label
_TASK = re.compile(r"BraTS-([A-Z]+)-\d", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class CaseFacts:
    """Say what a case is like, as far as a split needs it.

    Attributes:
        edition: Series that the case's name belongs to, for example "Brats18" or "BraTS-GLI".
        has_et: Whether the mask has enhancing tumour; None without a mask.
        tumour_ml: Volume of the whole tumour in the mask, ml; None without a mask.
        folder: Where the case was found.
    """

    edition: str
    has_et: bool | None = None
    tumour_ml: float | None = None
    folder: str = ""


def read_facts(cases: Sequence[Case], *, threads: int | None = None) -> dict[str, CaseFacts]:
    """Read the facts of every case, by id, with progress; only masks are opened, at 20 ms each.

    Args:
        cases: Cases of any folders and editions.
        threads: Masks decoded at once; None means one a core.

    Raises:
        ValueError: A mask is damaged, or holds an integer that its schema does not define.
    """
    found = _read(cases, threads or os.cpu_count() or 1)
    return dict(progress(found, "reading masks", total=len(cases)))


def facts_by_name(ids: Iterable[str]) -> dict[str, CaseFacts]:
    """Know of each id what its name tells: the edition."""
    return {case_id: CaseFacts(edition=edition_of(case_id)) for case_id in ids}


def edition_of(case_id: str) -> str:
    """Name the series that a case id belongs to.

    Examples:
        >>> [edition_of(name) for name in ("Brats18_2013_2_1", "BraTS-PED-00001-000", "BRATS_001")]
        ['Brats18', 'BraTS-PED', 'BRATS']
    """
    match = _TASK.match(case_id)
    return f"BraTS-{match[1].upper()}" if match else re.split(r"[_-]", case_id, maxsplit=1)[0]


def _read(cases: Sequence[Case], threads: int) -> Iterator[tuple[str, CaseFacts]]:
    with ThreadPoolExecutor(threads) as pool:
        yield from zip((case.id for case in cases), pool.map(_facts_of, cases), strict=True)


def _facts_of(case: Case) -> CaseFacts:
    edition, folder = edition_of(case.id), _folder_of(case)
    if case.labels_path is None:
        return CaseFacts(edition=edition, folder=folder)
    mask = read_volume(case.labels_path, case_id=case.id)
    labels = to_internal(mask, schema=case.schema, case_id=case.id)
    voxel_ml = abs(float(np.linalg.det(mask.affine[:3, :3]))) / 1000
    return CaseFacts(
        edition=edition,
        has_et=bool((labels == _ET).any()),
        tumour_ml=round(int(np.count_nonzero(labels)) * voxel_ml, 3),
        folder=folder,
    )


def _folder_of(case: Case) -> str:
    """Name the folder above the case's own."""
    paths = [Path(path) for path in case.paths.values()]
    if not paths:
        return ""
    home = paths[0].parent
    own = [folder for folder in (home, *home.parents) if folder.name == case.id]
    return str(own[0].parent if own else home)
