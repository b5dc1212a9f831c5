"""The data of one fold: its cases, whether they can be trained on, its batches, and what a checkpoint tells of it."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.data.batch_streams import Batch, batches
from bdfm_nnunet.data.case_classes import dataset_class_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, describe_run
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.inputs.input_fingerprint import INPUT_FINGERPRINT, cases_in, copy_fingerprint, write_fingerprint
from bdfm_nnunet.patients import CaseList, groups, read_cases
from bdfm_nnunet.split_files import SPLITS, read_kept_out
from bdfm_nnunet.training.raw_dataset import bring_manifest, bring_splits, check_fold, raw_folder_of, replaced_labels

Split = tuple[list[str], list[str]]
# numbers that keep the random streams of one seed apart; 0 and 1 are the trainer's
_TRAINING, _VALIDATION = 2, 3


class FoldData:
    """The cases that a trainer trains on and holds out, and their batches.

    Args:
        trainer: whose data set, fold and log these are.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._split: Split | None = None

    @property
    def _preprocessed(self) -> Path:
        return Path(self._trainer.preprocessed_dataset_folder_base)

    @property
    def raw_folder(self) -> Path | None:
        """The data set in nnUNet_raw, if it is on this machine."""
        return raw_folder_of(self._trainer.plans_manager.dataset_name)

    @property
    def cases(self) -> CaseList:
        """The cases of the data set, as the manifest beside the preprocessed data knows them, else the raw one."""
        folders = [self._preprocessed, *([] if self.raw_folder is None else [self.raw_folder])]
        try:
            return read_cases(*folders)
        except InputError as error:  # no reason to lose a training
            name = self._trainer.plans_manager.dataset_name
            return CaseList(name, name, [], str(error))

    @cached_property
    def patients(self) -> dict[str, int]:
        """Case -> number of its patient, as far as the manifest tells; the log is told if there is none."""
        known = self.cases
        if known.note:
            self._trainer.print_to_log_file(f"Patients: {known.note}")
        named = groups(known.rows, known.scope)
        numbers = {name: number for number, name in enumerate(sorted(set(named.values())))}
        return {case: numbers[name] for case, name in named.items()}

    def check_split(self) -> None:
        """Make sure that nnU-Net finds a split; one that is missing comes from nnUNet_raw.

        Raises:
            InputError: there is no such fold, the file is damaged, or a random split would tear patients apart.
        """
        trainer, folder = self._trainer, self._preprocessed
        bring_manifest(folder, self.raw_folder)
        if trainer.fold == "all":
            return
        splits = bring_splits(folder, self.raw_folder, self.cases, trainer.print_to_log_file)
        if splits is not None:
            data = trainer.preprocessed_dataset_folder
            present = dataset_class_of(data).get_identifiers(data)
            check_fold(trainer.fold, splits, present, path=folder / SPLITS, folder=data)

    def keep_split(self, split: Split) -> Split:
        """Remember nnU-Net's split for the exposure, and return it.

        Fold `all` takes every case, so those of sites that were kept out are left out here.
        """
        if self._trainer.fold == "all":
            split = self._without_external(split)
        self._split = [str(case) for case in split[0]], [str(case) for case in split[1]]
        return split

    def _without_external(self, split: Split) -> Split:
        folders = [self._preprocessed, *([] if self.raw_folder is None else [self.raw_folder])]
        external = read_kept_out(*folders).external
        if not external:
            return split
        if self._split is None:
            self._trainer.print_to_log_file(
                f"{len(external)} cases of sites that `bdfm splits --external` keeps out are not trained on."
            )
        left = [[case for case in part if case not in external] for part in split]
        if not left[0]:
            raise InputError("every case is of a site that was kept out: make the splits anew with `bdfm splits`")
        return left[0], left[1]

    def batches(self) -> tuple[Iterator[Batch], Iterator[Batch]]:
        """Return endless, reproducible batches for training and validation from the current step on."""
        trainer = self._trainer
        settings, rank = trainer.training, trainer.local_rank
        workers = get_allowed_n_proc_DA() if settings.workers is None else settings.workers
        pin = trainer.device.type == "cuda"
        training, validation = trainer.task.batch_sources()
        first, last = trainer.current_epoch, trainer.num_epochs
        numbers = range(trainer.run.steps_done, last * trainer.num_iterations_per_epoch)
        train = batches(training, settings.seed, _TRAINING, rank, numbers=numbers, workers=workers, pin_memory=pin)
        val_steps = trainer.num_val_iterations_per_epoch
        seen = trainer.task.validation_numbers(range(first * val_steps, last * val_steps))
        half = (workers + 1) // 2
        val = batches(validation, settings.seed, _VALIDATION, rank, numbers=seen, workers=half, pin_memory=pin)
        return train, val

    def begin(self) -> None:
        """Look at the raw data set once, before the first epoch."""
        self.look_for_changed_labels()
        self.leave_input_fingerprint()

    def leave_input_fingerprint(self) -> None:
        """Put what the images look like into the model's folder, so that predictions know wrong ones."""
        trainer, raw = self._trainer, self.raw_folder
        own = self._preprocessed / INPUT_FINGERPRINT
        dataset = trainer.dataset_json
        if len(trainer.configuration_manager.patch_size) == 4 or dataset["file_ending"] not in NIFTI:
            return
        try:
            if not own.is_file() and raw is not None and (raw / "imagesTr").is_dir():  # preprocessed by nnU-Net
                write_fingerprint(cases_in(raw / "imagesTr", dataset), dataset, own, workers=get_allowed_n_proc_DA())
            copy_fingerprint(self._preprocessed, Path(trainer.output_folder_base))
        except InputError as error:  # no reason to lose a training
            trainer.print_to_log_file(f"WARNING: the model will not know wrong images: {error}")

    def look_for_changed_labels(self) -> None:
        """Tell the task of labels that have changed since the data was preprocessed."""
        trainer = self._trainer
        checksums = Checksums.of(Path(trainer.preprocessed_dataset_folder))
        if checksums is None:
            trainer.print_to_log_file("The preprocessed data is not verified: only `bdfm plan` writes checksums.")
        if sentence := replaced_labels(checksums, self.raw_folder):
            trainer.task.labels_changed(sentence)

    @property
    def split(self) -> Split:
        """The fold's cases for training and validation."""
        if self._split is None:
            self._trainer.do_split()
        assert self._split is not None
        return self._split

    @cached_property
    def exposure(self) -> Exposure:
        """The cases this training sees, after those that its starting weights have seen."""
        trainer, (train, val) = self._trainer, self.split
        run = describe_run(
            self.cases,
            train=train,
            val=[] if trainer.fold == "all" else val,
            trainer=type(trainer).__name__,
            configuration=trainer.configuration_name,
            fold=str(trainer.fold),
            weights=trainer.origin.started_from,
        )
        return trainer.origin.with_run(run)

    def forget_exposure(self) -> None:
        """Find the exposure anew, once more is known of where the weights come from."""
        self.__dict__.pop("exposure", None)
