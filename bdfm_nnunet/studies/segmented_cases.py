"""Segmentations as what a study measures: predicted, and scored by Dice."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bdfm_nnunet.studies.arm_training import predict
from bdfm_nnunet.studies.measured_cases import Found
from bdfm_nnunet.studies.scored_cases import CaseSet, mean_dice, score
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_tasks import PREDICTIONS, SCORES

_OF_VALIDATION = ("cases", "summary", "metrics")
_OF_TEST = ("release", "metrics", "definition", "parameters", "regions", "interval", "seed", "summary", "cases")


@dataclass(frozen=True)
class SegmentedCases:
    """Whole cases, segmented.

    Attributes:
        study: the study.
        device: where networks run.
    """

    study: StudyFolder
    device: torch.device

    def validated(self, fold: Path, cases: CaseSet, out: Path) -> Found:
        """Return the mean Dice, by which settings are chosen, and the scores of each case."""
        found = self._scored(fold, cases, out)
        return Found(choice=mean_dice(found), scores={name: found[name] for name in _OF_VALIDATION})

    def tested(self, fold: Path, cases: CaseSet, out: Path) -> Found:
        """Return the scores of each case, which go into a file too."""
        found = self._scored(fold, cases, out / PREDICTIONS, out / SCORES)
        return Found(choice=mean_dice(found), scores={name: found[name] for name in _OF_TEST})

    def _scored(self, fold: Path, cases: CaseSet, out: Path, scores: Path | None = None) -> dict[str, Any]:
        mirroring = self.study.settings.mirroring
        predict(fold, cases.cases, data=cases.data, out=out, device=self.device, mirroring=mirroring)
        return score(self.study, cases, out, scores)
