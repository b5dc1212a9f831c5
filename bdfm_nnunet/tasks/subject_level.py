"""Targets of whole subjects: classes, numbers and survival, learned from bags of crops that show a whole case."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.checkpoints.readers.nnunet_reader import TASK
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import Predictions
from bdfm_nnunet.losses.joined_batches import gather_rows
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.networks.subject_network import AXES_OF_RUNS, build_subject_network
from bdfm_nnunet.presets import POOLING, SUBJECT_TYPES
from bdfm_nnunet.settings import SubjectSettings
from bdfm_nnunet.targets import Targets, TargetType, read_targets
from bdfm_nnunet.targets.target_choice import chosen_targets
from bdfm_nnunet.tasks.finetuning import Finetuning
from bdfm_nnunet.tasks.shown_cases import ShownCases, ShownCrops, means_of, rows_of, without_data
from bdfm_nnunet.tasks.shown_clips import ShownClips
from bdfm_nnunet.tasks.subject_outputs import (
    Member,
    TargetOutput,
    losses_of,
    outputs_of,
    same_task,
    split_outputs,
    table_of,
)
from bdfm_nnunet.tasks.subject_validation import add_entries, write_validation

BEST, FINAL = "checkpoint_best.pth", "checkpoint_final.pth"


class SubjectTask(Finetuning):
    """Targets of whole subjects from an encoder of the plans, which pre-trained weights may start.

    A case is a bag of crops that cover it. Every training case is seen once in each pass, whatever the batch; every
    validation case after each epoch, as it is. checkpoint_best.pth is that of the epoch with the least validation loss,
    and what the finished training predicts the validation cases with.

    Attributes:
        types: kinds of targets that it learns.
        pooling: of the settings' "auto".
        most_validated: validation cases of each epoch, where not all of them are wanted.
    """

    settings_class = SubjectSettings
    epochs = 40
    decay = "cosine"
    types: ClassVar[tuple[TargetType, ...]]
    pooling: ClassVar[Literal["mean", "attention"]]
    most_validated: int | None = None

    # --- targets ------------------------------------------------------------------------------------------------

    @cached_property
    def targets(self) -> Targets:
        """The targets of the data set, beside the preprocessed data or the raw."""
        data = self.trainer.data
        folders = [Path(self.trainer.preprocessed_dataset_folder_base), data.raw_folder]
        return read_targets(*(folder for folder in folders if folder is not None))

    @cached_property
    def outputs(self) -> list[TargetOutput]:
        """What the network gives for each target, as the training cases ask.

        Raises:
            InputError: a target does not exist, is of another kind, or does not vary among the training cases.
        """
        cases, joined = self._known(self.trainer.do_split()[0]), self.shown.joins_subjects
        return outputs_of(self.targets, self._names, cases, self.finetuning, by_patient=joined)

    @property
    def _names(self) -> list[str]:
        return chosen_targets(
            self.targets,
            self.finetuning.targets,
            types=self.types,
            trainer=type(self.trainer).__name__,
            dataset=self.trainer.plans_manager.dataset_name,
        )

    def _known(self, cases: Any) -> list[str]:
        """Return those cases of which any target is known."""
        cases = [str(case) for case in cases]
        known = np.any([~np.isnan(self.targets.values(name, cases)).any(1) for name in self._names], axis=0)
        return [case for case, any_known in zip(cases, known, strict=True) if any_known]

    def _truth(self, cases: list[str]) -> list[Tensor]:
        """Return the values of each target, (cases, 1 or 2)."""
        device = self.trainer.device
        values = [self.targets.values(output.column.name, cases) for output in self.outputs]
        return [torch.tensor(each, dtype=torch.float32, device=device) for each in values]

    # --- network ------------------------------------------------------------------------------------------------

    @property
    def output_channels(self) -> int:
        """Numbers of all targets together."""
        return sum(output.width for output in self.outputs)

    @classmethod
    def build_network(
        cls, configuration_manager: Any, *, input_channels: int, output_channels: int, deep_supervision: bool
    ) -> nn.Module:
        """Build the encoder of the network that the plans describe, and a head with so many outputs."""
        settings = cls._settings(configuration_manager)
        return build_subject_network(
            configuration_manager.configuration,
            inputs=input_channels,
            outputs=output_channels,
            pooling=cls._pooling(settings, len(configuration_manager.patch_size)),
            head=settings.head,
            dropout=settings.dropout,
        )

    @classmethod
    def _pooling(cls, settings: SubjectSettings, axes: int) -> Literal["mean", "attention"]:
        if settings.pooling != "auto":
            return settings.pooling
        return "mean" if axes == AXES_OF_RUNS else cls.pooling

    @cached_property
    def shown(self) -> ShownCases:
        """How cases are shown: images as crops, runs as clips."""
        kind = ShownClips if self._axes == AXES_OF_RUNS else ShownCrops
        return kind(self.trainer, self.finetuning)

    @property
    def _axes(self) -> int:
        return len(self.trainer.configuration_manager.patch_size)

    def check(self) -> None:
        """Raise InputError where targets or settings do not fit."""
        super().check()
        if self._axes not in (3, AXES_OF_RUNS):
            raise InputError(
                f"configuration {self.trainer.configuration_name} is {self._axes}-D, which shows no whole subjects: "
                "choose a 3d configuration, or 4d for runs"
            )
        self.shown.check()
        if wrong := [axis for axis in self.finetuning.mirror_axes if axis > 2]:
            raise InputError(f"finetuning.mirror_axes names axis {wrong[0]}, expected axes from 0 to 2")
        _ = self.outputs
        if not self._known(self.trainer.do_split()[1]):
            raise InputError(
                f"no validation case of fold {self.trainer.fold} has a value of {' or '.join(self._names)}: make the "
                "splits anew with `bdfm splits --target`"
            )

    # --- what a case looks like -----------------------------------------------------------------------------------

    @cached_property
    def datasets(self) -> tuple[Any, Any]:
        """The preprocessed training and validation cases."""
        training, validation = self.trainer.get_tr_and_val_datasets()
        return training, validation

    # --- batches ------------------------------------------------------------------------------------------------

    def batch_sources(self) -> tuple[Any, Any]:
        """Return the training cases as they are shown in a step, and the validation cases as they are."""
        trainer = self.trainer
        training, validation = self.datasets
        cases, held_out = self._known(training.identifiers), self._known(validation.identifiers)
        self._tell(cases, held_out)
        shown = held_out[: self.most_validated or len(held_out)]
        # each is seen once
        whole, trainer.num_val_iterations_per_epoch = self.shown.whole(
            validation, shown, rank=trainer.local_rank, count=trainer.processes.count
        )
        return self.shown.training(training, cases), whole

    def _tell(self, cases: list[str], held_out: list[str]) -> None:
        tell, settings = self.trainer.print_to_log_file, self.finetuning
        named = ", ".join(f"{output.column.name} ({output.column.type})" for output in self.outputs)
        tell(f"Targets: {named}; {len(cases)} training and {len(held_out)} validation cases with a value.")
        tell(self.shown.sentence(self.datasets[0], cases))
        axes = ", ".join(map(str, settings.mirror_axes))
        tell(f"Training mirrors axes {axes}." if axes else "Training mirrors no axis (finetuning.mirror_axes).")

    def validation_numbers(self, numbers: range) -> list[int]:
        """Return the same cases in every epoch."""
        return [number % self.trainer.num_val_iterations_per_epoch for number in numbers]

    def prepare(self, batch: Batch) -> Batch:
        """Add the augmentation of a training step, and the channels that it keeps."""
        return {**super().prepare(batch), **self.shown.drawn(self.trainer.run.step_number)}

    # --- steps --------------------------------------------------------------------------------------------------

    @property
    def compares_samples(self) -> bool:
        """Whether the loss is Cox's."""
        return any(output.cox for output in self.outputs)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the mean loss of the targets, and each one's where there are several."""
        if self.compares_samples:
            return self.compare(self.represent(batch)[0])
        smoothing = self.finetuning.label_smoothing
        return self._loss_of(self._outputs_of(batch), self._truth(batch["keys"]), smoothing=smoothing)

    def represent(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the log hazards, and the times and events of the cases."""
        truth = torch.cat(self._truth(batch["keys"]), 1)
        return {"outputs": self._outputs_of(batch), "truth": truth}, {}

    def compare(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return Cox's loss over the joined batch of all processes."""
        outputs, truth = (gather_rows(representations[name])[0] for name in ("outputs", "truth"))
        return self._loss_of(outputs.float(), list(truth.split(2, 1)))

    def _loss_of(self, outputs: Tensor, truth: list[Tensor], *, smoothing: float = 0.0) -> dict[str, Tensor]:
        found = losses_of(self.outputs, outputs, truth, smoothing=smoothing)
        loss = torch.stack([*found.values()]).mean()
        return {"loss": loss, **(found if len(found) > 1 else {})}

    def _outputs_of(self, batch: Batch) -> Tensor:
        bags = self.shown.changed(batch)
        if "channels" in batch:
            bags = only_channels(bags, batch["channels"][:, 0], axis=2)  # all crops of a case lack the same
        outputs: Tensor = self.trainer.network(bags)
        return outputs

    # --- an epoch -----------------------------------------------------------------------------------------------

    def end_training_epoch(self, outputs: list[dict[str, Any]]) -> None:
        """Log the mean loss of each target where there are several."""
        for output in self.outputs if len(self.outputs) > 1 else ():
            self.log(f"train_{output.column.name}", self.trainer.mean_of(outputs, output.column.name))

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Return the outputs of a case, or of some clips of a run."""
        with self.trainer.autocast():
            outputs = self.trainer.network(batch["data"].to(self.trainer.device, non_blocking=True))
        return {**without_data(batch), "outputs": outputs.float().cpu()}

    def end_validation(self, outputs: list[dict[str, Any]]) -> None:
        """Log the loss over all validation cases, or subjects of runs, and their scores."""
        rows = rows_of(part for each in self.trainer.processes.gather(outputs) for part in each)
        units = self._units(sorted(rows))
        found = self._loss_of(means_of(rows, units).to(self.trainer.device), self._truth([unit[0] for unit in units]))
        self.log("val_losses", float(found["loss"]))

    def _units(self, cases: Sequence[str]) -> list[list[str]]:
        """Return what is scored as one: a case, or all runs of a subject that have the same values."""
        if not self.shown.joins_subjects:
            return [[case] for case in cases]
        values = [self.targets.values(name, cases) for name in self._names]
        units: dict[Any, list[str]] = {}
        for number, case in enumerate(cases):
            own = tuple(str(each[number]) for each in values)
            units.setdefault((self.targets.patients.get(case, case), own), []).append(case)
        return [*units.values()]

    def final_validation(self, *, save_probabilities: bool = False) -> None:
        """Predict the validation cases with the weights of the best epoch, and score them.

        The fold's folder gets validation/subjects.csv and subject_scores.json; of runs also patients.csv, whose rows
        are means over all clips of a subject and are what is scored. These cases have chosen the epoch, so their scores
        are a little too good; test cases know nothing of it.
        """
        self.trainer.run.validate_finished(self._validate_best)

    def _validate_best(self) -> None:
        trainer = self.trainer
        best = trainer.saver.path(BEST)
        checkpoint = read_checkpoint(best if best.is_file() else trainer.saver.path(FINAL))
        network = unwrap(trainer.network)
        network.load_state_dict(checkpoint.weights)
        network.eval()
        if self.compares_samples:
            self._keep_baselines(checkpoint.path)
        rows = self.shown.predict(self.datasets[1], self.datasets[1].identifiers)
        if trainer.local_rank == 0:
            folder, tell = self.folder / "validation", trainer.print_to_log_file
            tables = [self._table(rows, [[case] for case in rows])]
            if self.shown.joins_subjects:
                tables.append(self._table(rows, self._units(sorted(rows))))
            write_validation(folder, tables, self.outputs, self.targets, tell)

    def _table(self, rows: Mapping[str, Tensor], units: list[list[str]]) -> Predictions:
        """Return the table of predictions of some units, each named by its first case."""
        names = [unit[0] for unit in units]
        clips = {name: sum(len(rows[case]) for case in unit) for name, unit in zip(names, units, strict=True)}
        member = Member(self.outputs, dict(zip(names, means_of(rows, units), strict=True)))
        return table_of([member], self.targets.patients, clips=clips if self.shown.joins_subjects else None)

    def _keep_baselines(self, path: Path) -> None:
        """Add the baseline hazards of the training cases to the outputs and to the checkpoint of their weights."""
        rows = self.shown.predict(self.datasets[0], self._known(self.datasets[0].identifiers))
        units = self._units(sorted(rows))
        risks, truth = split_outputs(self.outputs, means_of(rows, units)), self._truth([unit[0] for unit in units])
        self.outputs = [
            output.with_baseline(risk[:, 0], values.cpu(), self.finetuning)
            for output, risk, values in zip(self.outputs, risks, truth, strict=True)
        ]
        if self.trainer.local_rank == 0:
            add_entries(path, self.checkpoint_entries())
            those = "subjects" if self.shown.joins_subjects else "cases"
            self.trainer.print_to_log_file(f"{path.name} has the baseline hazard of {len(units)} training {those}.")

    # --- checkpoints --------------------------------------------------------------------------------------------

    def checkpoint_entries(self) -> dict[str, Any]:
        """Return what a prediction needs beside the plans."""
        return {TASK: self._entry(), **super().checkpoint_entries()}

    def _entry(self) -> dict[str, Any]:
        settings = self.finetuning
        return {
            "targets": [each.as_dict() for each in self.outputs],
            "crop": list(self.shown.crop),
            "overlap": settings.crop_overlap,
            "pooling": self._pooling(settings, self._axes),
            "head": settings.head,
        }

    def recall(self, entry: Any) -> None:
        """Raise ValueError where a checkpoint was trained for other targets than those of today."""
        if not same_task(entry, self._entry()):
            raise ValueError("it was trained for other targets, cases or crops")


class Classification(SubjectTask):
    """Classes of subjects: binary, several, or ordered."""

    kind = "classification"
    types = tuple(map(TargetType, SUBJECT_TYPES["nnUNetTrainerBDFMClassification"]))
    pooling = POOLING["nnUNetTrainerBDFMClassification"]


class Regression(SubjectTask):
    """Numbers of subjects."""

    kind = "regression"
    types = tuple(map(TargetType, SUBJECT_TYPES["nnUNetTrainerBDFMRegression"]))
    pooling = POOLING["nnUNetTrainerBDFMRegression"]


class Survival(SubjectTask):
    """Times of events of subjects, some of whom are lost from view before."""

    kind = "survival"
    types = tuple(map(TargetType, SUBJECT_TYPES["nnUNetTrainerBDFMSurvival"]))
    pooling = POOLING["nnUNetTrainerBDFMSurvival"]
