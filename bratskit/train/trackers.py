"""Show a run while it learns: in its folder always, in W&B or TensorBoard where asked for.

No tracker ever stops a training: one that fails says so in one line and is left out from then on.
"""

import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bratskit.preprocess import Prepared
from bratskit.runtime import RunFolder, write_atomically
from bratskit.settings import Recipe
from bratskit.train.pictures import draw_curves, draw_overlay
from bratskit.train.track import History

__all__ = [
    "TRACKERS",
    "FolderTracker",
    "TensorBoardTracker",
    "Tracker",
    "TrackerGroup",
    "WandbTracker",
    "make_trackers",
]

Row = Mapping[str, object]


class Tracker(Protocol):
    """What the training loop tells; each call but `begin` comes after one `begin`."""

    def begin(self, run: RunFolder, recipe: Recipe, card: Mapping[str, object]) -> None:
        """Open, or go on with, the record of a run."""

    def log(self, row: Row) -> None:
        """Take one row of the history, when its epoch is done and saved."""

    def picture(self, name: str, path: Path, step: int) -> None:
        """Take a PNG or GIF that was drawn after an epoch."""

    def checkpoint(self, path: Path) -> None:
        """Take a checkpoint that was just written; it may be written over later."""

    def end(self) -> None:
        """Close the record; the run may be gone on with later."""


class FolderTracker:
    """Keep `figures/training/curves.png`; `history.jsonl` is kept by the loop itself."""

    def begin(self, run: RunFolder, recipe: Recipe, card: Mapping[str, object]) -> None:
        """Read the rows of an earlier session."""
        self._history, self._run = History.load(run.history), run

    def log(self, row: Row) -> None:
        """Draw the curves anew."""
        self._history.append(dict(row))
        draw_curves(self._history, self._run.figures / "training" / "curves.png")

    def picture(self, name: str, path: Path, step: int) -> None:
        """Do nothing: pictures are drawn into the run folder."""

    def checkpoint(self, path: Path) -> None:
        """Do nothing: checkpoints are written into the run folder."""

    def end(self) -> None:
        """Do nothing: every file is whole."""


class WandbTracker:
    """Send metrics, pictures and checkpoints to Weights & Biases.

    A run that goes on in the same folder goes on under the same id, which stands in
    `trackers.json`. `WANDB_MODE=offline` keeps everything in the run folder; `wandb sync` sends it
    later.

    Args:
        project: Name of the project there.
    """

    def __init__(self, *, project: str = "bratskit") -> None:
        self.project = project

    def begin(self, run: RunFolder, recipe: Recipe, card: Mapping[str, object]) -> None:
        """Open the run under its id.

        Raises:
            ImportError: The library is not installed.
        """
        wandb = self._wandb = _import("wandb")
        self._run = wandb.init(
            project=self.project,
            name=run.path.absolute().name,
            id=_id_of(run),
            resume="allow",
            dir=str(run.path),
            config={**recipe.to_dict(), "card": dict(card)},
            settings=wandb.Settings(silent=True, console="off", init_timeout=30),
        )

    def log(self, row: Row) -> None:
        """Send the numbers of an epoch."""
        self._run.log(_numbers(row), step=int(row["epoch"]))

    def picture(self, name: str, path: Path, step: int) -> None:
        """Send a picture, an animated one as a video."""
        is_moving = path.suffix == ".gif"
        media = (
            self._wandb.Video(str(path), format="gif")
            if is_moving
            else self._wandb.Image(str(path))
        )
        self._run.log({f"{name}_slices" if is_moving else name: media}, step=step)

    def checkpoint(self, path: Path) -> None:
        """Send a checkpoint as an artefact of type "model", named after run and file."""
        artefact = self._wandb.Artifact(f"{self._run.id}-{path.stem}", type="model")
        artefact.add_file(str(path))
        self._run.log_artifact(artefact, aliases=[path.stem])

    def end(self) -> None:
        """Wait until all is sent, or written where offline."""
        self._run.finish()


