"""Make a phantom and tell its exact truth: volumes, level sets, fractions of voxels, surfaces."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.cases.phantoms.fields import Array
from bratskit.cases.phantoms.frame import (
    as_scan,
    facts_of_order,
    field_shape,
    refuse_odd_growth,
    seeds_of,
)
from bratskit.cases.phantoms.growth import Growth
from bratskit.cases.phantoms.ingredients import Ingredients
from bratskit.cases.phantoms.levels import (
    OUTSIDE_MM,
    area_mm2,
    fractions,
    region_levels,
    volume_ml,
)
from bratskit.cases.phantoms.simulate import Simulated, simulate
from bratskit.labels import LABELS, REGIONS

__all__ = ["Phantom", "Surface", "make_phantom", "partial_volumes", "surface_of"]


# What follows from a plan, beside what was drawn.
_DERIVED = ("age_days", "speed_mm_day", "front_mm", "rim_mm", "core_radius_mm")


class Surface(NamedTuple):
    """The border of one region as a closed mesh of triangles.

    Attributes:
        vertices_mm: World coordinates RAS+ `(V, 3)`, as `scan.affine` has them.
        faces: Three vertices each, `(F, 3)`.
        area_mm2: Sum of the triangles.
    """

    vertices_mm: NDArray[np.float64]
    faces: NDArray[np.int64]
    area_mm2: float


@dataclass(frozen=True, eq=False)
class Phantom:
    """One made-up patient.

    Attributes:
        scan: Image and labels in RAS+; `scan.image` holds whole numbers, as int16 files do.
        truth: What is known exactly: `voxels`, `volumes_ml` (by voxels, and with parts of voxels
            under `continuous`), `areas_mm2`, `seed`, `spacing_mm`, `ingredients`, the drawn
            `head`, `growth` and `contrast`, and `jacobian`: by how much the map from the head to
            the template scales volumes, least and most, as differences over 4 mm show it. Below 1
            tissue is larger in the head. Goes into `<case>_truth.json`.
        growth: The plan of the tumour; changed by `dataclasses.replace`, it grows another one.
        levels: Level sets of the regions in `box`, positive inside.
        box: Part of the scan's grid that holds the tumour.
        cavity: Resection cavity `(I, J, K)` bool, which no label marks; None where there is none.
    """

    scan: Scan
    truth: dict
    growth: Growth
    levels: Mapping[str, Array]
    box: tuple[slice, slice, slice]
    cavity: NDArray[np.bool_] | None = None

    def __repr__(self) -> str:
        ml = self.truth["volumes_ml"]["regions"]
        sizes = ", ".join(f"{name} {size:.1f}" for name, size in ml.items())
        return f"<Phantom {self.scan.id}: {self.growth.kind} tumour, {sizes} ml, {self.scan}>"

    @property
    def level_sets(self) -> dict[str, NDArray[np.float32]]:
        """Return each region's level set `(I, J, K)`: a voxel is in the mask where it is above 0.

        Only the sign and the place of the border are exact; how steeply it falls is not that of a
        distance: oedema's can jump by ten from one voxel to the next. `partial_volumes` allows for
        that. -20 far away and where there is no brain.
        """
        return {name: self._whole(level, OUTSIDE_MM) for name, level in self.levels.items()}

    def _whole(self, part: Array, outside: float) -> NDArray[np.float32]:
        whole = np.full(self.scan.image.shape[1:], outside, np.float32)
        whole[self.box] = part.cpu().numpy()
        return whole


def make_phantom(
    seed: int | tuple[int, ...],
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    case_id: str | None = None,
    ingredients: Ingredients | None = None,
    growth: Growth | None = None,
    device: torch.device | str = "cpu",
) -> Phantom:
    """Make one phantom; the same seed gives the same patient at any voxel size, on any machine.

    Coarse voxels are cheap: about 2 s at 1 mm, a tenth of that at 4 mm (60x60x39 voxels).

    Args:
        seed: Decides everything. A tuple seeds one case of a cohort, `(seed, number)`; a single
            seed is its case 0.
        spacing_mm: Voxel size, 0.5 to 10 mm along each axis. An axis at least half as coarse
            again as the finest is averaged over its voxels' thickness.
        case_id: Name of the case; by default made from the seed.
        ingredients: How much of each effect goes in; None means each as in real cases.
        growth: Grows this tumour instead of the one that the seed draws.
        device: Where to simulate; the result is the same.

    Raises:
        TypeError: The seed is no whole number, the spacing no three numbers, or the ingredients are
            no `Ingredients`.
        ValueError: The spacing is out of range, a seed negative or not below 2**32, or the growth
            no tumour's.
        FileNotFoundError: The template is missing (nilearn is not installed).

    Examples:
        >>> phantom = make_phantom(3, spacing_mm=(8, 8, 8))
        >>> phantom.scan
        <Scan Phantom_00003: 4 x 30 x 30 x 19 voxels of 8 x 8 x 8 mm, labels brats2017-2021>
    """
    seeds = seeds_of(seed, spacing_mm)
    ingredients = Ingredients() if ingredients is None else ingredients
    if not isinstance(ingredients, Ingredients):
        msg = f"ingredients must be Ingredients; got {ingredients!r}. Try Ingredients(mimics=0)."
        raise TypeError(msg)
    if growth is not None:
        refuse_odd_growth(growth)
    made = simulate(
        seeds, spacing_mm=spacing_mm, ingredients=ingredients, growth=growth, device=device
    )
    starts, lengths = made.grid.start_vox, made.grid.shape
    place = tuple(slice(a, a + n) for a, n in zip(starts, lengths, strict=True))
    image = np.zeros((len(made.image), *field_shape(spacing_mm)), np.float32)
    image[(slice(None), *place)] = made.image.cpu().numpy()
    labels = np.zeros(image.shape[1:], np.uint8)
    labels[place] = made.labels.cpu().numpy()
    scan = as_scan(
        case_id or "Phantom_" + "_".join(f"{s:05d}" for s in seeds), image, labels, spacing_mm
    )
    levels = _levels_in_brain(made)
    order = facts_of_order(seeds, spacing_mm, ingredients)
    return Phantom(
        scan=scan,
        truth={"case": scan.id, **order, **_facts(made, scan, levels)},
        growth=made.growth,
        levels=levels,
        box=tuple(
            slice(p.start + b.start, p.start + b.stop)
            for p, b in zip(place, made.tumour.box, strict=True)
        ),
        cavity=_cavity(made, place, labels.shape),
    )


def partial_volumes(phantom: Phantom, region: str) -> NDArray[np.float32]:
    """Say which fraction of each voxel a region fills.

    Args:
        phantom: Whose.
        region: "WT", "TC" or "ET".

    Returns:
        `(I, J, K)` in [0, 1]; the mask is about where it is above a half.

    Raises:
        ValueError: The region is unknown.
    """
    parts = fractions(_level_of(phantom, region), phantom.scan.spacing_mm)
    return phantom._whole(parts, 0.0)


def surface_of(phantom: Phantom, region: str) -> Surface:
    """Triangulate the border of a region by marching cubes.

    Raises:
        ImportError: scikit-image is not installed.
        ValueError: The region is unknown, or the phantom has none of it.

    Source:
        Lewiner et al. (2003), Journal of Graphics Tools 8(2):1-15, in scikit-image.
    """
    level = _level_of(phantom, region)
    if not bool((level > 0).any()):
        msg = f"region must be in {phantom.scan.id}; got {region}, of which it has none."
        raise ValueError(msg)
    try:
        from skimage.measure import marching_cubes, mesh_surface_area
    except ImportError as error:
        msg = "surface_of must have scikit-image; it is not here. Run: pip install scikit-image"
        raise ImportError(msg) from error
    level = torch.where(level == 0, -1e-3, level)  # a voxel on the border would tear the mesh
    padded = np.pad(level.cpu().numpy(), 1, constant_values=OUTSIDE_MM)
    vertices, faces, _, _ = marching_cubes(padded, 0.0)
    spacing_mm = np.asarray(phantom.scan.spacing_mm)
    first = np.array([axis.start - 1 for axis in phantom.box])
    affine = phantom.scan.affine
    return Surface(
        vertices_mm=(vertices + first) @ affine[:3, :3].T + affine[:3, 3],
        faces=faces.astype(np.int64),
        area_mm2=float(mesh_surface_area(vertices * spacing_mm, faces)),
    )


def _level_of(phantom: Phantom, region: str) -> Array:
    if region not in REGIONS:
        msg = f"region must be one of {', '.join(REGIONS)}; got {region!r}."
        raise ValueError(msg)
    return phantom.levels[region]


def _levels_in_brain(made: Simulated) -> dict[str, Array]:
    inside = made.brain[made.tumour.box]
    outside = torch.full_like(made.tumour.core, OUTSIDE_MM)
    levels = region_levels(made.tumour)
    return {name: torch.where(inside, level, outside) for name, level in levels.items()}


def _cavity(
    made: Simulated, place: tuple[slice, ...], shape: tuple[int, ...]
) -> NDArray[np.bool_] | None:
    """Return the resection cavity on the whole grid."""
    if made.tumour.cavity is None:
        return None
    inner = torch.zeros_like(made.brain)
    inner[made.tumour.box] = made.tumour.cavity_mask() & made.brain[made.tumour.box]
    whole = np.zeros(shape, bool)
    whole[place] = inner.cpu().numpy()
    return whole


def _facts(made: Simulated, scan: Scan, levels: Mapping[str, Array]) -> dict:
    """Say what there is to know of a phantom beyond its order, in JSON's own kinds."""
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    counts = np.bincount(scan.labels.ravel(), minlength=len(LABELS))
    labels = {LABELS[label]: int(counts[label]) for label in LABELS if label}
    regions = {name: int(sum(counts[i] for i in members)) for name, members in REGIONS.items()}
    exact = {name: round(volume_ml(one, scan.spacing_mm), 6) for name, one in levels.items()}
    areas = {name: round(area_mm2(one, scan.spacing_mm), 3) for name, one in levels.items()}
    facts = {
        "voxels": {"labels": labels, "regions": regions},
        "volumes_ml": {
            "labels": {name: n * voxel_ml for name, n in labels.items()},
            "regions": {name: n * voxel_ml for name, n in regions.items()},
            "continuous": exact,
        },
        "areas_mm2": areas,
        "jacobian": made.jacobian,
        "head": asdict(made.head),
        "growth": asdict(made.growth) | {name: getattr(made.growth, name) for name in _DERIVED},
        "contrast": asdict(made.contrast),
    }
    return json.loads(json.dumps(facts, default=lambda a: np.asarray(a).tolist()))
