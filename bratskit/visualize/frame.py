"""Draw one slice with everything a reader needs to trust it: letters, scale, aspect, legend."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray
from PIL import Image

from bratskit.visualize.slices import (
    ERROR_COLOURS,
    ERRORS,
    LABEL_COLOURS,
    Plane,
    label_name,
    to_grey,
)

__all__ = [
    "PAPER_DPI",
    "Picture",
    "draw_panel",
    "error_handles",
    "label_handles",
    "make_panels",
    "paint",
    "title_figure",
]

PAPER_DPI = 80  # keeps a stored notebook with ten figures under 1 MB
N_GREYS = 96
INK, PALE = "#222222", "#DDDDDD"


class Picture(Figure):
    """A figure that shows itself in a notebook without pyplot, as a PNG of 256 colours.

    A matplotlib figure made without pyplot displays as its name only, and one made with it is
    kept alive by global state. 256 colours are enough for grey images under four label colours
    and store in about half the bytes.
    """

    def to_png(self, *, dpi: float = PAPER_DPI) -> bytes:
        """Return the figure as a palette PNG of `dpi` pixels an inch."""
        full, small = io.BytesIO(), io.BytesIO()
        self.savefig(full, format="png", dpi=dpi)
        rgb = Image.open(full).convert("RGB")
        pixels = np.asarray(rgb)
        picture = rgb.quantize(palette=_palette(pixels), dither=Image.Dither.NONE)
        index = np.array(picture)
        index[(pixels == 255).all(axis=2)] = N_GREYS - 1  # Pillow's match of paper white is near
        exact = Image.fromarray(index)
        exact.putpalette(picture.getpalette())
        exact.save(small, format="png", optimize=True)
        return small.getvalue()

    def _ipython_display_(self) -> None:
        from IPython.display import display

        picture = base64.b64encode(self.to_png()).decode("ascii")
        said = self.get_suptitle().replace("\n", " · ") or "a figure"
        display({"image/png": picture, "text/plain": f"Picture({said})"}, raw=True)


def _palette(rgb: NDArray[np.uint8]) -> Image.Image:
    """Choose 256 colours: greys, the legend's own colours exactly, the rest for what is tinted."""
    greys = np.repeat(np.linspace(0, 255, N_GREYS).astype(np.uint8)[:, None], 3, axis=1)
    legend = np.array([*LABEL_COLOURS.values(), *ERROR_COLOURS.values()], dtype=np.uint8)
    tinted = rgb[np.ptp(rgb, axis=2) > 12]
    chosen = np.zeros((0, 3), dtype=np.uint8)
    if tinted.size:
        spare = 256 - len(greys) - len(legend)
        found = Image.fromarray(tinted[None]).quantize(spare).getpalette()
        chosen = np.array(found, dtype=np.uint8).reshape(-1, 3)[:spare]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([greys, legend, chosen]).tobytes())
    return palette


def make_panels(
    n_rows: int, planes: Sequence[Plane], *, width_in: float, left_in: float = 0.0
) -> tuple[Picture, NDArray]:
    """Make a figure of panels that all have the same millimetres to the inch.

    Args:
        n_rows: Panels downwards.
        planes: One for each column; gives the widths, and the tallest gives the height.
        width_in: Width of all columns together, in inches.
        left_in: Room for row names, in inches.

    Returns:
        The figure, which belongs to no global state, and its axes `(n_rows, n_columns)`.
    """
    widths_mm = [plane.size_mm[1] for plane in planes]
    height_in = width_in / sum(widths_mm) * max(plane.size_mm[0] for plane in planes)
    size = (width_in + left_in, n_rows * (height_in + 0.03) + 0.95)
    figure = Picture(figsize=size, dpi=PAPER_DPI, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.015, h_pad=0.015, wspace=0.0, hspace=0.0)
    axes = figure.subplots(n_rows, len(planes), squeeze=False, width_ratios=widths_mm)
    return figure, axes


def paint(
    grey: NDArray[np.uint8],
    codes: NDArray | None = None,
    *,
    opacity: float = 0.5,
    colours: dict[int, tuple[int, int, int]] = LABEL_COLOURS,
) -> NDArray[np.uint8]:
    """Lay label colours over a grey picture.

    Args:
        grey: `(rows, columns)` 0..255.
        codes: Integers of the same shape, 0 left unpainted; None paints nothing.
        opacity: 0 shows only the image, 1 only the colours.
        colours: RGB of each code.

    Returns:
        `(rows, columns, 3)` 0..255.
    """
    rgb = np.repeat(grey[..., None], 3, axis=2)
    for code, colour in colours.items() if codes is not None else ():
        here = codes == code
        mixed = (1 - opacity) * rgb[here] + opacity * np.array(colour)
        rgb[here] = mixed.astype(np.uint8)
    return rgb


