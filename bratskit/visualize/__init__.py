"""Turn numbers into something to look at: figures, slice viewer, fly-through, report."""

from bratskit.visualize.ceiling import draw_ceiling
from bratskit.visualize.curves import draw_history, draw_scores
from bratskit.visualize.figures import draw_comparison, draw_modalities, draw_overlay, draw_slices
from bratskit.visualize.flythrough import write_flythrough
from bratskit.visualize.frame import Picture
from bratskit.visualize.gallery import Tile, draw_gallery, make_tile
from bratskit.visualize.growth import draw_growth
from bratskit.visualize.knobs import PhantomKnobs
from bratskit.visualize.likeness import draw_likeness
from bratskit.visualize.live import LiveCurves
from bratskit.visualize.report import pick_cases, write_report
from bratskit.visualize.slices import error_map
from bratskit.visualize.trials import draw_trials
from bratskit.visualize.uncertainty import (
    draw_reliability,
    draw_risk_coverage,
    draw_sureness,
    draw_uncertainty,
)
from bratskit.visualize.variants import draw_variants, patch_scan
from bratskit.visualize.viewer import SliceViewer
from bratskit.visualize.voxels import coarsen, draw_voxels

__all__ = [
    "LiveCurves",
    "PhantomKnobs",
    "Picture",
    "SliceViewer",
    "Tile",
    "coarsen",
    "draw_ceiling",
    "draw_comparison",
    "draw_gallery",
    "draw_growth",
    "draw_history",
    "draw_likeness",
    "draw_modalities",
    "draw_overlay",
    "draw_reliability",
    "draw_risk_coverage",
    "draw_scores",
    "draw_slices",
    "draw_sureness",
    "draw_trials",
    "draw_uncertainty",
    "draw_variants",
    "draw_voxels",
    "error_map",
    "make_tile",
    "patch_scan",
    "pick_cases",
    "write_flythrough",
    "write_report",
]
