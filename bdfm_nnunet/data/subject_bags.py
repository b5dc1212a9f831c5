"""Bags of crops that show whole cases, for targets that belong to a subject and not to a voxel."""

from collections.abc import Sequence
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from torch import Tensor

from bdfm_nnunet.data.augmentation import Matrix, RandomAffine, resampled, source_size
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.checked_cases import reading
from bdfm_nnunet.data.crops import open_images, read_crop

SHOWN = 30  # keeps this random stream apart from that of the order


def covering_starts(shape: Sequence[int], crop: Sequence[int], *, overlap: float = 0.0) -> list[tuple[int, ...]]:
    """Return the first voxels of the fewest crops that cover a volume, evenly spread.

    Args:
        shape: voxels of the volume per axis.
        crop: voxels of a crop per axis; a volume that is smaller lies in its middle, so the start is below 0.
        overlap: share of a crop that its neighbour covers too, at least.

    Example:
        >>> covering_starts((10, 7), (4, 9))
        [(0, -1), (3, -1), (6, -1)]
    """
    axes = [_starts(size, side, max(side * (1 - overlap), 1)) for size, side in zip(shape, crop, strict=True)]
    return list(product(*axes))


def _starts(size: int, side: int, step: float) -> list[int]:
    if size <= side:
        return [(size - side) // 2]
    count = ceil((size - side) / step) + 1
    return [round(place) for place in np.linspace(0, size - side, count)]


def case_shapes(dataset: nnUNetBaseDataset, cases: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the voxels per axis of each case, without reading its images.

    Raises:
        InputError: a case is missing or damaged.
    """
    shapes = {}
    for case in cases:
        with reading(dataset, case):
            shapes[case] = tuple(int(size) for size in open_images(dataset, case).shape[1:])
    return shapes


class SubjectBags:
    """Batches of cases in an order in which each pass shows every case once.

    Batch number i of size B takes the places i B to (i + 1) B - 1 of an endless row of passes, each a new permutation.
    So no case is left out, whatever the batch, and a batch of more cases than there are shows some twice.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        cases: those to show.
        batch_size: cases in the batch of all processes.
        share: those of a batch that are this process's.
        crop: voxels of a crop per axis.
        crops: crops of every case, drawn from those that cover it; a case that needs fewer shows some twice.
        overlap: see `covering_starts`.
        seed: of the order, and of what is drawn of each case.
        affine: rotates and scales a case about its middle.
        shift: largest shift of the crops of a case, as a share of their size.
    """

    def __init__(
        self,
        dataset: nnUNetBaseDataset,
        cases: Sequence[str],
        *,
        batch_size: int,
        share: slice,
        crop: Sequence[int],
        crops: int,
        overlap: float = 0.0,
        seed: int = 0,
        affine: RandomAffine | None = None,
        shift: float = 0.0,
    ) -> None:
        self.dataset, self.cases = dataset, list(cases)
        self.batch_size, self.share = batch_size, share
        self.crop, self.crops, self.overlap = tuple(int(size) for size in crop), crops, overlap
        self.seed, self.affine, self.shift = seed, affine, shift

    def generate_numbered_batch(self, number: int) -> Batch:
        """Return a batch: "data" (b, crops, C, *crop) as float32 and "keys", the names of the cases.

        Raises:
            InputError: a case is missing or damaged.
        """
        places = range(self.batch_size)[self.share]
        keys = [self._case_at(number * self.batch_size + place) for place in places]
        # a stream for each place: what a case is shown as depends neither on the process nor on the cases before it
        streams = [np.random.default_rng((self.seed, SHOWN, number, place)) for place in places]
        bags = [self._bag(key, rng) for key, rng in zip(keys, streams, strict=True)]
        return {"data": torch.stack(bags), "keys": keys}

    def _case_at(self, place: int) -> str:
        turn, index = divmod(place, len(self.cases))
        return self.cases[np.random.default_rng((self.seed, turn)).permutation(len(self.cases))[index]]

    def _bag(self, key: str, rng: np.random.Generator) -> Tensor:
        with reading(self.dataset, key):
            images = open_images(self.dataset, key)
            starts = covering_starts(images.shape[1:], self.crop, overlap=self.overlap)
            chosen = np.resize(rng.permutation(len(starts)), self.crops)
            matrix = self.affine.draw(rng) if self.affine else None
            most = [side * self.shift for side in self.crop]
            moved = [round(float(rng.uniform(-reach, reach))) for reach in most]
            return torch.stack(
                [
                    read_turned(images, [at + by for at, by in zip(starts[number], moved)], self.crop, matrix)
                    for number in chosen
                ]
            )


class WholeCases:
    """One case after the other, each as it is; every process takes one of `count`.

    Args:
        dataset: nnU-Net's data set of preprocessed cases.
        cases: those to show.
        crop: voxels of a crop per axis.
        overlap: see `covering_starts`.
        rank: number of this process.
        count: number of processes.
    """

    def __init__(
        self,
        dataset: nnUNetBaseDataset,
        cases: Sequence[str],
        *,
        crop: Sequence[int],
        overlap: float = 0.0,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.dataset, self.cases, self.crop, self.overlap = dataset, list(cases), crop, overlap
        self.rank, self.count = rank, count

    def generate_numbered_batch(self, number: int) -> Batch:
        """Return a case: "data" (1, N, C, *crop) and "keys"; after the last process's last case from the first again.

        Raises:
            InputError: the case is missing or damaged.
        """
        key = self.cases[(number * self.count + self.rank) % len(self.cases)]
        crops, _ = whole_case(self.dataset, key, self.crop, overlap=self.overlap)
        return {"data": crops[None], "keys": [key]}


def whole_case(
    dataset: nnUNetBaseDataset, key: str, crop: Sequence[int], *, overlap: float = 0.0
) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Read the crops that cover a case as it is.

    Returns:
        The crops (N, C, *crop), and their first voxels.

    Raises:
        InputError: the case is missing or damaged.
    """
    with reading(dataset, key):
        return cover(open_images(dataset, key), crop, overlap=overlap)


def cover(images: Any, crop: Sequence[int], *, overlap: float = 0.0) -> tuple[Tensor, list[tuple[int, ...]]]:
    """Return the crops that cover images (C, *spatial), (N, C, *crop), and their first voxels."""
    starts = covering_starts(images.shape[1:], crop, overlap=overlap)
    return torch.stack([read_turned(images, start, crop, None) for start in starts]), starts


def read_turned(images: Any, start: Sequence[int], crop: Sequence[int], matrix: Matrix | None) -> Tensor:
    """Read a crop of a volume that was turned about its middle.

    Args:
        images: an array (C, *spatial), on disk or in memory.
        start: first voxel of the crop.
        crop: voxels per axis.
        matrix: from voxels of the turned volume to those of the volume, both from the middle; None leaves it as it is.

    Returns:
        (C, *crop) as float32; what lies outside the volume is 0.
    """
    if matrix is None:
        return torch.from_numpy(_read(images, start, crop))
    size, side = np.asarray(images.shape[1:]), np.asarray(crop)
    middle = matrix @ (np.asarray(start) + (side - 1) / 2 - (size - 1) / 2) + (size - 1) / 2
    box = source_size(matrix, crop)
    first = np.rint(middle - (np.asarray(box) - 1) / 2).astype(int)
    return resampled(torch.from_numpy(_read(images, first.tolist(), box)), matrix, crop)


def _read(images: Any, start: Sequence[int], size: Sequence[int]) -> npt.NDArray[np.float32]:
    out = np.empty((images.shape[0], *size), dtype=np.float32)
    read_crop(images, slice(None), start, out=out)
    return out
