"""Open the files of one case for the data doctor: what can be read, on one grid, brain box only."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Case
from bratskit.cases.findings import Finding, as_finding
from bratskit.cases.finite import not_finite
from bratskit.cases.layouts import Layout, file_of
from bratskit.cases.nifti import to_internal
from bratskit.cases.order import OrderFits, read_order
from bratskit.cases.volume import Volume, read_channels, read_volume, refuse_other_grid
from bratskit.labels import MODALITIES

__all__ = ["Look", "Modality", "look_at", "open_volumes"]

PLAUSIBLE_MM = (0.2, 12.0)  # finest and coarsest voxel edge of a clinical head scan

_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Modality:
    """One modality inside the box that holds whatever any modality shows.

    Values stay as stored, `real = stored * slope + inter`: most checks need no float copy.

    Attributes:
        where: Name of the file, for findings.
        values: Stored values `(I, J, K)` of the box.
        shown: Voxels of the box that are not background.
        inside: The stored values of these voxels, in one row.
        slope: Factor from stored to real values.
        inter: Offset from stored to real values.
        empty: The stored value that fills the corners of the grid.
        n_voxels: Voxels of the whole grid.
    """

    where: str
    values: NDArray[np.generic]
    shown: NDArray[np.bool_]
    inside: NDArray[np.generic]
    slope: float
    inter: float
    empty: np.generic
    n_voxels: int

    def real(self, stored: NDArray[np.generic]) -> NDArray[np.float32]:
        """Turn stored values of this file into real ones, rounded as `load_scan` rounds them."""
        if self.inter:
            return (stored * np.float64(self.slope) + self.inter).astype(np.float32)
        return stored.astype(np.float32) * np.float32(self.slope)

    @property
    def background(self) -> float:
        """The real value that fills the corners of the grid; 0 in a stripped head."""
        return float(self.empty) * self.slope + self.inter

    @cached_property
    def mean_std(self) -> tuple[float, float]:
        """Mean and standard deviation of the stored values inside, over a seventh of them."""
        sample = self.inside[::7].astype(np.float64)
        return float(sample.mean()), float(sample.std()) or 1.0


@dataclass(frozen=True)
class Look:
    """What one case holds, ready to be judged.

    Attributes:
        case: The case.
        volumes: Files that could be read and share one grid, by modality and "seg".
        modalities: Those modalities that hold finite numbers and more than one value.
        box: Where the modalities' voxels lie in the grid, RAS+.
        labels: Internal labels `(I, J, K)` of the whole grid; None without a mask that can be read.
        findings: What was wrong with files, grids and values on the way here.
    """

    case: Case
    volumes: dict[str, Volume]
    modalities: dict[str, Modality]
    box: tuple[slice, slice, slice]
    labels: NDArray[np.uint8] | None
    findings: list[Finding]

    @property
    def integers(self) -> NDArray[np.uint8] | None:
        """The mask as its file has it, in the box; None without `labels`."""
        if self.labels is None:
            return None
        seg = replace(self.volumes["seg"], data=self.volumes["seg"].data[self.box])
        return _labels_of(seg, replace(self.case, schema=self.case.schema.as_written))

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """Voxel size along I, J, K in mm."""
        affine = next(iter(self.volumes.values())).affine
        return tuple(float(length) for length in np.linalg.norm(affine[:3, :3], axis=0))

    @property
    def is_plausible(self) -> bool:
        """Whether a head may have been scanned with such voxels."""
        return PLAUSIBLE_MM[0] <= min(self.spacing_mm) and max(self.spacing_mm) <= PLAUSIBLE_MM[1]

    @cached_property
    def shown(self) -> NDArray[np.bool_]:
        """What any modality shows, in the box."""
        return _union([modality.shown for modality in self.modalities.values()])

    @cached_property
    def brain(self) -> NDArray[np.bool_] | None:
        """What two modalities show, so that one with a gap does not hide it; None below three."""
        if len(self.modalities) < 3:
            return None
        first, *others = (modality.shown.view(np.uint8) for modality in self.modalities.values())
        count = first.copy(order="K")
        for other in others:
            count += other
        return count >= 2

    @cached_property
    def order(self) -> OrderFits | None:
        """How well each order of the modalities fits; None below four of them."""
        if len(self.modalities) < len(MODALITIES):
            return None
        files = [self.modalities[name] for name in MODALITIES]
        labels = None if self.labels is None else self.labels[self.box]
        images = [file.values if file.slope > 0 else file.real(file.values) for file in files]
        return read_order(images, self.brain, labels)


def look_at(case: Case) -> Look:
    """Open a case; whatever stands in the way becomes a finding, and the rest is still opened."""
    volumes, findings = open_volumes(case)
    whole = {}
    for name, volume in volumes.items():
        if name == "seg":
            continue
        bad = not_finite(volume)
        if bad:
            findings.append(_problem(case, "not-finite", name, *bad))
        else:
            whole[name] = (volume, _background_of(volume.data))
    shown = {name: volume.data != background for name, (volume, background) in whole.items()}
    box = _box_around(_union(list(shown.values())))
    modalities = {}
    for name, (volume, background) in whole.items():
        modality = _cut(volume, shown.pop(name), background, box, where_of(case, name))
        if modality.inside.size == 0 or modality.inside.min() == modality.inside.max():
            value = float(modality.real(modality.inside[:1])[0]) if modality.inside.size else 0.0
            value = value or modality.background
            mend = "Export the modality again; this holds none."
            findings.append(_problem(case, "constant", name, f"constant: only {value:g}", mend))
        else:
            modalities[name] = modality
    labels = None
    if "seg" in volumes:
        try:
            labels = _labels_of(volumes["seg"], case)
        except ValueError as error:
            where = where_of(case, "seg")
            findings.append(as_finding(error, kind="labels", case=case.id, where=where))
    return Look(case, volumes, modalities, box, labels, findings)


def open_volumes(case: Case) -> tuple[dict[str, Volume], list[Finding]]:
    """Read every file of a case and keep those on the grid that most of them share."""
    findings = [
        _problem(
            case,
            "missing",
            name,
            f"no {name}",
            "Add the file, or move the case elsewhere: the network needs all four.",
        )
        for name in MODALITIES
        if name not in case.paths
    ]
    volumes: dict[str, Volume] = {}
    for path, kinds in _files_of(case).items():
        try:
            volumes.update(_read_kinds(case, path, kinds))
            findings += _check_suffix(case, path)
        except (ValueError, OSError) as error:
            findings.append(_unreadable(error, case, path))
    reference = _common_grid(volumes)
    for kind in list(volumes):
        try:
            refuse_other_grid(volumes[kind], reference, case_id=case.id)
        except ValueError as error:
            findings.append(
                as_finding(error, kind="grid", case=case.id, where=where_of(case, kind))
            )
            del volumes[kind]
    return volumes, findings


def where_of(case: Case, kind: str) -> str:
    """Name the file of a modality or of the mask, whether it exists or not."""
    path = case.labels_path if kind == "seg" else case.paths.get(kind)
    if path is None:
        return file_of(case.id, kind, _layout_of(case)).name
    return f"{Path(path).name} ({kind})" if kind in case.channels else Path(path).name


def _layout_of(case: Case) -> Layout:
    """Guess by what the case's other files are called, for the name of one that is missing."""
    names = [Path(path).name for path in (*case.paths.values(), case.labels_path) if path]
    if any(name.endswith(".mha") for name in names):
        return "vsd"
    is_2023 = any(f"-{tail}.nii" in name for name in names for tail in ("t2f", "t1n", "t1c", "t2w"))
    return "brats2023" if is_2023 else "brats2017"


