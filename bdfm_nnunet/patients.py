"""Which cases belong to one patient: what splits, cohorts and exposure reports are made of.

A case is a row of a manifest. Rows belong together where they share a patient key, an alias or the voxel values of an
image, directly or over other rows.
"""

import hashlib
import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json

MANIFEST = "manifest.json"
REFUSED = "refused"
OPEN_RELEASES = {"folder", "bids"}
"""Releases that stand for any data set: their keys mean nothing outside the folder they were converted from."""

_COMMON = re.compile(r"subject|subj|sub|case|patient|pat|id|train(ing)?|test|image|scan|[^a-z]")
_LABELS = re.compile(r"label|mask:.*")


def plain_id(text: str) -> str:
    """An id without regard to case and to leading zeros of numbers."""
    return re.sub(r"\d+", lambda match: match.group().lstrip("0") or "0", text.strip().casefold())


def says_whose(key: str) -> bool:
    """Whether a key can be told from those of other data sets; `12` and `sub-07` cannot, `BraTS-GLI-00012` can."""
    return len(_COMMON.sub("", key.casefold())) > 1


def qualified(key: str, release: str) -> str:
    """A key that names its patient outside its data set too: with the release in front where it needs that."""
    return key if says_whose(key) or not release else f"{release}:{key}"


@dataclass(frozen=True)
class Identity:
    """All that tells whose images a case holds.

    Attributes:
        case: case id.
        keys: patient key, case id and aliases in comparable form.
        hashes: of the voxel values of its images.
    """

    case: str
    keys: frozenset[str]
    hashes: frozenset[str]


def image_hashes(row: Mapping[str, Any]) -> dict[str, str]:
    """Channel to the hash of its voxel values; label files do not tell patients apart (many are empty)."""
    return {role: digest for role, digest in row.get("sha256", {}).items() if not _LABELS.fullmatch(role)}


def identify(row: Mapping[str, Any], release: str = "") -> Identity:
    """The identity of a manifest's row.

    Args:
        row: with "case" and, where known, "patient", "aliases", "sha256" and "release".
        release: the release of rows that do not say it.
    """
    release = row.get("release") or release
    own = [str(row["case"]), str(row.get("patient") or row["case"])]
    keys = {plain_id(f"{release}:{key}") for key in own} if release else set()
    keys |= {plain_id(key) for key in (*own, *row.get("aliases", ())) if says_whose(key) or not release}
    return Identity(str(row["case"]), frozenset(keys), frozenset(image_hashes(row).values()))


def components(members: Sequence[Collection[Hashable]]) -> list[int]:
    """A number per member, the same for members that share something, directly or over others."""
    from scipy.sparse import coo_array  # half a second of every command that never comes here
    from scipy.sparse.csgraph import connected_components

    things: dict[Hashable, int] = {}
    pairs = [(i, things.setdefault(thing, len(things))) for i, member in enumerate(members) for thing in member]
    if not pairs:
        return list(range(len(members)))
    rows, columns = np.array(pairs).T
    nodes = len(members) + len(things)
    graph = coo_array((np.ones(len(pairs), dtype=bool), (rows, len(members) + columns)), shape=(nodes, nodes))
    _, numbers = connected_components(graph, directed=False)
    return [int(number) for number in numbers[: len(members)]]


def groups(rows: Iterable[Mapping[str, Any]], release: str = "") -> dict[str, str]:
    """Case to the name of its group: the cases that must stay on one side of a split.

    A group is named like the first of its patient keys.
    """
    rows = list(rows)
    identities = [identify(row, release) for row in rows]
    numbers = components([identity.keys | identity.hashes for identity in identities])
    names: dict[int, str] = {}
    for number, row in zip(numbers, rows):
        key = qualified(str(row.get("patient") or row["case"]), row.get("release") or release)
        names[number] = min(names.get(number, key), key)
    return {identity.case: names[number] for identity, number in zip(identities, numbers)}


def duplicates(rows: Iterable[Mapping[str, Any]], release: str = "") -> list[tuple[str, ...]]:
    """Sets of cases that hold the same image under different patient keys."""
    holders: dict[str, dict[str, str]] = {}
    for row in rows:
        key = qualified(str(row.get("patient") or row["case"]), row.get("release") or release)
        for digest in image_hashes(row).values():
            holders.setdefault(digest, {})[str(row["case"])] = plain_id(key)
    found = {tuple(sorted(cases)) for cases in holders.values() if len(set(cases.values())) > 1}
    return sorted(found)


