"""Plan a glioma: where, what kind, how large, how fast; its voxels are `tumour`'s business."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch

from bratskit.cases.phantoms.anatomy import Anatomy
from bratskit.cases.phantoms.fields import Array, Grid, exp, uniform
from bratskit.cases.phantoms.ingredients import Ingredients

__all__ = ["Cavity", "Growth", "at_age", "draw_growth", "grown_to", "push_of"]

Point = tuple[float, float, float]

# Cell density over carrying capacity at which scans show a glioma's border: enhancing on T1Gd,
# abnormal on T2. Source: Swanson et al. (2008), Br. J. Cancer 98(1):113-119.
VISIBLE_CORE, VISIBLE_OEDEMA = 0.8, 0.16

# Distance of those two borders in a travelling front, over sqrt(diffusion / proliferation):
# 6.09 for a front like 1 / (1 + exp(x / 2)).
# Source: Murray (2002), Mathematical Biology I, 3rd ed., section 13.2.
_FRONT = round(
    2 * math.log((1 - VISIBLE_OEDEMA) / VISIBLE_OEDEMA * VISIBLE_CORE / (1 - VISIBLE_CORE)), 2
)

# Diffusion in grey matter over that in white: a fifth or less. Source: Swanson et al. (2000), Cell
# Prolif. 33(5):317-329; a tenth: Le et al. (2016), IEEE Trans. Med. Imaging 35(10):2329-2339.
_GREY_OVER_WHITE = 0.12

_SWELLING = 0.3  # part of the oedema's volume that takes room as the core's does: set by eye

# Radial growth, mm/day, middle and spread of its logarithm. Source: high grade tens of mm a year
# for 2 sqrt(D rho), Harpold et al. (2007), J. Neuropathol. Exp. Neurol. 66(1):1-9; low grade
# 4 mm a year in diameter, Mandonnet et al. (2003), Ann. Neurol. 53(4):524-528. Spreads: by eye.
_SPEED = {
    "ring": (0.07, 0.4),
    "solid": (0.06, 0.4),
    "patchy": (0.02, 0.5),
    "low-grade": (0.0055, 0.35),
}


@dataclass(frozen=True, kw_only=True)
class Cavity:
    """What a surgeon took out of the core.

    Attributes:
        share: Part of the core that is gone.
        residual: Part of what is left of the core that still counts as tumour core.
        toward_surface: How far the cavity opens towards the brain's surface, 0 to 1.
    """

    share: float
    residual: float
    toward_surface: float


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The drawn plan of one tumour; volumes and shares are those at detection.

    Attributes:
        kind: "ring", "solid", "patchy" (little enhancement) or "low-grade" (none).
        centre_mm: Where it starts, phantom mm.
        whole_ml: Aim for the whole tumour; the brain's borders may leave less.
        core_share: Aim for tumour core over whole tumour.
        enhancing_share: Aim for enhancing tumour over tumour core.
        axes: Relative half axes of the core, product 1.
        rotation: Orientation of the axes, three rows.
        roughness: Irregularity of the core's surface over its radius.
        rim_roughness: Irregularity of the necrosis: how lobed it is and how far off the middle.
        rim_gaps: How far the rim is open, in one or two arcs, 0 closed to 1 missing there.
        grain: Fine speckle of necrosis in the rim.
        push: Mass effect, 0 infiltrates without pushing, 0.6 pushes hard.
        lopsided: How unevenly the oedema spreads, 0 evenly to 1.
        satellites: Centres of further foci, phantom mm, with their radius over the main one's.
        diffusion_white_mm2_day: Motility of the cells in white matter, D of Fisher's equation.
        diffusion_grey_mm2_day: The same in grey matter; none moves in CSF.
        proliferation_per_day: Net growth rate, rho.
        cavity: What was resected; None before an operation.
        seen_days: Age at which it is looked at; None for the day of detection. See `at_age`.
    """

    kind: str
    centre_mm: Point
    whole_ml: float
    core_share: float
    enhancing_share: float
    axes: Point
    rotation: tuple[Point, Point, Point]
    roughness: float
    rim_roughness: float
    rim_gaps: float
    grain: float
    push: float
    lopsided: float
    satellites: tuple[tuple[Point, float], ...]
    diffusion_white_mm2_day: float
    diffusion_grey_mm2_day: float
    proliferation_per_day: float
    cavity: Cavity | None = None
    seen_days: float | None = None

    @property
    def speed_mm_day(self) -> float:
        r"""Radial growth of the front in white matter, $2\sqrt{D\rho}$."""
        return 2 * math.sqrt(self.diffusion_white_mm2_day * self.proliferation_per_day)

    @property
    def front_mm(self) -> float:
        """Distance between the visible borders of core and oedema in white matter."""
        return _FRONT * math.sqrt(self.diffusion_white_mm2_day / self.proliferation_per_day)

    @property
    def age_days(self) -> float:
        """Age at detection, had it grown at `speed_mm_day` all the time."""
        return round(self.whole_radius_mm / self.speed_mm_day, 3)

    @property
    def whole_radius_mm(self) -> float:
        """Radius of a ball as large as the whole tumour at detection."""
        return _radius_mm(self.whole_ml)

    @property
    def core_radius_mm(self) -> float:
        """Radius of a ball as large as the core at detection."""
        return _radius_mm(self.whole_ml * self.core_share)

    @property
    def rim_mm(self) -> float:
        """Thickness of the enhancing rim, were the core a ball."""
        hole = (1 - self.enhancing_share) ** (1 / 3)
        return round(self.core_radius_mm * (1 - hole), 6)

    def seen_ml(self) -> tuple[float, float, float]:
        """Return the volumes aimed at when it is looked at: whole tumour, core, enhancing.

        Both fronts move at `speed_mm_day`, `front_mm` apart; the rim stays `rim_mm` thick, so a
        young core is all rim and an old one necrotic.
        """
        whole, core = self.whole_ml, self.whole_ml * self.core_share
        if self.seen_days is None:
            return whole, core, core * self.enhancing_share
        radius = self.speed_mm_day * self.seen_days
        young = 0.3 * radius * self.core_radius_mm / self.whole_radius_mm
        inner = max(min(radius - self.front_mm, 0.97 * radius), young)
        rim = min(self.rim_mm / inner, 1.0) if inner > 0 else 0.0
        share = 1 - (1 - rim) ** 3 if self.kind in ("ring", "solid") else self.enhancing_share
        volume = _volume_ml(inner)
        return _volume_ml(radius), volume, volume * share


