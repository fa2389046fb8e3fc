"""Label many patients into one folder, resumable; one patient's fault stops no other."""

import glob
import math
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bratskit.cases import (
    MAPS,
    Case,
    Finding,
    Scan,
    write_labels,
    write_maps,
)
from bratskit.labels import get_schema
from bratskit.networks import Checkpoint
from bratskit.predict.members import list_members
from bratskit.predict.predict import Prediction, predict_scan
from bratskit.predict.reading import Doubts, read_ahead, refuse_exchange
from bratskit.predict.receipts import (
    clear_case,
    is_done,
    map_path,
    mask_path,
    receipt_of,
    refuse_foreign,
    sign,
)
from bratskit.preprocess.lock import locked
from bratskit.runtime import RunFolder, pick_device, progress

__all__ = ["PredictionError", "predict_folder"]

# What a damaged file, a full disk or a full memory raises; anything else is a bug of ours.
REFUSED = {"trust": (), "refuse": ("problem",), "strict": ("problem", "warning")}
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
    model: Checkpoint | Sequence[Checkpoint],
    edition: str = "brats2017-2021",
    outputs: Collection[str] = (),
    device: torch.device | None = None,
    doubts: Doubts = "refuse",
    memory_bytes: int | None = None,
) -> list[Path]:
    """Label every case and write `<out>/<case id>.nii.gz` on the grid of its files.

    Started again, it skips masks that the same model made of the same files with the same
    inference settings in the same edition; the receipt `<case id>.json` beside each mask says so.
    It is written last, so a stop at any moment costs the patient at work and no other. While the
    network works on one patient, the next one is read and looked over (`find_doubts`).

    Args:
        cases: Patients to label.
        out: Folder for the masks; made where it does not exist.
        model: From `load_checkpoint`. `dataclasses.replace(model, recipe=...)` predicts with
            other inference settings. Several are an ensemble.
        edition: Whose integers to write.
        outputs: Which of "probabilities", "entropy" and "mutual_information" to write too, as
            `<case id>_<name>.nii.gz` (`write_maps`).
        device: Where to run; None chooses.
        doubts: "refuse" writes no mask where it would be wrong without looking so: modalities under
            each other's names, a skull, modalities that do not lie on each other. "trust" labels
            them too, and "strict" refuses where there is any warning. Each doubt is one line on
            stderr and stands in the receipt.
        memory_bytes: What a network may take beside a scan and its prepared image, see
            `predict_scan`; None is half of what is free.

    Returns:
        Paths of the masks, in the order of the cases.

    Raises:
        PermissionError: The folder cannot be written to.
        ValueError: The edition or an output is unknown, an id occurs twice, or modalities are
            exchanged over all cases.
        PredictionError: Some cases failed; it names each with its reason, after the others
            were written.
    """
    get_schema(edition)
    _refuse_unknown(outputs, doubts)
    _refuse_twins(cases)
    _refuse_no_memory(memory_bytes)
    task = _Task(
        models=list(model) if isinstance(model, Sequence) else [model],
        out=RunFolder(Path(out)).create().path,
        edition=edition,
        outputs=outputs,
        device=pick_device() if device is None else torch.device(device),
        memory_bytes=memory_bytes,
    )
    list_members([one.network for one in task.models], [one.recipe for one in task.models])
    refuse_foreign(task.out, cases)
    with locked(task.out, work="filled"):
        _clear_unfinished(task.out, cases)
        receipts = {case.id: receipt_of(case, task.models, edition) for case in cases}
        done = {
            name
            for name, one in receipts.items()
            if is_done(task.out, name, one, outputs, REFUSED[doubts])
        }
        to_do = [case for case in cases if case.id not in done]
        if len(to_do) < len(cases):
            sys.stdout.write(f"predict: {len(cases) - len(to_do)} kept, {len(to_do)} to make\n")
        if to_do:
            refuse_exchange(cases, doubts)
        failed = _finish_all(task, to_do, receipts, doubts)
    written = [mask_path(task.out, case.id) for case in cases if case.id not in failed]
    if failed:
        raise PredictionError(failed, written)
    return written


