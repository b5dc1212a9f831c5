"""Conversion of a download of 4-D runs to an nnU-Net data set: the engine behind `bdfm convert fmri-...`."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.conversion import (
    check_cases,
    check_number_is_free,
    check_numbers,
    finish,
    folder_of,
    manifest_of,
    write_cases,
)
from bdfm_nnunet.dataset_conversion.reading.repetition_times import Sidecars
from bdfm_nnunet.dataset_conversion.reading.scanning import FoundCase, Scan, scan
from bdfm_nnunet.dataset_conversion.reading.site_tables import read_families
from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.run_settings import RunSettings
from bdfm_nnunet.dataset_conversion.writing.case_record import CaseRecord
from bdfm_nnunet.dataset_conversion.writing.folder_lock import only_writer
from bdfm_nnunet.dataset_conversion.writing.manifest import ConversionReport, write_manifest
from bdfm_nnunet.dataset_conversion.writing.resume_log import ResumeLog
from bdfm_nnunet.dataset_conversion.writing.run_conversion import convert_run
from bdfm_nnunet.dataset_conversion.writing.run_order import PROPERTIES, RunOrder
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.images.sequence_files import FRAMES, read_header
from bdfm_nnunet.patients import plain_id
from bdfm_nnunet.table_files import write_table

ENGINE = 1
"""To be raised when the same settings give other runs."""
RUNS = "runs.csv"
_COLUMNS = (
    "case", "patient", "session", "site", "family", "task", "frames", "source_frames", "source_repetition_time",
    "frames_dropped", "displacement", "brain_voxels",
)  # fmt: skip


def convert_runs(
    release: Release,
    source: str | os.PathLike[str],
    *,
    dataset_id: int,
    settings: RunSettings | None = None,
    families: str | os.PathLike[str] | None = None,
    workers: int = 1,
    dry_run: bool = False,
    manifest: str | os.PathLike[str] | None = None,
    channels: Sequence[str] | None = None,
    only: str | None = None,
    scheduler: str | None = None,
) -> ConversionReport:
    """Convert a download of 4-D runs to `nnUNet_raw/DatasetXXX_NAME`; good runs are written even if others are refused.

    Each run becomes three files of `sequencesTr` (`images.sequence_files`). As in `convert_release`, a second run with
    the same arguments does only what is missing or has changed, and `dataset.json` is written last.

    Args:
        release: the table entry, with `runs`.
        source: folder of the unpacked download.
        dataset_id: nnU-Net's number of the data set, 1 to 999.
        settings: how runs are prepared; the defaults of `RunSettings` if None.
        families: table with a patient and its family in each row, see `site_tables.read_families`.
        workers: processes; with 1 everything happens in this one.
        dry_run: check every run, write the manifest and nothing else.
        manifest: as in `convert_release`.
        channels: the one channel to take, by default that of the release.
        only: regular expression for whole case ids; other runs are left out.
        scheduler: as in `convert_release`.

    Raises:
        InputError: `source` holds nothing of the release, a setting is impossible, the number is taken, another process
            writes the same data set, or a folder cannot be written.
    """
    settings = settings or RunSettings()
    check_numbers(dataset_id, workers, dry_run, manifest)
    release = _with_channel(release, channels)
    folder = folder_of(release, dataset_id, dry_run=dry_run)
    source = Path(source).absolute()
    found = scan(source, release, only=only, leave_out=folder)
    if families is not None:
        _add_families(found.cases, release, read_families(families), families)
    orders = _orders(release, found, source, folder.absolute(), settings, dry_run)
    report = ConversionReport(
        folder, manifest_of(folder, dry_run, manifest), [], found.junk, found.unused, found.notes, dry_run
    )
    if dry_run:
        report.records = check_cases(orders, convert_run, workers=workers, scheduler=scheduler)
        write_manifest(report, release, source=source, unlabelled=True)
        return report
    check_number_is_free(folder)
    with only_writer(folder):
        log = ResumeLog(folder, release=release, unlabelled=True, link="", rules=_digest(release, settings))
        report.records = write_cases(orders, convert_run, log, workers=workers, scheduler=scheduler)
        rows = _write_table(report)
        report.notes += _notes(rows, settings)
        write_manifest(report, release, source=source, unlabelled=True)
        finish(report, release, True, _description(rows, settings))
    return report


def _with_channel(release: Release, channels: Sequence[str] | None) -> Release:
    if channels is None:
        return release
    if len(channels) != 1:
        raise InputError(f"{release.name} has runs of one channel: name one with --channels, not {', '.join(channels)}")
    return release.with_channels(channels)


def _orders(
    release: Release, found: Scan, source: Path, folder: Path, settings: RunSettings, dry_run: bool
) -> list[RunOrder]:
    sidecars, channel = Sidecars(source), next(iter(release.channels))
    orders = []
    for case, content in found.cases.items():
        paths = content.files.get(channel, [])
        beside = sidecars.of(paths[0]) if len(paths) == 1 else ()
        orders.append(RunOrder(release, case, content, beside, source, folder, settings, dry_run))
    return orders


def _add_families(
    cases: Mapping[str, FoundCase], release: Release, families: Mapping[str, str], path: str | os.PathLike[str]
) -> None:
    """Fill in the families of patients, whose ids are compared without signs and a leading `sub`."""
    known = {_bare(name): family for name, family in families.items()}
    for case, content in cases.items():
        ids = (_bare(case), _bare(release.patient_of(case)))
        content.family = next((known[each] for each in ids if each in known), content.family)
    if not any(content.family for content in cases.values()):
        raise InputError(f"{path} knows no patient of the download: give a table with ids of this release")


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", plain_id(name)).removeprefix("sub")


def _digest(release: Release, settings: RunSettings) -> str:
    rules = [ENGINE, asdict(settings), release.as_dict()["runs"]]
    return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


# -------------------------------------------------------------------------------------------------- what is written


def _write_table(report: ConversionReport) -> list[dict[str, Any]]:
    """Write `runs.csv`, with what studies of motion, site and task need, and return its rows."""
    rows = [_row(report.folder, record) for record in report.good]
    cells = [["" if row[name] is None else str(row[name]) for name in _COLUMNS] for row in rows]
    write_table(report.folder / RUNS, [_COLUMNS, *cells])
    return rows


def _row(folder: Path, record: CaseRecord) -> dict[str, Any]:
    header = read_header(folder / record.targets[PROPERTIES])
    told = {**asdict(header), **asdict(record), "frames": header.shape[3]}
    more = {"stored_shape": header.shape, "mask": header.mask, "error": header.largest_error}
    return {name: told[name] for name in _COLUMNS} | more


def _notes(rows: Sequence[Mapping[str, Any]], settings: RunSettings) -> Iterator[str]:
    """Yield what a user should know of the stored values."""
    derived = sum(not row["mask"].startswith("given") for row in rows)
    if derived:
        yield f"the brain masks of {derived} of {len(rows)} runs were derived from their frames, see the manifest"
    if settings.stored_as == "int8" and rows:
        worst = max(row["error"] for row in rows)
        yield f"int8 changes voxels by up to {worst:g} standard deviations of the brain; float16 keeps them closer"


def _description(rows: Sequence[Mapping[str, Any]], settings: RunSettings) -> dict[str, Any]:
    """Return the entries of dataset.json that tell of runs."""
    frames = [row["frames"] for row in rows]
    shapes = Counter(tuple(row["stored_shape"][:3]) for row in rows)
    return {
        "file_ending": FRAMES,
        "overwrite_image_reader_writer": None,
        "sequences": {
            "spacing": settings.spacing,
            "repetition_time": settings.time_step,
            "standardised": settings.standardise,
            "store": settings.stored_as,
            "shapes": [list(shape) for shape, _ in shapes.most_common()],
            "frames": [min(frames), max(frames)] if frames else [],
        },
    }
