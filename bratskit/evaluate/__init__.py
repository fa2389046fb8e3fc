"""Turn masks into numbers on the native grid, sharing no code with what is judged."""

from bratskit.evaluate.balls import ball_ceiling
from bratskit.evaluate.baselines import fit_flair_threshold, predict_nothing, threshold_flair
from bratskit.evaluate.ceiling import ceiling
from bratskit.evaluate.ceilings import SIZES_ML, Ceilings, Lesion, RegionMean, SizeClass
from bratskit.evaluate.files import evaluate_paths, score_folder, score_pair
from bratskit.evaluate.metrics import (
    BRATS_EMPTY_HD95_MM,
    confusion_table,
    dice,
    hausdorff95,
    precision,
    sensitivity,
    volume_ml,
)
from bratskit.evaluate.reliability import Reliability, reliability
from bratskit.evaluate.risk_coverage import RiskCoverage, risk_coverage
from bratskit.evaluate.score import EMPTY_RULES, EmptyMasks, get_empty_rule, score_masks
from bratskit.evaluate.summary import Estimate, Summary
from bratskit.evaluate.table import Score, Scores, write_summary
from bratskit.evaluate.traits import measure_case

__all__ = [
    "BRATS_EMPTY_HD95_MM",
    "EMPTY_RULES",
    "SIZES_ML",
    "Ceilings",
    "EmptyMasks",
    "Estimate",
    "Lesion",
    "RegionMean",
    "Reliability",
    "RiskCoverage",
    "Score",
    "Scores",
    "SizeClass",
    "Summary",
    "ball_ceiling",
    "ceiling",
    "confusion_table",
    "dice",
    "evaluate_paths",
    "fit_flair_threshold",
    "get_empty_rule",
    "hausdorff95",
    "measure_case",
    "precision",
    "predict_nothing",
    "reliability",
    "risk_coverage",
    "score_folder",
    "score_masks",
    "score_pair",
    "sensitivity",
    "threshold_flair",
    "volume_ml",
    "write_summary",
]
