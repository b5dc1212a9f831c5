"""Scores of segmentations. The package does not import torch."""

from bdfm_nnunet.evaluation.folder_scores import evaluate_folders, score_case
from bdfm_nnunet.evaluation.metric_versions import METRICS

__all__ = ["METRICS", "evaluate_folders", "score_case"]
