"""The weights of a model's folds: one fold in memory at a time."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from torch import Tensor

from bdfm_nnunet.checkpoints.checkpoint_reading import checkpoint_of
from bdfm_nnunet.checkpoints.safe_loading import map_as_data
from bdfm_nnunet.errors import InputError

Weights = dict[str, Tensor]


class FoldWeights(Sequence[Weights]):
    """The weights of some folds, each read again when its turn comes.

    They look like the list that nnU-Net's predictor iterates over for every case. Of several folds none is kept, so
    that memory does not grow with them; tensors are views of the file, which the system reads as they are copied into
    the network. A single fold is read once.

    Args:
        files: checkpoints that `read_checkpoint` has read and checked.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self._states = [_state(file) for file in self.files]
        self._only: Weights | None = None

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> Weights: ...

    @overload
    def __getitem__(self, index: slice) -> "FoldWeights": ...

    def __getitem__(self, index: int | slice) -> "Weights | FoldWeights":
        """Return the weights of one fold, or some of the folds.

        Raises:
            InputError: the file has changed since it was checked, or cannot be read any more.
        """
        if isinstance(index, slice):
            return FoldWeights(self.files[index])
        if self._only is not None:
            return self._only
        file = self.files[index]
        if _state(file) != self._states[index]:
            raise InputError(f"{file} was changed while it was in use: predict again when its training is finished")
        weights = checkpoint_of(file, map_as_data(file), sound=True).weights
        if len(self.files) == 1:
            self._only = weights
        return weights

    def __iter__(self) -> Iterator[Weights]:
        return (self[index] for index in range(len(self.files)))


def _state(file: Path) -> tuple[int, int]:
    try:
        found = os.stat(file)
    except OSError:
        raise InputError(f"{file} is not there any more: copy it back and predict again") from None
    return found.st_size, found.st_mtime_ns
