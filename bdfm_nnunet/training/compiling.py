"""Whether the network goes through torch.compile, and how training goes on where the compiler fails."""

import os
from collections.abc import Callable
from typing import Literal

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.networks.encoders import unwrap


class Compiler:
    """The choice between a compiled and a plain network.

    Args:
        setting: "compile" of the configuration's "training" block.
        log: takes a line for the training log.
    """

    def __init__(self, setting: Literal["auto", "on", "off"], log: Callable[[str], None]) -> None:
        self._setting = setting
        self._log = log
        self._failed = False

    def is_wanted(self, nnunet_decides: Callable[[], bool], network: nn.Module | None = None) -> bool:
        """Follow the setting; nnU-Net's variable nnUNet_compile overrides it, but nnU-Net itself only asks on CUDA.

        A network with a true `shapes_vary` would be compiled anew for every shape, so it stays as it is.
        """
        if network is not None and getattr(unwrap(network), "shapes_vary", False):
            return False
        variable = os.environ.get("nnUNet_compile")
        if self._failed or (variable is not None and variable.lower() not in ("true", "1", "t")):
            return False
        if self._setting == "on":
            return True
        return (variable is not None or self._setting == "auto") and bool(nnunet_decides())

    def give_up(self, error: Exception) -> None:
        """Log why the compiler failed, and do not ask it again."""
        reason = " ".join(str(error).strip().splitlines()[:2])
        self._log(f"WARNING: torch.compile failed, so training goes on without it, slower: {reason}")
        self._failed = True


def uncompiled(network: nn.Module) -> nn.Module:
    """Return a network without torch.compile, still joined with the other processes."""
    if not isinstance(network, DistributedDataParallel):
        return unwrap(network)
    network.module = unwrap(network)
    return network
