"""`bdfm ensemble`: an ensemble tried on cases that its members did not learn from, in one table."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.ensemble_calibration import EnsembleCalibration, calibrate
from bdfm_nnunet.evaluation.score_summary import summarise, summarise_change
from bdfm_nnunet.evaluation.scored_regions import Target
from bdfm_nnunet.evaluation.tuning import objective
from bdfm_nnunet.exposure import Exposure
from bdfm_nnunet.files import read_json, write_json
from bdfm_nnunet.images.case_folders import list_cases
from bdfm_nnunet.nnunet_files import read_dataset_json
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.prediction.ensemble_parts import ALL, EnsembleTrial, scores_by_part
from bdfm_nnunet.prediction.ensemble_prediction import Ensemble, EnsembleCase
from bdfm_nnunet.prediction.predictor import Predictor
from bdfm_nnunet.prediction.subject_images import files_of_dataset
from bdfm_nnunet.split_files import SPLITS, read_splits
from bdfm_nnunet.table_files import write_table

logger = logging.getLogger(__name__)

COLUMNS = ("part", "cases", "score", "low", "high", "all_less_this", "change_low", "change_high")
CASES, TABLE, REPORT, CALIBRATION, SETTINGS = "cases", "parts.csv", "parts.json", "calibration.json", "settings.json"


@dataclass(frozen=True, kw_only=True)
class TrialOrder:
    """The ensemble that is tried, and how.

    Attributes:
        models: folders.
        folds: of each model.
        checkpoint: name of the file in each fold's folder.
        make: makes a predictor.
        target: the regions that are scored.
        metrics: version of the metrics.
        task: takes the rules of this task.
        out: folder of the results.
        keep: title of a part -> folder of its segmentations.
        mirroring: whether what it brings is measured.
        preprocessing: workers.
        export: workers.
        predictor: settings of predictors that change what they say, for the record.
    """

    models: Sequence[Path]
    folds: Sequence[int | str]
    checkpoint: str
    make: Callable[[], Predictor]
    target: Target
    out: Path
    metrics: str = "whole"
    task: str | None = None
    keep: Mapping[str, Path] | None = None
    mirroring: bool = True
    preprocessing: int = 1
    export: int = 1
    predictor: Mapping[str, Any] = field(default_factory=dict)

    def ensemble(self, folds: Sequence[int | str]) -> Ensemble:
        """Return the ensemble of some folds, each of which is a member."""
        return Ensemble(self.models, folds, make=self.make, checkpoint=self.checkpoint, average="probabilities")

    def run(
        self, ensemble: Ensemble, cases: Sequence[EnsembleCase], references: Mapping[str, Path], fold: str | None = None
    ) -> None:
        """Predict and score cases that are not done yet; see `EnsembleTrial.run`."""
        self.trial.run(ensemble, cases, references, fold=fold, preprocessing=self.preprocessing, export=self.export)

    @property
    def trial(self) -> EnsembleTrial:
        """The trial, whose files lie in `out`/cases."""
        return EnsembleTrial(
            folder=self.out / CASES, target=self.target, metrics=self.metrics, task=self.task, keep=self.keep or {},
            mirroring=self.mirroring,
        )  # fmt: skip

    def hold_settings(self, source: Mapping[str, Any]) -> None:
        """Note the settings in `out`, or refuse those of an earlier run that were others.

        Raises:
            InputError: they were others.
        """
        settings = {
            "models": [str(folder.resolve()) for folder in self.models], "folds": [str(fold) for fold in self.folds],
            "checkpoint": self.checkpoint, "metrics": self.metrics, "task": self.task, "mirroring": self.mirroring,
            "regions": {name: list(values) for name, values in self.target.regions.items()}, **self.predictor, **source,
        }  # fmt: skip
        path = self.out / SETTINGS
        if path.is_file():
            before = read_json(path, dict)
            if unlike := [name for name in settings if before.get(name) != settings[name]]:
                raise InputError(
                    f"{path} says that {self.out} was made with other {', '.join(unlike)}: name another folder with "
                    "-o, or the same settings"
                )
        write_json(path, settings)


@dataclass(frozen=True)
class TrialReport:
    """What a trial found.

    Attributes:
        measure: the score.
        rows: of the table, by the names of `COLUMNS`.
        calibration: of the whole ensemble.
    """

    measure: str
    rows: list[dict[str, Any]]
    calibration: EnsembleCalibration

    def summary(self) -> str:
        """Return a table for a terminal."""
        width = max(len(row["part"]) for row in self.rows)
        lines = [f"{'part':<{width}}  cases  {self.measure} [95 %]            all less this [95 %]"]
        for row in self.rows:
            score = f"{row['score']:.4f} [{row['low']:.4f}, {row['high']:.4f}]"
            change = ""
            if row["all_less_this"] is not None:
                change = f"{row['all_less_this']:+.4f} [{row['change_low']:+.4f}, {row['change_high']:+.4f}]"
            lines.append(f"{row['part']:<{width}}  {row['cases']:>5}  {score}  {change}")
        return "\n".join([*lines, self.calibration.summary()])


def try_on_images(order: TrialOrder, images: Path, references: Path) -> TrialReport:
    """Try an ensemble on a folder of images with references that no member has learned from.

    Raises:
        InputError: an image, a reference or a model cannot be used.
    """
    ensemble = order.ensemble(order.folds)
    cases = ensemble.cases(str(images), order.out)
    ending = ensemble.first.dataset_json["file_ending"]
    found = list_cases(references, endings=[ending], what="references").files
    missing = [case.name for case in cases if case.name not in found]
    if missing:
        raise InputError(f"{references} has no {missing[0]}{ending} ({len(missing)} of {len(cases)} images have none)")
    for member, seen in learned_from(order, order.folds, [case.name for case in cases]).items():
        logger.warning(
            "%d of %d cases are among the training cases of %s (%s): scores on them are too good",
            len(seen), len(cases), member, seen[0],
        )  # fmt: skip
    order.hold_settings({"images": str(images.resolve()), "references": str(references.resolve())})
    order.run(ensemble, cases, {case.name: Path(found[case.name]) for case in cases})
    return _report(order, [case.name for case in cases])


def try_on_folds(order: TrialOrder, dataset: str) -> TrialReport:
    """Try an ensemble on the training cases of a data set, each case by the folds that have not seen it.

    Args:
        order: what is tried.
        dataset: name of the data set in nnUNet_raw and nnUNet_preprocessed.

    Raises:
        InputError: a fold is none of the splits, or an image, a reference or a model cannot be used.
    """
    held_out = cases_of_folds(dataset, order.folds)
    raw = nnunet_folder("nnUNet_raw") / dataset
    order.hold_settings({"dataset": dataset, "held_out": {f"fold_{fold}": own for fold, own in held_out.items()}})
    done: list[str] = []
    for fold, names in held_out.items():
        for member, seen in learned_from(order, [fold], names).items():
            raise InputError(
                f"{seen[0]} is held out in fold {fold} of {SPLITS}, and {member} was trained on it: restore the splits "
                "of the training"
            )
        ensemble = order.ensemble([fold])
        cases = ensemble.cases(list(files_of_dataset(raw, names).values()), order.out)
        order.run(ensemble, cases, references_of_dataset(raw, names), fold=f"fold_{fold}")
        done += names
    return _report(order, done)


def learned_from(order: TrialOrder, folds: Sequence[int | str], cases: Sequence[str]) -> dict[str, list[str]]:
    """Return by file of weights the cases that it was trained on, by the record that our trainers write.

    What pre-training has seen does not count, as it has seen no references.
    """
    found = {}
    for folder in order.models:
        for fold in folds:
            path = folder / f"fold_{fold}" / order.checkpoint
            runs = Exposure.of_checkpoint(read_checkpoint(path)).runs
            trained = set(runs[-1].get("train", {}).get("case", ())) if runs else set()
            if seen := sorted(trained & {*cases}):
                found[str(path)] = seen
    return found


def cases_of_folds(dataset: str, folds: Sequence[int | str]) -> dict[int, list[str]]:
    """Return the validation cases of each fold.

    Raises:
        InputError: a fold is none of splits_final.json, or a case is in the validation of two.
    """
    path = nnunet_folder("nnUNet_preprocessed") / dataset / SPLITS
    splits = read_splits(path)
    found: dict[int, list[str]] = {}
    for fold in folds:
        if fold == "all" or int(fold) >= len(splits):
            raise InputError(
                f"{path} has the folds 0 to {len(splits) - 1}, and fold {fold} holds no case out: name others"
            )
        found[int(fold)] = sorted(splits[int(fold)]["val"])
    cases = [case for own in found.values() for case in own]
    if twice := [case for case in cases if cases.count(case) > 1]:
        raise InputError(f"{path} has {twice[0]} in the validation of two folds: make it anew with `bdfm splits`")
    return found


def references_of_dataset(raw: Path, cases: Sequence[str]) -> dict[str, Path]:
    """Return the reference of each training case, as nnU-Net finds it.

    Raises:
        InputError: one is missing.
    """
    dataset = read_dataset_json(raw / "dataset.json")
    named: Mapping[str, Any] = dataset.get("dataset", {})
    found = {}
    for case in cases:
        own = f"labelsTr/{case}{dataset['file_ending']}"
        found[case] = Path(os.path.normpath(raw / named.get(case, {}).get("label", own)))
        if not found[case].is_file():
            raise InputError(f"{found[case]} of case {case} does not exist: convert the data set again")
    return found


def _report(order: TrialOrder, cases: Sequence[str]) -> TrialReport:
    """Write the table and the calibration."""
    found = order.trial.scores(cases)
    parts = dict(scores_by_part(found))
    rows = []
    for title, scores in parts.items():
        alone = summarise(scores)
        whole = [a if b == b else float("nan") for a, b in zip(parts[ALL], scores, strict=True)]
        change = None if title == ALL or title.startswith("cases of ") else summarise_change(scores, whole)
        rows.append({
            "part": title, "cases": alone.cases, "score": alone.mean, "low": alone.low, "high": alone.high,
            "all_less_this": change and change.mean, "change_low": change and change.low,
            "change_high": change and change.high,
        })  # fmt: skip
    volumes = {name: [(case["volumes"][name][0], case["volumes"][name][1]) for case in found]
               for name in order.target.regions}  # fmt: skip
    calibration = calibrate(order.trial.samples(cases), volumes, order.target.regions)
    calibration.write(order.out / CALIBRATION)
    report = TrialReport(objective(order.metrics), rows, calibration)
    cells = [["" if row[name] is None else row[name] for name in COLUMNS] for row in rows]
    write_table(order.out / TABLE, [COLUMNS, *cells])
    write_json(order.out / REPORT, {"measure": report.measure, "metrics": order.metrics, "parts": rows})
    return report
