"""Merges converted data sets into one unlabelled pre-training data set, without copying an image."""

import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdfm_nnunet.dataset_conversion.engine import check_number_is_free
from bdfm_nnunet.dataset_conversion.foreground import foreground_mask
from bdfm_nnunet.dataset_conversion.journal import json_lines
from bdfm_nnunet.dataset_conversion.locking import only_writer
from bdfm_nnunet.dataset_conversion.placing import remove, write_values
from bdfm_nnunet.dataset_conversion.records import OK, TEST, TRAIN
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.scheduling import do_all
from bdfm_nnunet.dataset_conversion.splits import splits_of
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import cannot_write, write_atomically, write_json
from bdfm_nnunet.folders import nnunet_folder
from bdfm_nnunet.images.volumes import read_volume
from bdfm_nnunet.names import check_name
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json
from bdfm_nnunet.patients import COHORT, MANIFEST, CaseList, image_hashes, qualified, read_cases, read_manifest
from bdfm_nnunet.shapes import fault_of
from bdfm_nnunet.split_files import SPLITS
from bdfm_nnunet.table_files import write_table

logger = logging.getLogger(__name__)

JOURNAL = ".cohort.jsonl"
CHANNELS = ("single", "all")
COLUMNS = (
    "case", "dataset", "release", "source_case", "patient", "session", "modality", "licence", "image", "label",
    "sha256", "shape", "spacing", "duplicate",
)  # fmt: skip
LABELS = {"background": 0, "brain": 1}
_NEEDED = {"patient": str, "targets": {LABEL: str}, "sha256": {str: str}, "shape": [int], "spacing": [float]}
"""What the row of a case must have, beside what every manifest has."""


