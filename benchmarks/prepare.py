"""Time four `.nii.gz` -> prepared case, ours against plain nibabel + scipy (and MONAI, if there).

Peers and ours take turns in one process, on one thread. Minima of the rounds are compared, in CPU
time, which neighbours on the machine disturb least; only the ratio carries over to another one:

    OMP_NUM_THREADS=1 python benchmarks/prepare.py [CASE_FOLDER] [--rounds 5]
"""

import argparse
import importlib.util
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from bratskit.cases import Case, find_cases, load_scan
from bratskit.labels import MODALITIES
from bratskit.preprocess import prepare_scan
from bratskit.settings import GeometrySettings, Recipe

SIZE_VOX = (128, 128, 128)
GEOMETRIES = {
    "1 mm": GeometrySettings(),
    "2 mm": GeometrySettings(spacing_mm=(2, 2, 2)),
    "128^3": GeometrySettings(size_vox=SIZE_VOX),
}


def ours(case: Case, geometry: GeometrySettings) -> np.ndarray:
    """Load and prepare one case, labels too."""
    recipe = Recipe(name="benchmark", geometry=geometry)
    return prepare_scan(load_scan(case, threads=1), recipe).image


def plain(case: Case, geometry: GeometrySettings) -> np.ndarray:
    """Do the same in the dozen lines that most notebooks have; truth by nearest neighbour."""
    files = [nib.as_closest_canonical(nib.load(case.paths[name])) for name in MODALITIES]
    image = np.stack([file.get_fdata(dtype=np.float32) for file in files])
    labels = np.asarray(nib.as_closest_canonical(nib.load(case.labels_path)).dataobj)
    brain = (image != 0).any(axis=0)
    where = np.nonzero(brain)
    box = tuple(slice(axis.min(), axis.max() + 1) for axis in where)
    image, labels = image[(slice(None), *box)], labels[box]
    for channel in image:
        inside = channel != 0
        channel[inside] = (channel[inside] - channel[inside].mean()) / channel[inside].std()
    shape = _shape(image.shape[1:], files[0].header.get_zooms(), geometry)
    if shape != image.shape[1:]:
        zoom = np.divide(shape, image.shape[1:])
        grid = {"mode": "grid-constant", "grid_mode": True}  # voxel centres as ours has them
        image = np.stack([ndimage.zoom(c, zoom, order=1, **grid) for c in image])
        labels = ndimage.zoom(labels, zoom, order=0, **grid)
    return image


def monai(case: Case, geometry: GeometrySettings) -> np.ndarray:
    """Do the same with MONAI's dictionary transforms."""
    from monai import transforms as mt

    spacing = geometry.spacing_mm
    both, linear = ["image", "labels"], ("bilinear", "nearest")
    chain = [
        mt.LoadImaged(both),
        mt.EnsureChannelFirstd(both),
        mt.Orientationd(both, axcodes="RAS"),
        mt.CropForegroundd(both, source_key="image"),
        mt.NormalizeIntensityd("image", nonzero=True, channel_wise=True),
    ]
    if geometry.size_vox:
        chain.append(mt.Resized(both, geometry.size_vox, mode=("trilinear", "nearest")))
    else:
        chain.append(mt.Spacingd(both, pixdim=spacing, mode=linear))
    paths = {"image": [str(case.paths[name]) for name in MODALITIES]}
    return np.asarray(mt.Compose(chain)({**paths, "labels": str(case.labels_path)})["image"])


def _shape(box: tuple, zooms: tuple, geometry: GeometrySettings) -> tuple[int, int, int]:
    if geometry.size_vox:
        return geometry.size_vox
    return tuple(round(n * z / s) for n, z, s in zip(box, zooms, geometry.spacing_mm, strict=True))


def measure(jobs: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, float]:
    """Return the least CPU time of each job in ms, the jobs taking turns."""
    least = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            started = time.process_time()
            job()
            least[name] = min(least[name], 1e3 * (time.process_time() - started))
    return least


def pick_case(folder: str | None) -> Case:
    """Find the first case of a folder, or make a phantom."""
    if folder:
        return find_cases(folder)[0]
    from bratskit.cases.phantom import make_phantom, write_phantom

    return write_phantom(make_phantom(0), Path(tempfile.mkdtemp(prefix="bratskit-benchmark-")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="folder of cases; a phantom without it")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    case = pick_case(given.folder)
    pipelines = {"ours": ours, "nibabel + scipy": plain}
    if importlib.util.find_spec("monai"):
        pipelines["MONAI"] = monai
    for name, geometry in GEOMETRIES.items():
        jobs = {peer: (lambda f=f, g=geometry: f(case, g)) for peer, f in pipelines.items()}
        least = measure(jobs, given.rounds)
        text = [f"{peer} {ms:.0f} ms ({ms / least['ours']:.1f}x)" for peer, ms in least.items()]
        sys.stdout.write(f"{case.id} to {name}: {', '.join(text)}\n")


if __name__ == "__main__":
    main()
