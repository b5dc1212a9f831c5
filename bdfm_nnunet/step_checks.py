"""Checks that a training step is possible, when a variant is planned and again when its training starts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import token_of
from bdfm_nnunet.settings import DecoderKind, MixtureSettings, PretrainingSettings, read_block
from bdfm_nnunet.settings.blocks import pretraining_blocks


def check_steps(configuration: Mapping[str, Any]) -> None:
    """Check that batch, micro-batches and masks of a resolved configuration fit each other.

    Masks are checked where the configuration has a "pretraining" block for masked image modelling.

    Raises:
        InputError: a training would stop at its first step.
    """
    training = read_block(configuration, "training")
    check_shares(configuration["batch_size"], world=1, accumulate=training.accumulate)
    if configuration.get("pretraining"):
        _check_pretraining(configuration)


def _check_pretraining(configuration: Mapping[str, Any]) -> None:
    """Raise InputError if a training would stop at its first step; of several that take the block, the first one."""
    settings = pretraining_blocks(configuration)[0]
    parts = [part.settings for part in settings.objectives] if isinstance(settings, MixtureSettings) else [settings]
    for part in parts:
        if isinstance(part, PretrainingSettings):
            check_masks(configuration, part)


def check_shares(batch_size: int, *, world: int, accumulate: int) -> None:
    """Check that every process has a sample for each of its `accumulate` micro-batches; else raise InputError."""
    needed = world * accumulate
    if needed > batch_size:
        raise InputError(
            f"the plans' batch of {batch_size} cannot be shared by {world} processes with training.accumulate="
            f"{accumulate}: start fewer, accumulate less, or plan a batch of {needed} or more "
            f"(bdfm plan --variant NAME --set batch_size={needed})",
            entry="batch-too-small",
        )


def check_masks(configuration: Mapping[str, Any], settings: PretrainingSettings) -> None:
    """Check that the patches and blocks of masks fit the network and the crop of a configuration.

    Raises:
        InputError: a crop is not a whole number of patches, a patch is not a whole number of tokens, the grid is a
            single block, or only visible tokens are to be encoded and the network or the blocks do not allow it.
    """
    crop = [int(size) for size in configuration["patch_size"]]
    kwargs = configuration["architecture"]["arch_kwargs"]
    strides = [_each(step, len(crop), "arch_kwargs.strides") for step in kwargs["strides"]]
    coarsest = [math.prod(step[axis] for step in strides) for axis in range(len(crop))]
    transformer = (of_transformer := token_of(kwargs)) is not None
    token = of_transformer or [min(4, step) for step in coarsest]
    patch = _each(settings.patch_size or token, len(crop), "pretraining.patch_size")
    default = default_block(settings, patch, coarsest, transformer=transformer)
    block = _each(settings.block_size or default, len(crop), "pretraining.block_size")
    if any(size % part for size, part in zip(crop, patch)):
        raise InputError(
            f"pretraining.patch_size is {patch}, but crops of {crop} voxels are no whole number of such patches: "
            f"choose a divisor on every axis, for instance {token}"
        )
    if transformer and any(part % step for part, step in zip(patch, token)):
        raise InputError(
            f"pretraining.patch_size is {patch}, expected whole tokens of {token} voxels: choose multiples of them"
        )
    if settings.stem:
        check_stem(has_stem="window_size" in kwargs)
    check_decoder(configuration, settings.decoder)
    if settings.encode == "visible":
        alone = transformer and kwargs.get("version", 1) == 1
        check_visible(patch, block, coarsest, transformer=alone, legacy=kwargs.get("legacy", False))
        check_whole_blocks(crop, patch, block)
    grid = [size // part for size, part in zip(crop, patch)]
    if math.prod(math.ceil(size / part) for size, part in zip(grid, block)) < 2:
        raise InputError(
            f"a grid of {grid} patches is a single block of {block}: choose a smaller pretraining.block_size or a "
            "larger patch_size"
        )


def default_block(
    settings: PretrainingSettings, patch: Sequence[int], coarsest: Sequence[int], *, transformer: bool
) -> tuple[int, ...]:
    """Return the patches per axis that are masked together where pretraining.block_size is silent.

    Args:
        settings: all other settings.
        patch: voxels per axis of a patch.
        coarsest: voxels per axis of a position of the encoder's last stage.
        transformer: whether the encoder attends to tokens.

    Example:
        >>> default_block(PretrainingSettings(encode="visible"), (4, 4, 4), (4, 32, 32), transformer=True)
        (1, 8, 8)
    """
    if settings.encode == "visible":
        return tuple(math.lcm(step, part) // part for part, step in zip(patch, coarsest))
    return (1 if transformer else 4,) * len(patch)


def check_visible(
    patch: Sequence[int], block: Sequence[int], coarsest: Sequence[int], *, transformer: bool, legacy: bool
) -> None:
    """Check that an encoder can compute what is visible between blocks of `block` patches, and no more.

    Args:
        patch: voxels per axis of a patch.
        block: patches per axis of a block.
        coarsest: voxels per axis of a position of the encoder's last stage.
        transformer: whether it has tokens that depend on their own voxels alone.
        legacy: whether its attention is BDFM's.

    Raises:
        InputError: it has no such tokens, its attention is the legacy one, or blocks are no whole positions of its last
            stage.
    """
    if not transformer:
        raise InputError(
            "pretraining.encode is visible, but a convolutional encoder, or a convolutional embedding of patches, has "
            "no tokens to leave out: choose encode=all, or plan a Swin U-Net or a Primus of version 1"
        )
    if legacy:
        raise InputError(
            "pretraining.encode is visible, but legacy attention lets padding take part: choose encode=all, or plan "
            "the network without legacy"
        )
    if any(size * part % step for size, part, step in zip(block, patch, coarsest)):
        size = [count * part for count, part in zip(block, patch)]
        needed = default_block(PretrainingSettings(encode="visible"), patch, coarsest, transformer=True)
        raise InputError(
            f"pretraining.encode is visible, but blocks of {size} voxels hold no whole positions of {list(coarsest)} "
            f"voxels of the last stage: leave pretraining.block_size out, or choose multiples of {list(needed)}"
        )


def check_stem(*, has_stem: bool) -> None:
    """Raise InputError if a network has no full-resolution stem beside its encoder."""
    if not has_stem:
        raise InputError(
            "pretraining.stem is true, but this network has no full-resolution stem beside its encoder (that of a "
            "convolutional encoder is part of it): leave pretraining.stem out"
        )


def check_decoder(configuration: Mapping[str, Any], decoder: DecoderKind) -> None:
    """Raise InputError if a configuration's network lacks the decoder that pretraining.decoder names."""
    if decoder == "network":
        check_network_decoder(has_decoder="features_per_stage" in configuration["architecture"]["arch_kwargs"])


