"""A pre-training objective in one file: tell the mean intensity of an octant of the crop that was blanked."""

from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from bdfm_nnunet.objectives.base import Monitored, Objective, Picture
from bdfm_nnunet.settings import CropSettings
from bdfm_nnunet.tasks.pretraining import Pretraining
from bdfm_nnunet.training.trainer import Trainer


@dataclass(frozen=True, kw_only=True)
class OctantSettings(CropSettings):
    fill: float = 0.0
    """What the blanked octant holds."""


class OctantMeans(Objective):
    settings_class = OctantSettings
    panels = MappingProxyType({"error of the mean": {"network": "error", "always zero": "error_of_zero"}})
    terms = ("octant",)

    def __init__(self, view, settings=None):
        super().__init__(view, settings)
        self.head = nn.Linear(view.channels[-1], view.in_channels)

    def draw(self, batch, spatial, *, generator):
        return {"octant": torch.randint(2, (batch, len(spatial)), generator=generator)}

    def hidden(self, images: Tensor, octant: Tensor) -> Tensor:
        """(B, 1, *spatial), True in the octant whose half is named along each axis."""
        hidden = torch.ones_like(images[:, :1], dtype=torch.bool)
        for axis, size in enumerate(images.shape[2:]):
            upper = torch.arange(size, device=images.device) >= size // 2
            half = (upper == octant[:, axis, None].bool()).view(len(images), 1, *(-1 if a == axis else 1 for a in range(octant.shape[1])))
            hidden = hidden & half
        return hidden

    def forward(self, images, *, octant):
        return self.monitor(images, octant=octant).values
