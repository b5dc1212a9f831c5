"""Batches that are a function of seed, rank and step, so that a resumed run sees what an undisturbed one would.

nnU-Net's augmenters draw from each worker's own stream, in no fixed order. Here the random state is set anew before
each batch, which makes a batch independent of the number of workers and of where a run was interrupted.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = dict[str, Any]


class BatchSource(Protocol):
    """What nnU-Net's loaders and `UnlabelledCrops` have in common."""

    def generate_train_batch(self) -> Batch:
        """One batch from the global random states."""
        ...


@contextmanager
def seeded(*keys: int) -> Iterator[None]:
    """Sets Python's, NumPy's and torch's random state from whole numbers and gives the old states back afterwards."""
    # nnU-Net's loaders and augmentations draw from the global states, so these are what must be set
    states = random.getstate(), np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    reseed(*keys)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.random.set_rng_state(states[2])


def reseed(*keys: int) -> None:
    """Sets Python's, NumPy's and torch's random state (the GPU's too) from whole numbers."""
    words = np.random.SeedSequence(keys).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1])  # noqa: NPY002
    torch.manual_seed(int(words[2]))


class ReproducibleBatches(Dataset[Batch]):
    """Batch number i of a source, drawn with a random state made of the keys and i."""

    def __init__(self, source: BatchSource, *keys: int) -> None:
        self.source = source
        self.keys = keys

    def __getitem__(self, index: int) -> Batch:
        with seeded(*self.keys, index):
            return self.source.generate_train_batch()


def batches(
    source: BatchSource, *keys: int, numbers: Sequence[int], workers: int, pin_memory: bool = False
) -> Iterator[Batch]:
    """Yields the batches with the given numbers in order, prepared ahead by worker processes.

    Args:
        source: where batches come from.
        keys: what the randomness is made of, besides the number of the batch.
        numbers: which batches.
        workers: processes; 0 prepares each batch in this process when it is asked for.
        pin_memory: for copies to a CUDA device that do not block.
    """
    return iter(
        DataLoader(
            ReproducibleBatches(source, *keys),
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=3 if workers else None,
            pin_memory=pin_memory,
        )
    )


class UnlabelledCrops:
    """Random crops of preprocessed cases for label-free training; labels only steer where crops lie.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        batch_size: crops in a batch.
        patch_size: voxels per axis.
        single_channel: one randomly chosen modality of a case is a sample; else all channels together are.
        oversample_foreground: share of crops that are centred on a labelled voxel (of the brain, in unlabelled sets).
        augment: changes a crop (C, *spatial) at random.
    """

    def __init__(
        self,
        dataset: nnUNetBaseDataset,
        *,
        batch_size: int,
        patch_size: Sequence[int],
        single_channel: bool = True,
        oversample_foreground: float = 0.33,
        augment: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.patch_size = tuple(int(size) for size in patch_size)
        self.single_channel = single_channel
        self.oversample_foreground = oversample_foreground
        self.augment = augment

    def generate_train_batch(self) -> Batch:
        """A batch: "data" (B, C, *patch) as float32 and "keys", the names of the cases."""
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        keys = [str(key) for key in rng.choice(self.dataset.identifiers, self.batch_size)]
        return {"data": torch.stack([self._crop(key, rng) for key in keys]), "keys": keys}

    def _crop(self, key: str, rng: np.random.Generator) -> Tensor:
        data, _, _, properties = self.dataset.load_case(key)
        start = self._corner(data.shape[1:], properties.get("class_locations") or {}, rng)
        channel = int(rng.integers(data.shape[0]))
        channels = slice(channel, channel + 1) if self.single_channel else slice(None)
        crop = torch.from_numpy(read_crop(data, channels, start, self.patch_size))
        return crop if self.augment is None else self.augment(crop)

    def _corner(
        self, shape: Sequence[int], locations: dict[Any, npt.NDArray[Any]], rng: np.random.Generator
    ) -> list[int]:
        """First voxel of a crop; where the volume is smaller than the crop, it lies in the crop's middle."""
        spare = [size - patch for size, patch in zip(shape, self.patch_size, strict=True)]
        centred = rng.random() < self.oversample_foreground
        filled = [voxels for voxels in locations.values() if len(voxels)]
        if centred and filled:
            voxels = filled[rng.integers(len(filled))]
            centre = voxels[rng.integers(len(voxels))][1:]  # the first entry counts channels of the segmentation
            start = [int(voxel) - patch // 2 for voxel, patch in zip(centre, self.patch_size, strict=True)]
        else:
            start = [int(rng.integers(max(room, 0) + 1)) for room in spare]
        return [min(max(s, 0), room) if room >= 0 else room // 2 for s, room in zip(start, spare, strict=True)]


def read_crop(data: Any, channels: slice, start: Sequence[int], patch_size: Sequence[int]) -> npt.NDArray[np.float32]:
    """Reads one crop out of an array (C, *spatial) on disk, touching nothing else; what lies outside is 0."""
    shape = data.shape[1:]
    low = [max(s, 0) for s in start]
    high = [min(s + patch, size) for s, patch, size in zip(start, patch_size, shape, strict=True)]
    inside = np.asarray(data[(channels, *(slice(a, b) for a, b in zip(low, high, strict=True)))], dtype=np.float32)
    before = [a - s for a, s in zip(low, start, strict=True)]
    after = [s + patch - b for s, patch, b in zip(start, patch_size, high, strict=True)]
    return np.pad(inside, [(0, 0), *zip(before, after, strict=True)]) if any(before) or any(after) else inside
