"""Conversion of a download to an nnU-Net data set; one engine for every release."""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdfm_nnunet.dataset_conversion.reading.scanning import scan
from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.split_checks import check_splits
from bdfm_nnunet.dataset_conversion.splits import splits_of
from bdfm_nnunet.dataset_conversion.writing.case_conversion import convert_case
from bdfm_nnunet.dataset_conversion.writing.case_order import CaseOrder
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.file_placement import LINKS, remove
from bdfm_nnunet.dataset_conversion.writing.folder_lock import only_writer
from bdfm_nnunet.dataset_conversion.writing.manifest import ConversionReport, write_manifest
from bdfm_nnunet.dataset_conversion.writing.resume_log import Order, ResumeLog
from bdfm_nnunet.dataset_conversion.writing.scheduling import run_all
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import is_unfinished, write_json
from bdfm_nnunet.images.sequence_files import FOLDER
from bdfm_nnunet.leftovers import is_leftover
from bdfm_nnunet.nnunet_folders import VARIABLES, nnunet_folder
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.safe_names import check_name

logger = logging.getLogger(__name__)
PARTS = ("imagesTr", "labelsTr", "imagesTs", FOLDER)


def convert_release(
    release: Release,
    source: str | os.PathLike[str],
    *,
    dataset_id: int,
    unlabelled: bool = False,
    link: str = "copy",
    workers: int = 1,
    dry_run: bool = False,
    manifest: str | os.PathLike[str] | None = None,
    channels: Sequence[str] | None = None,
    only: str | None = None,
    scheduler: str | None = None,
) -> ConversionReport:
    """Convert a download to `nnUNet_raw/DatasetXXX_NAME`; good cases are written even if others are refused.

    A second run with the same arguments does only what is missing or has changed. `dataset.json` is written last, so
    nnU-Net cannot take an unfinished data set for a whole one.

    Args:
        release: the table entry.
        source: folder of the unpacked download.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        unlabelled: use the foreground (voxels that are not zero in any channel, or above Otsu's threshold where the
            background is not zero) as label; no segmentation is needed.
        link: `copy`, `hard` or `sym`: how files that need no change are placed.
        workers: processes; with 1 everything happens in this one.
        dry_run: check every case, write the manifest and nothing else.
        manifest: where a dry run writes its manifest (`.json`, and a `.csv` beside it); the current folder by default.
        channels: names of the channels to take, in this order; by default those of the release.
        only: regular expression for whole case ids; other cases are left out.
        scheduler: address of a Dask scheduler whose workers do the cases instead of processes of this machine.

    Raises:
        InputError: `source` holds nothing of the release, the number is taken, another process writes the same data
            set, or a folder cannot be written.
    """
    check_numbers(dataset_id, workers, dry_run, manifest)
    if link not in LINKS:
        raise InputError(f"link = {link} is not known: choose one of {', '.join(LINKS)}")
    release = _release_to_convert(release, channels, unlabelled)
    folder = folder_of(release, dataset_id, unlabelled=unlabelled, dry_run=dry_run)
    source = Path(source).absolute()
    found = scan(source, release, only=only, leave_out=folder)
    tasks = [
        CaseOrder(release, case, content, source, folder.absolute(), unlabelled, link, dry_run)
        for case, content in found.cases.items()
    ]
    report = ConversionReport(
        folder, manifest_of(folder, dry_run, manifest), [], found.junk, found.unused, found.notes, dry_run
    )
    if dry_run:
        report.records = check_cases(tasks, convert_case, workers=workers, scheduler=scheduler)
        write_manifest(report, release, source=source, unlabelled=unlabelled)
        return report
    check_number_is_free(folder)
    with only_writer(folder):
        resume_log = ResumeLog(folder, release=release, unlabelled=unlabelled, link=link)
        report.records = write_cases(tasks, convert_case, resume_log, workers=workers, scheduler=scheduler)
        write_manifest(report, release, source=source, unlabelled=unlabelled)
        finish(report, release, unlabelled)
    return report


def _release_to_convert(release: Release, channels: Sequence[str] | None, unlabelled: bool) -> Release:
    """Return the release with the channels that were asked for; missing labels are an error."""
    if not (release.has_labels or unlabelled):
        remedy = "name its label files with --label, or " if release.is_open else ""
        raise InputError(
            f"{release.name} has no segmentations: {remedy}convert it with --unlabelled", entry="no-segmentations"
        )
    return release.with_channels(channels) if channels is not None else release


