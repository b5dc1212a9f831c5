"""The CUDA kernel of the package mamba-ssm (https://github.com/state-spaces/mamba), which nothing requires.

`pip install 'bdfm_nnunet[mamba]'` builds it; where it can be imported, scans on CUDA use it.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

INSTALLED = find_spec("mamba_ssm") is not None
MOST_STATES = 256


def serves(x: Tensor, delta: Tensor, A: Tensor, state: Tensor | None) -> bool:
    """Return whether the kernel can be imported and does this scan: on CUDA, in single precision, from a zero state."""
    if not INSTALLED or not x.is_cuda or state is not None or x.numel() == 0 or A.shape[1] > MOST_STATES:
        return False
    return torch.float64 not in (x.dtype, delta.dtype, A.dtype) and _kernel() is not None


def scan(
    x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, z: Tensor | None, *, return_state: bool
) -> Any:
    """Return what `selective_scan` does, by the kernel.

    The kernel takes inputs, step sizes and gates of one type: single precision here, so that autocast does not round
    the step sizes.
    """
    kernel = _kernel()
    assert kernel is not None
    x_single, delta, A, B, C = (value.float().contiguous() for value in (x, delta, A, B, C))
    D, z = (None if value is None else value.float().contiguous() for value in (D, z))
    found = kernel(x_single, delta, A, B, C, D, z, return_last_state=return_state)
    outputs, last = found if return_state else (found, None)
    return (outputs.to(x.dtype), last) if return_state else outputs.to(x.dtype)


@cache
def _kernel() -> Callable[..., Any] | None:
    """Return mamba-ssm's function, or None if it cannot be imported."""
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except (ImportError, OSError, RuntimeError) as error:
        logger.warning("mamba-ssm cannot be imported (%s): selective scans use plain PyTorch", error)
        return None
    logger.info("Selective scans on CUDA use the kernel of mamba-ssm")
    return selective_scan_fn
