"""Cases that belong to one patient; splits, cohorts and exposure reports use this.

A case is a row of a manifest. Rows belong together if they share a patient key, an alias or the voxel values of an
image, directly or through other rows; splits keep rows of one family together, too.
"""

import hashlib
import os
import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import read_json
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.leftovers import is_leftover
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.safe_names import check_name
from bdfm_nnunet.split_files import SPLITS, read_splits

MANIFEST = "manifest.json"
REFUSED = "refused"
COHORT = "cohort"
"""Release of a merged data set, whose images lie in other data sets."""
MADE_UP = "synthesis"
"""Release of images that were drawn from label maps; cases of one map count as one patient."""
OPEN_RELEASES = {"folder", "bids", "dicom", "fmri-folder", "fmri-bids", "fmri-fmriprep", MADE_UP}
"""Releases that stand for any data set: their patient keys are only valid in the folder they were converted from."""

_COMMON = re.compile(r"subject|subj|sub|case|patient|pat|id|train(ing)?|test|image|scan|[^a-z]")
_LABELS = re.compile(r"label|mask:.*")


def plain_id(text: str) -> str:
    """Return an id in lower case and without leading zeros of numbers, for comparison.

    Example:
        >>> plain_id("BraTS-GLI-00012")
        'brats-gli-12'
    """
    return re.sub(r"\d+", lambda match: match.group().lstrip("0") or "0", text.strip().casefold())


def says_whose(key: str) -> bool:
    """Return whether a patient key names its data set.

    Example:
        >>> says_whose("sub-07"), says_whose("BraTS-GLI-00012")
        (False, True)
    """
    return len(_COMMON.sub("", key.casefold())) > 1


def qualified(key: str, release: str) -> str:
    """Return a patient key that is unique across data sets: with the release in front if the key does not name it.

    Example:
        >>> qualified("sub-07", "isles2022"), qualified("BraTS-GLI-00012", "brats2023-gli")
        ('isles2022:sub-07', 'BraTS-GLI-00012')
    """
    return key if says_whose(key) or not release else f"{release}:{key}"


@dataclass(frozen=True)
class Identity:
    """Everything that identifies the patient of a case.

    Attributes:
        case: case id.
        keys: patient key, case id and aliases in comparable form.
        hashes: hashes of the voxel values of its images.
    """

    case: str
    keys: frozenset[str]
    hashes: frozenset[str]


def image_hashes(row: Mapping[str, Any]) -> dict[str, str]:
    """Return channel -> hash of its voxel values, without label files, many of which are empty and thus equal."""
    return {role: digest for role, digest in row.get("sha256", {}).items() if not _LABELS.fullmatch(role)}


def identify(row: Mapping[str, Any], release: str = "") -> Identity:
    """Return the identity of a manifest's row.

    Args:
        row: row with "case" and, if known, "patient", "aliases", "sha256" and "release".
        release: release of rows without "release".
    """
    release = row.get("release") or release
    own = [str(row["case"]), str(row.get("patient") or row["case"])]
    keys = {plain_id(f"{release}:{key}") for key in own} if release else set()
    keys |= {plain_id(key) for key in (*own, *row.get("aliases", ())) if says_whose(key) or not release}
    return Identity(str(row["case"]), frozenset(keys), frozenset(image_hashes(row).values()))


def components(members: Sequence[Collection[Hashable]]) -> list[int]:
    """Return a number per member, equal for members that share an element, directly or through others.

    Example:
        >>> components([{"a"}, {"b"}, {"b", "c"}, {"c"}])
        [0, 1, 1, 1]
    """
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


def groups(rows: Iterable[Mapping[str, Any]], release: str = "", *, families: bool = False) -> dict[str, str]:
    """Return case id -> name of its group; the cases of a group must stay on one side of a split.

    A group is named after the first of its patient keys.

    Args:
        rows: of a manifest.
        release: release of rows without "release".
        families: whether patients of one family are one group, as splits want it; else a group is one patient.

    Example:
        >>> groups([{"case": "a", "patient": "P1"}, {"case": "b", "patient": "P1"}, {"case": "c", "patient": "P2"}])
        {'a': 'P1', 'b': 'P1', 'c': 'P2'}
    """
    rows = list(rows)
    identities = [identify(row, release) for row in rows]
    kin = [_family(row, release) if families else frozenset() for row in rows]
    numbers = components([identity.keys | identity.hashes | family for identity, family in zip(identities, kin)])
    names: dict[int, str] = {}
    for number, row in zip(numbers, rows):
        key = qualified(str(row.get("patient") or row["case"]), row.get("release") or release)
        names[number] = min(names.get(number, key), key)
    return {identity.case: names[number] for identity, number in zip(identities, numbers)}


