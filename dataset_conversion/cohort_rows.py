"""The rows of a cohort: which image of which data set becomes which case, and which images are duplicates."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.cohort_sources import Origin
from bdfm_nnunet.dataset_conversion.release import LABEL
from bdfm_nnunet.dataset_conversion.writing.case_record import TRAIN
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.patients import MANIFEST, image_hashes, qualified
from bdfm_nnunet.safe_names import check_name

Row = dict[str, Any]


def cohort_rows(origins: Iterable[Origin], folder: Path, *, single: bool) -> list[Row]:
    """Return the rows of all sources.

    Args:
        origins: the sources, in their order.
        folder: of the cohort, to which paths are relative.
        single: whether every image is a case, with one channel.

    Raises:
        InputError: a source lacks a file or a channel, or two rows would be one case.
    """
    return _each_once(row for origin in origins for row in _rows(origin, folder, single))


def _rows(origin: Origin, folder: Path, single: bool) -> Iterator[Row]:
    """Yield the rows that a source adds: one per image or one per case."""
    for row in origin.cases.of_part(TRAIN):
        images = _images(row, origin, single)
        case = check_name(f"{origin.prefix}-{row['case']}", f"case id of {folder.name}")
        common = _common(row, origin, folder, case, images)
        hashes = image_hashes(row)  # a channel without one is filled with zeros
        parts = [{role: path} for role, path in images.items() if role in hashes] if single else [images]
        for part in parts:
            name = f"{case}-{_plain(next(iter(part)))}" if single else case
            yield common | {
                "case": check_name(name, f"case id of {folder.name}"),
                "modality": list(part),
                "image": [os.path.relpath(path, folder) for path in part.values()],
                "sha256": {role: hashes[role] for role in part if role in hashes},
            }


def _images(row: Mapping[str, Any], origin: Origin, single: bool) -> dict[str, Path]:
    """Return the image files of a case by channel; each exists, as does its label where that is taken over."""
    images = {role: origin.folder / path for role, path in row["targets"].items() if role != LABEL}
    if not images or not (single or set(images) == set(origin.channels)):
        raise InputError(
            f"case {row['case']} of {origin.folder / MANIFEST} has the images {', '.join(images) or '(none)'}, but "
            f"dataset.json names {', '.join(origin.channels)}: convert the data set again"
        )
    images = {name: images[name] for name in origin.channels} if not single else images
    for path in (*images.values(), *([origin.folder / row["targets"][LABEL]] if origin.unlabelled else [])):
        if not path.is_file():
            raise InputError(f"{path} of case {row['case']} is missing: run `bdfm convert` for it again")
    return images


def _common(row: Mapping[str, Any], origin: Origin, folder: Path, case: str, images: Mapping[str, Path]) -> Row:
    """Return what the rows of one case of a source have in common."""
    release = row.get("release") or origin.cases.scope
    label = origin.folder / row["targets"][LABEL] if origin.unlabelled else folder / "labelsTr" / f"{case}.nii.gz"
    common = {
        "dataset": origin.folder.name,
        "release": release,
        "source_case": row["case"],
        "patient": qualified(row["patient"], release),
        "session": row.get("session") or "",
        "site": row.get("site") or "",
        "aliases": row.get("aliases", []),
        "licence": row.get("licence") or origin.cases.content.get("licence", ""),
        "label": os.path.relpath(label, folder),
        "shape": row["shape"],
        "spacing": row["spacing"],
    }
    masked = {} if origin.unlabelled else {"masked": [os.path.relpath(path, folder) for path in images.values()]}
    return common | masked


def _each_once(rows: Iterable[Row]) -> list[Row]:
    """Return the rows; two rows with one case id are an error."""
    known: dict[str, Row] = {}
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


def with_duplicates_noted(rows: Sequence[Row]) -> list[Row]:
    """Return the rows, each of which notes in "duplicate" which earlier case holds the same images."""
    first: dict[tuple[str, ...], str] = {}
    noted = []
    for row in rows:
        content = tuple(sorted(row["sha256"].values()))
        same = first.setdefault(content, row["case"]) if content else row["case"]
        noted.append(row | {"duplicate": "" if same == row["case"] else same})
    return noted