def _radius_mm(volume_ml: float) -> float:
    return round((750 * volume_ml / math.pi) ** (1 / 3), 6)


def _volume_ml(radius_mm: float) -> float:
    return round(math.pi * radius_mm * radius_mm * radius_mm / 750, 6)


def at_age(growth: Growth, days: float) -> Growth:
    """Look at the same tumour at another age: it lies inside what it is later.

    Diffusion and proliferation decide how large it is by then, so that a tumour whose
    `diffusion_white_mm2_day` was replaced has a wider front.

    Args:
        growth: The plan.
        days: Age, above 0; `growth.age_days` gives the tumour as it was detected.

    Raises:
        ValueError: The age is not above 0.
    """
    if not days > 0:
        msg = f"days must be above 0; got {days}. It was detected at {growth.age_days:.0f}."
        raise ValueError(msg)
    return replace(growth, seen_days=float(days))


def grown_to(growth: Growth, whole_ml: float) -> Growth:
    """Look at the same tumour when the whole of it measures `whole_ml`.

    Raises:
        ValueError: The volume is not above 0.
    """
    if not whole_ml > 0:
        msg = f"whole_ml must be above 0; got {whole_ml}. At detection: {growth.whole_ml:.1f}."
        raise ValueError(msg)
    return at_age(growth, _radius_mm(whole_ml) / growth.speed_mm_day)


