"""Find the network that comes with the repository, and prove that its file is whole."""

import hashlib
from pathlib import Path

import bratskit
from bratskit.runtime import write_atomically

__all__ = ["saved_model", "write_checksums"]

CHECKSUMS = "SHA256SUMS"


def saved_model(folder: Path | str | None = None) -> Path:
    """Find the network that comes with the repository, and prove that it is whole.

    Args:
        folder: Where to look; None is `saved_model/` beside the package.

    Returns:
        The `*.pt` file that sorts last by name, its checksum verified against `SHA256SUMS`.

    Raises:
        FileNotFoundError: There is none; the message holds the command that makes one.
        ValueError: The file is not the one its checksum was written for.
    """
    folder = Path(bratskit.__file__).parents[1] / "saved_model" if folder is None else Path(folder)
    files = sorted(folder.glob("*.pt"))
    if not files:
        msg = (
            f"saved model must be in {folder}; got no *.pt file there. Train one with `make demo`, "
            "then `python -m bratskit.jobs.ship runs/demo saved_model NAME`."
        )
        raise FileNotFoundError(msg)
    path = files[-1]
    known = _read_checksums(folder / CHECKSUMS)
    if known.get(path.name) != hashlib.sha256(path.read_bytes()).hexdigest():
        msg = (
            f"{path} must have the checksum written in {CHECKSUMS}; got another file. "
            f"Fetch it again with `git checkout -- {folder.name}`."
        )
        raise ValueError(msg)
    return path


def write_checksums(folder: Path | str) -> Path:
    """Write `SHA256SUMS` for every `*.pt` of a folder, in the form that `sha256sum -c` reads."""
    path = Path(folder) / CHECKSUMS
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(Path(folder).glob("*.pt"))
    ]
    write_atomically(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8"))
    return path


def _read_checksums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {name.lstrip("*"): digest for digest, name in (line.split(maxsplit=1) for line in lines)}
