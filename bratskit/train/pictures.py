"""Draw what a run looks like while it learns, small and with Pillow alone: curves and overlays."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from bratskit.labels import REGIONS
from bratskit.preprocess import Prepared
from bratskit.runtime import write_atomically

__all__ = ["SHOWN_ON", "draw_curves", "draw_overlay"]

SHOWN_ON = {"WT": "flair", "TC": "t2", "ET": "t1ce"}  # where each region is told apart best
# Okabe and Ito (2008): told apart with every common colour vision
COLOURS = {"WT": (0, 114, 178), "TC": (204, 121, 167), "ET": (230, 159, 0), "loss": (40, 40, 40)}
PANEL_PX = 176  # side of a panel; three of them and a caption take about 60 kB
CAPTION_PX = 14
FRAMES = 16  # slices of an animation, spread over the tumour
FRAME_MS = 250
GREY = (120, 120, 120)


def draw_overlay(
    prepared: Prepared, pred: NDArray[np.uint8], folder: Path, *, epoch: int
) -> list[Path]:
    """Draw each region on the modality that shows it: WT on FLAIR, TC on T2, ET on T1ce.

    What was predicted is filled, the truth is outlined. Axial slices of the prepared grid, patient
    left on the right.

    Args:
        prepared: A validation case with labels.
        pred: Predicted internal labels `(i, j, k)` on the prepared grid.
        folder: Where the files go; made where it is missing.
        epoch: Part of their names.

    Returns:
        A PNG of the slice with most tumour, and a GIF of slices spread over the tumour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truth = np.asarray(prepared.labels)
    tumour = (truth > 0).sum(axis=(0, 1))
    busiest = int(tumour.argmax()) if tumour.any() else truth.shape[2] // 2
    filled = np.flatnonzero(tumour)
    ends = (filled[0], filled[-1]) if filled.size else (busiest, busiest)
    slices = sorted({round(at) for at in np.linspace(*ends, FRAMES)})
    pages = {at: _draw_slice(prepared, pred, truth, at, epoch=epoch) for at in {busiest, *slices}}
    still, moving = (folder / f"overlay_epoch_{epoch:04d}.{kind}" for kind in ("png", "gif"))
    write_atomically(still, lambda path: pages[busiest].save(path, optimize=True))
    first, *rest = (pages[at].quantize(64) for at in slices)
    write_atomically(
        moving,
        lambda path: first.save(path, save_all=True, append_images=rest, duration=FRAME_MS, loop=0),
    )
    return [still, moving]


def draw_curves(history: Sequence[Mapping[str, object]], path: Path) -> Path:
    """Draw the training loss and, where validated, the Dice of each region against the epoch.

    Args:
        history: One row an epoch.
        path: PNG to write; its folder is made where it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    page = Image.new("RGB", (640, 240), "white")
    draw = ImageDraw.Draw(page)
    epochs = [float(row.get("epoch", at)) for at, row in enumerate(history, start=1)]
    losses = [row.get("loss") for row in history]
    known = [value for value in losses if value is not None]
    top = max(known, default=1.0) or 1.0
    _draw_panel(draw, (50, 24, 300, 206), epochs, {"loss": losses}, top=top, title="training loss")
    dice = {name: [row.get(f"dice_{name}") for row in history] for name in REGIONS}
    _draw_panel(draw, (370, 24, 590, 206), epochs, dice, top=1.0, title="validation Dice")
    write_atomically(path, lambda temporary: page.save(temporary, optimize=True))
    return path


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    epochs: Sequence[float],
    lines: Mapping[str, Sequence[float | None]],
    *,
    top: float,
    title: str,
) -> None:
    """Draw lines that begin at 0 and end at `top`, each with its last value."""
    left, upper, right, lower = box
    draw.rectangle(box, outline=GREY)
    draw.text((left, upper - 14), title, fill=COLOURS["loss"])
    draw.text((left - 34, upper - 4), f"{top:.3g}", fill=GREY)
    draw.text((left - 12, lower - 10), "0", fill=GREY)
    draw.text((right - 60, lower + 4), f"epoch {epochs[-1]:.0f}" if epochs else "", fill=GREY)
    longest = max(epochs, default=1.0)
    for number, (name, values) in enumerate(lines.items()):
        points = [
            (left + (right - left) * epoch / longest, lower - (lower - upper) * value / top)
            for epoch, value in zip(epochs, values, strict=True)
            if value is not None
        ]
        if not points:
            continue
        draw.line(points, fill=COLOURS[name], width=2)
        last = next(value for value in reversed(values) if value is not None)
        place = (right + 4, upper + 12 * number)
        draw.text(place, f"{name} {last:.3f}", fill=COLOURS[name])


def _draw_slice(
    prepared: Prepared, pred: NDArray, truth: NDArray, at: int, *, epoch: int
) -> Image.Image:
    page = Image.new("RGB", (3 * PANEL_PX, PANEL_PX + CAPTION_PX), "black")
    draw = ImageDraw.Draw(page)
    for number, (region, modality) in enumerate(SHOWN_ON.items()):
        shown = modality if modality in prepared.modalities else prepared.modalities[0]
        channel = prepared.modalities.index(shown)
        panel = _draw_region(
            np.asarray(prepared.image[channel : channel + 1, :, :, at : at + 1])[0, :, :, 0],
            np.isin(pred[:, :, at], REGIONS[region]),
            np.isin(truth[:, :, at], REGIONS[region]),
            COLOURS[region],
        )
        page.paste(panel, (number * PANEL_PX, CAPTION_PX))
        draw.text((number * PANEL_PX + 2, 1), f"{region} on {shown}", fill=COLOURS[region])
        draw.text((number * PANEL_PX + 2, CAPTION_PX + PANEL_PX // 2), "R", fill="white")
    words = f"{prepared.id}, K = {at}, epoch {epoch}; filled: predicted, line: truth"
    draw.text((2, PANEL_PX + 1), words, fill="white")
    return page


def _draw_region(
    grey: NDArray[np.floating], pred: NDArray[np.bool_], truth: NDArray[np.bool_], colour: tuple
) -> Image.Image:
    """Lay one region over one slice `(i, j)`, turned as a radiologist looks at it."""
    inside = grey != 0
    low, high = np.percentile(grey[inside], (1, 99.5)) if inside.any() else (0.0, 1.0)
    level = np.clip((grey - low) / max(high - low, 1e-6), 0, 1) * 255 * inside
    picture = np.repeat(level[..., None], 3, axis=2)
    picture[pred] = 0.55 * picture[pred] + 0.45 * np.array(colour)
    picture[_outline(truth)] = 255
    turned = picture.transpose(1, 0, 2)[::-1, ::-1].astype(np.uint8)
    panel = Image.fromarray(np.ascontiguousarray(turned))
    scale = min(PANEL_PX / panel.width, PANEL_PX / panel.height)
    size = max(1, round(panel.width * scale)), max(1, round(panel.height * scale))
    framed = Image.new("RGB", (PANEL_PX, PANEL_PX))
    place = (PANEL_PX - size[0]) // 2, (PANEL_PX - size[1]) // 2
    framed.paste(panel.resize(size, Image.Resampling.NEAREST), place)
    return framed


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark the voxels of a mask `(i, j)` that have a neighbour outside of it."""
    wide = np.pad(mask, 1)
    inner = wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner
