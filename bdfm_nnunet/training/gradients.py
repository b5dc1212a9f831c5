"""The gradient of one large batch from micro-batches of several processes."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bdfm_nnunet.training.joint_batch_norm import join_batch_norms
from bdfm_nnunet.training.process_group import shares

Batch = dict[str, Any]


def length(batch: Batch) -> int:
    """Return the number of samples in a batch."""
    return len(batch["data"])


def micro_batches(batch: Batch, parts: int) -> list[Batch]:
    """Cut a batch into `parts` micro-batches of nearly equal size, in order.

    Everything with an entry per sample is cut (tensors, names, and the tensors of a list or table, such as targets at
    several resolutions or an objective's draws); the rest goes into every part.
    """
    if parts == 1:
        return [batch]
    count, ends = length(batch), [0]
    for size in shares(count, parts):
        ends.append(ends[-1] + size)
    pieces = (slice(start, end) for start, end in pairwise(ends))
    return [{name: _cut(value, piece, count) for name, value in batch.items()} for piece in pieces]


def _cut(value: Any, piece: slice, count: int) -> Any:
    if isinstance(value, dict):
        return {name: _cut(item, piece, count) for name, item in value.items()}
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        return [_cut(item, piece, count) for item in value]
    per_sample = isinstance(value, (Tensor, np.ndarray, list, tuple)) and len(value) == count
    return value[piece] if per_sample else value


def distributed_network(network: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Return the network of one process as a part of all, with batch statistics of all processes.

    Buffers must be constant, or kept equal by their owners, as the mask token and the joined batch norms are.
    """
    on_cuda = device.type == "cuda"
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network) if on_cuda else join_batch_norms(network)
    new = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    unsynchronised: dict[str, Any] = {"forward_sync_buffers" if new else "broadcast_buffers": False}
    devices = [device.index] if on_cuda else None
    return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True, **unsynchronised)


def add_gradients(
    network: nn.Module,
    parts: Sequence[Batch],
    losses_of: Callable[[Batch], dict[str, Tensor]],
    *,
    samples: int,
    world: int = 1,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> dict[str, Tensor]:
    """Add the gradient of the mean loss over the joined batch of all processes to the parameters.

    Each micro-batch counts by its number of samples, so uneven shares give what the joined batch would, as long as the
    loss is a mean in which every sample has the same weight. Processes only talk in the last micro-batch.

    Args:
        network: wrapped in DistributedDataParallel where there are several processes.
        parts: the micro-batches of this process; all processes have equally many.
        losses_of: the "loss" of a micro-batch and its terms.
        samples: in the joined batch.
        world: number of processes.
        backward: of the weighted loss; a gradient scaler puts itself here.

    Returns:
        The terms, averaged over the samples of this process, detached.
    """
    mine = sum(map(length, parts))
    means: dict[str, Tensor] = {}
    for number, part in enumerate(parts, start=1):
        waits = isinstance(network, DistributedDataParallel) and number < len(parts)
        with network.no_sync() if waits else nullcontext():  # type: ignore[operator]
            terms = losses_of(part)
            backward(terms["loss"] * (length(part) * world / samples))  # DDP divides by the number of processes
        for name, term in terms.items():
            mean = term.detach().float() * (length(part) / mine)
            means[name] = means[name] + mean if name in means else mean
    return means
