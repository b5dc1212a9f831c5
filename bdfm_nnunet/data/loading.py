"""Batches that are a function of seed, rank and step, so that a resumed run sees what an undisturbed one would.

nnU-Net's augmenters draw from each worker's own stream, in no fixed order. Here the random state is set anew before
each batch, which makes a batch independent of the number of workers and of where a run was interrupted.
"""

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bdfm_nnunet.errors import InputError

Batch = dict[str, Any]
AHEAD = 3  # batches that a worker prepares before they are asked for
SHARED_MEMORY = Path("/dev/shm")


class BatchSource(Protocol):
    """What nnU-Net's loaders and `UnlabelledCrops` have in common."""

    def generate_train_batch(self) -> Batch:
        """One batch from the global random states."""
        ...


@runtime_checkable
class FillsBuffers(BatchSource, Protocol):
    """A source that can write its images where it is told, which saves workers a copy; `UnlabelledCrops` is one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of every batch's "data"."""
        ...

    def fill(self, data: Tensor) -> Batch:
        """Writes one batch from the global random states into `data`, float32; returns all but the data."""
        ...


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Sets the random states of Python, NumPy and torch on the CPU from whole numbers; gives the old ones back."""
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
    """Sets Python's, NumPy's and torch's random state (the GPU's too) from whole numbers."""
    _reseed(torch, *keys)


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

    def __init__(self, source: BatchSource, *keys: int, slots: Tensor | None = None) -> None:
        self.source = source
        self.keys = keys
        self.slots = slots

    def __getitem__(self, index: tuple[int, int]) -> Batch | InputError:
        place, number = index
        try:
            with seeded(*self.keys, number):
                if self.slots is None:
                    return self.source.generate_train_batch()
                assert isinstance(self.source, FillsBuffers)
                return self.source.fill(self.slots[place % len(self.slots)])
        except InputError as error:
            return error  # raised in a worker it would arrive wrapped in a traceback


def batches(
    source: BatchSource, *keys: int, numbers: Sequence[int], workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yields the batches with the given numbers in order, prepared ahead by worker processes.

    Images of a source that fills buffers come through a ring of shared memory that is used again and again: passing
    every batch in memory of its own costs as much time as reading it.

    Args:
        source: where batches come from.
        keys: what the randomness is made of, besides the number of the batch.
        numbers: which batches.
        workers: processes; 0 prepares each batch in this process when it is asked for.
        pin_memory: for copies to a CUDA device that do not block.

    Raises:
        InputError: a case cannot be read, or there is too little shared memory for so many workers.
    """
    slots = _shared_slots(source.shape, workers) if workers and isinstance(source, FillsBuffers) else None
    loader = DataLoader(
        ReproducibleBatches(source, *keys, slots=slots),
        batch_size=None,
        sampler=enumerate(numbers),
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=pin_memory and slots is None,
        generator=torch.Generator(),  # else it draws from the caller's random state
    )
    return _received(iter(loader), slots, pin_memory=pin_memory)


def _shared_slots(shape: tuple[int, ...], workers: int) -> Tensor:
    """A slot for every batch that is on its way and one for the batch that is taken out meanwhile."""
    count = AHEAD * workers + 1
    needed = 4 * count * math.prod(shape)
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else needed
    if free < needed:
        raise InputError(
            f"{workers} workers need {needed >> 20} MiB of shared memory but {SHARED_MEMORY} has {free >> 20} MiB "
            "free: lower training.workers, or give the container more (docker run --shm-size)"
        )
    return torch.empty(count, *shape).share_memory_()


def _received(loaded: Iterator[Any], slots: Tensor | None, *, pin_memory: bool) -> Iterator[Batch]:
    for place, batch in enumerate(loaded):
        if isinstance(batch, InputError):
            raise batch
        if slots is not None:
            # the loader hands out work for this slot again when the next batch is asked for, so it must be copied now
            slot = slots[place % len(slots)]
            batch = {"data": torch.empty_like(slot, pin_memory=pin_memory).copy_(slot), **batch}
        yield batch