def _family(row: Mapping[str, Any], release: str) -> frozenset[tuple[str, str, str]]:
    """Return the family of a row, whose numbers mean something inside their own release."""
    family = plain_id(row.get("family") or "")
    return frozenset([("family", row.get("release") or release, family)] if family else [])


def duplicates(rows: Iterable[Mapping[str, Any]], release: str = "") -> list[tuple[str, ...]]:
    """Return sets of cases with the same image but different patient keys."""
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
    """The cases of a data set.

    Attributes:
        name: name of the data set, like `Dataset501_Demo`.
        scope: scope in which its patient keys are valid: the release, else the data set.
        rows: one row per usable case, as in the manifest; only "case" and "part" are always present.
        note: sentence on missing knowledge; empty if there is a manifest.
        content: rest of the manifest.
    """

    name: str
    scope: str
    rows: list[dict[str, Any]]
    note: str = ""
    content: Mapping[str, Any] = field(default_factory=dict)

    def of_part(self, part: str) -> list[dict[str, Any]]:
        """Return the rows of `train` or `test`."""
        return [row for row in self.rows if row["part"] == part]

    @property
    def releases(self) -> dict[str, dict[str, Any]]:
        """Release name -> its licence, what to cite for it, and the releases that share scans with it."""
        listed: dict[str, dict[str, Any]] = dict(self.content.get("releases", {}))
        if not listed and self.content.get("release"):
            listed = {self.scope: dict(self.content)}
        return {
            name: {
                "licence": str(entry.get("licence", "")),
                "overlaps": sorted(entry.get("overlaps", ())),
                **({"citation": str(entry["citation"])} if entry.get("citation") else {}),
            }
            for name, entry in sorted(listed.items())
        }


def read_cases(*folders: Path) -> CaseList:
    """Read the cases of a data set from the first of its folders (raw, preprocessed) that has a manifest.

    Without a manifest, only the case ids are read, from the names of the files.

    Raises:
        InputError: a manifest is damaged, or no folder holds any case.
    """
    for folder in folders:
        if os.path.lexists(folder / MANIFEST):
            return _from_manifest(folder, folders)
    for folder in folders:
        rows = _from_files(folder)
        if rows:
            note = f"{folder} has no {MANIFEST}, so patients are known by their case ids alone"
            return CaseList(folder.name, folder.name, rows, note)
    raise InputError(f"{' and '.join(map(str, folders))} hold no case: convert the data set first")


def with_patients(cases: CaseList, pattern: str | None) -> CaseList:
    """Return cases whose patients are found in their ids, for a data set without manifest.

    Args:
        cases: of the data set.
        pattern: regular expression that finds the patient (its group 1) in a case id; None changes nothing.

    Raises:
        InputError: there is a manifest that knows the patients, or the pattern is none or does not fit a case.
    """
    if pattern is None:
        return cases
    if cases.content:
        raise InputError(
            f"{cases.name} has a manifest that knows the patients: leave out --patients, or convert with other rules"
        )
    return replace(cases, rows=[row | {"patient": _patient(pattern, row["case"])} for row in cases.rows], note="")


def _patient(pattern: str, case: str) -> str:
    try:
        match = re.search(pattern, case)
    except re.error as error:
        raise InputError(f"--patients {pattern!r} is no regular expression ({error}): correct it") from None
    if not match:
        raise InputError(f"--patients {pattern!r} finds no patient in case {case}: make it fit every case id")
    return match[1] if match.re.groups else match[0]


def _from_manifest(folder: Path, folders: Sequence[Path]) -> CaseList:
    content = read_manifest(folder)
    rows = [{"part": "train"} | row for row in content["cases"] if row.get("status") != REFUSED]
    known = {row["case"] for row in rows}
    rows += [row for other in folders for row in _test_images(other) if row["case"] not in known]
    rest = {name: value for name, value in content.items() if name != "cases"}
    return CaseList(folder.name, _scope_of(content) or folder.name, rows, content=rest)


