"""Paint slices as palette PNGs in milliseconds, with numpy look-up tables and Pillow only."""

import io
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bratskit.visualize.frame import scale_bar_mm
from bratskit.visualize.slices import LABEL_COLOURS, Plane

__all__ = ["Palette", "encode_png", "frame_panel", "outline_of", "stack_pictures", "zoom"]

Rgb = tuple[int, int, int]
MARGIN_PX = 18  # room for the letters around a panel
FAINT, BRIGHT = 0.62, 0.92  # share of white of text on black


class Palette:
    """256 colours: greys, greys tinted by each fill colour, and pure outline colours.

    A picture is an array of places in the palette, so changing opacity changes 768 bytes.

    Args:
        fills: RGB of each fill code, codes from 1 upwards.
        outlines: RGB of each outline code.
        opacity: Of the fills, 0 to 1.
        n_grey: Grey levels; fewer pack smaller.
    """

    def __init__(
        self,
        fills: Mapping[int, Rgb] = LABEL_COLOURS,
        outlines: Mapping[int, Rgb] = LABEL_COLOURS,
        *,
        opacity: float = 0.5,
        n_grey: int = 96,
    ) -> None:
        self.n_grey = n_grey
        self.n_tint = min(n_grey, (256 - n_grey - len(outlines)) // len(fills))
        self.first_outline = self.n_grey + self.n_tint * len(fills)
        grey = np.linspace(0, 255, self.n_grey)[:, None].repeat(3, axis=1)
        under = np.linspace(0, 255, self.n_tint)[:, None]
        tinted = [(1 - opacity) * under + opacity * np.array(rgb) for rgb in fills.values()]
        pure = [np.array([rgb]) for rgb in outlines.values()]
        self.colours = np.concatenate([grey, *tinted, *pure]).astype(np.uint8)
        levels = np.arange(256)
        rows = [levels * self.n_grey // 256]
        rows += [
            self.n_grey + self.n_tint * place + levels * self.n_tint // 256
            for place in range(len(fills))
        ]
        self.table = np.array(rows, dtype=np.uint8)

    def place(
        self,
        grey: NDArray[np.uint8],
        fill: NDArray[np.uint8] | None = None,
        outline: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Look the palette place of every pixel up.

        Args:
            grey: `(rows, columns)` 0..255.
            fill: Fill code of each pixel, 0 none.
            outline: Outline code of each pixel, 0 none; drawn over everything.
        """
        where = grey if fill is None else (fill.astype(np.uint16) << 8) | grey
        picture = self.table.take(where)  # one flat look-up is twice as fast as table[fill, grey]
        if outline is not None:
            drawn = outline > 0
            picture[drawn] = self.first_outline + outline[drawn] - 1
        return picture

    def grey_place(self, share: float) -> int:
        """Return the palette place of a grey, 0 black to 1 white."""
        return round(share * (self.n_grey - 1))


def encode_png(picture: NDArray[np.uint8], palette: Palette, *, is_small: bool = False) -> bytes:
    """Write palette places as a PNG.

    Args:
        picture: `(rows, columns)`.
        palette: Colours of the places.
        is_small: Whether to spend about eight times longer to save a seventh of the bytes.
    """
    image = Image.fromarray(picture)
    image.putpalette(palette.colours.tobytes())
    file = io.BytesIO()
    how = {"compress_level": 6} if is_small else {"compress_type": zlib.Z_RLE}
    image.save(file, format="png", **how)
    return file.getvalue()


def zoom(
    picture: NDArray[np.uint8], size_px: tuple[int, int], *, is_smooth: bool
) -> NDArray[np.uint8]:
    """Resize to `(rows, columns)`: smoothly for intensities, nearest for codes."""
    if picture.shape == size_px:
        return np.ascontiguousarray(picture)
    how = Image.Resampling.BILINEAR if is_smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size_px[::-1], how))


def outline_of(codes: NDArray[np.uint8], *, width_px: int = 1) -> NDArray[np.uint8]:
    """Keep only the pixels of each code that touch another code (4-connected).

    Examples:
        >>> outline_of(np.pad(np.full((3, 3), 2, np.uint8), 1))[2].tolist()
        [0, 2, 0, 2, 0]
    """
    inner = codes > 0
    for axis in (0, 1):
        ahead = np.take(codes, range(width_px, codes.shape[axis]), axis=axis)
        behind = np.take(codes, range(codes.shape[axis] - width_px), axis=axis)
        same = np.zeros((2, *codes.shape), dtype=bool)
        first = [slice(None)] * 2
        last = [slice(None)] * 2
        first[axis], last[axis] = slice(None, -width_px), slice(width_px, None)
        same[0][tuple(first)] = ahead == behind
        same[1][tuple(last)] = ahead == behind
        inner &= same[0] & same[1]
    return np.where(inner, 0, codes)


def frame_panel(
    panel: NDArray[np.uint8],
    plane: Plane,
    palette: Palette,
    *,
    title: str,
    has_scale: bool = True,
) -> NDArray[np.uint8]:
    """Set a black margin with orientation letters, a title and a scale bar around a panel."""
    rows, columns = panel.shape
    framed = np.zeros((rows + 2 * MARGIN_PX, columns + 2 * MARGIN_PX), dtype=np.uint8)
    framed[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX] = panel
    top, bottom, left, right = plane.letters
    middle_x, middle_y = framed.shape[1] // 2, framed.shape[0] // 2
    spots = (
        (middle_x, MARGIN_PX // 2, top),
        (middle_x, framed.shape[0] - MARGIN_PX // 2, bottom),
        (MARGIN_PX // 2, middle_y, left),
        (framed.shape[1] - MARGIN_PX // 2, middle_y, right),
    )
    for across, down, letter in spots:
        stamp(framed, palette, letter, (across, down), anchor="mm", share=BRIGHT)
    stamp(framed, palette, title, (6, MARGIN_PX // 2), anchor="lm", share=FAINT)
    if has_scale:
        _draw_scale_bar(framed, plane, palette, px_a_mm=columns / plane.size_mm[1])
    return framed


def _draw_scale_bar(
    framed: NDArray[np.uint8], plane: Plane, palette: Palette, *, px_a_mm: float
) -> None:
    length_mm = scale_bar_mm(plane.size_mm[1], share=0.25)
    stop = 6 + round(length_mm * px_a_mm)
    low = framed.shape[0] - MARGIN_PX // 2
    framed[low - 1 : low + 1, 6:stop] = palette.grey_place(FAINT)
    stamp(framed, palette, f"{length_mm} mm", (stop + 5, low), anchor="lm", share=FAINT)


def stack_pictures(pictures: Sequence[NDArray[np.uint8]], *, n_columns: int) -> NDArray[np.uint8]:
    """Put pictures of one size into a grid."""
    rows = [
        np.concatenate(pictures[start : start + n_columns], axis=1)
        for start in range(0, len(pictures), n_columns)
    ]
    return np.concatenate(rows, axis=0)


def stamp(
    picture: NDArray[np.uint8],
    palette: Palette,
    text: str,
    spot: tuple[int, int],
    *,
    anchor: str = "lm",
    share: float = BRIGHT,
    size_px: int = 12,
) -> int:
    """Write grey text onto a black part of a picture, in place.

    Args:
        picture: Palette places `(rows, columns)`.
        palette: Gives the greys.
        text: What is written.
        spot: Column and row of the anchor.
        anchor: Pillow's: "lm" left middle, "mm" centre.
        share: Brightness, 0 black to 1 white.
        size_px: Letter height.

    Returns:
        Width of the text, so that the next can follow it.
    """
    letters = _letters(text, size_px)
    height, width = letters.shape
    column = spot[0] - (width // 2 if anchor[0] == "m" else 0)
    row = spot[1] - height // 2
    target = picture[max(row, 0) : row + height, max(column, 0) : column + width]
    ink = letters[: target.shape[0], : target.shape[1]]
    np.maximum(target, (ink * (share * (palette.n_grey - 1) / 255)).astype(np.uint8), out=target)
    return width


@lru_cache(maxsize=512)
def _letters(text: str, size_px: int) -> NDArray[np.uint8]:
    font = _font(size_px)
    width = max(1, round(font.getlength(text)) + 1)
    image = Image.new("L", (width, size_px + 5))
    ImageDraw.Draw(image).text((0, (size_px + 5) // 2), text, fill=255, font=font, anchor="lm")
    return np.asarray(image)


@lru_cache(maxsize=8)
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # matplotlib ships this font, so pictures look the same on every machine
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size_px)
