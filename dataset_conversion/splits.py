"""Cross-validation and label-fraction splits that keep all cases of a patient on one side."""

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

from bdfm_nnunet.dataset_conversion.reading.site_tables import read_sites
from bdfm_nnunet.dataset_conversion.stratification import Facts, Strata
from bdfm_nnunet.dataset_conversion.target_strata import TargetStrata, external_cases
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import write_json
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import CaseList, duplicates, groups, plain_id, read_cases, with_patients
from bdfm_nnunet.split_files import DRAWN, SPLITS, SPLITS_TABLE, Split, read_splits
from bdfm_nnunet.targets import TARGETS_TYPES, Targets, read_targets

logger = logging.getLogger(__name__)

FOLDS = 5
SEED = 12345
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
        warnings: one sentence for each class that a fold lacks.
        external: what was kept out of all folds, and its cases.
    """

    files: list[Path]
    rows: list[dict[str, Any]]
    patients: int
    shared: list[tuple[str, ...]]
    note: str = ""
    warnings: tuple[str, ...] = ()
    external: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def summary(self) -> str:
        """Return lines for a terminal."""
        lines = [f"{len(self.rows)} folds of {self.patients} patients: {' and '.join(map(str, self.files))}"]
        lines += [f"note: {self.note}"] if self.note else []
        if self.shared:
            lines.append(
                f"note: the same image under different patient keys, now on one side: {some(self.shared, ' = ')}"
            )
        for row in self.rows:
            lines.append(
                f"  fold {row['fold']}: {row['fraction']:.4g} of the training cases of fold {row['base_fold']}, "
                f"{row['cases']} cases of {row['patients']} patients; validation {row['validation_cases']} cases"
                f"{_targets_of(row)}"
            )
        lines += [f"kept out of all folds: {name}, {len(cases)} cases" for name, cases in self.external.items()]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def _targets_of(row: Mapping[str, Any]) -> str:
    """Return strata with their cases in training and validation, of targets that have classes."""
    told = []
    for name, times in row.get("targets", {}).items():
        both = [f"{label} {times[label]}/{row['validation_targets'][name][label]}" for label in times]
        told += [f"; {name}: {', '.join(both)}"]
    return "".join(told)


# -------------------------------------------------------------------------------------------------------- making


def make_splits(
    dataset: int | str | os.PathLike[str],
    *,
    folds: int = FOLDS,
    fractions: Sequence[float] = (1.0,),
    seed: int = SEED,
    sites: str | os.PathLike[str] | None = None,
    patients: str | None = None,
    targets: Sequence[str] = (),
    external: Sequence[str] = (),
    test: float = 0.0,
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
        targets: names of targets (`bdfm targets`) to stratify by: classes, quarters of numbers, events and times.
            Cases of which none is known are in no fold, and every fraction has a patient of each class.
        external: values of a grouping, such as sites; their patients are in no fold, and splits_table.json lists them.
        test: share of the other patients that is drawn as a test set: like `external`, in no fold.
        overwrite: replace splits that differ.

    Raises:
        InputError: the data set is unknown, a setting is impossible, or there are other splits already.
    """
    _check_settings(folds, fractions, test)
    folders = folders_of(dataset)
    known = _targets(folders, needed=bool(targets))
    cases = cases_of_splits(folders, patients)
    facts = facts_of(cases, _labels(folders), sites=read_sites(sites) if sites is not None else {})
    strata = TargetStrata.of(known, targets, [fact.case for fact in facts]) if known and targets else TargetStrata()
    out = external_cases(external, _groupings(known, facts), {fact.case: fact.group for fact in facts})
    facts = strata.kept(facts, {case for cases in out.values() for case in cases})
    if test:
        facts, drawn = _test_set(facts, test, seed)
        out = {**out, DRAWN: tuple(drawn)}
    patient_count = len({fact.group for fact in facts})
    if patient_count < 2:
        raise InputError(f"{folders[0]} has fewer than two patients: there is nothing to split")
    splits, rows = _all_splits(facts, folds, fractions, seed, strata)
    files = [folder / SPLITS for folder in folders]
    for path in files:
        _check_before_writing(path, splits, overwrite)
    note = "; ".join(filter(None, (cases.note, _unknown(facts, strata, sites is not None))))
    lacking = strata.lacking([row for row in rows if row["fraction"] == 1])
    shared = duplicates(cases.of_part("train"), cases.scope)
    report = SplitReport(files, rows, patient_count, shared, note, tuple(lacking), out)
    table: dict[str, Any] = {"seed": seed, "patients": patient_count, "folds": rows}
    if targets or out:
        table |= {"targets": list(targets), "external": out, "without_target": sorted(strata.nothing)}
    for folder in folders:
        write_json(folder / SPLITS, splits)
        write_json(folder / SPLITS_TABLE, table)
    return report


