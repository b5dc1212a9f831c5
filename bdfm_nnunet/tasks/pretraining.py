"""Pre-training without labels: crops of preprocessed cases for any objective, and reports of its progress."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from bdfm_nnunet.channel_dropout import only_channels
from bdfm_nnunet.checkpoints.adaptation_plan import ADAPTATION_PLAN, CITATIONS, adaptation_plan
from bdfm_nnunet.checkpoints.citations import citations_of
from bdfm_nnunet.checkpoints.last_training import SUMMARY
from bdfm_nnunet.data.augmentation import RandomAffine, mirrored
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.clip_batches import ClipPairs, Clips
from bdfm_nnunet.data.crops import UnlabelledCrops
from bdfm_nnunet.data.random_contrast import draw_contrasts, redrawn
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.compiled_networks import start_from_data
from bdfm_nnunet.networks.encoders import encoder_of, unwrap
from bdfm_nnunet.networks.network_building import build_network
from bdfm_nnunet.networks.network_costs import build_on
from bdfm_nnunet.objectives.base import Objective, Picture
from bdfm_nnunet.objectives.registry import objective_class
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.reports.figures import progress_figure, reconstruction_figure, save_figure
from bdfm_nnunet.reports.time_courses import time_course_figure
from bdfm_nnunet.settings import CropSettings, methods_of, pretraining_settings, read_block
from bdfm_nnunet.tasks.channel_draws import check_channels, drawn_channels
from bdfm_nnunet.tasks.last_tenth import LastTenth, last_tenth
from bdfm_nnunet.tasks.run_summary import only_warned
from bdfm_nnunet.tasks.task import Task

# numbers that keep what is drawn for training, validation and contrasts apart from other random streams
_TRAINING, _VALIDATION, _CONTRASTS = 10, 11, 12


class Pretraining(Task):
    """Pre-training of the encoder that the plans describe, by an objective.

    By default every modality of a case is one sample and the encoder reads one channel; fine-tuning adapts it
    to any number. After each epoch the objective looks at the same crops with the same draws. The fold's folder gets
    progress.png, pictures and pretraining_summary.json.

    Attributes:
        objective_class: what is minimised.
        preset: its settings where the plans are silent, a name in `PRESETS`; None for the defaults of
            `objective_class`. A subclass names one of the two.
    """

    rates = MappingProxyType({"adamw": 2e-4, "sgd": 1e-2, "lars": 0.3})
    decay = "cosine"
    kind = "pretraining"
    summary_file = SUMMARY
    objective_class: ClassVar[type[Objective]]
    preset: ClassVar[str | None] = None

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.preset is not None:
            cls.objective_class = objective_class(PRESETS[cls.preset].objective)

    def __init__(self, trainer: Any) -> None:
        super().__init__(trainer)
        self._validated = 0
        self._pictures: Mapping[str, Picture] = {}
        self._kept: list[Mapping[str, Tensor]] = []

    @cached_property
    def settings(self) -> CropSettings:
        """The configuration's "pretraining" block."""
        return self._settings(self.trainer.configuration_manager)

    @classmethod
    def _settings(cls, configuration_manager: Any) -> Any:
        configuration = configuration_manager.configuration
        if cls.preset is not None:
            return pretraining_settings(configuration, cls.preset)
        return read_block(configuration, "pretraining", kind=cls.objective_class.settings_class)

    def check(self) -> None:
        """Raise InputError unless the objective and its settings fit the images, the crops and the network."""
        configuration = self.trainer.configuration_manager.configuration
        if self._shows_clips:
            check_clips(self.objective_class, self.settings)
        check_channels(self, "pretraining", self.settings.channel_dropout)
        self.objective_class.check(configuration, self.settings)

    @property
    def _shows_clips(self) -> bool:
        """Whether images are 4-D, with time as their last axis."""
        return len(self.trainer.configuration_manager.patch_size) == 4

    @classmethod
    def build_network(
        cls, configuration_manager: Any, *, input_channels: int, output_channels: int, deep_supervision: bool
    ) -> nn.Module:
        """Build the objective around the encoder of the network that the plans describe, whose decoder is left out."""
        settings = cls._settings(configuration_manager)
        inputs = 1 if settings.channels == "single" else input_channels
        network = nnUNetTrainer.build_network_architecture(None, configuration_manager, inputs, output_channels, False)
        return cls.objective_class(encoder_of(network), settings, spacing=configuration_manager.spacing)

    @property
    def objective(self) -> Objective:
        """The objective without the wrappers of DDP and torch.compile."""
        objective = unwrap(self.trainer.network)
        assert isinstance(objective, Objective)
        return objective

    # --- batches ------------------------------------------------------------------------------------------------

    def batch_sources(self) -> tuple[Any, Any]:
        """Return random crops, augmented for training; mirroring is drawn here and carried out in the step.

        Of 4-D runs they are clips, which the objective augments in the step.
        """
        trainer = self.trainer
        forwards = self.objective.encoder_forwards
        trainer.print_to_log_file(f"A training step runs the encoder {forwards} time{'s' * (forwards > 1)}")
        training, validation = trainer.get_tr_and_val_datasets()
        if self._shows_clips:
            return self._clips(training, _TRAINING), self._clips(validation, _VALIDATION)
        kind = self.settings.augmentation
        affine = RandomAffine(spacing=trainer.configuration_manager.spacing) if kind == "spatial" else None
        return self._crops(training, affine=affine, mirror=kind != "none"), self._crops(
            validation, foreground=self.objective.uses_foreground
        )

    def _crops(self, dataset: Any, **augmentation: Any) -> UnlabelledCrops:
        trainer = self.trainer
        return UnlabelledCrops(
            dataset,
            batch_size=trainer.batch_size,
            patch_size=self.objective_class.crop_size(trainer.configuration_manager.patch_size, self.settings),
            single_channel=self.settings.channels == "single",
            oversample_foreground=trainer.training.oversample_foreground,  # of each crop, whoever draws it
            **augmentation,
        )

    def _clips(self, runs: Any, stream: int) -> Clips:
        """Return random clips of one side of the split, as many for a sample as the objective asks for."""
        trainer, objective = self.trainer, self.objective
        shared: dict[str, Any] = {
            "size": self.objective_class.crop_size(trainer.configuration_manager.patch_size, self.settings),
            "batch_size": trainer.whole_batch,
            "share": trainer.share,
            "seed": trainer.training.seed,
            "stream": stream,
            "atlas": objective.atlas,
        }
        if objective.clips > 1:
            subjects = trainer.data.patients if objective.second_clip == "subject" else None
            return ClipPairs(runs, runs.identifiers, subjects=subjects, **shared)
        return Clips(runs, runs.identifiers, **shared)

    def validation_numbers(self, numbers: range) -> list[int]:
        """Return the same batches in every epoch."""
        return [number % self.trainer.num_val_iterations_per_epoch for number in numbers]

    def prepare(self, batch: Batch) -> Batch:
        """Add what the objective draws for a training step."""
        images, step = batch["data"], self.trainer.run.step_number
        batch = batch | {"drawn": self._draw(images, _TRAINING, step) | self._given(batch)}
        if self.settings.random_contrast:
            draw = partial(_contrasts, channels=images.shape[1], share=self.settings.random_contrast)
            batch["contrasts"] = self._draw(images, _CONTRASTS, step, draw)
        subsets = self.objective.channel_subsets
        return batch | drawn_channels(self, len(images), self.settings.channel_dropout, subsets=subsets)

    def _given(self, batch: Batch) -> dict[str, Tensor]:
        """Return what comes with the images: brain and regions of clips.

        And "patients" if the objective asks for them, the same number for all crops of one patient.
        """
        given: dict[str, Tensor] = {name: batch[name] for name in ("brain", "regions") if name in batch}
        if self.objective.uses_patients:
            given["patients"] = torch.tensor([self.trainer.data.patients.get(key, -1) for key in batch["keys"]])
        return given

    def _draw(self, images: Tensor, stream: int, number: int, draw: Any = None) -> dict[str, Tensor]:
        """Draw for images of a size; by default what the objective draws."""
        draw = draw or self.objective.draw
        return self.drawn_share(
            len(images), stream, number, lambda samples, **options: draw(samples, images.shape[2:], **options)
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the objective's loss and its terms."""
        terms: dict[str, Tensor] = self._through_network(batch)
        return terms

    @property
    def compares_samples(self) -> bool:
        """Whether the objective does."""
        return self.objective.compares_samples

    def represent(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what the objective compares of a micro-batch, and its losses of samples alone."""
        found: tuple[dict[str, Tensor], dict[str, Tensor]] = self._through_network(batch, only_represent=True)
        return found

    def compare(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the objective's loss of all micro-batches and its terms."""
        return self.objective.compare(representations)

    def _through_network(self, batch: Batch, **options: bool) -> Any:
        device = self.trainer.device
        images = batch["data"].to(device, non_blocking=True)
        drawn = {name: value.to(device, non_blocking=True) for name, value in batch["drawn"].items()}
        if "flips" in batch:
            images = mirrored(images, batch["flips"])
        if "contrasts" in batch:
            images = redrawn(images, batch["contrasts"], spacing=self.trainer.configuration_manager.spacing)
        if "channels" in batch:
            images, channels = self._without_some(images, batch["channels"])
            drawn |= {"channels": channels} if self.objective.uses_channels else {}
        start_from_data(self.trainer.network, images, **drawn, **options)
        return self.trainer.network(images, **drawn, **options)

    def _without_some(self, images: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
        """Return images without the channels that are left out, and which stay; whole for an objective of two views."""
        channels = channels.to(images.device, non_blocking=True)
        if self.objective.channel_subsets > 1:
            return images, channels
        return only_channels(images, channels[:, 0]), channels[:, 0]

    # --- an epoch -----------------------------------------------------------------------------------------------

    def end_training_epoch(self, outputs: list[dict[str, Any]]) -> None:
        """Log the means of the terms."""
        for name in self.objective.terms:
            self.log(f"train_{name}", self.trainer.mean_of(outputs, name))

    def start_validation(self) -> None:
        """Start at the first of the fixed crops."""
        self._validated = 0
        self._pictures = {}
        self._kept = []

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Return what the objective says of fixed crops."""
        trainer = self.trainer
        images = batch["data"].to(trainer.device, non_blocking=True)
        drawn = self._draw(images, _VALIDATION, self._validated) | self._given(batch)
        if self.objective.uses_foreground:
            drawn["foreground"] = batch["foreground"]
        self._validated += 1
        with trainer.autocast():
            found = self.objective.monitor(images, **{name: value.to(trainer.device) for name, value in drawn.items()})
        self._pictures = self._pictures or found.pictures
        self._kept.append({name: value.cpu() for name, value in found.kept.items()})
        return {name: value.float().cpu().numpy() for name, value in found.values.items()}

    def end_validation(self, outputs: list[dict[str, Any]]) -> None:
        """Log the loss, its terms and the monitors."""
        trainer = self.trainer
        self.log("val_losses", trainer.mean_of(outputs, "loss"))
        for name in self.objective.terms:
            self.log(f"val_{name}", trainer.mean_of(outputs, name))
        summary = self.objective.summarise(self._joined())
        for name in self.objective.monitors:
            self.log(name, float(summary[name]) if name in summary else trainer.mean_of(outputs, name))

    def _joined(self) -> dict[str, Tensor]:
        """Return what the objective kept of the validation crops of all processes."""
        kept = [each for part in self.trainer.processes.gather(self._kept) for each in part]
        return {name: torch.cat([each[name] for each in kept]) for name in kept[0]}

    def end_epoch(self) -> None:
        """Write the log, the checkpoints and the pictures."""
        super().end_epoch()
        trainer = self.trainer
        if trainer.local_rank == 0:
            with only_warned(trainer, "training goes on without new reports"):
                self._write_reports()

    @property
    def methods(self) -> list[str]:
        """Names of the methods."""
        return methods_of(self.settings)

    def checkpoint_entries(self) -> dict[str, Any]:
        """Return what nnssl's checkpoints have too: how to reuse the weights, and what to cite for them."""
        trainer, plans = self.trainer, self.trainer.plans_manager.plans
        configuration = trainer.configuration_manager.configuration
        entry = adaptation_plan(
            plans,
            configuration,
            network=self._planned_network,
            weights=self.objective.state_dict().keys(),
            channels=self.objective.view.in_channels,
            crop=self.objective_class.crop_size(trainer.configuration_manager.patch_size, self.settings),
        )
        cited = citations_of(self.methods, type(self._planned_network).__name__)
        return {CITATIONS: cited} if entry is None else {ADAPTATION_PLAN: entry, CITATIONS: cited}

    @cached_property
    def _planned_network(self) -> nn.Module:
        """The network whose encoder is trained, without memory for it."""
        configuration = self.trainer.configuration_manager.configuration
        options: Any = {"inputs": 1, "outputs": 1, "deep_supervision": False, "initialise": False}
        with torch.random.fork_rng(devices=[]):  # whenever it is asked for, the training goes on with the same numbers
            return build_on(partial(build_network, configuration, **options))

    # --- reports ------------------------------------------------------------------------------------------------

    def _write_reports(self) -> None:
        curves, epoch = self.curves, self.trainer.current_epoch
        figure = progress_figure(self._panels(curves), title=type(self.trainer).__name__)
        save_figure(figure, self.folder / "progress.png")
        if (epoch + 1) % self.settings.picture_every == 0 or epoch in (0, self.trainer.num_epochs - 1):
            self._write_pictures()

    def _panels(self, curves: Mapping[str, list[float]]) -> dict[str, dict[str, list[float]]]:
        objective = self.objective
        panels = {"loss": {"training": curves["train_losses"], "validation": curves["val_losses"]}}
        if objective.terms:
            named = [f"{part}_{term}" for part in ("train", "val") for term in objective.terms]
            panels["loss terms"] = {name: curves[name] for name in named}
        for title, monitors in objective.panels.items():
            panels[title] = {label: curves[name] for label, name in monitors.items()}
        return panels | {
            "learning rate": {"encoder": curves["lrs"]},
            "epoch duration [s]": {"epoch": curves["seconds"]},
        }

    def blocks(self) -> dict[str, Any]:
        """Return the "pretraining" block."""
        return {"pretraining": self.settings}

    def headline(self, curves: Mapping[str, list[float]]) -> dict[str, Any]:
        """Return the first and last loss and the last monitors; before the first epoch is done, that there are none."""
        if not curves.get("train_losses"):
            return {"epochs_done": 0}
        return {
            "epochs_done": len(curves["train_losses"]),
            "loss_first": curves["train_losses"][0],
            "loss_last": curves["train_losses"][-1],
            "encoder_forwards": self.objective.encoder_forwards,
            "last_tenth": asdict(self._last_tenth(curves)),
            **{name: curves[name][-1] for name in self.objective.monitors},
        }

    def _last_tenth(self, curves: Mapping[str, list[float]]) -> LastTenth:
        name, larger_is_better = self.objective.progress
        return last_tenth(curves[name], name, larger_is_better=larger_is_better)

    def _write_pictures(self) -> None:
        epoch = self.trainer.current_epoch + 1
        for folder, picture in self._pictures.items():
            original = picture.original.float().cpu().numpy()
            shown = {name: image.float().cpu().numpy() for name, image in picture.shown.items()}
            mask = None if picture.mask is None else picture.mask.cpu().numpy()
            masked = None if mask is None else original
            figure = reconstruction_figure(
                original, masked, shown, mask=mask, title=f"epoch {epoch}", with_errors=picture.errors
            )
            self._keep(figure, folder, f"epoch_{epoch:04d}.png")
            if picture.courses and picture.hidden is not None:
                courses = {name: course.float().cpu().numpy() for name, course in picture.courses.items()}
                figure = time_course_figure(courses, picture.hidden.cpu().numpy(), title=f"epoch {epoch}")
                self._keep(figure, f"{folder}_over_time", f"epoch_{epoch:04d}.png")

    def _keep(self, figure: Any, folder: str, name: str) -> None:
        """Write a figure into a folder of the training, and give it to the loggers."""
        save_figure(figure, self.folder / folder / name)
        self.log_picture(folder, self.folder / folder / name)

    def final_validation(self, *, save_probabilities: bool = False) -> None:
        """Tell what the last validations showed; there is nothing else to predict."""
        for sentence in (self.objective.verdict(self.latest), self._last_tenth(self.curves).verdict):
            if sentence:
                self.trainer.print_to_log_file(sentence)


def check_clips(kind: type[Objective], settings: CropSettings) -> None:
    """Raise InputError unless an objective learns from 4-D images, and the settings of crops suit clips.

    Example:
        >>> check_clips(objective_class("masked"), CropSettings())
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: MaskedImageModelling does not learn from 4-D images: ...
    """
    kind.check_clips()
    if settings.augmentation != "none" or settings.random_contrast:
        raise InputError(
            f"pretraining.augmentation {settings.augmentation} and random_contrast {settings.random_contrast:g}, "
            "which are for 3-D images: leave both out, clips have the augmentation of their objective"
        )


def _contrasts(
    samples: int, spatial: Sequence[int], *, channels: int, share: float, generator: torch.Generator
) -> dict[str, Tensor]:
    return draw_contrasts((samples, channels, *spatial), share=share, generator=generator)
