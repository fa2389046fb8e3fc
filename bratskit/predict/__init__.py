"""Turn a network and a scan into a mask on the scanner's own grid."""

from bratskit.predict.clean import remove_small_components
from bratskit.predict.folder import PredictionError, edition_of, predict_folder
from bratskit.predict.forms import arithmetic, evaluating, forward_volume, image_of
from bratskit.predict.predict import Prediction, predict_case, predict_prepared, predict_scan
from bratskit.predict.window import gaussian_weights, single_pass, sliding_window, window_starts

__all__ = [
    "Prediction",
    "PredictionError",
    "arithmetic",
    "edition_of",
    "evaluating",
    "forward_volume",
    "gaussian_weights",
    "image_of",
    "predict_case",
    "predict_folder",
    "predict_prepared",
    "predict_scan",
    "remove_small_components",
    "single_pass",
    "sliding_window",
    "window_starts",
]
