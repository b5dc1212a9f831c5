"""Clips of 4-D runs: random ones to learn from, and those of a whole run in order.

Shapes: (1, X, Y, Z, T) voxels and frames, time last. Where a run is larger than a clip along an axis, the clip shows
the part that holds the brain; where it is smaller, it lies in the middle and the background surrounds it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bdfm_nnunet.data.atlas_regions import AtlasRegions
from bdfm_nnunet.data.batch_streams import Batch
from bdfm_nnunet.data.sequence_cases import Box
from bdfm_nnunet.images.sequence_files import SequenceHeader


class Runs(Protocol):
    """The part of `SequenceCases` and `SequenceDataset` that clips are read with."""

    def header(self, case: str) -> SequenceHeader:
        """Return what is known of a run."""
        ...

    def mask(self, case: str, box: Box | None = None) -> npt.NDArray[np.bool_]:
        """Return the brain in a box, (x, y, z)."""
        ...

    def clip(self, case: str, start: int, frames: int, box: Box | None = None) -> npt.NDArray[np.float32]:
        """Return successive frames in a box, (x, y, z, t)."""
        ...


def clip_starts(frames: int, length: int, stride: int | None = None) -> list[int]:
    """Return the first frames of the clips of a run, each of `length` frames but for the last, which may have fewer.

    Args:
        frames: of the run.
        length: frames of a clip.
        stride: from the start of a clip to that of the next; by default `length`, which shows every frame once. A
            smaller one shows frames repeatedly, a larger one leaves some out.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> clip_starts(50, 20), clip_starts(50, 20, 10), clip_starts(12, 20)
        ([0, 20, 40], [0, 10, 20, 30], [0])
    """
    stride = length if stride is None else stride
    if min(frames, length, stride) < 1:
        raise ValueError(f"{frames} frames in clips of {length} with a stride of {stride}, expected 1 or more of each")
    return [start for start in range(0, frames, stride) if start == 0 or start - stride + length < frames]


def clip_corner(
    header: SequenceHeader, size: Sequence[int], rng: np.random.Generator | None = None
) -> tuple[int, int, int]:
    """Return the first voxel of the clips of a run; it is negative along axes where the run is smaller.

    Args:
        header: of the run.
        size: voxels of a clip along x, y and z; further entries have no effect.
        rng: where the brain is larger than a clip, draws which part is shown; without it, that is the middle.

    Example:
        >>> from types import SimpleNamespace
        >>> header = SimpleNamespace(shape=(40, 40, 9, 99), brain_box=[[2, 12], [20, 36], [0, 9]])
        >>> clip_corner(header, (16, 16, 16))
        (0, 20, -4)
    """
    axes = zip(header.shape[:3], size[:3], header.brain_box, strict=True)
    x, y, z = (_first_voxel(extent, side, brain, rng) for extent, side, brain in axes)
    return x, y, z


def _first_voxel(extent: int, side: int, brain: Sequence[int], rng: np.random.Generator | None) -> int:
    spare = extent - side
    if spare <= 0:
        return spare // 2
    low, high = brain
    if rng is not None and high - low > side:
        first, last = (min(max(place, 0), spare) for place in (low, high - side))
        return int(rng.integers(first, last + 1))
    return min(max((low + high - side) // 2, 0), spare)


def read_clip(
    runs: Runs, case: str, start: int, size: Sequence[int], corner: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Read a clip, touching only its blocks.

    Args:
        runs: where it is.
        case: id of the run.
        start: first frame.
        size: voxels along x, y and z, and frames.
        corner: first voxel, which may lie outside; by default `clip_corner` without chance.

    Returns:
        The clip (1, X, Y, Z, T), float32, with the background's value outside the run; its brain (X, Y, Z), boolean.

    Raises:
        InputError: a file is missing or damaged.
        ValueError: the frames or none of the voxels are inside the run.
    """
    header = runs.header(case)
    corner = clip_corner(header, size) if corner is None else corner
    places = list(zip(corner, size[:3], header.shape[:3], strict=True))
    box = [[max(first, 0), min(first + side, extent)] for first, side, extent in places]
    inside = tuple(slice(low - first, high - first) for (low, high), first in zip(box, corner, strict=True))
    clip = np.full(tuple(size), header.background, dtype=np.float32)
    brain = np.zeros(tuple(size[:3]), dtype=np.bool_)
    clip[inside] = runs.clip(case, start, size[3], box)
    brain[inside] = runs.mask(case, box)
    return torch.from_numpy(clip)[None], torch.from_numpy(brain)


