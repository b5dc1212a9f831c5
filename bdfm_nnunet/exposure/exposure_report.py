"""Comparison of the cases that a checkpoint has seen with the cases of a data set."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.exposure.exposure_record import COLUMNS, Exposure
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import CaseList, Identity, components, identify, image_hashes, plain_id, qualified, read_cases
from bdfm_nnunet.split_files import read_splits
from bdfm_nnunet.table_files import read_table

TEST, VALIDATION, TRAINING, ANY_FOLD = "test", "validation", "training", "cross-validation"
MOST_NAMES = 5
Record = Literal["complete", "partial", "none"]


@dataclass(frozen=True)
class Finding:
    """A case of the data set that the checkpoint has seen.

    Attributes:
        case: case id.
        part: `test`, `validation`, `training`, or `cross-validation` if no fold was named.
        seen: `training` or `validation` of the checkpoint, or its whole `release`.
        by: how this is known: `content`, `patient`, `alias`, `related` (the patient of a case seen) or `release`.
        evidence: the same in words.

    Example:
        >>> seen = "patient P1 is that of P1_scan1 (training case of Dataset501_GLI)"
        >>> Finding("P1_scan2", part="test", seen="training", by=("patient",), evidence=(seen,)).by
        ('patient',)
    """

    case: str
    part: str
    seen: str
    by: tuple[str, ...]
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class ExposureReport:
    """The cases of a data set that a checkpoint has seen.

    Attributes:
        checkpoint: path of the checkpoint.
        dataset: name of the data set.
        counts: part -> number of its cases.
        findings: cases that were seen.
        possible: releases that share scans with seen ones while ids cannot tell which; sentences.
        notes: gaps in the record; sentences.
        record: `complete`; `partial` if some trainings, or ids on one side, are unknown, so that more cases may have
            been seen than were found; `none` if the checkpoint has no record.

    Example:
        >>> seen = "patient P1 is that of P1_scan1 (training case of Dataset501_GLI)"
        >>> finding = Finding("P1_scan2", part="test", seen="training", by=("patient",), evidence=(seen,))
        >>> report = ExposureReport("weights.pth", "Dataset502_GLI", {"test": 20}, [finding])
        >>> print(report.summary())
        weights.pth and Dataset502_GLI
          test: 1 of 20 cases seen in pre-training (1 by patient)
            P1_scan2: patient P1 is that of P1_scan1 (training case of Dataset501_GLI)
    """

    checkpoint: str
    dataset: str
    counts: dict[str, int]
    findings: list[Finding]
    possible: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    record: Record = "complete"

    def as_dict(self) -> dict[str, Any]:
        """Return the report in plain JSON types."""
        return asdict(self)

    def summary(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{self.checkpoint} and {self.dataset}"]
        for part, cases in self.counts.items():
            found = [finding for finding in self.findings if finding.part == part]
            how = Counter(by for finding in found for by in finding.by)
            ways = f" ({', '.join(f'{count} by {by}' for by, count in how.items())})" if found else ""
            least = "at least " if self.record == "partial" else ""
            lines.append(
                f"  {part}: unknown for all {cases} cases"
                if self.record == "none"
                else f"  {part}: {least}{len(found)} of {cases} cases seen in pre-training{ways}"
            )
            lines += [f"    {finding.case}: {'; '.join(finding.evidence)}" for finding in found[:MOST_NAMES]]
            lines += [f"    and {len(found) - MOST_NAMES} more"] if len(found) > MOST_NAMES else []
        return "\n".join([*lines, *(f"  possible: {text}" for text in self.possible), *self._noted()])

    def _noted(self) -> list[str]:
        return [f"  note: {text}" for text in self.notes]

    def warning(self) -> str:
        """Return a paragraph for a training's log on cases whose scores would look too good; empty without any."""
        parts = []
        for part in self.counts:
            names = [finding.case for finding in self.findings if finding.part == part and part != TRAINING]
            if names:
                parts.append(f"{len(names)} of {self.counts[part]} {part} cases ({_some(names)})")
        sentences = []
        if parts:
            sentences.append(
                f"WARNING: the weights of {self.checkpoint} have seen {' and '.join(parts)} in pre-training, so scores "
                "on these cases are no test of new patients; `bdfm exposure` lists them."
            )
        unknown = [f"Not all is known: {text}." for text in self.notes] if self.record != "complete" else []
        return " ".join([*sentences, *(f"Possible: {text}." for text in self.possible), *unknown])


