"""The planner for ResNet18UNet: strides, patch size and batch size for a data set and a memory target."""

import logging
import math
from collections.abc import Sequence
from typing import Any

from bdfm_nnunet.plans.growing_patches import GrowingPatchPlanner, growing_patches
from bdfm_nnunet.plans.swin_planner import MIN_BATCH_SIZE
from bdfm_nnunet.plans.token_grid import COARSE_AXIS

logger = logging.getLogger(__name__)

RELEASED_WIDTH = 64
WIDTHS = (RELEASED_WIDTH, 32, 16, 8)
"""Channels of the first stage; the released weights have those of the first."""
WORTH_ITS_WIDTH = 64**3
"""Voxels of the patch from which on a width is taken, as far as images have that many."""
_HALVINGS = 4


def strides_for(spacing: Sequence[float], shape: Sequence[float]) -> list[list[int]]:
    """Return the strides of the network, five times one number per axis.

    Coarse axes wait until the fine ones have caught up, and an axis is halved as long as a median image keeps two
    positions on it.

    Args:
        spacing: millimetres per voxel and axis.
        shape: voxels per axis of the median image.
    """
    size, total = list(spacing), [1] * len(spacing)
    strides = [list(total)]
    for _ in range(_HALVINGS):
        free = [2 * have * 2 <= voxels for have, voxels in zip(total, shape)]
        finest = min((value for value, more in zip(size, free) if more), default=0.0)
        stride = [2 if more and value < COARSE_AXIS * finest else 1 for value, more in zip(size, free)]
        size = [value * step for value, step in zip(size, stride)]
        total = [have * step for have, step in zip(total, stride)]
        strides.append(stride)
    return strides


def patches_for(spacing: Sequence[float], shape: Sequence[float]) -> list[list[int]]:
    """Return growing patch sizes, multiples of the total stride; see `growing_patches`."""
    return growing_patches([math.prod(axis) for axis in zip(*strides_for(spacing, shape))], spacing, shape)


def architecture_of(strides: list[list[int]], width: int) -> dict[str, Any]:
    """Return the `architecture` entry of a configuration; the decoder has half of the encoder's channels."""
    features = [width, width, 2 * width, 4 * width, 8 * width]
    return {
        "network_class_name": "bdfm_nnunet.networks.resnet_unet.ResNet18UNet",
        "arch_kwargs": {
            "strides": strides,
            "features_per_stage": features,
            "decoder_features": [max(channels // 2, 4) for channels in features[:-1]],
            "n_conv_per_stage_decoder": 1,
        },
        "_kw_requires_import": [],
    }


class ResNet18UNetPlanner(GrowingPatchPlanner):
    """The planner of ResNet18UNet: the widest network that fits, then the largest patch, then as many samples as fit.

    A width is taken where two samples of 64 x 64 x 64 voxels, or of the whole image if that is smaller, fit in memory;
    the narrowest is taken with any patch. No batch of more than two samples covers more than 5 % of the data set's
    voxels, as with nnU-Net.
    """

    def choose_network(self, spacing: list[float], median_shape: list[float], voxels: float) -> dict[str, Any]:
        """Choose patch size, batch size and architecture.

        Raises:
            InputError: the memory is too small for the smallest network.
        """
        strides, patches = strides_for(spacing, median_shape), patches_for(spacing, median_shape)
        enough = next((i for i, patch in enumerate(patches) if math.prod(patch) >= WORTH_ITS_WIDTH), len(patches) - 1)
        for width in WIDTHS:
            architecture = architecture_of(strides, width)
            first = enough if width != WIDTHS[-1] else 0
            best, costs = first, self._costs(patches[first], architecture)
            if self._batch(costs) >= MIN_BATCH_SIZE:
                break
        else:
            raise self.too_little(costs)
        if width != RELEASED_WIDTH:
            logger.warning("a ResNet-18 of %d instead of %d channels is planned: released weights do not fit it; give "
                           "more --gpu-memory for them", width, RELEASED_WIDTH)  # fmt: skip
        best, costs = self.largest(patches, lambda patch: architecture, best, costs)
        return self.chosen(patches[best], costs, architecture, voxels)
