"""Many processes that train as one, on nnU-Net's trainer, which knows those of one machine with NVIDIA GPUs."""

import hashlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed, nn

import bdfm_nnunet
from bdfm_nnunet.data.batch_streams import seeded
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import cannot_write
from bdfm_nnunet.networks.network_classes import check_network_classes
from bdfm_nnunet.nnunet_files import check_dataset, check_plans, resolve_configuration
from bdfm_nnunet.settings import TrainingSettings, read_block
from bdfm_nnunet.step_checks import check_shares
from bdfm_nnunet.training.gradients import joined
from bdfm_nnunet.training.process_group import Peers, device_of_process, shares
from bdfm_nnunet.training.signals import WISHES

_CUDA = torch.device("cuda")
_NETWORK = 0  # keeps the random stream of the first weights apart from those in base.py


class SharedTrainer(nnUNetTrainer):
    """A trainer of which any number of processes shares the plans' batch.

    nnU-Net has one number for what are two: here `local_rank` is the rank among all machines (it decides about seeds
    and files; only rank 0 writes), and the device comes from the variable LOCAL_RANK. gloo on the CPU and nccl on CUDA
    both do.

    Attributes:
        training: the configuration's "training" block.
        peers: all processes of this training.
    """

    is_ddp: bool
    network: Any

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = _CUDA,
    ) -> None:
        _check(plans, configuration, dataset_json)
        try:
            super().__init__(plans, configuration, fold, dataset_json, device)
        except OSError as error:  # it makes the fold's folder
            raise cannot_write(Path(error.filename or "nnUNet_results"), error) from error
        self.training: TrainingSettings = read_block(self.configuration_manager.configuration, "training")
        self.device = device_of_process(device.type)  # nnU-Net takes the rank for it, and always CUDA
        self.peers = Peers(WISHES)
        if self.peers.count > 1:
            self.peers.agree(
                {
                    "plans": _digest(self.plans_manager.plans),
                    "contents of dataset.json": _digest(dataset_json),
                    "arguments": f"{type(self).__name__} {configuration} {fold} {device.type}",
                    "weights (BDFM_WEIGHTS)": os.environ.get("BDFM_WEIGHTS", ""),
                    "versions of the code": _code_digest(),
                }
            )

    def initialize(self) -> None:
        """Builds network, optimiser and loss from the seed.

        Raises:
            InputError: the batch is too small for the number of processes and micro-batches.
        """
        check_shares(self._whole_batch, world=self.peers.count, accumulate=self.training.accumulate)
        several, self.is_ddp = self.is_ddp, False  # nnU-Net would wrap the network for the GPU that the rank counts to
        with seeded(self.training.seed, _NETWORK):
            super().initialize()
        self.is_ddp = several
        if several:
            self._join_peers()

    def _join_peers(self) -> None:
        """Wraps the network; buffers are constant or, as the mask token's, kept equal by their owner."""
        on_gpu = self.device.type == "cuda"
        network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network) if on_gpu else self.network
        self.network = joined(network, self.device)
        self.loss = self._build_loss()
        if self.local_rank == 0:
            self.do_split()  # writes the split of a data set that has none
        self.peers.wait()
        with os.scandir(self.preprocessed_dataset_folder) as entries:
            files = sorted((entry.name, entry.stat().st_size) for entry in entries)
        split = [sorted(map(str, part)) for part in self.do_split()]
        self.peers.agree({"preprocessed data": _digest(files), "splits": _digest(split)})

    @property
    def _whole_batch(self) -> int:
        """Samples of an optimiser step."""
        return int(self.configuration_manager.batch_size)

    @property
    def _share(self) -> slice:
        """Which samples of the whole batch are this process's."""
        sizes = shares(self._whole_batch, self.peers.count)
        start = sum(sizes[: self.peers.rank])
        return slice(start, start + sizes[self.peers.rank])

    def _set_batch_size_and_oversample(self) -> None:
        """This process's share of the batch, and of the samples that nnU-Net's loader centres on foreground."""
        share = self._share
        self.batch_size = share.stop - share.start
        if self.peers.count > 1:
            first = round(self._whole_batch * (1 - self.training.oversample_foreground))
            self.oversample_foreground_percent = max(share.stop - max(first, share.start), 0) / self.batch_size

    def _build_loss(self) -> Any:
        """nnU-Net's loss.

        Raises:
            InputError: its Dice over the batch, among processes with unequal shares.
        """
        equal = self._whole_batch % (self.peers.count * self.training.accumulate) == 0
        if self.is_ddp and self.configuration_manager.batch_dice and not equal:
            raise InputError(
                f"batch_dice needs equal shares, but {self.peers.count} processes with training.accumulate="
                f"{self.training.accumulate} do not divide the plans' batch of {self._whole_batch}: choose numbers "
                "that do, or plan another batch (bdfm plan --variant NAME --set batch_size=...)"
            )
        return super()._build_loss()

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Tells the log and the console; only rank 0 does."""
        if self.local_rank == 0:
            super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)

    def on_train_start(self) -> None:
        """Prepares the run; only rank 0 writes."""
        if not self.was_initialized:
            self.initialize()
        if self.local_rank == 0:
            super().on_train_start()
            return
        self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        self.set_deep_supervision_enabled(self.enable_deep_supervision)
        distributed.barrier()  # meets the one of nnU-Net's own method

    def mean_of(self, outputs: list[dict[str, Any]], name: str) -> float:
        """Mean of a term over the steps and processes."""
        return self.peers.mean([output[name] for output in outputs], weight=self.batch_size)


def _check(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> None:
    """Raise InputError unless plans and dataset.json can be used; nothing that they name is located before."""
    name = "the plans file"
    check_plans(plans, name)
    check_network_classes(resolve_configuration(plans, configuration), name)
    check_dataset(dataset_json, "dataset.json beside the plans")


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _code_digest() -> str:
    """Of the modules of this package and the versions of what it stands on."""
    folders = [*bdfm_nnunet.__path__, *sys.modules[__package__].__path__]
    files = sorted({path for folder in folders for path in Path(folder).rglob("*.py")}, key=lambda path: path.name)
    sources = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    return _digest([sources, torch.__version__, version("nnunetv2")])
