"""Read and write the `dataset.json` of Medical Segmentation Decathlon Task01, believing no order.

Its images are 4D; which channel is which modality, and which integer is which tissue, stands in
that file alone. (MONAI's own notebook takes label 2 for the enhancing tumour: tutorials#1355.)
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bratskit.labels import MODALITIES, SCHEMAS, LabelSchema
from bratskit.runtime import write_atomically

__all__ = [
    "IMAGE_FOLDERS",
    "LABEL_FOLDER",
    "LISTING",
    "Listing",
    "read_listing",
    "refuse_channel_files",
    "refuse_other_tissues",
    "write_listing",
]

TEST_FOLDER = "imagesTs"  # whose masks the challenge keeps
IMAGE_FOLDERS = ("imagesTr", TEST_FOLDER)
LABEL_FOLDER = "labelsTr"
LISTING = "dataset.json"

_NAMES = {"flair": "FLAIR", "t1": "T1w", "t1ce": "t1gd", "t2": "T2w"}  # as MSD spells them
_MODALITIES = {
    **{name.lower(): modality for modality, name in _NAMES.items()},
    **{name: name for name in MODALITIES},
    **{"t2f": "flair", "t1n": "t1", "t1c": "t1ce"},  # as BraTS spells them since 2023
}
_CHANNEL_FILE = re.compile(r"(.+)_\d{4}")  # nnU-Net's raw images
_SHORT = {"et": 3, "ed": 2, "snfh": 2, "ncr": 1, "net": 1, "netc": 1, "ncrnet": 1}  # BraTS's own
_ENHANCING = re.compile("(non|not|un)(contrast|gd)?enhancing")
_WORDS = {"background": 0, "edema": 2, "oedema": 2, "dark": 1, "necro": 1, "enhancing": 3}
_TISSUES = ("background", "non-enhancing tumor", "edema", "enhancing tumour")  # by internal label


@dataclass(frozen=True)
class Listing:
    """What a `dataset.json` says.

    Attributes:
        path: The file.
        channels: Place of each modality along the fourth axis.
        labels: What it says of the integers of the masks, as it stands there: read by
            `refuse_other_tissues`, because nobody who reads no mask has to care.
    """

    path: Path
    channels: Mapping[str, int]
    labels: object


def read_listing(root: Path) -> Listing:
    """Read `dataset.json` of a task folder, in the form of MSD or of nnU-Net v2.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It cannot be read, or its channels are not the four modalities.
    """
    path = root / LISTING
    if not path.is_file():
        msg = (
            f"{root} must hold {LISTING} beside its 4D images; got none. It says which channel is "
            "which modality: copy it from the archive, Task01_BrainTumour.tar."
        )
        raise FileNotFoundError(msg)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        said = content.get("channel_names") or content["modality"]
        channels = {int(at): str(name) for at, name in said.items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        msg = (
            f'{path} must be JSON with "modality": {{"0": "FLAIR", ...}} and "labels", as MSD '
            f"Task01 has it; got {type(error).__name__}: {error}. Copy it from the archive again."
        )
        raise ValueError(msg) from error
    named = {_MODALITIES.get(_bare(name), name): at for at, name in channels.items()}
    if set(named) != set(MODALITIES) or len(channels) != len(MODALITIES):
        msg = (
            f"modality of {path} must name {', '.join(_NAMES.values())}, once each; got "
            f"{', '.join(channels.values()) or 'nothing'}. Only Task01_BrainTumour is read here."
        )
        raise ValueError(msg)
    channels = {name: named[name] for name in MODALITIES}
    return Listing(path, channels, content.get("labels"))


def refuse_channel_files(folder: Path, stems: Iterable[str], masks: Iterable[str]) -> None:
    """Refuse nnU-Net's raw form, which has a 3D file for each channel, `<case>_0000` and so on.

    Args:
        folder: Folder of the images.
        stems: Their names without suffix.
        masks: Names of the masks without suffix.

    Raises:
        ValueError: They are of that form; says what would be read.
    """
    stems, masks = set(stems), set(masks)
    matches = [match for stem in stems - masks if (match := _CHANNEL_FILE.fullmatch(stem))]
    heads = {match[1] for match in matches}
    whole = {head for head in heads if {f"{head}_{at:04d}" for at in range(4)} <= stems}
    if heads & masks or (whole and whole == heads):
        msg = (
            f"{folder} must hold one 4D file a case, as MSD has it; got nnU-Net's raw files, one a "
            f"channel ({min(heads)}_0000 and so on). Rename those to <case>_flair.nii.gz, _t1, "
            "_t1ce, _t2 and the mask to _seg, or give the folder that nnU-Net's was made from."
        )
        raise ValueError(msg)


def refuse_other_tissues(listing: Listing, schema: LabelSchema) -> None:
    """Refuse a declared schema that a `dataset.json` contradicts.

    Raises:
        ValueError: A tissue has another integer there, or is none we know; names the schemas
            that fit.
    """
    tissues = _tissues(listing)
    meant = {value: _internal(name) for value, name in tissues.items()}
    if meant and all(schema.to_internal.get(value) == label for value, label in meant.items()):
        return
    said = ", ".join(f"{value} {name}" for value, name in sorted(tissues.items()))
    fitting = [
        name
        for name, other in SCHEMAS.items()
        if meant and dict(other.to_internal) == meant and not other.outside
    ]
    todo = (
        f"Declare it: schema={fitting[0]!r}, or --edition {fitting[0]}."
        if fitting
        else "No schema known here fits it."
    )
    declared = ", ".join(f"{value} {name}" for value, name in sorted(schema.tissue.items()))
    msg = (
        f"labels of {listing.path} must agree with schema {schema.name!r} ({declared}); got "
        f"{said or 'no labels at all'}. {todo}"
    )
    raise ValueError(msg)


def write_listing(root: Path, *, description: str) -> Path:
    """Write `dataset.json` over the cases that stand in a task folder at this moment.

    Only whole cases are listed; written again after each, it never names a file that is not there.
    """
    images = [_names_in(root / folder) for folder in IMAGE_FOLDERS]
    masks = set(_names_in(root / LABEL_FOLDER))
    training = [name for name in images[0] if name in masks]
    content = {
        "name": "BRATS",
        "description": description,
        "tensorImageSize": "4D",
        "modality": {str(at): _NAMES[name] for at, name in enumerate(MODALITIES)},
        "labels": {
            str(value): _TISSUES[label]
            for value, label in SCHEMAS["msd-task01"].to_internal.items()
        },
        "numTraining": len(training),
        "numTest": len(images[1]),
        "training": [
            {"image": f"./{IMAGE_FOLDERS[0]}/{name}", "label": f"./{LABEL_FOLDER}/{name}"}
            for name in training
        ],
        "test": [f"./{IMAGE_FOLDERS[1]}/{name}" for name in images[1]],
    }
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(root / LISTING, lambda path: path.write_text(text, encoding="utf-8"))
    return root / LISTING


def _names_in(folder: Path) -> list[str]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path.name for path in paths if path.name.endswith(".nii.gz") and path.name[0] != "."]


def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _tissues(listing: Listing) -> dict[int, str]:
    """Name the tissue behind each integer, said as MSD does ("1": "edema") or as nnU-Net v2.

    Raises:
        ValueError: An integer has two names, or a name has several integers (nnU-Net's regions).
    """
    labels = listing.labels if isinstance(listing.labels, Mapping) else {}
    try:
        if labels and not any(str(key).strip().isdigit() for key in labels):
            labels = _turned(labels)
        return {int(value): str(name) for value, name in labels.items()}
    except (TypeError, ValueError) as error:
        msg = (
            f'labels of {listing.path} must name one tissue an integer, as {{"1": "edema"}} or '
            f'{{"edema": 1}}; got {json.dumps(labels)}. Regions of several integers do not say '
            "which is which: name the tissues, or leave the masks out."
        )
        raise ValueError(msg) from error


def _turned(labels: Mapping[str, int]) -> dict[int, str]:
    turned = {int(value): name for name, value in labels.items()}
    if len(turned) < len(labels):
        msg = "an integer has two names"
        raise ValueError(msg)
    return turned


def _internal(tissue: str) -> int | None:
    """Say which internal label a tissue's name means; None for one that is not known.

    Examples:
        >>> [_internal(name) for name in ("non_enhancing_tumor", "GD-enhancing", "NETC", "kidney")]
        [1, 3, 1, None]
    """
    name = _bare(tissue)
    if name in _SHORT:
        return _SHORT[name]
    meant = {label for word, label in _WORDS.items() if word in _ENHANCING.sub("dark", name)}
    return meant.pop() if len(meant) == 1 else None
