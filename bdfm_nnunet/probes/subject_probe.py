"""What frozen features tell of a target, beside what untrained ones tell: `bdfm probe`.

Small models are fitted on the training cases of each fold and predict its validation cases; scores are of the
predictions of all folds together.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_units import ScoredUnits, units_of
from bdfm_nnunet.exposure import Exposure, compare
from bdfm_nnunet.files import check_writable
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import read_cases
from bdfm_nnunet.probes.feature_baselines import BASELINES, Baselines, make_baselines
from bdfm_nnunet.probes.feature_tables import FeatureTable, read_features
from bdfm_nnunet.probes.functional_connectivity import method_of
from bdfm_nnunet.probes.patient_folds import Fold, check_classes, fraction_of, outer_folds
from bdfm_nnunet.probes.probe_models import MODELS, USUAL, ModelName, predict
from bdfm_nnunet.probes.probe_verdict import KIND, PRETRAINED, Predicted, differences, own_name, rows_of, verdict
from bdfm_nnunet.probes.run_baselines import RunBaselines, has_runs
from bdfm_nnunet.results import RunResult, versions_of, write_result
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, read_targets

logger = logging.getLogger(__name__)
Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SubjectProbe:
    """What is probed, and how.

    Attributes:
        dataset_id: number of the data set with folds and targets.
        features: file or folder of `bdfm features`, or a table of another program with a row per case.
        target: name of the target.
        models: among "linear", "knn", "forest" and "svm"; of a survival target "linear" (Cox) alone.
        fractions: of the training cases of each fold, above 0 and up to 1.
        seeds: draws of each fraction below 1.
        baselines: among `BASELINES`.
        weights: checkpoint whose network the untrained encoder has; by default the one that made the features.
        plans: plans of the data set for the baselines; by default those of the features.
        configuration: one of their configurations.
        permute: give the targets of other patients to every patient, to see what chance gives.
        seed: of all draws.
        resamples: of the bootstrap.
        device: where the untrained encoder runs.

    Raises:
        InputError: a setting is out of its range.
    """

    dataset_id: int
    features: Path
    target: str
    models: Sequence[ModelName] = USUAL
    fractions: Sequence[float] = (1.0,)
    seeds: int = 5
    baselines: Sequence[str] = BASELINES
    weights: Path | None = None
    plans: str | None = None
    configuration: str | None = None
    permute: bool = False
    seed: int = 0
    resamples: int = 2000
    device: str = "cpu"

    def __post_init__(self) -> None:
        for what, given, allowed in (("models", self.models, MODELS), ("baselines", self.baselines, BASELINES)):
            if unknown := [name for name in given if name not in allowed]:
                raise InputError(f"{what} names {unknown[0]!r}, expected some of {', '.join(allowed)}")
            if len(set(given)) < len(given):
                raise InputError(f"{what} is {', '.join(given)}, expected each once")
        if not self.models or not self.fractions or not all(0 < share <= 1 for share in self.fractions):
            raise InputError(f"fractions are {list(self.fractions)}, expected numbers above 0 and up to 1, and a model")
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}, expected 1 or more")


@dataclass(frozen=True)
class ProbedCases:
    """The cases of a probe.

    Attributes:
        column: the target.
        cases: with features, a value of the target and a place in the folds.
        patients: patient of each.
        truth: (cases, 1) or (cases, 2), see `Targets.values`.
        folds: of them.
        notes: sentences on cases that are left out.
    """

    column: TargetColumn
    cases: tuple[str, ...]
    patients: tuple[str, ...]
    truth: Array
    folds: tuple[Fold, ...]
    notes: tuple[str, ...]

    @property
    def target(self) -> Array:
        """The truth as models take it: (cases,), or (cases, 2) for survival."""
        return self.truth if self.column.type is TargetType.SURVIVAL else self.truth[:, 0]

    def permuted(self, seed: int) -> "ProbedCases":
        """Return the same cases with the targets of other patients."""
        names = sorted(set(self.patients))
        others = dict(zip(names, np.random.default_rng([seed, 23]).permutation(names), strict=True))
        first = {patient: row for row, patient in reversed(list(enumerate(self.patients)))}
        truth = self.truth[[first[others[patient]] for patient in self.patients]]
        notes = (*self.notes, "the targets are those of other patients, drawn at random: scores are those of chance")
        return ProbedCases(self.column, self.cases, self.patients, truth, self.folds, notes)


def probe_subjects(probe: SubjectProbe, *, out: Path | None = None) -> RunResult:
    """Score models on frozen features, and say whether the pre-trained ones beat untrained ones.

    Args:
        probe: what is probed.
        out: JSON file to write.

    Returns:
        A result of kind "probe" with, in `extra`, "scores" (a row per features, model and fraction), "differences"
        (pre-trained minus each baseline, paired by patients), "verdict" (a sentence), "out_of_fold" (predictions of the
        pre-trained features), "seen" (a sentence on cases that the pre-training has seen) and "notes".

    Raises:
        InputError: features, targets and folds do not fit each other, or a class is absent from a fold.
    """
    if out is not None:
        check_writable(out)
    table = read_features(probe.features)
    folders = dataset_folders(probe.dataset_id)
    cases = probed_cases(table, read_targets(*folders), folders, probe)
    sets, told = _feature_sets(probe, table, cases)
    models = MODELS[:1] if cases.column.type is TargetType.SURVIVAL else tuple(probe.models)
    found = list(_predicted(probe, cases, sets, models))
    compared = differences(found, resamples=probe.resamples, seed=probe.seed)
    seen = _seen(table, folders, cases)
    extra = {
        "target": {**asdict(cases.column), "type": str(cases.column.type)},
        "probed": {"cases": len(cases.cases), "patients": len(set(cases.patients)), "folds": len(cases.folds)},
        "scores": rows_of(found, resamples=probe.resamples, seed=probe.seed),
        "differences": compared,
        "verdict": verdict(found, compared),
        "seen": seen,
        "notes": [*cases.notes, *told, *_survival_note(cases, probe)],
        "features": {key: value for key, value in table.description.items() if key != "exposure"},
        "out_of_fold": _out_of_fold(cases, found),
    }
    said = table.description.get("exposure")
    exposure = Exposure.of(said, named=str(probe.features)).counted()
    settings = {**asdict(probe), "features": str(probe.features), "weights": probe.weights and str(probe.weights)}
    result = RunResult(kind=KIND, settings=settings, exposure=exposure, extra=extra, versions=_versions())
    if out is not None:
        write_result(out, result)
    return result


def _versions() -> dict[str, str | None]:
    return versions_of("numpy", "scikit-learn", "torch")


def _survival_note(cases: ProbedCases, probe: SubjectProbe) -> list[str]:
    if cases.column.type is not TargetType.SURVIVAL or set(probe.models) == {"linear"}:
        return []
    return ["of a survival time only the linear model is fitted, Cox regression with a ridge penalty"]


def probed_cases(table: FeatureTable, targets: Targets, folders: Sequence[Path], probe: SubjectProbe) -> ProbedCases:
    """Return the cases that have features, a value of the target and a place in the folds.

    Raises:
        InputError: there are too few, or a class is absent from a fold.
    """
    if probe.target not in targets.columns:
        there = ", ".join(targets.columns) or "none"
        raise InputError(f"--target {probe.target} is no target of {folders[0]}: choose among {there}")
    column = targets.columns[probe.target]
    shared = [case for case in table.cases if case in set(targets.cases)]
    values = targets.values(column.name, shared)
    known = np.asarray(~np.isnan(values).any(axis=1))
    cases = [shared[at] for at in np.flatnonzero(known)]
    notes = _left_out(len(table.cases) - len(shared), "features but no row in the targets")
    notes += _left_out(int((~known).sum()), f"no value of {column.name}")
    if len(cases) < 2:
        raise InputError(
            f"{len(cases)} of the {len(table.cases)} cases in {probe.features} have a value of {column.name}, a probe "
            "needs at least 2 in different folds: check that ids of features and targets are the same"
        )
    folds = outer_folds(folders, cases, targets.patients)
    tested = sorted({int(at) for fold in folds for at in fold.test})
    notes += _left_out(
        len(cases) - len(tested), "no place among the validation cases of the folds", verb="are not scored"
    )
    everyone = targets.values(column.name, cases)
    found = ProbedCases(
        column, tuple(cases), tuple(targets.patients.get(case, case) for case in cases), everyone, tuple(folds),
        tuple(notes),
    )  # fmt: skip
    found = found.permuted(probe.seed) if probe.permute else found
    for fold in folds:
        check_classes(column, found.target, fold)
    return found


def _left_out(count: int, why: str, *, verb: str = "are left out") -> list[str]:
    return [f"{count} cases {verb}: they have {why}"] if count else []


def _feature_sets(
    probe: SubjectProbe, table: FeatureTable, cases: ProbedCases
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Return name -> features (cases, D) of the pre-trained encoder and the baselines, and sentences about them."""
    method = method_of(table.description)
    sets = {method or PRETRAINED: table.of(cases.cases).astype(np.float64)}
    if not set(probe.baselines) - {method}:
        return sets, ()
    try:
        made = _baselines(probe, table, cases)
    except InputError as error:
        logger.warning("no baselines: %s", error)
        return sets, (f"there are no baselines: {error}",)
    chosen = {name: each for name, each in made.tables.items() if name in {*probe.baselines} - {method}}
    return sets | {name: each.of(cases.cases).astype(np.float64) for name, each in chosen.items()}, made.notes


