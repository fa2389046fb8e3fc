"""Read and write the `dataset.json` of Medical Segmentation Decathlon Task01, believing no order.

Its images are 4D; which channel is which modality, and which integer is which tissue, stands in
that file alone. (MONAI's own notebook takes label 2 for the enhancing tumour: tutorials#1355.)
"""

import json
from collections.abc import Mapping
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
    "t1c": "t1ce",
}
_TISSUES = ("background", "non-enhancing tumor", "edema", "enhancing tumour")  # by internal label


@dataclass(frozen=True)
class Listing:
    """What a `dataset.json` says.

    Attributes:
        path: The file.
        channels: Place of each modality along the fourth axis.
        tissues: Name of the tissue behind each integer of the masks.
    """

    path: Path
    channels: Mapping[str, int]
    tissues: Mapping[int, str]


def read_listing(root: Path) -> Listing:
    """Read `dataset.json` of a task folder.

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
        channels = {int(at): str(name) for at, name in content["modality"].items()}
        tissues = {int(value): str(name) for value, name in content.get("labels", {}).items()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        msg = (
            f'{path} must be JSON with "modality": {{"0": "FLAIR", ...}} and "labels", as MSD '
            f"Task01 has it; got {type(error).__name__}: {error}. Copy it from the archive again."
        )
        raise ValueError(msg) from error
    named = {_MODALITIES.get(name.lower(), name): at for at, name in channels.items()}
    if set(named) != set(MODALITIES) or len(channels) != len(MODALITIES):
        msg = (
            f"modality of {path} must name {', '.join(_NAMES.values())}, once each; got "
            f"{', '.join(channels.values()) or 'nothing'}. Only Task01_BrainTumour is read here."
        )
        raise ValueError(msg)
    return Listing(path, {name: named[name] for name in MODALITIES}, tissues)


def refuse_other_tissues(listing: Listing, schema: LabelSchema) -> None:
    """Refuse a declared schema that a `dataset.json` contradicts.

    Raises:
        ValueError: A tissue has another integer there, or is none we know; names the schemas
            that fit.
    """
    meant = {value: _internal(name) for value, name in listing.tissues.items()}
    if meant and all(schema.to_internal.get(value) == label for value, label in meant.items()):
        return
    said = ", ".join(f"{value} {name}" for value, name in sorted(listing.tissues.items()))
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


def _internal(tissue: str) -> int | None:
    """Say which internal label a tissue's name means; None for one that is not known."""
    name = tissue.lower().replace("-", "").replace(" ", "")
    for label, words in ((0, ("background",)), (2, ("edema", "oedema"))):
        if any(word in name for word in words):
            return label
    if "nonenhancing" in name or "necro" in name:
        return 1
    return 3 if "enhancing" in name else None
