"""The brain masks that a cohort needs where its sources have other labels."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bdfm_nnunet.dataset_conversion.writing.file_placement import remove, write_values
from bdfm_nnunet.dataset_conversion.writing.foreground import foreground_mask
from bdfm_nnunet.dataset_conversion.writing.resume_log import json_lines
from bdfm_nnunet.dataset_conversion.writing.scheduling import run_all
from bdfm_nnunet.errors import InputError, Refusal
from bdfm_nnunet.files import cannot_write, write_atomically
from bdfm_nnunet.images.volumes import read_volume

JOURNAL = ".cohort.jsonl"


@dataclass(frozen=True)
class MaskTask:
    """A brain mask to be written.

    Attributes:
        images: of one case.
        target: the label file.
    """

    images: tuple[Path, ...]
    target: Path


def write_masks(rows: Sequence[dict[str, Any]], folder: Path, workers: int) -> None:
    """Write the brain masks that are missing or older than their images, and remove those of no case.

    Args:
        rows: of the cases that need one: "label" and "masked" are paths from `folder`.
        folder: the data set.
        workers: processes.

    Raises:
        InputError: a file cannot be read or written.
    """
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
        for task in run_all(todo, write_mask, workers=workers):
            _add_to_journal(folder / JOURNAL, os.path.relpath(task.target, folder), _stamps(task))
            bar.update()
    for path in (folder / "labelsTr").glob("*"):
        if os.path.relpath(path, folder) not in tasks:
            remove(path)


def write_mask(task: MaskTask) -> MaskTask:
    """Write the brain mask of one case.

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
    """Return size and time of change of all files of a task; nothing for a file that is missing."""
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
