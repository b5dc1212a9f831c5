"""Outputs of a segmentation network that start at the share of each region in the training cases."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bdfm_nnunet.errors import InputError

SMALLEST = 1e-4
"""A share below this counts as this one: a region that no case shows can still be learnt."""


def region_shares(
    segmentations: Iterable[NDArray[Any]], regions: Sequence[int | Sequence[int]], *, ignore: int | None = None
) -> list[float]:
    """Return the share of each region among the voxels of all label maps.

    Args:
        segmentations: label maps of any shapes; values below 0 are background, as nnU-Net marks air.
        regions: label values of each region, or one label value.
        ignore: label value whose voxels do not count.

    Raises:
        InputError: there is no voxel that counts.

    Example:
        >>> region_shares([np.array([0, 1, 2, 9]), np.array([-1, 0, 0, 1])], [(1, 2), 2], ignore=9)
        [0.42857142857142855, 0.14285714285714285]
    """
    counts, voxels = np.zeros(len(regions), np.int64), 0
    for labels in segmentations:
        counted = np.maximum(labels if ignore is None else labels[labels != ignore], 0)
        voxels += counted.size
        counts += [int(np.isin(counted, np.atleast_1d(region)).sum()) for region in regions]
    if not voxels:
        raise InputError("finetuning.output_prior needs labels, but the training cases hold no labelled voxel")
    return [float(count / voxels) for count in counts]


def start_at_shares(network: nn.Module, shares: Sequence[float], *, sigmoid: bool) -> None:
    """Set the biases of a network's outputs so that they give these probabilities where the features are zero.

    Args:
        network: with its outputs as `decoder.seg_layers`, as nnU-Net's decoders and ours have them.
        shares: probability of each output, kept within 1e-4 of 0 and of 1.
        sigmoid: whether each output is a region of its own; otherwise they are classes under a softmax.

    Raises:
        InputError: the network keeps its outputs elsewhere.

    Example:
        >>> network = nn.Module()
        >>> network.decoder = nn.Module()
        >>> network.decoder.seg_layers = nn.ModuleList([nn.Conv3d(4, 2, 1)])
        >>> start_at_shares(network, [0.5, 0.01], sigmoid=True)
        >>> [round(value, 4) for value in network.decoder.seg_layers[0].bias.sigmoid().tolist()]
        [0.5, 0.01]
    """
    layers = getattr(getattr(network, "decoder", None), "seg_layers", None)
    if layers is None or any(layer.bias is None for layer in layers):
        raise InputError(
            "finetuning.output_prior sets the biases of `decoder.seg_layers`, which this network does not have: leave "
            "the setting out"
        )
    chances = torch.tensor(shares, dtype=torch.float64).clamp(SMALLEST, 1 - SMALLEST)
    values = chances.logit() if sigmoid else chances.log()
    with torch.no_grad():
        for layer in layers:
            layer.bias.copy_(values)