@dataclass(frozen=True)
class CohortReport:
    """What came of a merger.

    Attributes:
        folder: the new data set.
        rows: of cohort.csv, duplicates too.
        notes: what was left out of the sources; sentences.
    """

    folder: Path
    rows: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The rows that are cases of the data set."""
        return [row for row in self.rows if not row["duplicate"]]

    def summary(self) -> str:
        """Lines for a terminal."""
        kept, sources = self.kept, Counter(row["dataset"] for row in self.kept)
        patients = len({row["patient"] for row in kept})
        doubles = len(self.rows) - len(kept)
        lines = [f"{self.folder}: {len(kept)} cases of {patients} patients, {doubles} duplicates left out"]
        lines += [f"  {name}: {count} cases" for name, count in sources.items()]
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


@dataclass(frozen=True)
class Origin:
    """A converted data set that goes into the cohort.

    Attributes:
        folder: the data set.
        prefix: what its case ids begin with here.
        cases: of its manifest.
        channels: names of its channels, in their order.
    """

    folder: Path
    prefix: str
    cases: CaseList
    channels: list[str]


@dataclass(frozen=True)
class MaskTask:
    """A brain mask to be written.

    Attributes:
        images: of one case.
        target: the label file.
    """

    images: tuple[Path, ...]
    target: Path


def make_cohort_dataset(
    dataset_id: int,
    sources: Sequence[int | str | os.PathLike[str]],
    *,
    name: str = "Cohort",
    channels: str = "single",
    workers: int = 1,
) -> CohortReport:
    """Writes `nnUNet_raw/DatasetXXX_NAME`, whose dataset.json points at the images of other data sets.

    The training cases of each source take part. Images that are already there, voxel for voxel, are left out and named
    in the table. The only files written are brain masks, for sources that have other labels. A second run writes what
    is missing; `dataset.json` is written last.

    Args:
        dataset_id: nnU-Net's number of the new data set, 1 to 999.
        sources: number, name (`DatasetXXX_NAME`) or folder of converted data sets.
        name: the part of the new one's name after the number.
        channels: `single`: every image is a case of its own, with one channel; `all`: cases stay as they are.
        workers: processes.

    Raises:
        InputError: a source is not whole or does not fit, the number is taken, or a file cannot be read or written.
    """
    _check_settings(dataset_id, sources, name, channels)
    folder = (nnunet_folder("nnUNet_raw") / f"Dataset{dataset_id:03d}_{name}").absolute()
    origins = _origins(sources, folder)
    names = ["mri"] if channels == "single" else _common_channels(origins)
    check_number_is_free(folder)
    _check_own(folder)
    rows = _without_duplicates(
        _each_once(row for origin in origins for row in _rows(origin, folder, channels == "single"))
    )
    report = CohortReport(folder, rows, tuple(filter(None, map(_left_out, origins))))
    with only_writer(folder):
        remove(folder / "dataset.json")
        _write_masks([row for row in report.kept if "masked" in row], folder, workers)
        _write_tables(report, origins)
        _write_dataset(report, names, [origin.folder.name for origin in origins])
    return report


def _check_settings(dataset_id: int, sources: Sequence[Any], name: str, channels: str) -> None:
    if not 1 <= dataset_id <= 999:
        raise InputError(f"data set number {dataset_id} is not possible in nnU-Net: choose one from 1 to 999")
    if not sources:
        raise InputError("no source was named: give numbers, names or folders of converted data sets")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise InputError(f"--name {name!r} cannot be part of a data set's name: use letters, digits, _ and -")
    check_name(name, "the name of the data set,")
    if channels not in CHANNELS:
        raise InputError(f"channels = {channels} is not known: choose one of {', '.join(CHANNELS)}")


def _check_own(folder: Path) -> None:
    if os.path.lexists(folder / MANIFEST) and read_manifest(folder).get("release") != COHORT:
        raise InputError(f"{folder} is a converted data set, no cohort: choose another number with -d")


# ------------------------------------------------------------------------------------------------------- sources


def _origins(sources: Sequence[int | str | os.PathLike[str]], folder: Path) -> list[Origin]:
    folders = [_folder_of(source) for source in sources]
    if twice := [path.name for path, count in Counter(folders).items() if count > 1]:
        raise InputError(f"{twice[0]} is named twice: name every source once")
    short = [_short(path.name) for path in folders]
    origins = []
    for path in folders:
        if path == folder:
            raise InputError(f"{folder} cannot be a source of itself: choose another number with -d")
        lacking = [name for name in ("dataset.json", MANIFEST) if not os.path.lexists(path / name)]
        if lacking:
            raise InputError(
                f"{path} has no {lacking[0]}, so its conversion was not finished, or not by bdfm: run `bdfm convert` "
                "for it again"
            )
        prefix = _short(path.name) if short.count(_short(path.name)) == 1 else path.name
        channels = channels_of(read_dataset_json(path / "dataset.json"))
        origins.append(Origin(path, prefix, _usable(read_cases(path), path), channels))
    return origins


def _usable(cases: CaseList, folder: Path) -> CaseList:
    """The cases, each of which has all that a row of the cohort is made of."""
    for row in cases.of_part(TRAIN):
        if fault := fault_of(row, _NEEDED):
            raise InputError(
                f"{folder / MANIFEST} is no manifest of bdfm convert ({fault} for case {row['case']}): convert the "
                "data set again"
            )
    return cases


def _left_out(origin: Origin) -> str:
    """What of a source takes no part."""
    test = len(origin.cases.of_part(TEST))
    return f"{test} test cases of {origin.folder.name} take no part" if test else ""


def _short(name: str) -> str:
    return re.sub(r"^Dataset\d{3}_", "", name).removesuffix("Unlabelled")


def _folder_of(source: int | str | os.PathLike[str]) -> Path:
    text = os.fspath(source) if not isinstance(source, int) else str(source)
    raw = nnunet_folder("nnUNet_raw")
    if text.isdigit():
        found = sorted(path for path in raw.glob(f"Dataset{int(text):03d}_*") if path.is_dir())
        if len(found) != 1:
            raise InputError(f"{raw} has {len(found)} data sets with the number {text}, expected one: name its folder")
        return found[0].absolute()
    for path in (raw / text, Path(text)):
        if path.is_dir():
            return Path(os.path.normpath(path.absolute()))
    raise InputError(f"{text} is neither a data set of {raw} nor a folder: see `ls {raw}` for what is there")


def _common_channels(origins: Sequence[Origin]) -> list[str]:
    first = origins[0]
    for origin in origins[1:]:
        if origin.channels != first.channels:
            raise InputError(
                f"{origin.folder.name} has the channels {', '.join(origin.channels)} but {first.folder.name} has "
                f"{', '.join(first.channels)}: use --channels single, or convert with the same --channels"
            )
    return first.channels


# ---------------------------------------------------------------------------------------------------------- rows


def _rows(origin: Origin, folder: Path, single: bool) -> Iterator[dict[str, Any]]:
    """The rows that a source adds: one per image or one per case."""
    unlabelled = bool(origin.cases.content.get("unlabelled"))
    for row in origin.cases.of_part(TRAIN):
        images = {role: origin.folder / path for role, path in row["targets"].items() if role != LABEL}
        if not images or not (single or set(images) == set(origin.channels)):
            raise InputError(
                f"case {row['case']} of {origin.folder / MANIFEST} has the images {', '.join(images) or '(none)'}, but "
                f"dataset.json names {', '.join(origin.channels)}: convert the data set again"
            )
        images = {name: images[name] for name in origin.channels} if not single else images
        label = origin.folder / row["targets"][LABEL]
        for path in (*images.values(), *([label] if unlabelled else [])):
            if not path.is_file():
                raise InputError(f"{path} of case {row['case']} is missing: run `bdfm convert` for it again")
        release = row.get("release") or origin.cases.scope
        case = check_name(f"{origin.prefix}-{row['case']}", f"case id of {folder.name}")
        common = {
            "dataset": origin.folder.name,
            "release": release,
            "source_case": row["case"],
            "patient": qualified(row["patient"], release),
            "session": row.get("session") or "",
            "site": row.get("site") or "",
            "aliases": row.get("aliases", []),
            "licence": row.get("licence") or origin.cases.content.get("licence", ""),
            "label": _relative(label if unlabelled else folder / "labelsTr" / f"{case}.nii.gz", folder),
            "shape": row["shape"],
            "spacing": row["spacing"],
        }
        if not unlabelled:
            common["masked"] = [_relative(path, folder) for path in images.values()]
        hashes = image_hashes(row)  # a channel without one is filled with zeros
        parts = [{role: path} for role, path in images.items() if role in hashes] if single else [images]
        for part in parts:
            name = f"{case}-{_plain(next(iter(part)))}" if single else case
            yield common | {
                "case": check_name(name, f"case id of {folder.name}"),
                "modality": list(part),
                "image": [_relative(path, folder) for path in part.values()],
                "sha256": {role: hashes[role] for role in part if role in hashes},
            }


def _each_once(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows, no two of which may have one case id."""
    known: dict[str, dict[str, Any]] = {}
    for row in rows:
        if same := known.get(row["case"]):
            raise InputError(
                f"{same['source_case']} of {same['dataset']} and {row['source_case']} of {row['dataset']} would both "
                f"be the case {row['case']}: rename the channels or one of the data sets"
            )
        known[row["case"]] = row
    return list(known.values())


