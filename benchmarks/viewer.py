"""Time one update of the slice viewer beside matplotlib, in turn, in one process."""

import io
import time
from collections.abc import Callable

import nibabel as nib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES, get_schema
from bratskit.visualize import SliceViewer
from bratskit.visualize.frame import paint
from bratskit.visualize.slices import intensity_window, to_grey

ROUNDS = 25


def make_scan() -> Scan:
    """Draw a noisy ellipsoid of the size of a BraTS case."""
    rng = np.random.default_rng(0)
    shape = (240, 240, 155)
    grid = np.ogrid[-1.6:1.6:240j, -1.4:1.4:240j, -1.1:1.1:155j]
    radius = np.sqrt(sum(axis**2 for axis in grid)).astype(np.float32)
    noise = rng.normal(0, 40, (4, *shape)).astype(np.float32)
    image = np.where(radius < 1, 600 + 200 * np.cos(40 * radius) + noise, 0).astype(np.float32)
    far = np.sqrt(sum((axis - 0.3) ** 2 for axis in grid))
    labels = np.select([far < 0.12, far < 0.2, far < 0.34], [1, 3, 2], 0).astype(np.uint8)
    affine = np.eye(4)
    return Scan(
        id="Bench_00000", image=image, labels=labels, affine=affine,
        schema=get_schema("brats2017-2021"), header=nib.Nifti1Header(), disk_affine=affine,
    )  # fmt: skip


def painted(scan: Scan, index: int, windows: list) -> list[np.ndarray]:
    """Cut and colour the four panels that matplotlib shows."""
    codes = scan.labels[:, :, index].T[::-1, ::-1]
    return [
        paint(to_grey(scan.image[channel, :, :, index].T[::-1, ::-1], windows[channel]), codes)
        for channel in range(4)
    ]


def png_of(figure: Figure) -> bytes:
    """Encode a figure as a notebook does."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def matplotlib_redraw(scan: Scan, windows: list) -> Callable[[int], bytes]:
    """Return an update that builds a new figure, as most notebooks do."""

    def update(index: int) -> bytes:
        figure = Figure(figsize=(7.2, 7.2), dpi=80)
        FigureCanvasAgg(figure)
        panels = zip(figure.subplots(2, 2).flat, painted(scan, index, windows), strict=True)
        for number, (ax, rgb) in enumerate(panels):
            ax.imshow(rgb)
            ax.set_title(MODALITIES[number])
            ax.set_axis_off()
        return png_of(figure)

    return update


def matplotlib_set_data(scan: Scan, windows: list) -> Callable[[int], bytes]:
    """Return an update that keeps the figure and exchanges the pictures."""
    figure = Figure(figsize=(7.2, 7.2), dpi=80)
    FigureCanvasAgg(figure)
    shown = [ax.imshow(np.zeros((240, 240, 3), np.uint8)) for ax in figure.subplots(2, 2).flat]
    for picture in shown:
        picture.axes.set_axis_off()

    def update(index: int) -> bytes:
        for picture, rgb in zip(shown, painted(scan, index, windows), strict=True):
            picture.set_data(rgb)
        return png_of(figure)

    return update


def bratskit_viewer(scan: Scan) -> Callable[[int], bytes]:
    """Return an update of our viewer, four modalities under filled labels."""
    viewer = SliceViewer(scan)
    viewer.modality.value = "all four"

    def update(index: int) -> bytes:
        viewer._is_held = True  # the observer would draw as well
        viewer.index.value = index
        viewer._is_held = False
        return viewer.render()

    return update


def main() -> None:
    """Interleave the rounds and print the best time of each, and the ratios."""
    scan = make_scan()
    windows = [intensity_window(volume) for volume in scan.image]
    updates = {
        "bratskit render": bratskit_viewer(scan),
        "matplotlib set_data": matplotlib_set_data(scan, windows),
        "matplotlib redraw": matplotlib_redraw(scan, windows),
    }
    best_ms = dict.fromkeys(updates, np.inf)
    sizes = dict.fromkeys(updates, 0)
    for index in range(60, 60 + ROUNDS):
        for name, update in updates.items():
            began = time.perf_counter()
            sizes[name] = len(update(index))
            best_ms[name] = min(best_ms[name], 1000 * (time.perf_counter() - began))
    ours = best_ms["bratskit render"]
    for name, value in best_ms.items():
        print(
            f"{name:22} {value:7.1f} ms  {sizes[name] / 1024:5.0f} KiB  {value / ours:5.1f}x ours"
        )


if __name__ == "__main__":
    main()
