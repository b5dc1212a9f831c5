"""Checking and writing of one 4-D run."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.reading.confounds import Confounds, read_confounds
from bdfm_nnunet.dataset_conversion.reading.geometry import check_geometry
from bdfm_nnunet.dataset_conversion.reading.repetition_times import repetition_time
from bdfm_nnunet.dataset_conversion.release import CONFOUNDS, LABEL
from bdfm_nnunet.dataset_conversion.writing.case_record import REFUSED, CaseRecord
from bdfm_nnunet.dataset_conversion.writing.file_placement import remove, writing
from bdfm_nnunet.dataset_conversion.writing.legacy_runs import prepare_legacy, write_legacy
from bdfm_nnunet.dataset_conversion.writing.run_lattice import (
    Frames,
    Lattice,
    SpaceResampler,
    own_lattice,
    template_lattice,
)
from bdfm_nnunet.dataset_conversion.writing.run_order import PROPERTIES, SIDECAR, RunOrder
from bdfm_nnunet.dataset_conversion.writing.run_preparation import (
    FRAMES_AT_ONCE,
    Mask,
    Resampling,
    Standardisation,
    Timing,
    VoxelStatistics,
    without_constant,
)
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.files import memory_bytes
from bdfm_nnunet.images.run_files import RunFile, open_run
from bdfm_nnunet.images.sequence_files import (
    STORES,
    VOXEL_SCORES,
    SequenceHeader,
    box_of,
    write_frames,
    write_header,
    write_mask,
)
from bdfm_nnunet.images.volumes import COPIES, Volume, read_volume
from bdfm_nnunet.safe_names import fault_of_name

TEMPLATE_BRAIN = (0.0, -22.0, 10.0)
"""mm in RAS: the centre of gravity of the MNI152 template's brain."""
FARTHEST = 30.0
"""mm between the centres of the template's brain and that of a run in its space."""
SCANNER = 1
"""Code of a NIfTI header for positions in the scanner."""


@dataclass(frozen=True)
class PreparedRun:
    """A run that was checked, with all that its second pass needs.

    Attributes:
        header: what is known of it.
        resampling: from the source to stored frames.
        standardisation: from their values to stored numbers.
    """

    header: SequenceHeader
    resampling: Resampling
    standardisation: Standardisation


def convert_run(order: RunOrder) -> CaseRecord:
    """Check a run and, if it is good and this is no dry run, write it; a refused run leaves no file.

    Raises:
        InputError: the data set cannot be written.
    """
    record = order.new_record()
    try:
        record.sources = order.sources()
        convert = _convert_as_published if order.settings.legacy else _convert
        convert(order, record)
    except Refusal as refusal:
        record.status, record.reason = REFUSED, str(refusal)
        if not order.dry_run and not fault_of_name(order.case):
            for target in order.targets().values():
                remove(order.folder / target)
        return record
    record.targets = order.targets()
    return record


# ---------------------------------------------------------------------------------------------------- first pass


def _convert(order: RunOrder, record: CaseRecord) -> None:
    prepared = _prepare(order, record)
    if not order.dry_run:
        _write(order, prepared, record)


def _convert_as_published(order: RunOrder, record: CaseRecord) -> None:
    run = _opened(order, record)
    given = _given_mask(order, record, run)
    found, header = prepare_legacy(order, record, run, given, _timing(order, record, run))
    if not order.dry_run:
        write_legacy(order, found, header, record)


def _opened(order: RunOrder, record: CaseRecord) -> RunFile:
    """Return the source, and fill in what its header tells."""
    name = record.sources[order.channel]
    run = open_run(order.source / name, name)
    record.shape = list(run.shape)
    record.spacing = [float(f"{value:.6g}") for value in run.grid.spacing]
    record.orientation = run.grid.orientation
    return run


