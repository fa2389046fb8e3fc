"""Show a training patch as a scan, and what augmentation makes of it, side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bratskit.cases.case import Scan
from bratskit.labels import MODALITIES
from bratskit.visualize.frame import (
    Picture,
    draw_panel,
    grey_slice,
    label_handles,
    make_panels,
    paint,
    title_figure,
)
from bratskit.visualize.slices import (
    CONVENTIONS,
    MODALITY_NAMES,
    intensity_window,
    make_plane,
    modality_index,
)

__all__ = ["draw_variants", "patch_scan"]


def patch_scan(
    image: ArrayLike,
    labels: ArrayLike,
    *,
    like: Scan,
    name: str,
    affine: NDArray[np.float64],
    modalities: Sequence[str] = MODALITIES,
) -> Scan:
    """Wrap a prepared patch as a scan, so that every figure can show it.

    Args:
        image: `(C, I, J, K)`, a channel for each of `modalities`.
        labels: Internal labels `(I, J, K)`.
        like: Scan of the patient; gives edition and header.
        name: Said as the case id.
        affine: Voxel to world `(4, 4)` of the patch, mm.
        modalities: What the channels are; a modality that is not among them is 0.

    Raises:
        ValueError: There is not one name for each channel.
    """
    image = np.asarray(image, dtype=np.float32)
    if len(image) != len(modalities):
        msg = (
            f"modalities must name each of the {len(image)} channels; got {tuple(modalities)}. "
            "A recipe's own are recipe.modalities."
        )
        raise ValueError(msg)
    full = np.zeros((len(MODALITIES), *image.shape[1:]), dtype=np.float32)
    full[[modality_index(modality) for modality in modalities]] = image
    return Scan(
        id=name,
        image=full,
        labels=np.asarray(labels).astype(np.uint8),
        affine=affine,
        schema=like.schema,
        header=like.header,
        disk_affine=affine,
    )


def draw_variants(
    scans: Mapping[str, Scan],
    *,
    modalities: Sequence[str] = ("flair", "t1ce"),
    opacity: float = 0.45,
) -> Picture:
    """Draw one slice of several versions of a patch: a column a version, a row a modality.

    Args:
        scans: Versions by name, all of one shape and with labels. The first decides which axial
            slice is shown, and which intensities are black and white: others are seen against it.
        modalities: Rows.
        opacity: Of the labels, 0 to 1; they lie over the last row alone.

    Raises:
        ValueError: There is no version, or two have different shapes.
    """
    shapes = {scan.image.shape for scan in scans.values()}
    if len(shapes) != 1:
        msg = f"scans must hold versions of one shape; got {sorted(shapes)}. Vary one patch."
        raise ValueError(msg)
    first = next(iter(scans.values()))
    whole = tuple((0, length) for length in first.image.shape[1:])
    plane = make_plane(first, box=whole)
    figure, axes = make_panels(len(modalities), [plane] * len(scans), width_in=9.0, left_in=0.2)
    for row, modality in enumerate(modalities):
        channel = modality_index(modality)
        window = intensity_window(first.image[channel])
        for column, (name, scan) in enumerate(scans.items()):
            codes = plane.cut(scan.labels) if row == len(modalities) - 1 else None
            grey = grey_slice(plane, scan.image[channel], window)
            draw_panel(axes[row, column], plane, paint(grey, codes, opacity=opacity),
                       title=name if row == 0 else "", is_annotated=column == 0)  # fmt: skip
        axes[row, 0].set_ylabel(MODALITY_NAMES[modality], fontsize=8)
    note = f"{CONVENTIONS[plane.convention]} · windows of the first column"
    title_figure(figure, f"{first.id}  ·  {plane.caption}", note, label_handles())
    return figure
