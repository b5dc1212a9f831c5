"""Batches that are a function of seed, rank and step, so that a resumed run sees what an undisturbed one would.

nnU-Net's augmenters draw from each worker's own stream, in no fixed order. Here the random state is set anew before
each batch, which makes a batch independent of the number of workers and of where a run was interrupted.
"""

import math
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing import get_sharing_strategy
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torch.utils.data._utils import signal_handling

from bdfm_nnunet.data.loader_processes import LoaderContext, loader_context, own_sigchld, start_loader
from bdfm_nnunet.errors import InputError

Batch = dict[str, Any]
AHEAD = 3  # batches that a worker prepares before they are asked for
SHARED_MEMORY = Path("/dev/shm")
_LOCKS_OF_A_LOADER, _LOCKS_OF_A_WORKER = 16 * 4096, 4 * 4096  # bytes; each lock takes a page


class BatchSource(Protocol):
    """The interface that nnU-Net's loaders and `UnlabelledCrops` share."""

    def generate_train_batch(self) -> Batch:
        """Draw one batch from the global random states."""
        ...


@runtime_checkable
class FillsBuffers(BatchSource, Protocol):
    """A source that can write its images where it is told, which saves workers a copy; `UnlabelledCrops` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of every batch's "data"."""
        ...

    def fill(self, data: Tensor) -> Batch:
        """Write one batch from the global random states into `data`, float32, and return all but the data."""
        ...


@runtime_checkable
class NumbersBatches(Protocol):
    """A source whose batches depend on their number, not on random states alone; `SubjectBags` is one."""

    def generate_numbered_batch(self, number: int) -> Batch:
        """Return the batch of a number; what it draws comes from the global random states."""
        ...


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Set the random states of Python, NumPy and torch on the CPU from whole numbers; restore the old ones."""
    # nnU-Net's loaders and augmentations draw from the global states, so these are what must be set
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    _reseed(torch.default_generator, *keys)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.random.set_rng_state(states[2])


def reseed(*keys: int) -> None:
    """Set Python's, NumPy's and torch's random state (the GPU's too) from whole numbers."""
    _reseed(torch, *keys)


def generator_of(*keys: int) -> torch.Generator:
    """Return a generator on the CPU whose stream depends on all keys.

    Example:
        >>> first, again, other = (torch.rand((), generator=generator_of(*keys)) for keys in ((1, 2), (1, 2), (2, 1)))
        >>> bool(first == again), bool(first == other)
        (True, False)
    """
    return torch.Generator().manual_seed(int(np.random.SeedSequence(keys).generate_state(1)[0]))


def _reseed(torch_state: Any, *keys: int) -> None:
    words = np.random.SeedSequence(keys).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    torch_state.manual_seed(int(words[2]))


class ReproducibleBatches(Dataset[Batch | InputError]):
    """Batch number i of a source, drawn with a random state made of the keys and i.

    Args:
        source: where batches come from.
        keys: what the randomness is made of, besides the number of the batch.
        slots: (n, B, C, *patch), memory shared with the workers; the batch in place p of the order takes slot p % n and
            is returned without its "data".
    """

    def __init__(self, source: BatchSource | NumbersBatches, *keys: int, slots: Tensor | None = None) -> None:
        self.source = source
        self.keys = keys
        self.slots = slots

    def __getitem__(self, index: tuple[int, int]) -> Batch | InputError:
        place, number = index
        try:
            with seeded(*self.keys, number):
                if isinstance(self.source, NumbersBatches):
                    return _shared(self.source.generate_numbered_batch(number))
                if self.slots is None:
                    return _shared(self.source.generate_train_batch())
                assert isinstance(self.source, FillsBuffers)
                return self.source.fill(self.slots[place % len(self.slots)])
        except InputError as error:
            return error  # raised in a worker it would arrive wrapped in a traceback


def batches(
    source: BatchSource | NumbersBatches, *keys: int, numbers: Sequence[int], workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yield the batches with the given numbers in order, prepared ahead by worker processes.

    Images of a source that fills buffers come through a ring of shared memory that is used again and again: passing
    every batch in separate memory costs as much time as reading it.

    Args:
        source: where batches come from.
        keys: what the randomness is made of, besides the number of the batch.
        numbers: which batches.
        workers: processes; 0 prepares each batch in this process when it is asked for.
        pin_memory: for copies to a CUDA device that do not block.

    Raises:
        InputError: a case cannot be read, or there is too little shared memory for so many workers.
    """
    dataset: Any = ReproducibleBatches(source, *keys)
    common: dict[str, Any] = {
        "batch_size": None,
        "sampler": enumerate(numbers),
        "generator": torch.Generator(),  # else it draws from the caller's random state
    }
    if not workers:
        return _received(iter(DataLoader(dataset, **common, pin_memory=pin_memory)))
    dataset.slots = slots = _shared_slots(source, workers)
    context = loader_context()
    with own_sigchld():
        loaded = iter(
            DataLoader(
                dataset,
                **common,
                num_workers=workers,
                prefetch_factor=AHEAD,
                pin_memory=pin_memory and slots is None,
                worker_init_fn=start_loader,
                multiprocessing_context=context,
            )
        )
    return _received(_watched(loaded, context), slots, pin_memory=pin_memory)


