"""Clips that show whole 4-D runs, for targets that belong to a run or to its subject.

Shapes: clips (1, X, Y, Z, T), time last.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.clip_batches import Runs, clip_corner, clip_starts, read_clip
from bdfm_nnunet.data.subject_bags import SHOWN, SubjectBags


class RunBags(SubjectBags):
    """Batches of runs in an order in which each pass shows every run once, each as some clips of it.

    A run is cut into as many equal parts as it has clips in a step, and each clip begins in another one of them. Where
    a run of the batch of all processes is shorter than a clip, all clips of the batch have as many frames as it.

    Args:
        dataset: the runs.
        cases: ids of those to show.
        batch_size: runs in the batch of all processes.
        share: those of a batch that are this process's.
        crop: voxels of a clip along x, y and z, and frames.
        crops: clips of every run.
        seed: of the order, and of what is drawn of each run.
        shift: largest shift of a clip in space, as a share of its size.
    """

    dataset: Any

    def __init__(
        self,
        dataset: Runs,
        cases: Sequence[str],
        *,
        batch_size: int,
        share: slice,
        crop: Sequence[int],
        crops: int,
        seed: int = 0,
        shift: float = 0.0,
    ) -> None:
        known: Any = {"batch_size": batch_size, "share": share, "crop": crop, "crops": crops, "seed": seed}
        super().__init__(dataset, cases, **known, shift=shift)

    def generate_numbered_batch(self, number: int) -> Batch:
        """Return a batch.

        Returns:
            "data" (b, clips, 1, X, Y, Z, T), float32; "brain" (b, clips, X, Y, Z), boolean; "keys", the ids of the
            runs.

        Raises:
            InputError: a run is missing or damaged.
        """
        keys = [self._case_at(number * self.batch_size + place) for place in range(self.batch_size)]
        frames = min(self.crop[3], *(self.dataset.header(key).shape[3] for key in keys))
        streams = [np.random.default_rng((self.seed, SHOWN, number, place)) for place in range(self.batch_size)]
        mine = zip(keys[self.share], streams[self.share], strict=True)
        bags = [list(self._clips(key, frames, rng)) for key, rng in mine]
        clips, brains = ([torch.stack([pair[part] for pair in bag]) for bag in bags] for part in (0, 1))
        return {"data": torch.stack(clips), "brain": torch.stack(brains), "keys": keys[self.share]}

    def _clips(self, key: str, frames: int, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        header, size = self.dataset.header(key), (*self.crop[:3], frames)
        reach = [side * self.shift for side in size[:3]]
        first = zip(clip_corner(header, size, rng), reach, strict=True)
        corner = [at + round(float(rng.uniform(-far, far))) for at, far in first]
        ends = np.linspace(0, header.shape[3] - frames + 1, self.crops + 1).astype(int)
        for low, high in pairwise(ends):
            start = int(rng.integers(low, max(high, low + 1)))
            yield read_clip(self.dataset, key, min(start, header.shape[3] - frames), size, corner)


class WholeRuns:
    """All clips of some runs in order, a few at a time; every process takes one part of `count`.

    Args:
        dataset: the runs.
        cases: ids of those to show.
        crop: voxels of a clip along x, y and z, and frames.
        at_once: most clips of a batch, which are all of one run.
        rank: number of this process.
        count: number of processes.

    Attributes:
        parts: what the batches of all processes show, the id of a run and first frames.
    """

    def __init__(
        self,
        dataset: Runs,
        cases: Sequence[str],
        *,
        crop: Sequence[int],
        at_once: int = 1,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.dataset, self.crop = dataset, tuple(int(size) for size in crop)
        self.rank, self.count = rank, count
        self.parts = [(case, part) for case in cases for part in self._parts(case, at_once)]

    def _parts(self, case: str, at_once: int) -> Iterator[list[int]]:
        """Yield the first frames of clips that have equally many frames: the last clip of a run may have fewer."""
        frames, length = self.dataset.header(case).shape[3], self.crop[3]
        starts = clip_starts(frames, length)
        whole = [start for start in starts if start + length <= frames]
        yield from (whole[at : at + at_once] for at in range(0, len(whole), at_once))
        if len(whole) < len(starts):
            yield starts[-1:]

    def generate_numbered_batch(self, number: int) -> Batch:
        """Return clips, each as a case of its own.

        Returns:
            "data" (n, 1, 1, X, Y, Z, T); "keys", n times the id of the run; "places", their first frames. After the
            last process's last clips follow the first again.

        Raises:
            InputError: the run is missing or damaged.
        """
        case, starts = self.parts[(number * self.count + self.rank) % len(self.parts)]
        header = self.dataset.header(case)
        size = (*self.crop[:3], min(self.crop[3], header.shape[3] - starts[-1]))
        clips = [read_clip(self.dataset, case, start, size)[0][None] for start in starts]
        return {"data": torch.stack(clips), "keys": [case] * len(starts), "places": list(starts)}
