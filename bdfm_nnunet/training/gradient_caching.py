"""The gradient of a loss that compares all samples of a batch, in the memory of a micro-batch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.training.gradients import Batch, length

Named = dict[str, Tensor]
Represented = tuple[Named, Named]


def add_compared_gradients(
    network: nn.Module,
    parts: Sequence[Batch],
    represent: Callable[[Batch], Represented],
    compare: Callable[[Mapping[str, Tensor]], Named],
    *,
    samples: int,
    world: int = 1,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> Named:
    """Add the gradient of a loss over the joined batch of all processes to the parameters, one micro-batch at a time.

    Gradient caching (Gao et al. 2021, https://arxiv.org/abs/2101.06983): a first pass without gradients gives the
    representations z of all micro-batches, their comparison L the gradients dL/dz, and a second pass, with the same
    random numbers, those of the parameters: the sum over micro-batches of dL/dz times dz/dw. It costs one forward pass
    more than the plain gradient and is equal to it, but for batch normalisation: its statistics are those of each
    micro-batch (of all processes), as in any accumulation of gradients, and its running statistics are updated
    in the second pass alone.

    Processes only talk in the comparison and in the last micro-batch, where networks have no layers that do.

    Args:
        network: wrapped in DistributedDataParallel where there are several processes.
        parts: the micro-batches of this process; all processes have equally many.
        represent: representations of a micro-batch by name, with a row per sample or several, computed by `network`;
            and "loss" and terms of what needs no comparison, means over its samples, or nothing.
        compare: "loss" and its terms from the representations of all micro-batches, in single precision, without
            parameters; it joins processes itself where samples of all are compared, see `losses.joined_batches`.
        samples: in the joined batch.
        world: number of processes.
        backward: of the weighted loss; a gradient scaler puts itself here.

    Returns:
        The terms, averaged over the samples of this process, detached; "loss" is the sum of both losses.

    Raises:
        ValueError: `compare` has trainable parameters, which would get no gradient.
    """
    states, parted = _represent_all(network, parts, represent)
    mine = sum(map(length, parts))
    gradients, terms = _compare_all(parted, compare, weight=mine * world / samples)
    after = _RandomState(network)
    alone: Named = {}
    for number, (part, state) in enumerate(zip(parts, states, strict=True)):
        state.restore()
        waits = isinstance(network, DistributedDataParallel) and number + 1 < len(parts)
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            representations, losses = represent(part)
            backward(_weighted(representations, gradients[number], losses, length(part) * world / samples))
        for name, value in losses.items():
            alone[name] = alone.get(name, 0) + value.detach().float() * (length(part) / mine)
    after.restore()
    return {**alone, **terms, "loss": terms["loss"] + alone.get("loss", 0)}


def _represent_all(
    network: nn.Module, parts: Sequence[Batch], represent: Callable[[Batch], Represented]
) -> tuple[list["_RandomState"], list[Named]]:
    """Return the representations of each micro-batch, and the random state before each."""
    states, parted = [], []
    with torch.no_grad(), _statistics_kept(network):
        for part in parts:
            states.append(_RandomState(network))
            representations, _ = represent(part)
            parted.append({name: _single(value) for name, value in representations.items()})
    return states, parted


def _compare_all(
    parted: Sequence[Named], compare: Callable[[Mapping[str, Tensor]], Named], *, weight: float
) -> tuple[list[Named], Named]:
    """Return the gradients at the representations of each micro-batch, and the terms of their comparison."""
    whole = {name: torch.cat([part[name] for part in parted]) for name in parted[0]}
    wanted = [name for name, value in whole.items() if value.is_floating_point()]
    for name in wanted:
        whole[name].requires_grad_()
    terms = compare(whole)
    loss = terms["loss"] * weight
    found: dict[str, Tensor | None] = dict.fromkeys(wanted)
    if loss.requires_grad:
        _check_leaves(loss, [whole[name] for name in wanted])
        given = torch.autograd.grad(loss, [whole[name] for name in wanted], allow_unused=True)
        found = dict(zip(wanted, given, strict=True))
    pieces: list[Named] = [{} for _ in parted]
    for name, gradient in found.items():
        if gradient is not None:
            for piece, rows in zip(pieces, gradient.split([len(part[name]) for part in parted]), strict=True):
                piece[name] = rows
    return pieces, {name: value.detach().float() for name, value in terms.items()}


def _weighted(representations: Named, gradients: Named, losses: Named, weight: float) -> Tensor:
    """Return a scalar with the gradient of a micro-batch's share in both losses."""
    shares = [(rows * _single(representations[name])).sum() for name, rows in gradients.items()]
    if "loss" in losses:
        shares.append(losses["loss"] * weight)
    return torch.stack([share.float() for share in shares]).sum()


def _single(value: Tensor) -> Tensor:
    """Return floating-point numbers in single precision at least, so that their gradients do not vanish."""
    return value.float() if value.dtype in (torch.float16, torch.bfloat16) else value


def _check_leaves(loss: Tensor, allowed: Sequence[Tensor]) -> None:
    """Raise ValueError if a loss depends on parameters other than the tensors allowed."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None and not any(leaf is each for each in allowed):
            raise ValueError(
                f"the comparison of samples has a trainable parameter {tuple(leaf.shape)}, which gradient caching "
                "would not train: move it into what represents the samples, or set training.accumulate to 1"
            )
        waiting += [following for following, _ in node.next_functions]


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Undo what happens to the running statistics of batch normalisation."""
    norms = [module for module in network.modules() if isinstance(module, _NormBase)]
    kept = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers(recurse=False)]
    try:
        yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)


class _RandomState:
    """State of torch's random numbers on the CPU and on the network's device."""

    def __init__(self, network: nn.Module) -> None:
        device = next(network.parameters()).device
        self._device: Any = None if device.type == "cpu" else torch.get_device_module(device)
        self._states = torch.get_rng_state(), self._device and self._device.get_rng_state()

    def restore(self) -> None:
        """Go back to it."""
        torch.set_rng_state(self._states[0])
        if self._device is not None:
            self._device.set_rng_state(self._states[1])