def folder_of(release: Release, dataset_id: int, *, unlabelled: bool = False, dry_run: bool = False) -> Path:
    """Return the folder of the data set, which a dry run names but does not need.

    Args:
        release: the table entry.
        dataset_id: nnU-Net's number of the data set.
        unlabelled: as in `convert_release`.
        dry_run: as in `convert_release`.

    Raises:
        InputError: its name cannot be that of a folder, or nnUNet_raw is not set.
    """
    name = f"Dataset{dataset_id:03d}_{release.dataset_name}{'Unlabelled' if unlabelled else ''}"
    check_name(name, "the name of the data set,")
    raw = Path(os.environ.get("nnUNet_raw", ".")) if dry_run else nnunet_folder("nnUNet_raw")
    return raw / name


def manifest_of(folder: Path, dry_run: bool, manifest: str | os.PathLike[str] | None) -> Path:
    """Return where the manifest is written: into the data set, or in a dry run where the user wants it."""
    if not dry_run:
        return folder / "manifest.json"
    return Path(manifest or f"{folder.name}.manifest.json").with_suffix(".json")


def _in_order(records: Iterable[CaseRecord]) -> list[CaseRecord]:
    return sorted(records, key=lambda record: record.case)


def check_numbers(dataset_id: int, workers: int, dry_run: bool, manifest: Any) -> None:
    """Refuse settings that no conversion can have.

    Raises:
        InputError: a number is out of range, or a manifest is named that would not be written there.
    """
    if not 1 <= dataset_id <= 999:
        raise InputError(f"data set number {dataset_id} is not possible in nnU-Net: choose one from 1 to 999")
    if workers < 1:
        raise InputError(f"{workers} workers are too few: give 1 or more")
    if manifest is not None and not dry_run:
        raise InputError(f"manifest {manifest} is for dry runs only: a conversion writes it into the data set's folder")


def check_cases(
    tasks: Sequence[Order], function: Callable[[Any], CaseRecord], *, workers: int, scheduler: str | None
) -> list[CaseRecord]:
    """Check the cases of a dry run, with a progress bar, and return their rows in the order of case ids.

    Args:
        tasks: one order per case, for a dry run.
        function: as in `write_cases`.
        workers: processes; with 1 everything happens in this one.
        scheduler: as in `write_cases`.
    """
    return _in_order(_with_bar(tasks, function, workers, scheduler, done=0))


# -------------------------------------------------------------------------------------------- writing the data set


def write_cases(
    tasks: Sequence[Order],
    function: Callable[[Any], CaseRecord],
    resume_log: ResumeLog,
    *,
    workers: int = 1,
    scheduler: str | None = None,
) -> list[CaseRecord]:
    """Write what is missing or has changed of the cases of a data set, with a progress bar.

    Args:
        tasks: one order per case.
        function: of a module that workers can import; writes a case and returns its row.
        resume_log: of the data set.
        workers: processes; with 1 everything happens in this one.
        scheduler: address of a Dask scheduler whose workers do the cases instead.

    Returns:
        The rows of all cases, in the order of case ids.

    Raises:
        InputError: the folder holds files of other cases, or a file cannot be written.
    """
    folder = resume_log.folder
    _check_foreign(folder, tasks)
    finished = {task.case: record for task in tasks if (record := resume_log.finished(task))}
    todo = {task.case: task for task in tasks if task.case not in finished}
    if todo:
        remove(folder / "dataset.json")
    _sweep(folder)
    resume_log.begin(set(finished))
    records = list(finished.values())
    for record in _with_bar(list(todo.values()), function, workers, scheduler, done=len(finished)):
        resume_log.add(todo[record.case], record)
        records.append(record)
    assert len(records) == len(tasks)
    return _in_order(records)