def _plain(channel: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "_", channel)


def _relative(path: Path, folder: Path) -> str:
    return os.path.relpath(path, folder)


def _without_duplicates(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Notes in each row which earlier case holds the same images."""
    first: dict[tuple[str, ...], str] = {}
    noted = []
    for row in rows:
        content = tuple(sorted(row["sha256"].values()))
        same = first.setdefault(content, row["case"]) if content else row["case"]
        noted.append(row | {"duplicate": "" if same == row["case"] else same})
    return noted


# ------------------------------------------------------------------------------------------------------- writing


def _write_masks(rows: Sequence[dict[str, Any]], folder: Path, workers: int) -> None:
    """Writes the brain masks that are missing or older than their images."""
    tasks = {
        row["label"]: MaskTask(tuple(folder / path for path in row["masked"]), folder / row["label"]) for row in rows
    }
    if (folder / "labelsTr").is_symlink():
        raise InputError(f"{folder / 'labelsTr'} is a link: put a folder in its place, for masks are removed from it")
    done = _read_journal(folder / JOURNAL)
    done = {label: done[label] for label, task in tasks.items() if label in done and done[label] == _stamps(task)}
    with write_atomically(folder / JOURNAL) as temporary:
        temporary.write_text("\n".join(json.dumps(line) for line in done.items()), encoding="utf-8")
    todo = [task for label, task in tasks.items() if label not in done]
    with tqdm(total=len(tasks), initial=len(tasks) - len(todo), unit="case", desc="masks", disable=None) as bar:
        for task in do_all(todo, write_mask, workers=workers):
            _add_to_journal(folder / JOURNAL, _relative(task.target, folder), _stamps(task))
            bar.update()
    for path in (folder / "labelsTr").glob("*"):
        if _relative(path, folder) not in tasks:
            remove(path)


def write_mask(task: MaskTask) -> MaskTask:
    """Writes the brain mask of one case.

    Raises:
        InputError: an image cannot be read or the mask cannot be written.
    """
    try:
        volumes = [read_volume(path, str(path)) for path in task.images]
    except Refusal as refusal:
        raise InputError(str(refusal)) from None
    mask = foreground_mask([volume.array for volume in volumes])
    write_values(mask.astype("uint8"), task.target, like=volumes[0].header)
    return task


def _stamps(task: MaskTask) -> list[list[int]]:
    """Size and time of change of all files of a task; of one that is not there, nothing."""
    states = (os.stat(path) if path.is_file() else None for path in (*task.images, task.target))
    return [[state.st_size, state.st_mtime_ns] if state else [] for state in states]


def _read_journal(path: Path) -> dict[str, list[list[int]]]:
    lines = json_lines(path, [(str, [[int]])])
    return {line[0]: line[1] for line in lines if len(line) == 2 and isinstance(line[0], str)}


def _add_to_journal(path: Path, label: str, stamps: list[list[int]]) -> None:
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write("\n" * (stream.tell() > 0) + json.dumps([label, stamps]))
    except OSError as error:
        raise cannot_write(path, error) from error


def _write_tables(report: CohortReport, origins: Sequence[Origin]) -> None:
    rows = [{name: row[name] for name in COLUMNS} for row in report.rows]
    write_json(report.folder / "cohort.json", rows)
    cells = [[_cell(row[name]) for name in COLUMNS] for row in rows]
    write_table(report.folder / "cohort.csv", [COLUMNS, *cells], line_end="\r\n")
    releases = {name: entry for origin in origins for name, entry in origin.cases.releases.items()}
    content = {
        "release": COHORT,
        "unlabelled": True,
        "releases": releases,
        "licence": "; ".join(sorted({entry["licence"] for entry in releases.values() if entry["licence"]})),
        "overlaps": [],
        "counts": {"cases": len(report.kept), "duplicates": len(report.rows) - len(report.kept)},
        "inverse_labels": {},
        "cases": [_manifest_row(row) for row in report.kept],
    }
    write_json(report.folder / MANIFEST, content)


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


def _write_dataset(report: CohortReport, channels: Sequence[str], sources: Sequence[str]) -> None:
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
