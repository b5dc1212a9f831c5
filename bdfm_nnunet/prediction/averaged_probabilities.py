"""Probabilities of several members averaged in a file, slab by slab, and what the average says of each voxel.

In memory is one slab and what a member gives for a case, however many members there are. The sums are those of
nnU-Net's ensembling: single precision, member after member, one division at the end.

Shapes: probabilities (K, Z, Y, X), as in nnU-Net's files; K classes with the background, or regions that overlap.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.temperature import sharpened
from bdfm_nnunet.files import cannot_write

SLAB_BYTES = 1 << 24
Values = NDArray[np.float32]


@dataclass
class MeanOnDisk:
    """The mean of members' probabilities, and of their entropies, in one file.

    Attributes:
        path: the file; it grows to the size of one case.
        shape: (K, Z, Y, X).
        regions: whether the K channels are regions that overlap rather than classes of which one is true.
        members: how many have been added.

    Example:
        >>> mean = MeanOnDisk(Path("case.sum"), (2, 1, 1, 2), regions=False)
        >>> mean.add(np.array([[[[0.9, 0.5]]], [[[0.1, 0.5]]]], dtype=np.float32))
        >>> mean.add(np.array([[[[0.7, 0.5]]], [[[0.3, 0.5]]]], dtype=np.float32))
        >>> bool(np.allclose(next(mean.slabs()).probabilities[0], [[[0.8, 0.5]]]))
        True
    """

    path: Path
    shape: tuple[int, ...]
    regions: bool
    members: int = 0

    def add(self, probabilities: Values) -> None:
        """Add the probabilities of a member.

        Raises:
            InputError: they have another shape, or the file cannot be written.
        """
        if probabilities.shape != self.shape:
            raise InputError(
                f"the models of an ensemble see {probabilities.shape} and {self.shape} voxels of one case: give models "
                "with the same reader of images"
            )
        try:
            with os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "rb+") as stream:
                self._add(stream, probabilities)
        except OSError as error:
            raise cannot_write(self.path, error, again="run the command again with --continue_prediction") from error
        self.members += 1

    def _add(self, stream: BinaryIO, probabilities: Values) -> None:
        for start, stop in self._spans():
            part = np.moveaxis(probabilities[:, start:stop], 1, 0)
            new = np.concatenate([part, entropy(part, regions=self.regions, axis=1)[:, None]], axis=1)
            if self.members:
                stream.seek(start * self._row_bytes)
                new = np.frombuffer(stream.read(new.nbytes), dtype=np.float32).reshape(new.shape) + new
            stream.seek(start * self._row_bytes)
            stream.write(new.tobytes())

    def slabs(self, temperature: float = 1.0) -> Iterator["Slab"]:
        """Yield the mean, a few slices (Z) at a time.

        Args:
            temperature: divides the logits of the mean; above 1 it is less sure.
        """
        with self.path.open("rb") as stream:
            for start, stop in self._spans():
                content = stream.read((stop - start) * self._row_bytes)
                rows = np.frombuffer(content, dtype=np.float32).reshape(
                    stop - start, self.shape[0] + 1, *self.shape[2:]
                )
                rows = rows / np.float32(self.members)
                mean = np.ascontiguousarray(np.moveaxis(rows[:, :-1], 1, 0))
                yield Slab(slice(start, stop), mean, rows[:, -1], self.regions, temperature)

    @property
    def _row_bytes(self) -> int:
        return 4 * (self.shape[0] + 1) * int(np.prod(self.shape[2:]))

    def _spans(self) -> Iterator[tuple[int, int]]:
        thick = max(1, SLAB_BYTES // self._row_bytes)
        for start in range(0, self.shape[1], thick):
            yield start, min(self.shape[1], start + thick)


@dataclass(frozen=True)
class Slab:
    """Some slices of an average.

    Attributes:
        where: slices along Z.
        mean: (K, slices, Y, X), by which voxels are segmented.
        members_entropy: mean entropy of the members, (slices, Y, X).
        regions: as in `MeanOnDisk`.
        temperature: as in `MeanOnDisk.slabs`.
    """

    where: slice
    mean: Values
    members_entropy: Values
    regions: bool
    temperature: float

    @cached_property
    def probabilities(self) -> Values:
        """The mean after the temperature."""
        return self.mean if self.temperature == 1 else sharpened(self.mean, self.temperature, regions=self.regions)

    @property
    def entropy(self) -> Values:
        """How unsure the probabilities are, (slices, Y, X), from 0 to 1."""
        return entropy(self.probabilities, regions=self.regions)

    @property
    def disagreement(self) -> Values:
        """Entropy of the mean less the mean entropy of the members, without temperature, (slices, Y, X).

        It is 0 where all members say the same, however unsure each is (the mutual information of Houlsby et al. 2011,
        https://arxiv.org/abs/1112.5745).
        """
        return np.maximum(entropy(self.mean, regions=self.regions) - self.members_entropy, 0.0)


def entropy(probabilities: Values, *, regions: bool, axis: int = 0) -> Values:
    """Return the entropy of each voxel, from 0 to 1.

    Of classes it is Shannon's, over that of equal probabilities; of regions the mean over regions, in bits.

    Args:
        probabilities: with K channels.
        regions: whether the channels are regions that overlap.
        axis: of the channels.

    Example:
        >>> classes = np.array([[1.0, 0.5], [0.0, 0.5]], dtype=np.float32)
        >>> entropy(classes, regions=False).tolist()
        [0.0, 1.0]
    """
    if regions:
        return (_surprise(probabilities) + _surprise(1 - probabilities)).mean(axis=axis) / np.float32(np.log(2))
    return _surprise(probabilities).sum(axis=axis) / np.float32(np.log(max(2, probabilities.shape[axis])))


def _surprise(probabilities: Values) -> Values:
    return -probabilities * np.log(np.maximum(probabilities, np.float32(1e-30)))
