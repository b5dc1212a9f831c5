"""Conversion of DICOM series to an nnU-Net data set without names: the engine behind `bdfm convert dicom`."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bdfm_nnunet.dataset_conversion.conversion import (
    check_cases,
    check_number_is_free,
    check_numbers,
    finish,
    folder_of,
    manifest_of,
    write_cases,
)
from bdfm_nnunet.dataset_conversion.reading.dicom_tree import DicomTree, FoundSeries, read_tree
from bdfm_nnunet.dataset_conversion.reading.own_data import OWN_DATA, dataset_name
from bdfm_nnunet.dataset_conversion.reading.scanning import FoundCase, chosen_cases
from bdfm_nnunet.dataset_conversion.reading.series_contrasts import CHANNELS, propose
from bdfm_nnunet.dataset_conversion.reading.series_table import read_series, write_series
from bdfm_nnunet.dataset_conversion.release import Release, Source
from bdfm_nnunet.dataset_conversion.writing.case_conversion import convert_case
from bdfm_nnunet.dataset_conversion.writing.dicom_order import DicomOrder
from bdfm_nnunet.dataset_conversion.writing.folder_lock import only_writer
from bdfm_nnunet.dataset_conversion.writing.manifest import ConversionReport, write_manifest
from bdfm_nnunet.dataset_conversion.writing.resume_log import ResumeLog
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.dicom_key import DicomKey, KeySeries, check_apart
from bdfm_nnunet.patients import MANIFEST, read_manifest

DICOM = Release(
    name="dicom",
    title="any folders of DICOM series, written without names, dates and UIDs",
    dataset_name="DICOM",
    case_pattern=r"sub-\d+_ses-\d+",
    patient_pattern=r"^(sub-\d+)",
    session_pattern=r"_ses-(\d+)$",
    channels={name: Source(re.escape(meaning)) for name, meaning in CHANNELS.items()},
    case_folder="",
    ending="",
    notes=(
        "every study of a patient is a case; its series are sorted to channels by description and scanner settings, "
        "and --series FILE.csv writes the table of them, to be changed and passed back",
        "--channels names those that are wanted; without --unlabelled the images go to imagesTs, to be predicted",
        "patients are called sub-0001, ...; --key FILE.json, kept apart, says who they are",
    ),
    **OWN_DATA,
)


def convert_dicom(
    source: str | os.PathLike[str],
    *,
    dataset_id: int,
    channels: Sequence[str] | None = None,
    unlabelled: bool = False,
    series: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    resample: str | None = None,
    name: str = "DICOM",
    workers: int = 1,
    dry_run: bool = False,
    manifest: str | os.PathLike[str] | None = None,
    only: str | None = None,
    scheduler: str | None = None,
) -> ConversionReport:
    """Convert the DICOM series below a folder to `nnUNet_raw/DatasetXXX_NAME`; every study of a patient is a case.

    Nothing that is written says who the patients are: no name, number, date or UID, and no path of a file, which may
    hold them. Only the key does, where one is asked for.

    Args:
        source: folder of the files.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        channels: names of the channels to take, in this order; a dry run may leave them out, and takes those that are
            there.
        unlabelled: write brain masks as labels, for pre-training; otherwise the cases go to `imagesTs`.
        series: table of series: read if it is there, else written.
        key: file that says who is who: read and completed if it is there, else written.
        resample: channel on whose grid the others are resampled; by default all must be on one grid.
        name: part of the data set's name after `DatasetXXX_`.
        workers: as in `convert_release`, and the following.
        dry_run: check every case, write manifest and tables and nothing else.
        manifest: where a dry run writes its manifest.
        only: regular expression for whole case ids.
        scheduler: address of a Dask scheduler.

    Raises:
        InputError: `source` holds no images, a channel is not there, the table or key cannot be used, the number is
            taken, or a folder cannot be written.
    """
    check_numbers(dataset_id, workers, dry_run, manifest)
    source = Path(source).absolute()
    named = replace(DICOM, dataset_name=dataset_name(name))
    folder = folder_of(named, dataset_id, unlabelled=unlabelled, dry_run=dry_run)
    book = _read_key(key)
    tree = read_tree(source, book, leave_out=folder, workers=workers)
    channel_of, notes = _sorted(tree, series)
    release = _with_channels(named, _counts(tree, channel_of), channels, resample, dry_run)
    cases = chosen_cases(sorted({each.case for each in tree.series}), only)
    blank = DicomOrder(
        release, "", FoundCase(test=True), source, folder.absolute(), unlabelled, "copy", dry_run, {}, resample
    )
    tasks = _orders(blank, cases, _by_channel(tree, channel_of), partly=channels is None)
    if book is not None and key is not None:
        _fill_in(book, tasks)
        book.write(Path(key))
    report = ConversionReport(
        folder, manifest_of(folder, dry_run, manifest), [], [], [], [*tree.notes, *notes], dry_run
    )
    if dry_run:
        report.notes.append(f"channels: {_told(_counts(tree, channel_of))}")
        report.records = check_cases(tasks, convert_case, workers=workers, scheduler=scheduler)
        write_manifest(report, release, source=tree.scope, unlabelled=unlabelled)
        return report
    check_number_is_free(folder)
    _check_same_patients(folder, tree, key)
    with only_writer(folder):
        log = ResumeLog(folder, release=release, unlabelled=unlabelled, link="copy", rules=f"{tree.scope} {resample}")
        report.records = write_cases(tasks, convert_case, log, workers=workers, scheduler=scheduler)
        write_manifest(report, release, source=tree.scope, unlabelled=unlabelled)
        if unlabelled:
            finish(report, release, unlabelled)
    return report


def _read_key(path: str | os.PathLike[str] | None) -> DicomKey | None:
    if path is None:
        return None
    check_apart(Path(path))
    return DicomKey.read(Path(path)) if os.path.lexists(path) else DicomKey()


def _sorted(tree: DicomTree, table: str | os.PathLike[str] | None) -> tuple[dict[str, str], list[str]]:
    """Return series -> channel, by the table if it is there, and notes; otherwise the table is written."""
    if table is not None and os.path.lexists(table):
        said, notes = read_series(Path(table), tree.series)
        return said, notes
    proposals = propose(tree.series)
    if table is not None:
        if Path(table).suffix.lower() != ".csv":
            raise InputError(f"--series {table} is where a table goes: name a file that ends in .csv")
        write_series(Path(table), tree.series, proposals)
    return {name: proposal.channel for name, proposal in proposals.items()}, []


def _counts(tree: DicomTree, channel_of: Mapping[str, str]) -> dict[str, int]:
    """Return channel -> number of cases that have it, in the order of `CHANNELS`."""
    pairs = {(each.case, channel) for each in tree.series if (channel := channel_of[each.name])}
    counted = Counter(channel for _, channel in pairs)
    order = [*CHANNELS, *sorted(counted.keys() - CHANNELS.keys())]
    return {channel: counted[channel] for channel in order if channel in counted}


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{channel} ({count})" for channel, count in counts.items()) or "none was recognised"


def _with_channels(
    release: Release, counts: Mapping[str, int], channels: Sequence[str] | None, onto: str | None, dry_run: bool
) -> Release:
    """Return the release with the channels that were asked for."""
    chosen = list(counts) if channels is None else list(channels)
    if channels is None and not dry_run:
        raise InputError(
            f"no channels were named: name them with --channels; the cases have {_told(counts)}",
            entry="channels-not-named",
        )
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(counts):
        raise InputError(
            f"channels {', '.join(chosen) or '(none)'}: name one or more of those that the cases have, each once: "
            f"{_told(counts)}; the table of series (--series) says what each series was taken for"
        )
    if onto is not None and onto not in chosen:
        raise InputError(f"--resample {onto} is none of the channels {', '.join(chosen)}: name one of them")
    return replace(release, channels={name: release.channels.get(name, Source(re.escape(name))) for name in chosen})


def _by_channel(tree: DicomTree, channel_of: Mapping[str, str]) -> dict[str, dict[str, tuple[FoundSeries, ...]]]:
    """Return case -> channel -> the series that are meant for it."""
    found: dict[str, dict[str, tuple[FoundSeries, ...]]] = {}
    for each in tree.series:
        if channel := channel_of[each.name]:
            own = found.setdefault(each.case, {})
            own[channel] = (*own.get(channel, ()), each)
    return found


def _orders(
    blank: DicomOrder,
    cases: Sequence[str],
    series: Mapping[str, Mapping[str, tuple[FoundSeries, ...]]],
    *,
    partly: bool,
) -> list[DicomOrder]:
    """Return the orders of cases.

    Args:
        blank: what they have in common.
        cases: ids.
        series: as `_by_channel`.
        partly: take those of the channels that a case has, rather than all.
    """
    orders = []
    for case in cases:
        release, onto = blank.release, blank.onto
        own = {name: series[case][name] for name in release.channels if name in series.get(case, {})}
        if partly and own:
            release = replace(release, channels={name: release.channels[name] for name in own})
            onto = onto if onto in own else None
        orders.append(replace(blank, release=release, case=case, series=own, onto=onto))
    return orders


def _fill_in(key: DicomKey, tasks: Sequence[DicomOrder]) -> None:
    """Note in the key where the series of each case lie, that with the grid of the case first."""
    for task in tasks:
        order = sorted(task.release.channels, key=lambda channel: channel != task.onto)
        chosen = [(channel, found[0]) for channel in order if len(found := task.series.get(channel, ())) == 1]
        key.cases[task.case] = [
            KeySeries(channel, each.facts.identity.series, tuple(map(str, each.files))) for channel, each in chosen
        ]


def _check_same_patients(folder: Path, tree: DicomTree, key: object) -> None:
    """Refuse to go on with a data set in which the same pseudonyms may stand for other patients."""
    if (folder / MANIFEST).is_file() and read_manifest(folder).get("source") != tree.scope:
        reason = "with another key" if key is not None else "from other studies, and without a key numbers may change"
        raise InputError(
            f"{folder} was converted {reason}: choose another number with -d, remove that folder, or pass the key that "
            "was written then (--key)",
            entry="patients-renumbered",
        )