def _baselines(probe: SubjectProbe, table: FeatureTable, cases: ProbedCases) -> Baselines:
    if has_runs(probe.dataset_id):
        wanted = {*probe.baselines} - {method_of(table.description)}
        made = RunBaselines(
            dataset_id=probe.dataset_id, features=probe.features, description=table.description,
            weights=probe.weights, plans=probe.plans, configuration=probe.configuration, seed=probe.seed,
            device=probe.device,
        )  # fmt: skip
        return made.made(cases.cases, wanted)
    train = [cases.cases[at] for at in cases.folds[0].train]
    return make_baselines(
        probe.dataset_id, probe.features, table.description, cases.cases, train=train, weights=probe.weights,
        plans=probe.plans, configuration=probe.configuration, seed=probe.seed, device=probe.device,
    )  # fmt: skip


def _predicted(
    probe: SubjectProbe, cases: ProbedCases, sets: Mapping[str, Array], models: Sequence[ModelName]
) -> Iterable[Predicted]:
    """Yield the predictions of all folds together, for each set of features, model and fraction."""
    shares = sorted(set(probe.fractions), reverse=True)
    jobs = [(name, model, share) for share in shares for model in models for name in sets]
    for name, model, share in tqdm(jobs, desc="probe", unit="fit", disable=None):
        seeds = range(probe.seeds) if share < 1 else range(1)
        kept = [_kept(cases, share, probe.seed + seed) for seed in seeds]
        units = [
            scored_units(cases, predict_folds(cases, sets[name], model, parts, seed=probe.seed + seed))
            for seed, parts in zip(seeds, kept, strict=True)
        ]
        count = float(np.mean([len(part) for parts in kept for part in parts]))
        yield Predicted(name, model, share, count, tuple(units))


