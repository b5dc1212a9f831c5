"""Segmentation with nnU-Net's loss, augmentation and validation, from pre-trained or random weights."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerDA5 import nnUNetTrainerDA5
from torch import Tensor, nn

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.data.batch_streams import Batch, BatchSource
from bdfm_nnunet.data.checked_cases import DAMAGE, CheckedCases
from bdfm_nnunet.data.random_contrast import ContrastTransform
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.nnunet_scores import read_nnunet_scores
from bdfm_nnunet.networks.encoders import unwrap
from bdfm_nnunet.tasks.finetuning import Finetuning
from bdfm_nnunet.tasks.output_prior import region_shares, start_at_shares
from bdfm_nnunet.tasks.run_summary import scored_regions, write_scores

PRIOR_CASES = 50
"""Training cases, evenly spaced by name, of which the shares of regions are counted."""


class LabelledCrops(nnUNetDataLoader):
    """nnU-Net's loader, which names a case that cannot be decompressed."""

    def generate_train_batch(self) -> Batch:
        """Return a batch of augmented crops.

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


def _geometric(transforms: Sequence[Any]) -> int:
    """Return how many transforms at the start of nnU-Net's chain leave intensities alone."""
    kinds = (SpatialTransform, Convert3DTo2DTransform, Convert2DTo3DTransform)
    return next(number for number, each in enumerate(transforms) if not isinstance(each, kinds))


