"""Label many patients into one folder, resumable; one patient's fault stops no other."""

import dataclasses
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from bratskit.cases import Case, Scan, load_scan, write_labels
from bratskit.labels import get_schema
from bratskit.networks import Checkpoint
from bratskit.predict.predict import predict_scan
from bratskit.runtime import RunFolder, pick_device, progress, write_atomically

__all__ = ["PredictionError", "edition_of", "predict_folder"]

# What a damaged file, a full disk or a full memory raises; anything else is a bug of ours.
PATIENT_FAULTS = (ValueError, OSError, EOFError, RuntimeError, MemoryError)


class PredictionError(ValueError):
    """Some patients could not be labelled; all others were.

    Attributes:
        failed: Why, keyed by case id.
        written: Masks that exist now.
    """

    def __init__(self, failed: dict[str, str], written: list[Path]) -> None:
        self.failed = failed
        self.written = written
        reasons = "; ".join(
            why if case_id in why else f"{case_id}: {why}" for case_id, why in failed.items()
        )
        super().__init__(
            f"{len(failed)} of {len(failed) + len(written)} cases failed, the others are written. "
            f"{reasons} Mend or leave out these cases and run again: finished ones are kept."
        )


def predict_folder(
    cases: Sequence[Case],
    out: Path | str,
    *,
    model: Checkpoint,
    edition: str = "brats2017-2021",
    device: torch.device | None = None,
) -> list[Path]:
    """Label every case and write `<out>/<case id>.nii.gz` on the grid of its files.

    Started again, it skips masks that the same model made of the same files with the same
    inference settings in the same edition; the receipt `<case id>.json` beside each mask says so.
    While the network works on one patient, the next one is read.

    Args:
        cases: Patients to label.
        out: Folder for the masks; made where it does not exist.
        model: From `load_checkpoint`. `dataclasses.replace(model, recipe=...)` predicts with
            other inference settings.
        edition: Whose integers to write.
        device: Where to run; None chooses.

    Returns:
        Paths of the masks, in the order of the cases.

    Raises:
        PermissionError: The folder cannot be written to.
        ValueError: The edition is unknown, or an id occurs twice.
        PredictionError: Some cases failed; it names each with its reason, after the others
            were written.
    """
    get_schema(edition)
    _refuse_twins(cases)
    out = RunFolder(Path(out)).create().path
    device = pick_device() if device is None else torch.device(device)
    receipts = {case.id: _receipt(case, model, edition) for case in cases}
    to_do = [case for case in cases if not _is_done(_mask_path(out, case), receipts[case.id])]
    if len(to_do) < len(cases):
        sys.stdout.write(f"predict: {len(cases) - len(to_do)} kept, {len(to_do)} to make\n")
    failed: dict[str, str] = {}
    for case, reading in progress(_read_ahead(to_do), "predict", total=len(to_do)):
        try:
            scan = reading.result()
            prediction = predict_scan(model.network, scan, model.recipe, device=device)
            path = _mask_path(out, case)
            _receipt_path(path).unlink(missing_ok=True)  # the mask it speaks of is about to go
            write_labels(prediction.labels, path, like=scan, edition=edition)
            _write_receipt(path, receipts[case.id])
        except PATIENT_FAULTS as error:
            failed[case.id] = " ".join(str(error).split()) or type(error).__name__
            sys.stderr.write(f"predict: {case.id} failed: {failed[case.id]}\n")
    written = [_mask_path(out, case) for case in cases if case.id not in failed]
    if failed:
        raise PredictionError(failed, written)
    return written


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
    receipts = [_read_receipt(path) or {} for path in paths]
    editions = sorted({receipt["edition"] for receipt in receipts if "edition" in receipt})
    if len(editions) > 1:
        msg = (
            f"masks of {masks} must be in one edition; got {', '.join(editions)}. "
            "Delete that folder and predict again: no integer says which edition it is of."
        )
        raise ValueError(msg)
    return editions[0] if editions else otherwise


def _read_ahead(cases: Sequence[Case]) -> Iterator[tuple[Case, "Future[Scan]"]]:
    """Yield each case with its scan being read, one patient ahead of the one in use."""
    with ThreadPoolExecutor(max_workers=1) as reader:
        waiting: list[tuple[Case, Future[Scan]]] = []
        for case in cases:
            waiting.append((case, reader.submit(load_scan, case)))
            if len(waiting) > 1:
                yield waiting.pop(0)
        yield from waiting


def _refuse_twins(cases: Sequence[Case]) -> None:
    counts = Counter(case.id for case in cases)
    twins = sorted(case_id for case_id, count in counts.items() if count > 1)
    if twins:
        msg = f"case ids must differ; got {twins} more than once. One mask would hide the other."
        raise ValueError(msg)


def _receipt(case: Case, model: Checkpoint, edition: str) -> dict[str, object]:
    """Say what a mask depends on, as JSON gives it back; the expert mask is not looked at."""
    values = {
        "model": model.checksum,
        "edition": edition,
        "inference": dataclasses.asdict(model.recipe.inference),
        "geometry": dataclasses.asdict(model.recipe.geometry),
        "sources": {path.name: _facts(path) for path in map(Path, case.paths.values())},
    }
    if case.channels:
        values["channels"] = dict(case.channels)
    return json.loads(json.dumps(values))


def _facts(path: Path) -> dict[str, int] | None:
    try:
        facts = path.stat()
    except OSError:  # gone: reported when its turn comes
        return None
    return {"bytes": facts.st_size, "modified_s": int(facts.st_mtime)}


def _is_done(path: Path, receipt: dict[str, object]) -> bool:
    return path.is_file() and path.stat().st_size > 0 and _read_receipt(path) == receipt


def _read_receipt(path: Path) -> dict[str, object] | None:
    """Read the receipt of a mask; None where it is missing or damaged, which proves nothing."""
    try:
        receipt = json.loads(_receipt_path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return receipt if isinstance(receipt, dict) else None


def _write_receipt(path: Path, receipt: dict[str, object]) -> None:
    text = json.dumps(receipt, indent=2) + "\n"
    write_atomically(
        _receipt_path(path), lambda temporary: temporary.write_text(text, encoding="utf-8")
    )


def _mask_path(out: Path, case: Case) -> Path:
    return out / f"{case.id}.nii.gz"


def _receipt_path(mask_path: Path) -> Path:
    return mask_path.with_name(mask_path.name.removesuffix(".nii.gz") + ".json")
