"""Checks that a training step is possible, when a variant is planned and again when its training starts."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.settings import MixtureSettings, PretrainingSettings, read_block
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
    """Raise InputError if every objective that takes the block's names would stop at its first step."""
    faults = []
    for settings in pretraining_blocks(configuration):
        parts = [part.settings for part in settings.objectives] if isinstance(settings, MixtureSettings) else [settings]
        try:
            for part in parts:
                if isinstance(part, PretrainingSettings):
                    check_masks(configuration, part)
            return
        except InputError as error:
            faults.append(error)
    raise faults[0]


def check_shares(batch_size: int, *, world: int, accumulate: int) -> None:
    """Check that every process has a sample for each of its `accumulate` micro-batches; else raise InputError."""
    needed = world * accumulate
    if needed > batch_size:
        raise InputError(
            f"the plans' batch of {batch_size} cannot be shared by {world} processes with training.accumulate="
            f"{accumulate}: start fewer, accumulate less, or plan a batch of {needed} or more "
            f"(bdfm plan --variant NAME --set batch_size={needed})"
        )


def check_masks(configuration: Mapping[str, Any], settings: PretrainingSettings) -> None:
    """Check that the patches and blocks of masks fit the network and the crop of a configuration.

    Raises:
        InputError: a crop is not a whole number of patches, a patch is not a whole number of tokens, or the grid is a
            single block.
    """
    crop = [int(size) for size in configuration["patch_size"]]
    kwargs = configuration["architecture"]["arch_kwargs"]
    strides = [_each(step, len(crop), "arch_kwargs.strides") for step in kwargs["strides"]]
    transformer = "window_size" in kwargs
    coarsest = [math.prod(step[axis] for step in strides) for axis in range(len(crop))]
    token = strides[1] if transformer else [min(4, step) for step in coarsest]
    patch = _each(settings.patch_size or token, len(crop), "pretraining.patch_size")
    block = _each(settings.block_size or (1 if transformer else 4), len(crop), "pretraining.block_size")
    if any(size % part for size, part in zip(crop, patch)):
        raise InputError(
            f"pretraining.patch_size is {patch}, but crops of {crop} voxels are no whole number of such patches: "
            f"choose a divisor on every axis, for instance {token}"
        )
    if transformer and any(part % step for part, step in zip(patch, token)):
        raise InputError(
            f"pretraining.patch_size is {patch}, expected whole tokens of {token} voxels: choose multiples of them"
        )
    grid = [size // part for size, part in zip(crop, patch)]
    if math.prod(math.ceil(size / part) for size, part in zip(grid, block)) < 2:
        raise InputError(
            f"a grid of {grid} patches is a single block of {block}: choose a smaller pretraining.block_size or a "
            "larger patch_size"
        )


def _each(value: int | Sequence[int], axes: int, name: str) -> list[int]:
    """Return one number per axis."""
    values = [value] * axes if isinstance(value, int) else list(value)
    if len(values) != axes:
        raise InputError(f"{name} is {values}, expected one number or {axes}, one per axis")
    return values
