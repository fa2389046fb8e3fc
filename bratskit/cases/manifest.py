"""Write and read the JSON manifests of splits and folds, naming what a damaged one lacks."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from bratskit.cases.facts import CaseFacts
from bratskit.runtime import made_by, write_atomically

__all__ = ["known_from_json", "known_to_json", "read_manifest", "write_manifest"]


def write_manifest(
    path: Path | str, content: Mapping[str, object], *, stamp: Mapping[str, str]
) -> Path:
    """Write a manifest atomically, with the stamp it came with or else a new one."""
    path = Path(path)
    text = json.dumps({**content, "made_by": dict(stamp) or made_by()}, indent=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda temporary: temporary.write_text(text + "\n", "utf-8"))
    return path


@contextmanager
def read_manifest(
    path: Path | str, *, needs: Sequence[str], maker: str
) -> Iterator[Mapping[str, object]]:
    """Open a manifest for the reading of its parts.

    Args:
        path: The file.
        needs: Names that must be in it.
        maker: Function that makes such manifests, for messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no JSON, or what stands in the `with` block does not find what it needs.
    """
    path = Path(path)
    if not path.is_file():
        msg = f"split manifest must exist; got {path}. Make it with {maker}(...).save(path)."
        raise FileNotFoundError(msg)
    try:
        yield json.loads(path.read_text("utf-8"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        msg = (
            f"split manifest must be JSON with {', '.join(needs[:-1])} and {needs[-1]}; got "
            f"{path} ({type(error).__name__}: {error}). "
            f"Make it again with {maker}(...).save(path)."
        )
        raise ValueError(msg) from error


def known_to_json(
    same_patient: Sequence[Sequence[str]], facts: Mapping[str, CaseFacts]
) -> dict[str, object]:
    """Return what JSON can hold of groups and facts; nothing where there are none."""
    content: dict[str, object] = {}
    if same_patient:
        content["same_patient"] = [list(group) for group in same_patient]
    if facts:
        content["facts"] = {case_id: asdict(fact) for case_id, fact in facts.items()}
    return content


def known_from_json(content: Mapping[str, object]) -> dict[str, object]:
    """Return `same_patient` and `facts` as a split takes them."""
    groups = tuple(tuple(map(str, group)) for group in content.get("same_patient", ()))
    facts = {name: CaseFacts(**fact) for name, fact in content.get("facts", {}).items()}
    return {"same_patient": groups, "facts": facts}
