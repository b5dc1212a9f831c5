"""Settings of training in a plans file: three blocks of named, typed values.

A configuration of an nnU-Net plans file may have the blocks `"training"`, `"pretraining"` and `"finetuning"`. Each
block becomes one frozen dataclass below; a misspelt name or a value of the wrong type is an `InputError`, never a
silent default.
"""

import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, Union

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.presets import PRESETS

Optimizer = Literal["auto", "adamw", "sgd"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
MaskTokenMode = Literal["zero", "learned", "scalar_mean", "channel_mean", "image_mean"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Length, learning rate and reproducibility of a training; with `None` the trainer chooses.

    Attributes:
        epochs: number of epochs of `iterations_per_epoch` optimiser steps.
        iterations_per_epoch: optimiser steps per epoch.
        val_iterations_per_epoch: validation batches after each epoch.
        initial_lr: peak learning rate, reached at the end of the warm-up.
        weight_decay: weight decay, decoupled for AdamW, an L2 term for SGD.
        warmup_epochs: epochs of linear warm-up; by default a twentieth of `epochs`, at most 50.
        optimizer: "auto" is AdamW for transformer encoders and SGD with Nesterov momentum for convolutional ones.
        gradient_clip: largest norm of the gradients.
        precision: autocast type on CUDA; "auto" is bf16 if the card supports it, else fp16 with loss scaling. On CPU
            and MPS "auto" is fp32.
        seed: random seed; every random number is a function of the seed, the step and the rank.
        save_every: epochs between two writings of checkpoint_latest.pth.
        workers: loader processes; 0 loads in the training process; `None` uses nnU-Net's nnUNet_n_proc_DA.
        oversample_foreground: share of crops centred on foreground.
        accumulate: micro-batches per optimiser step; the batch size stays that of the plans, so less memory is used.
        checkpoint_minutes: minutes between two writings of checkpoint_latest.pth, also within an epoch; `None` writes
            it only by `save_every`.
        max_hours: wall-clock hours after which the training saves and ends; `--max-hours` overrides it.
        compile: torch.compile; "auto" is "on" for CUDA only. The variable nnUNet_compile overrides it.
    """

    epochs: int | None = None
    iterations_per_epoch: int = 250
    val_iterations_per_epoch: int = 50
    initial_lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: int | None = None
    optimizer: Optimizer = "auto"
    gradient_clip: float = 12.0
    precision: Precision = "auto"
    seed: int = 12345
    save_every: int = 10
    workers: int | None = None
    oversample_foreground: float = 0.33
    accumulate: int = 1
    checkpoint_minutes: float | None = 10.0
    max_hours: float | None = None
    compile: Literal["auto", "on", "off"] = "auto"

    def __post_init__(self) -> None:
        _positive(self, "epochs", "iterations_per_epoch", "val_iterations_per_epoch", "initial_lr", "gradient_clip")
        _positive(self, "save_every", "accumulate", "checkpoint_minutes", "max_hours")
        _at_least_zero(self, "weight_decay", "warmup_epochs", "seed", "workers")
        _share(self, "oversample_foreground")


@dataclass(frozen=True, kw_only=True)
class CropSettings:
    """Settings of every pre-training objective: crops, augmentation and pictures.

    Attributes:
        channels: "single" makes every modality of a case a separate sample; "all" feeds them together.
        augmentation: "mirror" flips each axis of half of the training crops; "spatial" also rotates a fifth of them by
            up to 30 degrees per axis and scales a fifth by 0.7 to 1.4, as nnU-Net does; "none" does nothing.
        picture_every: epochs between two pictures of validation crops.
    """

    channels: Literal["single", "all"] = "single"
    augmentation: Literal["mirror", "none", "spatial"] = "mirror"
    picture_every: int = 10

    def __post_init__(self) -> None:
        _positive(self, "picture_every")


@dataclass(frozen=True, kw_only=True)
class PretrainingSettings(CropSettings):
    """Masked image modelling. The defaults are BDFM with its faults corrected; `published()` is BDFM as coded.

    Attributes:
        mask_ratio: share of the blocks that are masked.
        patch_size: voxels per axis of the mask grid and of the patches of the frequency loss; by default the token
            patch of a transformer, and 4 (1 on axes that the network never halves) for convolutional encoders.
        block_size: patches per axis that are masked together; by default 1 for a transformer and 4 for a convolutional
            encoder, whose receptive field sees past small holes.
        mask_token: replacement of a masked token (transformer) or masked voxel (convolutional encoder).
        decoder: "pyramid" joins the features of all stages; "final" is the published head, on the last stage only.
        decoder_channels: width of the pixel decoder.
        frequency_decoder: "parallel" has a separate output of the pixel decoder as input, "serial" (published) the
            reconstructed image; "none" has no frequency decoder (SimMIM).
        frequency_blocks: residual blocks of the frequency decoder.
        frequency_padding: padding of the spectrum: "circular", since a spectrum is periodic, or "zero" (published).
        frequency_output: image of the filtered spectrum: its "real" part or its "magnitude" (published).
        frequency_target: "raw" intensities or "patch_normalised" ones (zero mean, unit variance in each patch).
        frequency_norm: LayerNorm over each output patch; by default only with the patch-normalised target, since it
            makes the patch's mean and contrast unreachable.
        pixel_weight: weight of the masked squared error in the loss.
        frequency_weight: weight of the focal frequency loss.
        alpha: exponent of the focal weight.
        legacy_frequency_loss: use the published transform (over channel, depth and height, for patches masked anywhere
            in the batch).
    """

    mask_ratio: float = 0.75
    patch_size: tuple[int, ...] | int | None = None
    block_size: tuple[int, ...] | int | None = None
    mask_token: MaskTokenMode = "channel_mean"
    decoder: Literal["pyramid", "final"] = "pyramid"
    decoder_channels: int = 64
    frequency_decoder: Literal["parallel", "serial", "none"] = "parallel"
    frequency_blocks: int = 8
    frequency_padding: Literal["circular", "zero"] = "circular"
    frequency_output: Literal["real", "magnitude"] = "real"
    frequency_target: Literal["raw", "patch_normalised"] = "raw"
    frequency_norm: bool | None = None
    pixel_weight: float = 1.0
    frequency_weight: float = 1.0
    alpha: float = 1.0
    legacy_frequency_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "decoder_channels", "frequency_blocks", "patch_size", "block_size")
        _at_least_zero(self, "pixel_weight", "frequency_weight", "alpha")
        if not 0 < self.mask_ratio < 1:
            raise InputError(f"mask_ratio is {self.mask_ratio}, expected a number between 0 and 1, both excluded")

    @classmethod
    def published(cls, **changes: Any) -> "PretrainingSettings":
        """Return the settings of BDFM's public code; `changes` replace single settings.

        Example:
            >>> PretrainingSettings.published(mask_ratio=0.5).frequency_padding
            'zero'
        """
        return cls(**{**PRESETS["published"], **changes})


WEIGHTS_VARIABLE = "BDFM_WEIGHTS"
"""Environment variable with the weights to start a training from, or "none"; it overrides the plans."""


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings:
    """Fine-tuning from pre-trained weights.

    Attributes:
        weights: checkpoint to start from; the environment variable BDFM_WEIGHTS overrides it.
        weights_sha256: SHA-256 that the checkpoint must have.
        encoder_lr_factor: learning rate of the pre-trained encoder, relative to that of the rest.
        min_match: smallest share of the encoder's parameters that the checkpoint must have.
    """

    weights: str | None = None
    weights_sha256: str | None = None
    encoder_lr_factor: float = 1.0
    min_match: float = 0.5

    def __post_init__(self) -> None:
        _at_least_zero(self, "encoder_lr_factor")
        _share(self, "min_match")


BLOCKS: dict[str, type] = {
    "training": TrainingSettings,
    "pretraining": PretrainingSettings,
    "finetuning": FinetuningSettings,
}
# switches of a block that choose among sets of defaults and are no field of their own
_PRESETS = {"pretraining": {"legacy": bool}}
ALLOWED: dict[str, dict[str, Any]] = {
    name: {field.name: field.type for field in fields(kind)} | _PRESETS.get(name, {}) for name, kind in BLOCKS.items()
}


def read_block(
    configuration: Mapping[str, Any],
    name: Literal["training", "pretraining", "finetuning"],
    *,
    kind: type | None = None,
    **defaults: Any,
) -> Any:
    """Return the settings of one block of a configuration.

    Args:
        configuration: configuration of a plans file.
        name: name of the block; a missing block is empty.
        kind: class of the settings; by default `TrainingSettings`, `PretrainingSettings` or `FinetuningSettings`.
        defaults: defaults of the caller for settings that the block lacks; they override those of "legacy".

    Returns:
        An instance of `kind`.

    Raises:
        InputError: a name does not exist, or a value has a wrong type or range.

    Example:
        >>> read_block({"training": {"epochs": 100}}, "training").epochs
        100
        >>> read_block({"training": {"epoch": 100}}, "training")
        Traceback (most recent call last):
        bdfm_nnunet.errors.InputError: training.epoch is not a setting: did you mean training.epochs?
    """
    kind = kind or BLOCKS[name]
    block = dict(configuration.get(name) or {})
    presets = _PRESETS.get(name, {}) if kind is BLOCKS[name] else {}
    allowed = {field.name: field.type for field in fields(kind)} | presets
    for key in block:
        _check_name(name, key, allowed)
    hints = typing.get_type_hints(kind) | presets
    values = {key: _checked(f"{name}.{key}", value, hints[key]) for key, value in block.items()}
    if values.pop("legacy", False):
        return PretrainingSettings.published(**(defaults | values))
    return kind(**(defaults | values))


def check_blocks(configuration: Mapping[str, Any]) -> None:
    """Check all blocks of a configuration.

    Raises:
        InputError: a trainer would refuse a block.
    """
    for name in BLOCKS:
        read_block(configuration, typing.cast(Any, name))


def _check_name(block: str, key: str, allowed: Mapping[str, Any]) -> None:
    if key in allowed:
        return
    near = difflib.get_close_matches(key, allowed, n=1, cutoff=0.4)
    hint = f"did you mean {block}.{near[0]}?" if near else f"the names are {', '.join(allowed)}"
    raise InputError(f"{block}.{key} is not a setting: {hint}")


def _checked(name: str, value: Any, hint: Any) -> Any:
    try:
        return _coerce(value, hint)
    except TypeError:
        raise InputError(f"{name} is {value!r}, expected {_describe(hint)}") from None


def _coerce(value: Any, hint: Any) -> Any:
    """Convert `value` to the type `hint` (JSON lists to tuples, integers to floats), or raise TypeError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in arguments:
            return value
        raise TypeError
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(item, arguments[0]) for item in value)
        raise TypeError
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise TypeError


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in arguments)
    if origin is tuple:
        return f"a list of {_describe(arguments[0])} values"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, "null")


def _positive(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if value == () or not all(0 < number < math.inf for number in numbers):
            raise InputError(f"{name} is {value}, expected a number above 0")


def _at_least_zero(settings: Any, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} is {value}, expected 0 or more")


def _share(settings: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(f"{name} is {getattr(settings, name)}, expected a share between 0 and 1")
