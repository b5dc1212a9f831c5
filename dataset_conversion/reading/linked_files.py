"""Files of a download that several paths lead to, by links, and that count once."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bdfm_nnunet.dataset_conversion.reading.folder_walk import identity, some

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion.reading.scanning import FoundCase


def keep_each_once(source: Path, cases: "dict[str, FoundCase]") -> list[str]:
    """Leave out further paths to a file within a role, and cases all of whose files are those of another case.

    The file itself is kept before links to it. Cases that were published without segmentation all stay, for a challenge
    may want an answer for each.

    Args:
        source: the download.
        cases: case id to what was found of it; is changed.

    Returns:
        Sentences on what was left out.
    """
    paths = []
    for content in cases.values():
        for role, found in content.files.items():
            if len(found) > 1:
                content.files[role] = _each_once(source, found)
                paths += [path for path in found if path not in content.files[role]]
    doubles = _doubles(source, cases)
    for case in doubles:
        del cases[case]
    left_out = [f"{case} (the files of {first})" for case, first in sorted(doubles.items())]
    return [
        *([f"paths to files that were found already ({len(paths)}): {some(sorted(paths))}"] if paths else []),
        *([f"cases that are other paths to the files of a case ({len(doubles)}): {some(left_out)}"] if doubles else []),
    ]


def _each_once(source: Path, paths: Iterable[str]) -> list[str]:
    kept: dict[object, str] = {}
    for path in sorted(paths, key=lambda path: (source / path).is_symlink()):
        kept.setdefault(_identity(source, path) or path, path)
    return [path for path in paths if path in kept.values()]


def _doubles(source: Path, cases: "Mapping[str, FoundCase]") -> dict[str, str]:
    """Map each case to the case that has the same files."""
    groups: dict[object, list[str]] = defaultdict(list)
    for case, content in cases.items():
        if content.files and not content.test:
            groups[_identity(source, next(iter(content.files.values()))[0])].append(case)
    doubles = {}
    for first_file, group in groups.items():
        if first_file is None or len(group) == 1:
            continue
        whole: dict[object, str] = {}
        for case in sorted(group, key=lambda case: (_is_link(source, cases[case]), case)):
            key = frozenset((role, _identity(source, p)) for role, found in cases[case].files.items() for p in found)
            if any(each is None for _, each in key):
                continue
            first = whole.setdefault(key, case)
            if first != case:
                doubles[case] = first
    return doubles


def _is_link(source: Path, content: "FoundCase") -> bool:
    return any((source / path).is_symlink() for found in content.files.values() for path in found)


def _identity(source: Path, path: str) -> tuple[int, int] | None:
    """Return device and inode of the file; None for a link that leads nowhere."""
    try:
        return identity(os.path.join(source, path))
    except OSError:
        return None