def _kept(cases: ProbedCases, share: float, seed: int) -> list[NDArray[np.intp]]:
    """Return the training cases of each fold that a fraction keeps."""
    kept = []
    for fold in cases.folds:
        groups = [cases.patients[at] for at in fold.train]
        part = fraction_of(cases.column.type, cases.target[fold.train], groups, share, seed=seed)
        kept.append(fold.train[part] if share < 1 else fold.train)
    return kept


def predict_folds(
    cases: ProbedCases,
    features: Array,
    model: ModelName,
    kept: Sequence[NDArray[np.intp]],
    *,
    seed: int,
) -> Array:
    """Return predictions (cases, K) by models of the folds that had not seen the case; NaN where there is none.

    Args:
        cases: the cases.
        features: (cases, D).
        model: see `probe_models.predict`.
        kept: training cases of each fold.
        seed: of forests and inner folds.
    """
    classes = max(len(cases.column.classes), 1)
    total, count = np.zeros((len(cases.cases), classes)), np.zeros((len(cases.cases), 1))
    for fold, train in zip(cases.folds, kept, strict=True):
        total[fold.test] += predict(
            model, cases.column.type, features[train], cases.target[train], features[fold.test],
            groups=[cases.patients[at] for at in train], classes=classes, seed=seed,
        )  # fmt: skip
        count[fold.test] += 1
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def scored_units(cases: ProbedCases, found: Array) -> ScoredUnits:
    """Return predictions (cases, K) beside the truth, without the cases that none of the folds predicts."""
    rows = np.flatnonzero(~np.isnan(found).any(axis=1))
    columns = {key: values[rows] for key, values in columns_of(cases.column, found).items()}
    chosen = [cases.cases[row] for row in rows]
    return units_of(
        cases.column, cases.truth[rows], columns, patients=[cases.patients[row] for row in rows], cases=chosen,
        source="the probe",
    )  # fmt: skip


def columns_of(column: TargetColumn, found: Array) -> dict[str, NDArray[Any]]:
    """Return predictions (cases, K) as the columns of a table of predictions."""
    if column.type is TargetType.BINARY:
        return {column.name: found[:, 1]}
    if not column.type.has_classes:
        return {column.name: found[:, 0]}
    chosen = np.array(column.classes)[np.where(np.isnan(found), -1, found).argmax(axis=1)]
    named = {f"{column.name}={name}": found[:, number] for number, name in enumerate(column.classes)}
    return {column.name: chosen, **named}


def _out_of_fold(cases: ProbedCases, found: Sequence[Predicted]) -> dict[str, Any]:
    """Return the predictions of the pre-trained features by the first model with the most training cases."""
    best = next(each for each in found if each.features == own_name(found))
    units = best.units[0]
    shown = units.probabilities if units.probabilities is not None else units.values
    return {"model": best.model, "fraction": best.fraction, "case": [names[0] for names in units.cases],
            "patient": list(units.patients), "truth": units.truth.tolist(), "predicted": shown.tolist()}  # fmt: skip


def _seen(table: FeatureTable, folders: Sequence[Path], cases: ProbedCases) -> str:
    """Say which of the cases the pre-training has seen."""
    if method := method_of(table.description):
        return f"{method} is computed from each case alone: nothing was trained that could have seen one"
    weights = table.description.get("weights")
    if not isinstance(weights, Mapping):
        return "the features do not tell their weights, so nothing is known of the cases that these were trained on"
    name = Path(str(weights.get("path"))).name
    exposure = Exposure.of(table.description.get("exposure"), named=name)
    parts = dict.fromkeys(cases.cases, "cross-validation")
    report = compare(exposure, read_cases(*folders), parts, checkpoint=name)
    return report.warning() or f"{name} has seen none of the {len(parts)} cases, as far as its record tells"