def push_of(growth: Growth, points: list[Array]) -> list[Array]:
    """Return the mass effect: the way from each point to where its tissue came from, mm."""
    whole, core, _ = growth.seen_ml()
    radius = _radius_mm(core + _SWELLING * (whole - core))
    reach = 1.1 * radius + 7
    axes = [points[a] - growth.centre_mm[a] for a in range(3)]
    squares = axes[0] * axes[0] + axes[1] * axes[1] + axes[2] * axes[2]
    fall = exp(squares * (-0.5 / (reach * reach))) * -growth.push
    return [axis * fall for axis in axes]


def _normal(rng: np.random.Generator, middle: float, spread: float) -> float:
    """Draw from a log-normal distribution, given its median."""
    return math.exp(math.log(middle) + spread * float(rng.normal()))


def _draw_kind(rng: np.random.Generator, ingredients: Ingredients) -> str:
    """Draw the kind; a fifth of thirty BraTS cases enhance in less than 5% of the core."""
    chance, solid = uniform(rng, 0, 1), uniform(rng, 0, 1) < 0.26
    quiet = 0.21 * ingredients.non_enhancing
    if chance < quiet:
        return "low-grade" if chance < 0.38 * quiet else "patchy"
    return "solid" if solid else "ring"


def _draw_shares(rng: np.random.Generator, kind: str) -> tuple[float, float]:
    """Draw core / whole and ET / core, matched to thirty BraTS cases."""
    a, b = uniform(rng, 0, 1), uniform(rng, 0, 1)
    bell = float(rng.beta(1.6, 2.0))
    if kind == "low-grade":
        return 0.2 + 0.45 * a, 0.0
    if kind == "patchy":
        return 0.25 + 0.4 * a, 0.008 * math.exp(2.6 * b)
    if kind == "solid":
        return 0.035 * math.exp(2.6 * a), 0.72 + 0.25 * b
    return 0.07 + 0.78 * bell, 0.24 + 0.5 * b


def _draw_whole_ml(rng: np.random.Generator) -> float:
    """Draw the size: BraTS's spread, and one in ten small, which BraTS has but rarely."""
    chance, small = uniform(rng, 0, 1), uniform(rng, 0, 1)
    usual = min(max(_normal(rng, 88, 0.6), 12.0), 235.0)
    return 1.5 * math.exp(2.9 * small) if chance < 0.1 else usual


def _draw_rotation(rng: np.random.Generator) -> tuple[Point, Point, Point]:
    """Draw an orientation, all equally likely, as a unit quaternion's matrix."""
    q = [float(v) for v in rng.normal(size=4)]
    n = math.sqrt(sum(v * v for v in q))
    w, x, y, z = (v / n for v in q)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return _point(rows[0]), _point(rows[1]), _point(rows[2])


def _point(values: object) -> Point:
    x, y, z = (round(float(v), 6) for v in values)
    return x, y, z


def _draw_places(rng: np.random.Generator, anatomy: Anatomy, grid: Grid, count: int) -> list[Point]:
    """Draw points in white matter above the tentorium, rarely near the midline or very deep."""
    points = [line.cpu() for line in grid.points_mm(anatomy.voxels)]
    chances = np.cumsum(_chances(anatomy, points).numpy())
    places = []
    for _ in range(count):
        n = int(np.searchsorted(chances, rng.integers(chances[-1]), side="right"))
        shift = rng.uniform(-0.5, 0.5, 3)
        places.append(_point(float(points[a][n]) + shift[a] * grid.spacing_mm[a] for a in range(3)))
    return places


def _chances(anatomy: Anatomy, points: list[Array]) -> Array:
    """Weigh places as thirty BraTS tumours lie; whole numbers, so that sums are exact."""
    _, y, z = points
    white = (anatomy.white * (1 - anatomy.hindbrain)).cpu()
    side, depth = anatomy.template_x_mm.abs().cpu(), anatomy.depth_mm.cpu()
    supra = (z > 62) | ((z > 40) & (y > 105)) | ((z > 34) & (y > 100) & (side > 20))
    weight = white * white * ((side - 10) * 0.04).clamp(0.02, 1) * ((depth > 11) & supra)
    weight = weight * ((46 - depth) * 0.05).clamp(0.1, 1)
    weight = weight * ((y - 45) * 0.017).clamp(0.1, 1) * ((124 - z) * 0.025).clamp(0.1, 1)
    return (weight * 4096).to(torch.int64)


