"""Weights of 3D-Neuro-SimCLR's network by a formula in whole numbers, and where its recorded outputs lie."""

import math
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[2]
OUTPUTS = Path(os.environ.get("BDFM_GOLDEN", ROOT.parent / "shared" / "golden"))

needs_outputs = pytest.mark.skipif(
    not (OUTPUTS / "simclr_resnet18.safetensors").is_file(),
    reason="the recorded outputs of 3D-Neuro-SimCLR are not here: name their folder with BDFM_GOLDEN",
)

_P, _A = 2147483647, 1103515245


def uniform(name: str, count: int) -> np.ndarray:
    """Numbers in [0, 1) that only the name decides."""
    j = (np.arange(count, dtype=np.int64) + zlib.crc32(name.encode("ascii")) % _P) % _P
    return (j * j % _P) * _A % _P / _P


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of a name without prefix."""
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    u = uniform(name, math.prod(shape))
    if name.endswith((".bias", "running_mean")):
        values = 0.2 * (2 * u - 1)
    elif len(shape) == 1:  # scale or variance of a batch norm
        values = 0.5 + u
    else:
        values = (2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A state dict for a network whose names are those of the released file."""
    return {name: weight(name, tuple(value.shape)) for name, value in network.state_dict().items()}
