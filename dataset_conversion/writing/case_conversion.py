"""Checking and writing of one case."""

from pathlib import Path

import numpy as np

from bdfm_nnunet.dataset_conversion.reading.geometry import check_geometry, hash_of_values
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.writing.case_order import CaseOrder
from bdfm_nnunet.dataset_conversion.writing.case_record import REFUSED, TEST, CaseRecord
from bdfm_nnunet.dataset_conversion.writing.file_placement import place_file, remove, write_values, write_volume
from bdfm_nnunet.dataset_conversion.writing.label_maps import bits_of_masks, foreground_label, mapped_label
from bdfm_nnunet.errors import Refusal
from bdfm_nnunet.images.intensities import check_contrast, is_empty
from bdfm_nnunet.images.volumes import Volume
from bdfm_nnunet.safe_names import fault_of_name


def convert_case(task: CaseOrder) -> CaseRecord:
    """Check a case and, if it is good and this is no dry run, write it; a refused case leaves no file.

    Raises:
        InputError: the data set cannot be written.
    """
    record = task.new_record()
    try:
        record.sources = task.sources()
        volumes = task.read(record)
        _check(task, record, volumes)
        label = _label(task, record, volumes)
    except Refusal as refusal:
        record.status, record.reason = REFUSED, str(refusal)
        if not task.dry_run and not fault_of_name(task.case):
            _remove(task, {*task.targets().values(), *task.other_targets()})
        return record
    record.targets = task.targets()
    if not task.dry_run:
        _remove(task, task.other_targets())
        _write(task, record, volumes, label)
    return record


def _remove(task: CaseOrder, targets: set[str]) -> None:
    for target in targets:
        remove(task.folder / target)


# ---------------------------------------------------------------------------------------------------- checking


def _check(task: CaseOrder, record: CaseRecord, volumes: dict[str, Volume]) -> None:
    """Compare the volumes with one another and with the release, and fill in the row."""
    reference = next(iter(volumes.values()))
    record.shape, record.spacing = reference.shape, reference.spacing
    record.orientation = reference.grid.orientation
    optional, labels = task.optional(), task.label_roles()
    for role, volume in volumes.items():
        check_geometry(volume, reference)
        if role in optional and is_empty(volume):
            record.notes.append(f"{role} is empty")
            continue
        if role not in labels:
            check_contrast(volume)
        record.sha256[role] = hash_of_values(volume)
    _note_equal_channels(task, record)
    _note_what_is_special(task, record, volumes)


def _note_equal_channels(task: CaseOrder, record: CaseRecord) -> None:
    """Note channels with the same values: most likely one scan was taken for two."""
    holders: dict[str, list[str]] = {}
    for role, digest in record.sha256.items():
        if role in task.release.channels:
            holders.setdefault(digest, []).append(role)
    record.notes += [f"{' and '.join(roles)} hold the same values" for roles in holders.values() if len(roles) > 1]


def _note_what_is_special(task: CaseOrder, record: CaseRecord, volumes: dict[str, Volume]) -> None:
    for sentence in task.found.repaired:
        record.add_repair(sentence)
    for repair in task.release.repairs_of(task.case):
        for role in repair.missing:
            if role in task.release.channels and role not in volumes:
                record.add_repair(f"{repair.why} ({role} is missing and written as zeros)")
    record.notes += [f"{role}: {kind}" for role, kind in task.found.kinds.items() if role in volumes]
    record.notes += dict.fromkeys(volume.note for volume in volumes.values() if volume.note)
    release, grid = task.release, next(iter(volumes.values())).grid
    if release.grid is not None and grid.size != release.grid:
        record.notes.append(f"the grid is not the release's {' x '.join(map(str, release.grid))}")
    elif release.spacing is not None and not np.allclose(grid.spacing, release.spacing, rtol=1e-3):
        record.notes.append(f"the spacing is not the release's {' x '.join(f'{mm:g}' for mm in release.spacing)} mm")
    elif release.origin is not None and not np.allclose(grid.origin, release.origin, atol=1e-2):
        record.notes.append(f"the origin is not the release's ({', '.join(f'{mm:g}' for mm in release.origin)})")


def _label(task: CaseOrder, record: CaseRecord, volumes: dict[str, Volume]) -> np.ndarray | None:
    """Return the label map to be written; None if there is none or its file stays as it is."""
    if task.part == TEST:
        return None
    roles = task.label_roles()
    if not roles:
        return foreground_label(volumes, record)
    if roles == [LABEL]:
        return mapped_label(task.release, volumes[LABEL], record)
    return bits_of_masks({role: volumes[role] for role in roles}, record)


# ----------------------------------------------------------------------------------------------------- writing


def _write(task: CaseOrder, record: CaseRecord, volumes: dict[str, Volume], label: np.ndarray | None) -> None:
    first = next(iter(volumes.values()))
    for role, name in record.targets.items():
        target = task.folder / name
        if role == LABEL and label is not None:
            owner = volumes[(task.label_roles() or [next(iter(volumes))])[0]]
            write_values(label, target, like=owner.header)
        elif role not in volumes:
            write_values(np.zeros(first.stored.shape, np.uint8), target, like=first.header)
        else:
            _put(volumes[role], task.source / record.sources[role], target, task.link)


def _put(volume: Volume, source: Path, target: Path, link: str) -> None:
    if volume.as_it_is:
        place_file(source, target, link=link)
    else:
        write_volume(volume.header, volume.stored, target)
