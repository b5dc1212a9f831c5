"""What pre-training and fine-tuning share: settings from the plans, reproducible data, the step, what was seen."""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from tqdm import tqdm

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.data.batch_streams import Batch, BatchSource, batches, reseed
from bdfm_nnunet.data.checked_cases import checked
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure import Exposure, describe_run
from bdfm_nnunet.networks.encoders import encoder_of, unwrap
from bdfm_nnunet.patients import CaseList, read_cases
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.trainers.origins import OriginTrainer
from bdfm_nnunet.training.gradients import add_gradients, split
from bdfm_nnunet.training.optimizers import WarmupSchedule, autocast_type, build_optimizer, parameter_groups
from bdfm_nnunet.training.raw_dataset import (
    bring_manifest,
    bring_splits,
    check_fold,
    check_preprocessed,
    raw_folder_of,
    replaced_labels,
)

_CUDA = torch.device("cuda")
# numbers that keep the random streams of one seed apart
_EPOCH, _TRAIN, _VALIDATION = 1, 2, 3


class ReproducibleTrainer(OriginTrainer):
    """An nnU-Net trainer whose run is a function of plans, data and seed, however often it is interrupted.

    Everything random is drawn from the seed, the rank and the number of the epoch or batch, so `--c` continues exactly
    where the last checkpoint was written, be it in the middle of an epoch. Length, rates and precision are read from
    the configuration's "training" block, see `TrainingSettings`.

    Subclasses give `losses_of(batch)` and the two sources of `batch_sources()`.
    """

    default_epochs = 1000
    default_rates: Mapping[str, float] = MappingProxyType({"adamw": 1e-4, "sgd": 1e-3})
    default_weight_decay: Mapping[str, float] = MappingProxyType({"adamw": 0.05, "sgd": 3e-5})
    with_deep_supervision = True
    decay: Literal["poly", "cosine"] = "poly"

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = self.training.epochs or self.default_epochs
        self.num_iterations_per_epoch = self.training.iterations_per_epoch
        self.num_val_iterations_per_epoch = self.training.val_iterations_per_epoch
        self.oversample_foreground_percent = self.training.oversample_foreground
        self.save_every = self.training.save_every
        self.enable_deep_supervision = self.with_deep_supervision
        self.autocast_type = autocast_type(self.training.precision, self.device)
        if self.autocast_type is not torch.float16 or self.device.type != "cuda":
            self.grad_scaler = None
        self._compile_failed = False
        self._bar: tqdm[Any] | None = None
        self._split: tuple[list[str], list[str]] | None = None
        self._told = Exposure()
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if self.device.type == "cpu" and threads.isdigit() and int(threads) > 0:
            torch.set_num_threads(int(threads))  # nnU-Net's command has set one a core, whatever the variable says

    # --- what subclasses give -----------------------------------------------------------------------------------

    def losses_of(self, batch: Batch) -> dict[str, Tensor]:
        """The scalar "loss" of a (micro-)batch and, if there are several, its terms; each a mean over the samples."""
        raise NotImplementedError(f"{type(self).__name__} must say what it minimises: override losses_of")

    def batch_sources(self) -> tuple[BatchSource, BatchSource]:
        """Where training and validation batches come from."""
        raise NotImplementedError(f"{type(self).__name__} must say what it reads: override batch_sources")

    def prepare(self, batch: Batch) -> Batch:
        """Adds to a loaded batch what a training step needs besides, before it is cut into micro-batches."""
        return batch

    # --- set-up -------------------------------------------------------------------------------------------------

    @property
    def optimizer_kind(self) -> Literal["adamw", "sgd"]:
        """The optimiser in use; by default the one that suits the encoder."""
        if self.training.optimizer != "auto":
            return self.training.optimizer
        return "adamw" if encoder_of(self.network).is_transformer else "sgd"

    def configure_optimizers(self) -> tuple[Optimizer, WarmupSchedule]:
        """The optimiser, the encoder in groups of its own, and the schedule."""
        kind = self.optimizer_kind
        self.initial_lr = self.training.initial_lr or self.default_rates[kind]
        decay = self.training.weight_decay
        self.weight_decay = self.default_weight_decay[kind] if decay is None else decay
        network = unwrap(self.network)
        encoder = encoder_of(network).module
        parts = {
            "encoder": (encoder.named_parameters(), self.initial_lr * self.encoder_lr_factor),
            "rest": (network.named_parameters(), self.initial_lr),
        }
        optimizer = build_optimizer(kind, parameter_groups(parts, weight_decay=self.weight_decay))
        asked = self.training.warmup_epochs
        warmup = min(self.num_epochs / 20, 50) if asked is None else asked
        return optimizer, WarmupSchedule(optimizer, self.num_epochs, warmup, self.decay)

    @property
    def encoder_lr_factor(self) -> float:
        """Learning rate of the encoder, relative to that of the rest."""
        return 1.0

    def plot_network_architecture(self) -> None:
        """Nothing: the library nnU-Net asks for this no longer works."""

    # --- data ---------------------------------------------------------------------------------------------------

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Endless, reproducible batches from the current epoch on."""
        training, validation = self.batch_sources()
        workers = get_allowed_n_proc_DA() if self.training.workers is None else self.training.workers
        common = {"pin_memory": self.device.type == "cuda"}
        first, last = self.current_epoch, self.num_epochs
        seed, rank = self.training.seed, self.local_rank
        steps, val_steps = self.num_iterations_per_epoch, self.num_val_iterations_per_epoch
        done = first * steps + (self._midway["iteration"] if self._midway else 0)
        train = batches(training, seed, _TRAIN, rank, numbers=range(done, last * steps), workers=workers, **common)
        numbers = self.validation_numbers(range(first * val_steps, last * val_steps))
        return train, batches(
            validation, seed, _VALIDATION, rank, numbers=numbers, workers=(workers + 1) // 2, **common
        )

    def initialize(self) -> None:
        """Builds network, optimiser and loss, once the data is known to be there."""
        check_preprocessed(Path(self.preprocessed_dataset_folder))
        super().initialize()

    @property
    def dataset_class(self) -> Any:
        """How preprocessed cases are read."""
        return self._dataset_class

    @dataset_class.setter
    def dataset_class(self, kind: Any) -> None:
        self._dataset_class = None if kind is None else checked(kind)

    @property
    def raw_folder(self) -> Path | None:
        """The data set in nnUNet_raw, where it is on this machine."""
        return raw_folder_of(self.plans_manager.dataset_name)

    def on_train_start(self) -> None:
        """Looks for labels that have changed since the data was preprocessed.

        Raises:
            InputError: there are such, and they are learnt from.
        """
        if self.local_rank == 0:
            checksums = Checksums.of(Path(self.preprocessed_dataset_folder))
            if checksums is None:
                self.print_to_log_file("The preprocessed data is not verified: only `bdfm plan` writes checksums.")
            if sentence := replaced_labels(checksums, self.raw_folder):
                self.tell_of_labels(sentence)
        super().on_train_start()

    def tell_of_labels(self, sentence: str) -> None:
        """Says that labels have changed."""
        self.print_to_log_file(f"WARNING: {sentence}")

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split; that of nnUNet_raw where nnUNet_preprocessed has none, and never a random one in silence.

        Raises:
            InputError: there is no such fold, the file is damaged, or a random split would tear patients apart.
        """
        preprocessed = Path(self.preprocessed_dataset_folder_base)
        bring_manifest(preprocessed, self.raw_folder)
        if self.fold != "all":
            splits = bring_splits(preprocessed, self.raw_folder, self.cases, self.print_to_log_file)
            if splits is not None:
                folder = self.preprocessed_dataset_folder
                present = infer_dataset_class(folder).get_identifiers(folder)
                check_fold(self.fold, splits, present, path=preprocessed / SPLITS, folder=folder)
        split: tuple[list[str], list[str]] = super().do_split()
        self._split = [str(case) for case in split[0]], [str(case) for case in split[1]]
        return split

    def validation_numbers(self, numbers: range) -> list[int]:
        """Which validation batches are seen; by default new ones in each epoch, as in nnU-Net."""
        return list(numbers)

    # --- one step -----------------------------------------------------------------------------------------------

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which the network runs."""
        if self.autocast_type is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_type)

    def reseed_epoch(self, *keys: int) -> None:
        """Fixes everything random from here on in this epoch and process."""
        reseed(self.training.seed, _EPOCH, self.local_rank, self.current_epoch, *keys)

    def on_train_epoch_start(self) -> None:
        """Fixes everything random in this epoch."""
        self.reseed_epoch()
        super().on_train_epoch_start()
        self._bar = tqdm(
            initial=self._midway["iteration"] if self._midway else 0,
            total=self.num_iterations_per_epoch,
            desc=f"epoch {self.current_epoch + 1}/{self.num_epochs}",
            leave=False,
            disable=None if self.local_rank == 0 else True,  # None: only where somebody watches
        )

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimiser step of all processes.

        Returns:
            The loss, its terms and the norm of the gradient, scalars on the device.
        """
        self.lr_scheduler.step(self.current_epoch + (self._iteration + 1) / self.num_iterations_per_epoch)
        self._iteration += 1
        parts = split(self.prepare(batch), self.training.accumulate)
        try:
            terms = self._differentiate(parts)
        except TorchDynamoException as error:
            self._do_without_compiler(error)
            terms = self._differentiate(parts)
        norm = self._descend()
        if self._bar is not None:
            self._bar.update()
        # a scaler steps over gradients that overflow, which is no fault
        return terms if self.grad_scaler is not None else terms | {"gradient_norm": norm}

    def _differentiate(self, parts: list[Batch]) -> dict[str, Tensor]:
        def losses_of(part: Batch) -> dict[str, Tensor]:
            with self.autocast():
                return self.losses_of(part)

        def backward(loss: Tensor) -> None:
            (loss if self.grad_scaler is None else self.grad_scaler.scale(loss)).backward()

        self.optimizer.zero_grad(set_to_none=True)
        world = self.peers.count
        samples = self._whole_batch if world > 1 else sum(len(part["data"]) for part in parts)
        return add_gradients(self.network, parts, losses_of, samples=samples, world=world, backward=backward)

    def _descend(self) -> Tensor:
        """Clips the gradient and takes the step; the norm before."""
        parameters = list(chain.from_iterable(group["params"] for group in self.optimizer.param_groups))
        if self.grad_scaler is None:
            norm = clip_grad_norm_(parameters, self.training.gradient_clip)
            self.optimizer.step()
            return norm.detach()
        self.grad_scaler.unscale_(self.optimizer)
        norm = clip_grad_norm_(parameters, self.training.gradient_clip)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()
        return norm.detach()

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Logs the mean loss."""
        if self._bar is not None:
            self._bar.close()
        self.logger.log("train_losses", self.mean_of(train_outputs, "loss"), self.current_epoch)

    # --- compiling ----------------------------------------------------------------------------------------------

    def _do_i_compile(self) -> bool:
        """The setting decides; nnU-Net's variable nnUNet_compile overrides it, but nnU-Net itself only asks on CUDA."""
        variable = os.environ.get("nnUNet_compile")
        if self._compile_failed or (variable is not None and variable.lower() not in ("true", "1", "t")):
            return False
        if self.training.compile == "on":
            return True
        return (variable is not None or self.training.compile == "auto") and bool(super()._do_i_compile())

    def _do_without_compiler(self, error: TorchDynamoException) -> None:
        reason = " ".join(str(error).strip().splitlines()[:2])
        self.print_to_log_file(f"WARNING: torch.compile failed, so training goes on without it, slower: {reason}")
        self._compile_failed = True
        if isinstance(self.network, DistributedDataParallel):
            self.network.module = unwrap(self.network)
        else:
            self.network = unwrap(self.network)
        self.loss = self._build_loss()

    # --- what was seen ------------------------------------------------------------------------------------------

    @property
    def cases(self) -> CaseList:
        """The cases of the data set, as the manifest beside the preprocessed data knows them, else the raw one."""
        folders = [Path(self.preprocessed_dataset_folder_base)]
        if self.raw_folder is not None:
            folders.append(self.raw_folder)
        try:
            return read_cases(*folders)
        except InputError as error:  # no reason to lose a training
            return CaseList(self.plans_manager.dataset_name, self.plans_manager.dataset_name, [], str(error))

    def exposure_entry(self) -> Any:
        """What checkpoints tell about the cases seen."""
        return self.exposure.as_dict()

    @cached_property
    def exposure(self) -> Exposure:
        """The cases this training sees, after those that its starting weights have seen."""
        if self._split is None:
            self.do_split()
        assert self._split is not None
        train, val = self._split
        run = describe_run(
            self.cases,
            train=train,
            val=[] if self.fold == "all" else val,
            trainer=type(self).__name__,
            configuration=self.configuration_name,
            fold=str(self.fold),
            weights=self.started_from,
        )
        whole = self.ancestors.then(run)
        if not self._told.runs or self._told.runs[-1] == whole.runs[-1]:
            return whole
        return self._told.then(run)  # the run was interrupted and goes on with other data

    def recall_exposure(self, stored: Any) -> None:
        """Takes over what an interrupted run knew."""
        self._told = Exposure.of(stored, named="the checkpoint that this run goes on from")
        self.__dict__.pop("exposure", None)
        if not self._told.runs:
            self.ancestors = self._told  # its note: nobody knows what the weights have seen
            return
        last = self._told.runs[-1]
        self.started_from = dict(last.get("weights", {}))
        self.ancestors = Exposure(self._told.runs[:-1], last.get("ancestors", ""))


def build_from_plans(
    configuration_manager: Any, *, input_channels: int, output_channels: int, deep_supervision: bool
) -> nn.Module:
    """The network that the plans describe."""
    return nnUNetTrainer.build_network_architecture(
        None, configuration_manager, input_channels, output_channels, deep_supervision
    )