class Segmentation(Finetuning):
    """nnU-Net's segmentation: loss, augmentation, deep supervision and validation are its own."""

    kind = "segmentation"
    deep_supervision = True

    def check(self) -> None:
        """Raise InputError for 4-D images, or where the training is too short for its strategy."""
        if len(self.trainer.configuration_manager.patch_size) == 4:
            raise InputError(
                f"configuration {self.trainer.configuration_name} is of 4-D images, which have no labels to segment: "
                "use -tr nnUNetTrainerNeuroSTORM, or a trainer of targets such as nnUNetTrainerBDFMClassification"
            )
        super().check()

    @classmethod
    def build_network(
        cls, configuration_manager: Any, *, input_channels: int, output_channels: int, deep_supervision: bool
    ) -> nn.Module:
        """Build nnU-Net's network."""
        return nnUNetTrainer.build_network_architecture(
            None, configuration_manager, input_channels, output_channels, deep_supervision
        )

    def build_loss(self) -> Any:
        """Return nnU-Net's loss.

        Raises:
            InputError: its Dice over the batch, among processes with unequal shares.
        """
        trainer = self.trainer
        count, accumulate = trainer.processes.count, trainer.training.accumulate
        equal = trainer.whole_batch % (count * accumulate) == 0
        if trainer.is_ddp and trainer.configuration_manager.batch_dice and not equal:
            raise InputError(
                f"batch_dice needs equal shares, but {count} processes with training.accumulate={accumulate} do not "
                f"divide the plans' batch of {trainer.whole_batch}: choose numbers that do, or plan another batch "
                "(bdfm plan --variant NAME --set batch_size=...)"
            )
        return nnUNetTrainer._build_loss(trainer)

    def set_deep_supervision(self, enabled: bool) -> None:
        """Switch nnU-Net's network."""
        nnUNetTrainer.set_deep_supervision_enabled(self.trainer, enabled)

    def load_weights(self) -> None:
        """Load the pre-trained weights that are named, and start the outputs at the shares of their regions if asked.

        Raises:
            InputError: the weights cannot be used, or the network's outputs cannot be set.
        """
        super().load_weights()
        if self.finetuning.output_prior:
            self._start_at_shares()

    def _start_at_shares(self) -> None:
        trainer, labels = self.trainer, self.trainer.label_manager
        cases, _ = trainer.get_tr_and_val_datasets()
        chosen = sorted(cases.identifiers)[:: max(1, len(cases.identifiers) // PRIOR_CASES)][:PRIOR_CASES]
        segmentations = (cases.load_case(name)[1][0] for name in chosen)  # (1, x, y, z) each
        regions = labels.foreground_regions if labels.has_regions else labels.all_labels
        shares = region_shares((np.asarray(each) for each in segmentations), regions, ignore=labels.ignore_label)
        start_at_shares(unwrap(trainer.network), shares, sigmoid=labels.has_regions)
        named = ", ".join(f"{share:.2g}" for share in shares)
        trainer.print_to_log_file(f"Outputs start at the shares of their regions in {len(chosen)} cases: {named}.")

    def labels_changed(self, sentence: str) -> None:
        """Refuse a new training, as it would learn from other labels; one that continues keeps its labels."""
        if not self.trainer.resumed:
            raise InputError(sentence)
        super().labels_changed(sentence)

    # --- batches ------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return nnU-Net's segmentation loss."""
        trainer, target = self.trainer, batch["target"]
        targets = target if isinstance(target, list) else [target]
        targets = [part.to(trainer.device, non_blocking=True) for part in targets]
        images = batch["data"].to(trainer.device, non_blocking=True)
        output = trainer.network(only_channels(images, batch["channels"][:, 0]) if "channels" in batch else images)
        return {"loss": trainer.loss(output, targets if isinstance(target, list) else targets[0])}

    def batch_sources(self) -> tuple[BatchSource, BatchSource]:
        """Return nnU-Net's own loaders, with its augmentation and foreground sampling."""
        trainer = self.trainer
        geometry = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        rotation, dummy_2d, initial_patch, mirror_axes = geometry
        scales = trainer._get_deep_supervision_scales()
        labels, patch = trainer.label_manager, trainer.configuration_manager.patch_size
        shared = {
            "is_cascaded": trainer.is_cascaded,
            "foreground_labels": labels.foreground_labels,
            "regions": labels.foreground_regions if labels.has_regions else None,
            "ignore_label": labels.ignore_label,
        }
        masked = trainer.configuration_manager.use_mask_for_norm
        strong = self.finetuning.augment == "strong"
        augmentation = (nnUNetTrainerDA5 if strong else trainer).get_training_transforms(
            patch, rotation, scales, mirror_axes, dummy_2d, use_mask_for_norm=masked, **shared
        )
        if self.finetuning.random_contrast:
            augmentation.transforms.insert(_geometric(augmentation.transforms), self._contrasts())
        training, validation = trainer.get_tr_and_val_datasets()
        return (
            self._loader(training, initial_patch, augmentation),
            self._loader(validation, patch, trainer.get_validation_transforms(scales, **shared)),
        )

    def _contrasts(self) -> ContrastTransform:
        labels, spacing = self.trainer.label_manager.foreground_labels, self.trainer.configuration_manager.spacing
        share = self.finetuning.random_contrast
        return ContrastTransform(share=share, labels=max(labels, default=0) + 1, spacing=spacing)

    def _loader(self, dataset: Any, read_size: Any, transforms: Any) -> nnUNetDataLoader:
        trainer = self.trainer
        return LabelledCrops(
            dataset,
            trainer.batch_size,
            read_size,
            trainer.configuration_manager.patch_size,
            trainer.label_manager,
            oversample_foreground_percent=trainer.oversample_foreground_percent,
            probabilistic_oversampling=trainer.probabilistic_oversampling,
            transforms=transforms,
        )

    # --- scores -------------------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Return nnU-Net's loss and counts of a batch."""
        output: dict[str, Any] = nnUNetTrainer.validation_step(self.trainer, batch)
        return output

    def end_validation(self, outputs: list[dict[str, Any]]) -> None:
        """Log nnU-Net's pseudo Dice."""
        nnUNetTrainer.on_validation_epoch_end(self.trainer, outputs)

    def end_epoch(self) -> None:
        """End the epoch as nnU-Net does; a figure that cannot be written is a warning."""
        trainer = self.trainer
        epoch, dice = trainer.current_epoch, float(trainer.logger.get_value("ema_fg_dice", step=-1))
        if trainer._best_ema is None or dice > trainer._best_ema:
            trainer.print_to_log_file(f"New best EMA pseudo Dice: {dice:.4f}")
        trainer.save_if_best(dice)
        try:
            nnUNetTrainer.on_epoch_end(trainer)
        except OSError as error:
            trainer.print_to_log_file(f"WARNING: training goes on without a new progress.png: {error}")
        trainer.current_epoch = epoch

    def final_validation(self, *, save_probabilities: bool = False) -> None:
        """Predict and score the validation cases, as nnU-Net does; the scores go into training_summary.json too."""
        trainer = self.trainer
        trainer.run.validate_finished(partial(nnUNetTrainer.perform_actual_validation, trainer, save_probabilities))
        if trainer.local_rank == 0:
            write_scores(trainer, self._scores)

    def _scores(self) -> dict[str, Any]:
        trainer = self.trainer
        return read_nnunet_scores(
            Path(trainer.output_folder) / "validation" / "summary.json",
            regions=scored_regions(trainer),
            dataset=trainer.plans_manager.dataset_name,
            file_ending=trainer.dataset_json["file_ending"],
        )
