"""Feed one epoch: draw everything, cut patches one batch ahead, vary them on the device."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from bratskit.settings import AugmentationSettings, TrainingSettings
from bratskit.train.augment import apply_augmentation, draw_augmentation
from bratskit.train.mix import MixedSampler, StreamPlace
from bratskit.train.patches import PatchPlace, PatchSampler
from bratskit.train.torchio_plugin import PatchTransform

__all__ = ["feed_epoch"]

Batch = tuple[Tensor, Tensor]
Sampler = PatchSampler | MixedSampler
Places = list[PatchPlace] | list[PatchPlace | StreamPlace]


def feed_epoch(
    sampler: Sampler,
    settings: TrainingSettings,
    *,
    device: torch.device,
    normalise: str = "zscore",
    augmentation: AugmentationSettings | None = None,
    transform: PatchTransform | None = None,
) -> Iterator[tuple[list[str], Iterator[Batch]]]:
    """Yield the case ids and the batches of each optimiser step of one epoch.

    All random numbers of an epoch are drawn before its first patch is cut, and the thread that cuts
    ahead draws none. The generator's state after an epoch is therefore the same whatever the thread
    is doing, and a run that is interrupted repeats its epoch exactly.

    Args:
        sampler: Draws and cuts patches; its generator draws the augmentation too.
        settings: Batch size, steps an epoch, accumulation, whether to augment.
        device: Where patches are varied: two slow cores then feed a fast GPU.
        normalise: Scale of the prepared images, `recipe.normalise`.
        augmentation: Share and range of each operation; None takes the usual ones.
        transform: What `torchio_transform` made, applied to each batch before it is varied.

    Yields:
        Ids of all patches of the step, and `settings.accumulate` batches of image
        `(B, C, I, J, K)` float32 and labels `(B, I, J, K)` int64 on `device`.
    """
    channels = len(sampler.modalities)
    places, params, seeds = [], [], []
    for _ in range(settings.steps_per_epoch * settings.accumulate):
        places.append(sampler.draw(settings.batch))
        params.append(
            draw_augmentation(sampler.rng, settings.batch, augmentation, channels=channels)
            if settings.augment
            else None
        )
        seeds.append(int(sampler.rng.integers(2**31)) if transform else None)
    cut = _cut_ahead(sampler, places)

    def vary(at: int) -> Batch:
        batch = next(cut) if transform is None else transform(*next(cut), seeds[at])
        image, labels = (item.to(device, non_blocking=True) for item in batch)
        if params[at] is None:
            return image, labels
        return apply_augmentation(image, labels, params[at], normalise=normalise)

    for first in range(0, len(places), settings.accumulate):
        group = range(first, first + settings.accumulate)
        ids = [name for at in group for name in sampler.ids(places[at])]
        yield ids, map(vary, group)


def _cut_ahead(sampler: Sampler, places: Sequence[Places]) -> Iterator[Batch]:
    """Cut batches in order, the next one by a thread while the present one is being learned."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cut-patches") as thread:
        pending = thread.submit(sampler.cut, places[0])
        for following in [*places[1:], None]:
            batch = pending.result()
            if following is not None:
                pending = thread.submit(sampler.cut, following)
            yield batch