def _files_of(case: Case) -> dict[Path, list[str]]:
    """List what each file of a case holds: one modality, the mask, or all of a 4D file."""
    files: dict[Path, list[str]] = {}
    for kind, path in (*case.paths.items(), ("seg", case.labels_path)):
        if path is not None:
            files.setdefault(Path(path), []).append(kind)
    return files


def _read_kinds(case: Case, path: Path, kinds: list[str]) -> dict[str, Volume]:
    if kinds[0] not in case.channels:
        return {kinds[0]: read_volume(path, case_id=case.id)}
    channels = read_channels(path, case_id=case.id)
    wanted = max(case.channels.values()) + 1
    if len(channels) < wanted:
        msg = (
            f"{path.name} of case {case.id} must have {wanted} channels; got {len(channels)}. "
            "Look at its dataset.json."
        )
        raise ValueError(msg)
    return {kind: channels[case.channels[kind]] for kind in kinds}


def _problem(case: Case, about: str, kind: str, what: str, mend: str) -> Finding:
    where = where_of(case, kind)
    return Finding(case=case.id, kind=about, what=what, where=where, mend=mend, severity="problem")


def _unreadable(error: Exception, case: Case, path: Path) -> Finding:
    about = "missing" if isinstance(error, FileNotFoundError) else "damaged"
    if isinstance(error, PermissionError):
        error = PermissionError(f"must be readable; got {error.strerror}. Allow reading it.")
    return as_finding(error, kind=about, case=case.id, where=path.name)