def _draw_satellites(
    rng: np.random.Generator, places: list[Point], core_mm: float, multifocal: float
) -> tuple[tuple[Point, float], ...]:
    """Draw further foci: a tenth of BraTS cores have more than one part."""
    chance = uniform(rng, 0, 1)
    sizes = [uniform(rng, 0.25, 0.6) for _ in range(2)]
    foci = (chance < 0.13 * multifocal) + (chance < 0.03 * multifocal)
    apart = sorted((math.dist(place, places[0]), place) for place in places[1:])
    free = [place for way, place in apart if way > 1.5 * core_mm + 4]
    return tuple(zip(free[:foci], sizes, strict=False))


def _draw_cavity(rng: np.random.Generator, ingredients: Ingredients) -> Cavity | None:
    chance = uniform(rng, 0, 1)
    cavity = Cavity(
        share=uniform(rng, 0.45, 0.9),
        residual=uniform(rng, 0.05, 0.8),
        toward_surface=uniform(rng, 0, 1),
    )
    return cavity if chance < ingredients.cavity / 3 else None


def draw_growth(
    rng: np.random.Generator, anatomy: Anatomy, grid: Grid, ingredients: Ingredients
) -> Growth:
    """Choose where and how one tumour grows; sizes, shares and forms as thirty BraTS cases.

    Every choice is drawn whatever the ingredients, so that changing one leaves the others.

    Args:
        rng: Source of every choice.
        anatomy: The head without the tumour; a coarse grid is enough.
        grid: Grid of `anatomy`.
        ingredients: How much of mass effect, infiltration, raggedness, satellites, non-enhancing
            forms and resection cavities.
    """
    kind = _draw_kind(rng, ingredients)
    core_share, enhancing_share = (round(share, 6) for share in _draw_shares(rng, kind))
    whole_ml = round(_draw_whole_ml(rng), 6)
    radius, core_mm = _radius_mm(whole_ml), _radius_mm(whole_ml * core_share)
    speed = _normal(rng, *_SPEED[kind])
    width = (radius - core_mm) / _FRONT  # sqrt(D / rho), as 2 sqrt(D rho) is the speed
    slower = max(1 - ingredients.infiltration * (1 - _GREY_OVER_WHITE), 0.03)
    axes = [math.exp(0.2 * float(v)) for v in rng.normal(size=3)]
    mean = (axes[0] * axes[1] * axes[2]) ** (1 / 3)
    rotation, ragged = _draw_rotation(rng), ingredients.raggedness
    places = _draw_places(rng, anatomy, grid, 13)
    gaps, push = uniform(rng, -0.9, 0.8), uniform(rng, 0.1, 0.6)
    push *= 0.4 if kind == "low-grade" else 1
    return Growth(
        kind=kind,
        centre_mm=places[0],
        whole_ml=whole_ml,
        core_share=core_share,
        enhancing_share=enhancing_share,
        axes=_point(a / mean for a in axes),
        rotation=rotation,
        roughness=round(ragged * uniform(rng, 0.06, 0.4), 6),
        rim_roughness=round(ragged * uniform(rng, 0.3, 1.6), 6),
        rim_gaps=round(ragged * max(gaps, 0.0), 6),
        grain=round(ragged * max(uniform(rng, -0.6, 1), 0.0), 6),
        push=round(min(ingredients.mass_effect * push, 0.8), 6),  # at 1 the map would fold
        lopsided=round(min(ingredients.infiltration, 1) * uniform(rng, 0.4, 1.1), 6),
        satellites=_draw_satellites(rng, places, core_mm, ingredients.multifocal),
        diffusion_white_mm2_day=round(width * speed / 2, 6),
        diffusion_grey_mm2_day=round(slower * width * speed / 2, 6),
        proliferation_per_day=round(speed / (2 * width), 6),
        cavity=_draw_cavity(rng, ingredients),
    )
