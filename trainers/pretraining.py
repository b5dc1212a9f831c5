"""Masked image modelling as nnU-Net trainers."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from torch import Tensor, nn

from bdfm_nnunet import metrics
from bdfm_nnunet.data.augmentation import RandomAffine, mirrored
from bdfm_nnunet.data.batch_streams import Batch, BatchSource
from bdfm_nnunet.data.crops import UnlabelledCrops
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks.encoders import encoder_of, unwrap
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.reports.figures import progress_figure, reconstruction_figure, save_figure
from bdfm_nnunet.settings import SIMMIM, PretrainingSettings, read_block
from bdfm_nnunet.step_checks import check_masks
from bdfm_nnunet.trainers.base import ReproducibleTrainer, build_from_plans

_SCORES = ("psnr", "psnr_mean_fill", "ssim", "ssim_mean_fill")
# numbers that keep the masks of training and validation apart from other random streams
_TRAIN_MASKS, _VALIDATION_MASKS = 10, 11


class nnUNetTrainerBDFMPretrain(ReproducibleTrainer):
    """BDFM pre-training: masked image modelling of the encoder that the plans describe, without labels.

    By default every modality of a case is a sample of its own and the encoder reads one channel; fine-tuning adapts it
    to any number. After each epoch the same crops with the same masks are rebuilt and scored by PSNR and SSIM on the
    masked voxels, beside filling them with the mean of the visible ones. The settings are the configuration's
    "pretraining" block, see `PretrainingSettings`.

    The fold's folder gets checkpoint_final.pth (for `nnUNetTrainerBDFM`), progress.png, pictures of reconstructions
    and pretraining_summary.json.
    """

    preset: Mapping[str, Any] = MappingProxyType({})
    default_rates = MappingProxyType({"adamw": 2e-4, "sgd": 1e-2})
    decay = "cosine"
    with_deep_supervision = False
    _val_iteration = 0
    _picture: tuple[Tensor, Tensor, dict[str, Tensor]] | None = None

    @cached_property
    def pretraining(self) -> PretrainingSettings:
        """The configuration's "pretraining" block."""
        return self._settings(self.configuration_manager)

    def initialize(self) -> None:
        """Builds the objective, optimiser and schedule.

        Raises:
            InputError: the masks do not fit the crops or the network.
        """
        check_masks(self.configuration_manager.configuration, self.pretraining)
        super().initialize()

    # --- the objective ------------------------------------------------------------------------------------------

    @classmethod
    def _settings(cls, configuration_manager: Any) -> PretrainingSettings:
        settings: PretrainingSettings = read_block(configuration_manager.configuration, "pretraining", **cls.preset)
        return settings

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = False,
    ) -> nn.Module:
        """The objective around the encoder of the network that the plans describe; its decoder is left out."""
        settings = cls._settings(configuration_manager)
        network = build_from_plans(
            configuration_manager,
            input_channels=1 if settings.channels == "single" else num_input_channels,
            output_channels=num_output_channels,
            deep_supervision=False,
        )
        return MaskedImageModelling(encoder_of(network), settings)

    @property
    def objective(self) -> MaskedImageModelling:
        """The objective without the wrappers of DDP and torch.compile."""
        objective = unwrap(self.network)
        assert isinstance(objective, MaskedImageModelling)
        return objective

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """The loss of a batch under its masks, and its terms."""
        images, mask = (batch[name].to(self.device, non_blocking=True) for name in ("data", "mask"))
        if "flips" in batch:
            images = mirrored(images, batch["flips"])
        return self.network(images, mask=mask)

    def prepare(self, batch: Batch) -> Batch:
        """Adds the masks of a training step."""
        return batch | {"mask": self._masks(batch["data"], _TRAIN_MASKS, self._step_number)}

    def _masks(self, images: Tensor, stream: int, number: int) -> Tensor:
        """This process's part of the masks of the whole batch, which do not depend on the number of processes."""
        keys = np.random.SeedSequence((self.training.seed, stream, 0, number))
        generator = torch.Generator().manual_seed(int(keys.generate_state(1)[0]))
        alone = self.peers.count == 1
        samples, share = (len(images), slice(None)) if alone else (self._whole_batch, self._share)
        return self.objective.draw_mask(samples, images.shape[2:], generator=generator)[share]

    def _build_loss(self) -> None:
        """Nothing: the network is its own loss."""

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Nothing: there are no outputs at several resolutions."""

    # --- data ---------------------------------------------------------------------------------------------------

    def batch_sources(self) -> tuple[BatchSource, BatchSource]:
        """Random crops, augmented for training; along which axes to mirror them is drawn here and done in the step."""
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        training, validation = self.get_tr_and_val_datasets()
        kind = self.pretraining.augmentation
        affine = RandomAffine(spacing=self.configuration_manager.spacing) if kind == "spatial" else None
        return self._crops(training, affine=affine, mirror=kind != "none"), self._crops(validation)

    def _crops(self, dataset: Any, **augmentation: Any) -> UnlabelledCrops:
        return UnlabelledCrops(
            dataset,
            batch_size=self.batch_size,
            patch_size=self.configuration_manager.patch_size,
            single_channel=self.pretraining.channels == "single",
            oversample_foreground=self.training.oversample_foreground,  # of each crop, whoever draws it
            **augmentation,
        )

    def validation_numbers(self, numbers: range) -> list[int]:
        """The same batches in every epoch."""
        return [number % self.num_val_iterations_per_epoch for number in numbers]

    # --- an epoch -----------------------------------------------------------------------------------------------

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Logs the mean of the loss and of its terms."""
        super().on_train_epoch_end(train_outputs)
        for name in self._terms:
            self._log(f"train_{name}", self.mean_of(train_outputs, name))

    @property
    def _terms(self) -> tuple[str, ...]:
        return ("pixel",) if self.pretraining.frequency_decoder == "none" else ("pixel", "frequency")

    def on_validation_epoch_start(self) -> None:
        """Starts at the first of the fixed crops."""
        super().on_validation_epoch_start()
        self._val_iteration = 0
        self._picture = None

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Rebuilds fixed crops under fixed masks and scores them on the masked voxels."""
        images = batch["data"].to(self.device, non_blocking=True)
        mask = self._masks(images, _VALIDATION_MASKS, self._val_iteration).to(self.device)
        self._val_iteration += 1
        with self.autocast():
            rebuilt = self.objective.reconstruct(images, mask=mask)
            terms = self.objective.losses(images, rebuilt, mask)
        voxels = upsample(mask, self.objective.patch_size)
        if self._picture is None:
            self._picture = images, voxels, rebuilt
        if self.device.type == "mps":  # has no 3-D average pooling
            images, voxels, rebuilt = images.cpu(), voxels.cpu(), {name: r.cpu() for name, r in rebuilt.items()}
        prediction, filled = rebuilt["pixel"].float(), metrics.fill_with_mean(images, voxels)
        scores = {
            "psnr": metrics.masked_psnr(prediction, images, voxels),
            "psnr_mean_fill": metrics.masked_psnr(filled, images, voxels),
            "ssim": metrics.masked_ssim(prediction, images, voxels),
            "ssim_mean_fill": metrics.masked_ssim(filled, images, voxels),
        }
        values = terms | {name: score.nanmean() for name, score in scores.items()}
        return {name: value.float().cpu().numpy() for name, value in values.items()}

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Logs the loss, its terms and the scores."""
        self.logger.log("val_losses", self.mean_of(val_outputs, "loss"), self.current_epoch)
        for name in self._terms:
            self._log(f"val_{name}", self.mean_of(val_outputs, name))
        for name in _SCORES:
            self._log(name, self.mean_of(val_outputs, name))

    def _log(self, name: str, value: float) -> None:
        self.logger.local_logger.my_fantastic_logging.setdefault(name, [])
        self.logger.log(name, value, self.current_epoch)

    def on_epoch_end(self) -> None:
        """Writes the log, the checkpoints and the pictures."""
        self.logger.log("epoch_end_timestamps", time(), self.current_epoch)
        latest = self._latest()
        self.print_to_log_file(", ".join(f"{name} {value:.4f}" for name, value in latest.items()))
        self.save_if_best(-latest["val_losses"])  # a loss is best where it is smallest
        if (self.current_epoch + 1) % self.save_every == 0 and self.current_epoch != self.num_epochs - 1:
            self.save_checkpoint(str(self._folder / "checkpoint_latest.pth"))
        if self.local_rank == 0:
            self._try_reports()
        self.current_epoch += 1

    # --- reports ------------------------------------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return Path(self.output_folder)

    @property
    def _curves(self) -> dict[str, list[float]]:
        """One value an epoch, by name."""
        log = self.logger.local_logger.my_fantastic_logging
        curves = {name: [float(v) for v in values] for name, values in log.items() if values and "dice" not in name}
        starts, ends = curves.pop("epoch_start_timestamps", []), curves.pop("epoch_end_timestamps", [])
        curves["seconds"] = [end - start for start, end in zip(starts, ends, strict=False)]
        return curves

    def _latest(self) -> dict[str, float]:
        return {name: values[-1] for name, values in self._curves.items() if values}

    def _try_reports(self) -> None:
        try:
            self._write_reports()
        except (InputError, OSError) as error:  # no reason to lose a training
            self.print_to_log_file(f"WARNING: training goes on without new reports: {error}")

    def _write_reports(self) -> None:
        curves = self._curves
        named = [f"{part}_{term}" for part in ("train", "val") for term in self._terms]
        panels = {
            "loss": {"training": curves["train_losses"], "validation": curves["val_losses"]},
            "loss terms": {name: curves[name] for name in named},
            "PSNR on masked voxels [dB]": {"network": curves["psnr"], "mean fill": curves["psnr_mean_fill"]},
            "SSIM on masked voxels": {"network": curves["ssim"], "mean fill": curves["ssim_mean_fill"]},
            "learning rate": {"encoder": curves["lrs"]},
            "epoch duration [s]": {"epoch": curves["seconds"]},
        }
        save_figure(progress_figure(panels, title=type(self).__name__), self._folder / "progress.png")
        write_json(self._folder / "pretraining_summary.json", self._summary(curves))
        due = (self.current_epoch + 1) % self.pretraining.picture_every == 0
        if due or self.current_epoch in (0, self.num_epochs - 1):
            self._write_picture()

    def _summary(self, curves: dict[str, list[float]]) -> dict[str, Any]:
        return {
            "trainer": type(self).__name__,
            "epochs_done": len(curves["train_losses"]),
            "loss_first": curves["train_losses"][0],
            "loss_last": curves["train_losses"][-1],
            **{name: curves[name][-1] for name in _SCORES},
            "curves": curves,
        }

    def _write_picture(self) -> None:
        if self._picture is None:
            return
        images, voxels, rebuilt = self._picture
        original = images[0, 0].float().cpu().numpy()
        hidden = voxels[0].cpu().numpy()
        shown = {name: image[0, 0].float().cpu().numpy() for name, image in rebuilt.items()}
        figure = reconstruction_figure(
            original,
            original,
            shown,
            mask=hidden,
            title=f"epoch {self.current_epoch + 1}",
        )
        save_figure(figure, self._folder / "reconstructions" / f"epoch_{self.current_epoch + 1:04d}.png")

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """The method's own validation: the reconstruction of the fixed crops, which the last epoch has scored."""
        if self.local_rank == 0:
            latest = self._latest()
            self.print_to_log_file(
                f"Reconstruction of held-out crops: PSNR {latest['psnr']:.2f} dB on masked voxels, "
                f"{latest['psnr_mean_fill']:.2f} dB for filling with the mean; SSIM {latest['ssim']:.3f} against "
                f"{latest['ssim_mean_fill']:.3f}"
            )


class nnUNetTrainerSimMIM(nnUNetTrainerBDFMPretrain):
    """The SimMIM baseline (Xie et al. 2022): a learned mask token and the pixel decoder alone."""

    preset = SIMMIM
