"""Browse a scan slice by slice in a notebook; a picture stays where no kernel runs."""

import base64
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
from numpy.typing import NDArray

from bratskit.cases.case import Scan
from bratskit.labels import LABELS, MODALITIES
from bratskit.visualize.picture import (
    Palette,
    encode_png,
    frame_panel,
    outline_of,
    stack_pictures,
    stamp,
    zoom,
)
from bratskit.visualize.slices import (
    AXES,
    CONVENTIONS,
    ERROR_COLOURS,
    ERRORS,
    LABEL_COLOURS,
    Convention,
    Plane,
    brain_box,
    busiest_index,
    check_on_grid,
    error_map,
    intensity_window,
    label_name,
    make_plane,
    modality_index,
    to_grey,
)

__all__ = ["SliceViewer"]

ALL = "all four"
PX_A_MM, PX_A_MM_ALL = 2.6, 1.5  # a brain of 180 mm fills about 470 px; four of them 540 px
CAPTION_PX, CAPTION_WIDTH_PX = 20, 500
NAMES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2", ALL: ALL}


class SliceViewer(widgets.VBox):
    """Show a scan along three axes, in four modalities, under its truth and prediction.

    The state is in the controls `axis`, `index`, `modality`, `overlay` and `opacity`; setting
    `viewer.index.value = 80` moves the slice as the slider does. Works on ipywidgets 7.7 and 8.

    Args:
        scan: The patient, native grid.
        pred: Predicted internal labels `(I, J, K)`, drawn as outlines where both are shown.
        truth: Reference internal labels, drawn filled; None takes `scan.labels`.
        convention: Which side of the picture is the patient's left.

    Raises:
        ValueError: A label map is not on the grid of the scan.
    """

    def __init__(
        self,
        scan: Scan,
        *,
        pred: NDArray[np.uint8] | None = None,
        truth: NDArray[np.uint8] | None = None,
        convention: Convention = "radiological",
    ) -> None:
        self.scan, self.pred = scan, pred
        self.truth = scan.labels if truth is None else truth
        for name, labels in (("pred", pred), ("truth", self.truth)):
            if labels is not None:
                check_on_grid(labels, scan, name=name)
        self.convention = convention
        self._box = brain_box(scan.image)
        self._windows = [intensity_window(volume) for volume in scan.image]
        self._totals = {name: _volumes_ml(labels, scan) for name, labels in self._maps()}
        self._is_held = False
        self._make_controls()
        super().__init__([widgets.Box([self._panel_box, self._image], layout=_layout("row wrap"))])
        self._update()

    def _maps(self) -> list[tuple[str, NDArray[np.uint8]]]:
        maps = [("truth", self.truth), ("prediction", self.pred)]
        return [(name, labels) for name, labels in maps if labels is not None]

    def _make_controls(self) -> None:
        guide = self.truth if self.truth is not None and self.truth.any() else self.pred
        self._places = {axis: busiest_index(guide, axis, box=self._box) for axis in AXES}
        overlays = ["none", *(name for name, _ in self._maps())]
        overlays += ["both", "errors"] if len(overlays) == 3 else []
        self.axis = _buttons(("axial", "coronal", "sagittal"), "axis")
        self.modality = _buttons([(NAMES[name], name) for name in (*MODALITIES, ALL)], "image")
        self.overlay = _buttons(overlays, "labels", value=overlays[-2 if len(overlays) > 3 else -1])
        self.index = widgets.IntSlider(
            value=self._places["axial"], min=self._box[2][0], max=self._box[2][1] - 1,
            description="slice K", layout=widgets.Layout(width="400px"),
        )  # fmt: skip
        self.opacity = widgets.FloatSlider(
            value=0.5, min=0.0, max=1.0, step=0.05, description="opacity",
            layout=widgets.Layout(width="400px"), readout_format=".2f",
        )  # fmt: skip
        # without align_self the browser stretches the picture to the width of the cell
        self._image = widgets.Image(format="png", layout=widgets.Layout(align_self="flex-start"))
        self._text = widgets.HTML()
        controls = [self.axis, self.modality, self.overlay, self.index, self.opacity, self._text]
        self._panel_box = widgets.VBox(
            controls, layout=widgets.Layout(margin="0 12px 0 0", width="430px")
        )
        self.axis.observe(self._turn, names="value")
        for control in (self.modality, self.overlay, self.index, self.opacity):
            control.observe(self._update, names="value")

    def _turn(self, change: dict) -> None:
        """Keep the place along the axis that is left, and go back to that of the new one."""
        self._is_held = True
        self._places[change["old"]] = self.index.value
        start, stop = self._box[AXES[change["new"]]]
        self.index.min = 0  # never above max, whatever the order of the next two
        self.index.max = stop - 1
        self.index.min = start
        self.index.value = self._places[change["new"]]
        self.index.description = f"slice {'IJK'[AXES[change['new']]]}"
        self._is_held = False
        self._update()

    def _update(self, _change: dict | None = None) -> None:
        if not self._is_held:
            self._image.value = self.render()
            self._text.value = self._statistics_html()

    @property
    def plane(self) -> Plane:
        """The slice on show."""
        return make_plane(
            self.scan, self.axis.value, self.index.value, box=self._box, convention=self.convention
        )

    def render(self, *, has_caption: bool = False) -> bytes:
        """Draw what the controls say.

        Args:
            has_caption: Whether strips below name the case, what is drawn, its colours and
                volumes, for a page on which nothing but the picture is left.

        Returns:
            A PNG.
        """
        plane, overlay = self.plane, self.overlay.value
        is_error = overlay == "errors"
        colours = ERROR_COLOURS if is_error else LABEL_COLOURS
        palette = Palette(colours, colours, opacity=self.opacity.value)
        names = MODALITIES if self.modality.value == ALL else (self.modality.value,)
        px_a_mm = PX_A_MM_ALL if len(names) > 1 else PX_A_MM
        size_px = tuple(max(16, round(length * px_a_mm)) for length in plane.size_mm)
        fill, outline = self._codes(plane, size_px)
        panels = [
            self._panel(name, plane, palette, fill, outline, size_px, is_first=number == 0)
            for number, name in enumerate(names)
        ]
        picture = stack_pictures(panels, n_columns=2)
        if has_caption:
            picture = self._add_caption(picture, palette, colours)
        return encode_png(picture, palette, is_small=has_caption)

    def _codes(
        self, plane: Plane, size_px: tuple[int, int]
    ) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | None]:
        """Cut what is filled and what is outlined, on the pixels of the picture."""
        overlay = self.overlay.value
        fill = outline = None
        if overlay in ("truth", "both"):
            fill = plane.cut(self.truth)
        elif overlay == "prediction":
            fill = plane.cut(self.pred)
        elif overlay == "errors":
            fill = error_map(pred=plane.cut(self.pred), truth=plane.cut(self.truth))
        if overlay == "both":
            edge = zoom(plane.cut(self.pred).astype(np.uint8), size_px, is_smooth=False)
            outline = outline_of(edge, width_px=2 if self.modality.value != ALL else 1)
        if fill is not None:
            fill = zoom(fill.astype(np.uint8), size_px, is_smooth=False)
        return fill, outline

    def _panel(
        self,
        name: str,
        plane: Plane,
        palette: Palette,
        fill: NDArray[np.uint8] | None,
        outline: NDArray[np.uint8] | None,
        size_px: tuple[int, int],
        *,
        is_first: bool,
    ) -> NDArray[np.uint8]:
        channel = modality_index(name)
        grey = to_grey(plane.cut(self.scan.image[channel]), self._windows[channel])
        if self.overlay.value == "errors":
            grey //= 2  # over a darker image pale means right
        panel = palette.place(zoom(grey, size_px, is_smooth=True), fill, outline)
        title = f"{NAMES[name]}  {plane.caption}" if is_first else NAMES[name]
        return frame_panel(panel, plane, palette, title=title, has_scale=is_first)

    def _add_caption(
        self, picture: NDArray[np.uint8], palette: Palette, colours: dict
    ) -> NDArray[np.uint8]:
        lines = self._caption_lines()
        spare = max(0, CAPTION_WIDTH_PX - picture.shape[1])
        picture = np.pad(picture, ((0, 0), (spare // 2, spare - spare // 2)))
        strip = np.zeros(((1 + len(lines)) * CAPTION_PX + 4, picture.shape[1]), dtype=np.uint8)
        names = ERRORS if self.overlay.value == "errors" else {k: label_name(k) for k in colours}
        left = 8
        for place, code in enumerate(colours if self.overlay.value != "none" else ()):
            strip[5:15, left : left + 10] = palette.first_outline + place
            left += 14 + stamp(strip, palette, names[code], (left + 14, 10), size_px=11) + 12
        for number, line in enumerate(lines, start=1):
            stamp(strip, palette, line, (8, number * CAPTION_PX + 10), size_px=11)
        return np.concatenate([picture, strip])

    def _caption_lines(self) -> list[str]:
        shown = self.overlay.value
        what = {"both": "fill: truth, outline: prediction", "none": "no labels"}.get(shown, shown)
        channels = range(4) if self.modality.value == ALL else [modality_index(self.modality.value)]
        windows = ", ".join(
            f"{NAMES[MODALITIES[c]]} {self._windows[c][0]:.4g} to {self._windows[c][1]:.4g}"
            for c in channels
        )
        head = [f"{self.scan.id}  ·  {what}", CONVENTIONS[self.convention], f"window: {windows}"]
        return [*head, *self.statistics()]

    def statistics(self) -> list[str]:
        """Say the volume of each label, in all and on this slice, one line a label map."""
        lines = []
        for name, labels in self._maps():
            here = _volumes_ml(self.plane.cut(labels), self.scan)
            totals = self._totals[name]
            parts = [f"{LABELS[k]} {totals[k]:.1f} ({here[k]:.2f})" for k in totals]
            lines.append(f"{name}, ml (of this slice): {',  '.join(parts)}")
        return lines

    def _statistics_html(self) -> str:
        swatches = ""
        if self.overlay.value != "none":
            is_error = self.overlay.value == "errors"
            colours = ERROR_COLOURS if is_error else LABEL_COLOURS
            names = ERRORS if is_error else {code: label_name(code) for code in colours}
            swatches = "&emsp;".join(
                f'<span style="color:rgb{colours[code]};-webkit-text-stroke:.4px #777">&#9632;'
                f"</span> {names[code]}"
                for code in colours
            )
        lines = [swatches, *self._caption_lines()[:1], CONVENTIONS[self.convention]]
        lines += self.statistics()
        return f'<div style="line-height:1.5;font-size:12px">{"<br>".join(lines)}</div>'

    def _ipython_display_(self, **_kwargs: object) -> None:
        """Publish widget, picture and text as one bundle, so that GitHub has a picture to show.

        ipywidgets 7.7.1 (Colab) asks for this method and ignores `_repr_mimebundle_`.
        """
        from IPython.display import display

        picture = base64.b64encode(self.render(has_caption=True)).decode("ascii")
        view = {"version_major": 2, "version_minor": 0, "model_id": self.model_id}
        bundle = {
            "text/plain": f"SliceViewer({self.scan.id}, {self.plane.caption})",
            "image/png": picture,
            "application/vnd.jupyter.widget-view+json": view,
        }
        display(bundle, raw=True)


def _buttons(
    options: Sequence[str | tuple[str, str]], description: str, *, value: str | None = None
) -> widgets.ToggleButtons:
    control = widgets.ToggleButtons(options=options, description=description)
    control.style.button_width = "auto"
    if value is not None:
        control.value = value
    return control


def _layout(flow: str) -> widgets.Layout:
    return widgets.Layout(display="flex", flex_flow=flow, align_items="flex-start")


def _volumes_ml(labels: NDArray[np.uint8], scan: Scan) -> dict[int, float]:
    counts = np.bincount(labels.ravel(), minlength=4)
    voxel_ml = float(np.prod(scan.spacing_mm)) / 1000
    return {label: float(counts[label]) * voxel_ml for label in LABELS if label}
