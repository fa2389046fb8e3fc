"""Mix patches of patients and of phantoms made on the way, in a fixed order; it cuts none."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bratskit.preprocess import Prepared
from bratskit.settings import Recipe
from bratskit.train.patches import PatchPlace, PatchSampler, stack_patches
from bratskit.train.phantom_stream import PhantomStream

__all__ = ["MixedSampler", "StreamPlace", "open_sampler"]


class StreamPlace(NamedTuple):
    """Say which patch of the stream one is.

    Attributes:
        number: Counted from 0.
    """

    number: int


class MixedSampler:
    """Draw patches from patients and from a phantom stream; used as a `PatchSampler` is.

    Of the first `n` patches, the whole part of `share * n` are phantoms': nothing is left to
    chance, so that a batch of two at a share of a half always holds one of each.

    Args:
        patients: Draws and cuts patches of patients; None where the share is 1.
        stream: Cuts patches of phantoms.
        recipe: Its share, its channels.
        rng: Draws the augmentation; the one of `patients`, if there are any.
    """

    def __init__(
        self,
        patients: PatchSampler | None,
        stream: PhantomStream,
        *,
        recipe: Recipe,
        rng: np.random.Generator,
    ) -> None:
        self.patients, self.stream, self.rng = patients, stream, rng
        self.share = recipe.training.phantom_share
        self.modalities = recipe.modalities
        self.drawn = 0

    def draw(self, batch: int) -> list[PatchPlace | StreamPlace]:
        """Draw the places of `batch` patches; those of phantoms are only counted here."""
        return [self._draw_one() for _ in range(batch)]

    def cut(
        self, places: Sequence[PatchPlace | StreamPlace]
    ) -> tuple[Float[Tensor, "b c i j k"], Int[Tensor, "b i j k"]]:
        """Cut patches into one batch, in the order of their places; see `PatchSampler.cut`."""
        return stack_patches(
            [
                self.stream.cut(place.number)
                if isinstance(place, StreamPlace)
                else self.patients.read(place)
                for place in places
            ]
        )

    def ids(self, places: Sequence[PatchPlace | StreamPlace]) -> list[str]:
        """Name the patients and phantoms that patches come from."""
        return [
            self.stream.name(place.number)
            if isinstance(place, StreamPlace)
            else self.patients.ids([place])[0]
            for place in places
        ]

    def state_dict(self) -> dict[str, str | int]:
        """Return the generator's state and how many patches were drawn."""
        return {"rng": json.dumps(self.rng.bit_generator.state), "drawn": self.drawn}

    def load_state_dict(self, state: dict[str, str | int]) -> None:
        """Go on drawing exactly where `state_dict` was taken."""
        self.rng.bit_generator.state = json.loads(state["rng"])
        self.drawn = int(state["drawn"])

    def close(self) -> None:
        """Make no more phantoms."""
        self.stream.close()

    def _draw_one(self) -> PatchPlace | StreamPlace:
        before, after = (int(self.share * count) for count in (self.drawn, self.drawn + 1))
        self.drawn += 1
        return StreamPlace(before) if after > before else self.patients.draw(1)[0]


def open_sampler(
    prepared: Sequence[Prepared], recipe: Recipe, *, device: torch.device
) -> PatchSampler | MixedSampler:
    """Make the sampler that a recipe asks for, seeded by it.

    Args:
        prepared: Patients to learn from; not looked at where `phantom_share` is 1.
        recipe: Patch size, shares and seed.
        device: Where phantoms are computed.
    """
    training = recipe.training
    rng = np.random.default_rng(recipe.seed)
    patients = None
    if training.phantom_share < 1:
        patients = PatchSampler(
            prepared,
            patch_vox=training.patch_vox,
            tumour_share=training.tumour_share,
            rng=rng,
            label_share=training.label_share,
        )
    if not training.phantom_share:
        return patients
    return MixedSampler(patients, PhantomStream(recipe, device=device), recipe=recipe, rng=rng)
