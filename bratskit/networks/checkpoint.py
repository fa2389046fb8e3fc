"""Keep a trained network in one file that says what it expects; nothing else opens it."""

import hashlib
import io
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from bratskit.networks.zoo import network_of
from bratskit.preprocess.budget import refuse_full_disk
from bratskit.runtime import made_by, write_atomically
from bratskit.settings import TARGET_NAMES, GeometrySettings, Recipe, Targets

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "bratskit-checkpoint"
VERSION = 1
PARTS = {"version": int, "recipe": dict, "card": dict, "state_dict": dict}
NAMED = ("modalities", "targets")  # what every card says

# What `torch.load` has raised on files with bytes changed at random.
UNREADABLE = (
    RuntimeError,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
)

Card: TypeAlias = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network as it came out of its file.

    Attributes:
        network: The network with its weights, in evaluation mode, on the CPU.
        recipe: Every setting it was trained with.
        card: What it was trained on and what it answers: `modalities` and `targets` in channel
            order, `made_by`, and what the trainer added (`trained_on` case ids, `metric`).
        training: What a training run needs to go on, or None.
        path: The file.
        checksum: SHA-256 of the file, which tells one model from another.
    """

    network: nn.Module = field(repr=False)
    recipe: Recipe
    card: Card = field(repr=False)
    training: dict[str, object] | None = field(repr=False)
    path: Path
    checksum: str


def save_checkpoint(
    path: Path | str,
    *,
    network: nn.Module,
    recipe: Recipe,
    card: Mapping[str, object],
    training: Mapping[str, object] | None = None,
    half: bool = False,
) -> Path:
    """Write a network and everything needed to use it, whole or not at all.

    Args:
        path: File to write; a kill or a pulled plug at any moment leaves the old one or the new.
        network: Built by `network_of` or `build_network` from `recipe`; may be compiled.
        recipe: Settings of the run.
        card: Facts for the user: `trained_on`, `metric` and so on. `modalities`, `targets` and
            `made_by` are filled in where they are missing.
        training: Optimiser, scheduler, scaler and generator states; tensors and plain values only,
            because the file is always read with `weights_only=True`.
        half: Store the kernels as float16: half the size, for a network that is only used. Norm
            statistics stay float32, since a variance may exceed 65,504.

    Returns:
        The path.

    Raises:
        FullDiskError: The disk does not hold it; the file that was there still is.
        TypeError: `card` or `training` holds something that could not be read back.
        ValueError: `card["modalities"]` is in another order than `recipe.modalities`, or
            `card["targets"]` are not those of the recipe.
    """
    path = Path(path)
    stamp = {
        "modalities": list(recipe.modalities),
        "targets": list(recipe.target_names),
        "made_by": made_by(),
    }
    content = {
        "format": FORMAT,
        "version": VERSION,
        "recipe": recipe.to_dict(),
        "card": stamp | dict(card),
        "state_dict": _weights(network, half=half),
        "training": None if training is None else dict(training),
    }
    _refuse_other_order(tuple(content["card"]["modalities"]), recipe.modalities, where="card")
    _refuse_other_targets(content["card"]["targets"], recipe.target_names, where="card")
    _refuse_unreadable(content["card"], where="card")
    _refuse_unreadable(content["training"], where="training")
    # in memory first: torch's own writer says of a full disk only that it failed
    file = io.BytesIO()
    torch.save(content, file)
    data = file.getbuffer()
    try:
        write_atomically(path, lambda temporary: temporary.write_bytes(data), durable=True)
    except OSError as error:
        refuse_full_disk(error, path.parent, len(data), what=path.name)
        raise
    return path


def load_checkpoint(
    path: Path | str,
    *,
    expect_modalities: Sequence[str] | None = None,
    expect_targets: Targets | None = None,
    expect_geometry: GeometrySettings | None = None,
) -> Checkpoint:
    """Read a network back, running no code that the file might contain.

    Args:
        path: File that `save_checkpoint` wrote.
        expect_modalities: Channel order the caller is about to feed; None takes the checkpoint's.
        expect_targets: What the caller takes the answer for; None takes the checkpoint's.
        expect_geometry: By which the caller's cases were prepared; None takes the checkpoint's.

    Returns:
        The network in evaluation mode on the CPU, float32, with its recipe and card.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is cut off, is no bratskit checkpoint, is of a newer format, or its
            channels stand in another order than the caller's, or it answers other targets than
            its recipe or the caller says, or it learned on another grid than the caller's.
    """
    path = Path(path)
    if not path.is_file():
        last = path.with_name("last.pt")  # best.pt is written by the first validation
        cure = (
            f"Until it is there take {last}." if last.is_file() else "Train one with `make demo`."
        )
        msg = f"checkpoint must be an existing file; got {path}. {cure}"
        raise FileNotFoundError(msg)
    data = path.read_bytes()
    content = _read(data, path)
    recipe = Recipe.from_dict(content["recipe"])
    card = content["card"]
    _refuse_other_order(tuple(card["modalities"]), recipe.modalities, where=str(path))
    _refuse_other_targets(card["targets"], recipe.target_names, where=str(path))
    if expect_modalities is not None:
        _refuse_other_order(recipe.modalities, tuple(expect_modalities), where=str(path))
    if expect_targets is not None:
        _refuse_other_targets(card["targets"], TARGET_NAMES[expect_targets], where=str(path))
    if expect_geometry is not None:
        _refuse_other_geometry(recipe.geometry, expect_geometry, where=str(path))
    network = network_of(recipe)
    _fill(network, content["state_dict"], path)
    return Checkpoint(
        network=network.eval(),
        recipe=recipe,
        card=card,
        training=content.get("training"),
        path=path,
        checksum=hashlib.sha256(data).hexdigest(),
    )


def _weights(network: nn.Module, *, half: bool) -> dict[str, Tensor]:
    """Copy the weights to the CPU, dense and without the prefix that `torch.compile` adds."""
    original = getattr(network, "_orig_mod", network)
    weights, known = {}, {}
    for name, value in original.state_dict().items():
        place = (value.data_ptr(), value.shape)
        if place not in known or not value.numel():  # MONAI's DynUNet has two names for each
            kept = value.detach().cpu().contiguous()
            is_kernel = kept.is_floating_point() and kept.ndim > 1
            known[place] = kept.half() if half and is_kernel else kept
        weights[name] = known[place]
    return weights


def _fill(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2]
        msg = (
            f"weights of {path} must fit the network its recipe names; got "
            f"{' '.join(first).strip()} Was `recipe.network` changed after training?"
        )
        raise ValueError(msg) from error


def _read(data: bytes, path: Path) -> dict[str, object]:
    """Decode the file's bytes, or say in one line why it cannot be done."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        is_cut = not data or data.startswith(b"PK")
        what = "a file that was cut off; copy it again" if is_cut else "another kind of file"
        msg = f"{path} must be a bratskit checkpoint; got {what}."
        raise ValueError(msg)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        msg = (
            f"{path} must be a bratskit checkpoint; got a damaged file, or one that would run "
            "code when opened. Copy it again, or save it with bratskit.networks.save_checkpoint."
        )
        raise ValueError(msg) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        msg = (
            f"{path} must be a bratskit checkpoint; got a torch file of another program. "
            "Save it with bratskit.networks.save_checkpoint."
        )
        raise ValueError(msg)
    _refuse_incomplete(content, path)
    if content["version"] > VERSION:
        msg = (
            f"format of {path} must be at most {VERSION}; got {content['version']}. "
            "Update bratskit: this file was written by a newer one."
        )
        raise ValueError(msg)
    return content


