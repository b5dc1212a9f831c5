"""What a study measures on cases: the seam between segmentations and targets of subjects."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bdfm_nnunet.studies.scored_cases import CaseSet


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a model gives on some cases.

    Attributes:
        choice: by which settings are chosen on validation cases; larger is better.
        scores: entries of `RunResult.scores`.
        extra: entries of `RunResult.extra`.
    """

    choice: float
    scores: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


class MeasuredCases(Protocol):
    """Prediction of cases by the final checkpoint of a fold, and their scores."""

    def validated(self, fold: Path, cases: CaseSet, out: Path) -> Found:
        """Predict and score validation cases.

        Args:
            fold: folder of the fold.
            cases: to predict.
            out: folder for predictions.
        """

    def tested(self, fold: Path, cases: CaseSet, out: Path) -> Found:
        """Predict and score test cases.

        Args:
            fold: folder of the fold.
            cases: to predict.
            out: folder of the task, for predictions and scores.
        """
