"""The manifest: a table of everything converted and everything refused."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.dataset_conversion.writing.case_record import OK, REFUSED, REPAIRED, TEST, CaseRecord
from bdfm_nnunet.files import write_json
from bdfm_nnunet.table_files import write_table

COLUMNS = (
    "case", "patient", "session", "site", "aliases", "family", "part", "status", "reason", "notes", "sources",
    "targets", "labels", "sha256", "shape", "spacing", "orientation",
)  # fmt: skip
MOST_NAMES = 50


@dataclass
class ConversionReport:
    """The result of a conversion.

    Attributes:
        folder: the nnU-Net data set (of a dry run: the one that would be written).
        manifest: the JSON form of the manifest; the CSV form lies beside it.
        records: one row per case, in the order of case ids.
        junk: left-overs of operating systems that were passed over.
        unused: volumes that belong to no role of the release or are of a form that is not read.
        notes: what the scan noted about the download.
        dry_run: nothing was written but the manifest.
    """

    folder: Path
    manifest: Path
    records: list[CaseRecord]
    junk: list[str]
    unused: list[str]
    notes: list[str]
    dry_run: bool

    @property
    def good(self) -> list[CaseRecord]:
        """The cases that are in the data set."""
        return [record for record in self.records if record.status != REFUSED]

    @property
    def training(self) -> list[CaseRecord]:
        """The cases in it that have a label."""
        return [record for record in self.good if record.part != TEST]

    @property
    def refused(self) -> list[CaseRecord]:
        """The cases that are not."""
        return [record for record in self.records if record.status == REFUSED]

    def counts(self) -> dict[str, int]:
        """Return the number of cases by status, of junk files and of unused volumes."""
        statuses = Counter(record.status for record in self.records)
        cases = {status: statuses[status] for status in (OK, REPAIRED, REFUSED)}
        return {**cases, "junk": len(self.junk), "unused": len(self.unused)}

    def summary(self) -> str:
        """Return one line for a terminal."""
        counts = self.counts()
        cases = ", ".join(f"{counts[status]} {status}" for status in (OK, REPAIRED, REFUSED))
        passed = f"{counts['junk']} junk files passed over, {counts['unused']} volumes not used"
        return f"{self.folder.name}{' (dry run)' if self.dry_run else ''}: {cases}; {passed}"


def write_manifest(report: ConversionReport, release: Release, *, source: Path | str, unlabelled: bool) -> None:
    """Write the manifest as JSON and as a table.

    Args:
        report: on the cases.
        release: their table entry.
        source: the download, or a word for it where its path may name patients.
        unlabelled: whether labels are masks of the brain or head.

    Raises:
        InputError: the files cannot be written.
    """
    rows = [record.as_dict() for record in report.records]
    content = {
        "release": release.name,
        "source": source if isinstance(source, str) else str(source.resolve()),
        "unlabelled": unlabelled,
        "channels": list(release.channels),
        "licence": release.licence,
        "url": release.url,
        "citation": release.citation,
        "overlaps": list(release.overlaps),
        "counts": report.counts(),
        "source_labels": {str(value): meaning for value, meaning in release.labels.items()},
        "inverse_labels": {str(value): there for value, there in release.inverse_label_map().items()},
        "junk": report.junk[:MOST_NAMES],
        "unused": report.unused[:MOST_NAMES],
        "notes": report.notes,
        "cases": rows,
    }
    write_json(report.manifest, content)
    cells = [[_cell(row[name]) for name in COLUMNS] for row in rows]
    write_table(report.manifest.with_suffix(".csv"), [COLUMNS, *cells], line_end="\r\n")


def _cell(value: Any) -> str:
    """Write tables and lists as JSON in their cell, empty ones as an empty cell."""
    return value if isinstance(value, str) else json.dumps(value) if value else ""