def compare(
    exposure: Exposure,
    cases: CaseList,
    parts: Mapping[str, str],
    *,
    checkpoint: str,
    aliases: Sequence[Collection[str]] = (),
) -> ExposureReport:
    """Look for the cases of a data set among those that a checkpoint has seen.

    Args:
        exposure: the checkpoint's exposure.
        cases: cases of the data set.
        parts: case id -> part it is reported under; other cases only help to recognise patients.
        checkpoint: name of the checkpoint in messages.
        aliases: groups of ids of one patient.

    Example:
        >>> from bdfm_nnunet.exposure import Exposure, describe_run
        >>> row = {"case": "BraTS-GLI-00001-000", "patient": "BraTS-GLI-00001"}
        >>> cases = CaseList("Dataset501_GLI", "brats2023-gli", [row])
        >>> exposure = Exposure().then(describe_run(cases, train=[row["case"]], val=[]))
        >>> later = {"case": "BraTS-GLI-00001-001", "patient": "BraTS-GLI-00001"}  # another scan of the patient
        >>> new = CaseList("Dataset502_GLI", "brats2023-gli", [later])
        >>> compare(exposure, new, {"BraTS-GLI-00001-001": "test"}, checkpoint="weights.pth").findings[0].by
        ('patient',)
    """
    seen = [entry for run in exposure.runs for entry in _entries(run)]
    matcher = _Matcher(seen, [identify(row, cases.scope) for row in cases.rows], aliases)
    whole = {name: (run["dataset"], why) for run in exposure.runs for name, why in run.get("whole", {}).items()}
    known = {row["case"]: row for row in cases.rows}
    findings = []
    for case, part in parts.items():
        row = known.get(case, {"case": case})
        ways = matcher.ways(row, cases.scope)
        release = row.get("release") or cases.scope
        if release in whole:
            ways["release"] = (f"{release} is part of {whole[release][0]}, {whole[release][1]}", "release")
        if ways:
            told = next(iter(ways.values()))[1]
            findings.append(Finding(case, part, told, tuple(ways), tuple(text for text, _ in ways.values())))
    possible = _possible(exposure, cases, unknown=len(parts) - len(findings)) if parts else []
    notes = [exposure.note, cases.note, *(run.get(name, "") for run in exposure.runs for name in ("note", "ancestors"))]
    counts = dict(sorted(Counter(parts.values()).items(), key=lambda item: item[0] != TEST))
    notes = list(dict.fromkeys(note for note in notes if note))
    record: Record = "none" if not exposure.runs else "partial" if notes else "complete"
    return ExposureReport(checkpoint, cases.name, counts, findings, possible, notes, record)


@dataclass(frozen=True)
class _Seen:
    """One case of a run."""

    identity: Identity
    patient: str
    where: str
    part: str


def _entries(run: Mapping[str, Any]) -> list[_Seen]:
    entries = []
    for part, name in (("train", TRAINING), ("val", VALIDATION)):
        columns = run.get(part, {})
        for values in zip(*(columns.get(column, ()) for column in COLUMNS)):
            row = dict(zip(COLUMNS, values))
            row["sha256"] = {str(number): digest for number, digest in enumerate(row["sha256"])}
            patient = plain_id(qualified(row["patient"], row["release"]))
            entries.append(_Seen(identify(row), patient, f"{row['case']} ({name} case of {run['dataset']})", name))
    return sorted(entries, key=lambda entry: entry.part != TRAINING)


class _Matcher:
    """A search for cases among those seen."""

    def __init__(self, seen: Sequence[_Seen], own: Sequence[Identity], aliases: Sequence[Collection[str]]) -> None:
        tables = [frozenset(map(plain_id, row)) for row in aliases]
        self.tables = {key: number for row, number in zip(tables, components(tables)) for key in row}
        members = [identity.keys | identity.hashes for identity in (*(entry.identity for entry in seen), *own)]
        numbers = components([*members, *tables])
        self.related: dict[int, _Seen] = {}
        self.number = {identity.case: number for identity, number in zip(own, numbers[len(seen) :])}
        self.patients: dict[str, _Seen] = {}
        self.keys: dict[str | int, _Seen] = {}
        self.hashes: dict[str, _Seen] = {}
        for entry, number in zip(seen, numbers):
            self.related.setdefault(number, entry)
            self.patients.setdefault(entry.patient, entry)
            for key in self._named(entry.identity.keys):
                self.keys.setdefault(key, entry)
            for digest in entry.identity.hashes:
                self.hashes.setdefault(digest, entry)

    def _named(self, keys: Iterable[str]) -> list[str | int]:
        """Return the keys, and the numbers of their patients in the tables of aliases."""
        keys = sorted(keys)
        return [*keys, *(self.tables[key] for key in keys if key in self.tables)]

    def ways(self, row: Mapping[str, Any], scope: str) -> dict[str, tuple[str, str]]:
        """Return how a case is known to have been seen: way -> evidence and part of the run."""
        identity = identify(row, scope)
        found: dict[str, tuple[str, str]] = {}
        for channel, digest in sorted(image_hashes(row).items()):
            if digest in self.hashes and "content" not in found:
                same = self.hashes[digest]
                found["content"] = (f"its {channel} image is one of {same.where}", same.part)
        patient = str(row.get("patient") or row["case"])
        if entry := self.patients.get(plain_id(qualified(patient, row.get("release") or scope))):
            found["patient"] = (f"patient {patient} is that of {entry.where}", entry.part)
        else:
            for key in self._named(identity.keys):
                if entry := self.keys.get(key):
                    name = key if isinstance(key, str) else f"{patient}, by the table of aliases,"
                    found["alias"] = (f"{name} is the patient of {entry.where}", entry.part)
                    break
        if not found and (entry := self.related.get(self.number.get(identity.case, -1))):
            found["related"] = (f"another case of its patient is one of {entry.where}", entry.part)
        return found


