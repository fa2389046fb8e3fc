"""Turn numbers into something to look at: figures, slice viewer, fly-through, report."""

from bratskit.visualize.ceiling import draw_ceiling
from bratskit.visualize.curves import draw_history, draw_scores
from bratskit.visualize.figures import draw_comparison, draw_modalities, draw_overlay, draw_slices
from bratskit.visualize.flythrough import write_flythrough
from bratskit.visualize.frame import Picture
from bratskit.visualize.report import pick_cases, write_report
from bratskit.visualize.slices import error_map
from bratskit.visualize.viewer import SliceViewer

__all__ = [
    "Picture",
    "SliceViewer",
    "draw_ceiling",
    "draw_comparison",
    "draw_history",
    "draw_modalities",
    "draw_overlay",
    "draw_scores",
    "draw_slices",
    "error_map",
    "pick_cases",
    "write_flythrough",
    "write_report",
]
