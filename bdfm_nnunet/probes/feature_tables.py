"""Files of features: one vector per case, in one table or a file per scan, with a description of how they were made.

FILE.npz    "cases" (N,), "features" (N, D) float32, "description" (JSON)
FILE.csv    a row per case: case, feature_0, feature_1, ...; the description lies beside it as FILE.json
DIR/        CASE.npy (D,) float32 per case and features.json
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import parse_json, read_json, write_atomically, write_json
from bdfm_nnunet.safe_names import check_name
from bdfm_nnunet.table_files import read_table, write_table

KIND = "subject features"
TABLES = (".npz", ".csv")
DESCRIPTION = "features.json"
_KEY = "key"
_DAMAGE = (OSError, ValueError, KeyError, EOFError)


@dataclass(frozen=True)
class FeatureTable:
    """The features of cases.

    Attributes:
        cases: ids.
        features: (cases, D) float32.
        description: how they were made; empty where the file does not tell.

    Example:
        >>> table = FeatureTable(("a", "b"), np.array([[1, 2], [3, 4]], dtype=np.float32))
        >>> table.of(["b"])
        array([[3., 4.]], dtype=float32)
    """

    cases: tuple[str, ...]
    features: NDArray[np.float32]
    description: Mapping[str, Any] = field(default_factory=dict)

    def of(self, cases: Sequence[str]) -> NDArray[np.float32]:
        """Return the features of some cases, in their order."""
        place = {case: number for number, case in enumerate(self.cases)}
        return self.features[[place[case] for case in cases]]


def is_table(path: Path) -> bool:
    """Return whether features go into one table, as its ending says; else into a folder.

    Raises:
        InputError: it ends like a file of another kind.
    """
    if path.suffix.lower() in TABLES:
        return True
    if path.suffix.lower() in (".npy", ".json", ".tsv", ".xlsx", ".pt", ".pth", ".h5", ".parquet"):
        raise InputError(f"-o {path} has the ending {path.suffix}: name a table FILE.npz or FILE.csv, or a folder")
    return False


def write_features_table(path: Path, table: FeatureTable) -> None:
    """Write a table of features, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    if path.suffix.lower() == ".npz":
        said = json.dumps(table.description)
        with write_atomically(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(stream, cases=np.array(table.cases), features=table.features, description=said)
        return
    header = ["case", *(f"feature_{number}" for number in range(table.features.shape[1]))]
    rows = ([case, *(f"{value:.9g}" for value in row)] for case, row in zip(table.cases, table.features, strict=True))
    write_json(path.with_suffix(".json"), table.description)
    write_table(path, [header, *rows])


def read_features(path: Path) -> FeatureTable:
    """Read features in any of the forms, or a table that another program wrote with one case per row.

    Raises:
        InputError: there are none, they are damaged, or not one finite vector of the same length per case.

    Example:
        >>> write_table("mine.csv", [["case", "thickness"], ["a", "2.5"], ["b", "3"]])
        >>> read_features(Path("mine.csv")).features.tolist()
        [[2.5], [3.0]]
    """
    if path.is_dir():
        table = _from_folder(path)
    elif path.suffix.lower() == ".npz":
        table = _from_archive(path)
    else:
        table = _from_cells(path)
    again = "write them anew with `bdfm features`"
    if not table.cases or table.features.ndim != 2 or not table.features.shape[1]:
        raise InputError(f"{path} holds no features of cases: {again}")
    for case in table.cases:
        check_name(case, f"case id in {path}")
    if len(set(table.cases)) < len(table.cases):
        twice = next(case for case in table.cases if table.cases.count(case) > 1)
        raise InputError(f"{path} holds the features of case {twice} twice: {again}")
    wrong = ~np.isfinite(table.features).all(axis=1)
    if wrong.any():
        raise InputError(f"{path} has features of case {table.cases[int(wrong.argmax())]} that are not finite: {again}")
    return table


def _from_archive(path: Path) -> FeatureTable:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            cases, features = content["cases"], content["features"].astype(np.float32)
            said = str(content["description"]) if "description" in content else "{}"
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: write it with `bdfm features`") from None
    except Exception as error:  # damaged archives raise anything
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(
            f'{path} is no file of features ({reason}): expected "cases" and "features", as `bdfm features` writes them'
        ) from None
    if cases.ndim != 1 or features.ndim != 2 or len(cases) != len(features):
        raise InputError(f"{path} has {len(cases)} cases and features {features.shape}: write it with `bdfm features`")
    return FeatureTable(tuple(map(str, cases)), features, _ours(parse_json(said, str(path))))


def _from_folder(path: Path) -> FeatureTable:
    files = sorted(path.glob("*.npy"))
    if not files:
        raise InputError(f"{path} holds no CASE.npy: write features with `bdfm features`, or name a table")
    vectors = [_vector(file) for file in files]
    for file, vector in zip(files, vectors, strict=True):
        if vector.shape != vectors[0].shape:
            raise InputError(f"{file} has {vector.size} features, {files[0]} {vectors[0].size}: write them alike")
    said = read_json(path / DESCRIPTION) if (path / DESCRIPTION).is_file() else {}
    return FeatureTable(tuple(file.stem for file in files), np.stack(vectors), _ours(said))


def _vector(path: Path) -> NDArray[np.float32]:
    """Return the vector of a scan."""
    try:
        with path.open("rb") as stream:
            return np.asarray(np.load(stream, allow_pickle=False), dtype=np.float32).reshape(-1)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise InputError(
            f"{path} is no array of features ({reason}): delete it and run `bdfm features` again"
        ) from None


def _from_cells(path: Path) -> FeatureTable:
    rows = read_table(path)
    if len(rows) < 2 or "case" not in rows[0]:
        raise InputError(
            f"{path} has no column `case` with rows below it: give a row per case, its id and its features"
        )
    if twice := [name for name in rows[0] if rows[0].count(name) > 1]:
        raise InputError(f"{path} has two columns {twice[0]!r}: rename or remove one")
    at = rows[0].index("case")
    found = [[_number(cell) for number, cell in enumerate(row) if number != at] for row in rows[1:]]
    for row, numbers in zip(rows[1:], found, strict=True):
        if len(row) != len(rows[0]) or any(number is None for number in numbers):
            named = row[at] if at < len(row) else "?"
            raise InputError(f"{path} has something other than {len(rows[0]) - 1} numbers for case {named}: correct it")
    said = path.with_suffix(".json")
    description = _ours(read_json(said) if said.is_file() else {})
    cases = tuple(row[at].removeprefix("'") for row in rows[1:])
    return FeatureTable(cases, np.array(found, dtype=np.float32), description)


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


def _ours(description: Any) -> Mapping[str, Any]:
    """Return a description in our form; other programs write other things beside their features."""
    return description if isinstance(description, Mapping) and description.get("kind") == KIND else {}


def stamp_of(paths: Sequence[Path]) -> str:
    """Return a text that changes when one of some files does: of names, sizes and times."""
    told = [(str(path), stat.st_size, stat.st_mtime_ns) for path in paths for stat in [path.stat()]]
    return hashlib.sha256(repr(told).encode()).hexdigest()


class PartialFeatures:
    """Vectors that are kept as soon as they are there, so that an interrupted command goes on where it was.

    Args:
        out: where the features go at last, a table or a folder.
        settings: what decides the vectors; those of other settings are not taken over.

    Raises:
        InputError: the folder holds features of other settings, or cannot be written.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.in_table = out, is_table(out)
        self.folder = out.with_name(f".{out.name}.parts") if self.in_table else out
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        self._finished: dict[str, NDArray[np.float32]] = {}
        if self.in_table:
            self._take_over()
        self._check_folder()

    def _take_over(self) -> None:
        if self.out.is_file():
            try:
                table = read_features(self.out)
            except InputError:
                return
            if table.description.get(_KEY) == self.key:
                self._finished = dict(zip(table.cases, table.features, strict=True))

    def _check_folder(self) -> None:
        path = self.folder / DESCRIPTION
        there = read_json(path, {}) if path.is_file() else {}
        if there.get(_KEY) != self.key:
            if self.in_table:
                shutil.rmtree(self.folder, ignore_errors=True)
            elif there or any(self.folder.glob("*.npy")):
                raise InputError(f"{self.folder} holds features made in another way: name another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        if there.get(_KEY) != self.key or self.in_table:
            write_json(path, {_KEY: self.key})

    def missing(self, cases: Sequence[str]) -> list[str]:
        """Return the cases without a vector."""
        return [case for case in cases if case not in self._finished and not self._path(case).is_file()]

    def put(self, case: str, vector: NDArray[np.float32]) -> None:
        """Keep the vector of a case."""
        with write_atomically(self._path(case)) as temporary, temporary.open("wb") as stream:
            np.save(stream, vector.astype(np.float32))

    def finish(self, cases: Sequence[str], description: Mapping[str, Any]) -> FeatureTable:
        """Write the features of all cases, and return them.

        Raises:
            InputError: vectors are of different lengths.
        """
        vectors = [self._finished[case] if case in self._finished else _vector(self._path(case)) for case in cases]
        if len({len(vector) for vector in vectors}) > 1:
            raise InputError(f"the vectors in {self.folder} are of different lengths: delete it and start again")
        table = FeatureTable(tuple(cases), np.stack(vectors), {**description, _KEY: self.key})
        if self.in_table:
            write_features_table(self.out, table)
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            write_json(self.folder / DESCRIPTION, table.description)
        return table

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}.npy"
