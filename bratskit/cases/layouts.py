"""Know what each edition calls its files and folders, for finding cases and for writing them."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from bratskit.cases.decathlon import (
    IMAGE_FOLDERS,
    LABEL_FOLDER,
    Listing,
    read_listing,
    refuse_channel_files,
)
from bratskit.labels import MODALITIES, LabelSchema

__all__ = [
    "EXPECTED",
    "CaseFiles",
    "Layout",
    "add_brats",
    "add_decathlon",
    "add_vsd",
    "file_of",
    "is_volume",
    "layout_of",
    "own_folders",
    "pass_by_masks",
]

Layout = Literal["vsd", "brats2017", "brats2023", "decathlon"]

_TAILS: dict[Layout, dict[str, str]] = {
    "brats2017": {**{name: f"_{name}" for name in MODALITIES}, "seg": "_seg"},
    "brats2023": {"flair": "-t2f", "t1": "-t1n", "t1ce": "-t1c", "t2": "-t2w", "seg": "-seg"},
}
_KINDS = {tail[1:]: kind for tails in _TAILS.values() for kind, tail in tails.items()}
_BRATS = re.compile(rf"(?P<id>.+)[_-](?P<kind>{'|'.join(_KINDS)})\.nii(\.gz)?", re.IGNORECASE)

_STRANGE_MASK = re.compile(r"(.*[\W_])?segm\.nii(\.gz)?", re.IGNORECASE)
_MASK_FOLDERS = re.compile(r"(expert|manual)?(seg|mask|label|truth|groundtruth|gt)s?(tr)?")

# BraTS 2013: VSD.Brain.XX.O.MR_Flair.684.mha, VSD.Brain_2more.XX.XX.OT.6560.mha; 2015: ...3more...
# The names of 2012 itself (BRATS_HG0001_truth.mha) are not known on purpose: their masks have two
# classes, 1 edema and 2 tumour; in 2013 those patients came again with the four classes we declare.
_VSD = re.compile(r"VSD\.Brain.*?\.(MR_(?P<modality>Flair|T1c|T1|T2)|OT)(\.\d+)?\.mha", re.I)
_VSD_NAMES = {"flair": "MR_Flair", "t1": "MR_T1", "t1ce": "MR_T1c", "t2": "MR_T2"}
_VSD_KINDS = {name[3:].lower(): kind for kind, name in _VSD_NAMES.items()}

EXPECTED = (
    "<case>_flair.nii.gz, <case>_t1.nii.gz, <case>_t1ce.nii.gz, <case>_t2.nii.gz and, where there "
    "is a mask, <case>_seg.nii.gz (.nii works too), all in one folder or one folder a case; since "
    "2023 <case>-t2f, -t1n, -t1c, -t2w and -seg; until 2015 <case>/VSD.Brain.*.MR_Flair.*.mha and "
    "so on; for MSD Task01 imagesTr, labelsTr and dataset.json"
)


@dataclass
class CaseFiles:
    """Collect the files that carry one case id, complete or not.

    Attributes:
        id: Name of the case.
        files: Paths found for each modality and for "seg".
        layout: Whose names the files carry.
        listing: The `dataset.json` that says what is in the case's 4D file; None elsewhere.
        passed_by: Files named like its mask that lie elsewhere, where predictions do, and are not
            taken.
    """

    id: str
    files: dict[str, list[Path]] = field(default_factory=dict)
    layout: Layout = "brats2017"
    listing: Listing | None = None
    passed_by: list[Path] = field(default_factory=list)

    @property
    def missing(self) -> list[str]:
        """Modalities without a file."""
        return [name for name in MODALITIES if name not in self.files]

    @property
    def repeated(self) -> dict[str, list[Path]]:
        """Kinds of file of which there are several."""
        return {kind: paths for kind, paths in self.files.items() if len(paths) > 1}

    @property
    def borrowed_mask(self) -> Path | None:
        """Mask that is taken although it does not carry the case's name, as Kaggle's of 355."""
        masks = self.files.get("seg", []) if self.layout.startswith("brats") else []
        return next((path for path in masks if not _BRATS.fullmatch(path.name)), None)

    @property
    def channels(self) -> Mapping[str, int]:
        """Place of each modality in the 4D file; empty for one file a modality."""
        return self.listing.channels if self.listing else {}


def layout_of(edition: LabelSchema) -> Layout:
    """Name the layout that an edition came in; an edition of one's own is laid out as 2017-2021."""
    if edition.name == "msd-task01":
        return "decathlon"
    if edition.name == "brats2012-2015":
        return "vsd"
    return "brats2023" if edition.name.startswith(("brats2023", "brats2024")) else "brats2017"


def file_of(case_id: str, kind: str, layout: Layout) -> Path:
    """Name a file of a case, relative to the cohort's folder.

    Args:
        case_id: Name of the case.
        kind: One of `MODALITIES`, or "seg".
        layout: Whose names to use.

    Examples:
        >>> file_of("BraTS-GLI-00005-100", "t1ce", "brats2023").as_posix()
        'BraTS-GLI-00005-100/BraTS-GLI-00005-100-t1c.nii.gz'
        >>> file_of("pat7", "seg", "vsd").as_posix()
        'pat7/VSD.Brain_3more.XX.O.OT.5/VSD.Brain_3more.XX.O.OT.5.mha'
        >>> file_of("BRATS_001", "t2", "decathlon").as_posix()
        'imagesTr/BRATS_001.nii.gz'
    """
    if layout == "decathlon":
        return Path(LABEL_FOLDER if kind == "seg" else IMAGE_FOLDERS[0]) / f"{case_id}.nii.gz"
    if layout == "vsd":  # the last number is of the archive that BraTS was served from
        number = [*MODALITIES, "seg"].index(kind) + 1
        stem = "VSD.Brain_3more.XX.O.OT" if kind == "seg" else f"VSD.Brain.XX.O.{_VSD_NAMES[kind]}"
        return Path(case_id) / f"{stem}.{number}" / f"{stem}.{number}.mha"
    return Path(case_id) / f"{case_id}{_TAILS[layout][kind]}.nii.gz"