def _finish_all(
    task: "_Task",
    cases: Sequence[Case],
    receipts: Mapping[str, dict[str, object]],
    doubts: Doubts,
) -> dict[str, str]:
    """Label case by case and say why some could not be."""
    failed: dict[str, str] = {}
    for case, reading in progress(read_ahead(cases, doubts), "predict", total=len(cases)):
        try:
            task.finish(*reading.result(), receipts[case.id])
        except PATIENT_FAULTS as error:
            failed[case.id] = " ".join(str(error).split()) or type(error).__name__
            sys.stderr.write(f"predict: {case.id} failed: {failed[case.id]}\n")
    return failed


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is asked of every patient of a folder."""

    models: Sequence[Checkpoint]
    out: Path
    edition: str
    outputs: Collection[str]
    device: torch.device
    memory_bytes: int | None

    def finish(self, scan: Scan, doubted: Sequence[Finding], receipt: dict[str, object]) -> None:
        """Label a scan and write what was asked for, the receipt last."""
        prediction = self._label(scan)
        clear_case(self.out, scan.id)
        found = self._write(prediction, scan)
        try:
            sign(self.out, scan.id, receipt, {**found, **_told(doubted)})
        except BaseException:  # without a receipt nothing says that the mask is ours
            mask_path(self.out, scan.id).unlink(missing_ok=True)
            raise

    def _label(self, scan: Scan) -> Prediction:
        return predict_scan(
            [one.network for one in self.models],
            scan,
            [one.recipe for one in self.models],
            device=self.device,
            keep_probs="probabilities" in self.outputs,
            uncertainty=bool({"entropy", "mutual_information"} & {*self.outputs}),
            memory_bytes=self.memory_bytes,
        )

    def _write(self, prediction: Prediction, scan: Scan) -> dict[str, object]:
        """Write the maps, then the mask; return what the receipt tells of them."""
        for name in self.outputs:
            maps = prediction.probs if name == "probabilities" else getattr(prediction, name)
            one = maps[0] if len(maps) == 1 else maps  # one map needs no fourth axis
            write_maps(one, map_path(self.out, scan.id, name), like=scan)
        path = mask_path(self.out, scan.id)
        write_labels(prediction.labels, path, like=scan, edition=self.edition)
        if not prediction.labels.any():
            sys.stderr.write(f"predict: {scan.id} note: no tumour was found.\n")
        found: dict[str, object] = {"outputs": list(self.outputs)}
        volumes = prediction.volumes or {}
        told = {name: one._asdict() for name, one in volumes.items()}
        return {**found, "volumes": told} if told else found


def _told(doubted: Sequence[Finding]) -> dict[str, list[str]]:
    return {
        "doubts": [one.kind for one in doubted],
        "severities": sorted({one.severity for one in doubted}),
    }


def _clear_unfinished(out: Path, cases: Sequence[Case]) -> None:
    """Remove what a kill in the middle of a write left of these cases."""
    for case in cases:
        for stale in out.glob(f".[0-9]*-{glob.escape(case.id)}*"):
            if stale.is_file():
                stale.unlink(missing_ok=True)


def _refuse_unknown(outputs: Collection[str], doubts: str) -> None:
    unknown = [name for name in outputs if name not in MAPS]
    if unknown or isinstance(outputs, str):
        msg = f"outputs must be some of {', '.join(MAPS)}; got {outputs!r}. Try ('entropy',)."
        raise ValueError(msg)
    if doubts not in ("refuse", "trust", "strict"):
        msg = f"doubts must be 'refuse', 'trust' or 'strict'; got {doubts!r}."
        raise ValueError(msg)


def _refuse_no_memory(memory_bytes: float | None) -> None:
    if memory_bytes is not None and not 0 < memory_bytes < math.inf:
        msg = f"memory_bytes must be above 0; got {memory_bytes}. None takes half of what is free."
        raise ValueError(msg)


def _refuse_twins(cases: Sequence[Case]) -> None:
    counts = Counter(case.id for case in cases)
    twins = sorted(case_id for case_id, count in counts.items() if count > 1)
    if twins:
        msg = f"case ids must differ; got {twins} more than once. One mask would hide the other."
        raise ValueError(msg)
