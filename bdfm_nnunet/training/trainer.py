"""The one subclass of nnU-Net's trainer: it puts the parts of a training together and knows no task."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, distributed, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.utils.parametrize import cached
from torch.optim import Optimizer

from bdfm_nnunet.checkpoints.nnunet_loading import loading_as_data
from bdfm_nnunet.data.batch_streams import Batch, reseed, seeded
from bdfm_nnunet.data.case_classes import dataset_class_of, known_to_nnunet
from bdfm_nnunet.files import cannot_write
from bdfm_nnunet.networks.encoders import suited_optimizer
from bdfm_nnunet.settings import TrainingSettings, read_block
from bdfm_nnunet.step_checks import check_shares
from bdfm_nnunet.tasks.run_provenance import RunProvenance
from bdfm_nnunet.tasks.run_summary import write_run_summary
from bdfm_nnunet.tasks.task import Task
from bdfm_nnunet.thread_count import named_threads
from bdfm_nnunet.training.agreement import agree_on_arguments, agree_on_data, check_plans_and_dataset
from bdfm_nnunet.training.compiling import Compiler, uncompiled
from bdfm_nnunet.training.fold_data import FoldData
from bdfm_nnunet.training.gradient_caching import add_compared_gradients
from bdfm_nnunet.training.gradients import add_gradients, distributed_network, micro_batches
from bdfm_nnunet.training.loggers import add_loggers
from bdfm_nnunet.training.network_outputs import with_outputs
from bdfm_nnunet.training.optimizers import OptimizerKind, WarmupSchedule
from bdfm_nnunet.training.precision import Precision, autocast_type
from bdfm_nnunet.training.process_group import ProcessGroup, device_of_process
from bdfm_nnunet.training.raw_dataset import check_preprocessed
from bdfm_nnunet.training.run import Run
from bdfm_nnunet.training.saver import BEST, LATEST, Saver, checkpoint_content, not_of_this_training
from bdfm_nnunet.training.signals import WISHES
from bdfm_nnunet.training.strategies import Strategy
from bdfm_nnunet.training.weight_origin import WeightOrigin

_CUDA = torch.device("cuda")
_NETWORK, _EPOCH = 0, 1  # keep the random streams of one seed apart; 2 and 3 are those of the batches


class Trainer(nnUNetTrainer):
    """An nnU-Net trainer whose run is a function of plans, data and seed, however often it is interrupted.

    Everything random is drawn from the seed, the rank and the number of the epoch or batch, so `--c` continues exactly
    where the last checkpoint was written, be it in the middle of an epoch. Any number of processes shares the plans'
    batch, on one machine or several, by gloo on the CPU and nccl on CUDA; nnU-Net's `local_rank` is here the rank among
    all machines, and only rank 0 writes. Length, rates and precision are read from the configuration's "training"
    block, see `TrainingSettings`.

    The task defines what is learnt; the objects below define how a run continues, stops and saves.

    Attributes:
        task_class: class of the task; subclasses set it.
        task: the task to learn.
        training: settings of the configuration's "training" block.
        processes: all processes of this training.
        run: epochs and steps of this training.
        saver: writer of its checkpoints.
        origin: origin of its first weights.
        strategy: what trains when.
        precision: number type in which the network runs.
        compiler: choice of torch.compile.
        resumed: whether a checkpoint of this run was loaded.
        provenance: where its results come from.
    """

    task_class: ClassVar[type[Task]] = Task
    is_ddp: bool
    network: Any
    grad_scaler: Any
    current_epoch: int
    _best_ema: float | None

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        check_plans_and_dataset(plans, configuration, dataset_json)
        try:
            super().__init__(plans, configuration, fold, dataset_json, device)
        except OSError as error:  # it makes the fold's folder
            raise cannot_write(Path(error.filename or "nnUNet_results"), error) from error
        self.training: TrainingSettings = read_block(self.configuration_manager.configuration, "training")
        self.device = device_of_process(device.type)  # nnU-Net takes the rank for it, and always CUDA
        self.processes = ProcessGroup(WISHES)
        agree_on_arguments(self)
        add_loggers(self)
        self.task = self.task_class(self)
        self.run = Run(self, checkpoint_minutes=self.training.checkpoint_minutes, max_hours=self.training.max_hours)
        self.saver = Saver(Path(self.output_folder), self.print_to_log_file)
        self.origin, self.strategy = WeightOrigin(), Strategy(self)
        self.precision = Precision(autocast_type(self.training.precision, self.device), self.device, self.grad_scaler)
        self.grad_scaler = self.precision.scaler
        self.compiler = Compiler(self.training.compile, self.print_to_log_file)
        self.data, self.resumed = FoldData(self), False
        self._take_lengths()
        if self.device.type == "cpu" and (threads := named_threads()):
            torch.set_num_threads(threads)  # nnU-Net's command has set one a core

    def _take_lengths(self) -> None:
        self.num_epochs = self.training.epochs or self.task.epochs
        self.num_iterations_per_epoch = self.training.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.training.val_iterations_per_epoch
        self.oversample_foreground_percent = self.training.oversample_foreground
        self.save_every, self.enable_deep_supervision = self.training.save_every, self.task.deep_supervision

    # --- processes ----------------------------------------------------------------------------------------------

    def _join_processes(self) -> None:
        """Join the network with those of the other processes, and hold their data against one another."""
        self.network = distributed_network(self.network, self.device)
        self.loss = self._build_loss()
        agree_on_data(self)

    @property
    def whole_batch(self) -> int:
        """Samples of an optimiser step, of all processes together."""
        return int(self.configuration_manager.batch_size)

    @property
    def share(self) -> slice:
        """The samples of the whole batch that are this process's."""
        return self.processes.share(self.whole_batch)

    def _set_batch_size_and_oversample(self) -> None:
        """Take this process's share of the batch, and of the samples that nnU-Net's loader centres on foreground."""
        share = self.share
        self.batch_size = share.stop - share.start
        if self.processes.count > 1:
            first = round(self.whole_batch * (1 - self.training.oversample_foreground))
            self.oversample_foreground_percent = max(share.stop - max(first, share.start), 0) / self.batch_size

    def mean_of(self, outputs: list[dict[str, Any]], name: str) -> float:
        """Return the mean of a term over the steps and processes."""
        return self.processes.mean([output[name] for output in outputs], weight=self.batch_size)

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Tell the log and the console; only rank 0 does."""
        if self.local_rank == 0:
            super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    # --- set-up -------------------------------------------------------------------------------------------------

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: Any,
        configuration_manager: Any,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the task's network."""
        return cls.task_class.build_network(
            configuration_manager,
            input_channels=num_input_channels,
            output_channels=num_output_channels,
            deep_supervision=enable_deep_supervision,
        )

    def initialize(self) -> None:
        """Build network, optimiser and loss from the seed, once the data is known to be there.

        Raises:
            InputError: settings do not fit, or the batch is too small for the processes and micro-batches.
        """
        self.task.check()
        check_preprocessed(Path(self.preprocessed_dataset_folder))
        check_shares(self.whole_batch, world=self.processes.count, accumulate=self.training.accumulate)
        if outputs := self.task.output_channels:  # nnU-Net would count labels
            self.build_network_architecture = with_outputs(type(self), outputs)  # type: ignore[method-assign]
        several, self.is_ddp = self.is_ddp, False  # nnU-Net would wrap the network for the GPU that the rank counts to
        with seeded(self.training.seed, _NETWORK), known_to_nnunet():  # which classes read which cases
            super().initialize()
        self.is_ddp = several
        if several:
            self._join_processes()
        self.origin.remember(self.network)
        self.provenance = RunProvenance(self)

    def _do_i_compile(self) -> bool:
        return self.compiler.is_wanted(super()._do_i_compile, self.network)

    def _build_loss(self) -> Any:
        return self.task.build_loss()

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Switch the network between one output and outputs at several resolutions."""
        self.task.set_deep_supervision(enabled)

    @property
    def optimizer_kind(self) -> OptimizerKind:
        """The optimiser in use; by default the one that suits the encoder."""
        chosen = self.training.optimizer
        return suited_optimizer(self.network) if chosen == "auto" else chosen

    def configure_optimizers(self) -> tuple[Optimizer, WarmupSchedule]:
        """Return optimiser and schedule of a training from scratch; weights and later stages change them."""
        return self.strategy.begin()

    def plot_network_architecture(self) -> None:
        """Do nothing: the library nnU-Net asks for this no longer works."""

    # --- data ---------------------------------------------------------------------------------------------------

    @property
    def dataset_class(self) -> Any:
        """The class that reads preprocessed cases: images or, in the folder of a 4-D configuration, runs."""
        self._dataset_class: Any = self._dataset_class or dataset_class_of(self.preprocessed_dataset_folder)
        return self._dataset_class

    @dataset_class.setter
    def dataset_class(self, kind: Any) -> None:
        self._dataset_class = kind

    def do_split(self) -> tuple[list[str], list[str]]:
        """Return the fold's cases; a split that is missing comes from nnUNet_raw.

        Raises:
            InputError: there is no such fold, the file is damaged, or a random split would tear patients apart.
        """
        self.data.check_split()
        return self.data.keep_split(super().do_split())

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Return endless, reproducible batches from the current step on."""
        return self.data.batches()

    # --- the run ------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train from the current epoch, or from the step in it that was loaded, to the last.

        Raises:
            TrainingPaused: a signal, or the time is up; checkpoint_latest.pth is written.
            InputError: a loss that is not finite, among others.
        """
        self.run.train()

    def on_train_start(self) -> None:
        """Load the first weights and look for labels that have changed; only rank 0 writes."""
        if not self.was_initialized:
            self.initialize()
        if not self.resumed:
            self.origin.find(self.network, self.print_to_log_file)
            self.task.load_weights()
            self.strategy.start()
        if self.local_rank == 0:
            self.data.begin()
            super().on_train_start()
            return
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        distributed.barrier()  # meets the one of nnU-Net's own method

    def reseed_epoch(self, *keys: int) -> None:
        """Fix everything random from here on in this epoch and process."""
        reseed(self.training.seed, _EPOCH, self.local_rank, self.current_epoch, *keys)

    def on_train_epoch_start(self) -> None:
        """Fix everything random in this epoch, and count from the first step."""
        self.run.start_epoch()
        self.strategy.reach(self.current_epoch)
        self.reseed_epoch()
        super().on_train_epoch_start()
        self.strategy.hold_still()

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """Take one optimiser step with all processes.

        Returns:
            The loss, its terms and the norm of the gradient, scalars on the device.
        """
        self.lr_scheduler.step(self.current_epoch + self.run.iteration / self.num_iterations_per_epoch)
        parts = micro_batches(self.task.prepare(batch), self.training.accumulate)
        try:
            terms = self._differentiate(parts)
        except TorchDynamoException as error:
            self.compiler.give_up(error)
            self.network = uncompiled(self.network)
            self.loss = self._build_loss()
            terms = self._differentiate(parts)
        norm = self.precision.descend(self.optimizer, clip=self.strategy.clip)
        # a scaler skips steps whose gradients overflow, which is no fault
        return terms if self.grad_scaler is not None else terms | {"gradient_norm": norm}

    def _differentiate(self, parts: list[Batch]) -> dict[str, Tensor]:
        world, task, within = self.processes.count, self.task, self.precision.within
        samples = self.whole_batch if world > 1 else sum(len(part["data"]) for part in parts)
        self.optimizer.zero_grad(set_to_none=True)
        shared: Any = {"samples": samples, "world": world, "backward": self.precision.backward}
        if task.compares_samples and len(parts) > 1:
            functions = within(task.represent), within(task.compare)
            return add_compared_gradients(self.network, parts, *functions, **shared)
        return add_gradients(self.network, parts, within(task.losses), **shared)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context in which the network runs."""
        return self.precision.autocast()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Log the mean loss, and the task's terms."""
        self.logger.log("train_losses", self.mean_of(train_outputs, "loss"), self.current_epoch)
        self.task.end_training_epoch(train_outputs)

    def on_validation_epoch_start(self) -> None:
        """Switch the network to evaluation."""
        super().on_validation_epoch_start()
        self.task.start_validation()

    def validation_step(self, batch: Batch) -> dict[str, Any]:
        """Return what the task says of a validation batch."""
        return self.task.validation_step(batch)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log what the task says of all."""
        self.task.end_validation(val_outputs)

    def on_epoch_end(self) -> None:
        """Write what belongs to an epoch, and count it."""
        self.task.end_epoch()
        write_run_summary(self)
        self.current_epoch += 1

    def on_train_end(self) -> None:
        """Write checkpoint_final.pth, which takes the place of those of the way."""
        super().on_train_end()
        if self.local_rank == 0:
            self.saver.remove_previous()
            write_run_summary(self)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate the finished training."""
        self.task.final_validation(save_probabilities=save_probabilities)

    # --- checkpoints --------------------------------------------------------------------------------------------

    def save_if_best(self, score: float) -> None:
        """Write checkpoint_best.pth where the epoch has the best score so far.

        To be called before checkpoint_latest.pth is written: that one then knows of the best score, and a run that is
        killed between the two repeats this epoch and finds it again.
        """
        if self._best_ema is not None and not score > self._best_ema:
            return
        self._best_ema = score
        self.save_checkpoint(str(self.saver.path(BEST)))

    def save_if_due(self) -> None:
        """Write checkpoint_latest.pth after each `save_every` epochs but the last, which the final one follows."""
        if (done := self.current_epoch + 1) % self.save_every == 0 and done != self.num_epochs:
            self.save_checkpoint(str(self.saver.path(LATEST)))

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint, whole or not at all: the one before it stays until the new one is on the disk.

        It is nnU-Net's own with one entry more, which names the cases seen (see `bdfm_nnunet.exposure`), and one that
        says where in the epoch it was written.

        Raises:
            InputError: it cannot be written; inside the run a warning, except for checkpoint_final.pth.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        seconds = self.saver.write(checkpoint_content(self), path := Path(filename))
        if path.name == LATEST and seconds is not None:
            self.run.saved(seconds)
            write_run_summary(self)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Continue from a checkpoint; if checkpoint_latest.pth is damaged, from the one before it.

        Raises:
            InputError: there is none that belongs to this training.
        """
        found = self.saver.read(Path(str(filename_or_checkpoint)))
        if not self.was_initialized:
            self.initialize()
        try:
            self.task.recall(found.task)
            self.strategy.recall(found.strategy)
            with loading_as_data(), cached():  # nnU-Net asks for the whole state at every name
                super().load_checkpoint(str(found.path))
            self.strategy.recall_low_rank(found.strategy)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            fault = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise not_of_this_training(found.path, fault) from None
        self.resumed, self.run.midway = True, found.progress
        self.origin.recall(found.exposure)
        self.data.forget_exposure()
