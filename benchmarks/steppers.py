"""Take a training step, ours and MONAI's: what `benchmarks/train.py` times beside data.

MONAI's way is the loop of its tutorials: DynUNet, DiceCELoss, AdamW. It clips no gradient and looks
for no NaN, which our step does.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bratskit.networks import build_network
from bratskit.settings import NetworkSettings, Recipe, TrainingSettings
from bratskit.train import Learner
from bratskit.train.losses import make_loss

CHANNELS = (16, 32, 64, 128, 256)
LAST = torch.channels_last_3d
Batch = tuple[Tensor, Tensor]
Step = Callable[[Batch], float]


def make_recipe(
    norm: str, precision: str, *, patch_vox: tuple[int, int, int], batch: int = 2, **network: object
) -> Recipe:
    training = TrainingSettings(
        patch_vox=patch_vox, batch=batch, accumulate=1, precision=precision, learning_rate=1e-4
    )
    settings = NetworkSettings(channels=CHANNELS, norm=norm, **network)
    return Recipe(name="benchmark", network=settings, training=training)


def ours(recipe: Recipe, device: torch.device) -> tuple[Step, nn.Module]:
    network = build_network(recipe.network, in_channels=4, out_channels=4).train()
    learner = Learner(network, recipe.training, device=device, loss=make_loss(recipe))
    return lambda batch: learner.step([batch]), learner.network


def monai(recipe: Recipe, device: torch.device) -> tuple[Step, nn.Module]:
    """Take MONAI's network and loss; float32 as it comes, bf16 with channels last."""
    from monai.losses import DiceCELoss
    from monai.networks.nets import DynUNet

    levels, half = len(CHANNELS), recipe.training.precision != "fp32"
    network = DynUNet(
        3, 4, 4, kernel_size=[3] * levels, strides=[1, *[2] * (levels - 1)],
        upsample_kernel_size=[2] * (levels - 1), filters=list(CHANNELS),
        norm_name=(recipe.network.norm, {"affine": True}),
    ).to(device).train()  # fmt: skip
    order = LAST if half else torch.contiguous_format
    network = network.to(memory_format=order)
    measure = DiceCELoss(to_onehot_y=True, softmax=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)

    def step(batch: Batch) -> float:
        image, labels = (item.to(device, non_blocking=True) for item in batch)
        optimiser.zero_grad()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            logits = network(image.contiguous(memory_format=order))
        loss = measure(logits.float(), labels[:, None])
        loss.backward()
        optimiser.step()
        return loss.item()

    return step, network


WAYS = {"ours": ours, "MONAI": monai}


def random_batch(recipe: Recipe) -> Batch:
    size = (recipe.training.batch, *recipe.training.patch_vox)
    return torch.randn(size[0], 4, *size[1:]), torch.randint(0, 4, size)


def count(network: nn.Module, image: Tensor) -> dict[str, int]:
    """Count weights, and multiply-adds of a forward and a backward pass over a batch."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        logits = network(image)
        forward = counter.get_total_flops() // 2
        logits.mean().backward()
    network.zero_grad()
    return {
        "weights": sum(item.numel() for item in network.parameters()),
        "weights_but_upsampling_bias": sum(
            item.numel() for name, item in network.named_parameters()
            if not (name.startswith("up.") and name.endswith("bias"))
        ),
        "forward_multiply_adds": forward,
        "step_flop": counter.get_total_flops(),
    }  # fmt: skip


def convolution_gflops(precision: str, device: torch.device, *, rounds: int = 5) -> float:
    """Measure the most that one 3D convolution reaches here: 128 to 128 channels on 32^3 voxels."""
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    image, weight = torch.randn(1, 128, 32, 32, 32), torch.randn(128, 128, 3, 3, 3)
    image, weight = (item.to(device, dtype).to(memory_format=LAST) for item in (image, weight))
    with torch.no_grad():
        least = min(spent_s(lambda: F.conv3d(image, weight, padding=1)) for _ in range(rounds))
    return 2 * 27 * 128 * 128 * 32**3 / least / 1e9


def spent_s(job: Callable[[], object]) -> float:
    """Return the CPU time of a job."""
    began = time.process_time()
    job()
    return time.process_time() - began


def images_per_s(batches: Iterator[Batch], step: Step, *, steps: int, batch: int) -> float:
    """Learn from `steps` batches on a GPU, five others before them, and count the patches."""
    for _ in range(5):
        step(next(batches))
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step(next(batches))
    torch.cuda.synchronize()
    return steps * batch / (time.perf_counter() - began)


class Drawn(torch.utils.data.IterableDataset):
    """Patches of one of the ways in `augmenters.py`, for two loader workers."""

    def __init__(self, name: str, prepared: object) -> None:
        self.name, self.prepared = name, prepared

    def __iter__(self) -> Iterator[Batch]:
        from augmenters import WAYS as AUGMENTERS

        way = AUGMENTERS[self.name][0](self.prepared)
        while True:
            patch = way.vary(way.sample())
            image, labels = patch["image"], patch["labels"][0].long()
            yield torch.as_tensor(image).float(), torch.as_tensor(labels)


def feed_ours(prepared: object, recipe: Recipe, steps: int, device: torch.device) -> Iterator:
    """Feed as `train` does: one thread cuts ahead, patches are varied on the device."""
    import numpy as np

    from bratskit.train import PatchSampler
    from bratskit.train.batches import feed_epoch

    sampler = PatchSampler(
        [prepared],
        patch_vox=recipe.training.patch_vox,
        tumour_share=0.67,
        rng=np.random.default_rng(0),
    )
    training = dataclasses.replace(recipe.training, steps_per_epoch=steps)
    for _, batches in feed_epoch(
        sampler, training, device=device, augmentation=recipe.augmentation
    ):
        yield from batches


def feed_monai(prepared: object, recipe: Recipe, steps: int, device: torch.device) -> Iterator:
    """Feed by MONAI's dictionary transforms in two loader workers."""
    loader = torch.utils.data.DataLoader(
        Drawn("MONAI", prepared),
        batch_size=recipe.training.batch,
        num_workers=2,
        pin_memory=device.type == "cuda",
    )
    return iter(loader)


FEEDS = {"ours": feed_ours, "MONAI": feed_monai}
