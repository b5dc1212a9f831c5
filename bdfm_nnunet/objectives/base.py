"""Base class of pre-training objectives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.settings import CropSettings


@dataclass(frozen=True)
class Picture:
    """Images of one sample to draw side by side.

    Attributes:
        original: (*spatial), the first image.
        shown: name -> image (*spatial), the next images.
        mask: boolean (*spatial), True = hidden from the encoder; None if nothing is hidden.
    """

    original: Tensor
    shown: Mapping[str, Tensor]
    mask: Tensor | None = None


@dataclass(frozen=True)
class Monitored:
    """Scores of validation crops.

    Attributes:
        values: "loss", its terms and the objective's monitors, scalars by name.
        picture: picture of the first sample; None if the objective has none.
    """

    values: Mapping[str, Tensor]
    picture: Picture | None = None


class Objective(nn.Module):
    """A pre-training objective for any encoder.

    Trainers do not know objectives. They draw everything random through `draw`, for the whole batch of all processes
    and from a generator that depends only on seed and step, and give each process its samples. A training therefore
    does not depend on the number of processes or loader workers. Training minimises the "loss" of `forward`.

    A new objective needs a subclass in a separate file, a `Pretraining` task that names it, and a trainer that names
    the task.

    Args:
        view: encoder to pre-train, see `encoder_of`.
        settings: instance of `settings_class`; by default its defaults.

    Attributes:
        settings_class: settings that the plans' "pretraining" block may name.
        panels: title of a figure's panel -> label of a curve -> name of a monitor, for progress.png.
        encoder: module of the view; its weights are "encoder." in checkpoints, where fine-tuning looks for them.
    """

    settings_class: ClassVar[type[CropSettings]] = CropSettings
    panels: ClassVar[Mapping[str, Mapping[str, str]]] = MappingProxyType({})

    def __init__(self, view: EncoderView, settings: Any = None) -> None:
        super().__init__()
        self.view = view
        self.settings = settings if settings is not None else self.settings_class()
        self.encoder = view.module

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: Any) -> None:
        """Raise InputError where settings do not fit the crops or the network of a configuration of the plans."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, without "loss"."""
        return ()

    @property
    def monitors(self) -> tuple[str, ...]:
        """Names of the scores of validation crops, apart from the loss, that the panels show."""
        return tuple(name for panel in self.panels.values() for name in panel.values())

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw everything random of one step.

        Args:
            batch: number of samples of all processes together.
            spatial: voxels per axis of a sample.
            generator: the only source of randomness.

        Returns:
            Name -> tensor (batch, ...), as `forward` and `monitor` expect them.
        """
        return {}

    def forward(self, images: Tensor, **drawn: Tensor) -> dict[str, Tensor]:
        """Return "loss" and its terms, scalars that are means over the samples.

        Args:
            images: (B, C, *spatial).
            drawn: result of `draw` for these samples.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it minimises: override forward")

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        """Score validation crops, which are the same with the same draws in every epoch; by default loss and terms."""
        return Monitored(self(images, **drawn))

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the last validation; empty for none."""
        return ""
