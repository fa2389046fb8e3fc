"""Draw where training patches lie and cut them from the store, never reading a whole volume."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from bratskit.labels import LABELS
from bratskit.preprocess import Prepared, read_patch

__all__ = ["PatchPlace", "PatchSampler", "draw_start", "stack_patches"]

Triple = tuple[int, int, int]
Shares = Sequence[tuple[str, float]]


class PatchPlace(NamedTuple):
    """Say where one patch lies.

    Attributes:
        case: Index of the prepared case.
        start: First voxel along I, J, K; negative where the patch begins outside the box.
    """

    case: int
    start: Triple


class PatchSampler:
    """Draw patches at random, tumour more often than chance would show it.

    Drawing (one generator, cheap) is kept apart from cutting (disk, slow), so that a thread may
    cut ahead while the generator's state still belongs to the batch that was drawn.

    Args:
        prepared: Training cases with labels and a foreground index.
        patch_vox: Size of a patch along I, J, K.
        tumour_share: Probability that a patch is centred near a tumour voxel. The label is drawn
            first, uniformly over those present in the case, because enhancing tumour would
            otherwise be drowned by oedema.
        rng: The one source of randomness.
        label_share: How often each label is drawn instead, as `TrainingSettings.label_share`.

    Raises:
        ValueError: There are no cases, or one has no labels.
    """

    def __init__(
        self,
        prepared: Sequence[Prepared],
        *,
        patch_vox: Triple,
        tumour_share: float,
        rng: np.random.Generator,
        label_share: Shares = (),
    ) -> None:
        _refuse_unlabelled(prepared)
        self.prepared = list(prepared)
        self.patch_vox = patch_vox
        self.tumour_share = tumour_share
        self.label_share = tuple(label_share)
        self.rng = rng

    @property
    def modalities(self) -> tuple[str, ...]:
        """Name of each channel of a patch."""
        return self.prepared[0].modalities

    def draw(self, batch: int) -> list[PatchPlace]:
        """Draw the places of `batch` patches, cases uniformly with replacement."""
        return [self._draw_one() for _ in range(batch)]

    def cut(
        self, places: Sequence[PatchPlace]
    ) -> tuple[Float[Tensor, "b c i j k"], Int[Tensor, "b i j k"]]:
        """Read patches from the store.

        Args:
            places: What `draw` returned.

        Returns:
            Image `(B, C, I, J, K)` float32 and labels `(B, I, J, K)` int64, zero outside the box.
        """
        return stack_patches([self.read(place) for place in places])

    def read(self, place: PatchPlace) -> tuple[np.ndarray, np.ndarray]:
        """Read one patch from the store, image and labels as arrays; see `cut`."""
        return read_patch(self.prepared[place.case], place.start, self.patch_vox)

    def sample(self, batch: int) -> tuple[Float[Tensor, "b c i j k"], Int[Tensor, "b i j k"]]:
        """Draw and cut `batch` patches; see `draw` and `cut`."""
        return self.cut(self.draw(batch))

    def ids(self, places: Sequence[PatchPlace]) -> list[str]:
        """Name the cases that patches come from."""
        return [self.prepared[at.case].id for at in places]

    def state_dict(self) -> dict[str, str]:
        """Return the generator's state as JSON text, which a weights-only load accepts."""
        return {"rng": json.dumps(self.rng.bit_generator.state)}

    def load_state_dict(self, state: dict[str, str]) -> None:
        """Go on drawing exactly where `state_dict` was taken."""
        self.rng.bit_generator.state = json.loads(state["rng"])

    def close(self) -> None:
        """Do nothing: the store needs no end; another sampler may."""

    def _draw_one(self) -> PatchPlace:
        case = int(self.rng.integers(len(self.prepared)))
        start = draw_start(
            self.rng,
            self.prepared[case],
            patch_vox=self.patch_vox,
            tumour_share=self.tumour_share,
            label_share=self.label_share,
        )
        return PatchPlace(case, start)


def draw_start(
    rng: np.random.Generator,
    prepared: Prepared,
    *,
    patch_vox: Triple,
    tumour_share: float,
    label_share: Shares = (),
) -> Triple:
    """Draw the first voxel of one patch of a case; `PatchSampler` says how.

    Args:
        rng: The one source of randomness.
        prepared: The case.
        patch_vox: Size of the patch.
        tumour_share: Probability that it is centred near a tumour voxel, where there is one.
        label_share: Which label that voxel has.
    """
    size = np.array(patch_vox)
    room = np.array(prepared.geometry.shape) - size
    lowest, highest = np.minimum(room, 0), np.maximum(room, 0)
    if rng.random() < tumour_share and _present(prepared):
        start = np.clip(_near_tumour(rng, prepared, size, label_share), lowest, highest)
    else:
        start = rng.integers(lowest, highest, endpoint=True)
    return int(start[0]), int(start[1]), int(start[2])


def stack_patches(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
) -> tuple[Float[Tensor, "b c i j k"], Int[Tensor, "b i j k"]]:
    """Make one batch of what `read_patch` gave: image float32, labels int64."""
    images = [image for image, _ in pairs]
    image = np.stack(images) if len(images) > 1 else images[0][None]
    image = image.astype(np.float32, copy=False)
    labels = np.stack([labels for _, labels in pairs]).astype(np.int64)
    return torch.from_numpy(image), torch.from_numpy(labels)


def _near_tumour(
    rng: np.random.Generator, prepared: Prepared, size: np.ndarray, label_share: Shares
) -> np.ndarray:
    voxels = prepared.foreground[_draw_label(rng, _present(prepared), label_share)]
    voxel = np.asarray(voxels[rng.integers(len(voxels))])
    jitter = rng.integers(-(size // 4), size // 4, endpoint=True)
    return voxel - size // 2 + jitter


def _draw_label(rng: np.random.Generator, present: Sequence[int], label_share: Shares) -> int:
    """Draw a label of a case by the stated shares of those it has, or evenly without any."""
    shares = dict(label_share)
    weights = np.array([shares.get(LABELS[label], 0.0) for label in present])
    if not weights.any():
        return present[rng.integers(len(present))]
    return int(rng.choice(present, p=weights / weights.sum()))


def _present(prepared: Prepared) -> list[int]:
    """List the tumour labels a case has, in a fixed order."""
    return sorted(label for label, voxels in prepared.foreground.items() if label and len(voxels))


def _refuse_unlabelled(prepared: Sequence[Prepared]) -> None:
    if not prepared:
        msg = "prepared must hold at least one case; got none. Prepare the training cases first."
        raise ValueError(msg)
    missing = [item.id for item in prepared if not item.has_labels]
    if missing:
        msg = f"prepared must hold labels to learn from; got none for {missing}. Leave them out."
        raise ValueError(msg)
