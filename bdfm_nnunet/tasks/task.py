"""The interface between a training and the task that it learns."""

from collections.abc import Callable, Mapping
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from bdfm_nnunet.checkpoints.citations import citations_of
from bdfm_nnunet.data.batch_streams import Batch, BatchSource, generator_of
from bdfm_nnunet.settings import FinetuningSettings
from bdfm_nnunet.tasks.run_summary import curves_of

Draw = Callable[..., Mapping[str, Tensor]]
"""Draws what a step needs for a number of samples, from `generator`."""


class Task:
    """A task that a training learns: its network, its batches, its loss, and the scores of a validation.

    A trainer has one task and asks it for everything that depends on what is learnt; epochs, steps, processes,
    checkpoints and signals are the trainer's own. A new task is a subclass in a new file, and a trainer that
    names it:

        class nnUNetTrainerMine(Trainer):
            task_class = Mine

    Attributes:
        trainer: whose task it is, with nnU-Net's plans, configuration, device, logger and folders.
        epochs: of a training whose plans name no number.
        rates: peak learning rate by optimiser, see `peak_rate`.
        weight_decays: by optimiser.
        decay: how the rate falls after the warm-up.
        deep_supervision: whether the network gives outputs at several resolutions in training.
        kind: of the results, see `bdfm_nnunet.results.RunResult`.
        summary_file: their name in the fold's folder.
    """

    epochs: ClassVar[int] = 1000
    rates: ClassVar[Mapping[str, float]] = MappingProxyType({"adamw": 1e-4, "sgd": 1e-3, "lars": 0.3})
    weight_decays: ClassVar[Mapping[str, float]] = MappingProxyType({"adamw": 0.05, "sgd": 3e-5, "lars": 1e-6})
    decay: ClassVar[Literal["poly", "cosine"]] = "poly"
    deep_supervision: ClassVar[bool] = False
    kind: ClassVar[str] = "training"
    summary_file: ClassVar[str] = "training_summary.json"

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    # --- set-up -------------------------------------------------------------------------------------------------

    @classmethod
    def build_network(
        cls, configuration_manager: Any, *, input_channels: int, output_channels: int, deep_supervision: bool
    ) -> nn.Module:
        """Build the network from the plans, its task's head or decoder included.

        A class method, as nnU-Net builds networks for prediction without a trainer.
        """
        raise NotImplementedError(f"{cls.__name__} must build a network: override build_network")

    def check(self) -> None:
        """Raise InputError where the settings do not fit the plans; called before anything is built."""

    def build_loss(self) -> Any:
        """Return what nnU-Net keeps as `trainer.loss`; None where the network is its own loss."""
        return None

    def peak_rate(self, optimizer: str) -> float:
        """Return the peak learning rate where the settings name none; LARS has its rate per 256 samples of a step."""
        rate = self.rates[optimizer]
        return rate * self.trainer.whole_batch / 256 if optimizer == "lars" else rate

    @property
    def finetuning(self) -> FinetuningSettings:
        """What trains when; everything at one rate, unless a task reads it from the plans."""
        return FinetuningSettings()

    def load_weights(self) -> None:
        """Load the weights that a new training starts from; not called for one that goes on."""

    def labels_changed(self, sentence: str) -> None:
        """Tell that labels have changed since the data was preprocessed; a task that learns from them may refuse."""
        self.trainer.print_to_log_file(f"WARNING: {sentence}")

    @property
    def output_channels(self) -> int | None:
        """Outputs of the network; None for one per label or region."""
        return None

    def recall(self, entry: Any) -> None:
        """Take what a checkpoint of this training says under `TASK`; ValueError if it is of another task."""

    # --- data ---------------------------------------------------------------------------------------------------

    def batch_sources(self) -> tuple[BatchSource, BatchSource]:
        """Return where training and validation batches come from."""
        raise NotImplementedError(f"{type(self).__name__} must say what it reads: override batch_sources")

    def validation_numbers(self, numbers: range) -> list[int]:
        """Return which validation batches are seen; by default new ones in each epoch, as in nnU-Net."""
        return list(numbers)

    def prepare(self, batch: Batch) -> Batch:
        """Add to a loaded batch what a step needs besides, before it is cut into micro-batches."""
        return batch

    def drawn_share(self, samples: int, stream: int, number: int, draw: Draw) -> dict[str, Tensor]:
        """Draw for the whole batch, so that nothing depends on the number of processes, and take this one's part.

        Args:
            samples: of this process's batch.
            stream: number that keeps what is drawn apart from other random streams of the seed.
            number: of the step.
            draw: takes the samples of all processes and a generator; each tensor that it returns has a row for each.
        """
        trainer = self.trainer
        alone = trainer.processes.count == 1
        whole, share = (samples, slice(None)) if alone else (trainer.whole_batch, trainer.share)
        drawn = draw(whole, generator=generator_of(trainer.training.seed, stream, 0, number))
        return {name: value[share] for name, value in drawn.items()}

    # --- steps --------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the scalar "loss" of a (micro-)batch and, if there are several, its terms: means over samples."""
        raise NotImplementedError(f"{type(self).__name__} must say what it minimises: override losses")

    @property
    def compares_samples(self) -> bool:
        """Whether a sample's loss depends on the others of the batch: `represent` and `compare` then give it too."""
        return False

    def represent(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `compare` compares of a micro-batch, and the "loss" and terms that need no comparison."""
        raise NotImplementedError(f"{type(self).__name__} must say what it compares: override represent")

    def compare(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss" and terms of the representations of all micro-batches."""
        raise NotImplementedError(f"{type(self).__name__} must say how it compares: override compare")

    def set_deep_supervision(self, enabled: bool) -> None:
        """Switch the network between one output and outputs at several resolutions."""

    # --- an epoch -----------------------------------------------------------------------------------------------

    def end_training_epoch(self, outputs: list[dict[str, Any]]) -> None:
        """Log what the steps of an epoch gave beside their mean loss, which the trainer has logged."""

    def start_validation(self) -> None:
        """Prepare for the validation batches of an epoch; the network is in evaluation mode."""

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Return loss and scores of one validation batch, by name, as arrays; by default what `losses` gives."""
        with self.trainer.autocast():
            found = self.losses(batch)
        return {name: value.float().cpu().numpy() for name, value in found.items()}

    def end_validation(self, outputs: list[dict[str, Any]]) -> None:
        """Log loss ("val_losses") and scores of an epoch's validation; by default the means over its batches."""
        for name in outputs[0]:
            self.log("val_losses" if name == "loss" else name, self.trainer.mean_of(outputs, name))

    @property
    def score(self) -> float:
        """Score of the last validation, larger is better, which chooses checkpoint_best.pth; by default -loss."""
        return -self.latest["val_losses"]

    def end_epoch(self) -> None:
        """Tell of an epoch and write its checkpoints; then the trainer writes the summary and counts the epoch."""
        trainer = self.trainer
        trainer.logger.log("epoch_end_timestamps", time(), trainer.current_epoch)
        trainer.print_to_log_file(", ".join(f"{name} {value:.4f}" for name, value in self.latest.items()))
        trainer.save_if_best(self.score)
        trainer.save_if_due()

    def blocks(self) -> dict[str, Any]:
        """Return the settings that the task has read from the configuration, by the block's name, for the summary."""
        return {}

    def headline(self, curves: Mapping[str, list[float]]) -> dict[str, Any]:
        """Return entries that the summary has beside those of every training, from the curves so far."""
        return {}

    @property
    def citations(self) -> list[str]:
        """What to cite for the task's method and network, beside data and weights."""
        network = self.trainer.configuration_manager.network_arch_class_name.rpartition(".")[2]
        return [text for each in citations_of(self.methods, network) for text in each["apa_citations"]]

    @property
    def methods(self) -> list[str]:
        """Names of the methods of a pre-training, see `checkpoints.citations`."""
        return []

    def checkpoint_entries(self) -> dict[str, Any]:
        """Return entries that the task's checkpoints have beside those of every training, in plain types."""
        return {}

    def final_validation(self, *, save_probabilities: bool = False) -> None:
        """Validate the finished training, as nnU-Net does after the last epoch."""

    # --- what was logged ----------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path:
        """Where the fold's results lie."""
        return Path(self.trainer.output_folder)

    def log(self, name: str, value: float) -> None:
        """Log a value of the current epoch; nnU-Net's logger only takes the names that it knows."""
        logger = self.trainer.logger
        logger.local_logger.my_fantastic_logging.setdefault(name, [])
        logger.log(name, value, self.trainer.current_epoch)

    def log_picture(self, name: str, path: Path) -> None:
        """Give a PNG file of the current epoch to those loggers that take pictures."""
        for logger in self.trainer.logger.loggers:
            if hasattr(logger, "log_picture"):
                logger.log_picture(name, path, self.trainer.current_epoch)

    @property
    def curves(self) -> dict[str, list[float]]:
        """What was logged, one value an epoch, by name, and the seconds of each epoch."""
        return curves_of(self.trainer)

    @property
    def latest(self) -> dict[str, float]:
        """The last value of each curve."""
        return {name: values[-1] for name, values in self.curves.items() if values}
