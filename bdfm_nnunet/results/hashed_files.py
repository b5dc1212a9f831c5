"""Files that a run has read or written, with hashes by which a change is noticed later.

A set of files is an entry of a result file:

    file       one file: SHA-256 of its bytes
    files      files of a folder: SHA-256 of each, and of the list that `sha256sum` would print
    plans      one configuration of a plans file, with everything that it inherits; others may come and go
    split      one fold of splits_final.json
    data       a folder of preprocessed data: SHA-256 of its list of checksums, which `bdfm plan` has written
    sizes      a folder of preprocessed data without that list: SHA-256 of names and sizes
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.checksums import Checksums
from bdfm_nnunet.files import cannot_read, sha256_of
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.results.places import place_of

SHAPE = {
    "role": str,
    "kind": str,
    "place": str,
    "sha256": str,
    "detail?": (str, None),
    "count?": (int, None),
    "bytes?": (int, None),
    "files?": ({str: {"bytes": int, "modified": int, "sha256": str}}, None),
}
FileList = Mapping[str, Mapping[str, Any]]
"""Name in a folder -> "bytes", "modified" (nanoseconds) and "sha256"."""
_READERS = 4
_NOT_IN_PLANS = ("configurations", "continue_training")


@dataclass(frozen=True, kw_only=True)
class HashedFiles:
    """A set of files and its hash.

    Attributes:
        role: what the run used it for, or made of it.
        kind: of the list above.
        place: where it lies, see `places`.
        sha256: the hash.
        detail: the configuration of "plans", the fold of a "split".
        count: number of files.
        bytes: size of all.
        files: each of "files".

    Example:
        >>> found = hashed_file("weights", Path("labels/BraTS-GLI-00001-000.nii.gz"), beside=Path("out"))
        >>> found.place, found.count, len(found.sha256)
        ('../labels/BraTS-GLI-00001-000.nii.gz', 1, 64)
    """

    role: str
    kind: str
    place: str
    sha256: str
    detail: str | None = None
    count: int | None = None
    bytes: int | None = None
    files: FileList | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, without what the kind does not have."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> "HashedFiles":
        """Read an entry of `SHAPE`; entries of newer versions are left out."""
        return cls(**{name: value for name, value in entry.items() if name in cls.__dataclass_fields__})


# ----------------------------------------------------------------------------------------------------- making them


def hashed_file(role: str, path: Path, *, beside: Path, sha256: str | None = None) -> HashedFiles:
    """Hash one file.

    Args:
        role: of the file.
        path: the file.
        beside: folder of the result file.
        sha256: of the file, where it is known already.

    Raises:
        InputError: it cannot be read.

    Example:
        >>> _ = Path("weights.pth").write_text("1")
        >>> hashed_file("weights", Path("weights.pth"), beside=Path(".")).bytes
        1
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise cannot_read(path, error) from None
    place = place_of(path, beside=beside)
    return HashedFiles(role=role, kind="file", place=place, sha256=sha256 or sha256_of(path), count=1, bytes=size)


def hashed_files(
    role: str, folder: Path, files: Iterable[Path], *, beside: Path, known: FileList | None = None
) -> HashedFiles:
    """Hash files of a folder; those whose size and time of change are known already are not read again.

    Args:
        role: of the files.
        folder: their folder.
        files: in it, or below it.
        beside: folder of the result file.
        known: from an earlier result.

    Raises:
        InputError: one cannot be read.

    Example:
        >>> folder = Path("labels")
        >>> hashed_files("labels", folder, folder.iterdir(), beside=Path("out")).count
        3
    """
    before = known or {}
    paths = {path.relative_to(folder).as_posix(): path for path in files}
    with ThreadPoolExecutor(_READERS) as pool:  # hashing lets other threads go on
        found = dict(zip(sorted(paths), pool.map(lambda name: _entry(paths[name], before.get(name)), sorted(paths))))
    return joined(HashedFiles(role=role, kind="files", place=place_of(folder, beside=beside), sha256="", files=found))


