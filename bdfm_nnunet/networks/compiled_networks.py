"""Networks that go through torch.compile."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.networks.encoders import unwrap


def is_compiled(network: nn.Module) -> bool:
    """Return whether a network goes through torch.compile, be it joined with other processes or not."""
    return hasattr(network.module if isinstance(network, DistributedDataParallel) else network, "_orig_mod")


def start_from_data(network: nn.Module, images: Tensor, **others: Any) -> None:
    """Set what starts from the first batch before a compiled network runs: to ask for it would break the graph.

    The pass is a plain one without gradient, and leaves the random states as they are. Nothing is done where nothing
    waits for data (`MaskToken.waits_for_data`), nor for networks that are not compiled: they start in their first step.

    Args:
        network: as it trains.
        images: (B, C, *spatial), the first batch.
        others: what the network takes beside the images.
    """
    if not is_compiled(network):
        return
    plain = unwrap(network)
    if any(getattr(module, "waits_for_data", False) for module in plain.modules()):
        devices = [images.device] if images.is_cuda else []
        with torch.no_grad(), torch.random.fork_rng(devices):
            plain(images, **others)
