"""Show what voxels of several sizes make of one exact border: masks, shares, volumes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from bratskit.visualize.frame import INK, PAPER_DPI, Picture, title_figure
from bratskit.visualize.slices import CONVENTIONS

if TYPE_CHECKING:  # it brings torch, a second or two
    from bratskit.cases.phantoms import Phantom

__all__ = ["coarsen", "draw_voxels"]

_BORDER, _MASK = "#D55E00", "#56B4E9"  # Okabe and Ito (2008)
_MARGIN_VOX = 6


def coarsen(share: NDArray, step: int) -> NDArray[np.float64]:
    """Say how much of each wide voxel a region fills, from what it fills of the fine ones.

    Args:
        share: Share of each voxel `(I, J, K)`, 0 to 1; a mask of 0 and 1 will do.
        step: How many fine voxels make a wide one along each axis.

    Returns:
        `(ceil(I/step), ...)`; beyond the edge there is nothing of the region.

    Raises:
        ValueError: The step is not a whole number above 0.

    Examples:
        >>> coarsen(np.ones((2, 2, 3)), 2).tolist()
        [[[1.0, 0.5]]]
    """
    if step != int(step) or step < 1:
        msg = f"step must be a whole number above 0; got {step}. 2 makes eight voxels one."
        raise ValueError(msg)
    step = int(step)
    ends = [(0, -n % step) for n in share.shape]
    whole = np.pad(np.asarray(share, dtype=np.float64), ends)
    sizes = [part for n in whole.shape for part in (n // step, step)]
    return whole.reshape(sizes).mean(axis=(1, 3, 5))


def draw_voxels(
    phantom: "Phantom", region: str = "ET", *, steps: Sequence[int] = (1, 2, 4)
) -> Picture:
    """Draw a region's exact border over the voxels that it fills, and the mask that results.

    Args:
        phantom: Whose; its voxels should be fine, 1 mm.
        region: "WT", "TC" or "ET".
        steps: How many of its voxels make one along each axis, a panel each.

    Returns:
        Panels of the axial slice with most of the region. Grey is the share of a voxel that the
        region fills, blue the rim of the mask (more than half), orange the border itself.

    Raises:
        ValueError: The region is unknown, or the phantom has none of it.
    """
    from bratskit.cases.phantoms import partial_volumes

    share = partial_volumes(phantom, region)
    if not share.any():
        msg = f"region must be in {phantom.scan.id}; got {region}, of which it has none."
        raise ValueError(msg)
    exact_ml = phantom.truth["volumes_ml"]["continuous"][region]
    k = int(share.sum(axis=(0, 1)).argmax())
    frame = _frame(share[:, :, k])
    size = (8.8, 8.8 / len(steps) * (frame[3] - frame[2]) / (frame[1] - frame[0]) + 1.15)
    figure = Picture(figsize=size, dpi=PAPER_DPI, layout="constrained", facecolor="white")
    spacing_mm = phantom.scan.spacing_mm
    level = phantom.level_sets[region][:, :, k]
    for ax, step in zip(figure.subplots(1, len(steps), squeeze=False)[0], steps, strict=True):
        coarse = coarsen(share, step)
        _draw_panel(ax, coarse[:, :, k // step], level, step, frame)
        voxel_ml = float(np.prod(spacing_mm)) * step**3 / 1000
        counted = float((coarse > 0.5).sum()) * voxel_ml
        added = float(coarse.sum()) * voxel_ml
        title = (
            f"voxels of {step * spacing_mm[0]:g} mm\ncounted {counted:.1f} ml, parts {added:.1f} ml"
        )
        ax.set_title(title, fontsize=8, color=INK, pad=3)
    handles = [
        Patch(facecolor="#BBBBBB", label="share of the voxel that is filled"),
        Line2D([], [], color=_MASK, label="mask: more than half"),
        Line2D([], [], color=_BORDER, label="exact border"),
    ]
    note = f"{CONVENTIONS['radiological']} · exact volume {exact_ml:.1f} ml"
    title_figure(figure, f"{phantom.scan.id}, {region}, axial K = {k}", note, handles)
    return figure


def _frame(share: NDArray) -> tuple[int, int, int, int]:
    """Return first and last voxel along I, then along J, of a frame around a region."""
    i, j = (np.flatnonzero(share.any(axis=axis)) for axis in (1, 0))
    i0, i1, j0, j1 = (
        i[0] - _MARGIN_VOX,
        i[-1] + _MARGIN_VOX,
        j[0] - _MARGIN_VOX,
        j[-1] + _MARGIN_VOX,
    )
    return int(i0), int(i1) + 1, int(j0), int(j1) + 1


def _draw_panel(
    ax: Axes, share: NDArray, level: NDArray, step: int, frame: tuple[int, int, int, int]
) -> None:
    """Draw wide voxels in coordinates of fine ones, patient left on the right."""
    width, height = (n * step for n in share.shape)
    ax.imshow(share.T, extent=(0, width, 0, height), origin="lower", cmap="gray", vmin=0, vmax=1,
              interpolation="nearest")  # fmt: skip
    _draw_steps(ax, share > 0.5, step)
    across, up = (np.arange(n) + 0.5 for n in level.shape)
    ax.contour(across, up, level.T, levels=[0.0], colors=[_BORDER], linewidths=1.2)
    ax.set(xticks=[], yticks=[], xlim=(frame[1], frame[0]), ylim=(frame[2], frame[3]))
    ax.spines[:].set_visible(False)


def _draw_steps(ax: Axes, mask: NDArray[np.bool_], step: int) -> None:
    """Draw the sides of voxels that part the mask from the rest."""
    padded = np.pad(mask, 1).astype(np.int8)
    sides = []
    for axis in (0, 1):
        along = np.eye(2, dtype=int)[1 - axis]
        starts = np.argwhere(np.diff(padded, axis=axis) != 0) - along
        sides += [(start * step, (start + along) * step) for start in starts]
    ax.add_collection(LineCollection(sides, colors=_MASK, linewidths=1.3))
