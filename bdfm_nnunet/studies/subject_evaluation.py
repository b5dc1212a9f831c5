"""Scores of tables of predictions for subjects, against the targets of a data set: `bdfm evaluate-subjects`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_bootstrap import PATIENT_INTERVAL
from bdfm_nnunet.evaluation.subject_curves import calibration_of
from bdfm_nnunet.evaluation.subject_groups import MOST_GROUPS, bands, score_groups
from bdfm_nnunet.evaluation.subject_score_tables import COLUMNS, score_rows, target_text
from bdfm_nnunet.evaluation.subject_scores import RESAMPLES, compare_units, score_units
from bdfm_nnunet.evaluation.subject_tables import Predictions, read_predictions, write_predictions
from bdfm_nnunet.evaluation.subject_units import Aggregation, ScoredUnits, units_of
from bdfm_nnunet.evaluation.threshold_choice import chosen_threshold
from bdfm_nnunet.exposure.subject_exposure import SubjectsSeen, beside, exposure_of_weights, subjects_seen
from bdfm_nnunet.files import write_atomically
from bdfm_nnunet.nnunet_folders import dataset_folders
from bdfm_nnunet.patients import CaseList, read_cases
from bdfm_nnunet.results import Provenance, RunResult, Session, versions_of, write_result
from bdfm_nnunet.safe_names import file_name_of
from bdfm_nnunet.split_files import DRAWN, read_kept_out
from bdfm_nnunet.studies.subject_provenance import subject_provenance
from bdfm_nnunet.table_files import write_table
from bdfm_nnunet.targets import Targets, TargetType, read_targets
from bdfm_nnunet.targets.column_requests import CLIPS, SPREAD
from bdfm_nnunet.targets.target_agreement import check_agreement, columns_told

KIND = "subject_evaluation"
RESULT, SCORES, REPORT, JOINED = "result.json", "scores.csv", "scores.md", "subjects.csv"
SEEN = "seen in pre-training"
"""The grouping of subjects by whether the model's pre-training has seen them."""
KEPT_OUT, INSIDE, OUTSIDE = "kept-out sites", "inside", "outside"
"""The grouping by `bdfm splits --external`, and its groups: in and outside the distribution."""
TEST_LIST, FOLDS, DRAWN_CASES = "test list", "folds", "drawn"
"""The grouping by `bdfm splits --test`, and its groups: both of one population."""
_APART = {KEPT_OUT: (INSIDE, OUTSIDE), TEST_LIST: (FOLDS, DRAWN_CASES)}
_MORE_MODELS = "predicted by the models of several folds together, those {} by one each"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SubjectEvaluation:
    """What is scored, and how.

    Attributes:
        dataset_id: nnU-Net's number of the data set with the targets.
        tables: tables of predictions; several are the out-of-fold tables of the folds.
        compare: tables of another model.
        targets: names of targets; by default all that the tables predict.
        groups: further columns to group by, beside the groupings of targets.json.
        threshold: from which probability on a case counts as positive, or a table of other patients to choose it on.
        aggregate: how several scans of a patient become one.
        weights: checkpoint whose record of training cases counts; by default what lies beside the tables.
        resamples: number of bootstrap resamples.
        seed: of the resampling.
    """

    dataset_id: int
    tables: Sequence[Path]
    compare: Sequence[Path] = ()
    targets: Sequence[str] = ()
    groups: Sequence[str] = ()
    threshold: float | Path = 0.5
    aggregate: Aggregation = "mean"
    weights: Path | str | None = None
    resamples: int = RESAMPLES
    seed: int = 0


def evaluate_subjects(settings: SubjectEvaluation, *, out: Path | None = None) -> RunResult:
    """Score predictions for subjects.

    Args:
        settings: what is scored, and how.
        out: folder for result.json, scores.csv, scores.md and the figures.

    Returns:
        A result of kind "subject_evaluation" with "targets" in its `extra`: target -> "scores", "comparison", "groups",
        "calibration", "threshold" and "seen", what the pre-training has seen of the scored cases.

    Raises:
        InputError: tables and targets do not fit each other, or one cannot be read.
    """
    evaluation, session = Evaluation(settings), Session(versions=versions_of("numpy", "scipy"))
    evaluation.check_any()
    found = {name: evaluation.result_of(name) for name in evaluation.names}
    result = RunResult(
        kind=KIND,
        settings=evaluation.described,
        extra={"interval": PATIENT_INTERVAL, "targets": found},
        versions=versions_of("numpy", "scipy"),
    )
    if out is not None:
        evaluation.write(result, out)
        result = replace(result, provenance=evaluation.provenance(out, session))
        write_result(out / RESULT, result)
    return result


