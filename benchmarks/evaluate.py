"""Time our scores beside SciPy distance transforms (and MONAI where installed) in one process.

    python benchmarks/evaluate.py [--rounds 5]

One pair of BraTS-sized masks (240x240x155), Dice and HD95 of WT, TC and ET. Peer and ours run in
turn; the minimum of each is compared, and the numbers must agree before a time is printed. Read a
ratio as +-20 %; absolute times do not carry over to another machine.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from scipy import ndimage

from bratskit.evaluate import score_masks
from bratskit.labels import REGIONS

SHAPE = (240, 240, 155)  # BraTS grid, 1 mm
Measured = dict[str, tuple[float, float]]


def draw_labels(seed: int) -> np.ndarray:
    """Draw a ragged tumour about as large as BraTS ones are (70 ml whole tumour)."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij", sparse=True)
    level = sum(
        ((axis - at) / half) ** 2
        for axis, at, half in zip(grid, (100, 120, 80), (30, 25, 22), strict=True)
    )
    noise = ndimage.gaussian_filter(rng.normal(size=SHAPE).astype(np.float32), 4)
    level = np.sqrt(level) + 0.15 * noise / noise.std()
    return np.select([level < 0.5, level < 0.7, level < 1], [1, 3, 2], 0).astype(np.uint8)


def ours(pred: np.ndarray, truth: np.ndarray) -> Measured:
    """Score all six regions and labels; the peers below do only the three regions."""
    rows = score_masks(pred, truth, spacing_mm=(1, 1, 1), case="benchmark")
    return {row.name: (row.dice, row.hd95_mm) for row in rows if row.kind == "region"}


def scipy_transforms(pred: np.ndarray, truth: np.ndarray) -> Measured:
    """Do it by eroded outlines and distance transforms, in the box of the pair."""
    box = ndimage.find_objects(((pred | truth) > 0).astype(np.int8))[0]
    found = {}
    for name, labels in REGIONS.items():
        masks = [np.isin(volume[box], labels) for volume in (pred, truth)]
        outlines = [mask & ~ndimage.binary_erosion(mask) for mask in masks]
        to = [ndimage.distance_transform_edt(~outline) for outline in outlines]
        overlap = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
        directed = np.percentile(to[1][outlines[0]], 95), np.percentile(to[0][outlines[1]], 95)
        found[name] = (float(overlap), float(max(directed)))
    return found


def monai_metrics(pred: np.ndarray, truth: np.ndarray) -> Measured:
    """Do it with MONAI's functions on one-hot tensors."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    stacks = [
        torch.from_numpy(np.stack([np.isin(volume, labels) for labels in REGIONS.values()])[None])
        for volume in (pred, truth)
    ]
    overlaps = compute_dice(*stacks)[0].tolist()
    distances_mm = compute_hausdorff_distance(*stacks, include_background=True, percentile=95)
    pairs = zip(overlaps, distances_mm[0].tolist(), strict=True)
    return dict(zip(REGIONS, pairs, strict=True))


def fastest_s(runs: dict[str, Callable[[], Measured]], rounds: int) -> dict[str, float]:
    """Run each in turn, `rounds` times, and keep the fastest of each."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def main() -> None:
    """Compare the numbers, then the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    pred, truth = draw_labels(1), draw_labels(2)
    peers = {"SciPy distance transforms": scipy_transforms}
    try:
        import monai  # noqa: F401

        peers["MONAI"] = monai_metrics
    except ImportError:
        sys.stdout.write("MONAI is not installed: left out\n")
    runs = {"ours": ours, **peers}
    numbers = {name: run(pred, truth) for name, run in runs.items()}
    for name in peers:
        for region in REGIONS:
            np.testing.assert_allclose(numbers[name][region], numbers["ours"][region], rtol=1e-5)
    best = fastest_s({name: partial(run, pred, truth) for name, run in runs.items()}, rounds)
    for name, seconds in best.items():
        ratio = f"{seconds / best['ours']:.1f} times ours"
        sys.stdout.write(f"{name:<26} {1000 * seconds:7.0f} ms   {ratio}\n")


if __name__ == "__main__":
    main()
