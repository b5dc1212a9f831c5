"""The report of a cohort: its summary, its tables, its manifest and dataset.json."""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.cohort_sources import Origin
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.splits import splits_of
from bdfm_nnunet.dataset_conversion.writing.case_record import OK, TRAIN
from bdfm_nnunet.dataset_conversion.writing.file_placement import remove
from bdfm_nnunet.files import write_json
from bdfm_nnunet.patients import COHORT, MANIFEST, read_cases
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.table_files import write_table
from bdfm_nnunet.weight_rules import WeightRules

logger = logging.getLogger(__name__)

COLUMNS = (
    "case", "dataset", "release", "source_case", "patient", "session", "modality", "licence", "image", "label",
    "sha256", "shape", "spacing", "duplicate",
)  # fmt: skip
LABELS = {"background": 0, "brain": 1}


@dataclass(frozen=True)
class CohortReport:
    """The result of merging data sets into a cohort.

    Attributes:
        folder: the new data set.
        rows: of cohort.csv, duplicates too.
        notes: what was left out of the sources; sentences.
        rules: those on weights that chose the cases; None if there were none.
    """

    folder: Path
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    rules: WeightRules | None = None

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The rows that are cases of the data set."""
        return [row for row in self.rows if not row["duplicate"]]

    def summary(self) -> str:
        """Return lines for a terminal."""
        kept, sources = self.kept, Counter(row["dataset"] for row in self.kept)
        patients = len({row["patient"] for row in kept})
        doubles = len(self.rows) - len(kept)
        lines = [f"{self.folder}: {len(kept)} cases of {patients} patients, {doubles} duplicates left out"]
        lines += [f"  {name}: {count} cases" for name, count in sources.items()]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def write_cohort_tables(report: CohortReport, origins: Sequence[Origin]) -> None:
    """Write cohort.json, cohort.csv and the manifest."""
    rows = [{name: row[name] for name in COLUMNS} for row in report.rows]
    write_json(report.folder / "cohort.json", rows)
    cells = [[_cell(row[name]) for name in COLUMNS] for row in rows]
    write_table(report.folder / "cohort.csv", [COLUMNS, *cells], line_end="\r\n")
    taken = {row["release"] for row in report.rows}  # duplicates too: what is kept is of their release as well
    listed = {name: entry for origin in origins for name, entry in origin.cases.releases.items()}
    releases = {name: entry for name, entry in listed.items() if name in taken}
    content = {
        "release": COHORT,
        "unlabelled": True,
        "releases": releases,
        "licence": "; ".join(sorted({entry["licence"] for entry in releases.values() if entry["licence"]})),
        "overlaps": [],
        "counts": {"cases": len(report.kept), "duplicates": len(report.rows) - len(report.kept)},
        "inverse_labels": {},
        **_allowed_by(report),
        "cases": [_manifest_row(row) for row in report.kept],
    }
    write_json(report.folder / MANIFEST, content)


def _allowed_by(report: CohortReport) -> dict[str, Any]:
    if report.rules is None:
        return {}
    return {"allowed_by": {"rules": report.rules.name, "date": report.rules.source["date"], "notes": report.notes}}


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value) if value else ""


def _manifest_row(row: dict[str, Any]) -> dict[str, Any]:
    same = ("case", "patient", "session", "site", "aliases", "release", "licence", "dataset", "sha256", "shape")
    return {name: row[name] for name in (*same, "spacing", "source_case")} | {
        "part": TRAIN,
        "status": OK,
        "reason": "",
        "labels": {},
        "targets": dict(zip(row["modality"], row["image"])) | {LABEL: row["label"]},
    }


def write_dataset_json(report: CohortReport, channels: Sequence[str], sources: Sequence[str]) -> None:
    """Write the splits and, last of all, dataset.json, which points at the images of the sources."""
    splits = splits_of(read_cases(report.folder), LABELS)
    if splits:
        write_json(report.folder / SPLITS, splits)
    else:
        remove(report.folder / SPLITS)
        logger.warning("%s has fewer than two patients: no splits_final.json was written", report.folder.name)
    content = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": LABELS,
        "numTraining": len(report.kept),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": "SimpleITKIO",
        "name": report.folder.name.partition("_")[2],
        "description": f"pre-training cohort of {', '.join(sources)}",
        "release": COHORT,
        "converted_by": "bdfm_nnunet",
        "dataset": {row["case"]: {"images": row["image"], "label": row["label"]} for row in report.kept},
    }
    write_json(report.folder / "dataset.json", content)
