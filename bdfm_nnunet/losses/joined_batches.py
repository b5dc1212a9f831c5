"""Batches joined over processes, with exact gradients: for losses that compare samples with one another.

DistributedDataParallel averages the gradients of processes. That suits a mean over samples, but a loss that compares
samples depends on the embeddings of all processes. With W processes and the joint loss L, the averaged gradient is that
of L if each process differentiates W L with respect to its own embeddings z. The two functions here see to that:

- `gather_rows` joins the embeddings; backwards it sums the gradients that all processes have for them;
- `sum_over_processes` adds up each process's part of L; backwards it sums the factors by which the processes weigh
  their losses. These add up to W both for plain `loss.backward()` (1 each) and for losses weighed by their share of the
  samples (W n / N each).

So each process gets W dL/dz, in both cases, and also where processes have unequal numbers of samples.
"""

from typing import Any

import torch
from torch import Tensor, distributed


def has_peers() -> bool:
    """Return whether this process is one of several.

    Example:
        >>> has_peers()
        False
    """
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Join the rows of all processes in the order of their ranks.

    Args:
        rows: (n, ...) of this process; all processes have the same type and the same further axes, n may differ and
            be 0.

    Returns:
        The rows of all processes (N, ...), and the number of the first one that is this process's. The gradient of a
        row is the sum of those that all processes have for it.

    Example:
        >>> gather_rows(torch.ones(2, 1))  # of a single process
        (tensor([[1.],
                [1.]]), 0)
    """
    return _gather(rows) if has_peers() else (rows, 0)


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; its gradient is the sum of theirs.

    Example:
        >>> sum_over_processes(torch.tensor(2.0))  # of a single process
        tensor(2.)
    """
    return _add_up(value) if has_peers() else value


@torch._disable_dynamo  # the compiler knows no collectives inside of autograd functions
def _gather(rows: Tensor) -> tuple[Tensor, int]:
    counts = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=rows.device)
    counts[distributed.get_rank()] = len(rows)
    distributed.all_reduce(counts)
    sizes = counts.tolist()
    start = sum(sizes[: distributed.get_rank()])
    whole: Tensor = _Gathered.apply(rows, start, sum(sizes))
    return whole, start


@torch._disable_dynamo
def _add_up(value: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(value)
    return total


class _Gathered(torch.autograd.Function):
    """Rows at their place among zeros, added up: exact, and works for unequal numbers with every backend."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, start: int, total: int) -> Tensor:
        ctx.mine = slice(start, start + len(rows))
        whole = rows.new_zeros(total, *rows.shape[1:])
        whole[ctx.mine] = rows
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient[ctx.mine], None, None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        gradient = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(gradient)
        return gradient
