"""Cross-validation and label-fraction splits that keep all cases of a patient on one side."""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.reading.site_tables import read_sites
from bdfm_nnunet.dataset_conversion.stratification import Facts, Strata
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import CaseList, duplicates, groups, plain_id, read_cases
from bdfm_nnunet.split_files import SPLITS, Split, read_splits

logger = logging.getLogger(__name__)

FOLDS = 5
SEED = 12345
TABLE = "splits_table.json"
NOT_REGIONS = {"background", "ignore"}
MOST_NAMES = 5


@dataclass(frozen=True)
class SplitReport:
    """The splits that were written.

    Attributes:
        files: the split files, equal to each other.
        rows: of splits_table.json, one per fold.
        patients: groups of cases that stay together.
        shared: sets of cases with the same image under different patient keys; they count as one patient.
        note: what is not known of the cases; empty where all is.
    """

    files: list[Path]
    rows: list[dict[str, Any]]
    patients: int
    shared: list[tuple[str, ...]]
    note: str = ""

    def summary(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{len(self.rows)} folds of {self.patients} patients: {' and '.join(map(str, self.files))}"]
        lines += [f"note: {self.note}"] if self.note else []
        if self.shared:
            lines.append(
                f"note: the same image under different patient keys, now on one side: {_some(self.shared, ' = ')}"
            )
        for row in self.rows:
            lines.append(
                f"  fold {row['fold']}: {row['fraction']:.4g} of the training cases of fold {row['base_fold']}, "
                f"{row['cases']} cases of {row['patients']} patients; validation {row['validation_cases']} cases"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class SplitCheck:
    """The faults of existing splits.

    Attributes:
        files: the split files that were read.
        folds: number of folds.
        faults: one sentence each; empty where all is well.
    """

    files: list[Path]
    folds: int
    faults: list[str]

    def summary(self) -> str:
        """Return lines for a terminal."""
        names = " and ".join(map(str, self.files))
        if not self.faults:
            return f"{names}: {self.folds} folds, no patient is on two sides, every case is used"
        return "\n".join([f"{names}: {self.folds} folds, {len(self.faults)} faults", *(f"  {f}" for f in self.faults)])


# -------------------------------------------------------------------------------------------------------- making


def make_splits(
    dataset: int | str | os.PathLike[str],
    *,
    folds: int = FOLDS,
    fractions: Sequence[float] = (1.0,),
    seed: int = SEED,
    sites: str | os.PathLike[str] | None = None,
    patients: str | None = None,
    overwrite: bool = False,
) -> SplitReport:
    """Write splits_final.json and splits_table.json into a data set's raw and preprocessed folders.

    First come the folds, then, fraction by fraction, the folds again with fewer training cases and the same validation
    cases. The training cases of a smaller fraction are among those of every larger one.

    Args:
        dataset: nnU-Net's number of the data set, or one folder.
        folds: number of folds; there are fewer where there are fewer patients.
        fractions: of the training cases, above 0 and up to 1; 1 is the folds themselves.
        seed: of the order in which patients are dealt out.
        sites: table with a case or patient id and its site in each row, see `site_tables.read_sites`.
        patients: regular expression that finds the patient (its group 1) in a case id, for data sets without manifest.
        overwrite: replace splits that differ.

    Raises:
        InputError: the data set is unknown, a setting is impossible, or there are other splits already.
    """
    _check_settings(folds, fractions)
    folders = _folders(dataset)
    cases = _cases(folders, patients)
    facts = facts_of(cases, _labels(folders), sites=read_sites(sites) if sites is not None else {})
    patient_count = len({fact.group for fact in facts})
    if patient_count < 2:
        raise InputError(f"{folders[0]} has fewer than two patients: there is nothing to split")
    splits, rows = _all_splits(facts, folds, fractions, seed)
    files = [folder / SPLITS for folder in folders]
    for path in files:
        _check_before_writing(path, splits, overwrite)
    note = "; ".join(filter(None, (cases.note, _unknown_sites(facts) if sites is not None else "")))
    report = SplitReport(files, rows, patient_count, duplicates(cases.of_part("train"), cases.scope), note)
    for folder in folders:
        write_json(folder / SPLITS, splits)
        write_json(folder / TABLE, {"seed": seed, "patients": patient_count, "folds": rows})
    return report


def _check_settings(folds: int, fractions: Sequence[float]) -> None:
    if folds < 2:
        raise InputError(f"{folds} folds are too few: give 2 or more")
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise InputError(f"fractions are {list(fractions)}, expected numbers above 0 and up to 1")


def _unknown_sites(facts: Sequence[Facts]) -> str:
    unknown = [fact.case for fact in facts if not fact.site]
    return f"the site of {len(unknown)} of {len(facts)} cases is not known: {_some(unknown)}" if unknown else ""


def splits_of(cases: CaseList, labels: Mapping[str, Any], *, folds: int = FOLDS, seed: int = SEED) -> list[Split]:
    """Return the folds that `make_splits` writes first.

    Args:
        cases: of the data set.
        labels: as in dataset.json, by which regions are known.
        folds: number of folds.
        seed: of the order in which patients are dealt out.

    Returns:
        One entry per fold; none with fewer than two patients.
    """
    facts = facts_of(cases, labels, sites={})
    return _all_splits(facts, folds, (1.0,), seed)[0] if len({fact.group for fact in facts}) > 1 else []


def _all_splits(
    facts: Sequence[Facts], folds: int, fractions: Sequence[float], seed: int
) -> tuple[list[Split], list[dict[str, Any]]]:
    strata = Strata(facts)
    members: dict[str, list[Facts]] = {}
    for fact in facts:
        members.setdefault(fact.group, []).append(fact)
    everyone = range(len(strata.names))
    parts = strata.deal(everyone, [1.0] * min(folds, len(everyone)), seed=f"{seed}")
    smaller = sorted({fraction for fraction in fractions if fraction < 1})
    chosen: dict[tuple[float, int], list[int]] = {}
    for fold, part in enumerate(parts):
        chosen[1.0, fold] = kept = sorted({*everyone} - {*part})
        whole = strata.cases(kept)
        for fraction in reversed(smaller):
            share = fraction * whole / strata.cases(kept)
            chosen[fraction, fold] = kept = strata.subset(kept, share, seed=f"{seed} {fold} {fraction!r}")
    splits: list[Split] = []
    rows: list[dict[str, Any]] = []
    for fraction, fold in sorted(chosen, key=lambda key: (key[0] < 1, *key)):
        train = [fact for group in chosen[fraction, fold] for fact in members[strata.names[group]]]
        held_out = [fact for group in parts[fold] for fact in members[strata.names[group]]]
        splits.append({"train": _names(train), "val": _names(held_out)})
        rows.append({"fold": len(rows), "base_fold": fold, "fraction": fraction} | _counts(train, held_out))
    return splits, rows


def _names(facts: Iterable[Facts]) -> list[str]:
    return sorted(fact.case for fact in facts)


def _counts(train: Sequence[Facts], held_out: Sequence[Facts]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for prefix, facts in (("", train), ("validation_", held_out)):
        counts[f"{prefix}cases"] = len(facts)
        counts[f"{prefix}patients"] = len({fact.group for fact in facts})
        counts[f"{prefix}regions"] = dict(sorted(Counter(name for fact in facts for name in fact.regions).items()))
        counts[f"{prefix}sites"] = dict(sorted(Counter(fact.site for fact in facts if fact.site).items()))
    return counts


def _check_before_writing(path: Path, splits: Sequence[Split], overwrite: bool) -> None:
    """Refuse to change a fold that may have been trained; folds may be added."""
    if overwrite or not os.path.lexists(path):
        return
    there = [_as_sets(split) for split in read_splits(path)]
    if there != [_as_sets(split) for split in splits[: len(there)]]:
        raise InputError(
            f"{path} holds other splits, and networks trained on them would be validated on cases they know: keep it, "
            "or replace it with --overwrite and train all folds anew"
        )


def _as_sets(split: Mapping[str, Collection[str]]) -> tuple[set[str], set[str]]:
    return set(split["train"]), set(split["val"])


# --------------------------------------------------------------------------------------------- what is known of cases


def _folders(dataset: int | str | os.PathLike[str]) -> list[Path]:
    """Return the folders that hold, or are to hold, the splits: raw first."""
    if isinstance(dataset, int):
        return dataset_folders(dataset)
    folder = Path(dataset)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name a data set by its number or its folder")
    return [folder]


def _labels(folders: Sequence[Path]) -> dict[str, Any]:
    path = next((folder / "dataset.json" for folder in folders if os.path.lexists(folder / "dataset.json")), None)
    return dict(read_dataset_json(path)["labels"]) if path else {}


def _cases(folders: Sequence[Path], patients: str | None) -> CaseList:
    cases = read_cases(*folders)
    if patients is None:
        return cases
    if cases.content:
        raise InputError(
            f"{folders[0]} has a manifest that knows the patients: leave out --patients, or convert with other rules"
        )
    return replace(cases, rows=[row | {"patient": _patient(patients, row["case"])} for row in cases.rows], note="")


def _patient(pattern: str, case: str) -> str:
    try:
        match = re.search(pattern, case)
    except re.error as error:
        raise InputError(f"--patients {pattern!r} is no regular expression ({error}): correct it") from None
    if not match:
        raise InputError(f"--patients {pattern!r} finds no patient in case {case}: make it fit every case id")
    return match[1] if match.re.groups else match[0]


def facts_of(cases: CaseList, labels: Mapping[str, Any], *, sites: Mapping[str, str]) -> list[Facts]:
    """Return what the training cases of a data set are stratified by.

    Args:
        cases: of the data set.
        labels: as in dataset.json, by which regions are known.
        sites: case or patient id to its site; may be empty.

    Raises:
        InputError: the table of sites knows none of the cases.
    """
    rows = sorted(cases.of_part("train"), key=lambda row: row["case"])
    group = groups(rows, cases.scope)
    regions = {} if cases.content.get("unlabelled") else _regions_on_disk(labels, cases.content)
    facts = [_fact(row, group[row["case"]], regions, sites) for row in rows]
    found = {plain_id(text) for row in rows for text in (row["case"], row.get("patient") or row["case"])}
    if sites and not found & set(sites):
        raise InputError(
            f"the table of sites knows no case or patient of {cases.name}: give one with ids of this data set"
        )
    return facts


def _regions_on_disk(labels: Mapping[str, Any], content: Mapping[str, Any]) -> dict[str, set[int]]:
    """Map each region to its values in the manifest's histograms, which are those of the release."""
    inverse = {int(value): int(there) for value, there in content.get("inverse_labels", {}).items()}
    found: dict[str, set[int]] = {}
    for name, values in labels.items():
        if name not in NOT_REGIONS:
            listed: list[int] = values if isinstance(values, list) else [values]
            found[name] = {inverse.get(value, value) for value in listed}
    return found


def _fact(row: Mapping[str, Any], group: str, regions: Mapping[str, set[int]], sites: Mapping[str, str]) -> Facts:
    histogram = {int(value): int(count) for value, count in row.get("labels", {}).items()}
    present = frozenset(name for name, values in regions.items() if any(histogram.get(value) for value in values))
    foreground = set().union(*regions.values())
    voxels = sum(count for value, count in histogram.items() if value in foreground)
    size = voxels * prod(row.get("spacing", ())) if histogram and regions else None
    ids = [plain_id(row["case"]), plain_id(row.get("patient") or row["case"])]
    site = next((sites[key] for key in ids if key in sites), row.get("site") or "")
    return Facts(row["case"], group, present, size, site)


# ------------------------------------------------------------------------------------------------------- checking


def check_splits(dataset: int | str | os.PathLike[str], *, patients: str | None = None) -> SplitCheck:
    """Check splits that exist, whoever made them.

    Args:
        dataset: nnU-Net's number of the data set, or one folder.
        patients: as in `make_splits`.

    Raises:
        InputError: the data set is unknown or has no splits.
    """
    folders = _folders(dataset)
    cases = _cases(folders, patients)
    files = [folder / SPLITS for folder in folders if os.path.lexists(folder / SPLITS)]
    if not files:
        raise InputError(f"{folders[0]} has no {SPLITS}: make it with `bdfm splits`")
    contents = [read_splits(path) for path in files]
    rows = cases.of_part("train")
    group = groups(rows, cases.scope)
    splits = contents[-1]  # the preprocessed one is what trainers read
    faults = [] if all(_agree(content, splits) for content in contents) else [
        f"{files[0]} and {files[-1]} differ: remove the wrong one, or make both anew with `bdfm splits --overwrite`"
    ]  # fmt: skip
    for number, split in enumerate(splits):
        faults += _faults_of(number, split, group)
    faults += _faults_of_all(splits, set(group))
    return SplitCheck(files, len(splits), faults)


def _agree(first: Sequence[Split], second: Sequence[Split]) -> bool:
    return [_as_sets(split) for split in first] == [_as_sets(split) for split in second]


def _faults_of(number: int, split: Split, group: Mapping[str, str]) -> list[str]:
    train, held_out = _as_sets(split)
    faults = []
    for part, named in split.items():
        if unknown := sorted(set(named) - set(group)):
            faults.append(f"fold {number}: {part} names cases the data set does not have: {_some(unknown)}")
        if twice := sorted(case for case, times in Counter(named).items() if times > 1):
            faults.append(f"fold {number}: {part} names cases twice: {_some(twice)}")
    if both := sorted(train & held_out):
        faults.append(f"fold {number}: cases in train and val: {_some(both)}")
    if not train or not held_out:
        faults.append(f"fold {number}: {'train' if not train else 'val'} is empty")
    sides: dict[str, list[str]] = {}
    for case in sorted(train - held_out):
        sides.setdefault(group.get(case, case), []).append(case)
    for case in sorted(held_out - train):
        if others := sides.get(group.get(case, case)):
            faults.append(f"fold {number}: {case} in val is of the same patient as {_some(others)} in train")
    return faults


def _faults_of_all(splits: Sequence[Split], everyone: set[str]) -> list[str]:
    """Return the faults of the folds together; folds with fewer training cases must be parts of a whole one."""
    sets = [_as_sets(split) for split in splits]
    whole = [number for number, (train, held_out) in enumerate(sets) if train | held_out >= everyone]
    faults = []
    if not whole:
        return ["no fold uses every case: cases were added or removed since the splits were made"]
    validated = Counter(case for number in whole for case in sets[number][1])
    if never := sorted(everyone - set(validated)):
        faults.append(f"never validated in a whole fold: {_some(never)}")
    if often := sorted(case for case, times in validated.items() if times > 1):
        faults.append(f"validated in more than one whole fold: {_some(often)}")
    for number, (train, held_out) in enumerate(sets):
        if number not in whole and not any(sets[base][1] == held_out and train <= sets[base][0] for base in whole):
            faults.append(f"fold {number}: is no part of a whole fold with the same validation cases")
    return faults


def _some(names: Sequence[str | tuple[str, ...]], joined: str = ", ") -> str:
    shown = [name if isinstance(name, str) else joined.join(name) for name in names[:MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