def _test_set(facts: Sequence[Facts], share: float, seed: int) -> tuple[list[Facts], list[str]]:
    """Return the cases that are left, and those of the patients that are drawn for a test."""
    strata = Strata(facts)
    drawn, _ = strata.deal(range(len(strata.names)), [share, 1 - share], seed=f"{seed} test")
    names = {strata.names[number] for number in drawn}
    if not names:
        raise InputError(f"a test set of {100 * share:g} % of {len(strata.names)} patients holds nobody: ask for more")
    return [fact for fact in facts if fact.group not in names], _names(fact for fact in facts if fact.group in names)


def _check_settings(folds: int, fractions: Sequence[float], test: float) -> None:
    if not 0 <= test < 1:
        raise InputError(f"test is {test}, expected a share of at least 0 and below 1")
    if folds < 2:
        raise InputError(f"{folds} folds are too few: give 2 or more")
    if not fractions or not all(0 < fraction <= 1 for fraction in fractions):
        raise InputError(f"fractions are {list(fractions)}, expected numbers above 0 and up to 1")


def _targets(folders: Sequence[Path], *, needed: bool) -> Targets | None:
    there = any(os.path.lexists(folder / TARGETS_TYPES) for folder in folders)
    return read_targets(*folders) if there or needed else None


def cases_of_splits(folders: Sequence[Path], patients: str | None) -> CaseList:
    """Return the cases of a data set; without a manifest and a pattern, patients are those of its targets.

    Raises:
        InputError: as `with_patients`, or a file is damaged.
    """
    cases = with_patients(read_cases(*folders), patients)
    known = _targets(folders, needed=False) if not cases.content and patients is None else None
    if known is None:
        return cases
    rows = [row | {"patient": known.patients.get(row["case"], row["case"])} for row in cases.rows]
    return replace(cases, rows=rows)


def _groupings(known: Targets | None, facts: Sequence[Facts]) -> dict[str, Mapping[str, str]]:
    """Return the groupings of cases: those of the targets, and the sites of the manifest or of --sites."""
    sites = {fact.case: fact.site for fact in facts if fact.site}
    return {**({"site": sites} if sites else {}), **(known.groups if known else {})}


def _unknown(facts: Sequence[Facts], strata: TargetStrata, with_sites: bool) -> str:
    told = []
    if with_sites and (unknown := [fact.case for fact in facts if not fact.site]):
        told.append(f"the site of {len(unknown)} of {len(facts)} cases is not known: {some(unknown)}")
    if strata.nothing:
        names = some(sorted(strata.nothing))
        told.append(f"{len(strata.nothing)} cases of which no target is known are in no fold: {names}")
    return "; ".join(told)


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
    return _all_splits(facts, folds, (1.0,), seed, TargetStrata())[0] if len({fact.group for fact in facts}) > 1 else []


def _all_splits(
    facts: Sequence[Facts], folds: int, fractions: Sequence[float], seed: int, by_target: TargetStrata
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
        rows.append({"fold": len(rows), "base_fold": fold, "fraction": fraction} | _counts(train, held_out, by_target))
    return splits, rows


def _names(facts: Iterable[Facts]) -> list[str]:
    return sorted(fact.case for fact in facts)


def _counts(train: Sequence[Facts], held_out: Sequence[Facts], by_target: TargetStrata) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for prefix, facts in (("", train), ("validation_", held_out)):
        counts[f"{prefix}cases"] = len(facts)
        counts[f"{prefix}patients"] = len({fact.group for fact in facts})
        counts[f"{prefix}regions"] = dict(sorted(Counter(name for fact in facts for name in fact.regions).items()))
        counts[f"{prefix}sites"] = dict(sorted(Counter(fact.site for fact in facts if fact.site).items()))
        if by_target.of_target:
            counts[f"{prefix}targets"] = by_target.count(_names(facts))
    return counts


def _check_before_writing(path: Path, splits: Sequence[Split], overwrite: bool) -> None:
    """Refuse to change a fold that may have been trained; folds may be added."""
    if overwrite or not os.path.lexists(path):
        return
    there = [as_sets(split) for split in read_splits(path)]
    if there != [as_sets(split) for split in splits[: len(there)]]:
        raise InputError(
            f"{path} holds other splits, and networks trained on them would be validated on cases they know: keep it, "
            "or replace it with --overwrite and train all folds anew",
            entry="splits-exist",
        )


def as_sets(split: Mapping[str, Collection[str]]) -> tuple[set[str], set[str]]:
    """Return the cases of a fold: to train on, and held out."""
    return set(split["train"]), set(split["val"])


# --------------------------------------------------------------------------------------------- what is known of cases


def folders_of(dataset: int | str | os.PathLike[str]) -> list[Path]:
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
    group = groups(rows, cases.scope, families=True)
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


def some(names: Sequence[str | tuple[str, ...]], joined: str = ", ") -> str:
    """Return the first of some names, and how many more there are."""
    shown = [name if isinstance(name, str) else joined.join(name) for name in names[:MOST_NAMES]]
    return ", ".join(shown) + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")
