"""Sample a patch and vary it, ours and the peers' way: what `benchmarks/train.py` times.

Every way does the same operations on every patch, each as its package offers it: a tumour-aware
place, mirrors along three axes (each with probability 1/2), a turn by up to 15 degrees, a zoom by
up to 15 %, a smooth bending of a few voxels, labels by the nearest voxel, gamma that keeps mean and
deviation, noise of up to 0.1, a blur of sigma 0.5 to 1, sampling at up to twice the voxel size, a
factor and a shift of each channel within 0.1, and one channel set to 0. Ranges are ours; where a
package has none of its own for an operation, two lines of torch stand in.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

PATCH_VOX = (128, 128, 64)
TURN_RAD = 0.26


class Way(NamedTuple):
    """Two steps that are timed apart: `vary` takes what `sample` gives, and may change it."""

    sample: Callable[[], object]
    vary: Callable[[object], object]


def ours(prepared: object) -> Way:
    from bratskit.settings import AugmentationSettings
    from bratskit.train import PatchSampler, apply_augmentation, draw_augmentation

    rng = np.random.default_rng(0)
    sampler = PatchSampler([prepared], patch_vox=PATCH_VOX, tumour_share=0.67, rng=rng)
    names = [name for name in AugmentationSettings.__dataclass_fields__ if name.endswith("_share")]
    every = replace(AugmentationSettings(**dict.fromkeys(names, 1.0)), flip_share=0.5)

    def vary(batch: tuple[torch.Tensor, torch.Tensor]) -> object:
        params = draw_augmentation(rng, 1, every, channels=batch[0].shape[1])
        shape = params.gamma.shape  # every channel is blurred, where our draw leaves half of them
        params = replace(params, blur_vox=rng.uniform(0.5, 1, shape))
        params = replace(params, coarse_vox=1 / rng.uniform(0.5, 0.99, shape))
        return apply_augmentation(*batch, params)

    return Way(lambda: sampler.sample(1), vary)


def monai(prepared: object) -> Way:
    """Dictionary transforms; the whole case is held in memory, as by `CacheDataset`."""
    from monai import transforms as mt

    both = ("image", "labels")
    image, labels = np.array(prepared.image, dtype=np.float32), np.array(prepared.labels)[None]
    case = {"image": torch.from_numpy(image), "labels": torch.from_numpy(labels)}
    case = mt.FgBgToIndicesd("labels")(case)
    crop = mt.RandCropByPosNegLabeld(
        both, "labels", PATCH_VOX, pos=2, neg=1,
        fg_indices_key="labels_fg_indices", bg_indices_key="labels_bg_indices",
    )  # fmt: skip
    chain = mt.Compose(
        [
            *(mt.RandFlipd(both, prob=0.5, spatial_axis=axis) for axis in range(3)),
            mt.Rand3DElasticd(  # turn and zoom in the same resampling
                both, sigma_range=(5, 8), magnitude_range=(100, 200), prob=1,
                rotate_range=(TURN_RAD,) * 3, scale_range=(0.15,) * 3,
                mode=("bilinear", "nearest"), padding_mode="zeros",
            ),
            mt.RandGaussianNoised("image", prob=1, std=0.1),
            mt.RandGaussianSmoothd("image", *[(0.5, 1.0)] * 3, prob=1),
            mt.RandSimulateLowResolutiond("image", prob=1, zoom_range=(0.5, 1.0)),
            mt.RandAdjustContrastd("image", prob=1, gamma=(0.7, 1.42), retain_stats=True),
            mt.RandScaleIntensityd("image", factors=0.1, prob=1),
            mt.RandShiftIntensityd("image", offsets=0.1, prob=1),
            mt.Lambdad("image", _drop_channel),
        ]
    )  # fmt: skip
    return Way(lambda: crop(case)[0], chain)


def torchio(prepared: object) -> Way:
    import torchio as tio

    image, labels = np.array(prepared.image, dtype=np.float32), np.array(prepared.labels)[None]
    subject = tio.Subject(
        image=tio.ScalarImage(tensor=torch.from_numpy(image)),
        labels=tio.LabelMap(tensor=torch.from_numpy(labels)),
    )
    sampler = tio.LabelSampler(PATCH_VOX, "labels", {0: 1, 1: 1, 2: 1, 3: 1})
    chain = tio.Compose(
        [
            tio.RandomFlip(axes=(0, 1, 2), flip_probability=0.5),
            tio.RandomAffine(scales=0.15, degrees=np.degrees(TURN_RAD)),
            tio.RandomElasticDeformation(num_control_points=7, max_displacement=5),
            tio.RandomNoise(std=(0, 0.1)),
            tio.RandomBlur(std=(0.5, 1)),
            tio.RandomAnisotropy(downsampling=(1.01, 2)),
            tio.RandomGamma(log_gamma=0.35),
            tio.Lambda(_scale_and_shift, types_to_apply=[tio.INTENSITY]),
            tio.Lambda(_drop_channel, types_to_apply=[tio.INTENSITY]),
        ]
    )
    return Way(lambda: next(iter(sampler(subject, num_patches=1))), chain)


def batchgenerators(prepared: object) -> Way:
    """batchgeneratorsv2, as nnU-Net builds its chain, but for labels by the nearest voxel."""
    from batchgeneratorsv2.transforms.intensity.brightness import (
        BrightnessAdditiveTransform,
        MultiplicativeBrightnessTransform,
    )
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform

    apart = {"synchronize_channels": False}
    chain = [
        SpatialTransform(
            PATCH_VOX, 0, random_crop=False,
            p_elastic_deform=1, elastic_deform_scale=(0.1, 0.2), elastic_deform_magnitude=(1, 5),
            p_rotation=1, rotation=(-TURN_RAD, TURN_RAD), p_scaling=1, scaling=(0.85, 1.15),
            mode_seg="nearest",
        ),
        GaussianNoiseTransform(noise_variance=(0, 0.1), **apart),
        GaussianBlurTransform(blur_sigma=(0.5, 1), **apart),
        SimulateLowResolutionTransform(
            scale=(0.5, 1), synchronize_axes=True, ignore_axes=(), **apart
        ),
        GammaTransform(
            gamma=(0.7, 1.42), p_invert_image=0, p_per_channel=1, p_retain_stats=1, **apart
        ),
        MultiplicativeBrightnessTransform(multiplier_range=(0.9, 1.1), **apart),
        BrightnessAdditiveTransform(mu=0, sigma=0.1, **apart),
        MirrorTransform((0, 1, 2)),
    ]  # fmt: skip
    rng = np.random.default_rng(0)

    def sample() -> dict[str, torch.Tensor]:
        from bratskit.preprocess import read_patch
        from bratskit.train.patches import draw_start

        start = draw_start(rng, prepared, patch_vox=PATCH_VOX, tumour_share=0.67)
        image, labels = read_patch(prepared, start, PATCH_VOX)
        return {
            "image": torch.from_numpy(image),
            "segmentation": torch.from_numpy(labels.astype(np.int16))[None],
        }

    def vary(patch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        for transform in chain:
            patch = transform(**patch)
        _drop_channel(patch["image"])
        return patch

    return Way(sample, vary)


def _scale_and_shift(image: torch.Tensor) -> torch.Tensor:
    wide = (len(image), 1, 1, 1)
    return image * (1 + 0.1 * (2 * torch.rand(wide) - 1)) + 0.1 * (2 * torch.rand(wide) - 1)


def _drop_channel(image: torch.Tensor) -> torch.Tensor:
    image[int(torch.randint(len(image), ()))] = 0
    return image


# Name, how it is built, and the module that it needs.
WAYS = {
    "ours": (ours, "bratskit"),
    "batchgeneratorsv2": (batchgenerators, "batchgeneratorsv2"),
    "MONAI": (monai, "monai"),
    "TorchIO": (torchio, "torchio"),
}


def installed() -> list[str]:
    """Name the ways that this machine can run."""
    return [name for name, (_, module) in WAYS.items() if importlib.util.find_spec(module)]


def store_case(folder: str | None, wanted: str | None, store: Path) -> object:
    """Prepare one case at 1 mm, a real one of a folder or a phantom, and open it from the store."""
    from bratskit.cases import find_cases
    from bratskit.cases.phantoms import make_cohort
    from bratskit.preprocess import load_prepared, open_prepared, save_prepared
    from bratskit.settings import GeometrySettings, Recipe

    if folder is None:
        make_cohort(store / "phantoms", n_cases=1, seed=0)
        folder = store / "phantoms"
    case = next(case for case in find_cases(folder) if wanted in (None, case.id))
    recipe = Recipe(name="benchmark", geometry=GeometrySettings())
    prepared = load_prepared(case, recipe, threads=1)
    return open_prepared(save_prepared(prepared, store / "store"))
