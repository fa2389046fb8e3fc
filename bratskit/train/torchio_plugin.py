"""Let a TorchIO transform vary training patches, before our own augmentation or in its place."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import torchio

__all__ = ["PatchTransform", "torchio_transform"]

PatchTransform = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def torchio_transform(transform: "torchio.Transform") -> PatchTransform:
    """Make a TorchIO transform fit for `train(..., transform=...)`.

    TorchIO draws from torch's global generator. It is seeded for each batch by a number from the
    sampler's own and put back afterwards, so that a run resumes to the bit and nothing else that
    draws from it is disturbed. It runs on the CPU, patch by patch: our own operations are several
    times as fast, and `TrainingSettings.augment=False` switches them off. Background is left to it:
    a noise or a blur of TorchIO makes it differ from 0.

    Args:
        transform: One transform or a `torchio.Compose`. Patches reach it as a `Subject` with a
            `ScalarImage` "image" `(C, I, J, K)` and a `LabelMap` "labels" `(1, I, J, K)`, voxels of
            1 mm, axes RAS+; they must keep their size.

    Returns:
        A function of image `(B, C, I, J, K)`, labels `(B, I, J, K)` and a seed, giving new ones of
        the same shapes and types.

    Raises:
        ImportError: TorchIO is not installed.
        TypeError: It is no TorchIO transform.
        ValueError: While training: a patch has changed its size.

    Examples:
        >>> import torchio  # doctest: +SKIP
        >>> train(..., transform=torchio_transform(torchio.RandomMotion()))  # doctest: +SKIP
    """
    torchio = _import_torchio()
    if not isinstance(transform, torchio.Transform):
        msg = (
            f"transform must be a torchio.Transform; got {type(transform).__name__}. "
            "Try torchio.Compose([torchio.RandomMotion()])."
        )
        raise TypeError(msg)

    def vary(image: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        before = np.random.get_state()  # noqa: NPY002 (a user's own Lambda may draw from it)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                np.random.seed(seed)  # noqa: NPY002
                pairs = [_vary_patch(*patch) for patch in zip(image, labels, strict=True)]
        finally:
            np.random.set_state(before)  # noqa: NPY002
        return torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])

    def _vary_patch(image: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        subject = torchio.Subject(
            image=torchio.ScalarImage(tensor=image.clone()),
            labels=torchio.LabelMap(tensor=labels[None].to(torch.uint8)),
        )
        varied = transform(subject)
        moved, moved_labels = varied["image"].data, varied["labels"].data[0]
        if moved.shape != image.shape or moved_labels.shape != labels.shape:
            msg = (
                f"transform must keep the size of a patch {tuple(image.shape)}; got "
                f"{tuple(moved.shape)}. Leave crops and resampling to the recipe."
            )
            raise ValueError(msg)
        return moved.to(image.dtype), moved_labels.to(labels.dtype)

    return vary


def _import_torchio() -> "torchio":
    try:
        import torchio  # heavy, and wanted by few
    except ImportError as error:
        msg = 'torchio_transform needs TorchIO: pip install "bratskit[torchio]"'
        raise ImportError(msg) from error
    return torchio