def joined(first: HashedFiles, second: HashedFiles | None = None) -> HashedFiles:
    """Return the union of two lists of files of one folder; where both have a name, the first is right.

    Example:
        >>> a, b = (HashedFiles(role="r", kind="files", place="p", sha256="", files={
        ...     name: {"bytes": 1, "modified": 0, "sha256": "0"}}) for name in "ab")
        >>> list(joined(a, b).files), joined(a, b).bytes
        (['a', 'b'], 2)
    """
    files = dict(sorted({**((second and second.files) or {}), **(first.files or {})}.items()))
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in files.items())
    about: Any = {"count": len(files), "bytes": sum(entry["bytes"] for entry in files.values()), "files": files}
    fields = vars(first) | about | {"sha256": hashlib.sha256(os.fsencode(lines)).hexdigest()}  # names may be no UTF-8
    return HashedFiles(**fields)


def _entry(path: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        status = path.stat()
    except OSError as error:
        raise cannot_read(path, error) from None
    size, modified = status.st_size, status.st_mtime_ns
    same = known is not None and (known["bytes"], known["modified"]) == (size, modified)
    return {"bytes": size, "modified": modified, "sha256": known["sha256"] if known and same else sha256_of(path)}


def hashed_plans(path: Path, configuration: str, plans: Mapping[str, Any], *, beside: Path) -> HashedFiles:
    """Hash one configuration of plans, as a run has read them.

    Example:
        >>> plans = {"plans_name": "BDFMPlans", "configurations": {"3d_fullres": {"patch_size": [64, 64, 64]}}}
        >>> hashed_plans(Path("model/plans.json"), "3d_fullres", plans, beside=Path("model/fold_0")).place
        '../plans.json'
    """
    place, digest = place_of(path, beside=beside), plans_sha256(plans, configuration)
    return HashedFiles(role="plans", kind="plans", place=place, sha256=digest, detail=configuration)


def hashed_split(path: Path, fold: Any, train: Iterable[str], val: Iterable[str], *, beside: Path) -> HashedFiles:
    """Hash the cases of a fold, as a run has read them.

    Example:
        >>> hashed_split(Path("splits_final.json"), 0, ["a", "b"], ["c"], beside=Path(".")).detail
        '0'
    """
    place, digest = place_of(path, beside=beside), split_sha256(train, val)
    return HashedFiles(role="split", kind="split", place=place, sha256=digest, detail=str(fold))


def hashed_data(folder: Path, *, beside: Path, role: str = "preprocessed data") -> HashedFiles:
    """Hash a folder of preprocessed data by its list of checksums, which is cheap however large the data is.

    Raises:
        InputError: the list is damaged, or the folder cannot be read.

    Example:
        >>> hashed_data(Path("labels"), beside=Path(".")).kind  # preprocessed without `bdfm plan`
        'sizes'
    """
    checksums = Checksums.of(folder)
    entries = _sizes(folder) if checksums is None else {name: tuple(each) for name, each in checksums.files.items()}
    return HashedFiles(
        role=role,
        kind="sizes" if checksums is None else "data",
        place=place_of(folder, beside=beside),
        sha256=sha256_of_json(sorted((name, *each) for name, each in entries.items())),
        count=len(entries),
        bytes=sum(each[0] for each in entries.values()),
    )


def _sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: (entry.stat().st_size,) for entry in entries if entry.is_file()}
    except OSError as error:
        raise cannot_read(folder, error) from None


def plans_sha256(plans: Mapping[str, Any], configuration: str) -> str:
    """Return the hash of what a configuration is, whatever others stand beside it.

    Raises:
        InputError: it does not exist.

    Example:
        >>> plans = {"configurations": {"3d_fullres": {"batch_size": 2}}}
        >>> later = {"configurations": {**plans["configurations"], "short": {"batch_size": 1}}}
        >>> plans_sha256(plans, "3d_fullres") == plans_sha256(later, "3d_fullres")
        True
    """
    shared = {name: value for name, value in plans.items() if name not in _NOT_IN_PLANS}
    return sha256_of_json([shared, resolve_configuration(plans, configuration)])


def split_sha256(train: Iterable[str], val: Iterable[str]) -> str:
    """Return the hash of the cases of a fold, in any order.

    Example:
        >>> split_sha256(["a", "b"], ["c"]) == split_sha256(["b", "a"], ["c"])
        True
    """
    return sha256_of_json([sorted(map(str, train)), sorted(map(str, val))])


def sha256_of_json(content: Any) -> str:
    """Return the hash of plain JSON types, whatever the order of names in tables.

    Example:
        >>> sha256_of_json({"a": 1, "b": 2}) == sha256_of_json({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
