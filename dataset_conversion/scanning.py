"""Finds the files of a release in a download."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bdfm_nnunet.dataset_conversion.release import Release
from bdfm_nnunet.errors import InputError

JUNK_FOLDERS = {"__MACOSX"}
JUNK_FILES = {".DS_Store", "Thumbs.db"}
VOLUME_SUFFIXES = (".nii", ".nii.gz")


@dataclass
class Scan:
    """What lies in a download.

    Attributes:
        cases: case id to role to paths relative to the download; more than one path is a clash. A case whose folder
            is there without any of its files has no role.
        junk: left-overs of operating systems (`._*`, `__MACOSX`, `.DS_Store`), relative paths.
        unused: volumes that belong to no role of the release, relative paths.
    """

    cases: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    junk: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def scan(source: Path, release: Release, *, leave_out: Path | None = None) -> Scan:
    """Walks `source`, nested in any way, and sorts its files by case and role.

    Links to folders are followed. `leave_out` is a folder that is not looked into (the data set being written).

    Raises:
        InputError: `source` is not a folder or holds nothing of the release.
    """
    if not source.is_dir():
        raise InputError(f"{source} is not a folder: name the folder of the unpacked {release.name} download")
    found = Scan()
    patterns = release.file_patterns()
    for relative in _walk(source, found.junk, leave_out):
        if relative.endswith("/"):
            _note_folder(relative, release, found)
            continue
        roles = [(role, match) for role, pattern in patterns.items() if (match := pattern.fullmatch(relative))]
        for role, match in roles:
            found.cases.setdefault(match.group("case"), {}).setdefault(role, []).append(relative)
        if not roles and relative.endswith(VOLUME_SUFFIXES):
            found.unused.append(relative)
    if not found.cases:
        raise _nothing_found(source, release, found)
    found.cases = {case: found.cases[case] for case in sorted(found.cases)}
    return found


def _note_folder(relative: str, release: Release, found: Scan) -> None:
    """A folder named like a case makes it a case, so that one with all files missing is not passed over."""
    pattern = release.file_patterns()[next(iter(release.channels))]
    name = relative.rstrip("/").rpartition("/")[2]
    suffix = next(iter(release.channels.values()))
    if match := pattern.fullmatch(f"{name}{suffix}.nii.gz"):
        found.cases.setdefault(match.group("case"), {})


def _walk(source: Path, junk: list[str], leave_out: Path | None) -> Iterator[str]:
    """Yields relative paths in a fixed order, those of folders with a slash at the end; notes junk."""
    seen: set[str] = set()
    if leave_out is not None and leave_out.exists():
        seen.add(os.path.realpath(leave_out))
    for folder, folders, files in os.walk(source, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        prefix = "" if folder == str(source) else Path(folder).relative_to(source).as_posix() + "/"
        junk += [prefix + name + "/" for name in folders if name in JUNK_FOLDERS]
        folders[:] = [name for name in folders if name not in JUNK_FOLDERS]
        yield from (f"{prefix}{name}/" for name in folders)
        for name in sorted(files):
            if name in JUNK_FILES or name.startswith("._"):
                junk.append(prefix + name)
            else:
                yield prefix + name


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}): give yourself permission to read it")


def _nothing_found(source: Path, release: Release, found: Scan) -> InputError:
    expected = f"files named like {example_file(release)}"
    there = f"for instance {found.unused[0]}" if found.unused else "no .nii or .nii.gz file at all"
    return InputError(
        f"{source} holds no case of {release.name}: {expected} were expected, there is {there}; "
        "check the folder and the name of the release (`bdfm releases`)"
    )


def example_file(release: Release) -> str:
    """A made-up file name of the release, for messages."""
    case = release.case_pattern.replace(r"\d{5}", "00000").replace(r"\d{4}", "0000").replace(r"\d{3}", "000")
    return f"{case}{next(iter(release.channels.values()))}.nii.gz"