def _prepare(order: RunOrder, record: CaseRecord) -> PreparedRun:
    """Read all frames once, check them, and fill in the row."""
    run = _opened(order, record)
    given = _given_mask(order, record, run)
    timing = _timing(order, record, run)
    resampling = _resampling(order, run, timing)
    hashes: list[str] = []
    statistics = VoxelStatistics.of(resampling.frames(hashes), resampling.lattice.shape)
    record.sha256[order.channel] = hashlib.sha256(" ".join(hashes).encode()).hexdigest()
    mask, origin = _brain(resampling, statistics, given)
    mask, constant = without_constant(mask, statistics, run.name)
    if constant:
        record.notes.append(f"{constant} voxels of the brain mask never change and were taken out of it")
    if order.in_template:
        _check_place(mask, resampling, run.name)
    voxels = order.settings.standardise == VOXEL_SCORES
    standard = Standardisation.of(mask, statistics, run.name, store=order.settings.store, each_voxel=voxels)
    derived = "" if origin.startswith("given") else f"brain mask {origin}"
    record.notes += [note for note in (run.note, *timing.told(), derived) if note]
    moments = statistics.moments(mask)
    return PreparedRun(_header(order, record, resampling, standard, moments, timing, origin), resampling, standard)


def _given_mask(order: RunOrder, record: CaseRecord, run: RunFile) -> Volume | None:
    """Return the brain mask that lies beside the run, on the same grid."""
    if (name := record.sources.get(LABEL)) is None:
        return None
    mask = read_volume(order.source / name, name, by_nibabel=True)
    check_geometry(mask, _one_frame(run))
    if not np.isfinite(mask.array).all() or not (mask.array > 0).any():
        raise Refusal(f"{name} is no brain mask (it holds no voxel above zero, or NaN): make it anew")
    return mask


def _one_frame(run: RunFile) -> Volume:
    """Return the grid of a run as a volume without values, for comparison."""
    nothing = np.zeros(0)
    return Volume(run.name, run.header, nothing, nothing, run.grid, as_it_is=False)


def _timing(order: RunOrder, record: CaseRecord, run: RunFile) -> Timing:
    """Return which frames are kept; their number and their motion are checked."""
    settings = order.settings
    paths = [path for role, path in record.sources.items() if role.startswith(f"{SIDECAR}:")]
    tr, notes = repetition_time(run, [(order.source / path, path) for path in paths], settings.tr)
    record.notes += notes
    confounds = _confounds(order, record, run)
    marked = confounds.non_steady if confounds and not settings.legacy else 0
    dropped = marked if settings.drop is None else settings.drop
    motion = confounds.mean_displacement(dropped) if confounds else None
    _check_motion(order, run, motion, confounds)
    _check_length(order, run, dropped, tr)
    return Timing(tr, dropped, motion)


def _resampling(order: RunOrder, run: RunFile, timing: Timing) -> Resampling:
    """Return the steps of space and time."""
    settings = order.settings
    if order.in_template:
        _check_space(run)
    if order.in_template and settings.size:
        lattice = template_lattice(settings.spacing, settings.size)
    else:
        lattice = own_lattice(run.grid, settings.spacing, settings.size)
    _check_memory(run, lattice)
    return Resampling(run, lattice, timing.dropped, timing.repetition_time, settings.time_step)


def _confounds(order: RunOrder, record: CaseRecord, run: RunFile) -> Confounds | None:
    if (name := record.sources.get(CONFOUNDS)) is None:
        return None
    confounds = read_confounds(order.source / name, name)
    if confounds.frames != run.shape[3]:
        raise Refusal(
            f"{name} has {confounds.frames} rows but {run.name} has {run.shape[3]} frames: take files of the run that "
            "belong together"
        )
    return confounds


def _check_motion(order: RunOrder, run: RunFile, motion: float | None, confounds: Confounds | None) -> None:
    most = order.settings.max_displacement
    if most is None:
        return
    if motion is None:
        there = "its table of confounds does not tell it" if confounds else "it has no table of confounds"
        raise Refusal(f"the framewise displacement of {run.name} is not known ({there}): leave out --max-fd to take it")
    if motion > most:
        raise Refusal(
            f"{run.name} has a mean framewise displacement of {motion:.3g} mm, more than {most:g}: leave it out, or "
            "raise --max-fd"
        )