class TensorBoardTracker:
    """Write metrics and pictures for TensorBoard: `tensorboard --logdir RUN/tensorboard`."""

    def begin(self, run: RunFolder, recipe: Recipe, card: Mapping[str, object]) -> None:
        """Open the log, forgetting rows of epochs that are trained again.

        Raises:
            ImportError: The library is not installed.
        """
        _import("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        step = len(History.load(run.history)) + 1
        folder = str(run.path / "tensorboard")
        self._writer = SummaryWriter(folder, purge_step=step)
        self._writer.add_text("recipe", f"```\n{json.dumps(recipe.to_dict(), indent=1)}\n```", 0)

    def log(self, row: Row) -> None:
        """Write the numbers of an epoch."""
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, int(row["epoch"]))
        self._writer.flush()

    def picture(self, name: str, path: Path, step: int) -> None:
        """Write a still picture; TensorBoard shows no animation without moviepy."""
        if path.suffix != ".gif":
            from PIL import Image

            with Image.open(path) as page:
                pixels = np.asarray(page.convert("RGB"))
            self._writer.add_image(name, pixels, step, dataformats="HWC")

    def checkpoint(self, path: Path) -> None:
        """Write where the checkpoint lies."""
        self._writer.add_text("checkpoint", str(path))

    def end(self) -> None:
        """Close the log."""
        self._writer.close()


TRACKERS: dict[str, Callable[[], Tracker]] = {
    "wandb": WandbTracker,
    "tensorboard": TensorBoardTracker,
}


def make_trackers(names: Sequence[str]) -> list[Tracker]:
    """Make optional trackers by name, each once.

    Raises:
        ValueError: No tracker has this name.
    """
    for name in names:
        if name not in TRACKERS:
            msg = f"tracker must be one of {sorted(TRACKERS)}; got {name!r}. Try wandb."
            raise ValueError(msg)
    return [TRACKERS[name]() for name in dict.fromkeys(names)]


class TrackerGroup:
    """Tell several trackers, and go on without one that fails.

    Args:
        trackers: Told in this order.

    Attributes:
        names: Those that the shell's `--track` knows, also once they have failed.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        kinds = {type(tracker) for tracker in trackers}
        self.names = [name for name, kind in TRACKERS.items() if kind in kinds]

    def begin(self, run: RunFolder, recipe: Recipe, card: Mapping[str, object]) -> None:
        """Tell all that a session begins."""
        self._tell("begin", run, recipe, card)

    def log(self, row: Row) -> None:
        """Tell all of a finished epoch."""
        self._tell("log", row)

    def picture(self, name: str, path: Path, step: int) -> None:
        """Tell all of a picture."""
        self._tell("picture", name, path, step)

    def checkpoint(self, path: Path) -> None:
        """Tell all of a checkpoint."""
        self._tell("checkpoint", path)

    def end(self) -> None:
        """Tell all that the session ends."""
        self._tell("end")

    def painter(self, run: RunFolder, epoch: int) -> Callable[[Prepared, NDArray], None]:
        """Return a function that draws the first validation case it is called with; see `validate`.

        The pictures stay in `figures/training` of the run folder, and every tracker is told.
        """
        todo = ["overlay"]

        def paint(prepared: Prepared, pred: NDArray) -> None:
            for name in todo[:]:
                todo.remove(name)
                try:
                    paths = draw_overlay(prepared, pred, run.figures / "training", epoch=epoch)
                except Exception as error:
                    _say(f"no picture of epoch {epoch} ({_one_line(error)}); training goes on")
                else:
                    for path in paths:
                        self.picture(name, path, epoch)

        return paint

    def _tell(self, what: str, *facts: object) -> None:
        for tracker in [*self._trackers]:
            try:
                getattr(tracker, what)(*facts)
            except Exception as error:  # whatever a tracker does, learning goes on
                self._trackers.remove(tracker)
                said = f"{type(tracker).__name__} failed ({what}: {_one_line(error)})"
                _say(f"{said}; training goes on without it")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


def _id_of(run: RunFolder) -> str:
    """Read the id under which a run is known to W&B, or draw one and keep it."""
    path = run.trackers
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if "wandb" not in known:
        known["wandb"] = secrets.token_hex(4)
        text = json.dumps(known) + "\n"
        write_atomically(path, lambda file: file.write_text(text, encoding="utf-8"))
    return known["wandb"]


def _numbers(row: Row) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def _import(name: str) -> object:
    try:
        return __import__(name)
    except ImportError as error:
        msg = f'{name} must be installed; pip install "bratskit[{name}]"'
        raise ImportError(msg) from error
