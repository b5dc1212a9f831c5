"""Checks one case and writes it."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.dataset_conversion.placing import place, remove, write_labels
from bdfm_nnunet.dataset_conversion.release import LABEL, Release
from bdfm_nnunet.dataset_conversion.volumes import (
    Refusal,
    Volume,
    check_geometry,
    check_image,
    hash_of_values,
    label_histogram,
    read_volume,
)

OK, REPAIRED, REFUSED = "ok", "repaired", "refused"


@dataclass
class CaseRecord:
    """One row of the manifest.

    Attributes:
        case: case id.
        patient: patient key.
        status: `ok`, `repaired` (the release's repair list covered a fault) or `refused`.
        reason: why it was refused or what was repaired, one sentence.
        notes: what is unusual but fine.
        sources: role to path relative to the download.
        targets: role to path relative to the data set; empty when refused.
        labels: label values on the disk and their voxels.
        sha256: role to the hash of the voxel values.
        shape: voxels, (x, y, z).
        spacing: mm, (x, y, z).
        orientation: where the axes point to.
    """

    case: str
    patient: str
    status: str = OK
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    targets: dict[str, str] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    shape: list[int] = field(default_factory=list)
    spacing: list[float] = field(default_factory=list)
    orientation: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The row as plain JSON types."""
        return {**asdict(self), "labels": {str(value): count for value, count in self.labels.items()}}

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> "CaseRecord":
        """The inverse of `as_dict`."""
        return cls(**{**row, "labels": {int(value): count for value, count in row["labels"].items()}})


@dataclass(frozen=True)
class Task:
    """All that a worker process needs to do one case.

    Attributes:
        release: the table entry.
        case: case id.
        files: role to the paths found for it, relative to `source`.
        source: the download.
        folder: the nnU-Net data set.
        unlabelled: label with the brain mask.
        link: how unchanged files are placed.
        dry_run: check only.
    """

    release: Release
    case: str
    files: dict[str, list[str]]
    source: Path
    folder: Path
    unlabelled: bool
    link: str
    dry_run: bool

    def roles(self) -> list[str]:
        """The files that the case must have."""
        return [*self.release.channels] if self.unlabelled else [*self.release.channels, LABEL]

    def targets(self) -> dict[str, str]:
        """Role to path inside the data set."""
        images = {role: f"imagesTr/{self.case}_{i:04d}.nii.gz" for i, role in enumerate(self.release.channels)}
        return {**images, LABEL: f"labelsTr/{self.case}.nii.gz"}


def do_case(task: Task) -> CaseRecord:
    """Checks a case and, if it is good and this is no dry run, writes it; a refused one leaves no file.

    Raises:
        InputError: the data set cannot be written.
    """
    record = CaseRecord(task.case, task.release.patient_of(task.case))
    try:
        record.sources = sources_of(task)
        volumes = _read_case(task, record)
    except Refusal as refusal:
        record.status, record.reason = REFUSED, str(refusal)
        if not task.dry_run:
            remove_targets(task)
        return record
    record.targets = task.targets()
    if not task.dry_run:
        _write_case(task, record, volumes)
    return record


def sources_of(task: Task) -> dict[str, str]:
    """The one file of every role.

    Raises:
        Refusal: a file is missing, or there are two of one name.
    """
    for role, paths in task.files.items():
        if len(paths) > 1 and role in task.roles():
            raise Refusal(
                f"{task.case} has {len(paths)} files for {role}, {' and '.join(paths)}: keep the right one and "
                "move the others out of the folder"
            )
    missing = [role for role in task.roles() if not task.files.get(role)]
    if missing:
        names = " and ".join(f"{task.case}{task.release.suffixes()[role]}.nii.gz" for role in missing)
        remedy = "download the case again"
        if missing == [LABEL]:
            remedy += ", or use --unlabelled for cases without segmentation"
        raise Refusal(f"{names} {'is' if len(missing) == 1 else 'are'} missing: {remedy}")
    return {role: task.files[role][0] for role in task.roles()}


def remove_targets(task: Task) -> None:
    """Removes what an earlier run wrote for a case."""
    for target in task.targets().values():
        remove(task.folder / target)


def _read_case(task: Task, record: CaseRecord) -> dict[str, Volume]:
    """Reads and checks all files of a case and fills in its row."""
    volumes: dict[str, Volume] = {}
    for role, name in record.sources.items():
        volume = volumes[role] = read_volume(task.source / name, name)
        reference = next(iter(volumes.values()))
        if not record.shape:
            record.shape, record.spacing = volume.shape, volume.spacing
            record.orientation = volume.grid.orientation
        check_geometry(volume, reference)
        if role == LABEL:
            record.labels = label_histogram(volume)
            _check_labels(task.release, volume, record)
        else:
            check_image(volume)
        record.sha256[role] = hash_of_values(volume)
    grid = task.release.grid
    if grid is not None and record.shape != list(grid):
        record.notes.append(f"the grid is not the release's {' x '.join(map(str, grid))}")
    return volumes


def _check_labels(release: Release, volume: Volume, record: CaseRecord) -> None:
    unknown = {value: count for value, count in record.labels.items() if value != 0 and value not in release.labels}
    if unknown:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in list(unknown.items())[:5])
        known = ", ".join(map(str, [0, *release.labels]))
        raise Refusal(
            f"{volume.name} has label {listed} but {release.name} knows {known}: check that the release is the right "
            "one, and correct the file or leave the case out"
        )
    if set(record.labels) == {0}:
        record.notes.append("the segmentation is empty")


def _write_case(task: Task, record: CaseRecord, volumes: dict[str, Volume]) -> None:
    for role, target in record.targets.items():
        if role == LABEL and task.unlabelled:
            first = next(iter(volumes))
            brain = np.logical_or.reduce([volume.array != 0 for volume in volumes.values()])
            write_labels(brain, task.folder / target, like=task.source / record.sources[first])
        elif role == LABEL and any(task.release.target_of(value) != value for value in record.labels):
            _write_mapped(task, record, volumes[LABEL])
        else:
            place(task.source / record.sources[role], task.folder / target, link=task.link)


def _write_mapped(task: Task, record: CaseRecord, volume: Volume) -> None:
    mapped = np.zeros(volume.array.shape, dtype=np.uint8)
    for value in record.labels:
        mapped[volume.array == value] = task.release.target_of(value)
    write_labels(mapped, task.folder / record.targets[LABEL], like=task.source / record.sources[LABEL])
