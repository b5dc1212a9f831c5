"""Copying of many tensors into a network, all of them or none."""

from collections.abc import Mapping
from contextlib import suppress

import torch
from torch import Tensor, nn

from bdfm_nnunet.errors import InputError


def copy_all_or_nothing(network: nn.Module, tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Copy tensors into the parameters and buffers of a network; whatever happens, it has all of them or is unchanged.

    Args:
        network: without wrappers.
        tensors: by the network's names.
        source: where they come from, for the error.

    Returns:
        What the network held there before, on the CPU, for `put_back`.

    Raises:
        InputError: the network cannot hold them: it has no memory (meta device), or tensors that share it.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> _ = copy_all_or_nothing(network, {"bias": torch.ones(1)}, "a.pth")
        >>> network.bias.data
        tensor([1.])
    """
    targets = _targets(network)
    before: dict[str, Tensor] = {}
    try:
        for name, tensor in tensors.items():
            _check_place(name, targets[name])
            before[name] = targets[name].detach().to("cpu", copy=True)
            with torch.no_grad():
                targets[name].copy_(tensor)
        for name, tensor in tensors.items():  # tensors that share memory have overwritten one another
            _check_copied(name, tensor, targets[name])
    except BaseException as error:
        put_back(network, before)
        if isinstance(error, Exception):
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"the weights of {source} cannot be copied into this network ({reason}); it is left as it was: build "
                "it anew, with memory for each of its tensors"
            ) from error
        raise
    return before


def put_back(network: nn.Module, before: Mapping[str, Tensor]) -> None:
    """Give a network the tensors that it had.

    Example:
        >>> network = nn.Linear(2, 1)
        >>> before = copy_all_or_nothing(network, {"bias": torch.ones(1)}, "a.pth")
        >>> put_back(network, before)
        >>> network.bias.data.equal(before["bias"])
        True
    """
    targets = _targets(network)
    with torch.no_grad():
        for name, tensor in reversed([*before.items()]):  # where two share memory, the first has the original
            with suppress(RuntimeError):  # what cannot be written was not written before
                targets[name].copy_(tensor)


def _targets(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _check_place(name: str, target: Tensor) -> None:
    if target.is_meta:
        raise ValueError(f"{name} has no memory, it is on the meta device")


def _check_copied(name: str, tensor: Tensor, target: Tensor) -> None:
    if not torch.equal(target.detach(), tensor.to(target.device, target.dtype)):
        raise ValueError(f"{name} shares memory with another tensor that gets other values")
