"""Keep what the data doctor found, one JSON line a case, so that a second look reads only news."""

import contextlib
import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO

from bratskit import __version__
from bratskit.cases.case import Case
from bratskit.cases.contradict import Evidence
from bratskit.cases.duplicates import Fingerprint
from bratskit.cases.findings import Finding
from bratskit.cases.order import OrderFits

__all__ = ["CHECKS", "Journal", "Row", "journal_path", "source_key"]


def checks_version(folder: Path = Path(__file__).parent) -> str:
    """Hash the sources by which a case is read and judged: rows of other sources are not used.

    All of this folder and the labels, so that no list can be forgotten; the version of the
    package where it is installed without sources.
    """
    sources = [*sorted(folder.glob("*.py")), *folder.parent.glob("labels.py")]
    found = hashlib.blake2b(__version__.encode(), digest_size=8)
    for path in sources:
        found.update(path.name.encode() + b"\0" + path.read_bytes().replace(b"\r\n", b"\n"))
    return found.hexdigest()


CHECKS = checks_version()


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is kept of one case once its files are closed again.

    Attributes:
        case: Id of the case.
        key: Names the state of its files, its schema and the checks, from `source_key`.
        findings: What is wrong with the case itself.
        grid: Shape, spacing and orientation on disk, as text; empty where no file could be read.
        has_mask: Whether it has a mask file.
        evidence: What its labels look like, or None.
        print: Its fingerprint, or None.
        order: How well each order of its modalities fits, or None.
    """

    case: str
    key: str
    findings: tuple[Finding, ...]
    grid: dict[str, str]
    has_mask: bool
    evidence: Evidence | None
    print: Fingerprint | None
    order: OrderFits | None = None

    def to_json(self) -> str:
        """Return one line of JSON."""
        content = {
            "case": self.case,
            "key": self.key,
            "findings": [asdict(finding) for finding in self.findings],
            "grid": self.grid,
            "has_mask": self.has_mask,
            "evidence": self.evidence and self.evidence.to_dict(),
            "print": self.print and self.print.to_dict(),
            "order": self.order and self.order.to_dict(),
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str) -> "Row":
        """Read what `to_json` wrote."""
        content = json.loads(line)
        evidence, fingerprint = content.pop("evidence"), content.pop("print")
        order = content.pop("order")
        findings = tuple(Finding(**finding) for finding in content.pop("findings"))
        return cls(
            findings=findings,
            evidence=evidence and Evidence.from_dict(evidence),
            print=fingerprint and Fingerprint.from_dict(fingerprint),
            order=order and OrderFits.from_dict(order),
            **content,
        )


def source_key(case: Case) -> str:
    """Name the state of a case's files by path, size and time of change, and what is asked of them.

    Examples:
        >>> from bratskit.labels import get_schema
        >>> a = Case(id="a", paths={}, labels_path=None, schema=get_schema("brats2017-2021"))
        >>> b = Case(id="a", paths={}, labels_path=None, schema=get_schema("msd-task01"))
        >>> source_key(a) == source_key(b)
        False
    """
    mapping = sorted(case.schema.to_internal.items())
    facts: list[object] = [CHECKS, case.id, case.schema.name, mapping]
    for kind, path in (*case.paths.items(), ("seg", case.labels_path)):
        if path is not None:
            facts.append([kind, case.channels.get(kind), *_state_of(Path(path))])
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def journal_path(folder: Path | str) -> Path | None:
    """Return where the journal of a folder lies: never in the folder, input is not written to.

    `$BRATSKIT_CACHE/check`, or else `~/.cache/bratskit/check`; None where this user has no home
    (`docker run --user`), which is said once.
    """
    cache = os.environ.get("BRATSKIT_CACHE") or _home_cache()
    if cache is None:
        return None
    name = hashlib.blake2b(str(Path(folder).resolve()).encode(), digest_size=8).hexdigest()
    return Path(cache) / "check" / f"{name}.jsonl"


@cache
def _home_cache() -> Path | None:
    try:
        return Path.home() / ".cache" / "bratskit"
    except RuntimeError:
        msg = (
            "journal must have a place; got no HOME and no home folder of this user. Going on "
            "without: set BRATSKIT_CACHE to a folder, and an interrupted check can go on."
        )
        warnings.warn(msg, stacklevel=3)
        return None


class Journal:
    """Rows of a file, by key; new ones are appended and flushed one by one.

    A kill in the middle of a line costs that line only. Where the file cannot be written the work
    goes on without, after one warning.

    Args:
        path: JSON-lines file, made with its folder; None keeps nothing.
    """

    def __init__(self, path: Path | str | None) -> None:
        self._path = None if path is None else Path(path)
        self._rows: dict[str, Row] = {}
        self._file: IO[str] | None = None
        self._is_cut = False
        try:
            text = "" if path is None else Path(path).read_text(encoding="utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            self._give_up(error)
            return
        self._rows = {row.key: row for row in _rows_in(text.splitlines())}
        self._is_cut = bool(text) and not text.endswith("\n")

    def get(self, key: str) -> Row | None:
        """Return the row of a case whose files are as they were, or None."""
        return self._rows.get(key)

    def add(self, row: Row) -> None:
        """Append a row and hand it to the system before the next case."""
        self._rows[row.key] = row
        if self._path is None:
            return
        try:
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a", encoding="utf-8")
            self._file.write("\n" * self._is_cut + row.to_json() + "\n")
            self._file.flush()
            self._is_cut = False
        except OSError as error:  # a read-only home, a full disk
            self._give_up(error)

    def close(self) -> None:
        """Close the file; what was written stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _give_up(self, error: OSError) -> None:
        path, self._path, file, self._file = self._path, None, self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # closing tries to write once more
                file.close()
        msg = (
            f"journal must be writable; got {path} ({error.strerror}). Going on without: set "
            "BRATSKIT_CACHE to a folder that is, and an interrupted check can go on."
        )
        warnings.warn(msg, stacklevel=2)


def _rows_in(lines: Iterable[str]) -> Iterable[Row]:
    for line in lines:
        try:
            yield Row.from_json(line)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue  # cut by a kill, or written by another version


def _state_of(path: Path) -> tuple[str, int, int]:
    try:
        state = path.stat()
    except OSError:
        return str(path.absolute()), -1, -1
    return str(path.absolute()), state.st_size, state.st_mtime_ns
