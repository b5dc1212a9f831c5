"""Conversion of one 4-D run as the public code of NeuroSTORM prepares it (`bdfm convert fmri-... --legacy`)."""

import hashlib
import math

import numpy as np

from bdfm_nnunet.dataset_conversion.reading.geometry import hash_of_array
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.file_placement import writing
from bdfm_nnunet.dataset_conversion.writing.published_preparation import (
    SPACING,
    TIME_STEP,
    PublishedRun,
    published_affine,
    published_run,
)
from bdfm_nnunet.dataset_conversion.writing.run_lattice import Frames, in_ras
from bdfm_nnunet.dataset_conversion.writing.run_order import PROPERTIES, RunOrder
from bdfm_nnunet.dataset_conversion.writing.run_preparation import FRAMES_AT_ONCE, Timing
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.images.run_files import RunFile
from bdfm_nnunet.images.sequence_files import SequenceHeader, box_of, write_frames, write_header, write_mask
from bdfm_nnunet.images.volumes import Volume

STORE = "int8"
_COPIES = 6
"""Copies of all frames, in single precision, that the preparation needs at a time."""


def prepare_legacy(
    order: RunOrder, record: CaseRecord, run: RunFile, given: Volume | None, timing: Timing
) -> tuple[PublishedRun, SequenceHeader]:
    """Prepare a run with all of its frames in memory, and fill in the row.

    Args:
        order: what to convert.
        record: row of the manifest.
        run: the source.
        given: brain mask beside it.
        timing: its frames.

    Raises:
        Refusal: the memory does not suffice, or there is no brain whose values differ.
    """
    zooms = [float(step) for step in run.grid.spacing]
    _check_memory(run, zooms, timing)
    frames, hashes = _all_frames(run, timing.dropped)
    record.sha256[order.channel] = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    _check_values(frames, given, run.name)
    mask = None if given is None else given.array > 0
    found = published_run(frames, zooms, timing.repetition_time, mask)
    origin = f"given: {given.name}" if given else "derived: voxels that are not zero, in each frame anew"
    record.notes += [note for note in (run.note, *timing.told(), f"prepared as published; brain mask {origin}") if note]
    return found, _header(order, record, run, found, timing, origin)


def write_legacy(order: RunOrder, found: PublishedRun, header: SequenceHeader, record: CaseRecord) -> None:
    """Write the three files of a run."""
    targets = {role: order.folder / target for role, target in order.targets().items()}
    with writing(targets[order.channel]) as temporary:
        write_frames(temporary, [found.frames], header.shape, found.frames.dtype)
    with writing(targets[LABEL]) as temporary:
        write_mask(temporary, found.brain)
    record.notes.append(f"int8 changes voxels by up to {header.largest_error:g} standard deviations")
    write_header(targets[PROPERTIES], header)


def _all_frames(run: RunFile, dropped: int) -> tuple[Frames, list[str]]:
    """Return the frames that are kept, and the hash of every frame of the file."""
    frames, hashes, first = np.empty((*run.shape[:3], run.shape[3] - dropped), np.float32), [], 0
    for block in run.blocks(FRAMES_AT_ONCE):
        hashes += [hash_of_array(block[..., i], run.grid) for i in range(block.shape[3])]
        skipped = min(max(dropped - first, 0), block.shape[3])
        start = max(first - dropped, 0)
        frames[..., start : start + block.shape[3] - skipped] = block[..., skipped:]
        first += block.shape[3]
    return frames, hashes


def _check_memory(run: RunFile, zooms: list[float], timing: Timing) -> None:
    larger = math.prod(max(1.0, zoom / SPACING) for zoom in zooms) * max(1.0, timing.repetition_time / TIME_STEP)
    needed = _COPIES * 4 * math.prod(run.shape) * larger
    if needed > memory_bytes():
        raise Refusal(
            f"{run.name} needs about {needed / 2**30:,.1f} GiB for --legacy, which holds all frames in memory, more "
            "than this machine has: leave --legacy out, or use a machine with more memory"
        )


def _check_values(frames: Frames, given: Volume | None, name: str) -> None:
    inside = frames[given.array > 0] if given is not None else frames[frames != 0]
    if not inside.size or not inside.max() > max(float(inside.min()), 0.0):
        raise Refusal(f"{name} has no brain whose values differ: check that mask and run belong together")


def _header(
    order: RunOrder, record: CaseRecord, run: RunFile, found: PublishedRun, timing: Timing, origin: str
) -> SequenceHeader:
    zooms = [float(step) for step in run.grid.spacing]
    return SequenceHeader(
        shape=found.frames.shape,
        spacing=(SPACING,) * 3,
        repetition_time=TIME_STEP,
        affine=published_affine(in_ras(run.grid), run.shape[:3], zooms).tolist(),
        brain_box=box_of(found.brain),
        brain_voxels=int(found.brain.sum()),
        mask=origin,
        store=STORE,
        scale=found.scale,
        background=float(found.frames.min()) * found.scale,
        mean=found.mean,
        std=found.std,
        largest_error=float(f"{found.error:.4g}"),
        source=record.sources,
        source_repetition_time=timing.repetition_time,
        source_frames=run.shape[3],
        frames_dropped=timing.dropped,
        displacement=timing.displacement,
        task=order.task,
    )