def _shared_slots(source: BatchSource | NumbersBatches, workers: int) -> Tensor | None:
    """Return a slot for every batch that is on its way and one for the batch that is taken out meanwhile."""
    locks = _LOCKS_OF_A_LOADER + workers * _LOCKS_OF_A_WORKER
    if not isinstance(source, FillsBuffers):
        _check_shared_memory(locks, workers)
        return None
    shape = AHEAD * workers + 1, *source.shape
    needed = locks + 4 * math.prod(shape)
    _check_shared_memory(needed, workers)
    slots = torch.empty(shape)
    _share([slots], f"{workers} workers need {_size(needed)} of shared memory")
    return slots


def _check_shared_memory(needed: int, workers: int) -> None:
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free < needed:
        raise _too_little(f"{workers} workers need {_size(needed)} of shared memory")


def _too_little(what: str) -> InputError:
    free = _size(shutil.disk_usage(SHARED_MEMORY).free) if SHARED_MEMORY.is_dir() else "too little"
    return InputError(
        f"{what} but {SHARED_MEMORY} has {free} free: lower training.workers (0 needs none), or give the container "
        "more (docker run --shm-size)",
        entry="shared-memory",
    )


def _size(count: int) -> str:
    return f"{count >> 20} MiB" if count >= 10 << 20 else f"{count >> 10} KiB"


def _shared(batch: Batch) -> Batch:
    """Move the tensors of a worker's batch to shared memory; left to PyTorch, one that finds no room is lost."""
    if get_worker_info() is None:
        return batch
    tensors = list(_tensors(batch))
    _share(tensors, f"another batch of {_size(sum(tensor.nbytes for tensor in tensors))} needs room")
    return batch


def _share(tensors: Sequence[Tensor], what: str) -> None:
    """Move tensors to shared memory, or say that `what` has no room."""
    try:
        for tensor in tensors:
            tensor.share_memory_()
    except RuntimeError:
        _remove_unused(os.getpid())
        raise _too_little(what) from None


def _remove_unused(pid: int) -> None:
    """Remove the files that a process has left in shared memory where it found no room, or was killed.

    PyTorch takes the name from a file as soon as that is in use, so only what failed has one. Where a program shares by
    name (the strategy "file_system"), a file may be in use although its writer is gone, so all are left alone.

    Args:
        pid: this process, or a loader of it that has ended.
    """
    if get_sharing_strategy() != "file_descriptor":
        return
    for path in SHARED_MEMORY.glob(f"torch_{pid}_*"):
        path.unlink(missing_ok=True)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _watched(loaded: Any, context: LoaderContext | None) -> Iterator[Any]:
    while True:
        try:
            with context.watched() if context is not None else nullcontext():
                batch = next(loaded, None)
        except BaseException:
            _give_up(loaded)
            for pid in context.dead() if context is not None else ():
                _remove_unused(pid)
            raise
        if batch is None:
            return
        yield batch


def _give_up(loaded: Any) -> None:
    """Let go of a loader without its own shutdown, which would wait for locks that a killed process may hold."""
    if getattr(loaded, "_worker_pids_set", False):
        signal_handling._remove_worker_pids(id(loaded))  # else a later loader at this address would be refused
        loaded._worker_pids_set = False
    loaded._shutdown = True


def _received(loaded: Iterator[Any], slots: Tensor | None = None, *, pin_memory: bool = False) -> Iterator[Batch]:
    for place, batch in enumerate(loaded):
        if isinstance(batch, InputError):
            raise batch
        if slots is not None:
            # the loader hands out work for this slot again when the next batch is asked for, so it must be copied now
            slot = slots[place % len(slots)]
            batch = {"data": torch.empty_like(slot, pin_memory=pin_memory).copy_(slot), **batch}
        yield batch
