"""Read patients ahead of the network, and refuse those that too much speaks against."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal

from bratskit.cases import Case, Finding, Scan, find_doubts, find_exchange, load_scan

__all__ = ["Doubts", "read_ahead", "refuse_exchange"]

Doubts = Literal["refuse", "trust", "strict"]
Reading = Future[tuple[Scan, list[Finding]]]

STOPS = {"refuse": ("problem",), "strict": ("problem", "warning"), "trust": ()}
TRUST = "--trust, or doubts='trust', labels it all the same."


def read_ahead(cases: Sequence[Case], doubts: Doubts) -> Iterator[tuple[Case, Reading]]:
    """Yield each case with its scan being read, one patient ahead of the one in use.

    The result of a reading is the scan with what speaks against it; or it raises ValueError, where
    that weighs too much, or whatever reading the files raises.
    """
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: list[tuple[Case, Reading]] = []
        for case in cases:
            waiting.append((case, reader.submit(_read, case, doubts)))
            if len(waiting) > 1:
                yield waiting.pop(0)
        yield from waiting


def refuse_exchange(cases: Sequence[Case], doubts: Doubts) -> None:
    """Refuse a folder whose modalities are exchanged in all cases.

    Raises:
        ValueError: They are, and `doubts` is not "trust".
    """
    exchange = find_exchange(cases)
    if exchange is None:
        return
    if doubts == "trust":
        sys.stderr.write(f"predict: warning: {_as_line(exchange)}\n")
        return
    msg = f"{_as_line(exchange)} {TRUST}"
    raise ValueError(msg)


def _read(case: Case, doubts: Doubts) -> tuple[Scan, list[Finding]]:
    found = find_doubts(case)
    refused = [one for one in found if one.severity in STOPS[doubts]]
    if refused:
        msg = _as_line(*refused)
        if not any(
            one.kind == "grid" for one in refused
        ):  # four grids are no image, trusted or not
            msg = f"{msg} {TRUST}"
        raise ValueError(msg)
    scan = load_scan(case)
    for one in found:
        severity = "note" if one.severity == "note" else "warning"
        sys.stderr.write(f"predict: {case.id} {severity}: {_as_line(one)}\n")
    return scan, found


def _as_line(*findings: Finding) -> str:
    """Say what was found, then what to do, once where that is the same."""
    seen = "; ".join(f"{one.where}: {one.what}" for one in findings)
    return " ".join([f"{seen}.", *dict.fromkeys(one.mend for one in findings)])
