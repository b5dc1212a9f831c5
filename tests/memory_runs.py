"""Runs in memory, with the interface by which clips are read."""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np


class MemoryRuns:
    """Random runs of given lengths: every voxel and frame differs, and half of the volume is brain."""

    def __init__(self, lengths: Mapping[str, int], size: Sequence[int] = (8, 8, 8), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.frames = {case: rng.normal(size=(*size, n)).astype(np.float32) for case, n in lengths.items()}
        self.cases = tuple(sorted(lengths))
        self.identifiers = list(self.cases)
        self.inside = np.zeros(tuple(size), dtype=bool)
        self.inside[: size[0] // 2] = True

    def header(self, case: str) -> Any:
        shape = self.frames[case].shape
        box = [[0, shape[0] // 2], [0, shape[1]], [0, shape[2]]]
        return SimpleNamespace(
            shape=shape, brain_box=box, background=-3.0, spacing=(2.0, 2.0, 2.0), repetition_time=0.8,
            standardised="run", affine=[[2.0, 0, 0, -8], [0, 2.0, 0, -8], [0, 0, 2.0, 5], [0, 0, 0, 1]],
        )  # fmt: skip

    def mask(self, case: str, box: Any = None) -> Any:
        return self.inside[_slices(box, self.inside.shape)]

    def clip(self, case: str, start: int, frames: int, box: Any = None) -> Any:
        assert 0 <= start <= self.frames[case].shape[3] - frames
        return self.frames[case][(*_slices(box, self.inside.shape), slice(start, start + frames))]


def _slices(box: Any, shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(*pair) for pair in box) if box is not None else tuple(map(slice, shape))
