"""Weigh and time both forms of the prepared store, beside nnU-Net's own where it is installed.

    python benchmarks/store.py CASES [--most N] [--phantoms 2] [--rounds 40]

1. Each case is prepared at 1 mm in its brain box and saved in both forms: bytes, and CPU time of
   loading, preparing and saving on one thread. Cases are told apart by how their files store
   intensities, because a case of 256 grey values compresses better than one of 20,000.
2. The mean is carried to the 1,251 cases of BraTS 2021 and to Kaggle's 20 GB of output.
3. Patches of 4x128x128x64 with labels are read warm at random places, all forms in turn in one
   process on one thread; CPU time. Read a ratio as +-20 %, absolute times do not carry over.
"""

import argparse
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from bratskit.cases import Case, find_cases
from bratskit.cases.phantoms import make_cohort
from bratskit.preprocess import Prepared, load_prepared, open_prepared, read_patch, save_prepared
from bratskit.preprocess.budget import FORMS
from bratskit.settings import GeometrySettings, Recipe

RECIPE = Recipe(name="benchmark", geometry=GeometrySettings())
PATCH_VOX = (128, 128, 64)
N_BRATS, KAGGLE_GB = 1251, 20.0


def weigh(case: Case, folder: Path) -> dict[str, tuple[int, float]]:
    """Return bytes on disk and seconds from files to store, by form."""
    found = {}
    for form in FORMS:
        started = time.process_time()
        place = save_prepared(load_prepared(case, RECIPE, threads=1), folder / form, form=form)
        seconds = time.process_time() - started
        found[form] = sum(path.stat().st_size for path in place.iterdir()), seconds
    return found


def report_weights(cases: Sequence[Case], folder: Path) -> None:
    """Print bytes and seconds a case, by how the files store intensities."""
    groups: dict[str, list[dict[str, tuple[int, float]]]] = {}
    for case in cases:
        stored = nib.load(case.paths["t1ce"]).get_data_dtype()
        groups.setdefault(f"{stored}", []).append(weigh(case, folder))
    for name, found in groups.items():
        for form in FORMS:
            size = np.array([item[form][0] for item in found]) / 1e6
            seconds = np.median([item[form][1] for item in found])
            cohort_gb = size.mean() * N_BRATS / 1000
            fits = "fits" if cohort_gb < KAGGLE_GB else "does not fit"
            say(
                f"{len(found)} cases of {name}, {form}: {size.mean():.2f} MB a case "
                f"({size.min():.2f} to {size.max():.2f}), {seconds:.2f} CPU s a case; "
                f"{N_BRATS} cases take {cohort_gb:.1f} GB and leave "
                f"{KAGGLE_GB - cohort_gb:.1f} of {KAGGLE_GB:.0f} GB: {fits}"
            )


def nnunet_reader(prepared: Prepared, folder: Path) -> Callable[[tuple], object]:
    """Save a case as nnU-Net does and return a function that reads a patch as nnU-Net does."""
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    folder.mkdir()
    module = importlib.import_module("nnunetv2.training.dataloading.nnunet_dataset")
    image, labels = np.asarray(prepared.image, np.float32), prepared.labels[None].astype(np.int8)
    # As nnU-Net's preprocessor does: blocks and chunks for the patch of its own plan.
    blocks, chunks = module.comp_blosc2_params(image.shape, PATCH_VOX, image.itemsize)
    blocks_seg, chunks_seg = module.comp_blosc2_params(labels.shape, PATCH_VOX, labels.itemsize)
    nnUNetDatasetBlosc2.save_case(
        image, labels, {}, str(folder / "case"), chunks, blocks, chunks_seg, blocks_seg
    )
    cases = nnUNetDatasetBlosc2(str(folder), ["case"])

    def read(start: tuple) -> tuple:
        part = (slice(None), *(slice(a, a + n) for a, n in zip(start, PATCH_VOX, strict=True)))
        data, seg, _, _ = cases.load_case("case")
        return data[part], seg[part]

    return read


def report_patches(case: Case, folder: Path, rounds: int) -> None:
    """Print the median time of a patch in each form."""
    prepared = load_prepared(case, RECIPE, threads=1)
    readers = {}
    for form in FORMS:
        stored = open_prepared(save_prepared(prepared, folder / form, form=form))
        readers[form] = lambda start, stored=stored: read_patch(stored, start, PATCH_VOX)
    if importlib.util.find_spec("nnunetv2"):
        readers["nnU-Net"] = nnunet_reader(prepared, folder / "nnunet")
        size = sum(path.stat().st_size for path in (folder / "nnunet").iterdir()) / 1e6
        say(f"nnU-Net stores {case.id} in {size:.1f} MB")
    room = np.array(prepared.geometry.shape) - PATCH_VOX
    rng = np.random.default_rng(0)
    times = {name: [] for name in readers}
    for _ in range(rounds):
        start = tuple(int(at) for at in rng.integers(0, np.maximum(room, 0), endpoint=True))
        for name, read in readers.items():
            started = time.process_time()
            read(start)
            times[name].append(1e3 * (time.process_time() - started))
    medians = {name: float(np.median(found)) for name, found in times.items()}
    for name, median in medians.items():
        say(
            f"patch of 4x{'x'.join(map(str, PATCH_VOX))}, {name}: median {median:.1f} ms, least "
            f"{min(times[name]):.1f} ms ({median / medians['fast']:.1f}x fast)"
        )


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="folder of cases; phantoms alone without it")
    parser.add_argument("--most", type=int, help="cases to weigh")
    parser.add_argument("--phantoms", type=int, default=2, help="phantoms, stored as int16")
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # peers' own
    with tempfile.TemporaryDirectory(prefix="bratskit-store-") as temporary:
        folder = Path(temporary)
        phantoms = []
        if given.phantoms:
            phantoms = make_cohort(folder / "cases", n_cases=given.phantoms, seed=0)
        cases = find_cases(given.folder)[: given.most] if given.folder else []
        if cases:
            say(f"Real cases of {given.folder}")
            report_weights(cases, folder / "store")
        if phantoms:
            say("Phantoms")
            report_weights(phantoms, folder / "store")
        report_patches([*cases, *phantoms][0], folder / "patches", given.rounds)


if __name__ == "__main__":
    main()