def _check_length(order: RunOrder, run: RunFile, dropped: int, tr: float) -> None:
    left, settings = run.shape[3] - dropped, order.settings
    stored = round(left * tr / settings.time_step) if left > 0 else 0
    if stored < settings.min_frames:
        raise Refusal(
            f"{run.name} gives {stored} frames of {settings.time_step:g} s ({run.shape[3]} of {tr:g} s, {dropped} "
            f"dropped), fewer than {settings.min_frames}: leave it out, or lower --min-frames"
        )


def _check_space(run: RunFile) -> None:
    code = int(run.header["sform_code"]) or int(run.header["qform_code"])
    if code == SCANNER:
        raise Refusal(
            f"{run.name} lies in the space of the scanner by its header, not in that of the MNI template: register it "
            "first, or take it as it lies with --grid own"
        )


def _check_memory(run: RunFile, lattice: Lattice) -> None:
    needed = COPIES * FRAMES_AT_ONCE * 4 * max(math.prod(run.shape[:3]), math.prod(lattice.shape))
    if needed > memory_bytes():
        raise Refusal(
            f"{run.name} asks in its header for {needed / 2**30:,.1f} GiB to work on {FRAMES_AT_ONCE} frames, more "
            "than this machine has: check the file, or use a machine with more memory"
        )


def _brain(resampling: Resampling, statistics: VoxelStatistics, given: Volume | None) -> tuple[Mask, str]:
    resampler = SpaceResampler(resampling.run.grid, resampling.lattice)
    if given is None:
        return statistics.brain(resampler.inside)
    share = resampler((given.array > 0).astype(np.float32)[..., None])[..., 0]
    return share >= 0.5, f"given: {given.name}"


def _check_place(mask: Mask, resampling: Resampling, name: str) -> None:
    centre = np.argwhere(mask).mean(axis=0) * resampling.lattice.spacing + resampling.lattice.origin
    away = float(np.linalg.norm(centre - TEMPLATE_BRAIN))
    if away > FARTHEST:
        raise Refusal(
            f"{name} has its brain {away:.0f} mm away from that of the MNI template: register it first, or take it as "
            "it lies with --grid own"
        )


def _header(
    order: RunOrder,
    record: CaseRecord,
    resampling: Resampling,
    standard: Standardisation,
    moments: tuple[float, float],
    timing: Timing,
    origin: str,
) -> SequenceHeader:
    run, lattice = resampling.run, resampling.lattice
    return SequenceHeader(
        shape=(*lattice.shape, len(resampling.positions)),
        spacing=(lattice.spacing,) * 3,
        repetition_time=resampling.time_step,
        affine=lattice.affine.tolist(),
        brain_box=box_of(standard.mask),
        brain_voxels=int(standard.mask.sum()),
        mask=origin,
        standardised=order.settings.standardise,
        store=standard.store,
        scale=standard.scale,
        background=standard.background,
        mean=moments[0],
        std=moments[1],
        source=record.sources,
        source_repetition_time=resampling.repetition_time,
        source_frames=run.shape[3],
        frames_dropped=resampling.dropped,
        displacement=timing.displacement,
        task=order.task,
    )


# --------------------------------------------------------------------------------------------------- second pass


def _write(order: RunOrder, prepared: PreparedRun, record: CaseRecord) -> None:
    targets = {role: order.folder / target for role, target in order.targets().items()}
    errors: list[float] = []
    with writing(targets[order.channel]) as temporary:
        write_frames(temporary, _stored(prepared, errors), prepared.header.shape, STORES[prepared.header.store])
    with writing(targets[LABEL]) as temporary:
        write_mask(temporary, prepared.standardisation.mask)
    error = float(f"{max(errors):.4g}")
    if prepared.header.store == "int8":
        record.notes.append(f"int8 changes voxels by up to {error:g} standard deviations")
    write_header(targets[PROPERTIES], replace(prepared.header, largest_error=error))


def _stored(prepared: PreparedRun, errors: list[float]) -> Iterator[NDArray[Any]]:
    """Yield the numbers of all frames, and note how far they are from standard scores."""
    standard = prepared.standardisation
    for block in prepared.resampling.frames():
        scores: Frames = standard.scores(block)
        stored = standard.stored(scores)
        errors.append(float(np.abs(stored * np.float32(standard.scale) - scores).max()))
        yield stored
