"""A NeuroSTORM encoder of 8 x 8 x 8 voxels that takes next to no time."""

from typing import Any

import torch

from bdfm_nnunet.networks import NeurostormEncoder

SIZES: dict[str, Any] = {
    "image_size": (8, 8, 8, 4), "patch_size": (2, 2, 2, 1), "features": (4, 8), "depths": (1, 1),
    "window_size": (2, 2, 2, 2), "merging": ((2, 2, 2, 1),),
}  # fmt: skip


def tiny_storm(seed: int = 0) -> NeurostormEncoder:
    """An encoder in evaluation mode, all of whose parameters are random."""
    torch.manual_seed(seed)
    encoder = NeurostormEncoder(1, **SIZES).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder
