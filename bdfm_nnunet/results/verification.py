"""Whether what a run has read and written is still there, and still the same: `bdfm verify`."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.checksums import Checksums, size_and_crc
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json, sha256_of
from bdfm_nnunet.nnunet_files import read_plans_file
from bdfm_nnunet.results.hashed_files import HashedFiles, hashed_data, joined, plans_sha256, split_sha256
from bdfm_nnunet.results.places import find_place
from bdfm_nnunet.results.run_result import RunResult, is_sealed, read_result
from bdfm_nnunet.split_files import read_splits

_READERS = 4
_MOST_NAMED = 10
_FOLDERS = ("", "fold_*")
"""Where the results of a folder lie: in it or, of a trained model, in the folders of its folds."""


@dataclass(frozen=True)
class Faults:
    """What a check of files has found.

    Attributes:
        changed: files, or what of them, that no longer match.
        missing: files that are not there.
        unknown: what cannot be checked, and why.

    Example:
        >>> Faults(missing=("a.csv",)).changed
        ()
    """

    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """A result file that was checked.

    Attributes:
        path: of the file.
        kind: of the result.
        matching: roles and places of what is unchanged.
        faults: everything else.
        notes: what is not a matter of files: other versions than now.

    Example:
        >>> found = Verified("scores.json", "evaluation", ["labels ../labels (3 files)"], Faults(missing=("a.csv",)))
        >>> found.answer
        'incomplete'
        >>> print(found.summary())
        scores.json (evaluation): 1 unchanged, 0 changed, 1 missing, 0 cannot be checked
          unchanged: labels ../labels (3 files)
          MISSING: a.csv
    """

    path: str
    kind: str
    matching: Sequence[str]
    faults: Faults
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def answer(self) -> str:
        """Return "unchanged", "changed", or "incomplete" where something is missing or cannot be checked."""
        if self.faults.changed:
            return "changed"
        return "incomplete" if self.faults.missing or self.faults.unknown else "unchanged"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"answer": self.answer, **asdict(self)}

    def summary(self) -> str:
        """Return lines for a terminal."""
        faults = self.faults
        counts = f"{len(self.matching)} unchanged, {len(faults.changed)} changed, {len(faults.missing)} missing"
        lines = [f"{self.path} ({self.kind}): {counts}, {len(faults.unknown)} cannot be checked"]
        named = {"CHANGED": faults.changed, "MISSING": faults.missing, "cannot be checked": faults.unknown}
        for title, entries in {"unchanged": self.matching, **named, "note": self.notes}.items():
            lines += [f"  {title}: {entry}" for entry in entries[:_MOST_NAMED]]
            lines += [f"  {title}: and {len(entries) - _MOST_NAMED} more"] if len(entries) > _MOST_NAMED else []
        return "\n".join(lines)


def results_in(path: Path) -> list[Path]:
    """Return the result files of a run that can be checked.

    Args:
        path: a result file; or the folder of a training, a trained model, predictions, an evaluation or a study.

    Raises:
        InputError: there is none.

    Example:
        >>> from bdfm_nnunet.results import Provenance, write_result
        >>> write_result(Path("result.json"), RunResult(kind="study", provenance=Provenance()))
        >>> results_in(Path("."))
        [PosixPath('result.json')]
    """
    if not path.is_dir():
        return [path]
    found = [file for pattern in _FOLDERS for file in sorted(_json_files(path, pattern)) if _has_provenance(file)]
    if not found:
        raise InputError(
            f"{path} holds no result file that names what it came from: give the file or folder of a training, a "
            "prediction, an evaluation or a study of this version"
        )
    return found


def _json_files(folder: Path, pattern: str) -> Iterator[Path]:
    for place in folder.glob(pattern) if pattern else (folder,):
        yield from place.glob("*.json")


def _has_provenance(path: Path) -> bool:
    with suppress(InputError):
        content = read_json(path)
        return isinstance(content, Mapping) and {"schema", "provenance"} <= set(content) and bool(content["provenance"])
    return False


def verify_result(path: Path, *, content: bool = True, versions: Mapping[str, str | None] | None = None) -> Verified:
    """Check everything that a result file names.

    Args:
        path: the result file.
        content: whether files are read; else only their presence and size are checked.
        versions: of the software now; differences are noted.

    Raises:
        InputError: it is no result, or one that names nothing.

    Example:
        >>> from bdfm_nnunet.results import Provenance, write_result
        >>> from bdfm_nnunet.results.hashed_files import hashed_file
        >>> _ = Path("scores.csv").write_text("1,2")
        >>> outputs = [hashed_file("table", Path("scores.csv"), beside=Path("."))]
        >>> write_result(Path("scores.json"), RunResult(kind="study", provenance=Provenance(outputs=outputs)))
        >>> _ = Path("scores.csv").write_text("1,3")
        >>> verify_result(Path("scores.json")).faults.changed
        ('scores.csv',)
    """
    result = read_result(path)
    if result.provenance is None:
        raise InputError(
            f"{path} does not name what it came from: it is of an older version, or of another kind of run"
        )
    files = [*result.provenance.inputs, *result.provenance.outputs]
    found = [faults_of(each, beside=path.parent, content=content) for each in files]
    edited = () if is_sealed(path) else (f"{path.name} itself: it was edited after it was written",)
    faults = Faults(
        changed=(*edited, *(fault for each in found for fault in each.changed)),
        missing=tuple(fault for each in found for fault in each.missing),
        unknown=tuple(fault for each in found for fault in each.unknown),
    )
    matching = [_told(each) for each, fault in zip(files, found) if fault == Faults()]
    return Verified(str(path), result.kind, matching, faults, list(_notes(result, versions or {})))


def _told(hashed: HashedFiles) -> str:
    count = f" ({hashed.count} files)" if hashed.count not in (None, 1) else ""
    detail = f" {hashed.detail}" if hashed.detail else ""
    return f"{hashed.role} {hashed.place}{detail}{count}"


def _notes(result: RunResult, versions: Mapping[str, str | None]) -> Iterator[str]:
    for name, now in versions.items():
        then = (result.versions or {}).get(name)
        if then and then != now:
            yield f"the run had {name} {then}, here is {now or 'none'}"


# ---------------------------------------------------------------------------------------------------- sets of files


def faults_of(hashed: HashedFiles, *, beside: Path, content: bool = True) -> Faults:
    """Hash files again, and return what does not match.

    Args:
        hashed: as they were.
        beside: folder of the result file.
        content: whether files are read; else only their presence and size are checked.

    Example:
        >>> hashed = HashedFiles(role="table", kind="file", place="nowhere.csv", sha256="0" * 64)
        >>> faults_of(hashed, beside=Path(".")).missing
        ('nowhere.csv',)
    """
    check = _CHECKS.get(hashed.kind)
    try:
        path = find_place(hashed.place, beside=beside)
        if check is None:
            return Faults(unknown=(f"{hashed.place}: {hashed.kind} is a kind that this version does not know",))
        if not os.path.lexists(path):
            return Faults(missing=(hashed.place,))
        return check(hashed, path, content)
    except (InputError, OSError) as error:
        return Faults(unknown=(f"{hashed.place}: {error}",))


def _check_file(hashed: HashedFiles, path: Path, content: bool) -> Faults:
    same = hashed.bytes in (None, path.stat().st_size) and (not content or sha256_of(path) == hashed.sha256)
    return Faults() if same else Faults(changed=(hashed.place,))


def _check_files(hashed: HashedFiles, path: Path, content: bool) -> Faults:
    files = hashed.files or {}
    if joined(hashed).sha256 != hashed.sha256:
        return Faults(changed=(f"{hashed.place}: the list of its files in the result",))
    if wrong := [name for name in files if Path(name).is_absolute() or ".." in Path(name).parts]:
        return Faults(unknown=(f"{hashed.place}: {wrong[0]} is no file in it",))

    def is_same(name: str) -> bool:
        file, entry = path / name, files[name]
        return file.stat().st_size == entry["bytes"] and (not content or sha256_of(file) == entry["sha256"])

    return _each(hashed.place, path, files, is_same)


def _check_data(hashed: HashedFiles, path: Path, content: bool) -> Faults:
    """Hold the list of checksums against the run's, and each file against the list."""
    checksums = Checksums.of(path)
    if checksums is None:
        return Faults(unknown=(f"{hashed.place}: its list of checksums is gone",))
    if hashed_data(path, beside=path).sha256 != hashed.sha256:
        return Faults(changed=(f"{hashed.place}: it was preprocessed anew, into other files",))
    files = checksums.files

    def is_same(name: str) -> bool:
        return size_and_crc(path / name) == files[name] if content else (path / name).stat().st_size == files[name][0]

    return _each(hashed.place, path, files, is_same)


def _each(place: str, folder: Path, names: Iterable[str], is_same: Callable[[str], bool]) -> Faults:
    there = {name: os.path.lexists(folder / name) for name in names}
    present = [name for name, found in there.items() if found]
    with ThreadPoolExecutor(_READERS) as pool:
        changed = [f"{place}/{name}" for name, same in zip(present, pool.map(is_same, present)) if not same]
    return Faults(tuple(changed), tuple(f"{place}/{name}" for name, found in there.items() if not found))


def _check_sizes(hashed: HashedFiles, path: Path, content: bool) -> Faults:
    if hashed_data(path, beside=path).sha256 != hashed.sha256:
        return Faults(changed=(f"{hashed.place}: names and sizes of its files",))
    return Faults(unknown=(f"{hashed.place}: what is in its files, as only `bdfm plan` writes checksums",))


def _check_plans(hashed: HashedFiles, path: Path, content: bool) -> Faults:
    plans, name = read_plans_file(path), str(hashed.detail)
    told = (f"{hashed.place}: configuration {name}",)
    if name not in plans["configurations"]:
        return Faults(missing=told)
    return Faults() if plans_sha256(plans, name) == hashed.sha256 else Faults(changed=told)


def _check_split(hashed: HashedFiles, path: Path, content: bool) -> Faults:
    splits, fold = read_splits(path), str(hashed.detail)
    told = (f"{hashed.place}: fold {fold}",)
    if not fold.isdecimal() or int(fold) >= len(splits):
        return Faults(missing=told)
    cases = splits[int(fold)]
    return Faults() if split_sha256(cases["train"], cases["val"]) == hashed.sha256 else Faults(changed=told)


_CHECKS: dict[str, Callable[[HashedFiles, Path, bool], Faults]] = {
    "file": _check_file,
    "files": _check_files,
    "plans": _check_plans,
    "split": _check_split,
    "data": _check_data,
    "sizes": _check_sizes,
}
