"""Lay many labelled cases out in one picture, one voxel a pixel: four modalities and the mask."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES, REGIONS
from bratskit.visualize.picture import BRIGHT, FAINT, Palette, encode_png, stamp, zoom
from bratskit.visualize.slices import (
    CONVENTIONS,
    LABEL_COLOURS,
    MODALITY_NAMES,
    Axis,
    Plane,
    brain_box,
    intensity_window,
    label_name,
    make_plane,
    to_grey,
)

__all__ = ["Tile", "draw_gallery", "make_tile"]

PANEL_MM = (180, 146)  # height and width of a panel: room for the largest BraTS brains
_CAPTION_PX, _HEAD_PX, _GAP_PX = 17, 46, 14
_SCALE_MM = 50
_PALETTE = Palette(n_grey=64, opacity=0.5)


@dataclass(frozen=True)
class Tile:
    """One case of a gallery, already cut; a whole scan need not be kept for it.

    Attributes:
        grey: A panel for each modality `(4, rows, columns)`, 0..255.
        mask: Internal labels `(rows, columns)`.
        caption: Id, slice and volumes.
        letters: Directions at the left and right of the panels.
    """

    grey: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    caption: str
    letters: tuple[str, str]


def make_tile(scan: Scan, *, note: str = "", axis: Axis = "axial", px_a_mm: float = 1.0) -> Tile:
    """Cut the slice with most tumour out of a scan.

    Args:
        scan: A case with a mask.
        note: Said after its id.
        axis: "axial", "coronal" or "sagittal".
        px_a_mm: Pixels a millimetre; 1 shows the voxels of BraTS as they are.

    Raises:
        ValueError: The scan has no mask.
    """
    if scan.labels is None:
        msg = f"scan {scan.id} must carry labels; got none. A gallery shows images and masks."
        raise ValueError(msg)
    plane = make_plane(scan, axis, box=brain_box(scan.image, margin_vox=0))
    size_px = tuple(round(length * px_a_mm) for length in plane.size_mm)
    panel_px = tuple(round(length * px_a_mm) for length in PANEL_MM)
    panels = [to_grey(plane.cut(volume), intensity_window(volume)) for volume in scan.image]
    grey = [_centre(zoom(panel, size_px, is_smooth=True), panel_px) for panel in panels]
    mask = zoom(plane.cut(scan.labels).astype(np.uint8), size_px, is_smooth=False)
    return Tile(
        grey=np.stack(grey),
        mask=_centre(mask, panel_px),
        caption=_caption(scan, plane, note),
        letters=plane.letters[2:],
    )


def draw_gallery(
    tiles: Sequence[Tile], *, title: str, n_across: int = 2, px_a_mm: float = 1.0
) -> bytes:
    """Draw a block of five panels a case: FLAIR, T1, T1ce, T2, and the mask over FLAIR.

    Args:
        tiles: What `make_tile` cut, all with the same `px_a_mm`.
        title: Said above.
        n_across: Cases beside each other.
        px_a_mm: As in `make_tile`; sets the scale bars.

    Returns:
        A palette PNG, lossless, so that what looks like a block or a seam is one.

    Raises:
        ValueError: There are no tiles.
    """
    if not tiles:
        msg = "tiles must hold at least one case; got none. Cut them with `make_tile(scan)`."
        raise ValueError(msg)
    blocks = [_block(tile, px_a_mm) for tile in tiles]
    empty = np.zeros_like(blocks[0])
    blocks += [empty] * (-len(blocks) % n_across)
    gap = np.zeros((empty.shape[0], _GAP_PX), np.uint8)
    rows = []
    for start in range(0, len(blocks), n_across):
        parts = [part for block in blocks[start : start + n_across] for part in (block, gap)]
        rows.append(np.concatenate(parts[:-1], axis=1))
    body = np.concatenate(rows)
    panel_px = tiles[0].mask.shape[1]
    head = _head(body.shape[1], title, panel_px, n_across, empty.shape[1])
    return encode_png(np.concatenate([head, body]), _PALETTE, is_small=True)


def _caption(scan: Scan, plane: Plane, note: str) -> str:
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    sizes = [
        f"{name} {np.isin(scan.labels, members).sum() * voxel_ml:.3g}"
        for name, members in REGIONS.items()
    ]
    said = f"{scan.id}  {note}" if note else scan.id
    return f"{said}  ·  {plane.caption}  ·  {', '.join(sizes)} ml"


def _centre(picture: NDArray[np.uint8], panel_px: tuple[int, ...]) -> NDArray[np.uint8]:
    """Put a picture into the middle of a black panel, cutting what is too large."""
    panel = np.zeros(panel_px, np.uint8)
    source, target = [], []
    for have, room in zip(picture.shape, panel_px, strict=True):
        shown = min(have, room)
        source.append(slice((have - shown) // 2, (have - shown) // 2 + shown))
        target.append(slice((room - shown) // 2, (room - shown) // 2 + shown))
    panel[tuple(target)] = picture[tuple(source)]
    return panel


def _block(tile: Tile, px_a_mm: float) -> NDArray[np.uint8]:
    panels = [_PALETTE.place(grey) for grey in tile.grey]
    panels.append(_PALETTE.place(tile.grey[0], tile.mask))
    row = np.concatenate(panels, axis=1)
    middle = row.shape[0] // 2
    for letter, column in zip(tile.letters, (7, tile.mask.shape[1] - 7), strict=True):
        stamp(row, _PALETTE, letter, (column, middle), anchor="mm", share=FAINT, size_px=11)
    low = row.shape[0] - 5
    row[low : low + 2, 4 : 4 + round(_SCALE_MM * px_a_mm)] = _PALETTE.grey_place(BRIGHT)
    caption = np.zeros((_CAPTION_PX, row.shape[1]), np.uint8)
    stamp(caption, _PALETTE, tile.caption, (4, _CAPTION_PX // 2), share=BRIGHT, size_px=12)
    return np.concatenate([caption, row])


def _head(
    width_px: int, title: str, panel_px: int, n_across: int, block_px: int
) -> NDArray[np.uint8]:
    """Write the title, the convention, the legend and the names of the columns."""
    head = np.zeros((_HEAD_PX, width_px), np.uint8)
    note = f"bar {_SCALE_MM} mm  ·  windows: 1st to 99.5th percentile of each brain"
    right = stamp(head, _PALETTE, title, (4, 11), size_px=14)
    stamp(
        head, _PALETTE, f"{CONVENTIONS['radiological']}  ·  {note}", (right + 18, 12), share=FAINT
    )
    column = width_px - 380
    for number, code in enumerate(LABEL_COLOURS):
        head[6:17, column : column + 11] = _PALETTE.first_outline + number
        column += 16 + stamp(head, _PALETTE, label_name(code), (column + 15, 12)) + 14
    for block in range(n_across):
        for number, name in enumerate(
            [*(MODALITY_NAMES[m] for m in MODALITIES), "mask over FLAIR"]
        ):
            middle = block * (block_px + _GAP_PX) + number * panel_px + panel_px // 2
            stamp(head, _PALETTE, name, (middle, 35), anchor="mm", size_px=13)
    return head