def check_number_is_free(folder: Path) -> None:
    """Refuse a number that one of nnU-Net's folders already holds under another name.

    Raises:
        InputError: the number is taken, or `folder` is something that this engine did not write.
    """
    prefix = folder.name.partition("_")[0] + "_"
    for variable in VARIABLES:
        root = folder.parent if variable == "nnUNet_raw" else Path(os.environ.get(variable) or folder.parent)
        for other in sorted(root.glob(prefix + "*")) if root.is_dir() else ():
            if other.name != folder.name:
                raise InputError(
                    f"{other} has that number already: choose another with -d, or remove that folder first",
                    entry="number-taken",
                )
    if (folder / "dataset.json").exists() and not (folder / "manifest.json").exists():
        raise InputError(
            f"{folder} was not written by bdfm convert: choose another number with -d, or remove it first",
            entry="foreign-dataset",
        )


def _check_foreign(folder: Path, tasks: Sequence[Order]) -> None:
    """Refuse to mix the cases of this download with others, which nnU-Net would take for part of the data set."""
    known = {target for task in tasks for target in (*task.targets().values(), *task.other_targets())}
    for part in PARTS:
        names = sorted(os.listdir(folder / part)) if (folder / part).is_dir() else []
        for name in names:
            if f"{part}/{name}" not in known and not is_unfinished(name) and not is_leftover(name):
                raise InputError(
                    f"{folder / part / name} belongs to no case of the download: name a folder that holds all cases, "
                    "choose another number with -d, or remove that file"
                )


def _sweep(folder: Path) -> None:
    """Remove temporary files of a run that was killed: nnU-Net would take them for cases."""
    for part in (folder, *(folder / name for name in PARTS)):
        for name in os.listdir(part) if part.is_dir() else ():
            if is_unfinished(name):
                remove(part / name)


def finish(report: ConversionReport, release: Release, unlabelled: bool, more: Mapping[str, Any] | None = None) -> None:
    """Write the splits and, last of all, dataset.json; a data set without a case to train on gets neither.

    Args:
        report: on the cases, which are written.
        release: the table entry.
        unlabelled: whether the labels are masks of the brain or head.
        more: entries of dataset.json beside or in place of the usual ones.

    Raises:
        InputError: a file cannot be written.
    """
    content = dataset_json(release, len(report.training), unlabelled=unlabelled) | dict(more or {})
    _write_splits(report.folder, content["labels"])
    if report.training:
        write_json(report.folder / "dataset.json", content)
    else:
        remove(report.folder / "dataset.json")
        logger.warning("no case to train on is left: %s is no data set for nnU-Net", report.folder)


def _write_splits(folder: Path, labels: Mapping[str, Any]) -> None:
    """Write the folds; those of an earlier run stay if they still fit, for users may have added fractions."""
    path = folder / "splits_final.json"
    if path.is_file() and not check_splits(folder).faults:
        return
    splits = splits_of(read_cases(folder), labels)
    if splits:
        write_json(path, splits)
    else:
        remove(path)
        logger.warning("%s has fewer than two patients: no splits_final.json was written", folder.name)


def dataset_json(release: Release, cases: int, *, unlabelled: bool) -> dict[str, Any]:
    """Return what nnU-Net must know about the data set; it holds no path of this machine."""
    labels: dict[str, Any] = {"background": 0, "brain": 1}
    order: dict[str, Any] = {}
    if not unlabelled:
        as_regions = bool(release.regions_class_order)
        regions = {name: list(values) if as_regions else values[0] for name, values in release.regions.items()}
        labels = {"background": 0, **regions}
        order = {"regions_class_order": list(release.regions_class_order)} if as_regions else {}
    return {
        "channel_names": {str(index): name for index, name in enumerate(release.channels)},
        "labels": labels,
        **order,
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "name": release.dataset_name,
        "description": release.title,
        "release": release.name,
        "licence": release.licence,
        "reference": release.url,
        "citation": release.citation,
        "converted_by": "bdfm_nnunet",
    }


# ------------------------------------------------------------------------------------------------------ progress


def _with_bar(
    tasks: Sequence[Order],
    function: Callable[[Any], CaseRecord],
    workers: int,
    scheduler: str | None,
    *,
    done: int,
) -> Iterator[CaseRecord]:
    """Yield finished cases in any order; the bar (cases, rate, time left) starts at `done`."""
    with tqdm(total=done + len(tasks), initial=done, unit="case", desc="cases", disable=None) as bar:
        for record in run_all(tasks, function, workers=workers, scheduler=scheduler):
            bar.update()
            yield record
