"""Writing made-up cases as an nnU-Net data set, with the manifest that `bdfm convert` leaves."""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.conversion import check_number_is_free, finish, write_cases
from bdfm_nnunet.dataset_conversion.reading.geometry import hash_of_values
from bdfm_nnunet.dataset_conversion.release import LABEL, Release, Source, one_label_each
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.file_placement import write_values
from bdfm_nnunet.dataset_conversion.writing.folder_lock import only_writer
from bdfm_nnunet.dataset_conversion.writing.manifest import ConversionReport, write_manifest
from bdfm_nnunet.dataset_conversion.writing.resume_log import ResumeLog, stamp_of
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.label_values import histogram
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.patients import MADE_UP
from bdfm_nnunet.safe_names import check_name
from bdfm_nnunet.synthesis.head_maps import find_maps, read_map
from bdfm_nnunet.synthesis.made_up_case import MadeUpCase, draw_case
from bdfm_nnunet.synthesis.synthesis_settings import SynthesisSettings

ENGINE = 1
"""To be raised when the same settings give other images."""


@dataclass(frozen=True)
class DrawOrder:
    """The order to draw one case: all that a worker process needs for it.

    Attributes:
        number: of the case.
        patient: name of the map.
        file: of the map, in `source`.
        source: folder of the maps.
        folder: the nnU-Net data set.
        settings: what is drawn.
    """

    number: int
    patient: str
    file: str
    source: Path
    folder: Path
    settings: SynthesisSettings

    @property
    def case(self) -> str:
        """The case id."""
        return f"{self.patient}_{self.number:04d}"

    def sources(self) -> dict[str, str]:
        """Return the map, relative to `source`."""
        return {LABEL: self.file}

    def targets(self) -> dict[str, str]:
        """Map each role to its path inside the data set."""
        channels = enumerate(self.settings.channels)
        images = {name: f"imagesTr/{self.case}_{index:04d}.nii.gz" for index, name in channels}
        return {**images, LABEL: f"labelsTr/{self.case}.nii.gz"}

    def other_targets(self) -> set[str]:
        """Return nothing: a case is never in another part."""
        return set()

    def stamp(self, name: str) -> list[int] | None:
        """Return numbers that change when a map does; None if it is not there."""
        return stamp_of(self.source / name)

    def new_record(self) -> CaseRecord:
        """Return the row of the case before it is drawn."""
        return CaseRecord(self.case, self.patient, sources=self.sources(), targets=self.targets())


def synthesise(
    maps: str | os.PathLike[str],
    *,
    dataset_id: int,
    images: int,
    settings: SynthesisSettings,
    name: str = "MadeUp",
    workers: int = 1,
    scheduler: str | None = None,
) -> ConversionReport:
    """Write `nnUNet_raw/DatasetXXX_NAME` with images drawn from label maps.

    Case k is drawn from map k modulo their number, and cases of one map count as one patient. A second run draws what
    is missing; more images may be asked for later. `dataset.json` is written last.

    Args:
        maps: folder of label maps.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        images: number of cases.
        settings: what is drawn.
        name: the part of the data set's name after the number.
        workers: processes.
        scheduler: address of a Dask scheduler whose workers draw the cases instead of processes of this machine.

    Raises:
        InputError: a map cannot be used, the number is taken, or a file cannot be written.
    """
    if images < 1:
        raise InputError(f"{images} images are too few: ask for 1 or more")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"--name {name!r} cannot be part of a data set's name: use letters, digits, _ and -")
    folder = nnunet_folder("nnUNet_raw") / check_name(f"Dataset{dataset_id:03d}_{name}", "the name of the data set,")
    orders = _orders(Path(maps).absolute(), folder.absolute(), images, settings)
    release, unlabelled = _release(settings, name), not settings.class_values
    check_number_is_free(folder)
    with only_writer(folder):
        log = ResumeLog(folder, release=release, unlabelled=unlabelled, link="", rules=_digest(settings))
        records = write_cases(orders, draw_and_write, log, workers=workers, scheduler=scheduler)
        report = ConversionReport(folder, folder / "manifest.json", records, [], [], [], dry_run=False)
        report.notes += _notes(records, settings)
        write_manifest(report, release, source=Path(maps), unlabelled=unlabelled)
        finish(report, release, unlabelled)
    return report


def _orders(maps: Path, folder: Path, images: int, settings: SynthesisSettings) -> list[DrawOrder]:
    """Return the orders of all cases, those of one map one after the other."""
    found = find_maps(maps)
    names = list(found)
    orders = []
    for number in range(images):
        patient = names[number % len(names)]
        orders.append(DrawOrder(number, patient, found[patient].name, maps, folder, settings))
    return sorted(orders, key=lambda order: order.case)


def _notes(records: Sequence[CaseRecord], settings: SynthesisSettings) -> list[str]:
    """Return what a user should know: classes that no image has."""
    seen = {value for record in records for value in record.labels}
    return [f"no image has the class {name}" for name, value in settings.class_values.items() if value not in seen]


def _digest(settings: SynthesisSettings) -> str:
    return hashlib.sha256(json.dumps([ENGINE, asdict(settings)], sort_keys=True).encode()).hexdigest()


def _release(settings: SynthesisSettings, name: str) -> Release:
    labels = {value: text for text, value in settings.class_values.items()}
    return Release(
        name=MADE_UP,
        title="images made up from label maps",
        dataset_name=name,
        case_pattern=".+",
        patient_pattern="",
        channels={channel: Source(channel) for channel in settings.channels},
        citation="images made up from label maps after Billot et al., SynthSeg, Medical Image Analysis 86 (2023)",
        **one_label_each(labels),
    )


def draw_and_write(order: DrawOrder) -> CaseRecord:
    """Draw a case, write its files and return its row.

    Raises:
        InputError: its map cannot be used, or a file cannot be written.
    """
    case = draw_case(read_map(order.source / order.file), order.settings, order.number)
    header, record = _header(case), order.new_record()
    arrays: list[NDArray[Any]] = [*case.images, case.label]
    for (role, target), values in zip(record.targets.items(), arrays):
        path = order.folder / target
        write_values(values, path, like=header)
        volume = read_volume(path, str(path))
        record.sha256[role] = hash_of_values(volume)
        record.shape, record.spacing, record.orientation = volume.shape, volume.spacing, volume.grid.orientation
    record.labels = histogram(case.label)
    return record


def _header(case: MadeUpCase) -> Any:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ case.affine
    header = nib.Nifti1Image(case.label, affine).header
    header.set_qform(affine, code=1)
    header.set_sform(affine, code=1)
    header.set_xyzt_units("mm")
    header["vox_offset"] = header.single_vox_offset
    return header
