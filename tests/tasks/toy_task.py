"""A task in one file: tell the mean intensity of a whole case from a crop of it, with a head on the encoder."""

from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor, nn

from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.crops import UnlabelledCrops, open_images
from bdfm_nnunet.networks.encoders import encoder_of
from bdfm_nnunet.tasks.finetuning import Finetuning
from bdfm_nnunet.training.trainer import Trainer


class Regressor(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        view = encoder_of(network)
        self.encoder, self.head = view.module, nn.Linear(view.channels[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images)[-1].flatten(2).mean(2)).squeeze(1)


class CaseMean(Finetuning):
    @classmethod
    def build_network(cls, configuration_manager: Any, *, input_channels: int, **rest: Any) -> nn.Module:
        return Regressor(
            nnUNetTrainer.build_network_architecture(None, configuration_manager, input_channels, 2, False)
        )

    def batch_sources(self) -> Any:
        trainer, parts = self.trainer, self.trainer.get_tr_and_val_datasets()
        self.targets = {key: float(open_images(part, key)[:1].mean()) for part in parts for key in part.identifiers}
        size = {"batch_size": trainer.batch_size, "patch_size": trainer.configuration_manager.patch_size}
        return tuple(UnlabelledCrops(part, single_channel=False, **size) for part in parts)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        device = self.trainer.device
        target = torch.tensor([self.targets[key] for key in batch["keys"]], device=device)
        error = self.trainer.network(batch["data"].to(device)) - target
        return {"loss": error.square().mean(), "absolute": error.abs().mean()}


class nnUNetTrainerCaseMean(Trainer):
    task_class = CaseMean