def run_clips(
    runs: Runs, case: str, size: Sequence[int], *, stride: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the clips of a whole run in order, as `read_clip` returns them; see `clip_starts`.

    The last one may have fewer frames than `size` says, and so has the only one of a short run.

    Raises:
        InputError: a file is missing or damaged.
    """
    header = runs.header(case)
    frames, corner = header.shape[3], clip_corner(header, size)
    for start in clip_starts(frames, size[3], stride):
        yield read_clip(runs, case, start, (*size[:3], min(size[3], frames - start)), corner)


class Clips:
    """Batches of random clips.

    Run, place and first frame of a sample are a function of seed, stream, number of the batch and place in the batch
    of all processes. Where one of these runs is shorter than a clip, all clips of the batch have as many frames as it.

    Args:
        runs: where clips are read.
        cases: ids of the runs to draw from.
        size: voxels of a clip along x, y and z, and frames.
        batch_size: samples in the batch of all processes.
        share: those of a batch that are this process's.
        seed: random seed.
        stream: keeps the clips for training apart from those for validation.
        atlas: label map for "regions".
    """

    def __init__(
        self,
        runs: Runs,
        cases: Sequence[str],
        *,
        size: Sequence[int],
        batch_size: int,
        share: slice,
        seed: int,
        stream: int,
        atlas: Path | None = None,
    ) -> None:
        self.runs, self.cases = runs, list(cases)
        self.size = tuple(int(each) for each in size)
        self.batch_size, self.share = batch_size, share
        self.seed, self.stream = seed, stream
        self.atlas = None if atlas is None else AtlasRegions(atlas)

    def generate_numbered_batch(self, number: int) -> Batch:
        """Return a batch.

        Returns:
            "data" (b, 1, X, Y, Z, T), float32; "brain" (b, X, Y, Z), boolean; with an atlas "regions" (b, X, Y, Z),
            whole numbers, 0 for background; "keys", the ids of the runs.

        Raises:
            InputError: a file is missing or damaged.
        """
        streams = [np.random.default_rng((self.seed, self.stream, number, place)) for place in range(self.batch_size)]
        chosen = [self._cases(rng) for rng in streams]
        frames = min(self.size[3], *(self.runs.header(case).shape[3] for cases in chosen for case in cases))
        mine = zip(chosen[self.share], streams[self.share], strict=True)
        samples = [self._sample(cases, frames, rng) for cases, rng in mine]
        joined = {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
        return {**joined, "keys": [cases[0] for cases in chosen[self.share]]}

    def _cases(self, rng: np.random.Generator) -> list[str]:
        """Draw the runs of a sample, one for each of its clips."""
        return [self.cases[rng.integers(len(self.cases))]]

    def _starts(self, cases: Sequence[str], frames: int, rng: np.random.Generator) -> list[int]:
        return [int(rng.integers(self.runs.header(case).shape[3] - frames + 1)) for case in cases]

    def _sample(self, cases: Sequence[str], frames: int, rng: np.random.Generator) -> dict[str, Tensor]:
        size = (*self.size[:3], frames)
        corners = [clip_corner(self.runs.header(case), size, rng) for case in cases]
        starts = self._starts(cases, frames, rng)
        read = [read_clip(self.runs, *each) for each in zip(cases, starts, [size] * len(cases), corners, strict=True)]
        clips, brains = zip(*read, strict=True)
        sample = {"data": torch.cat(clips), "brain": brains[0] if len(brains) == 1 else torch.stack(brains)}
        if self.atlas is not None:
            header = self.runs.header(cases[0])
            sample["regions"] = self.atlas.of(header, corners[0], size[:3], name=cases[0])
        return sample


class ClipPairs(Clips):
    """Batches of two clips of one run or of one subject, for objectives that compare them.

    "data" is (b, 2, X, Y, Z, T) and "brain" (b, 2, X, Y, Z). Two clips of one run share no frame where it is long
    enough, else as few as possible.

    Args:
        runs: as in `Clips`.
        cases: as in `Clips`; the second clip is of one of these, too.
        subjects: run -> number of its subject. With it, the second clip is of another run of the subject, where there
            is one; a run that it does not name stands for itself.
        arguments: the rest of `Clips`.
    """

    def __init__(
        self, runs: Runs, cases: Sequence[str], *, subjects: Mapping[str, int] | None = None, **arguments: object
    ) -> None:
        super().__init__(runs, cases, **arguments)  # type: ignore[arg-type]
        subjects = subjects or {}
        self._others = {
            case: [other for other in self.cases if other != case and subjects.get(other, -1) == subjects[case]]
            for case in self.cases
            if case in subjects
        }

    def _cases(self, rng: np.random.Generator) -> list[str]:
        (first,) = super()._cases(rng)
        others = self._others.get(first) or [first]
        return [first, others[rng.integers(len(others))]]

    def _starts(self, cases: Sequence[str], frames: int, rng: np.random.Generator) -> list[int]:
        if cases[0] != cases[1]:
            return super()._starts(cases, frames, rng)
        spare = self.runs.header(cases[0]).shape[3] - frames
        room = max(spare - frames, 0)
        early, late = sorted(int(place) for place in rng.integers(room + 1, size=2))
        starts = [early, late + spare - room]
        return starts[::-1] if rng.integers(2) else starts
