"""Feed one epoch: draw everything, cut patches one batch ahead, vary them on the device."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from bratskit.settings import AugmentationSettings, TrainingSettings
from bratskit.train.augment import Augmentation, apply_augmentation, draw_augmentation
from bratskit.train.fallback import is_out_of_memory
from bratskit.train.mix import MixedSampler, StreamPlace
from bratskit.train.parallel import Share
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
    share: Share | None = None,
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
        share: Which batches of each step, and patches of each batch, are this process's; None
            takes all. What is drawn does not depend on it.

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
    share = share or Share.whole(settings)
    groups = [
        [first + at for at in share.batches] for first in range(0, len(places), settings.accumulate)
    ]
    cut = _cut_ahead(sampler, [places[at] for group in groups for at in group])

    def vary(at: int) -> Batch:
        batch = next(cut) if transform is None else transform(*next(cut), seeds[at])
        image, labels = _augment(batch, params[at], device=device, normalise=normalise)
        return image[share.part], labels[share.part]

    for group in groups:
        yield (
            [name for at in group for name in sampler.ids(places[at][share.part])],
            map(vary, group),
        )


def _augment(
    batch: Batch, params: Augmentation | None, *, device: torch.device, normalise: str
) -> Batch:
    """Vary a batch on the device; where its memory ends, beside it: slower, with other noise."""
    try:
        image, labels = (item.to(device, non_blocking=True) for item in batch)
        if params is None:
            return image, labels
        return apply_augmentation(image, labels, params, normalise=normalise)
    except (RuntimeError, MemoryError) as error:
        if device.type == "cpu" or not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # here, where no traceback holds patches any more
    warnings.warn(
        f"out of memory on {device}; patches are varied on the CPU, which is slower",
        RuntimeWarning,
        stacklevel=2,
    )
    return batch if params is None else apply_augmentation(*batch, params, normalise=normalise)


def _cut_ahead(sampler: Sampler, places: Sequence[Places]) -> Iterator[Batch]:
    """Cut batches in order, the next one by a thread while the present one is being learned."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="cut-patches") as thread:
        pending = thread.submit(sampler.cut, places[0])
        for following in [*places[1:], None]:
            batch = pending.result()
            if following is not None:
                pending = thread.submit(sampler.cut, following)
            yield batch
