"""Scores of segmentations. Imports no torch."""

from bdfm_nnunet.evaluation.folders import evaluate_folders, score_case
from bdfm_nnunet.evaluation.versions import METRICS

__all__ = ["METRICS", "evaluate_folders", "score_case"]
