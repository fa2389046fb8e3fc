"""Read the MNI152 average brain as maps of bytes, the same on every machine; bends nothing."""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage as ndi

__all__ = ["BRAIN_CENTRE_VOX", "Template", "load_template"]

Bytes = NDArray[np.uint8]

# The part of the 197x233x189 maps of 1 mm that holds the brain, with two voxels of nothing around.
_BRAIN_BOX = (slice(26, 171), slice(27, 208), slice(0, 155))
_MARGIN = 2
# Centre of the template's brain in voxels of the cut maps: MNI (0, -17, 8) mm.
BRAIN_CENTRE_VOX = (98 - 26 + _MARGIN, 117 - 27 + _MARGIN, 80 + _MARGIN)
_MNI_ZERO_VOX = (98 - 26 + _MARGIN, 134 - 27 + _MARGIN, 72 + _MARGIN)

# Deep grey matter as sheared ellipsoids of the right side, MNI mm: centre, half axes, how far x
# moves for each mm of y, least fraction, and whether T1 decides. Read off the template by eye.
_NUCLEI = (
    ((12.5, 13, 6), (7.5, 13, 16), 0.0, 0.0),  # head of the caudate
    ((15.5, -2, 17), (6, 15, 8), -0.12, 0.0),  # body of the caudate
    ((26.5, 3, 0.5), (8, 20, 13), -0.28, 0.35),  # putamen
    ((18.5, -4, -1), (5.5, 10, 7), -0.3, 0.75),  # pallidum: nearly as bright as white matter on T1
    ((11, -17, 7), (10.5, 14, 10), -0.25, 0.5),  # thalamus
)
# Limbic cortex, brighter on FLAIR than the rest: centre and half axes, MNI mm, right side, by eye.
_LIMBIC = (
    ((22, -4, -19), (10, 9, 9)),  # amygdala
    ((27, -24, -14), (9, 18, 8)),  # hippocampus
    ((39, 4, 2), (7, 19, 15)),  # insula
    ((4, 34, 14), (7, 15, 19)),  # anterior cingulate
    ((4, 4, 36), (7, 22, 10)),  # middle cingulate
    ((4, -40, 30), (7, 16, 13)),  # posterior cingulate
)
# Height of the tentorium in the middle: MNI y and z in mm, by eye; it falls to the sides.
_TENTORIUM = ((-120, -38, -28, -14, 2, 20), (-22, 0, -4, -9, -22, -60))
_BRAINSTEM_MM = 19  # half its width; further out are the temporal lobes
# Boxes that hold the ventricles and no other CSF: distance to the middle, y, z, MNI mm, by eye.
_VENTRICLES = (
    ((1, 26), (-36, 18), (9, 34)),  # bodies
    ((5, 26), (0, 38), (-8, 26)),  # frontal horns
    ((1, 12), (0, 18), (-3, 20)),
    ((13, 36), (-56, -26), (-6, 30)),  # atria and occipital horns
    ((0, 5), (-24, 4), (-10, 9)),  # third ventricle
)


@dataclass(frozen=True)
class Template:
    """Tissue maps of the MNI152 average brain, cut to the brain, 1 mm RAS+, symmetric.

    Attributes:
        depth: Distance to the outside of the brain, quarter millimetres, 0 outside;
            `(X, Y, Z, 1)` uint8.
        tissue: `(X, Y, Z, 6)` uint8: white-matter fraction times 255; CSF fraction times 255 (from
            the T1 template: the grey map alone closes the sulci); deep grey matter (caudate,
            putamen, pallidum, thalamus) times 255; distance to the ventricles in quarter mm;
            cerebellum and brain stem times 255; limbic regions times 255.
    """

    depth: torch.Tensor
    tissue: torch.Tensor


def _read(kind: str) -> NDArray[np.int64]:
    """Read a map of bytes, cut to the brain, with nothing around it."""
    spec = importlib.util.find_spec("nilearn")
    name = f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz"
    path = Path(spec.origin).parent / "datasets" / "data" / name if spec and spec.origin else None
    if path is None or not path.exists():
        msg = (
            f"template {name} must come with nilearn; got {path}. "
            "Run: pip install --no-deps nilearn"
        )
        raise FileNotFoundError(msg)
    return np.pad(np.asarray(nib.load(path).dataobj)[_BRAIN_BOX], _MARGIN).astype(np.int64)