def draw_panel(
    ax: Axes,
    plane: Plane,
    rgb: NDArray[np.uint8],
    *,
    title: str = "",
    outline: NDArray | None = None,
    is_annotated: bool = True,
    height_mm: float | None = None,
) -> None:
    """Show one slice in millimetres, so that anisotropic voxels keep their shape.

    Args:
        ax: Where to draw.
        plane: The slice that `rgb` was cut with.
        rgb: `(rows, columns, 3)` as `paint` returns it.
        title: Said above the panel.
        outline: Labels `(rows, columns)` drawn as contours in their colours.
        is_annotated: Whether the panel carries letters and a scale bar.
        height_mm: Height of the panel; black fills what the slice leaves. None takes the slice's.
    """
    own_mm, width_mm = plane.size_mm
    spare_mm = max(0.0, (height_mm or own_mm) - own_mm) / 2
    extent = (0, width_mm, own_mm, 0)
    ax.imshow(rgb, extent=extent, aspect="equal", interpolation="antialiased")
    if outline is not None:
        _draw_outline(ax, plane, outline)
    ax.set(xticks=[], yticks=[], xlim=(0, width_mm), ylim=(own_mm + spare_mm, -spare_mm))
    ax.set_facecolor("black")
    ax.spines[:].set_visible(False)
    if title:
        ax.set_title(title, fontsize=8, color=INK, pad=3)
    if is_annotated:
        _draw_letters(ax, plane)
        _draw_scale_bar(ax, plane)


def _draw_outline(ax: Axes, plane: Plane, labels: NDArray) -> None:
    height_mm, width_mm = plane.pixel_mm
    rows, columns = labels.shape
    across, down = (np.arange(columns) + 0.5) * width_mm, (np.arange(rows) + 0.5) * height_mm
    for label, colour in LABEL_COLOURS.items():
        mask = labels == label
        if mask.any() and min(mask.shape) > 1:
            line = np.array(colour) / 255
            ax.contour(across, down, mask, levels=[0.5], colors=[line], linewidths=1.1)


def _draw_letters(ax: Axes, plane: Plane) -> None:
    top, bottom, left, right = plane.letters
    places = ((0.5, 0.985, top), (0.5, 0.015, bottom), (0.015, 0.5, left), (0.985, 0.5, right))
    for across, up, letter in places:
        ax.text(
            across, up, letter, transform=ax.transAxes, fontsize=7.5, color=PALE,
            ha={0.015: "left", 0.985: "right"}.get(across, "center"),
            va={0.015: "bottom", 0.985: "top"}.get(up, "center"),
        )  # fmt: skip


def _draw_scale_bar(ax: Axes, plane: Plane) -> None:
    width_mm = plane.size_mm[1]
    length_mm = scale_bar_mm(width_mm)
    low_edge, high_edge = ax.get_ylim()
    height_mm = low_edge - high_edge
    left, low = 0.03 * width_mm, low_edge - 0.03 * height_mm
    ax.plot([left, left + length_mm], [low, low], color=PALE, linewidth=1.8, solid_capstyle="butt")
    ax.text(left, low - 0.015 * height_mm, f"{length_mm} mm", fontsize=6, color=PALE, va="bottom")


def scale_bar_mm(width_mm: float, *, share: float = 0.36) -> int:
    """Choose a round length of at most `share` of the picture.

    Examples:
        >>> scale_bar_mm(160), scale_bar_mm(40)
        (50, 10)
    """
    return next((length for length in (50, 20, 10, 5, 2) if length <= share * width_mm), 1)


def label_handles(labels: Sequence[int] = (1, 2, 3), *, is_outline: bool = False) -> list[Patch]:
    """Make legend entries for tissues."""
    colours = {label: np.array(LABEL_COLOURS[label]) / 255 for label in labels}
    if is_outline:
        return [Line2D([], [], color=colours[label], label=label_name(label)) for label in labels]
    return [Patch(color=colours[label], label=label_name(label)) for label in labels]


def error_handles() -> list[Patch]:
    """Make legend entries for right, missed, false and wrong tissue."""
    return [
        Patch(
            facecolor=np.array(ERROR_COLOURS[code]) / 255, edgecolor="#888888", lw=0.5, label=name
        )
        for code, name in ERRORS.items()
    ]


def title_figure(figure: Figure, title: str, note: str, handles: Sequence[Patch] = ()) -> None:
    """Say once what the figure shows, its convention, and what the colours mean."""
    figure.suptitle(f"{title}\n{note}", fontsize=9, color=INK, linespacing=1.4)
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 8), fontsize=7.5,
            frameon=False, handlelength=1.2, columnspacing=1.4, labelcolor=INK,
        )  # fmt: skip


def grey_slice(plane: Plane, volume: NDArray, window: tuple[float, float]) -> NDArray[np.uint8]:
    """Cut a slice of one modality and map it to grey."""
    return to_grey(plane.cut(volume), window)
