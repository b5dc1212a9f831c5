"""The interface between pre-training and its objective."""

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
    """Images of one sample, side by side.

    Attributes:
        original: (*spatial), drawn first.
        shown: name to image (*spatial), drawn after it.
        mask: boolean (*spatial), True = hidden from the encoder; None where nothing is.
    """

    original: Tensor
    shown: Mapping[str, Tensor]
    mask: Tensor | None = None


@dataclass(frozen=True)
class Monitored:
    """The scores of an objective on validation crops.

    Attributes:
        values: "loss", its terms and the objective's monitors, scalars by name.
        picture: of the first sample, where the objective has one to show.
    """

    values: Mapping[str, Tensor]
    picture: Picture | None = None


class Objective(nn.Module):
    """A pre-training objective around the view of an encoder.

    Trainers know no objective. They draw everything random through `draw`, for the whole batch of all processes and
    from a generator that depends on seed and step alone, and give each process its samples of it; a training therefore
    does not depend on the number of processes or loader workers. The result of `forward` is what is minimised.

    A new objective is a subclass in a new file, a `Pretraining` task that names it, and a trainer that names
    the task.

    Args:
        view: the encoder to pre-train, see `encoder_of`.
        settings: of `settings_class`; by default its defaults.

    Attributes:
        settings_class: the settings that the plans' "pretraining" block may name.
        panels: title of a figure's panel -> label of a curve -> name of a monitor, for progress.png.
        encoder: the module of the view; its weights are "encoder." in checkpoints, where fine-tuning looks for them.
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
        """Names of the terms of the loss, the loss itself aside."""
        return ()

    @property
    def monitors(self) -> tuple[str, ...]:
        """Names of the scores on validation crops beside the loss, which the panels of progress show."""
        return tuple(name for panel in self.panels.values() for name in panel.values())

    def draw(self, batch: int, spatial: Sequence[int], *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw everything random of one step.

        Args:
            batch: samples, of all processes together.
            spatial: voxels per axis of each.
            generator: the one source of randomness.

        Returns:
            Tensors (batch, ...) by the names under which `forward` and `monitor` take them.
        """
        return {}

    def forward(self, images: Tensor, **drawn: Tensor) -> dict[str, Tensor]:
        """Return "loss" and its terms, scalars that are means over the samples.

        Args:
            images: (B, C, *spatial).
            drawn: what `draw` gave for these samples.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it minimises: override forward")

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        """Score validation crops, the same with the same draws in every epoch; by default loss and terms alone."""
        return Monitored(self(images, **drawn))

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Say in one sentence what the last validation showed; an empty one for nothing."""
        return ""
