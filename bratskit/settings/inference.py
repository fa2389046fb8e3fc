"""Say how a network labels a whole case, how sure it is asked to be, and what is tidied after."""

from dataclasses import dataclass
from typing import Literal

from bratskit.settings.checks import Triple, check, check_types

__all__ = ["InferenceSettings"]


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How a network labels a whole prepared case.

    Attributes:
        mode: "single" runs the whole brain box at once, "window" slides a window over it.
        window_vox: Size of the window; ignored by "single".
        overlap: Share of a window that the next one covers again.
        weights: How overlapping windows are averaged.
        mirror: Which mirror images of the case are labelled too and averaged (test-time
            augmentation): "none", "left-right" (2 passes) or "all" axes (8 passes).
        dropout_samples: Further passes with dropout switched on, averaged like the others (Monte
            Carlo dropout); 0 leaves dropout off. It needs a network with dropout.
        temperature: Logits are divided by it before softmax or sigmoid; above 1 makes a network
            less sure. It is fitted on validation patients by `bratskit tune`.
        smallest_component_vox: Tumour components (26-connected) smaller than this are removed. It
            counts voxels of the scanner's grid, whatever grid the network works on, as the two
            below do.
        smallest_et_vox: Where a whole case has fewer voxels of ET than this, they become NCR.
        fill_holes: Whether background enclosed by tumour becomes NCR inside the core and ED
            outside of it.
        smooth_mm: Standard deviation of a Gaussian that smooths the borders of the labels, mm;
            0 leaves them.
    """

    mode: Literal["single", "window"] = "single"
    window_vox: Triple = (128, 128, 128)
    overlap: float = 0.5
    weights: Literal["gaussian", "flat"] = "gaussian"
    mirror: Literal["none", "left-right", "all"] = "none"
    dropout_samples: int = 0
    temperature: float = 1.0
    smallest_component_vox: int = 0
    smallest_et_vox: int = 0
    fill_holes: bool = False
    smooth_mm: float = 0.0

    def __post_init__(self) -> None:
        check_types(self, "inference")
        check(0 <= self.overlap < 1, f"overlap must be in [0, 1); got {self.overlap}. Try 0.5.")
        for name in (
            "dropout_samples",
            "smallest_component_vox",
            "smallest_et_vox",
            "smooth_mm",
        ):
            value = getattr(self, name)
            check(value >= 0, f"{name} must be at least 0; got {value}. 0 leaves it out.")
        check(
            self.temperature > 0,
            f"temperature must be above 0; got {self.temperature}. 1 changes nothing.",
        )
