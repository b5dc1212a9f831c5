"""The preparation of a run as the public code of NeuroSTORM does it, for comparisons with published weights.

Its rules are kept with their faults: positions and orientation are ignored, a voxel on the edge of the mask is brain
whatever its share, without a mask each frame has a background of its own (zeros), and negative values become zero.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.writing.run_lattice import Frames, along_axis

SPACING, TIME_STEP, SIZE = 2.0, 0.8, 96
STEPS = 127


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
    frames = _resized(frames.astype(np.float32), zooms)
    steps = max(1, round(frames.shape[3] * repetition_time / TIME_STEP))
    frames = _cropped(_resized_axis(frames, 3, steps))
    if mask is None:
        background = frames == 0
    else:
        brain = _cropped(_resized(mask[..., None].astype(np.float32), zooms))
        background = np.broadcast_to(brain == 0, frames.shape)
    frames = np.where(background | (frames < 0), np.float32(0), frames)
    values = frames[~background]
    frames = (frames - values.mean(dtype=np.float64)) / values.std(dtype=np.float64, ddof=1)
    frames[background] = frames[~background].min()
    scale = float(np.abs(frames).max()) / STEPS
    return np.rint(frames / scale).astype(np.int8), scale


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
