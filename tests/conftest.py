"""Give every test the same small ingredients: a generator, a seed, synthetic cases, a network."""

import contextlib
import os
import random
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bratskit.cases.case import Case
from bratskit.labels import MODALITIES, get_schema

REAL_CASES = Path(__file__).parents[1] / ".." / "shared" / "data" / "brats"

# Orientation of every BraTS file: first axis to the right, second to the back (nibabel: LPS).
BRATS_AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])


# A shell that runs the suite in the background has Ctrl-C ignored, and every child inherits that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a fresh generator with seed 0."""
    return np.random.default_rng(0)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep journals of the data doctor out of the home folder, also those of subprocesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BRATSKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Seed the global generators and put torch's back; tests without torch do not import it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test may read the global state
    torch = sys.modules.get("torch")
    with torch.random.fork_rng(devices=[]) if torch else contextlib.nullcontext():
        if torch:
            torch.manual_seed(0)
        yield
        if torch:
            torch.use_deterministic_algorithms(False)


def synthetic_labels(shape: tuple[int, int, int]) -> np.ndarray:
    """Draw an ED box with an ET box in it and an NCR core in that; internal labels 0-3."""
    labels = np.zeros(shape, dtype=np.uint8)
    middle = [length // 2 for length in shape]
    for value, half in ((2, 4), (3, 3), (1, 1)):
        box = tuple(slice(max(m - half, 0), m + half) for m in middle)
        labels[box] = value
    return labels


def texture_of(case_id: str, shape: tuple[int, int, int]) -> np.ndarray:
    """Draw what is a patient's own, from the name: without it all cases look like one patient."""
    return np.random.default_rng(zlib.crc32(case_id.encode())).normal(0, 40, shape)


def synthetic_image(
    labels: np.ndarray, rng: np.random.Generator, channel: int, texture: np.ndarray
) -> np.ndarray:
    """Draw one modality: a noisy ellipsoid brain on zero, tissue offsets that differ by channel."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in labels.shape), indexing="ij")
    brain = sum(axis**2 for axis in grid) < 0.8
    offsets = {"flair": (0, 90, 160, 120), "t1": (0, -60, -30, -20)}
    offsets |= {"t1ce": (0, -50, -20, 200), "t2": (0, 150, 140, 80)}
    tissue = np.array(offsets[MODALITIES[channel]])[labels]
    noise = rng.normal(0, 10, labels.shape)
    return np.where(brain | (labels > 0), 300 + 40 * channel + tissue + noise + texture, 0).astype(
        np.int16
    )


@pytest.fixture
def write_case(rng: np.random.Generator) -> Callable[..., Case]:
    """Return a function that writes a small four-modality BraTS-style case and names it."""

    def write(
        folder: Path,
        case_id: str = "BraTS20_Training_001",
        *,
        shape: tuple[int, int, int] = (24, 28, 20),
        affine: np.ndarray | None = None,
        modalities: tuple[str, ...] = MODALITIES,
        labels: np.ndarray | str | None = "default",
        image: np.ndarray | None = None,
        schema: str = "brats2017-2021",
        flat: bool = False,
        suffix: str = ".nii.gz",
        dtype: type = np.int16,
    ) -> Case:
        """Write `<folder>/<case_id>/<case_id>_<modality>.nii.gz` and `..._seg.nii.gz`.

        Args:
            folder: Parent folder; the case gets its own folder in it unless `flat`.
            case_id: Name of the case.
            shape: Voxels of the grid on disk.
            affine: Voxel to world of the file; None takes BraTS's own.
            modalities: Files to write; leave one out to make a broken case.
            labels: Values of the file on disk, in the schema's own integers; "default" draws all
                three tissues, None writes no mask.
            image: `(4, I, J, K)` intensities; None draws an ellipsoid brain with that tumour.
            schema: Edition whose integers the default mask is written in.
            flat: Put the files into `folder` itself.
            suffix: `.nii` or `.nii.gz`.
            dtype: Integer type of the images on disk.
        """
        edition = get_schema(schema)
        internal = synthetic_labels(shape)
        if isinstance(labels, str):
            lookup = np.array([edition.to_source[value] for value in range(4)], dtype=np.uint8)
            labels = lookup[internal]
        place = folder if flat else folder / case_id
        place.mkdir(parents=True, exist_ok=True)
        affine = BRATS_AFFINE if affine is None else affine

        def save(array: np.ndarray, kind: str) -> Path:
            path = place / f"{case_id}_{kind}{suffix}"
            file = nib.Nifti1Image(array, affine)
            file.header.set_xyzt_units("mm", "sec")
            file.set_qform(affine, code=1)
            file.set_sform(affine, code=1)
            nib.save(file, path)
            return path

        paths = {}
        for modality in modalities:
            channel = MODALITIES.index(modality)
            array = (
                image[channel]
                if image is not None
                else synthetic_image(internal, rng, channel, texture_of(case_id, shape))
            )
            paths[modality] = save(np.asarray(array).astype(dtype), modality)
        mask = None if labels is None else save(np.asarray(labels).astype(np.uint8), "seg")
        return Case(id=case_id, paths=paths, labels_path=mask, schema=edition)

    return write


@pytest.fixture(scope="session")
def phantom_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Return one full-size phantom written to disk, made once a session; treat it as read-only."""
    phantom = pytest.importorskip("bratskit.cases.phantoms")
    made = phantom.make_phantom(0)
    return phantom.write_phantom(made, tmp_path_factory.mktemp("phantom"))


@pytest.fixture
def tiny_unet() -> object:
    """Return a two-level U-Net (4 channels in, 4 labels out) with the test's own seed."""
    unet = pytest.importorskip("bratskit.networks.unet")
    return unet.UNet(4, 4, channels=(4, 8))


@pytest.fixture(scope="session")
def real_cases() -> Path:
    """Return the folder of real BraTS cases, skipping where this machine has none."""
    folder = Path(os.environ.get("BRATSKIT_REAL_CASES", REAL_CASES))
    if not folder.is_dir():
        pytest.skip(f"no real BraTS cases at {folder}; set BRATSKIT_REAL_CASES to their folder")
    return folder.resolve()
