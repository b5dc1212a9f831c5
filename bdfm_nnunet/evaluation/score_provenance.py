"""Where scores come from: the label maps on both sides, and the models behind the predictions where they are known."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.results import Provenance, RunResult, Session, read_result, versions_of
from bdfm_nnunet.results.hashed_files import hashed_file, hashed_files

PREDICTIONS = "prediction_summary.json"
"""What `bdfm predict` leaves beside its results."""


@dataclass(frozen=True)
class ScoreProvenance:
    """The provenance of scores; its session begins when this is made.

    Attributes:
        reference: folder of the references.
        prediction: folder of the predictions.
        beside: folder of the result file.
        session: of the evaluation.

    Example:
        >>> beside = Path(".")
        >>> provenance = ScoreProvenance(Path("labels"), Path("predictions"), beside)
        >>> case = "BraTS-GLI-00001-000.nii.gz"
        >>> found, exposure = provenance.of([Path("labels") / case], [Path("predictions") / case], seed=0)
        >>> [each.place for each in found.inputs], exposure is None
        (['labels', 'predictions'], True)
    """

    reference: Path
    prediction: Path
    beside: Path
    session: Session = field(default_factory=lambda: Session(versions=versions_of("numpy", "scipy")))

    def of(
        self, references: Iterable[Path], predictions: Iterable[Path], *, seed: int
    ) -> tuple[Provenance, Mapping[str, Any] | None]:
        """Return the provenance, and what the models have seen that have made the predictions; None if not known.

        Args:
            references: files that were read.
            predictions: files that were read.
            seed: of the intervals.

        Raises:
            InputError: a file cannot be read any more.
        """
        behind = self._behind()
        known = (behind and behind.provenance) or Provenance()
        sheet = self.prediction / PREDICTIONS
        made = [hashed_file("run sheet of the predictions", sheet, beside=self.beside)] if behind else []
        provenance = Provenance(
            inputs=[
                hashed_files("references", self.reference, references, beside=self.beside),
                hashed_files("predictions", self.prediction, predictions, beside=self.beside),
                *made,
            ],
            seeds={"intervals": seed},
            sessions=[self.session.as_dict()],
            licences=known.licences,
            citations=known.citations,
        )
        return provenance, None if behind is None else behind.exposure

    def _behind(self) -> RunResult | None:
        """Return the run sheet of the predictions; None if there is none of use."""
        path = self.prediction / PREDICTIONS
        try:
            return read_result(path, kind="prediction") if path.is_file() else None
        except InputError:
            return None