def _refuse_incomplete(content: Mapping[str, object], path: Path) -> None:
    """Refuse a file that says it is a checkpoint and lacks what every one has."""
    wrong = [name for name, kind in PARTS.items() if not isinstance(content.get(name), kind)]
    if "card" not in wrong:
        wrong += [
            f"card.{name}" for name in NAMED if not isinstance(content["card"].get(name), list)
        ]
    if wrong:
        msg = (
            f"{path} must be a bratskit checkpoint; got one without {', '.join(wrong)}, which no "
            "version of bratskit has written. Take another copy."
        )
        raise ValueError(msg)


def _refuse_other_geometry(
    found: GeometrySettings, wanted: GeometrySettings, *, where: str
) -> None:
    """Name the settings of the grid that differ; a network sees sizes in voxels, never in mm."""
    pairs = {name: (value, getattr(wanted, name)) for name, value in vars(found).items()}
    other = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if other:
        told = "; ".join(f"{name} {mine} and not {asked}" for name, (mine, asked) in other.items())
        msg = (
            f"geometry of {where} must be that of the cases; got {told}. "
            "Prepare the cases by the recipe of the network, or take another checkpoint."
        )
        raise ValueError(msg)


def _refuse_other_order(found: tuple[str, ...], wanted: tuple[str, ...], *, where: str) -> None:
    if tuple(found) != tuple(wanted):
        msg = (
            f"modalities of {where} must be in the order {list(wanted)}; got {list(found)}. "
            "Feed the channels in the order the network was trained with."
        )
        raise ValueError(msg)


def _refuse_other_targets(found: Sequence[str], wanted: Sequence[str], *, where: str) -> None:
    if list(found) != list(wanted):
        msg = (
            f"targets of {where} must be {list(wanted)}, as the recipe says; got {list(found)}. "
            "Take another checkpoint, or a recipe with its targets: neither turns into the other."
        )
        raise ValueError(msg)


def _refuse_unreadable(value: object, *, where: str) -> None:
    """Refuse what `torch.load(weights_only=True)` would not read back, naming its place."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            _refuse_unreadable(item, where=f"{where}[{json.dumps(name, default=str)}]")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _refuse_unreadable(item, where=f"{where}[{number}]")
    elif type(value) not in (str, int, float, bool, type(None), Tensor):
        msg = (
            f"{where} must be a tensor or a plain value; got {type(value).__name__}. "
            "Convert it first, for example with float() or torch.as_tensor()."
        )
        raise TypeError(msg)
