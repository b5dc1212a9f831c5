"""The processes of one training and what they agree on. A training in a single process is a world of one."""

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.training.heartbeat import start_heartbeat

_PATIENCE = timedelta(minutes=10)  # for a process that lives but never comes to where the others wait


def shares(total: int, parts: int) -> list[int]:
    """Return `total` in `parts` whole numbers that differ by one at most, the larger ones first."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def device_of_process(kind: str) -> torch.device:
    """Return the device of this process: on CUDA the one with the number LOCAL_RANK, whatever the rank.

    Raises:
        InputError: this machine has fewer GPUs than processes.
    """
    if kind != "cuda":
        return torch.device(kind)
    index = int(os.environ.get("LOCAL_RANK", distributed.get_rank() if _is_group() else 0))
    visible = torch.cuda.device_count()
    if visible == 1:  # as where a scheduler shows each process its own GPU alone
        index = 0
    if index >= visible > 0:
        raise InputError(
            f"process {index} of this machine has no GPU of its own, {visible} are visible: start at most {visible} "
            "here (--nproc-per-node) or show it more (CUDA_VISIBLE_DEVICES)",
            entry="too-few-gpus",
        )
    return torch.device("cuda", index)


def _is_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


class ProcessGroup:
    """All processes of this training.

    All processes learn at the same step that one of them wants to save or to stop. `exchange` returns the answer of the
    previous call, so nobody waits for the slowest process; a wish that still holds must be repeated in each call.
    Messages go through a separate group on the CPU and never stop a GPU.

    Attributes:
        rank: number of this process among all machines.
        count: number of processes.
    """

    def __init__(self, wishes: Sequence[str]) -> None:
        self.rank, self.count = (distributed.get_rank(), distributed.get_world_size()) if _is_group() else (0, 1)
        self._wishes = tuple(wishes)
        self._group: Any = None
        if self.count > 1:
            self._group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
            start_heartbeat(self.rank, self.count)
        self._sent: tuple[Tensor, Any] | None = None

    def share(self, batch: int) -> slice:
        """Return which samples of a whole batch are this process's."""
        sizes = shares(batch, self.count)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def exchange(self, wanted: Iterable[str]) -> set[str]:
        """Return the wishes of all processes at the previous call; a single process gets its wishes at once."""
        wanted = set(wanted)
        if self._group is None:
            return wanted
        heard = self._hear()
        self._send(wanted)
        return heard

    def settle(self, wanted: Iterable[str]) -> set[str]:
        """Wait for all processes and return their present wishes; those of the previous call are dropped."""
        wanted = set(wanted)
        if self._group is None:
            return wanted
        self._hear()
        self._send(wanted)
        return self._hear()

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes in the order of their ranks, on every process."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=self._group)
        return values

    def agree(self, said: Mapping[str, Any]) -> None:
        """Check that all processes have the same values.

        Args:
            said: name of what is compared, in the plural -> a short value such as a digest.

        Raises:
            InputError: a value differs; on every process, with the number of the first one that differs.
        """
        first, *others = self.gather(dict(said))
        for rank, theirs in enumerate(others, start=1):
            for what, value in first.items():
                if theirs.get(what) != value:
                    raise InputError(
                        f"process {rank} of this training has other {what} than process 0: start all processes with "
                        "the same files, settings and versions"
                    )

    def mean(self, values: Sequence[Any], *, weight: float = 1.0) -> float:
        """Average the values of all processes, NaN left out, each process with its weight (its share of the batch)."""
        means = self.gather((float(np.nanmean(values)), weight))
        known = [(mean, weight) for mean, weight in means if not np.isnan(mean)]
        total = sum(weight for _, weight in known)
        return sum(mean * (weight / total) for mean, weight in known) if known else float("nan")

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self._group is not None:
            distributed.barrier(group=self._group)

    def _send(self, wanted: set[str]) -> None:
        flags = torch.tensor([wish in wanted for wish in self._wishes], dtype=torch.int32)
        self._sent = flags, distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=self._group, async_op=True)

    def _hear(self) -> set[str]:
        if self._sent is None:
            return set()
        flags, work = self._sent
        work.wait()
        self._sent = None
        return {wish for wish, flag in zip(self._wishes, flags.tolist()) if flag}