# ------------------------------------------------------------------------------------------------------- data sets


@dataclass(frozen=True)
class CaseList:
    """The cases of a data set and what is known of them.

    Attributes:
        name: of the data set, like `Dataset501_Demo`.
        scope: what its patient keys mean something in: the release, else the data set itself.
        rows: one per usable case, as in the manifest; only "case" and "part" are certain to be there.
        note: what is not known, one sentence; empty where there is a manifest.
        content: the rest of the manifest.
    """

    name: str
    scope: str
    rows: list[dict[str, Any]]
    note: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)

    def of_part(self, part: str) -> list[dict[str, Any]]:
        """The rows of `train` or `test`."""
        return [row for row in self.rows if row["part"] == part]

    @property
    def releases(self) -> dict[str, dict[str, Any]]:
        """Release to its licence and to the releases that share scans with it."""
        listed: dict[str, dict[str, Any]] = dict(self.content.get("releases", {}))
        if not listed and self.content.get("release"):
            listed = {self.scope: dict(self.content)}
        return {
            name: {"licence": str(entry.get("licence", "")), "overlaps": sorted(entry.get("overlaps", ()))}
            for name, entry in sorted(listed.items())
        }


def read_cases(*folders: Path) -> CaseList:
    """The cases of a data set, from the first of its folders (raw, preprocessed) that has a manifest.

    Without any, the case ids alone are taken from the files.

    Raises:
        InputError: a manifest is damaged, or no folder holds any case.
    """
    for folder in folders:
        if (folder / MANIFEST).is_file():
            return _from_manifest(folder, folders)
    for folder in folders:
        rows = _from_files(folder)
        if rows:
            note = f"{folder} has no {MANIFEST}, so patients are known by their case ids alone"
            return CaseList(folder.name, folder.name, rows, note)
    raise InputError(f"{' and '.join(map(str, folders))} hold no case: convert the data set first")


def _from_manifest(folder: Path, folders: Sequence[Path]) -> CaseList:
    content = read_json(folder / MANIFEST)
    if not isinstance(content, dict) or not isinstance(content.get("cases"), list):
        raise InputError(f"{folder / MANIFEST} is no manifest of bdfm convert: convert the data set again")
    rows = [{"part": "train"} | row for row in content["cases"] if row.get("status") != REFUSED]
    known = {row["case"] for row in rows}
    rows += [row for other in folders for row in _test_images(other) if row["case"] not in known]
    rest = {name: value for name, value in content.items() if name != "cases"}
    return CaseList(folder.name, _scope_of(content) or folder.name, rows, content=rest)


def _scope_of(content: Mapping[str, Any]) -> str:
    release = str(content.get("release", ""))
    if release not in OPEN_RELEASES:
        return release
    return f"{release}-{hashlib.sha256(str(content.get('source', '')).encode()).hexdigest()[:8]}"


def _from_files(folder: Path) -> list[dict[str, Any]]:
    cases: set[str] = set()
    if (folder / "dataset.json").is_file():
        description = read_json(folder / "dataset.json")
        ending = description.get("file_ending", ".nii.gz")
        cases |= set(description.get("dataset", ()))
        if not cases and (folder / "labelsTr").is_dir():
            names = os.listdir(folder / "labelsTr")
            cases |= {name.removesuffix(ending) for name in names if name.endswith(ending) and name[0] != "."}
    if not cases and (folder / "splits_final.json").is_file():
        cases |= {case for fold in read_json(folder / "splits_final.json") for case in (*fold["train"], *fold["val"])}
    return [{"case": case, "part": "train"} for case in sorted(cases)] + _test_images(folder)


def _test_images(folder: Path) -> list[dict[str, Any]]:
    """Cases of imagesTs by their first channel."""
    if not (folder / "imagesTs").is_dir():
        return []
    found = (re.fullmatch(r"([^.].*)_0000\..+", name) for name in sorted(os.listdir(folder / "imagesTs")))
    return [{"case": match[1], "part": "test"} for match in found if match]
