"""Train a network from prepared cases; it can be stopped at any moment and goes on bit for bit."""

import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from bratskit.cases import Split
from bratskit.networks import network_of, save_checkpoint
from bratskit.preprocess.budget import FullDiskError, refuse_full_disk
from bratskit.runtime import RunFolder, SessionClock, pick_device, seed_everything, write_atomically
from bratskit.settings import Recipe
from bratskit.train.batches import feed_epoch
from bratskit.train.fallback import first_line, is_out_of_memory
from bratskit.train.losses import make_loss
from bratskit.train.mix import open_sampler
from bratskit.train.parallel import Team, checksum_of, join_team, shell_words
from bratskit.train.parts import open_parts
from bratskit.train.state import (
    begin_from,
    determinism_restored,
    load_last,
    make_card,
    refuse_other_settings,
    restore,
    save_last,
)
from bratskit.train.step import Learner
from bratskit.train.torchio_plugin import PatchTransform
from bratskit.train.track import History, describe_last, find_best, refuse_unmeasured, stopped_early
from bratskit.train.trackers import FolderTracker, Tracker, TrackerGroup
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
    trackers: Sequence[Tracker] = (),
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
        trackers: Told of each epoch, picture and checkpoint beside the run folder; none of them
            ever stops the training.

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
    with join_team() as team, team.quiet(), determinism_restored(deterministic):
        device = device or pick_device()
        seed_everything(recipe.seed, deterministic=deterministic)
        session = _Session(Path(prepared_dir), run, recipe, split, deterministic, device, team)
        session.transform = transform
        session.tracker = TrackerGroup([FolderTracker(), *trackers] if team.is_first else [])
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
        team: Team,
    ) -> None:
        self.run, self.recipe, self.split = run, recipe, split
        self.prepared_dir, self.deterministic = prepared_dir, deterministic
        self.team, self.share = team, team.share(recipe.training)
        self.history = History()
        self.transform: PatchTransform | None = None
        self.tracker = TrackerGroup([FolderTracker()])
        learned_from, self.validation = open_parts(prepared_dir, split, recipe)
        self.sampler = open_sampler(learned_from, recipe, device=device)
        network = network_of(recipe)
        refuse_unmeasured(
            recipe.training,
            validate(network, [], recipe, device=device),
            n_validation=len(self.validation),
        )
        team.refuse_batch_norm(network)
        own = team.own_settings(recipe.training)
        loss = make_loss(recipe)
        self.learner = Learner(network, own, device=device, loss=loss, team=team)

    def begin(self, *, resume: bool) -> None:
        """Restore the run in the folder, or begin a new one."""
        if self.team.is_first:
            self._clean(resume=resume)
        self.team.tell(None)  # the others wait until it is done
        is_there = "there" if self.run.last.exists() else "missing"
        self.team.refuse_apart(self.run.path, "last.pt", is_there)
        self._begin_or_restore()
        if self.team.size > 1:
            learned = f"{self.learner.step_number} and {checksum_of(self.learner.network)}"
            self.team.refuse_apart(self.run.path, "step and weights", learned)

    def _begin_or_restore(self) -> None:
        learner, seed = self.learner, self.recipe.seed
        if not self.run.last.exists():
            start = begin_from(self.recipe, self.split)
            self.card = make_card(self.recipe, self.split, start)
            if start:
                learner.load_weights(start.network.state_dict())
            if self.team.is_first:
                self._save_settings()
            self.team.set_generators((), learner.device, seed=seed)
            return
        last = load_last(self.run)
        refuse_other_settings(
            last,
            self.run,
            recipe=self.recipe,
            split=self.split,
            deterministic=self.deterministic,
            has_transform=self.transform is not None,
        )
        self.card = {name: last.card[name] for name in last.card if name != "made_by"}
        self.history = restore(last, self.run, learner=learner, sampler=self.sampler)
        others = last.training.get("others_rng", ())  # not in runs of before it existed
        self.team.set_generators(others, learner.device, seed=seed)

    def _clean(self, *, resume: bool) -> None:
        for stale in self.run.path.glob(".[0-9]*-*"):  # left by a kill in the middle of a write
            stale.unlink(missing_ok=True)
        if not resume:
            for path in (self.run.last, self.run.best, self.run.history, self.run.trackers):
                path.unlink(missing_ok=True)
            shutil.rmtree(self.run.figures / "training", ignore_errors=True)

    def _save_settings(self) -> None:
        """Write what the shell needs to go on."""
        try:
            write_atomically(self.run.settings, self.recipe.save)
            self.split.save(self.run.split)  # over one of a run that was thrown away
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
        self.tracker.begin(self.run, self.recipe, self.card)
        try:
            for epoch in range(len(self.history) + 1, epochs + 1):
                began_min = clock.minutes
                self._train_epoch(epoch)
                longest_min = max(longest_min, clock.minutes - began_min)
                _say(describe_last(self.history, epochs=epochs, minutes=clock.minutes))
                if on_epoch and self.team.is_first:
                    on_epoch(self.history)
                if epoch < epochs and (early := stopped_early(self.history, self.recipe.training)):
                    _say(early)
                    return
                if epoch < epochs and self.team.tell(_is_short(clock, longest_min)):
                    self._say_stopped(f"time is up after epoch {epoch}")
                    return
        except KeyboardInterrupt:
            self._say_stopped(f"stopped after epoch {len(self.history)}")
            raise
        except FullDiskError as error:
            done = f"The run is kept as it was after epoch {len(self.history)} of {epochs}."
            msg = f"{error} {done} {self._how_to_go_on()}"
            raise FullDiskError(msg) from error
        finally:
            self.sampler.close()
            self.tracker.end()

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
                share=self.share,
            )
        ]
        row = {
            "epoch": epoch,
            "step": self.learner.step_number,
            "loss": float(np.mean(losses)),
            "lr": self.learner.lr,
        }
        if self.team.is_first:
            row |= self._validate(epoch)
        if self.learner.fallback.note:
            row["fallback"] = self.learner.fallback.note
        row["seconds"] = round(time.monotonic() - began, 3)
        self._keep(self.team.tell(row))

    def _validate(self, epoch: int) -> dict[str, float | str | None]:
        training = self.recipe.training
        due = epoch % training.validate_every == 0 or epoch == training.epochs
        network, device = self.learner.network_to_keep, self.learner.device
        paint = self.tracker.painter(self.run, epoch)
        chosen = self.validation if due else []
        try:
            return validate(network, chosen, self.recipe, device=device, on_case=paint)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            said = f"out of memory ({first_line(str(error))})"
        torch.cuda.empty_cache()  # here, where no traceback holds activations any more
        _say(
            f"epoch {epoch} is kept without scores: validation ran {said}. "
            "Free the device; another run may have a smaller inference.window_vox."
        )
        return validate(network, [], self.recipe, device=device) | {"not_validated": said}

    def _keep(self, row: dict[str, object]) -> None:
        """Save best weights first, then the state that knows of them: a kill between is redone."""
        history = History([*self.history, row])
        is_best = find_best(history, self.recipe.training.select_by) is row or not self.validation
        others = self.team.gather_generators(self.learner.device)
        if not self.team.is_first:
            self.history = history
            return
        if is_best:
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
            has_transform=self.transform is not None,
            others=others,
        )
        self.history = history
        self.tracker.log(row)
        if is_best:
            self.tracker.checkpoint(self.run.best)

    def _say_stopped(self, why: str) -> None:
        _say(f"{why} of {self.recipe.training.epochs}. {self._how_to_go_on()}")
        if self.history and not self.run.best.exists():
            _say(f"no best.pt before the first validation; until then predict with {self.run.last}")

    def _how_to_go_on(self) -> str:
        if not self.history:
            return "No epoch was finished; starting again begins anew."
        if self.transform is not None:  # the shell cannot say it
            return "Go on by calling train again with the same transform."
        words = [*shell_words(), "train", str(self.prepared_dir), str(self.run.path), "--resume"]
        words += ["--deterministic"] * self.deterministic
        words += [word for name in self.tracker.names for word in ("--track", name)]
        return f"Go on by calling train again, or: {shlex.join(words)}"


def _is_short(clock: SessionClock, epoch_min: float) -> bool:
    """Tell whether another epoch as long as the longest would outlast the session."""
    return clock.max_minutes is not None and clock.minutes + epoch_min > clock.max_minutes


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
