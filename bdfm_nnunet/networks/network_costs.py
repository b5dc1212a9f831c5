"""Memory and arithmetic of a network in training, counted without computing anything.

The passes run on torch's meta device, where tensors have shapes but no content. Hooks on the tensors that autograd
saves for the backward pass add up their storages, each once; a counter adds up the arithmetic.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from bdfm_nnunet.cost_records import Costs
from bdfm_nnunet.networks.flop_counting import FlopCounter, FusedAttention

# Bytes per parameter beside the activations: weight, gradient and the two moments of AdamW, all fp32.
STATE_COPIES = 4


def count_costs(
    network: nn.Module | Callable[[], nn.Module],
    input_shape: Sequence[int],
    *,
    flops: bool = True,
    state_copies: int = STATE_COPIES,
    device: str = "meta",
    arguments: Mapping[str, Tensor] | None = None,
) -> Costs:
    """Count the memory and the arithmetic of one training step of a network.

    The count excludes transient buffers of the backward pass and of library kernels, and activations that gradient
    checkpointing recomputes.

    Args:
        network: function that builds the network, called with torch's default device set to `device`; or a network on
            that device. Called with images, the network returns a tensor, a list of tensors, or a dictionary with a
            "loss", as pre-training objectives do.
        input_shape: shape of the input batch, (B, C, *spatial).
        flops: whether to count the arithmetic too, forward and backward (takes three times as long).
        state_copies: numbers that the optimiser keeps per parameter, including weight and gradient: 4 for AdamW, 3 for
            SGD with momentum.
        device: "meta" allocates nothing; "cpu" really runs the pass, which tests use to check the count.
        arguments: what the network takes beside the images, such as an objective's draws.

    Example:
        >>> costs = count_costs(lambda: torch.nn.Conv3d(1, 8, 3, padding=1), (2, 1, 16, 16, 16))
        >>> costs.parameters
        224
    """
    if not isinstance(network, nn.Module):
        network = build_on(network, device)
    network.train()
    own = {_storage_key(tensor) for tensor in (*network.parameters(), *network.buffers())}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        key = _storage_key(tensor)
        if key not in own:
            saved[key] = tensor.untyped_storage()  # held, so that no later storage takes its place in the table
        return tensor

    counter = FlopCounter(device)
    images = torch.zeros(tuple(input_shape), device=device)
    others = {name: value.to(device) for name, value in (arguments or {}).items()}
    with counter, FusedAttention():
        if flops and device != "meta":
            network(images, **others)  # makes the constants that are kept for all steps
            counter.flops = 0
        with saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = network(images, **others)
        forward, counter.flops = counter.flops, 0
        if flops:
            _sum_of(outputs).backward()
            network.zero_grad(set_to_none=True)
    del outputs
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    state = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters()) * state_copies
    return Costs(
        parameters=parameters,
        activation_bytes=sum(storage.nbytes() for storage in saved.values()),
        state_bytes=state,
        forward_flops=forward if flops else None,
        backward_flops=counter.flops if flops else None,
    )


def _sum_of(outputs: Any) -> Tensor:
    if isinstance(outputs, Mapping):
        outputs = outputs["loss"]
    outputs = [outputs] if isinstance(outputs, Tensor) else outputs
    total: Tensor = sum(output.float().sum() for output in outputs)
    return total


def build_on(build: Callable[[], nn.Module], device: str = "meta") -> nn.Module:
    """Build a network on a device that need not hold any content."""
    try:
        with torch.device(device), FlopCounter(device):  # which imports less than PyTorch's own answers
            return build()
    except (RuntimeError, NotImplementedError):  # a constructor that reads values, which a meta tensor has none of
        return build().to(device)


def _storage_key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # the address of the storage object; a meta tensor's data has none
