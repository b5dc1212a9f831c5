"""What features should not tell: who the subject is, how much it moved, where it was scanned. `bdfm probe unwanted`.

Identity is asked of a gallery (`evaluation.identification_measures`), motion and site of linear models on features of
other subjects. What the data set does not know is unknown, which is not the same as not told.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bdfm_nnunet.dataset_conversion.run_folders import RUNS
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.identification_measures import identification_scores, identify
from bdfm_nnunet.evaluation.subject_bootstrap import PatientDraws, estimate
from bdfm_nnunet.evaluation.subject_measures import measures_of
from bdfm_nnunet.files import check_writable
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import groups, read_cases
from bdfm_nnunet.probes.feature_tables import read_features
from bdfm_nnunet.probes.patient_folds import Fold, inner_folds
from bdfm_nnunet.probes.probe_verdict import HEADLINES
from bdfm_nnunet.probes.standardised_features import standardise
from bdfm_nnunet.probes.subject_probe import ProbedCases, predict_folds, scored_units
from bdfm_nnunet.results import RunResult, versions_of, write_result
from bdfm_nnunet.table_files import read_table, says
from bdfm_nnunet.targets import TargetColumn, TargetType

KIND = "unwanted_probe"
TOLD, NOT_TOLD, UNKNOWN = "told", "not told", "unknown"
DISPLACEMENT = "displacement"
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class UnwantedProbe:
    """What is probed, and how.

    Attributes:
        dataset_id: number of the data set of the cases.
        features: file or folder of features with a vector per case.
        seed: of folds and of the bootstrap.
        resamples: of the bootstrap.
    """

    dataset_id: int
    features: Path
    seed: int = 0
    resamples: int = 2000


@dataclass(frozen=True)
class KnownCases:
    """What a data set knows of the cases that have features.

    Attributes:
        cases: ids.
        features: (cases, D).
        patients: subject of each.
        families: family of each, or its subject.
        sessions: session of each, empty where unknown.
        sites: site of each, empty where unknown.
        motion: mean framewise displacement in mm, NaN where unknown.
        notes: sentences on cases that are left out.
    """

    cases: tuple[str, ...]
    features: Array
    patients: tuple[str, ...]
    families: tuple[str, ...]
    sessions: tuple[str, ...]
    sites: tuple[str, ...]
    motion: Array
    notes: tuple[str, ...] = field(default=())


def probe_unwanted(probe: UnwantedProbe, *, out: Path | None = None) -> RunResult:
    """Say whether features tell identity, motion and site.

    Args:
        probe: what is probed.
        out: JSON file to write.

    Returns:
        A result of kind "unwanted_probe" with, in `extra`, "unwanted": "identity", "motion" and "site" -> "state"
        ("told", "not told" or "unknown"), "verdict" (a sentence), and where something is known "measure", "value",
        "interval", "chance", "n", "patients" and "scores"; and "notes".

    Raises:
        InputError: features and data set do not fit each other.
    """
    if out is not None:
        check_writable(out)
    known = known_cases(probe)
    ways = {"identity": _identity, "motion": _motion, "site": _site}
    extra = {"unwanted": {name: way(known, probe) for name, way in ways.items()}, "notes": list(known.notes)}
    settings = {**asdict(probe), "features": str(probe.features)}
    result = RunResult(kind=KIND, settings=settings, extra=extra, versions=versions_of("numpy", "scikit-learn"))
    if out is not None:
        write_result(out, result)
    return result


def known_cases(probe: UnwantedProbe) -> KnownCases:
    """Read features and what is known of their cases, from the manifest and the table of runs.

    Raises:
        InputError: a file cannot be read, or fewer than two cases have features.
    """
    table, folders = read_features(probe.features), dataset_folders(probe.dataset_id)
    listed = read_cases(*folders)
    rows = {row["case"]: row for row in listed.rows}
    cases = [case for case in table.cases if case in rows]
    if len(cases) < 2:
        raise InputError(
            f"{len(cases)} of the {len(table.cases)} cases in {probe.features} belong to {listed.name}, a probe needs "
            "2: name the data set of the features with -d"
        )
    left = len(table.cases) - len(cases)
    motion = _displacements(folders)
    subjects, kin = groups(listed.rows, listed.scope), groups(listed.rows, listed.scope, families=True)
    return KnownCases(
        tuple(cases), table.of(cases).astype(np.float64), tuple(subjects[case] for case in cases),
        tuple(kin[case] for case in cases), tuple(str(rows[case].get("session") or "") for case in cases),
        tuple(str(rows[case].get("site") or "") for case in cases),
        np.array([motion.get(case, np.nan) for case in cases]),
        (f"{left} cases with features are not in {listed.name} and are left out",) * (left > 0),
    )  # fmt: skip


def _displacements(folders: Sequence[Path]) -> dict[str, float]:
    """Return case -> mean framewise displacement in mm, of the cases of which runs.csv knows it.

    Raises:
        InputError: the table is damaged.
    """
    path = next((folder / RUNS for folder in folders if (folder / RUNS).is_file()), None)
    if path is None:
        return {}
    header, *rows = read_table(path)
    if not {"case", DISPLACEMENT} <= set(header):
        return {}
    at, what = header.index("case"), header.index(DISPLACEMENT)
    try:
        return {row[at]: float(row[what]) for row in rows if len(row) > max(at, what) and says(row[what])}
    except ValueError as error:
        raise InputError(f"{path} has no number as {DISPLACEMENT} ({error}): convert the data set again") from None


# ---------------------------------------------------------------------------------------------------------- identity


def _identity(known: KnownCases, probe: UnwantedProbe) -> dict[str, Any]:
    several = {name: [at for at, each in enumerate(known.patients) if each == name] for name in set(known.patients)}
    several = {name: places for name, places in several.items() if len(places) > 1}
    if not several or len(set(known.patients)) < 2:
        return _unknown("Identity", "no subject has a second case beside other subjects")
    days = all(known.sessions[at] for places in several.values() for at in places)
    days = days and any(len({known.sessions[at] for at in places}) > 1 for places in several.values())
    features = standardise(known.features, known.features, rotate=False).train
    found = identify(features, known.patients, sessions=known.sessions if days else None)
    scores = identification_scores(found, resamples=probe.resamples, seed=probe.seed)
    what = "case of another session" if days else "other case"
    said = (
        f"the most similar {what} is of the same subject in {{value:.0%}} (95 % interval {{low:.0%}} to {{high:.0%}}, "
        f"by chance {{chance:.0%}}) of {len(found.queries)} cases"
    )
    return _told("Identity", "rank_1", scores, scores["rank_1"]["chance"], said, "who a subject is")


# --------------------------------------------------------------------------------------------------- motion and site


def _motion(known: KnownCases, probe: UnwantedProbe) -> dict[str, Any]:
    places = np.flatnonzero(np.isfinite(known.motion))
    if len(places) < 2 or np.ptp(known.motion[places]) == 0:
        return _unknown("Motion", f"{RUNS} does not tell the displacement of the cases")
    column = TargetColumn("motion", TargetType.CONTINUOUS, unit="mm")
    said = "R² {value:.3f} (95 % interval {low:.3f} to {high:.3f}, by chance 0) of the mean framewise displacement"
    return _fitted("Motion", column, known.motion, places, known, probe, said, "how much a subject moved")


def _site(known: KnownCases, probe: UnwantedProbe) -> dict[str, Any]:
    members: dict[str, set[str]] = {}
    for site, family in zip(known.sites, known.families, strict=True):
        members.setdefault(site, set()).add(family)
    sites = sorted(site for site, families in members.items() if site and len(families) > 1)
    if len(sites) < 2:
        return _unknown("Site", "fewer than two sites are known, each of two subjects or more")
    kind = TargetType.BINARY if len(sites) == 2 else TargetType.MULTICLASS
    values = np.array([sites.index(site) if site in sites else np.nan for site in known.sites])
    said = f"AUC {{value:.3f}} (95 % interval {{low:.3f}} to {{high:.3f}}, by chance 0.5) of {len(sites)} sites"
    column, places = TargetColumn("site", kind, tuple(sites)), np.flatnonzero(np.isfinite(values))
    return _fitted("Site", column, values, places, known, probe, said, "where a subject was scanned")


def _fitted(
    name: str, column: TargetColumn, values: Array, places: NDArray[np.intp], known: KnownCases, probe: UnwantedProbe,
    said: str, what: str,
) -> dict[str, Any]:  # fmt: skip
    """Return how well a linear model on other families' features tells a value."""
    families = [known.families[at] for at in places]
    folds = inner_folds(column.type, values[places], families, seed=probe.seed)
    if not folds:
        return _unknown(name, "the cases are of too few subjects")
    cases = ProbedCases(
        column, tuple(known.cases[at] for at in places), tuple(known.patients[at] for at in places),
        values[places][:, None], tuple(Fold(number, *each) for number, each in enumerate(folds)), (),
    )  # fmt: skip
    kept = [fold.train for fold in cases.folds]
    units = scored_units(cases, predict_folds(cases, known.features[places], "linear", kept, seed=probe.seed))
    draws = PatientDraws.of(units.patients, resamples=probe.resamples, seed=probe.seed)
    scores = {measure.name: estimate(measure, draws) for measure in measures_of(units)}
    measure, _, chance = HEADLINES[column.type]
    return _told(name, measure, scores, chance, f"{said}, {len(units)} cases out of fold", what)


def _told(
    name: str, measure: str, scores: Mapping[str, Mapping[str, Any]], chance: float, said: str, what: str
) -> dict[str, Any]:
    """Return a probe's scores and the sentence: something is told where the interval lies above chance."""
    found = scores[measure]
    if found["value"] is None or found["interval"] is None:
        return _unknown(name, found["note"])
    low, high = found["interval"]
    state = TOLD if low > chance else NOT_TOLD
    numbers = said.format(value=found["value"], low=low, high=high, chance=chance)
    ending = f"the features tell {what}" if state == TOLD else f"that the features tell {what} is not shown"
    kept = {key: found[key] for key in ("value", "interval", "n", "patients")}
    return {"state": state, "verdict": f"{name}: {numbers}: {ending}.", "measure": measure, **kept, "chance": chance,
            "scores": {key: dict(each) for key, each in scores.items()}}  # fmt: skip


def _unknown(name: str, why: str) -> dict[str, Any]:
    return {"state": UNKNOWN, "verdict": f"{name}: unknown, {why}."}
