"""The preparation of a run as the public code of NeuroSTORM does it, for comparisons with published weights.

Its rules are kept with their faults: positions and orientation are ignored, a voxel on the edge of the mask is brain
whatever its share, without a mask each frame has a background of its own (zeros), and negative values become zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.writing.run_lattice import Frames, along_axis

SPACING, TIME_STEP, SIZE = 2.0, 0.8, 96
STEPS = 127


@dataclass(frozen=True)
class PublishedRun:
    """A run in the form that the public code stores.

    Attributes:
        frames: whole numbers, (x, y, z, t).
        scale: what they are multiplied by.
        brain: voxels that are brain in some frame, (x, y, z).
        mean: of the values in the brain.
        std: their standard deviation.
        error: largest difference of a stored voxel to its standard score.
    """

    frames: NDArray[np.int8]
    scale: float
    brain: NDArray[np.bool_]
    mean: float
    std: float
    error: float


def published_preparation(
    frames: Frames, zooms: Sequence[float], repetition_time: float, mask: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int8], float]:
    """Prepare a run as published: resize, crop, standardise and round to 8 bits.

    Args:
        frames: values, (x, y, z, t).
        zooms: mm per voxel, (x, y, z).
        repetition_time: seconds between frames.
        mask: of the brain, (x, y, z); None takes what is not zero.

    Returns:
        Frames, (x, y, z, t), and what their numbers are multiplied by. Axes longer than 96 are cropped, shorter ones
        padded when a clip is loaded (`padded_clip`).
    """
    found = published_run(frames, zooms, repetition_time, mask)
    return found.frames, found.scale


def published_run(
    frames: Frames, zooms: Sequence[float], repetition_time: float, mask: NDArray[np.bool_] | None = None
) -> PublishedRun:
    """Prepare a run as `published_preparation` does, and return what else is known of it."""
    frames = _resized(frames.astype(np.float32), zooms)
    frames = _cropped(_resized_axis(frames, 3, published_frames(frames.shape[3], repetition_time)))
    if mask is None:
        background = frames == 0
    else:
        brain = _cropped(_resized(mask[..., None].astype(np.float32), zooms))
        background = np.broadcast_to(brain == 0, frames.shape)
    frames = np.where(background | (frames < 0), np.float32(0), frames)
    values = frames[~background]
    mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64, ddof=1)
    frames = (frames - mean) / std
    frames[background] = frames[~background].min()
    scale = float(np.abs(frames).max()) / STEPS
    stored = np.rint(frames / scale).astype(np.int8)
    error = float(np.abs(stored * np.float32(scale) - frames).max())
    return PublishedRun(stored, scale, ~background.all(axis=3), float(mean), float(std), error)


def published_frames(frames: int, repetition_time: float) -> int:
    """Return how many frames are stored of a run."""
    return max(1, round(frames * repetition_time / TIME_STEP))


def published_affine(affine: NDArray[np.float64], shape: Sequence[int], zooms: Sequence[float]) -> NDArray[np.float64]:
    """Return where the stored voxels lie, from those of the source: the public code itself does not look.

    Args:
        affine: from voxel indices of the source to mm, 4 x 4.
        shape: voxels per axis of the source.
        zooms: mm per voxel.
    """
    index = np.eye(4)
    for axis, (length, zoom) in enumerate(zip(shape, zooms)):
        size = round(length * zoom / SPACING)
        step = length / size
        index[axis, axis] = step
        index[axis, 3] = (max(size - SIZE, 0) // 2 + 0.5) * step - 0.5
    return np.asarray(affine @ index)


def padded_clip(frames: NDArray[np.int8], scale: float) -> NDArray[np.float32]:
    """Return a clip as the public code loads it: padded to 96 voxels with the clip's first value.

    Args:
        frames: of the clip, (x, y, z, t).
        scale: what their numbers are multiplied by.
    """
    missing = [max(SIZE - length, 0) for length in frames.shape[:3]]
    widths = [((each + 1) // 2, each // 2) for each in missing]
    clip = frames.astype(np.float32) * np.float32(scale)
    return np.pad(clip, [*widths, (0, 0)], constant_values=clip.flat[0])


def _resized(frames: Frames, zooms: Sequence[float]) -> Frames:
    for axis, zoom in enumerate(zooms):
        frames = _resized_axis(frames, axis, round(frames.shape[axis] * zoom / SPACING))
    return frames


def _resized_axis(frames: Frames, axis: int, size: int) -> Frames:
    """Resize by linear interpolation between voxel centres, as torch does with `align_corners=False`."""
    length = frames.shape[axis]
    return along_axis(frames, axis, (np.arange(size) + 0.5) * (length / size) - 0.5)


def _cropped(frames: Frames) -> Frames:
    starts = [max(length - SIZE, 0) // 2 for length in frames.shape[:3]]
    return frames[tuple(slice(start, start + SIZE) for start in starts)]
