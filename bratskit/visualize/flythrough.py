"""Write a small GIF that travels through a head, labels laid over the image."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bratskit.cases.case import Scan
from bratskit.runtime import write_atomically
from bratskit.visualize.picture import Palette, frame_panel, stamp, zoom
from bratskit.visualize.slices import (
    AXES,
    CONVENTIONS,
    LABEL_COLOURS,
    Axis,
    Convention,
    check_on_grid,
    intensity_window,
    label_name,
    make_plane,
    modality_index,
    to_grey,
)

__all__ = ["write_flythrough"]

# Tried in this order until the file is small enough: pixels a mm, slices a step, grey levels.
EFFORTS = (
    *((1.7, 1, 48), (1.7, 2, 48), (1.7, 2, 28), (1.3, 2, 28)),
    *((1.0, 3, 20), (1.0, 4, 16), (0.9, 4, 12), (0.7, 4, 12)),
)
STRIP_PX = 58
NARROWEST_PX = 250  # the strip's longest line
CAPTION_PX = 180  # a narrower slice has no room for its axis beside the letter at the top


def write_flythrough(
    scan: Scan,
    labels: NDArray[np.uint8] | None,
    path: Path | str,
    *,
    modality: str = "flair",
    axis: Axis = "axial",
    opacity: float = 0.5,
    seconds: float = 8.0,
    max_bytes: int = 2_000_000,
    convention: Convention = "radiological",
) -> Path:
    """Write a looping GIF of all slices of the brain along one axis, one palette for all of them.

    It begins where there is most tumour, so that paper and a page that does not play it show that.

    Args:
        scan: The patient, native grid.
        labels: Internal labels `(I, J, K)` laid over the image; None lays nothing over.
        path: Where to write, ending in `.gif`; replaced atomically.
        modality: What lies underneath.
        axis: Direction of travel.
        opacity: Of the labels, 0 to 1.
        seconds: Length of one loop.
        max_bytes: Detail is reduced step by step until the file is smaller than this.
        convention: Which side of the picture is the patient's left.

    Returns:
        The path written.

    Raises:
        ValueError: The path is no `.gif`, the labels are on another grid, or a choice is unknown.
    """
    path = Path(path)
    if path.suffix.lower() != ".gif":
        msg = f"path must end in .gif; got {path}. Try {path.with_suffix('.gif')}."
        raise ValueError(msg)
    if labels is not None:
        check_on_grid(labels, scan, name="labels")
    first = make_plane(scan, axis, labels=labels, convention=convention)
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        for px_a_mm, step, n_grey in EFFORTS:
            palette = Palette(opacity=opacity, n_grey=n_grey)
            start, stop = first.box[AXES[axis]]
            indices = [*range(first.index, stop, step), *range(start, first.index, step)]
            planes = [
                make_plane(scan, axis, index, box=first.box, convention=convention)
                for index in indices
            ]
            frames = _frames(scan, labels, planes, palette, modality=modality, px_a_mm=px_a_mm)
            _save(frames, temporary, palette, frame_ms=max(20, round(1000 * seconds / len(planes))))
            if temporary.stat().st_size <= max_bytes:
                return

    write_atomically(path, write)
    return path


def _frames(
    scan: Scan,
    labels: NDArray[np.uint8] | None,
    planes: list,
    palette: Palette,
    *,
    modality: str,
    px_a_mm: float,
) -> Iterator[NDArray[np.uint8]]:
    volume = scan.image[modality_index(modality)]
    window = intensity_window(volume)
    strip = None
    for plane in planes:
        size_px = tuple(max(16, round(length * px_a_mm)) for length in plane.size_mm)
        grey = zoom(to_grey(plane.cut(volume), window), size_px, is_smooth=True)
        fill = None if labels is None else zoom(plane.cut(labels), size_px, is_smooth=False)
        title = plane.caption if size_px[1] >= CAPTION_PX else plane.caption.split(" ", 1)[1]
        panel = frame_panel(palette.place(grey, fill), plane, palette, title=title)
        spare = max(0, NARROWEST_PX - panel.shape[1])
        panel = np.pad(panel, ((0, 0), (spare // 2, spare - spare // 2)))
        if strip is None:
            strip = _strip(scan, palette, panel.shape[1], modality=modality, plane=plane)
        yield np.concatenate([panel, strip])


def _strip(
    scan: Scan, palette: Palette, width_px: int, *, modality: str, plane: object
) -> NDArray[np.uint8]:
    strip = np.zeros((STRIP_PX, width_px), dtype=np.uint8)
    stamp(strip, palette, f"{scan.id}  ·  {modality}", (6, 10), size_px=11)
    stamp(strip, palette, CONVENTIONS[plane.convention], (6, 28), size_px=11)
    left = 6
    for place, label in enumerate(LABEL_COLOURS):
        strip[41:51, left : left + 10] = palette.first_outline + place
        name = label_name(label).split()[0]
        left += 14 + stamp(strip, palette, name, (left + 14, 46), size_px=11) + 12
    return strip


def _save(
    frames: Iterator[NDArray[np.uint8]], path: Path, palette: Palette, *, frame_ms: int
) -> None:
    images = []
    for frame in frames:
        image = Image.fromarray(frame)
        image.putpalette(palette.colours.tobytes())
        images.append(image)
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=frame_ms, loop=0, optimize=False
    )  # fmt: skip
