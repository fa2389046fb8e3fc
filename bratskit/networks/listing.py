"""List the networks below a folder with what each was trained on; what is none is said, not run."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bratskit.networks.checkpoint import Checkpoint, load_checkpoint
from bratskit.settings import GeometrySettings

__all__ = ["Listed", "list_models", "models_table"]

COLUMNS = ("file", "network", "channels", "grid", "answers", "learned from", "chosen on", "by",
           "clean-up", "made by")  # fmt: skip
PHANTOM = "Phantom_"


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One file that is, or looks like, a network.

    Attributes:
        path: The file.
        facts: What its recipe and card say, by the names of `COLUMNS`; empty where it is no
            network that can be loaded.
        problem: Why it cannot, in one line; empty where it can.
    """

    path: Path
    facts: dict[str, str] = field(default_factory=dict)
    problem: str = ""


def list_models(folder: Path | str) -> list[Listed]:
    """Read every `*.pt` below a folder as `load_checkpoint` does, which runs no code from it.

    Args:
        folder: A run folder, a folder of them, or one file.

    Returns:
        One entry a file, sorted by path; damaged, foreign and newer ones carry a `problem`.

    Raises:
        FileNotFoundError: There is no such folder, or no `*.pt` in it.
    """
    folder = Path(folder)
    paths = [folder] if folder.is_file() else sorted(folder.rglob("*.pt"))
    if not paths:
        what = "no *.pt file" if folder.is_dir() else "no such folder"
        msg = f"DIR must hold networks; got {what}: {folder}. Train one with `make demo`."
        raise FileNotFoundError(msg)
    return [_listed(path) for path in paths]


def models_table(listed: Sequence[Listed]) -> str:
    """Lay networks out as a table, and say below it which files are none.

    Args:
        listed: From `list_models`.
    """
    rows = [[item.facts[name] for name in COLUMNS] for item in listed if item.facts]
    lines = []
    if rows:
        table = [list(COLUMNS), *rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
    return "\n".join([*lines, *(item.problem for item in listed if item.problem)])


def _listed(path: Path) -> Listed:
    try:
        model = load_checkpoint(path)
    except (ValueError, TypeError, OSError) as error:
        return Listed(path=path, problem=" ".join(str(error).split()))
    return Listed(path=path, facts=_facts(model))


def _facts(model: Checkpoint) -> dict[str, str]:
    card, recipe = model.card, model.recipe
    n_weights = sum(weight.numel() for weight in model.network.parameters())
    stamp = card["made_by"] if isinstance(card.get("made_by"), dict) else {}
    score = card.get("dice_mean")
    epoch = f", epoch {card['epoch']}" if "epoch" in card else ""
    return {
        "file": str(model.path),
        "network": f"{recipe.network.name} {n_weights / 1e6:.2f} M ({recipe.name})",
        "channels": " ".join(recipe.modalities),
        "grid": _grid(recipe.geometry),
        "answers": recipe.targets,
        "learned from": _who(card.get("trained_on")),
        "chosen on": _who(card.get("selected_on")),
        "by": f"Dice {score:.3f}{epoch}" if isinstance(score, float) else "–",
        "clean-up": "tuned" if "tuned" in card else "as in the recipe",
        "made by": f"{stamp.get('commit', '–')}, {str(stamp.get('time', '–'))[:10]}",
    }


def _who(ids: object) -> str:
    """Count patients and phantoms.

    Examples:
        >>> _who(["Phantom_00001", "BraTS2021_00000", "BraTS2021_00002"])
        '2 patients, 1 phantoms'
    """
    ids = [str(one) for one in ids] if isinstance(ids, list) else []
    n_phantoms = sum(PHANTOM in one for one in ids)
    counts = {"patients": len(ids) - n_phantoms, "phantoms": n_phantoms}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "–"


def _grid(geometry: GeometrySettings) -> str:
    """Say which grid a network works on.

    Examples:
        >>> _grid(GeometrySettings(spacing_mm=(2.0, 2.0, 2.0)))
        'brain, 2 x 2 x 2 mm'
    """
    if geometry.size_vox:
        sides = f"{_times(geometry.size_vox)} voxels"
    elif geometry.spacing_mm:
        sides = f"{_times(geometry.spacing_mm)} mm"
    else:
        sides = "the scanner's voxels"
    cut = f", middle {_times(geometry.crop_vox)}" if geometry.crop_vox else ""
    return f"{geometry.region}, {sides}{cut}"


def _times(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:g}" for side in sides)
