"""Random crops of preprocessed cases for label-free training, read from disk without the rest of the volume.

nnU-Net stores a case as blosc2 arrays (C, *spatial) in compressed blocks of one channel and about 32 voxels per axis.
A crop decompresses the blocks that it touches and nothing else, so its cost depends neither on the number of channels
nor on the size of the volume or of the data set. Nothing is kept between crops: opening a file takes a fiftieth of the
time of decompressing a crop, and memory stays flat.
"""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import blosc2
import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset, nnUNetDatasetBlosc2
from torch import Tensor

from bdfm_nnunet.data.augmentation import RandomAffine, resampled, source_size
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.checked_cases import IMAGES, LABELS, PROPERTIES, CheckedCases, reading
from bdfm_nnunet.data.plain_cases import read_properties


class UnlabelledCrops:
    """Random crops of preprocessed cases for label-free training; labels only steer where crops lie.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        batch_size: crops in a batch.
        patch_size: voxels per axis.
        single_channel: one randomly chosen modality of a case is a sample; else all channels together are.
        oversample_foreground: share of crops that are centred on a labelled voxel (of the brain, in unlabelled sets).
        affine: rotates and scales crops.
        mirror: draws for each crop the axes along which `bdfm_nnunet.data.augmentation.mirrored` reverses it.
        foreground: also gives the labelled share of each crop; not for crops that `affine` turns.
    """

    def __init__(
        self,
        dataset: nnUNetBaseDataset,
        *,
        batch_size: int,
        patch_size: Sequence[int],
        single_channel: bool = True,
        oversample_foreground: float = 0.33,
        affine: RandomAffine | None = None,
        mirror: bool = False,
        foreground: bool = False,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.patch_size = tuple(int(size) for size in patch_size)
        self.single_channel = single_channel
        self.oversample_foreground = oversample_foreground
        self.affine = affine
        self.mirror = mirror
        self.foreground = foreground

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Shape of a batch's "data": (B, C, *patch)."""
        if self.single_channel:
            return (self.batch_size, 1, *self.patch_size)
        key = self.dataset.identifiers[0]
        with reading(self.dataset, key):
            channels = open_images(self.dataset, key).shape[0]
        return (self.batch_size, channels, *self.patch_size)

    def generate_train_batch(self) -> Batch:
        """Return a batch: "data" (B, C, *patch) as float32, and what `fill` gives."""
        data = torch.empty(self.shape)
        return {"data": data, **self.fill(data)}

    def fill(self, data: Tensor) -> Batch:
        """Draw a batch from torch's global random state and read it into `data`.

        Args:
            data: (B, C, *patch), float32 on the CPU; may be shared with another process.

        Returns:
            "keys", the names of the cases; with `mirror` "flips", (B, axes), True where an axis is to be reversed; with
            `foreground` "foreground", (B,), the share of labelled voxels.

        Raises:
            InputError: a case is missing or damaged.
        """
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        cases = self.dataset.identifiers
        keys = [str(cases[number]) for number in rng.choice(len(cases), self.batch_size)]
        starts = [self._read(key, rng, out=crop) for crop, key in zip(data.numpy(), keys, strict=True)]
        batch: Batch = {"keys": keys}
        if self.mirror:
            batch["flips"] = torch.rand(self.batch_size, len(self.patch_size)) < 0.5
        if self.foreground:
            shares = [self._labelled_share(key, start) for key, start in zip(keys, starts, strict=True)]
            batch["foreground"] = torch.tensor(shares)
        return batch

    def _read(self, key: str, rng: np.random.Generator, *, out: npt.NDArray[np.float32]) -> list[int]:
        """Read a random crop and return its first voxel."""
        with reading(self.dataset, key):
            images = open_images(self.dataset, key)
            start = self._corner(key, images.shape[1:], rng)
            channel = int(rng.integers(images.shape[0]))
            channels = slice(channel, channel + 1) if self.single_channel else slice(None)
            matrix = self.affine.draw(rng) if self.affine else None
            if matrix is None:
                read_crop(images, channels, start, out=out)
                return start
            size = source_size(matrix, self.patch_size)
            source = np.empty((len(out), *size), dtype=np.float32)
            first = [s + (patch - n) // 2 for s, patch, n in zip(start, self.patch_size, size, strict=True)]
            read_crop(images, channels, first, out=source)
            out[...] = resampled(torch.from_numpy(source), matrix, self.patch_size).numpy()
            return start

    def _labelled_share(self, key: str, start: Sequence[int]) -> float:
        labels = np.empty((1, *self.patch_size), dtype=np.float32)
        with reading(self.dataset, key):
            read_crop(open_labels(self.dataset, key), slice(1), start, out=labels)
        return float((labels > 0).mean())

    def _corner(self, key: str, shape: Sequence[int], rng: np.random.Generator) -> list[int]:
        """Return the first voxel of a crop; a volume smaller than the crop lies in the crop's middle."""
        spare = [size - patch for size, patch in zip(shape, self.patch_size, strict=True)]
        centred = rng.random() < self.oversample_foreground
        filled = [voxels for voxels in _class_locations(self.dataset, key).values() if len(voxels)] if centred else []
        if filled:
            voxels = filled[rng.integers(len(filled))]
            centre = voxels[rng.integers(len(voxels))][1:]  # the first entry counts channels of the segmentation
            start = [int(voxel) - patch // 2 for voxel, patch in zip(centre, self.patch_size, strict=True)]
        else:
            start = [int(rng.integers(max(room, 0) + 1)) for room in spare]
        return [min(max(s, 0), room) if room >= 0 else room // 2 for s, room in zip(start, spare, strict=True)]


def open_images(dataset: nnUNetBaseDataset, key: str) -> Any:
    """Open the images of a case, (C, *spatial), without reading them; labels and properties stay closed."""
    if not isinstance(dataset, nnUNetDatasetBlosc2):
        return dataset.load_case(key)[0]
    return _open_array(dataset, key, IMAGES)


def open_labels(dataset: nnUNetBaseDataset, key: str) -> Any:
    """Open the labels of a case, (1, *spatial), without reading them; images and properties stay closed."""
    if not isinstance(dataset, nnUNetDatasetBlosc2):
        return dataset.load_case(key)[1]
    return _open_array(dataset, key, LABELS)


def _open_array(dataset: nnUNetDatasetBlosc2, key: str, ending: str) -> Any:
    if isinstance(dataset, CheckedCases):
        dataset.verify(key, ending)
    path = os.path.join(dataset.source_folder, f"{key}{ending}")
    # one thread: the other cores have workers of their own
    return blosc2.open(urlpath=path, mode="r", dparams={"nthreads": 1}, **dataset.mmap_kwargs)


def _class_locations(dataset: nnUNetBaseDataset, key: str) -> dict[Any, npt.NDArray[Any]]:
    """Return the voxels per class, each (N, 1 + axes)."""
    if isinstance(dataset, CheckedCases):
        dataset.verify(key, PROPERTIES)
    return read_properties(dataset.source_folder, key).get("class_locations") or {}


def read_crop(images: Any, channels: slice, start: Sequence[int], *, out: npt.NDArray[np.float32]) -> None:
    """Read one crop, touching nothing else.

    Args:
        images: an array (C, *spatial), on disk or in memory.
        channels: which channels.
        start: first voxel; may lie outside.
        out: (channels, *patch), takes the crop; what lies outside the images is 0.
    """
    patch, shape = out.shape[1:], images.shape[1:]
    low = [min(max(s, 0), size) for s, size in zip(start, shape, strict=True)]
    high = [max(min(s + p, size), a) for s, p, size, a in zip(start, patch, shape, low, strict=True)]
    inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, start))
    if any(b - a < p for a, b, p in zip(low, high, patch)):
        out[...] = 0
    out[(slice(None), *inside)] = images[(channels, *(slice(a, b) for a, b in zip(low, high)))]
