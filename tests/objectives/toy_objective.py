"""A pre-training objective in one file: blank an octant of a crop and tell its mean intensity from the rest."""

from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from bdfm_nnunet.masking import upsample
from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.settings import CropSettings
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class OctantSettings(CropSettings):
    fill: float = 0.0  # the intensity of the blanked octant


class OctantMeans(Objective):
    settings_class = OctantSettings
    panels = MappingProxyType({"error of the mean": {"network": "error", "zero": "error_of_zero"}})

    def __init__(self, view: Any, settings: Any = None, **options: Any) -> None:
        super().__init__(view, settings, **options)
        self.head = nn.Linear(view.channels[-1], view.in_channels)

    def draw(self, batch: int, spatial: Any, *, generator: torch.Generator) -> dict[str, Tensor]:
        chosen = torch.randint(2 ** len(spatial), (batch,), generator=generator)
        return {"octant": one_hot(chosen, 2 ** len(spatial)).bool().unflatten(1, [2] * len(spatial))}

    def forward(self, images: Tensor, **drawn: Tensor) -> dict[str, Tensor]:
        return {"loss": self.monitor(images, **drawn).values["loss"]}

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        hidden = upsample(drawn["octant"], [size // 2 for size in images.shape[2:]])[:, None]
        blanked = images.masked_fill(hidden, self.settings.fill)
        guess = self.head(self.encoder(blanked)[-1].flatten(2).mean(2))
        truth = (images * hidden).flatten(2).sum(2) / hidden.flatten(2).sum(2)
        values = {"loss": (guess - truth).square().mean(), "error": (guess - truth).abs().mean()}
        picture = Picture(images[0, 0], {"blanked": blanked[0, 0]}, hidden[0, 0])
        return Monitored(values | {"error_of_zero": truth.abs().mean()}, {"reconstructions": picture})


class OctantPretraining(Pretraining):
    objective_class = OctantMeans


class nnUNetTrainerOctants(Trainer):
    task_class = OctantPretraining