def check_network_decoder(*, has_decoder: bool) -> None:
    """Raise InputError if a network has no decoder with skip connections that could rebuild images."""
    if not has_decoder:
        raise InputError(
            "pretraining.decoder is network, but this network has no decoder with skip connections (a Primus only has "
            "a head that enlarges its tokens): choose decoder=pyramid"
        )


def check_whole_blocks(crop: Sequence[int], patch: Sequence[int], block: Sequence[int]) -> None:
    """Check that a crop is a whole number of blocks, so that as much is visible in every sample; else raise InputError.

    Args:
        crop: voxels per axis.
        patch: voxels per axis of a patch.
        block: patches per axis of a block.
    """
    if any(size % (count * part) for size, count, part in zip(crop, block, patch)):
        size = [count * part for count, part in zip(block, patch)]
        raise InputError(
            f"pretraining.encode is visible, but crops of {list(crop)} voxels are no whole number of blocks of {size}: "
            "leave pretraining.block_size out, or choose one that divides the crop on every axis"
        )


def _each(value: int | Sequence[int], axes: int, name: str) -> list[int]:
    """Return one number per axis."""
    values = [value] * axes if isinstance(value, int) else list(value)
    if len(values) != axes:
        raise InputError(f"{name} is {values}, expected one number or {axes}, one per axis")
    return values
