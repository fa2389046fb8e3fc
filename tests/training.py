"""Make prepared cases for the tests of training: a brain with a tumour, small and on disk."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import torch

from bratskit.cases import Split
from bratskit.networks import load_checkpoint
from bratskit.preprocess import Geometry, Prepared, save_prepared
from bratskit.settings import InferenceSettings, NetworkSettings, Recipe, TrainingSettings
from bratskit.train import Learner

SHAPE = (36, 32, 28)


def make_prepared(
    case_id: str = "Phantom_00000", *, seed: int = 0, shape: tuple[int, int, int] = SHAPE
) -> Prepared:
    """Draw nested spheres of ED, ET and NCR in an ellipsoid brain, each with its own contrast."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"))
    half = np.array(shape)[:, None, None, None] / 2
    mask = (((grid + 0.5 - half) / half) ** 2).sum(0) < 0.95
    centre = np.array(shape) / 2 + rng.uniform(-4, 4, 3)
    radius = np.linalg.norm(grid - centre[:, None, None, None], axis=0)
    labels = np.select([radius < 2.5, radius < 5, radius < 8], [1, 3, 2]).astype(np.uint8)
    contrast = np.array([[0, 1, 3, 2], [0, -1, 0, -1], [0, -1, -1, 3], [0, 3, 2, 1]], np.float32)
    image = contrast[:, labels] + rng.normal(0, 0.4, (4, *shape)).astype(np.float32)
    geometry = Geometry(
        native_shape=shape,
        native_affine=tuple(tuple(row) for row in np.eye(4).tolist()),
    )
    labels = np.where(mask, labels, 0).astype(np.uint8)
    return Prepared(id=case_id, image=image * mask, labels=labels, mask=mask, geometry=geometry)


def fill_store(folder: Path, *, n_cases: int = 3) -> list[str]:
    """Save `n_cases` prepared cases and return their ids."""
    ids = [f"Phantom_{number:05d}" for number in range(n_cases)]
    for seed, case_id in enumerate(ids):
        save_prepared(make_prepared(case_id, seed=seed), folder)
    return ids


def small_recipe(*, dropout: float = 0.0, **training: object) -> Recipe:
    """Return a recipe that trains a step in milliseconds: 16^3 patches, three levels, fp32."""
    settings = {
        "patch_vox": (16, 16, 16),
        "batch": 2,
        "epochs": 4,
        "steps_per_epoch": 3,
        "validate_every": 2,
        "precision": "fp32",
    }
    return Recipe(
        name="small",
        network=NetworkSettings(channels=(4, 8, 16), dropout=dropout),
        training=TrainingSettings(**(settings | training)),
        inference=InferenceSettings(window_vox=(16, 16, 16)),
    )


def small_split(ids: list[str]) -> Split:
    """Train on all patients but the last two: one to validate on, one to leave alone."""
    return Split(train=tuple(ids[:-2]), validation=(ids[-2],), test=(ids[-1],))


def weight_hash(path: Path) -> str:
    """Hash the weights and buffers in a checkpoint, every bit of them."""
    digest = hashlib.sha256()
    for name, value in sorted(load_checkpoint(path).network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def make_learner(network: torch.nn.Module, **changes: object) -> Learner:
    settings = dataclasses.replace(small_recipe().training, warmup=0.0, **changes)
    return Learner(network, settings, device=torch.device("cpu"))


def make_batch(size: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(size, 4, 16, 16, 16, generator=generator)
    return image, torch.randint(0, 4, (size, 16, 16, 16), generator=generator)


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([item.detach().flatten() for item in network.parameters()])


def gradients(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([item.grad.flatten() for item in network.parameters()])
