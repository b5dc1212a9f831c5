"""Stored 4-D runs: `CASE.b2nd` with the frames, `CASE_mask.b2nd` with the brain, `CASE.json` with what is known of it.

Shapes: frames (x, y, z, t), the mask (x, y, z), both compressed by Blosc2 in blocks that are read one by one.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, write_json

FOLDER = "sequencesTr"
PREPROCESSED = "sequences"
"""Folders of the runs in nnUNet_raw and, as the `data_identifier` of the plans says, in nnUNet_preprocessed."""
FRAMES, MASK, HEADER = ".b2nd", "_mask.b2nd", ".json"
"""Endings of the three files of a run."""
STORES: dict[str, Any] = {"float16": np.float16, "int16": np.int16, "int8": np.int8}
"""Number types of stored frames."""
FORMAT = 1
RUN_SCORES, VOXEL_SCORES = "run", "voxel"
"""Over what mean and deviation of standard scores are taken: the brain and all frames, or each voxel's frames."""
CHUNK_FRAMES = 4
BLOCK = 16
"""A block is 16 x 16 x 16 voxels of 4 frames: 32 KiB of float16, which fits a processor's first cache."""
_DAMAGE = (OSError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, MemoryError)
"""What Blosc2 raises over damaged files."""
_SHAPE = {
    "format": int, "shape": [int], "spacing": [float], "repetition_time": float, "affine": [[float]],
    "brain_box": [[int]], "brain_voxels": int, "mask": str, "standardised?": str, "store": str, "scale": float,
    "background": float, "mean": float, "std": float, "largest_error": float, "source": {str: str},
    "source_repetition_time": float, "source_frames": int, "frames_dropped": int, "displacement": (float, None),
    "task": str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SequenceHeader:
    """The properties of a stored run.

    Attributes:
        shape: voxels and frames, (x, y, z, t).
        spacing: mm per axis.
        repetition_time: seconds between stored frames.
        affine: from voxel indices to mm in RAS, 4 x 4.
        brain_box: first voxel of the brain and the one behind its last, for each axis.
        brain_voxels: voxels of the brain mask.
        mask: where the brain mask comes from, in words.
        standardised: whether scores are by mean and deviation over the whole `run` or of each `voxel` over its frames.
        store: number type of the frames, one of `STORES`.
        scale: stored numbers times this are standard scores.
        background: standard score of every voxel outside the brain.
        mean: mean of the source's values in the brain over all stored frames.
        std: their unbiased standard deviation.
        largest_error: largest difference of a stored voxel to its standard score.
        source: role to path relative to the download.
        source_repetition_time: seconds between the source's frames.
        source_frames: number of the source's frames.
        frames_dropped: how many were dropped at the start.
        displacement: mean framewise displacement in mm over the frames that were kept; None where it is not known.
        task: what the subject did; empty if unknown.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    repetition_time: float
    affine: Sequence[Sequence[float]]
    brain_box: Sequence[Sequence[int]]
    brain_voxels: int
    mask: str
    standardised: str = RUN_SCORES
    store: str = "float16"
    scale: float = 1.0
    background: float
    mean: float
    std: float
    largest_error: float = 0.0
    source: Mapping[str, str] = field(default_factory=dict)
    source_repetition_time: float
    source_frames: int
    frames_dropped: int = 0
    displacement: float | None = None
    task: str = ""


def box_of(brain: NDArray[np.bool_]) -> list[list[int]]:
    """Return the first voxel of a brain and the one behind its last, for each axis.

    Raises:
        IndexError: no voxel is brain.

    Example:
        >>> brain = np.zeros((5, 5, 5), dtype=bool)
        >>> brain[1:3, 2, 4] = True
        >>> box_of(brain)
        [[1, 3], [2, 3], [4, 5]]
    """
    lines = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    return [[int(line[0]), int(line[-1]) + 1] for line in lines]


def write_header(path: Path, header: SequenceHeader) -> None:
    """Write the properties of a run.

    Raises:
        InputError: the file cannot be written.
    """
    write_json(path, {"format": FORMAT, **asdict(header)})


def read_header(path: Path) -> SequenceHeader:
    """Read the properties of a run.

    Raises:
        InputError: the file is missing or no header of a run.
    """
    content = read_json(path, _SHAPE)
    content = {"standardised": RUN_SCORES, **content}  # older headers know no other
    known_form = content["format"] == FORMAT and content["store"] in STORES
    known_form = known_form and content["standardised"] in (RUN_SCORES, VOXEL_SCORES)
    if not (known_form and len(content["shape"]) == 4 and _is_box(content["brain_box"])):
        raise InputError(f"{path} is no header of a run that this version knows: convert the run again")
    known = {each.name: content[each.name] for each in fields(SequenceHeader)}
    return SequenceHeader(**{**known, "shape": tuple(content["shape"]), "spacing": tuple(content["spacing"])})


def _is_box(box: Sequence[Sequence[int]]) -> bool:
    return len(box) == 3 and all(len(pair) == 2 and 0 <= pair[0] < pair[1] for pair in box)


# ------------------------------------------------------------------------------------------------------------ arrays


def write_frames(path: Path, blocks: Iterable[NDArray[Any]], shape: Sequence[int], dtype: DTypeLike) -> None:
    """Write the frames of a run, one block after the other, each compressed once.

    Args:
        path: a file that is not there yet.
        blocks: successive frames, (x, y, z, some); all but the last are multiples of `CHUNK_FRAMES`.
        shape: of all frames, (x, y, z, t).
        dtype: number type.

    Raises:
        OSError: the file cannot be written.
    """
    with _as_os_error(path):
        array = _empty(path, shape, (*shape[:3], CHUNK_FRAMES), (BLOCK, BLOCK, BLOCK, CHUNK_FRAMES), dtype)
    start = 0
    for block in blocks:
        with _as_os_error(path):
            array[..., start : start + block.shape[3]] = np.ascontiguousarray(block, dtype=dtype)
        start += block.shape[3]
    assert start == shape[3]


def write_mask(path: Path, mask: NDArray[np.bool_]) -> None:
    """Write the brain mask of a run, (x, y, z).

    Raises:
        OSError: the file cannot be written.
    """
    with _as_os_error(path):
        _empty(path, mask.shape, mask.shape, (2 * BLOCK,) * 3, np.bool_)[...] = mask


@contextmanager
def _as_os_error(path: Path) -> Iterator[None]:
    """Turn what Blosc2 raises over files that cannot be written, a full disk above all, into the usual error."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(errno.EIO, f"Blosc2: {error}", os.fspath(path)) from error


def _empty(path: Path, shape: Sequence[int], chunks: Sequence[int], blocks: Sequence[int], dtype: DTypeLike) -> Any:
    fitting = [min(pair) for pair in zip(chunks, shape)]
    return blosc2.empty(
        tuple(shape),
        dtype=np.dtype(dtype),
        chunks=tuple(fitting),
        blocks=tuple(min(pair) for pair in zip(blocks, fitting)),
        urlpath=os.fspath(path),
        mode="w",
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1),
    )


def read_part(path: Path, part: tuple[slice, ...], shape: Sequence[int]) -> NDArray[Any]:
    """Read a part of an array; only its blocks are read from the disk.

    Args:
        path: the file.
        part: a slice per axis.
        shape: what the header says of the whole.

    Raises:
        InputError: the file is missing or damaged, or has another shape.
    """
    try:
        array = blosc2.open(urlpath=os.fspath(path), mode="r", dparams={"nthreads": 1})
        there = tuple(array.shape)
        found = np.asarray(array[part]) if there == tuple(shape) else None
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path} cannot be read ({reason}): convert the run again") from error
    if found is None:
        raise InputError(f"{path} has the shape {there}, its header says {tuple(shape)}: convert the run again")
    return found
