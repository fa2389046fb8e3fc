"""Paint what the knobs of a phantom show: slices, a curve and lines of text; simulates nothing."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES, REGIONS
from bratskit.visualize.frame import PAPER_DPI
from bratskit.visualize.growth import Curve, draw_curve
from bratskit.visualize.picture import (
    Palette,
    encode_png,
    frame_panel,
    outline_of,
    stack_pictures,
    stamp,
    zoom,
)
from bratskit.visualize.slices import LABEL_COLOURS, Plane, to_grey

__all__ = ["REGION_NAMES", "REGION_RGB", "encode", "paint_curve", "paint_page", "paint_slices"]

# A region has the colour of the tissue that it holds and no region inside it does.
REGION_RGB = dict(zip(("WT", "TC", "ET"), (LABEL_COLOURS[k] for k in (2, 1, 3)), strict=True))
REGION_NAMES = {"WT": "WT whole tumour", "TC": "TC core", "ET": "ET enhancing"}

_CODES = {name: code for code, name in enumerate(REGION_RGB, start=1)}
_PALETTE = Palette(LABEL_COLOURS, {_CODES[name]: rgb for name, rgb in REGION_RGB.items()})
_PX_A_MM = 1.5
_CURVE_PX = (220, 400)  # height and width
_LINE_PX, _LINE_LETTERS = 19, 62
_NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}


def encode(picture: NDArray[np.uint8], *, is_small: bool = False) -> bytes:
    """Write a painted picture as a PNG, see `encode_png`."""
    return encode_png(picture, _PALETTE, is_small=is_small)


def paint_slices(
    scan: Scan, plane: Plane, windows: Sequence[tuple[float, float]], *, has_mask: bool = True
) -> NDArray[np.uint8]:
    """Paint one slice in four modalities, with the rim of each region.

    Args:
        scan: A case with a mask.
        plane: The slice.
        windows: What is drawn black and white in each modality.
        has_mask: Whether the regions are outlined.

    Returns:
        Palette places `(rows, columns)`.
    """
    size_px = tuple(round(length * _PX_A_MM) for length in plane.size_mm)
    outline = _rims(plane.cut(scan.labels), size_px) if has_mask else None
    panels = []
    for channel, name in enumerate(MODALITIES):
        grey = to_grey(plane.cut(scan.image[channel]), windows[channel])
        panel = _PALETTE.place(zoom(grey, size_px, is_smooth=True), None, outline)
        is_first = channel == 0
        title = f"{_NAMES[name]}, K {plane.index}" if is_first else _NAMES[name]
        panels.append(frame_panel(panel, plane, _PALETTE, title=title, has_scale=is_first))
    return stack_pictures(panels, n_columns=2)


def _rims(labels: NDArray, size_px: tuple[int, ...]) -> NDArray[np.uint8]:
    """Keep the outermost pixels of each region; the inner region is drawn over the outer one."""
    rims = np.zeros(size_px, np.uint8)
    for name, code in _CODES.items():
        inside = np.isin(labels, REGIONS[name]).astype(np.uint8)
        rim = outline_of(zoom(inside, size_px, is_smooth=False))
        rims[rim > 0] = code
    return rims


def paint_curve(curve: Curve, point: tuple[float, Mapping[str, float]]) -> NDArray[np.uint8]:
    """Paint volumes against age on black, with a line at the age that is shown.

    Args:
        curve: From `growth_curve`.
        point: Age in days and volumes in ml of what is shown.

    Returns:
        Palette places `(rows, columns)`.
    """
    height_px, width_px = _CURVE_PX
    size = (width_px / PAPER_DPI, height_px / PAPER_DPI)
    figure = Figure(figsize=size, dpi=PAPER_DPI, layout="constrained", facecolor="black")
    canvas = FigureCanvasAgg(figure)
    ax = figure.subplots()
    colours = {name: tuple(np.array(rgb) / 255) for name, rgb in REGION_RGB.items()}
    draw_curve(ax, curve, [point], colours=colours)
    ax.set_facecolor("black")
    ax.grid(visible=True, color="#333333", linewidth=0.8)
    ax.tick_params(labelcolor="#CCCCCC")
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
        text.set_color("#CCCCCC")
    ax.axvline(point[0], color="#888888", linewidth=0.8, linestyle=":")
    canvas.draw()
    return _to_palette(np.asarray(canvas.buffer_rgba())[:height_px, :width_px, :3].copy())


def _to_palette(rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Find the nearest colour of the palette for every pixel."""
    palette = Image.new("P", (1, 1))
    palette.putpalette(_PALETTE.colours.tobytes())
    return np.array(Image.fromarray(rgb).quantize(palette=palette, dither=Image.Dither.NONE))


def paint_page(
    slices: NDArray[np.uint8], curve: NDArray[np.uint8], lines: Sequence[str]
) -> NDArray[np.uint8]:
    """Put slices, curve, legend and text beside each other, for a page on which nothing moves."""
    column = np.zeros((slices.shape[0], curve.shape[1]), np.uint8)
    column[: curve.shape[0]] = curve
    row, left = curve.shape[0] + 16, 8
    for name, code in _CODES.items():
        column[row - 5 : row + 5, left : left + 10] = _PALETTE.first_outline + code - 1
        left += 14 + stamp(column, _PALETTE, REGION_NAMES[name], (left + 14, row), size_px=11) + 8
    for part in (part for line in lines for part in wrap(line, _LINE_LETTERS)):
        row += _LINE_PX
        stamp(column, _PALETTE, part, (8, row), size_px=11)
    return np.concatenate([slices, column], axis=1)
