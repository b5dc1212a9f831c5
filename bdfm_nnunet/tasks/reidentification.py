"""Re-identification: features by which the runs, or images, of one subject are told from those of others."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.case_classes import dataset_class_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.identification_measures import Identified, identification_scores, identify
from bdfm_nnunet.files import write_json
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.split_files import read_kept_out
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType
from bdfm_nnunet.tasks.shown_cases import rows_of, without_data
from bdfm_nnunet.tasks.subject_level import BEST, FINAL, SubjectTask

SUBJECT = "subject"
SCORES = "reidentification.json"


class Reidentification(SubjectTask):
    """The subject of a run as its class in training; runs of other subjects find one another in validation.

    What is compared are the vectors in front of the last layer, averaged over the clips of a run, by their cosine. Each
    validation run asks the gallery of all validation runs but itself and, where sessions are known, the others of its
    own session. checkpoint_best.pth is that of the largest mean average precision; in the end it is scored on the
    validation runs, and once on the runs that `bdfm splits --external` keeps out.
    """

    kind = "reidentification"
    types = (TargetType.MULTICLASS,)
    pooling = "mean"

    # --- who is who ---------------------------------------------------------------------------------------------

    @cached_property
    def subjects(self) -> dict[str, str]:
        """Case -> number of its subject, as the manifest knows it; a case that it does not know is one."""
        named = {case: str(number) for case, number in self.trainer.data.patients.items()}
        return {str(case): str(case) for part in self.trainer.do_split() for case in part} | named

    @cached_property
    def _sessions(self) -> dict[str, str]:
        rows = self.trainer.data.cases.rows
        return {str(row["case"]): str(row["session"]) for row in rows if row.get("session")}

    @cached_property
    def targets(self) -> Targets:
        """The subjects of the training cases as the classes of one target."""
        training = [str(case) for case in self.trainer.do_split()[0]]
        classes = tuple(sorted({self.subjects[case] for case in training}))
        number = {subject: float(place) for place, subject in enumerate(classes)}
        cases = tuple(sorted(self.subjects))
        values = np.array([[number.get(self.subjects[case], np.nan)] for case in cases])
        column = TargetColumn(SUBJECT, TargetType.MULTICLASS, classes)
        return Targets({SUBJECT: column}, cases, self.subjects, {}, {SUBJECT: values})

    @property
    def _names(self) -> list[str]:
        return [SUBJECT]

    def _known(self, cases: Any) -> list[str]:
        """Return all cases: that a subject is in no training case is as it should be."""
        return [str(case) for case in cases]

    def check(self) -> None:
        """Raise InputError where the settings do not fit, or no subject could be found again."""
        if self.finetuning.targets:
            raise InputError("finetuning.targets is for other trainers: re-identification learns who is who")
        if self.trainer.fold == "all":
            raise InputError("fold all holds nobody out who could be found again: train a fold")
        training, validation = (self._known(part) for part in self.trainer.do_split())
        if len({self.subjects[case] for case in training}) < 2:
            raise InputError(f"the training cases of fold {self.trainer.fold} are of one subject: take another fold")
        if not self._asked(dict.fromkeys(validation, np.ones(1))).queries.size:
            raise InputError(
                f"no subject of the validation cases of fold {self.trainer.fold} has a second run or session: make the "
                "splits of subjects with several runs"
            )
        super().check()

    def _asked(self, features: Mapping[str, Any]) -> Identified:
        """Let every run ask the gallery of all others."""
        cases = sorted(features)
        known = all(case in self._sessions for case in cases)
        sessions = [self._sessions[case] for case in cases] if known and self._several(cases) else None
        vectors = np.stack([np.asarray(features[case], dtype=np.float64) for case in cases])
        return identify(vectors, [self.subjects.get(case, case) for case in cases], sessions=sessions)

    def _several(self, cases: Sequence[str]) -> bool:
        """Return whether any of the subjects has several sessions; else runs of one session must do."""
        seen = {(self.subjects.get(case, case), self._sessions[case]) for case in cases}
        return len({subject for subject, _ in seen}) < len(seen)

    # --- an epoch -----------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Return the vectors of a case, or of some clips of a run."""
        network: Any = unwrap(self.trainer.network)
        with self.trainer.autocast():
            vectors = network.embeddings(batch["data"].to(self.trainer.device, non_blocking=True))
        return {**without_data(batch), "outputs": vectors.float().cpu()}

    def end_validation(self, outputs: list[dict[str, Any]]) -> None:
        """Log Rank-1 and the mean average precision (mAP); the loss of a validation is 1 - mAP."""
        rows = rows_of(part for each in self.trainer.processes.gather(outputs) for part in each)
        found = self._asked(_means(rows))
        precision = float(found.precision.mean()) if found.queries.size else 0.0
        self.log("rank_1", float((found.first <= 1).mean()) if found.queries.size else 0.0)
        self.log("mean_average_precision", precision)
        self.log("val_losses", 1 - precision)

    def _validate_best(self) -> None:
        trainer = self.trainer
        best = trainer.saver.path(BEST)
        network = unwrap(trainer.network)
        network.load_state_dict(read_checkpoint(best if best.is_file() else trainer.saver.path(FINAL)).weights)
        network.eval()
        self._score(self.datasets[1], self.datasets[1].identifiers, "validation")
        if kept_out := self._kept_out():
            folder = trainer.preprocessed_dataset_folder
            self._score(dataset_class_of(folder)(folder, kept_out), kept_out, "test")

    def _kept_out(self) -> list[str]:
        """Return the preprocessed cases that the splits keep out."""
        raw, folder = self.trainer.data.raw_folder, self.trainer.preprocessed_dataset_folder
        folders = [Path(self.trainer.preprocessed_dataset_folder_base), *([raw] if raw is not None else [])]
        present = set(dataset_class_of(folder).get_identifiers(folder))
        return sorted(present & read_kept_out(*folders).external)

    def _score(self, dataset: Any, cases: Sequence[str], name: str) -> None:
        """Write the scores of some cases into a folder, and tell them."""
        found = self._asked(_means(self.shown.predict(dataset, cases, embed=True)))
        if self.trainer.local_rank != 0:
            return
        scores = identification_scores(found)
        told = {"queries": len(found.queries), "left_out": found.left_out, "scores": scores}
        (self.folder / name).mkdir(exist_ok=True)
        write_json(self.folder / name / SCORES, told)
        said = ", ".join(f"{key} {each['value']:.3f} (chance {each['chance']:.3f})" for key, each in scores.items()
                         if each["value"] is not None)  # fmt: skip
        self.trainer.print_to_log_file(f"{name}, {len(found.queries)} of {len(cases)} cases ask: {said or 'nothing'}")


def _means(rows: Mapping[str, Tensor]) -> dict[str, Any]:
    return {case: each.mean(0).double().numpy() for case, each in rows.items()}
