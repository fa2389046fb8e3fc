"""Let one process at a time fill a folder: a second would clear away what the first is writing.

The system holds the lock and lets go when its owner ends in whatever way, so none is ever stale.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

__all__ = ["LOCK", "locked"]

LOCK = ".lock"


@contextmanager
def locked(folder: Path, *, work: str = "prepared") -> Iterator[None]:
    """Hold a folder for the length of a `with` block.

    Where no lock can be made, on Windows, in a folder that is only read, on a disk that knows none
    (a mounted Drive), the block runs without.

    Args:
        folder: A store, or a folder of masks; must exist.
        work: What is done to it, for the refusal.

    Raises:
        RuntimeError: Another process, or another thread, holds it; says which.
    """
    path = folder / LOCK
    file = _take(path, work)
    try:
        yield
    finally:
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)


def _take(path: Path, work: str) -> int | None:
    while fcntl is not None:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(file, 200).decode(errors="replace") or "another process"
            os.close(file)
            msg = (
                f"{path.parent} must be {work} by one process at a time; got {holder} at work "
                "there. Wait until it is done, end it, or choose another folder."
            )
            raise RuntimeError(msg) from error
        except OSError:
            os.close(file)
            return None
        if _is_there(file, path):
            _sign(file)
            return file
        os.close(file)  # its holder finished and removed it in this very moment
    return None


def _is_there(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _sign(file: int) -> None:
    with suppress(OSError):  # a full disk: the lock holds without a name
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