def report_text(result: RunResult) -> str:
    """Return the tables of a result for the screen, and what is known of the pre-training."""
    found = result.extra["targets"]
    notes = list(dict.fromkeys(note for entry in found.values() for note in entry["seen"]["notes"]))
    parts = [*(target_text(name, entry) for name, entry in found.items()), f"Intervals: {PATIENT_INTERVAL}."]
    return "\n\n".join([*parts, *(f"Pre-training: {note}." for note in notes)]) + "\n"


class Evaluation:
    """Tables of predictions beside the targets of a data set."""

    def __init__(self, settings: SubjectEvaluation) -> None:
        self.settings = settings
        folders = dataset_folders(settings.dataset_id)
        self.targets: Targets = read_targets(*folders)
        self.cases: CaseList = read_cases(*folders)
        self.kept_out = read_kept_out(*reversed(folders))
        self.tables = [self._known(read_predictions(path)) for path in settings.tables]
        self.predictions = self._known(read_predictions(*settings.tables))
        self.other = self._known(read_predictions(*settings.compare)) if settings.compare else None
        for path in (*settings.tables, *settings.compare):
            self._beside(str(path))  # what means something else is refused before anything is scored

    def _known(self, predictions: Predictions) -> Predictions:
        """Return predictions with the data set's patients; a case that it does not have is refused."""
        unknown = sorted(set(predictions.cases) - set(self.targets.cases))
        if unknown and set(unknown) <= set(self.targets.patients.values()):
            raise InputError(
                f"{predictions.source} has a row per patient ({unknown[0]}), expected one per case: give the table of "
                "cases, whose scans --aggregate puts together"
            )
        if unknown:
            raise InputError(
                f"{predictions.source} predicts case {unknown[0]}{f' and {len(unknown) - 1} more' * (len(unknown) > 1)}"
                f", which {self.cases.name} does not have: name the data set of these cases with -d"
            )
        return replace(predictions, patients=tuple(self.targets.patients[case] for case in predictions.cases))

    @cached_property
    def names(self) -> list[str]:
        """The targets that are scored."""
        wanted = list(self.settings.targets) or [n for n in self.targets.columns if n in self.predictions.columns]
        for name in wanted:
            self.targets.values(name, [])  # a target that is not there is refused
            if wanted.count(name) > 1:
                raise InputError(f"--target {name} was given twice: give it once")
        if not wanted:
            raise InputError(
                f"{self.predictions.source} predicts none of the targets of {self.cases.name} "
                f"({', '.join(self.targets.columns)}): install the target with `bdfm targets`, or give another table"
            )
        return wanted

    def check_any(self) -> None:
        """Raise InputError where no case has a prediction and a true value, of any target."""
        if not any(len(self.units(name, self.predictions)) for name in self.names):
            raise InputError(
                f"{self.predictions.source} has no case with both a prediction and a true value of "
                f"{' or '.join(self.names)}, so there is nothing to score: predict these cases, or install their "
                "targets with `bdfm targets`"
            )

    @property
    def described(self) -> dict[str, Any]:
        """The settings for the result."""
        chosen = self.settings
        return {
            "dataset": self.cases.name,
            "tables": [str(path) for path in chosen.tables],
            "compare": [str(path) for path in chosen.compare],
            "threshold": chosen.threshold if isinstance(chosen.threshold, float) else str(chosen.threshold),
            "aggregate": chosen.aggregate,
            "weights": None if chosen.weights is None else str(chosen.weights),
            "resamples": chosen.resamples,
            "seed": chosen.seed,
        }

    # --- one target ---------------------------------------------------------------------------------------------

    def units(self, name: str, predictions: Predictions) -> ScoredUnits:
        """Return what is scored of a target."""
        return units_of(
            self.targets.columns[name],
            self.targets.values(name, predictions.cases),
            predictions.of(name),
            patients=predictions.patients,
            cases=predictions.cases,
            counts=predictions.columns.get(CLIPS),
            aggregate=self.settings.aggregate,
            source=predictions.source,
        )

    def result_of(self, name: str) -> dict[str, Any]:
        """Return everything about one target."""
        units, how = (
            self.units(name, self.predictions),
            {"resamples": self.settings.resamples, "seed": self.settings.seed},
        )
        threshold, told = self.threshold(name, units)
        seen = self.seen(units, self.tables, self.settings.weights)
        kind = units.column.type
        return {
            "type": str(kind),
            "unit": units.column.unit,
            "title": "; ".join(filter(None, (str(kind), f"{len(units)} scored", *self.kept_apart(units), told))),
            "threshold": threshold if kind is TargetType.BINARY else None,
            "scores": score_units(units, threshold=threshold, **how),
            **self.comparison(name, threshold),
            "groups": self.groups_of(units, self.groupings(seen, units), threshold),
            "calibration": calibration_of(units, **how) if kind.has_classes else None,
            "seen": seen.as_dict(),
        }

    def kept_apart(self, units: ScoredUnits) -> Iterator[str]:
        """Yield how many of the scored units are of sites that were kept out, and of which; and of the test list."""

        def told(members: frozenset[str]) -> str:
            count = sum(not members.isdisjoint(cases) for cases in units.cases)
            return "all of them" if count == len(units) else f"{count} of them" if count else ""

        if outside := told(self.kept_out.outside):
            sites = (site for site in self.kept_out.sites if site != DRAWN and told(self.kept_out.sites[site]))
            yield f"{outside} outside the distribution ({', '.join(sorted(sites))})"
        if drawn := told(self.kept_out.test_list):
            yield f"{drawn} of the test list, drawn from the same population"

    def threshold(self, name: str, units: ScoredUnits) -> tuple[float, str]:
        """Return the threshold of a binary target and where it comes from."""
        given = self.settings.threshold
        if units.column.type is not TargetType.BINARY:
            return 0.5, ""
        if isinstance(given, float):
            return given, f"threshold {given:g}"
        table = self._known(read_predictions(given))
        self._beside(str(given))
        both = sorted(set(table.patients) & set(units.patients))
        if both:
            raise InputError(
                f"{given} has patients that are scored ({', '.join(both[:3])}), so that a threshold chosen on it would "
                "flatter the scores: give predictions for other patients"
            )
        chosen = chosen_threshold(self.units(name, table), source=str(given))
        return chosen, f"threshold {chosen:g}, chosen on {given} by balanced accuracy"

    def comparison(self, name: str, threshold: float) -> dict[str, Any]:
        """Return the differences from another model on the cases that both predict."""
        if self.other is None:
            return {"comparison": None}
        pair = self.pair(name)
        units = list(pair.values())
        resamples, seed = self.settings.resamples, self.settings.seed
        left = len(set(self.predictions.cases) ^ set(self.other.cases))
        more = f"; {left} cases that only one of them predicts are left out" if left else ""
        seen = self.seen(units[1], [self._known(read_predictions(path)) for path in self.settings.compare], None)
        return {
            "comparison": compare_units(
                units[0], units[1], resamples=resamples, seed=seed, thresholds=(threshold, threshold)
            ),
            "compared": f"{self.other.source} minus {self.predictions.source}, {len(units[0])} scored{more}:",
            "seen_by_other": seen.as_dict(),
        }

    def pair(self, name: str) -> dict[str, ScoredUnits]:
        """Return the same units with the predictions of both models."""
        assert self.other is not None
        models = (self.predictions, self.other)
        shared = [case for case in self.predictions.cases if case in set(self.other.cases)]
        for model in models:  # a case counts if both models have a prediction for it
            scored = (
                {case for cases in self.units(name, model.taken(shared)).cases for case in cases} if shared else set()
            )
            shared = [case for case in shared if case in scored]
        if not shared:
            raise InputError(
                f"{self.other.source} and {self.predictions.source} share no case with a value of {name}: compare "
                "models on the same cases"
            )
        labels = [_label(model.source) for model in models]
        labels[1] += " (2)" if labels[0] == labels[1] else ""
        return {label: self.units(name, model.taken(shared)) for label, model in zip(labels, models)}

    # --- groups and pre-training --------------------------------------------------------------------------------

    def seen(self, units: ScoredUnits, tables: Sequence[Predictions], weights: Path | str | None) -> SubjectsSeen:
        """Return what the models' trainings have seen of the scored cases."""
        scored = {case for cases in units.cases for case in cases}
        if weights is not None:
            exposure, name = exposure_of_weights(weights)
            return subjects_seen(self.cases, [(sorted(scored), exposure, name)])
        each = [([case for case in table.cases if case in scored], *self._beside(table.source)) for table in tables]
        return subjects_seen(self.cases, each)

    def _beside(self, source: str) -> tuple[Any, str]:
        if source not in self._records:
            found = beside(Path(source))
            check_agreement(self.targets.columns, columns_told(found.targets), source)
            self._records[source] = found.exposure, found.name
        return self._records[source]

    @cached_property
    def _records(self) -> dict[str, tuple[Any, str]]:
        return {}

    def groups_of(
        self, units: ScoredUnits, groupings: Mapping[str, Mapping[str, str]], threshold: float
    ) -> dict[str, Any]:
        """Return the scores of all groups; of kept-out sites beside those of the others."""
        how: Any = {"threshold": threshold, "resamples": self.settings.resamples, "seed": self.settings.seed}
        found = {}
        for by, groups in groupings.items():
            of_folds, apart = _APART.get(by, (None, None))
            found[by] = score_groups(units, groups, reference=of_folds, **how)
            if apart is not None and self._by_more_models(units.column.name, groups, apart):
                entry, place = found[by]["groups"][apart], "inside" if by == KEPT_OUT else "of the folds"
                entry["note"] = "; ".join(filter(None, (_MORE_MODELS.format(place), entry["note"])))
        return found

    def _by_more_models(self, name: str, groups: Mapping[str, str], apart: str) -> bool:
        """Return whether several models together have predicted cases of a group, but none of the others."""
        told = [table for table in self.tables if f"{name}{SPREAD}" in table.columns]
        return {groups[case] for table in told for case in table.cases if case in groups} == {apart}

    def groupings(self, seen: SubjectsSeen, units: ScoredUnits) -> dict[str, Mapping[str, str]]:
        """Return name of a grouping -> case -> group: those of the targets, the wanted ones, and by pre-training."""
        found: dict[str, Mapping[str, str]] = {}
        for name, groups in self.targets.groups.items():
            if len(set(groups.values())) <= MOST_GROUPS:
                found[name] = groups
            elif name not in self.settings.groups:
                _log.info(f"{name} has more than {MOST_GROUPS} values, so no scores are given by it.")
        for name in self.settings.groups:
            found[name] = self._wanted_groups(name)
        if seen.seen:
            cases = [case for each in units.cases for case in each]
            found[SEEN] = {case: "seen" if case in seen.seen else "not found" for case in cases}
        scored = {case for cases in units.cases for case in cases}
        outside, drawn = scored & self.kept_out.outside, scored & self.kept_out.test_list
        if outside and outside != scored:
            found[KEPT_OUT] = {case: OUTSIDE if case in outside else INSIDE for case in scored}
        if drawn and drawn | outside != scored:
            found[TEST_LIST] = {case: DRAWN_CASES if case in drawn else FOLDS for case in scored - outside}
        return {name: groups for name, groups in found.items() if scored & set(groups)}

    def _wanted_groups(self, name: str) -> Mapping[str, str]:
        groups = self.targets.groups.get(name)
        if groups is None and name in self.targets.columns:
            column, cases = self.targets.columns[name], self.targets.cases
            values = dict(zip(cases, self.targets.values(name, cases)[:, 0].tolist()))
            known = {case: value for case, value in values.items() if np.isfinite(value)}
            classes = {case: column.classes[int(value)] for case, value in known.items()} if column.classes else None
            groups = bands(values) if classes is None else classes
        if groups is None:
            there = sorted({*self.targets.groups, *self.targets.columns})
            raise InputError(f"--group {name} is no column of the targets, only {', '.join(there)}: name one of these")
        if len(set(groups.values())) > MOST_GROUPS:
            raise InputError(
                f"--group {name} has {len(set(groups.values()))} values, expected at most {MOST_GROUPS}: group by a "
                "column with fewer"
            )
        return groups

    # --- files --------------------------------------------------------------------------------------------------

    def provenance(self, out: Path, session: Session) -> Provenance:
        """Return where the scores come from, once their files are written."""
        tables = [*self.settings.tables, *self.settings.compare]
        exposures = [exposure for exposure, _ in self._records.values()]
        about: Any = {"exposures": exposures, "session": session, "seed": self.settings.seed}
        return subject_provenance(out, tables=tables, dataset=dataset_folders(self.settings.dataset_id), **about)

    def write(self, result: RunResult, out: Path) -> None:
        """Write the result, its tables and figures into a folder."""
        from bdfm_nnunet.reports.figures import save_figure
        from bdfm_nnunet.reports.subject_figures import figures_of

        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{out} cannot be made ({error.strerror}): name another folder with -o") from None
        found = result.extra["targets"]
        write_table(out / SCORES, [COLUMNS, *(row for name, each in found.items() for row in score_rows(name, each))])
        with write_atomically(out / REPORT) as temporary:
            temporary.write_text(report_text(result), encoding="utf-8")
        if len(self.tables) > 1:
            write_predictions(out / JOINED, self.predictions)
        for number, name in enumerate(self.names):
            models = self.pair(name) if self.other else {"": self.units(name, self.predictions)}
            for ending, figure in figures_of(models, seed=self.settings.seed).items():
                save_figure(figure, out / f"{file_name_of(name, self.names[:number])}_{ending}.png")


def _label(source: str) -> str:
    """Return the end of the path of the first table, and how many more there are."""
    first, *more = source.split(", ")
    return "/".join(Path(first).parts[-2:]) + (f" and {len(more)} more" if more else "")
