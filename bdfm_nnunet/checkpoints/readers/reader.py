"""The seam between a project's checkpoints and everything that uses weights."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor

from bdfm_nnunet.checkpoints.readers.primus_tokens import PRIMUS, is_primus
from bdfm_nnunet.checkpoints.readers.renaming import ALIASES, Renamed, rename
from bdfm_nnunet.checkpoints.readers.source_network import SourceNetwork, TokenOrder
from bdfm_nnunet.checkpoints.readers.swin_names import SWIN, has_swin_names
from bdfm_nnunet.checkpoints.readers.weight_sets import named_tensors

Merging = Literal["monai-1.4", "monai-1.5", "mergingv2"]
"""MONAI's three orders of merged tokens: its default up to version 1.4, from 1.5 on, and `downsample="mergingv2"`."""


@dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """What a file cannot tell and somebody who reads it may know; None: the reader's default, which it states.

    Attributes:
        weight_set: which of several sets of weights in the file, by the key it has there, like "model_ema".
        merging: order in which MONAI's Swin transformer merged tokens.
        token_order: order in which a Primus read its tokens: "whd" (first axis slowest) or "hwd" (second axis slowest).

    Raises:
        ValueError: an order has another name.

    Example:
        >>> ReadingSettings(merging="mergingv2").token_order is None
        True
    """

    weight_set: str | None = None
    merging: Merging | None = None
    token_order: TokenOrder | None = None

    def __post_init__(self) -> None:
        for name, values in (("merging", get_args(Merging)), ("token_order", get_args(TokenOrder))):
            value = getattr(self, name)
            if value is not None and value not in values:
                raise ValueError(f"{name} is {value!r}, expected {' or '.join(map(repr, values))}")


@dataclass(frozen=True, kw_only=True)
class ExpectedImages:
    """The images that a network was trained on; others mean something else to its weights.

    Attributes:
        axes: order of the image axes, as positions in nnU-Net's arrays (z, y, x).
        normalisation: name of nnU-Net's normalisation for each channel.
        masked: for each channel whether only voxels inside the non-zero region were normalised; None: not stored.
        spacing: voxel size in mm along the axes of nnU-Net's arrays; empty where it varied.
        patch: voxels along the axes, in their order, that the authors recommend; empty where there are plans to say it.

    Example:
        Images (x, y, z) of one channel, scaled to 0..1:

        >>> images = ExpectedImages(axes=(2, 1, 0), normalisation=("RescaleTo01Normalization",), masked=(False,))
    """

    axes: tuple[int, ...]
    normalisation: tuple[str, ...]
    masked: tuple[bool | None, ...]
    spacing: tuple[float, ...] = ()
    patch: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a file says about its weights; each entry is None where the file does not say it.

    Attributes:
        plans: nnU-Net's plans of the training, not checked (see `nnunet_files.check_plans`).
        configuration: the configuration of those plans.
        trainer: class name of the trainer.
        images: the images of the training.
        window: tokens per axis of the attention windows.
        exposure: the cases of the training, as the file holds them (see `bdfm_nnunet.exposure`).
        progress: the place in an epoch at which our trainers wrote the file; None at an epoch's end.
        strategy: the stage in which a fine-tuning of ours wrote the file, not checked.
        task: what a subject-level task of ours has learnt, not checked.
        channel_dropout: probability with which a fine-tuning of ours left each channel out; 0 where it did not.
        mirroring: the image axes that prediction may mirror, not checked.
        source_network: the network of the weights, as far as it is known.
        licence: licence of the weights; empty where the file does not name it and it is not known.
        citations: what its authors ask to cite.
        notes: sentences for the report, for instance what the reader had to assume.

    Example:
        >>> Origin(trainer="nnUNetTrainer", window=(7, 7, 7)).plans is None
        True
    """

    plans: dict[str, Any] | None = None
    configuration: str | None = None
    trainer: str | None = None
    images: ExpectedImages | None = None
    window: tuple[int, ...] | None = None
    exposure: Any = None
    progress: Any = None
    strategy: Any = None
    task: Any = None
    channel_dropout: float = 0.0
    mirroring: Any = None
    source_network: SourceNetwork = field(default_factory=SourceNetwork)
    licence: str = ""
    citations: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Reader(ABC):
    r"""Recognises the checkpoints of one project and translates them.

    A reader gets content that was loaded as plain data but is otherwise unchecked: entries of an unexpected type count
    as missing. The weights are checked (finite, dense, floating) before `rename` gets them.

    Attributes:
        kind: the project's name in reports and in `Checkpoint.kind`.

    Example:
        >>> class OurLabReader(Reader):
        ...     kind = "our lab"
        ...
        ...     def recognises(self, content):
        ...         return "our_lab" in content
        ...
        ...     def rename(self, weights):
        ...         return rename(weights, ((r"^backbone\.", "encoder."), (r"^projector\.", None)))
        >>> OurLabReader().rename({"backbone.stages.0.bias": None, "projector.bias": None})
        Renamed(weights={'encoder.stages.0.bias': None}, dropped={'projector.bias': 'derived from other entries'})
    """

    kind: ClassVar[str]

    @abstractmethod
    def recognises(self, content: Mapping[str, Any]) -> bool:
        """Return whether a file is of this project."""

    def configured(self, content: Mapping[str, Any], settings: ReadingSettings) -> "Reader":
        """Return the reader for this file and these settings; itself where neither changes how it reads.

        Raises:
            InputError: the weights can be recognised, but not used.
        """
        return self

    def tensors(self, content: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return parameters and buffers under the file's names; by default those in the first usual container."""
        return named_tensors(content)

    def rename(self, weights: Mapping[str, Tensor]) -> Renamed:
        """Return parameters and buffers under our names, in our axis order; by default for names that are known.

        Args:
            weights: by the file's names, without prefixes of DDP and torch.compile.

        Raises:
            InputError: two of them would get the same name.
        """
        if is_primus(weights):
            return rename(weights, (*ALIASES, *PRIMUS))
        return rename(weights, (*ALIASES, *SWIN) if has_swin_names(weights) else ALIASES)

    def origin(self, content: Mapping[str, Any]) -> Origin:
        """Return what the file says about its weights; nothing by default."""
        return Origin()