def _check_suffix(case: Case, path: Path) -> Iterator[Finding]:
    if path.suffix.lower() == ".mha":
        return
    with path.open("rb") as file:
        is_gzip = file.read(2) == _GZIP
    named_gz = path.name.lower().endswith(".gz")
    if is_gzip == named_gz:
        return
    yield Finding(
        case=case.id,
        kind="suffix",
        what=f"named {path.suffix} but {'is' if is_gzip else 'not'} compressed with gzip",
        where=path.name,
        mend=f"Call it {path.stem if is_gzip < named_gz else path.name + '.gz'}: it is read "
        "here, but other programs go by the name.",
        severity="note",
    )


def _common_grid(volumes: dict[str, Volume]) -> Volume | None:
    """Return a file on the grid that most share, so that the odd one out is the one named."""
    grids = {
        kind: (volume.data.shape, tuple(np.round(volume.affine, 1).ravel().tolist()))
        for kind, volume in volumes.items()
    }
    if not grids:
        return None
    common = Counter(grids.values()).most_common(1)[0][0]
    return next(volumes[kind] for kind, grid in grids.items() if grid == common)


def _background_of(data: NDArray[np.generic]) -> np.generic:
    """Return the stored value that most corners of the grid hold."""
    corners = data[:: data.shape[0] - 1 or 1, :: data.shape[1] - 1 or 1, :: data.shape[2] - 1 or 1]
    values, counts = np.unique(corners, return_counts=True)
    return values[counts.argmax()]


def _labels_of(seg: Volume, case: Case) -> NDArray[np.uint8]:
    """Map the mask in the order it has in memory, which spares a copy, and view it in RAS+."""
    order = np.argsort(np.abs(seg.data.strides))[::-1]
    rows = seg.data.transpose(order)
    forward = tuple(slice(None, None, -1 if step < 0 else 1) for step in rows.strides)
    rows = replace(seg, data=rows[forward])
    labels = to_internal(rows, schema=case.schema, case_id=case.id)
    return labels[forward].transpose(np.argsort(order))


def _union(masks: list[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    if not masks:
        return np.zeros((0, 0, 0), bool)
    union = masks[0].copy(order="K")
    for mask in masks[1:]:
        union |= mask
    return union


def _box_around(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    order = np.argsort(np.abs(mask.strides))[::-1]  # slowest axis first: two passes over memory
    rows = mask.transpose(order)
    plane = rows.any(axis=0)
    profiles = (rows.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))
    box = [slice(0, 0)] * 3
    for axis, profile in zip(order, profiles, strict=True):
        where = np.flatnonzero(profile)
        if where.size:
            box[axis] = slice(int(where[0]), int(where[-1]) + 1)
    return tuple(box)


def _cut(
    volume: Volume,
    shown: NDArray[np.bool_],
    background: np.generic,
    box: tuple[slice, slice, slice],
    where: str,
) -> Modality:
    values, shown = volume.data[box].copy(order="K"), shown[box].copy(order="K")
    return Modality(
        where=where,
        values=values,
        shown=shown,
        inside=values.ravel(order="K")[shown.ravel(order="K")],
        slope=volume.slope,
        inter=volume.inter,
        empty=background,
        n_voxels=volume.data.size,
    )