_TEXT, _COUNTS = (str, None), {str: int}
_RELEASE = {"licence?": _TEXT, "citation?": _TEXT, "overlaps?": [str]}
_ROW = {
    "case": str, "patient?": _TEXT, "session?": _TEXT, "site?": _TEXT, "release?": _TEXT, "licence?": _TEXT,
    "family?": _TEXT, "aliases?": [str], "part?": str, "status?": str, "sources?": {str: str}, "targets?": {str: str},
    "labels?": _COUNTS, "sha256?": {str: str}, "shape?": [int], "spacing?": [float],
}  # fmt: skip
_MANIFEST = {
    "release?": _TEXT, "source?": _TEXT, "unlabelled?": bool, "inverse_labels?": _COUNTS, "releases?": {str: _RELEASE},
    "cases": [_ROW], **_RELEASE,
}  # fmt: skip
_WHOLE = re.compile(r"-?\d{1,20}")  # as many digits as the widest integer of a file has
_IN_A_DATA_SET = re.compile(r"(?:images|labels|sequences)(?:Tr|Ts)/[^/.][^/]*")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of a data set.

    Raises:
        InputError: as `read_json`; or the manifest has another shape, names a case twice, or has a case id or a path
            that leads out of the data set (for a cohort: to anything but images and labels of data sets).
    """
    path = folder / MANIFEST
    content = read_json(path)
    fault = fault_of(content, _MANIFEST) or _fault_of_values(content)
    if fault:
        raise InputError(f"{path} is no manifest of bdfm convert ({fault}): convert the data set again")
    for row in content["cases"]:
        if row.get("status") != REFUSED:
            check_name(row["case"], f"case id in {path}")
    return dict(content)


def _fault_of_values(content: Mapping[str, Any]) -> str:
    tables = [("inverse_labels", content.get("inverse_labels", {}))]
    seen: set[str] = set()
    for row in content["cases"]:
        if row["case"] in seen:
            return f"case {row['case']!r} is in it twice"
        seen.add(row["case"])
        tables.append((f"labels of case {row['case']!r}", row.get("labels", {})))
        for role, target in row.get("targets", {}).items():
            if not _is_inside(target, anywhere=content.get("release") == COHORT):
                return f"{role} of case {row['case']!r} is {target!r}, expected a file of the data set"
        if row.get("status") != REFUSED and row.get("part", "train") not in ("train", "test"):
            return f"part of case {row['case']!r} is {row['part']!r}, expected train or test"
    for where, table in tables:
        if wrong := next((key for key in table if not _WHOLE.fullmatch(key)), None):
            return f"{where} has the value {wrong!r}, expected a whole number"
    return ""


def _is_inside(target: str, *, anywhere: bool) -> bool:
    """Return whether a path of a manifest names an image, a label or a run (`anywhere`: of any data set)."""
    plain = target.replace("\\", "/")
    if not target.isprintable() or plain.startswith("/") or ":" in plain:
        return False
    return _IN_A_DATA_SET.fullmatch("/".join(plain.split("/")[-2:]) if anywhere else plain) is not None


def _scope_of(content: Mapping[str, Any]) -> str:
    release = str(content.get("release", ""))
    if release not in OPEN_RELEASES:
        return release
    return f"{release}-{hashlib.sha256(str(content.get('source', '')).encode()).hexdigest()[:8]}"


def _from_files(folder: Path) -> list[dict[str, Any]]:
    cases: set[str] = set()
    if (folder / "dataset.json").exists():
        description = read_dataset_json(folder / "dataset.json")
        ending = description["file_ending"]
        cases |= set(description.get("dataset", ()))
        if not cases and (folder / "labelsTr").is_dir():
            names = [name for name in os.listdir(folder / "labelsTr") if not is_leftover(name) and name[0] != "."]
            cases |= {name.removesuffix(ending) for name in names if name.endswith(ending)}
    if not cases and (folder / SPLITS).exists():
        cases |= {case for fold in read_splits(folder / SPLITS) for case in (*fold["train"], *fold["val"])}
    for case in sorted(cases):
        check_name(case, f"case id in {folder}")
    return [{"case": case, "part": "train"} for case in sorted(cases)] + _test_images(folder)


def _test_images(folder: Path) -> list[dict[str, Any]]:
    """Return the cases of imagesTs, by their first channel."""
    if not (folder / "imagesTs").is_dir():
        return []
    found = (re.fullmatch(r"([^.].*)_0000\..+", name) for name in sorted(os.listdir(folder / "imagesTs")))
    return [{"case": match[1], "part": "test"} for match in found if match]