def is_volume(name: str) -> bool:
    """Tell whether a file name is one of an image that some layout has."""
    return name.lower().endswith((".nii", ".nii.gz", ".mha")) and not name.startswith(".")


def add_brats(paths: list[Path], found: dict[str, CaseFiles]) -> None:
    """Sort the files of one folder that are named as since 2017 into their cases.

    A case without `_seg` whose own folder holds exactly one other NIfTI, whose name ends in `Segm`,
    takes that one: Kaggle's BraTS20_Training_355 has `W39_1998.09.19_Segm.nii`. No other name is
    believed: what a network wrote is called a segmentation too.
    """
    here: dict[str, CaseFiles] = {}
    strangers = []
    for path in paths:
        match = _BRATS.fullmatch(path.name)
        if match is None:
            strangers.append(path)
            continue
        kind = match["kind"].lower()
        files = found.setdefault(match["id"], CaseFiles(match["id"]))
        files.files.setdefault(_KINDS[kind], []).append(path)
        if kind in ("t2f", "t1n", "t1c", "t2w"):
            files.layout = "brats2023"
        here[files.id] = files
    masks = [path for path in strangers if _STRANGE_MASK.fullmatch(path.name)]
    if len(here) == 1 and len(masks) == len(strangers) == 1:
        (files,) = here.values()
        files.files.setdefault("seg", masks)


def pass_by_masks(files: CaseFiles) -> None:
    """Leave out masks that lie apart from the images of their case, where predictions would.

    A mask is taken from a folder that holds an image of the case, from one of its own name (on
    Kaggle: `X_seg.nii/X_seg.nii`), and from one called seg, masks, labels, truth or the like.
    """
    masks = files.files.get("seg", [])
    if not files.layout.startswith("brats") or set(files.files) <= {"seg"}:
        return
    homes = {path.parent for name in MODALITIES for path in files.files.get(name, [])}
    near = [path for path in masks if path.parent in homes or _is_mask_folder(path)]
    files.passed_by += [path for path in masks if path not in near]
    if near:
        files.files["seg"] = near
    else:
        files.files.pop("seg", None)


def own_folders(folder: Path, names: Iterable[str]) -> list[Path]:
    """List the volumes that lie in a folder of their own name, as Kaggle unpacks some archives."""
    return [folder / name / name for name in names if is_volume(name)]


def _is_mask_folder(path: Path) -> bool:
    folder = path.parent.name
    if is_volume(folder):
        return _stem(Path(folder)).lower() == _stem(path).lower()
    return bool(_MASK_FOLDERS.fullmatch(re.sub(r"[\W_]", "", folder.lower())))


def add_vsd(paths: list[Path], found: dict[str, CaseFiles]) -> None:
    """Sort the `.mha` files of one folder that are named as until 2015 into their cases.

    The case is the folder above the one named like the volume; a bare number takes the folder
    above it too, because BraTS 2013 has a 0001 in HG and one in LG.
    """
    for path in paths:
        match = _VSD.fullmatch(path.name)
        if match is None:
            continue
        home = path.absolute().parent
        home = home.parent if home.name.upper().startswith("VSD.") else home
        name = f"{home.parent.name}_{home.name}" if home.name.isdigit() else home.name
        files = found.setdefault(name, CaseFiles(name, layout="vsd"))
        kind = _VSD_KINDS[match["modality"].lower()] if match["modality"] else "seg"
        files.files.setdefault(kind, []).append(path)


def add_decathlon(root: Path, folders: list[str], found: dict[str, CaseFiles]) -> None:
    """Add the cases of an MSD task: one 4D file each, its channels named by `dataset.json`.

    Args:
        root: Folder that holds `dataset.json`.
        folders: Which of `IMAGE_FOLDERS` to look into.
        found: Cases by id, added to.

    Raises:
        FileNotFoundError: There are images and no `dataset.json`.
        ValueError: It cannot be read, or names a modality that is none of `MODALITIES`, or the
            images are nnU-Net's, one file a channel.
    """
    images = [path for folder in folders for path in _volumes_in(root / folder)]
    if not images:
        return
    masks = {_stem(path): path for path in _volumes_in(root / LABEL_FOLDER)}
    for folder in folders:
        here = [_stem(path) for path in images if path.parent.name == folder]
        refuse_channel_files(root / folder, here, masks)
    listing = read_listing(root)
    for path in images:
        files = found.setdefault(_stem(path), CaseFiles(_stem(path), layout="decathlon"))
        files.listing = listing
        for name in listing.channels:
            files.files.setdefault(name, []).append(path)
        if files.id in masks and path.parent.name == IMAGE_FOLDERS[0]:
            files.files.setdefault("seg", []).append(masks[files.id])


def _volumes_in(folder: Path) -> list[Path]:
    names = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in names if is_volume(path.name) and not path.name.endswith(".mha")]


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
