"""The size of an image at the spacing of the model: refused where a wrong voxel size makes it nothing or enormous."""

import math
from collections.abc import Sequence

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.prediction.images_wanted import ImagesWanted

IMAGE_BYTES, LOGIT_BYTES, PROBABILITY_BYTES = 4, 2, 4
"""Of a voxel and channel, as nnU-Net keeps them."""
MANY = 8
"""Voxels along an axis that can become none or one only where their size is wrong."""


def check_resampled_size(file: str, size: Sequence[int], spacing: Sequence[float], wanted: ImagesWanted) -> None:
    """Refuse an image that resampling would make empty, or larger than the memory of this machine.

    Args:
        file: the first of the case, for messages.
        size: voxels along z, y, x.
        spacing: voxel size in mm along z, y, x.
        wanted: by the model.

    Raises:
        InputError: it is refused; the sentence says the limit.
    """
    before = [size[axis] for axis in wanted.transpose]
    steps = [spacing[axis] for axis in wanted.transpose]
    target = [*steps[: len(steps) - len(wanted.spacing)], *wanted.spacing]
    after = [round(step / aim * count) for step, aim, count in zip(steps, target, before)]  # as nnU-Net computes it
    for count, step, aim, resampled in zip(before, steps, target, after):
        fewest = 2 if count >= MANY else 1
        if resampled < fewest:
            raise InputError(
                f"{file} has {count} voxels of {step:g} mm along an axis, which would be {resampled} at the {aim:g} mm "
                f"of the model's plans, expected {fewest} or more: correct the voxel size in its header"
            )
    needed = _least_memory(math.prod(before), math.prod(after), wanted)
    if needed > memory_bytes():
        raise InputError(
            f"{file} ({_product(before)} voxels of {_product(steps)} mm) would have {_product(after)} voxels at the "
            f"{_product(target)} mm of the model's plans, for which {needed / 2**30:,.0f} GiB are needed, more than "
            f"the {memory_bytes() / 2**30:,.0f} GiB of this machine: check the voxel size in its header and the "
            "spacing in plans.json, or use a larger machine",
            entry="too-large-after-resampling",
        )


def _least_memory(before: int, after: int, wanted: ImagesWanted) -> int:
    """Return the bytes that nnU-Net needs at least: for image and logits together, and for logits and probabilities."""
    image = IMAGE_BYTES * len(wanted.channels)
    logits = LOGIT_BYTES * wanted.classes * after
    return max(image * (before + after), image * after + logits, logits + PROBABILITY_BYTES * wanted.classes * before)


def _product(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.6g}" for value in values)
