"""Scores of segmentations. Imports no torch."""

from bdfm_nnunet.evaluation.folders import METRICS, evaluate_folders

__all__ = ["METRICS", "evaluate_folders"]
