"""Turn the knobs of the phantom generator in a notebook and see what becomes of one tumour."""

import base64
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.phantoms.frame import KINDS
from bratskit.visualize.dashboard import (
    REGION_NAMES,
    REGION_RGB,
    encode,
    paint_curve,
    paint_page,
    paint_slices,
)
from bratskit.visualize.growth import MOST_ML, describe_rates, growth_curve
from bratskit.visualize.slices import CONVENTIONS, Plane, brain_box, intensity_window, make_plane

if TYPE_CHECKING:  # it brings torch, a second or two
    from bratskit.cases.phantoms import Ingredients, Phantom
    from bratskit.cases.phantoms.growth import Growth

__all__ = ["PhantomKnobs"]

SCAN_KNOBS = ("noise", "bias", "thick_slices", "ghosts", "contrast", "mimics")
LEAST_ML = 0.1  # a dozen voxels of 2 mm
_KEPT = 8  # phantoms that a knob turned back finds again
# Enhancing share of the core: the middle of what `growth` draws. Only the first two have a rim.
_ENHANCING = {"ring": 0.49, "solid": 0.85, "patchy": 0.03, "low-grade": 0.0}
_RIMMED = KINDS[:2]


class PhantomKnobs(widgets.VBox):
    """Simulate one patient anew whenever a knob is let go, and show the slice through the tumour.

    The state is in the knobs: of the tumour `kind`, `age_days`, `diffusion_mm2_day`,
    `proliferation_per_day`, `rim_mm`, `roughness`, `push`; of the scan `scan["noise"]` and others
    of `SCAN_KNOBS`, 0 left out, 1 as in real cases, 2 the most. Setting `knobs.age_days.value =
    200` does what the slider does. The head stays: a knob changes what it says and nothing else.

    Args:
        seed: Patient that is shown first.
        spacing_mm: Voxel size; at 2 mm a turn takes less than a second.

    Attributes:
        phantom: What is shown, with its exact truth.
        refusal: Why the last turn was not made, one line; "" when it was.

    Raises:
        ValueError: The seed is negative or the voxel size out of range.
    """

    def __init__(self, seed: int = 0, *, spacing_mm: float = 2.0) -> None:
        self.spacing_mm = (float(spacing_mm),) * 3
        self._made: OrderedDict[object, Phantom] = OrderedDict()
        self._is_held, self.refusal = True, ""
        self._make_knobs()
        self._make_frame()
        super().__init__(
            [
                widgets.Box(
                    [self._knob_box, widgets.VBox([self._image, self._curve_image])],
                    layout=widgets.Layout(
                        display="flex", flex_flow="row wrap", align_items="flex-start"
                    ),
                )
            ]
        )
        self.show_patient(seed)

    def _make_knobs(self) -> None:
        """Make the sliders; their ends hold every tumour that the generator draws."""
        self.kind = widgets.ToggleButtons(options=KINDS, description="kind")
        self.kind.style.button_width = "auto"
        self.age_days = _log_slider("age, days", 1, 4.5)
        self.diffusion_mm2_day = _log_slider("D, mm²/day", -4, -0.3)
        self.proliferation_per_day = _log_slider("ρ, 1/day", -4, 0.3)
        self.rim_mm = _slider("rim, mm", 0.5, 25, 0.1)
        self.roughness = _slider("roughness", 0, 0.6, 0.02)
        self.push = _slider("mass effect", 0, 0.6, 0.02)
        self.scan = {name: _slider(name.replace("_", " "), 0, 2, 0.25) for name in SCAN_KNOBS}
        self.index = widgets.IntSlider(description="slice K", layout=_wide())
        self.has_mask = widgets.Checkbox(value=True, description="outline of the mask")
        self.kind.observe(self._choose_kind, names="value")
        for knob in (*self._tumour_knobs()[1:], *self.scan.values()):
            knob.observe(self._turn, names="value")
        self.index.observe(self._draw, names="value")
        self.has_mask.observe(self._draw, names="value")

    def _choose_kind(self, change: dict) -> None:
        """Put the rim where the new kind has it, then turn."""
        if self._is_held:
            return
        kind, plan = change["new"], self._drawn
        usual = plan.core_radius_mm * (1 - (1 - _ENHANCING[kind]) ** (1 / 3))
        self._is_held = True
        self.rim_mm.value = self._drawn_rim_mm if kind == plan.kind else usual
        self._is_held = False
        self._turn()

    def _tumour_knobs(self) -> tuple[widgets.Widget, ...]:
        rates = (self.diffusion_mm2_day, self.proliferation_per_day)
        return (self.kind, self.age_days, *rates, self.rim_mm, self.roughness, self.push)

    def _make_frame(self) -> None:
        another = widgets.Button(description="another patient")
        another.on_click(lambda _: self.show_patient(self.seed + 1))
        as_drawn = widgets.Button(description="as drawn")
        as_drawn.on_click(lambda _: self.show_patient(self.seed))
        self._text = widgets.HTML()
        top = widgets.Layout(align_self="flex-start")
        self._image = widgets.Image(format="png", layout=top)
        self._curve_image = widgets.Image(format="png", layout=top)
        rows = [
            widgets.HBox([another, as_drawn]),
            *self._tumour_knobs(),
            *self.scan.values(),
            self.index,
            self.has_mask,
            self._text,
        ]
        self._knob_box = widgets.VBox(
            rows, layout=widgets.Layout(margin="0 12px 0 0", width="410px")
        )

    def show_patient(self, seed: int) -> None:
        """Show another patient, with the knobs where the seed puts them.

        Raises:
            ValueError: The seed is negative.
        """
        from bratskit.cases.phantoms import Ingredients

        self._is_held = True
        phantom = self._simulate(seed, None, Ingredients())
        self.seed, self._drawn = seed, phantom.growth
        plan = self._drawn
        self.kind.value = plan.kind
        self.age_days.value = plan.age_days
        self.diffusion_mm2_day.value = plan.diffusion_white_mm2_day
        self.proliferation_per_day.value = plan.proliferation_per_day
        self.rim_mm.value = plan.rim_mm
        self._drawn_rim_mm = self.rim_mm.value
        self.roughness.value, self.push.value = plan.roughness, plan.push
        for knob in self.scan.values():
            knob.value = 1.0
        box = brain_box(phantom.scan.image, margin_vox=1)
        self.index.min, self.index.max = 0, box[2][1] - 1
        self.index.min = box[2][0]
        self.index.value = int(plan.centre_mm[2] / self.spacing_mm[2])
        self._is_held = False
        self._turn()

    @property
    def growth(self) -> "Growth":
        """The plan that the knobs stand for."""
        from bratskit.cases.phantoms.growth import at_age

        plan, kind = self._drawn, self.kind.value
        diffusion = self.diffusion_mm2_day.value
        grey = plan.diffusion_grey_mm2_day / plan.diffusion_white_mm2_day
        enhancing = _ENHANCING[kind]
        if kind in _RIMMED:
            rim = min(self.rim_mm.value / plan.core_radius_mm, 0.97)
            enhancing = round(1 - (1 - rim) ** 3, 6)
        if kind == plan.kind and self.rim_mm.value == self._drawn_rim_mm:
            enhancing = plan.enhancing_share
        plan = replace(
            plan,
            kind=kind,
            enhancing_share=enhancing,
            roughness=self.roughness.value,
            push=self.push.value,
            diffusion_white_mm2_day=round(diffusion, 6),
            diffusion_grey_mm2_day=round(grey * diffusion, 6),
            proliferation_per_day=round(self.proliferation_per_day.value, 6),
        )
        return at_age(plan, self.age_days.value)

    @property
    def ingredients(self) -> "Ingredients":
        """How much of each effect of the scan the knobs ask for."""
        from bratskit.cases.phantoms import Ingredients

        return Ingredients(**{name: knob.value for name, knob in self.scan.items()})

    def _simulate(
        self, seed: int, growth: "Growth | None", ingredients: "Ingredients"
    ) -> "Phantom":
        """Simulate, unless it was simulated a few turns ago."""
        from bratskit.cases import make_phantom

        key = (seed, growth, ingredients)
        if key not in self._made:
            self._made[key] = make_phantom(
                seed, spacing_mm=self.spacing_mm, growth=growth, ingredients=ingredients
            )
        self._made.move_to_end(key)
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return self._made[key]

    def _turn(self, _change: dict | None = None) -> None:
        """Simulate what the knobs say and draw it, or say in one line why not."""
        if self._is_held:
            return
        self.rim_mm.disabled = self.kind.value not in _RIMMED
        growth = self.growth
        self.refusal = refuse_nonsense(growth)
        if not self.refusal:
            self.phantom = self._simulate(self.seed, growth, self.ingredients)
            scan = self.phantom.scan
            self._box = brain_box(scan.image, margin_vox=1)
            self._windows = [intensity_window(volume) for volume in scan.image]
            self._volumes = self.phantom.truth["volumes_ml"]["regions"]
            self._curve = self._paint_curve()
            self._curve_image.value = encode(self._curve)
        self._draw()

    def _draw(self, _change: dict | None = None) -> None:
        if not self._is_held:
            self._image.value = encode(self._paint_slices())
            self._text.value = self._html()

    @property
    def plane(self) -> Plane:
        """The slice on show."""
        return make_plane(self.phantom.scan, "axial", self.index.value, box=self._box)

    def _paint_slices(self) -> NDArray[np.uint8]:
        scan = self.phantom.scan
        return paint_slices(scan, self.plane, self._windows, has_mask=self.has_mask.value)

    def _paint_curve(self) -> NDArray[np.uint8]:
        growth = self.phantom.growth
        until = 1.4 * max(growth.seen_days, min(growth.age_days, 3 * growth.seen_days))
        curve = growth_curve(growth, until_days=until)
        return paint_curve(curve, (growth.seen_days, self._volumes))

    def statistics(self) -> list[str]:
        """Say volumes, rates and the knobs of the scan, a line each."""
        exact = self.phantom.truth["volumes_ml"]["continuous"]
        growth = self.phantom.growth
        scan = ", ".join(
            f"{name.replace('_', ' ')} {self.phantom.truth['ingredients'][name]:g}"
            for name in SCAN_KNOBS
        )
        sizes = ", ".join(f"{k} {ml:.1f} ({exact[k]:.1f})" for k, ml in self._volumes.items())
        kind, rates = describe_rates(growth, is_plain=True).split(": ")
        return [
            f"{self.phantom.scan.id}: {kind}, {growth.seen_days:.0f} days old",
            f"ml counted (exact): {sizes}",
            *(part.strip() for part in rates.split(", ")),
            f"visible front {growth.front_mm:.1f} mm wide, mass effect {growth.push:.2f}",
            f"scan: {scan}",
        ]

    def _html(self) -> str:
        swatches = "&emsp;".join(
            f'<span style="color:rgb{rgb};-webkit-text-stroke:.4px #777">&#9632;</span> '
            f"{REGION_NAMES[name]}"
            for name, rgb in REGION_RGB.items()
        )
        lines = [swatches, *self.statistics()[:-1], CONVENTIONS["radiological"]]
        if self.refusal:
            lines.insert(0, f'<b style="color:#a34700">{self.refusal}</b>')
        return f'<div style="line-height:1.5;font-size:12px">{"<br>".join(lines)}</div>'

    def render(self) -> bytes:
        """Draw slices, curve and the places of the knobs as one PNG, for a page without scripts."""
        lines = [*self.statistics(), CONVENTIONS["radiological"], self.refusal]
        return encode(paint_page(self._paint_slices(), self._curve, lines), is_small=True)

    def _ipython_display_(self, **_kwargs: object) -> None:
        """Publish widget, picture and text as one bundle, as `SliceViewer` does."""
        from IPython.display import display

        bundle = {
            "text/plain": f"PhantomKnobs({self.statistics()[0]})",
            "image/png": base64.b64encode(self.render()).decode("ascii"),
            "application/vnd.jupyter.widget-view+json": {
                "version_major": 2,
                "version_minor": 0,
                "model_id": self.model_id,
            },
        }
        display(bundle, raw=True)


def refuse_nonsense(growth: "Growth") -> str:
    """Say in one line why a plan is not grown; "" for one that makes sense."""
    whole_ml = growth.seen_ml()[0]
    if whole_ml > MOST_ML:
        return (
            f"The whole tumour must stay under {MOST_ML:.0f} ml; got {whole_ml:.0f}. "
            "Lower age, D or ρ."
        )
    if whole_ml < LEAST_ML:
        return (
            f"The whole tumour must have {LEAST_ML:g} ml, a dozen voxels; got {whole_ml:.2g}. "
            "Raise age, D or ρ."
        )
    return ""


def _wide() -> widgets.Layout:
    return widgets.Layout(width="390px")


def _slider(name: str, low: float, high: float, step: float) -> widgets.FloatSlider:
    return widgets.FloatSlider(
        description=name, min=low, max=high, step=step, continuous_update=False, layout=_wide()
    )


def _log_slider(name: str, low: float, high: float) -> widgets.FloatLogSlider:
    return widgets.FloatLogSlider(
        description=name, min=low, max=high, step=0.01, continuous_update=False,
        readout_format=".4g", layout=_wide(),
    )  # fmt: skip
