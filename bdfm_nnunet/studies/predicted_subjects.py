"""Targets of subjects as what a study measures: predicted, chosen by the loss, and kept case by case."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from numpy.typing import NDArray

from bdfm_nnunet.data.plain_cases import as_data
from bdfm_nnunet.evaluation.subject_tables import Predictions, write_predictions
from bdfm_nnunet.prediction.subject_predictor import SubjectModel, predict_preprocessed
from bdfm_nnunet.studies.arm_training import FINAL
from bdfm_nnunet.studies.measured_cases import Found
from bdfm_nnunet.studies.scored_cases import CaseSet, patients_of, targets_of
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_tasks import SUBJECTS
from bdfm_nnunet.targets import TargetColumn, Targets
from bdfm_nnunet.tasks.subject_outputs import Member, losses_of, table_of


@dataclass(frozen=True)
class PredictedSubjects:
    """Targets of cases, predicted.

    Attributes:
        study: the study.
        device: where networks run.
    """

    study: StudyFolder
    device: torch.device

    def validated(self, fold: Path, cases: CaseSet, out: Path) -> Found:
        """Return minus the loss, by which settings are chosen: it is proper, and defined for any cases."""
        targets, member = self.study.targets, self._member(fold, cases)
        return _found(member, table_of([member], targets.patients), targets)

    def tested(self, fold: Path, cases: CaseSet, out: Path) -> Found:
        """Return the predictions for each case and target; a table of them goes into a file too."""
        targets, member = targets_of(self.study), self._member(fold, cases)
        table = table_of([member], patients_of(self.study))
        write_predictions(out / SUBJECTS, table)
        return _found(member, table, targets)

    def _member(self, fold: Path, cases: CaseSet) -> Member:
        model = SubjectModel.read(fold.parent, (fold.name.removeprefix("fold_"),), FINAL)
        (member,) = predict_preprocessed(model, _images(cases), device=self.device)
        return member


def _found(member: Member, table: Predictions, targets: Targets) -> Found:
    rows = [row for output in member.outputs for row in rows_of_target(output.column, table, targets)]
    return Found(choice=-_loss(member, targets), extra={"predictions": rows})


def _images(cases: CaseSet) -> Iterator[tuple[str, NDArray[np.float32]]]:
    read = as_data(infer_dataset_class(str(cases.data)))(str(cases.data), list(cases.cases))
    for case in cases.cases:
        yield case, np.asarray(read.load_case(case)[0][:], dtype=np.float32)


def _loss(member: Member, targets: Targets) -> float:
    """Return the mean loss of the targets."""
    cases = sorted(member.rows)
    values = [targets.values(output.column.name, cases) for output in member.outputs]
    truth = [torch.tensor(each, dtype=torch.float32) for each in values]
    losses = losses_of(member.outputs, torch.stack([member.rows[case] for case in cases]), truth)
    return float(torch.stack([*losses.values()]).mean())


def rows_of_target(column: TargetColumn, table: Predictions, targets: Targets) -> Iterator[dict[str, Any]]:
    """Yield truth and prediction of one target, for each case whose value is known.

    Args:
        column: the target.
        table: predictions.
        targets: true values.

    Yields:
        "case", "target", "truth" (a number, of several classes the name, of survival time and event), "predicted", and
        of several classes "probabilities".
    """
    name, columns = column.name, table.of(column.name)
    chances = {key.removeprefix(f"{name}="): values for key, values in columns.items() if key.startswith(f"{name}=")}
    for number, (case, values) in enumerate(zip(table.cases, targets.values(name, table.cases), strict=True)):
        if np.isnan(values).any():
            continue
        truth: Any = values.tolist() if len(values) > 1 else float(values[0])
        row = {"case": case, "target": name, "truth": column.classes[int(truth)] if chances else truth}
        row["predicted"] = columns[name][number].item()
        if chances:
            row["probabilities"] = {label: float(values[number]) for label, values in chances.items()}
        yield row
