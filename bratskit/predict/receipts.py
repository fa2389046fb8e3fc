"""Say beside each mask what made it of what, so that a folder can be gone on with."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bratskit.cases import MAPS, Case
from bratskit.networks import Checkpoint
from bratskit.preprocess.lock import LOCK
from bratskit.runtime import write_atomically

__all__ = [
    "clear_case",
    "edition_of",
    "is_done",
    "map_path",
    "mask_path",
    "receipt_of",
    "refuse_foreign",
    "sign",
]

Receipt = dict[str, object]


def receipt_of(case: Case, models: Sequence[Checkpoint], edition: str) -> Receipt:
    """Say what a mask depends on, as JSON gives it back; the expert mask is not looked at."""
    settings = [
        {
            "model": model.checksum,
            "inference": dataclasses.asdict(model.recipe.inference),
            "geometry": dataclasses.asdict(model.recipe.geometry),
        }
        for model in models
    ]
    values = {
        "edition": edition,
        **(settings[0] if len(settings) == 1 else {"ensemble": settings}),
        "sources": {name: _facts(Path(path)) for name, path in case.paths.items()},
    }
    if case.channels:
        values["channels"] = dict(case.channels)
    return json.loads(json.dumps(values))


def is_done(
    out: Path,
    case_id: str,
    receipt: Receipt,
    outputs: Collection[str],
    refused: Collection[str] = (),
) -> bool:
    """Tell whether mask and maps are there, made as the receipt says and of no refused doubt."""
    paths = [mask_path(out, case_id), *(map_path(out, case_id, name) for name in outputs)]
    if not all(path.is_file() and path.stat().st_size > 0 for path in paths):
        return False
    found = _read(paths[0]) or {}
    is_same = all(found.get(name) == value for name, value in receipt.items())
    is_single = ("ensemble" in found) == ("ensemble" in receipt)
    is_trusted = not set(refused) & set(found.get("severities", ()))
    return is_same and is_single and is_trusted and set(outputs) <= set(found.get("outputs", ()))


def refuse_foreign(out: Path, cases: Sequence[Case]) -> None:
    """Refuse a folder in which a mask would take the place of a file that is not ours.

    Raises:
        ValueError: A mask, map or receipt would replace a scan or an expert mask of a case, or a
            file that no receipt of this folder speaks for.
    """
    sources = {Path(path).resolve() for case in cases for path in _files_of(case)}
    is_ours = (out / LOCK).exists() or any(map(_is_receipt, out.glob("*.json")))
    for case in cases:
        mask = mask_path(out, case.id)
        paths = [mask, _receipt_path(mask), *(map_path(out, case.id, name) for name in MAPS)]
        taken = next((path for path in paths if path.resolve() in sources), None)
        if taken is None and mask.exists() and not is_ours:
            taken = mask
        if taken is None and _is_foreign(paths[1]):
            taken = paths[1]
        if taken is not None:
            msg = (
                f"out must hold no file of others where masks go; got {taken}, which `predict` did "
                "not write. Choose another OUT."
            )
            raise ValueError(msg)


def _files_of(case: Case) -> list[Path | str]:
    return [*case.paths.values(), *([case.labels_path] if case.labels_path else [])]


def _is_receipt(path: Path) -> bool:
    return "sources" in (_load(path) or {})


def _is_foreign(path: Path) -> bool:
    """Say whether a file is JSON of somebody else; a damaged one may be ours, cut off."""
    found = _load(path)
    return found is not None and "sources" not in found


def clear_case(out: Path, case_id: str) -> None:
    """Remove the receipt of a mask, then the maps: they speak of a mask that is about to go."""
    _receipt_path(mask_path(out, case_id)).unlink(missing_ok=True)
    for name in MAPS:
        map_path(out, case_id, name).unlink(missing_ok=True)


def sign(out: Path, case_id: str, receipt: Receipt, found: Mapping[str, object]) -> None:
    """Write the receipt of a mask, the last of a patient's files; `found` is told, not compared."""
    text = json.dumps({**receipt, **found}, indent=2) + "\n"
    write_atomically(
        _receipt_path(mask_path(out, case_id)),
        lambda temporary: temporary.write_text(text, encoding="utf-8"),
    )


def edition_of(masks: Path | str, *, otherwise: str) -> str:
    """Read, from the receipts that `predict_folder` wrote, whose integers masks carry.

    Args:
        masks: A mask, or a folder of them.
        otherwise: What to return where there is no mask yet, or no receipt that can be read.

    Raises:
        ValueError: The masks of the folder are in several editions; names them.
    """
    masks = Path(masks)
    paths = sorted(masks.glob("*.nii.gz")) if masks.is_dir() else [masks]
    receipts = [_read(path) or {} for path in paths]
    editions = sorted({receipt["edition"] for receipt in receipts if "edition" in receipt})
    if len(editions) > 1:
        msg = (
            f"masks of {masks} must be in one edition; got {', '.join(editions)}. "
            "Delete that folder and predict again: no integer says which edition it is of."
        )
        raise ValueError(msg)
    return editions[0] if editions else otherwise


def mask_path(out: Path, case_id: str) -> Path:
    """Name the mask of a case."""
    return out / f"{case_id}.nii.gz"


def map_path(out: Path, case_id: str, name: str) -> Path:
    """Name one of `MAPS` of a case."""
    return out / f"{case_id}_{name}.nii.gz"


def _facts(path: Path) -> dict[str, object] | None:
    try:
        facts = path.stat()
    except OSError:  # gone: reported when its turn comes
        return None
    return {
        "file": f"{path.parent.name}/{path.name}",
        "bytes": facts.st_size,
        "modified_s": int(facts.st_mtime),
    }


def _read(path: Path) -> Receipt | None:
    """Read the receipt of a mask; None where it is missing or damaged, which proves nothing."""
    return _load(_receipt_path(path))


def _load(path: Path) -> Receipt | None:
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return receipt if isinstance(receipt, dict) else None


def _receipt_path(mask: Path) -> Path:
    return mask.with_name(mask.name.removesuffix(".nii.gz") + ".json")
