"""Base class of pre-training objectives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.settings import CropSettings


@dataclass(frozen=True)
class Picture:
    """Images of one sample to draw side by side.

    Attributes:
        original: (*spatial), the first image.
        shown: name -> image (*spatial), the next images.
        mask: boolean (*spatial), True = hidden from the encoder; None if nothing is hidden.
        errors: whether the shown images shall be the original, so that their errors are drawn too.
        courses: name -> (voxels, frames), time courses of some voxels of a 4-D image; empty for others.
        hidden: boolean (voxels, frames), True = hidden from the encoder; None without time courses.

    Example:
        >>> image = torch.rand(8, 8)
        >>> picture = Picture(image, {"rebuilt": image.round()}, mask=image > 0.5)
        >>> list(picture.shown), picture.errors, dict(picture.courses)
        (['rebuilt'], True, {})
    """

    original: Tensor
    shown: Mapping[str, Tensor]
    mask: Tensor | None = None
    errors: bool = True
    courses: Mapping[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None


@dataclass(frozen=True)
class Monitored:
    """Scores of validation crops.

    Attributes:
        values: "loss", its terms and the objective's monitors, scalars by name.
        kept: per sample, (B, ...) by name, for `Objective.summarise`, which sees all validation crops at once.
        pictures: folder of the pictures ("reconstructions", say) -> picture of the first sample.

    Example:
        >>> scored = Monitored({"loss": torch.tensor(0.5), "psnr": torch.tensor(21.0)})
        >>> sorted(scored.values), dict(scored.pictures), dict(scored.kept)
        (['loss', 'psnr'], {}, {})
    """

    values: Mapping[str, Tensor]
    pictures: Mapping[str, Picture] = field(default_factory=dict)
    kept: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(nn.Module):
    """A pre-training objective for any encoder.

    Trainers do not know objectives. They draw everything random through `draw`, for the whole batch of all processes
    and from a generator that depends only on seed and step, and give each process its samples. A training therefore
    does not depend on the number of processes or loader workers. Training minimises the "loss" of `forward`.

    An objective whose loss compares samples with one another sets `compares_samples` and overrides `represent` and
    `compare` instead of `forward`. Its loss is then that of the whole batch, whatever the number of micro-batches.

    A new objective needs a subclass in a separate file, an entry in `OBJECTIVE_SETTINGS`, `PRESETS` and `OBJECTIVES`, a
    `Pretraining` task that names its preset, and a trainer that names the task.

    Args:
        view: encoder to pre-train, see `encoder_of`.
        settings: instance of `settings_class`; by default its defaults.
        spacing: millimetres per voxel and axis; 1 by default.

    Attributes:
        settings_class: settings that the plans' "pretraining" block may name.
        compares_samples: whether the loss of a sample depends on the other samples of the batch.
        uses_patients: whether `forward` and `monitor` need "patients", (B,) integer keys of the samples' patients, -1
            for an unknown patient.
        shapes_vary: whether shapes of tensors depend on what is drawn; torch.compile then leaves the objective alone.
        uses_channels: whether `forward` needs "channels", boolean (B, C), False where a channel of `images` is left out
            (0); with two subsets (B, 2, C).
        channel_subsets: subsets of the channels of a sample; an objective with two makes two views of whole images, and
            leaves channels out of each.
        uses_foreground: whether `monitor` needs "foreground", (B,), the labelled share of each validation crop.
        encoder_forwards: forward passes of the encoder per training step.
        reads_clips: whether images of four axes are learnt from, in space and time.
        clips: clips of 4-D images that a sample consists of, one channel each.
        second_clip: where the second of two clips is from, the same "run" or another one of the "subject".
        uses_brain: whether `forward` and `monitor` take the "brain" of clips, (B, X, Y, Z), of several with their axis.
        uses_regions: whether they take "regions" of clips, (B, X, Y, Z).
        atlas: label map of these regions in the space of the runs; None for none.
        suits_adamw: whether AdamW is the default for any encoder; else only for transformers, and SGD for the others.
        progress: curve that tells how far the training has come, and whether larger values of it are better.
        panels: title of a figure's panel -> label of a curve -> name of a monitor, for progress.png.
        encoder: module of the view; its weights are "encoder." in checkpoints, where fine-tuning looks for them.

    Example:
        An autoencoder of the coarsest features:

        >>> from bdfm_nnunet.networks import SwinUNet, encoder_of
        >>> class Autoencoder(Objective):
        ...     def __init__(self, view: EncoderView) -> None:
        ...         super().__init__(view)
        ...         self.out = nn.ConvTranspose3d(view.channels[-1], view.in_channels, 8, stride=8)
        ...     def forward(self, images: Tensor) -> dict[str, Tensor]:
        ...         rebuilt = self.out(self.encoder(images)[-1])
        ...         return {"loss": (rebuilt - images).square().mean()}
        >>> view = encoder_of(SwinUNet(
        ...     1, 2, strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2]], features_per_stage=[4, 8, 16], depths=[1, 1],
        ...     num_heads=[1, 2], window_size=[2, 2, 2],
        ... ))
        >>> terms = Autoencoder(view)(torch.rand(2, 1, 16, 16, 16))
        >>> list(terms), terms["loss"].ndim
        (['loss'], 0)
    """

    settings_class: ClassVar[type[CropSettings]] = CropSettings
    compares_samples: bool = False
    uses_patients: bool = False
    shapes_vary: bool = False
    uses_channels: bool = False
    channel_subsets: int = 1
    uses_foreground: bool = False
    reads_clips: bool = False
    clips: int = 1
    second_clip: str = "run"
    uses_brain: bool = False
    uses_regions: bool = False
    atlas: Path | None = None
    suits_adamw: bool = False
    encoder_forwards: int = 1
    progress: tuple[str, bool] = ("val_losses", False)
    panels: Mapping[str, Mapping[str, str]] = MappingProxyType({})

    def __init__(self, view: EncoderView, settings: Any = None, *, spacing: Sequence[float] | None = None) -> None:
        super().__init__()
        self.view = view
        self.spacing = (1.0,) * view.axes if spacing is None else tuple(float(step) for step in spacing)
        self.settings = settings if settings is not None else self.settings_class()
        self.encoder = view.module

    @classmethod
    def check(cls, configuration: Mapping[str, Any], settings: Any) -> None:
        """Raise InputError where settings do not fit the crops or the network of a configuration of the plans."""

    @classmethod
    def check_clips(cls) -> None:
        """Raise InputError unless the objective learns from 4-D images."""
        if not cls.reads_clips:
            raise InputError(
                f"{cls.__name__} does not learn from 4-D images: use -tr nnUNetTrainerNeuroSTORM or "
                "nnUNetTrainerSimCLR, or a configuration of 3-D images"
            )

    @classmethod
    def crop_size(cls, patch_size: Sequence[int], settings: Any) -> tuple[int, ...]:
        """Return the voxels per axis of the crops that are loaded, for a network of `patch_size`; by default equal."""
        return tuple(patch_size)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms of the loss, without "loss"."""
        return ()

    @property
    def monitors(self) -> tuple[str, ...]:
        """Names of the scores of validation crops, apart from the loss, that the panels show."""
        return tuple(name for panel in self.panels.values() for name in panel.values())

    def share_encoding(self, other: "Objective") -> bool:
        """Take over what makes the encoder see the same input as in another objective of a mixture.

        Returns:
            Whether it does, so that one forward pass of the encoder is enough for both; by default not.
        """
        return False

    def make_countable(self) -> None:
        """Change what hangs on the content of tensors, of which the meta device has none, before costs are counted."""

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

    def forward(self, images: Tensor, *, only_represent: bool = False, **drawn: Tensor) -> Any:
        """Return "loss" and its terms, scalars that are means over the samples.

        Args:
            images: (B, C, *spatial).
            only_represent: return what `represent` returns; objectives that compare samples alone have this.
            drawn: result of `draw` for these samples.
        """
        if not self.compares_samples:
            raise NotImplementedError(f"{type(self).__name__} must say what it minimises: override forward")
        representations, losses = self.represent(images, **drawn)
        return (representations, losses) if only_represent else self.joined(losses, self.compare(representations))

    def represent(self, images: Tensor, **drawn: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return what `compare` compares, (B, ...) by name, and losses of samples alone as `forward` does ({} if none).

        Args:
            images: (B, C, *spatial), a micro-batch.
            drawn: result of `draw` for these samples.
        """
        raise NotImplementedError(f"{type(self).__name__} must say what it compares: override represent")

    def compare(self, representations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return "loss" and its terms, scalars, from the representations of all samples of this process."""
        raise NotImplementedError(f"{type(self).__name__} must say what it minimises: override compare")

    @staticmethod
    def joined(alone: Mapping[str, Tensor], compared: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the terms of `represent` and of `compare` with the sum of their losses."""
        terms = {**alone, **compared}
        if "loss" in alone:
            terms["loss"] = alone["loss"] + compared["loss"]
        return terms

    def monitor(self, images: Tensor, **drawn: Tensor) -> Monitored:
        """Score validation crops, which are the same with the same draws in every epoch; by default loss and terms."""
        return Monitored(self(images, **drawn))

    def summarise(self, kept: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return monitors that need all validation crops of all processes at once; by default none.

        Args:
            kept: what `monitor` kept, joined over the crops, on the CPU.
        """
        return {}

    def verdict(self, latest: Mapping[str, float]) -> str:
        """Return a sentence on the last validation; empty for none."""
        return ""
