"""Augmentation of crops: what was drawn where they were read is carried out where it is cheapest."""

import torch
from torch import Tensor


def mirrored(images: Tensor, flips: Tensor) -> Tensor:
    """Reverses axes of images.

    Args:
        images: (B, C, *spatial), on any device.
        flips: (B, axes) on the CPU, True where an axis of an image is to be reversed.

    Returns:
        The images, in new memory.
    """
    axes = [[axis + 1 for axis, chosen in enumerate(row) if chosen] for row in flips.tolist()]
    return torch.stack([image.flip(row) if row else image for image, row in zip(images, axes, strict=True)])