def _distance(mask: NDArray[np.bool_]) -> Bytes:
    """Measure the distance to the nearest False voxel on every second voxel; quarter mm.

    Squares of distances are whole numbers and the root is exact; what lies between is the mean.
    """
    root = ndi.distance_transform_edt(mask[::2, ::2, ::2])
    found = np.minimum(np.rint(root * 8), 255).astype(np.int64)
    for axis, n in enumerate(mask.shape):
        low = np.arange(n) // 2
        high = np.minimum((np.arange(n) + 1) // 2, found.shape[axis] - 1)
        found = (found.take(low, axis) + found.take(high, axis) + 1) // 2
    return found.astype(np.uint8)


def _fill(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Fill what the outside does not reach."""
    parts, _ = ndi.label(~mask)
    return parts != parts[0, 0, 0]


def _csf(t1: NDArray, white: NDArray, grey: NDArray, brain: NDArray[np.bool_]) -> Bytes:
    """Take CSF where T1 is darker than grey matter, or where the two tissues leave room."""
    values = np.sort(t1[brain])
    of_csf = int(values[len(values) * 3 // 200])  # the darkest 1.5%
    of_grey = int(np.sort(t1[grey > 200])[(grey > 200).sum() // 2])
    dark = (97 * of_grey - 100 * t1) * 255 // (62 * (of_grey - of_csf))
    room = (200 - white - grey) * 255 // 200
    return np.where(brain, np.clip(np.maximum(dark, room), 0, 255), 255).astype(np.uint8)


def _mni_axes(shape: tuple[int, ...]) -> list[NDArray[np.int64]]:
    """Return MNI millimetres that broadcast to the maps; x is the distance to the middle."""
    lines = np.ogrid[tuple(slice(n) for n in shape)]
    x, y, z = (line - zero for line, zero in zip(lines, _MNI_ZERO_VOX, strict=True))
    return [np.abs(x), y, z]


def _ventricles(csf: Bytes) -> NDArray[np.bool_]:
    """Find lateral and third ventricle: CSF in boxes that leave out fissure and cisterns."""
    x, y, z = _mni_axes(csf.shape)
    inside = np.zeros(csf.shape, np.bool_)
    for (near, far), (back, front), (low, high) in _VENTRICLES:
        inside |= (x >= near) & (x <= far) & (y >= back) & (y <= front) & (z >= low) & (z <= high)
    return inside & (csf > 153)


def _deep_grey(t1: NDArray, csf: Bytes) -> Bytes:
    """Find the nuclei: soft ellipsoids, in which T1 tells grey from white matter."""
    x, y, z = _mni_axes(t1.shape)
    evidence = np.clip((211.0 - t1) * (1 / 20), 0, 1)  # 180 to 200 in the nuclei, 213 in white
    found = np.zeros(t1.shape)
    for centre, axes, shear, least in _NUCLEI:
        dx = (x - centre[0] - shear * (y - centre[1])) / axes[0]
        dy, dz = (y - centre[1]) / axes[1], (z - centre[2]) / axes[2]
        inside = np.clip((1.2 - (dx * dx + dy * dy + dz * dz)) * 2.5, 0, 1)
        np.maximum(found, inside * np.maximum(evidence, least), out=found)
    return np.floor(found * (255 - csf.astype(np.float64))).astype(np.uint8)


def _hindbrain(shape: tuple[int, ...]) -> Bytes:
    """Find cerebellum and brain stem, what lies under the tentorium, with a border of 6 mm."""
    x, y, z = _mni_axes(shape)
    roof = np.interp(y, *_TENTORIUM) - 0.009 * x * x
    under = np.clip((roof - z) * (1 / 6) + 0.5, 0, 1)
    behind = np.clip((-36 - y) * (1 / 6) + 0.5, 0, 1)
    stem = np.clip((_BRAINSTEM_MM - x) * (1 / 6) + 0.5, 0, 1)
    return np.floor(under * np.maximum(behind, stem) * 255).astype(np.uint8)


def _limbic(shape: tuple[int, ...]) -> Bytes:
    """Find the limbic regions: soft ellipsoids."""
    x, y, z = _mni_axes(shape)
    found = np.zeros(shape)
    for centre, axes in _LIMBIC:
        dx, dy, dz = ((a - c) / n for a, c, n in zip((x, y, z), centre, axes, strict=True))
        inside = np.clip((1.5 - (dx * dx + dy * dy + dz * dz)) * 1.5, 0, 1)
        np.maximum(found, inside, out=found)
    return np.floor(found * 255).astype(np.uint8)


@lru_cache(maxsize=1)
def _maps() -> tuple[Bytes, Bytes]:
    """Make the maps once per process: depth `(1, X, Y, Z)` and tissue `(6, X, Y, Z)`."""
    white, grey, t1 = (_read(kind) for kind in ("wm", "gm", "t1"))
    brain = _fill(t1 > 0)
    csf = _csf(t1, white, grey, brain)
    depth = _distance(brain)
    near = _distance(~_ventricles(csf))
    places = _hindbrain(t1.shape), _limbic(t1.shape)
    tissue = np.stack([white.astype(np.uint8), csf, _deep_grey(t1, csf), near, *places])
    return depth[None], tissue


@lru_cache(maxsize=4)
def _on_device(device: str) -> Template:
    depth, tissue = (torch.from_numpy(maps).to(device) for maps in _maps())
    return Template(depth=depth.permute(1, 2, 3, 0), tissue=tissue.permute(1, 2, 3, 0))


def load_template(device: str | torch.device = "cpu") -> Template:
    """Read the template maps that ship in the nilearn wheel (nilearn itself is not imported).

    Args:
        device: Where the maps are wanted; they are made once per process and kept there.

    Raises:
        FileNotFoundError: nilearn is not installed.

    Source:
        Fonov et al. (2011), NeuroImage 54(1):313-327 (ICBM 2009a nonlinear symmetric).
    """
    return _on_device(str(device))
