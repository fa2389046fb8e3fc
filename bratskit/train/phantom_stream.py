"""Make phantoms while a network learns and cut patches from them; nothing touches the disk."""

import json
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from bratskit.cases.phantoms import Ingredients
from bratskit.cases.phantoms.frame import (
    STREAM_SEED,
    field_shape,
    refuse_kept_seed,
    seeds_of,
)
from bratskit.cases.phantoms.simulate import Simulated, simulate
from bratskit.preprocess import Prepared, read_patch
from bratskit.preprocess.prepare import prepare_measured
from bratskit.preprocess.steps import Measured
from bratskit.settings import Recipe
from bratskit.train.patches import draw_start

__all__ = ["PhantomStream"]

_PLACES = 1  # third word of the seed of a patch's place; a phantom's own seed has two
_BRATS_MM = (1.0, 1.0, 1.0)  # where neither the stream nor the recipe's grid has a voxel size


class PhantomStream:
    """Cut patches from a pool of phantoms, of which one is replaced every `reuse` patches.

    Patch `n` comes from slot `n % pool`, and a slot gets a new phantom after `reuse` patches, the
    slots one after another. Which phantom a patch comes from, the phantom and the patch's place in
    it follow from the seed and `n` alone, so a run goes on from a number. Phantom `p` of a stream
    is that of `make_phantom((seed + STREAM_SEED, p), spacing_mm=...)`, prepared as `prepare_scan`
    does.

    Phantoms are made by a thread, up to a pool ahead of the patch that needs them first.

    Args:
        recipe: Grid, channels, scale, seed, and the settings of training that say `phantom`.
        device: Where phantoms are computed, if it is a CUDA device; otherwise on the CPU.

    Raises:
        ValueError: An ingredient is unknown or too strong, the recipe's voxels have a size that
            no phantom has, or its seed is not below 20000.
    """

    def __init__(self, recipe: Recipe, *, device: torch.device) -> None:
        refuse_kept_seed(recipe.seed)
        self.recipe = recipe
        seeds_of(self._seed, self._spacing_mm)  # here, not in the thread that makes phantoms
        self.device = device if device.type == "cuda" else torch.device("cpu")
        self.ingredients = Ingredients.from_json(
            json.dumps(dict(recipe.training.phantom_ingredients))
        )
        self._pool: dict[int, Future[Prepared]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="make-phantoms")

    def phantom_of(self, number: int) -> int:
        """Say which phantom patch `number` of the stream comes from; each has its own number.

        Examples:
            >>> from bratskit.settings import TrainingSettings
            >>> training = TrainingSettings(phantom_pool=2, phantom_reuse=2)
            >>> recipe = Recipe(name="a", training=training)
            >>> stream = PhantomStream(recipe, device=torch.device("cpu"))
            >>> [stream.phantom_of(number) for number in range(8)]
            [0, 1, 0, 3, 2, 3, 2, 5]
        """
        training = self.recipe.training
        turn, slot = divmod(number, training.phantom_pool)
        late = slot * training.phantom_reuse // training.phantom_pool  # not all slots at once
        generation = (turn + -late % training.phantom_reuse) // training.phantom_reuse
        return generation * training.phantom_pool + slot

    def name(self, number: int) -> str:
        """Name the phantom that a patch comes from, as messages do."""
        return f"StreamPhantom_{self.phantom_of(number):05d}"

    def cut(self, number: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Cut patch `number`: image `(C, I, J, K)` and labels `(I, J, K)`, zero outside the box.

        Patches are quickest in order, but any one can be cut at any time.
        """
        prepared = self._get(number)
        training = self.recipe.training
        start = draw_start(
            np.random.default_rng([self._seed, number, _PLACES]),
            prepared,
            patch_vox=training.patch_vox,
            tumour_share=training.tumour_share,
            label_share=training.label_share,
        )
        return read_patch(prepared, start, training.patch_vox)

    def close(self) -> None:
        """Make no more phantoms; one that is being made is finished and forgotten."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._pool.clear()

    @property
    def _seed(self) -> int:
        return self.recipe.seed + STREAM_SEED

    @property
    def _spacing_mm(self) -> tuple[float, float, float]:
        recipe = self.recipe
        return recipe.training.phantom_spacing_mm or recipe.geometry.spacing_mm or _BRATS_MM

    def _get(self, number: int) -> Prepared:
        """Take a phantom from the pool, have those after it made, and let go of older ones."""
        ahead = range(number, number + self.recipe.training.phantom_pool)
        wanted = [self.phantom_of(patch) for patch in ahead]
        for phantom in wanted:
            if phantom not in self._pool:
                self._pool[phantom] = self._thread.submit(self._make, phantom)
        for phantom in self._pool.keys() - set(wanted):
            self._pool.pop(phantom).cancel()
        return self._pool[wanted[0]].result()

    def _make(self, phantom: int) -> Prepared:
        made = simulate(
            (self._seed, phantom),
            spacing_mm=self._spacing_mm,
            ingredients=self.ingredients,
            device=self.device,
        )
        channels, labels = _whole_field(made)
        return prepare_measured(
            channels,
            labels,
            case_id=f"StreamPhantom_{phantom:05d}",
            affine=np.diag([*made.grid.spacing_mm, 1.0]),
            recipe=self.recipe,
            threads=1,  # the other cores learn
        )


def _whole_field(made: Simulated) -> tuple[list[Measured], NDArray[np.uint8]]:
    """Put the box of a brain into the field of view of its scanner, as a scan has it."""
    shape, first = field_shape(made.grid.spacing_mm), made.grid.start_vox
    labels = np.zeros(shape, np.uint8)
    place = zip(first, made.labels.shape, strict=True)
    labels[tuple(slice(start, start + n) for start, n in place)] = made.labels.cpu().numpy()
    parts = [Measured.cut(channel) for channel in made.image.cpu().numpy()]
    channels = [
        Measured(
            part.values,
            tuple((low + at, high + at) for (low, high), at in zip(part.box, first, strict=True)),
            shape,
        )
        for part in parts
    ]
    return channels, labels
