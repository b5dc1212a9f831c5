"""Segmentation from pre-trained weights."""

import os
from functools import cached_property
from typing import Any

from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.data.batch_streams import Batch, BatchSource
from bdfm_nnunet.data.checked_cases import DAMAGE, CheckedCases
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, compare, parts_of
from bdfm_nnunet.settings import FinetuningSettings, read_block
from bdfm_nnunet.trainers.base import ReproducibleTrainer

WEIGHTS_VARIABLE = "BDFM_WEIGHTS"


class LabelledCrops(nnUNetDataLoader):
    """nnU-Net's loader, which names a case that cannot be decompressed."""

    def generate_train_batch(self) -> Batch:
        """A batch of augmented crops.

        Raises:
            InputError: a case is missing or damaged.
        """
        try:
            batch: Batch = super().generate_train_batch()
        except InputError:
            raise
        except DAMAGE:
            if isinstance(self._data, CheckedCases) and self._data.last:
                self._data.check_last()
            raise
        return batch


class nnUNetTrainerBDFM(ReproducibleTrainer):
    """nnU-Net's segmentation training, started from a pre-trained encoder.

    The weights are those that the environment variable BDFM_WEIGHTS names ("none" for no file), else those of the plans
    ("finetuning": {"weights": ...}), or a whole checkpoint that nnU-Net's -pretrained_weights names; with none of them,
    training starts from scratch and says so. Loss,
    augmentation, deep supervision and validation are nnU-Net's; optimiser and rates suit the encoder and are warmed
    up. The decoder can learn at another rate than the encoder ("finetuning": {"encoder_lr_factor": ...}).
    """

    @cached_property
    def finetuning(self) -> FinetuningSettings:
        """The configuration's "finetuning" block."""
        settings: FinetuningSettings = read_block(self.configuration_manager.configuration, "finetuning")
        return settings

    @property
    def encoder_lr_factor(self) -> float:
        """Learning rate of the encoder, relative to that of the rest."""
        return self.finetuning.encoder_lr_factor

    def on_train_start(self) -> None:
        """Loads the pre-trained weights, unless a checkpoint of this very run was loaded."""
        if not self.was_initialized:
            self.initialize()
        if not self.resumed:
            self.find_origin()
            self._load_weights()
        super().on_train_start()

    def _load_weights(self) -> None:
        named = os.environ.get(WEIGHTS_VARIABLE, "")
        path = named or self.finetuning.weights
        if not path or path.lower() == "none":
            path = ""
        if self.started_from and path:
            source = WEIGHTS_VARIABLE if named else "the plans' finetuning.weights"
            raise InputError(
                f"weights have come in twice, {self.started_from['name']} by -pretrained_weights and {path} by "
                f"{source}: leave the option out, or set {WEIGHTS_VARIABLE}=none"
            )
        if self.started_from:
            self._warn_of_cases_seen(self.started_from["name"])
            return
        if not path:
            self.print_to_log_file(f"Training from scratch: neither {WEIGHTS_VARIABLE} nor the plans name weights.")
            return
        report = load_pretrained(
            self.network,
            path,
            min_match=self.finetuning.min_match,
            sha256=None if named else self.finetuning.weights_sha256,
        )
        self.print_to_log_file(report)
        self.started_from = {"name": report.path.name, "sha256": report.sha256}
        self.ancestors = Exposure.of(report.exposure, kind=report.kind, named=report.path.name)
        self._warn_of_cases_seen(report.path.name)

    def _warn_of_cases_seen(self, name: str) -> None:
        """Says which validation and test cases the weights know already."""
        if self.ancestors.note:
            self.print_to_log_file(f"{self.ancestors.note}, so nobody can tell whether it has seen the test cases.")
            return
        cases = self.cases
        if self.fold == "all":
            self.print_to_log_file(
                "Fold `all` has no validation cases of its own, so only test cases in imagesTs are compared with those "
                "that the weights have seen; `bdfm exposure` compares all."
            )
        train, val = self.do_split() if self.fold != "all" else ([], [])
        report = compare(self.ancestors, cases, parts_of(cases, train, val), checkpoint=name)
        if warning := report.warning():
            self.print_to_log_file(warning)

    def tell_of_labels(self, sentence: str) -> None:
        """Labels are what is learnt here: a new training stops, one that goes on keeps to what it has begun with."""
        if self.resumed:
            super().tell_of_labels(sentence)
        else:
            raise InputError(sentence)

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """nnU-Net's segmentation loss."""
        target = batch["target"]
        targets = target if isinstance(target, list) else [target]
        targets = [part.to(self.device, non_blocking=True) for part in targets]
        output = self.network(batch["data"].to(self.device, non_blocking=True))
        return {"loss": self.loss(output, targets if isinstance(target, list) else targets[0])}

    def batch_sources(self) -> tuple[BatchSource, BatchSource]:
        """nnU-Net's own loaders, with its augmentation and foreground sampling."""
        geometry = self.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        rotation, dummy_2d, initial_patch, mirror_axes = geometry
        scales = self._get_deep_supervision_scales()
        labels = self.label_manager
        shared = {
            "is_cascaded": self.is_cascaded,
            "foreground_labels": labels.foreground_labels,
            "regions": labels.foreground_regions if labels.has_regions else None,
            "ignore_label": labels.ignore_label,
        }
        patch = self.configuration_manager.patch_size
        augmentation = self.get_training_transforms(
            patch,
            rotation,
            scales,
            mirror_axes,
            dummy_2d,
            use_mask_for_norm=self.configuration_manager.use_mask_for_norm,
            **shared,
        )
        training, validation = self.get_tr_and_val_datasets()
        return (
            self._loader(training, initial_patch, augmentation),
            self._loader(validation, patch, self.get_validation_transforms(scales, **shared)),
        )

    def _loader(self, dataset: Any, read_size: Any, transforms: Any) -> nnUNetDataLoader:
        return LabelledCrops(
            dataset,
            self.batch_size,
            read_size,
            self.configuration_manager.patch_size,
            self.label_manager,
            oversample_foreground_percent=self.oversample_foreground_percent,
            probabilistic_oversampling=self.probabilistic_oversampling,
            transforms=transforms,
        )
