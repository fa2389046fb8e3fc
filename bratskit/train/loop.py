"""Train a network from prepared cases; it can be stopped at any moment and goes on bit for bit."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from bratskit.cases import Split
from bratskit.labels import REGIONS
from bratskit.networks import Checkpoint, build_network, load_checkpoint, save_checkpoint
from bratskit.preprocess.budget import FullDiskError, refuse_full_disk
from bratskit.runtime import RunFolder, SessionClock, pick_device, seed_everything, write_atomically
from bratskit.settings import Recipe
from bratskit.train.batches import feed_epoch
from bratskit.train.losses import make_loss
from bratskit.train.mix import open_sampler
from bratskit.train.parts import open_parts
from bratskit.train.state import begin_from, make_card, refuse_other_settings, restore, save_last
from bratskit.train.step import Learner
from bratskit.train.torchio_plugin import PatchTransform
from bratskit.train.track import History, find_best, refuse_unmeasured, stopped_early
from bratskit.train.validate import validate

__all__ = ["train"]

SETTINGS_BYTES = 1e5  # a split of a thousand patients takes a third of it


def train(
    prepared_dir: Path | str,
    run: RunFolder,
    *,
    recipe: Recipe,
    split: Split,
    max_minutes: float | None = None,
    resume: bool = True,
    deterministic: bool = False,
    device: torch.device | None = None,
    on_epoch: Callable[[History], None] | None = None,
    transform: PatchTransform | None = None,
) -> History:
    """Train until the recipe's epochs are done, going on from `last.pt` where there is one.

    After each epoch `last.pt` holds all that is needed to go on (weights, optimiser, step, scaler,
    random states, history), so that k epochs and then N - k more give the weights of N at a
    stretch: to the bit in deterministic mode on one kind of machine. The learning rate is a
    function of the step. `best.pt` holds the weights of the best validation, those averaged over
    past steps where `ema_decay` asks for them; with `patience` training ends before its last epoch
    once validations no longer improve. On a CPU torch's own
    number of threads is used, which is the number of cores: training is the only work.

    Args:
        prepared_dir: Folder that `prepare_cohort` filled.
        run: Where the files go.
        recipe: Every setting.
        split: Patients of each part; the test part is not opened. With `phantom_share` 1 the
            training part is not learned from, and may be empty.
        max_minutes: Length of this session. It ends after the last epoch that fits.
        resume: Whether to go on from `last.pt`; False throws the run in the folder away.
        deterministic: Allow only operations that repeat to the bit; slower on a GPU.
        device: Where to compute; None chooses.
        on_epoch: Called with the history after each epoch, for live curves.
        transform: What `torchio_transform` made of a TorchIO transform, applied to each patch
            before the recipe's own augmentation. No checkpoint keeps it: give it again to go on.

    Returns:
        One row an epoch; see `History`.

    Raises:
        FileNotFoundError: A case of the split was not prepared.
        FullDiskError: The disk does not hold a checkpoint; the one before it is kept.
        ValueError: The run was begun with another setting, `start_from` does not fit, or
            `max_minutes` is negative.
        NotFiniteError: A loss became NaN or infinite; names step, cases and layer.
        KeyboardInterrupt: Passed on after saying how to go on.
    """
    clock = SessionClock(max_minutes)  # refuses a bad length before anything is thrown away
    device = device or pick_device()
    with _determinism(deterministic):
        seed_everything(recipe.seed, deterministic=deterministic)
        session = _Session(Path(prepared_dir), run, recipe, split, deterministic, device)
        session.transform = transform
        run.create()  # not before the cases are known to be there
        session.begin(resume=resume)
        session.go(clock, on_epoch)
    return session.history


class _Session:
    """Hold the parts of one call of `train`."""

    def __init__(
        self,
        prepared_dir: Path,
        run: RunFolder,
        recipe: Recipe,
        split: Split,
        deterministic: bool,
        device: torch.device,
    ) -> None:
        self.run, self.recipe, self.split = run, recipe, split
        self.prepared_dir, self.deterministic = prepared_dir, deterministic
        self.history = History()
        self.transform: PatchTransform | None = None
        learned_from, self.validation = open_parts(prepared_dir, split, recipe)
        self.sampler = open_sampler(learned_from, recipe, device=device)
        network = build_network(
            recipe.network,
            in_channels=len(recipe.modalities),
            out_channels=recipe.out_channels,
            size_vox=recipe.training.patch_vox,
        )
        refuse_unmeasured(
            recipe.training,
            validate(network, [], recipe, device=device),
            n_validation=len(self.validation),
        )
        loss = make_loss(recipe)
        self.learner = Learner(network, recipe.training, device=device, loss=loss)

    def begin(self, *, resume: bool) -> None:
        """Restore the run in the folder, or begin a new one."""
        for stale in self.run.path.glob(".[0-9]*-*"):  # left by a kill in the middle of a write
            stale.unlink(missing_ok=True)
        if not resume:
            for path in (self.run.last, self.run.best, self.run.history):
                path.unlink(missing_ok=True)
        if not self.run.last.exists():
            start = begin_from(self.recipe, self.split)
            self.card = make_card(self.recipe, self.split, start)
            if start:
                self.learner.load_weights(start.network.state_dict())
            self._save_settings()
            return
        last = _load_last(self.run)
        refuse_other_settings(
            last, self.run, recipe=self.recipe, split=self.split, deterministic=self.deterministic
        )
        self.card = {name: last.card[name] for name in last.card if name != "made_by"}
        self.history = restore(last, self.run, learner=self.learner, sampler=self.sampler)

    def _save_settings(self) -> None:
        """Write what the shell needs to go on."""
        try:
            write_atomically(self.run.settings, self.recipe.save)
            if not self.run.split.exists():
                self.split.save(self.run.split)
        except OSError as error:
            refuse_full_disk(error, self.run.path, SETTINGS_BYTES, what="settings and split")
            raise

    def go(self, clock: SessionClock, on_epoch: Callable[[History], None] | None) -> None:
        """Train epoch by epoch until all are done or the session is over."""
        epochs, longest_min = self.recipe.training.epochs, 0.0
        if done := self._is_done():
            _say(f"{self.run.path}: {done}, nothing to train")
            return
        if self.history:
            _say(f"going on after epoch {len(self.history)} of {epochs} in {self.run.path}")
        try:
            for epoch in range(len(self.history) + 1, epochs + 1):
                began_min = clock.minutes
                self._train_epoch(epoch)
                longest_min = max(longest_min, clock.minutes - began_min)
                self._report(clock.minutes)
                if on_epoch:
                    on_epoch(self.history)
                if epoch < epochs and (early := stopped_early(self.history, self.recipe.training)):
                    _say(early)
                    return
                if epoch < epochs and _is_short(clock, longest_min):
                    _say(f"time is up after epoch {epoch} of {epochs}. {self._how_to_go_on()}")
                    return
        except KeyboardInterrupt:
            _say(f"stopped after epoch {len(self.history)} of {epochs}. {self._how_to_go_on()}")
            raise
        except FullDiskError as error:
            done = f"The run is kept as it was after epoch {len(self.history)} of {epochs}."
            msg = f"{error} {done} {self._how_to_go_on()}"
            raise FullDiskError(msg) from error
        finally:
            self.sampler.close()

    def _is_done(self) -> str:
        epochs = self.recipe.training.epochs
        if len(self.history) >= epochs:
            return f"all {epochs} epochs are done already"
        return stopped_early(self.history, self.recipe.training)

    def _train_epoch(self, epoch: int) -> None:
        began = time.monotonic()
        self.learner.network.train()
        losses = [
            self.learner.step(batches, name=f"epoch {epoch}", ids=ids)
            for ids, batches in feed_epoch(
                self.sampler,
                self.recipe.training,
                device=self.learner.device,
                normalise=self.recipe.normalise,
                augmentation=self.recipe.augmentation,
                transform=self.transform,
            )
        ]
        row = {
            "epoch": epoch,
            "step": self.learner.step_number,
            "loss": float(np.mean(losses)),
            "lr": self.learner.lr,
        }
        row |= self._validate(epoch)
        if self.learner.fallback.note:
            row["fallback"] = self.learner.fallback.note
        row["seconds"] = round(time.monotonic() - began, 3)
        self._keep(row)

    def _validate(self, epoch: int) -> dict[str, float | str | None]:
        training = self.recipe.training
        due = epoch % training.validate_every == 0 or epoch == training.epochs
        chosen = self.validation if due else []
        return validate(
            self.learner.network_to_keep, chosen, self.recipe, device=self.learner.device
        )

    def _keep(self, row: dict[str, object]) -> None:
        """Save best weights first, then the state that knows of them: a kill between is redone."""
        history = History([*self.history, row])
        if find_best(history, self.recipe.training.select_by) is row or not self.validation:
            scores = {name: row[name] for name in ("dice_mean", self.recipe.training.select_by)}
            save_checkpoint(
                self.run.best,
                network=self.learner.network_to_keep,
                recipe=self.recipe,
                card=self.card | scores | {"epoch": row["epoch"]},
            )
        save_last(
            self.run,
            learner=self.learner,
            sampler=self.sampler,
            history=history,
            recipe=self.recipe,
            card=self.card,
            deterministic=self.deterministic,
        )
        self.history = history

    def _report(self, minutes: float) -> None:
        row, epochs = self.history[-1], self.recipe.training.epochs
        left = np.mean(self.history.column("seconds")) * (epochs - row["epoch"]) / 60
        scores = ""
        if row["dice_mean"] is not None:
            scores = " dice " + " ".join(f"{name} {row[f'dice_{name}']:.3f}" for name in REGIONS)
        _say(
            f"epoch {row['epoch']}/{epochs} loss {row['loss']:.4f}{scores} "
            f"{minutes:.1f} min, about {left:.1f} min left"
        )

    def _how_to_go_on(self) -> str:
        if not self.history:
            return "No epoch was finished; starting again begins anew."
        folders = shlex.join([str(self.prepared_dir), str(self.run.path)])
        return f"Go on by calling train again, or: bratskit train {folders} --resume"


def _load_last(run: RunFolder) -> Checkpoint:
    try:
        return load_checkpoint(run.last)
    except ValueError as error:
        msg = f"{error} To throw this run away and begin anew: --no-resume (resume=False)."
        raise ValueError(msg) from error


def _is_short(clock: SessionClock, epoch_min: float) -> bool:
    """Tell whether another epoch as long as the longest would outlast the session."""
    return clock.max_minutes is not None and clock.minutes + epoch_min > clock.max_minutes


@contextmanager
def _determinism(wanted: bool) -> Iterator[None]:
    """Restore torch's setting afterwards, so that one deterministic run binds no later one."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        if wanted:
            torch.use_deterministic_algorithms(before)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