def _possible(exposure: Exposure, cases: CaseList, *, unknown: int) -> list[str]:
    """Return sentences on releases that share scans with those seen, if single cases cannot be told apart."""
    if not unknown:
        return []
    own, seen = cases.releases, exposure.releases
    perhaps = {name: why for run in exposure.runs for name, why in run.get("perhaps", {}).items()}
    return [f"{name} may have been seen: {perhaps[name]}" for name in own if name in perhaps] + [
        f"{name} shares scans with {other}, which was in the pre-training data, so {unknown} further cases may have "
        "been seen under ids that do not tell"
        for name, entry in own.items()
        for other, overlaps in sorted(seen.items())
        if name != other and (other in entry["overlaps"] or name in overlaps)
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


# ----------------------------------------------------------------------------------------------------- bdfm exposure


def exposure_report(
    checkpoint: str | os.PathLike[str],
    dataset_id: int,
    *,
    aliases: str | os.PathLike[str] | None = None,
    fold: int | None = None,
) -> ExposureReport:
    """Report which cases of a data set a checkpoint was trained on.

    Args:
        checkpoint: file of our trainers or of the public BDFM code; other files have no record.
        dataset_id: nnU-Net's number of the data set.
        aliases: table in which each row holds the ids of one patient in any releases; see `table_files.read_table`.
        fold: fold that separates validation from training cases; by default every case is a `cross-validation` case.

    Raises:
        InputError: the checkpoint, the data set, the table or the fold cannot be used.

    Example:
        >>> report = exposure_report("checkpoint_final.pth", 501)  # doctest: +SKIP
        >>> print(report.summary())  # doctest: +SKIP
    """
    folders = dataset_folders(dataset_id)
    cases = read_cases(*folders)
    exposure = Exposure.of_checkpoint(read_checkpoint(Path(checkpoint)))
    table, told = ([], []) if aliases is None else _read_aliases(aliases, exposure, cases)
    train, val = _split(folders, fold) if fold is not None else ([], [])
    parts = parts_of(cases, train, val)
    if fold is None:
        parts |= {row["case"]: ANY_FOLD for row in cases.of_part("train")}
    report = compare(exposure, cases, parts, checkpoint=str(checkpoint), aliases=table)
    return replace(report, notes=[*report.notes, *told])


def parts_of(cases: CaseList, train: Iterable[str], val: Iterable[str]) -> dict[str, str]:
    """Return case id -> its part in a fold, test cases first.

    Example:
        >>> rows = [{"case": "a", "part": "test"}, {"case": "b", "part": "train"}, {"case": "c", "part": "train"}]
        >>> parts_of(CaseList("Dataset501_Demo", "demo", rows), train=["b"], val=["c"])
        {'a': 'test', 'b': 'training', 'c': 'validation'}
    """
    test = dict.fromkeys((row["case"] for row in cases.of_part("test")), TEST)
    return test | dict.fromkeys(train, TRAINING) | dict.fromkeys(val, VALIDATION)


def _split(folders: Sequence[Path], fold: int) -> tuple[list[str], list[str]]:
    paths = [folder / "splits_final.json" for folder in folders]
    path = next((path for path in reversed(paths) if path.is_file()), paths[0])
    splits = read_splits(path)
    if not 0 <= fold < len(splits):
        raise InputError(f"{path} has {len(splits)} folds, so there is no fold {fold}: name one of them")
    return splits[fold]["train"], splits[fold]["val"]


def _read_aliases(
    path: str | os.PathLike[str], exposure: Exposure, cases: CaseList
) -> tuple[list[list[str]], list[str]]:
    """Return the rows of a table of aliases, and notes on them.

    Raises:
        InputError: the table is of no use, so a comparison would only seem to have used it.
    """
    rows = [list(dict.fromkeys(cell for cell in row if cell)) for row in read_table(path)]
    useful = [row for row in rows if len(set(map(plain_id, row))) > 1]
    if not useful:
        raise InputError(f"{path} has no row with two ids: give a table that holds ids of one patient in each row")
    own = {key for row in cases.rows for key in identify(row, cases.scope).keys}
    seen = {key for run in exposure.runs for entry in _entries(run) for key in entry.identity.keys}
    ids = [set(map(plain_id, row)) for row in useful]
    if not any(row & (own | seen) for row in ids):
        raise InputError(
            f"{path} names no case or patient that {cases.name} or the checkpoint knows (it begins with "
            f"{', '.join(useful[0][:3])}): write the ids as they stand in the manifests, or as RELEASE:ID"
        )
    ours, theirs = [row for row in ids if row & own], [row for row in ids if row & seen]
    told = [
        f"{path}: of {len(useful)} rows {len(ours)} name a patient of {cases.name}, {len(theirs)} one that was seen, "
        f"{sum(row in theirs for row in ours)} both"
    ]
    short = [row for row in rows if row not in useful]
    if short:
        told.append(
            f"{path}: nothing can be learnt from {len(short)} rows with a single id ({_some([r[0] for r in short])})"
        )
    return useful, told
