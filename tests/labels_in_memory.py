"""Label one random volume in a process of its own and print, in bytes, what it took and its bound.

    python tests/labels_in_memory.py i,j,k I,J,K window memory_bytes precision

Run by test_stream.py: peak memory is a process's, and never falls again.
"""

import ctypes
import gc
import json
import sys
from pathlib import Path

import numpy as np
import torch

from bratskit.networks import UNet
from bratskit.predict import label_prepared
from bratskit.predict.memory import bytes_of_pass, bytes_of_slabs
from bratskit.preprocess import Crop, Geometry, Prepared, Resize
from bratskit.settings import GeometrySettings, InferenceSettings, Recipe, TrainingSettings


def status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field)))


def make_prepared(shape: tuple[int, ...], native: tuple[int, ...]) -> Prepared:
    """Draw noise on a grid that lies two voxels inside a native one and is resampled to it."""
    box = tuple((2, length - 2) for length in native)
    geometry = Geometry(
        native_shape=native,
        native_affine=tuple(map(tuple, np.eye(4).tolist())),
        steps=(Crop(box), Resize(shape)),
    )
    image = np.random.default_rng(0).standard_normal((4, *shape), dtype=np.float32)
    return Prepared(
        id="noise", image=image, mask=np.ones(shape, bool), labels=None, geometry=geometry
    )


def main() -> None:
    shape, native = (tuple(map(int, word.split(","))) for word in sys.argv[1:3])
    window, memory_bytes = (int(word) for word in sys.argv[3:5])
    torch.set_num_threads(1)
    recipe = Recipe(
        name="test",
        geometry=GeometrySettings(spacing_mm=None),
        training=TrainingSettings(patch_vox=(window,) * 3, precision=sys.argv[5]),
        inference=InferenceSettings(mode="single", window_vox=(window,) * 3),
    )
    network = UNet(4, 4, channels=(4, 8, 16)).eval()
    warm = make_prepared((window,) * 3, (window + 4,) * 3)
    label_prepared(network, warm, recipe, device="cpu")  # lazy imports and caches
    prepared = make_prepared(shape, native)
    least = bytes_of_slabs(network, prepared.image.shape, recipe, prepared.geometry)
    whole = bytes_of_pass(network, prepared.image.shape, recipe)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # or what was freed would be given again unseen
    Path("/proc/self/clear_refs").write_text("5")
    before = status_bytes("VmRSS")
    labels = label_prepared(
        network, prepared, recipe, device="cpu", memory_bytes=memory_bytes or least
    )
    took = status_bytes("VmHWM") - before - labels.nbytes
    sys.stdout.write(json.dumps({"took": took, "least": least, "whole": whole}) + "\n")


if __name__ == "__main__":
    main()
