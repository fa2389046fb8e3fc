"""Turn a network and a scan into a mask on the scanner's own grid."""

from bratskit.predict.calibrate import fit_temperature, temper, temperature_of
from bratskit.predict.clean import (
    fill_holes,
    remove_small_components,
    remove_small_et,
    smooth_borders,
    tidy,
)
from bratskit.predict.export import Exported, export_onnx, load_exported
from bratskit.predict.fold import Folded, average_members, fold_members
from bratskit.predict.folder import PredictionError, predict_folder
from bratskit.predict.forms import arithmetic, evaluating, forward_volume, image_of, volume_slabs
from bratskit.predict.members import MIRRORS, Member, list_members, run_member
from bratskit.predict.predict import (
    Prediction,
    label_prepared,
    predict_case,
    predict_prepared,
    predict_scan,
)
from bratskit.predict.receipts import edition_of
from bratskit.predict.stream import sliding_window, window_slabs
from bratskit.predict.uncertainty import RunningUncertainty, entropy_bits
from bratskit.predict.volumes import Volume, region_probs, volumes_of
from bratskit.predict.window import gaussian_weights, single_pass, window_starts

__all__ = [
    "MIRRORS",
    "Exported",
    "Folded",
    "Member",
    "Prediction",
    "PredictionError",
    "RunningUncertainty",
    "Volume",
    "arithmetic",
    "average_members",
    "edition_of",
    "entropy_bits",
    "evaluating",
    "export_onnx",
    "fill_holes",
    "fit_temperature",
    "fold_members",
    "forward_volume",
    "gaussian_weights",
    "image_of",
    "label_prepared",
    "list_members",
    "load_exported",
    "predict_case",
    "predict_folder",
    "predict_prepared",
    "predict_scan",
    "region_probs",
    "remove_small_components",
    "remove_small_et",
    "run_member",
    "single_pass",
    "sliding_window",
    "smooth_borders",
    "temper",
    "temperature_of",
    "tidy",
    "volume_slabs",
    "volumes_of",
    "window_slabs",
    "window_starts",
]
