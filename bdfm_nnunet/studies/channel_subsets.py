"""Scores of models on every subset of the channels, from predictions of the cases that their folds hold out.

A case is predicted as if the other channels had never been there: cropped, normalised and resampled by what is left.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tqdm import tqdm

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation import evaluate_folders
from bdfm_nnunet.evaluation.metric_versions import METRICS
from bdfm_nnunet.evaluation.score_summary import INTERVAL, none_for_nan, summarise, summarise_change
from bdfm_nnunet.evaluation.score_tables import interval_text, table_paths
from bdfm_nnunet.evaluation.scored_regions import Target
from bdfm_nnunet.files import check_writable
from bdfm_nnunet.images.case_folders import NIFTI
from bdfm_nnunet.nnunet_files import channels_of, read_dataset_json
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.prediction.case_images import check_cases, find_cases
from bdfm_nnunet.prediction.ensemble_command import PredictorSettings
from bdfm_nnunet.prediction.predictor import Predictor
from bdfm_nnunet.prediction.subject_images import files_of_dataset
from bdfm_nnunet.results import RunResult, versions_of, write_result
from bdfm_nnunet.split_files import SPLITS, read_splits
from bdfm_nnunet.table_files import write_table

logger = logging.getLogger(__name__)

ALL_REGIONS = "mean"
"""The row of a table for the mean over the regions of each case."""
_SAME = ("channel_names", "labels", "regions_class_order", "file_ending")


@dataclass(frozen=True, kw_only=True)
class SubsetSettings:
    """How models are scored.

    Attributes:
        folds: whose validation cases are predicted, each by the checkpoint of its fold.
        checkpoint: name of the file in each fold's folder.
        device: where networks run.
        mirroring: whether predictions are averaged over mirrored copies.
        metrics: version of the metrics; the table shows the first of its measures.
        task: rules of a challenge's task, see `evaluate_folders`.
        workers: processes that score.
        seed: of the bootstrap intervals.
    """

    folds: tuple[int, ...] = (0,)
    checkpoint: str = "checkpoint_final.pth"
    device: str = "cpu"
    mirroring: bool = True
    metrics: str = "whole"
    task: str | None = None
    workers: int = 1
    seed: int = 0

    @property
    def measure(self) -> str:
        """The score in the table."""
        return next(iter(METRICS[self.metrics].measures))


def all_subsets(channels: int) -> list[tuple[int, ...]]:
    """Return every subset of channels but the empty one, the largest first.

    Example:
        >>> all_subsets(2)
        [(0, 1), (0,), (1,)]
    """
    return [subset for size in range(channels, 0, -1) for subset in combinations(range(channels), size)]


def score_subsets(models: Sequence[Path], target: Target, settings: SubsetSettings, *, out: Path) -> RunResult:
    """Predict the validation cases with every subset of their channels and write a table of scores.

    Any model is asked, also one that was trained without channel dropout, which `bdfm predict` would not do.

    Args:
        models: folders of trained models of one data set, side by side in the table.
        target: regions that are scored.
        settings: folds, and how they are predicted and scored.
        out: JSON file; a CSV file with a row for each model, subset and region is written beside it.

    Returns:
        The content of the JSON file: "subsets", a list with "model", "channels", "scores" (region to `Summary`),
        "cases" and, for models after the first, "difference" from it.

    Raises:
        InputError: models, images or splits cannot be used, or there is a single channel.
    """
    for path in table_paths(out):
        check_writable(path)
    names = _names(models)
    rows: list[dict[str, Any]] = []
    for folder, name in zip(models, names, strict=True):
        rows += [{"model": name, **row} for row in _scores_of(folder, models[0], target, settings)]
    _compare(rows, names, settings.seed)
    told = {"models": dict(zip(names, map(str, models), strict=True)), **asdict(settings)}
    extra = {"measure": settings.measure, "intervals": INTERVAL, "subsets": rows}
    result = RunResult(
        kind="channel_subsets", settings=told, extra=extra, versions=versions_of("torch", "nnunetv2", "numpy")
    )
    write_result(out, result)
    write_table(table_paths(out)[1], _csv(rows, settings.measure))
    return result


def _names(models: Sequence[Path]) -> list[str]:
    """Return short names of models: the configuration, or as much of the path as tells them apart."""
    whole = [folder.resolve().name for folder in models]
    for names in ([name.rpartition("__")[2] for name in whole], whole, [str(folder) for folder in models]):
        if len(set(names)) == len(names):
            return names
    raise InputError(f"{models[0]} or another model is named twice: name each with --model once")


def _scores_of(folder: Path, first: Path, target: Target, settings: SubsetSettings) -> Iterator[dict[str, Any]]:
    """Yield the scores of a model for each subset."""
    predictors = {fold: _predictor(folder, fold, settings) for fold in settings.folds}
    known = predictors[settings.folds[0]]
    channels = channels_of(known.dataset_json)
    _check(known, folder, channels, first)
    cases = {fold: _cases_of(predictors[fold], fold, settings) for fold in settings.folds}
    trained = all(predictor.some_suffice for predictor in predictors.values())
    labels = nnunet_folder("nnUNet_preprocessed") / known.plans_manager.dataset_name / "gt_segmentations"
    if not trained:
        logger.warning("%s was trained without channel dropout: it is scored on subsets for comparison", folder)
    for subset in tqdm(all_subsets(len(channels)), desc=folder.name, unit="subset", disable=None):
        with TemporaryDirectory(prefix="bdfm_subsets_") as temporary:
            for fold, predictor in predictors.items():
                _predict(predictor, cases[fold], subset, Path(temporary))
            scored = evaluate_folders(
                labels, temporary, regions=target.regions, release=target.name, ignore=target.ignore,
                metrics=settings.metrics, task=settings.task, only_predicted=True, workers=settings.workers,
                seed=settings.seed, progress=False,
            )  # fmt: skip
        by_case = {row["case"]: _with_mean(row["regions"], settings.measure) for row in scored["cases"]}
        summaries = {
            region: none_for_nan(
                summarise([scores[region] for scores in by_case.values()], seed=settings.seed).as_dict()
            )
            for region in (*target.regions, ALL_REGIONS)
        }
        yield {
            "channels": [channels[number] for number in subset], "channel_dropout": trained, "scores": summaries,
            "cases": by_case,
        }  # fmt: skip


def _predictor(folder: Path, fold: int, settings: SubsetSettings) -> Predictor:
    made = PredictorSettings(device=settings.device, mirroring=settings.mirroring, progress=False).make()
    made.only_threads = True
    made.initialize_from_trained_model_folder(str(folder), [fold], settings.checkpoint)
    return made


def _check(known: Predictor, folder: Path, channels: Sequence[str], first: Path) -> None:
    """Check that a model has subsets of channels, and is of the data set of the first."""
    dataset, other = known.dataset_json, read_dataset_json(first / "dataset.json")
    if unlike := [key for key in _SAME if dataset.get(key) != other.get(key)]:
        raise InputError(f"{folder} has other {unlike[0]} than {first}: compare models of one data set")
    if len(channels) < 2:
        raise InputError(f"{folder} reads one channel ({channels[0]}), of which there are no subsets: leave it out")
    if dataset["file_ending"] not in NIFTI:
        raise InputError(
            f"{folder} reads {dataset['file_ending']}, but only NIfTI files have a channel each: leave it out"
        )
    if (stage := known.configuration_manager.previous_stage_name) is not None:
        raise InputError(
            f"{folder} is the second stage of a cascade, which also reads segmentations: name that of {stage}"
        )


def _cases_of(predictor: Predictor, fold: int, settings: SubsetSettings) -> dict[str, list[str]]:
    """Return case -> its images, of the validation cases of a fold, after all were read."""
    name = predictor.plans_manager.dataset_name
    path = nnunet_folder("nnUNet_preprocessed") / name / SPLITS
    splits = read_splits(path)
    if fold >= len(splits):
        raise InputError(f"{path} has {len(splits)} folds, counted from 0, and no fold {fold}: name another with -f")
    cases = files_of_dataset(nnunet_folder("nnUNet_raw") / name, splits[fold]["val"])
    files = find_cases([*cases.values()], predictor.images_wanted)
    check_cases(files, [None] * len(files), predictor.images_wanted, workers=settings.workers)
    return dict(zip(cases, files, strict=True))


def _predict(predictor: Predictor, cases: Mapping[str, Sequence[str]], subset: Sequence[int], out: Path) -> None:
    """Predict cases by some of their channels."""
    wanted = replace(predictor.images_wanted, some_suffice=True)
    files = find_cases([[whole[channel] for channel in subset] for whole in cases.values()], wanted)
    outputs = [str(out / case) for case in cases]
    items = predictor._internal_get_data_iterator_from_lists_of_filenames(files, None, outputs, 1)
    predictor.predict_from_data_iterator(items, False, 1)


def _with_mean(regions: Mapping[str, Mapping[str, float | None]], measure: str) -> dict[str, float]:
    """Return the score of each region of a case and their mean; NaN where none is defined."""
    known = ((region, found[measure]) for region, found in regions.items())
    scores = {region: np.nan if value is None else float(value) for region, value in known}
    defined = [value for value in scores.values() if np.isfinite(value)]
    return {**scores, ALL_REGIONS: float(np.mean(defined)) if defined else np.nan}


def _compare(rows: Sequence[dict[str, Any]], names: Sequence[str], seed: int) -> None:
    """Add to the rows of all models but the first how they differ from it, case by case."""
    base = {tuple(row["channels"]): row for row in rows if row["model"] == names[0]}
    for row in rows:
        if row["model"] != names[0]:
            first = base[tuple(row["channels"])]["cases"]
            row["difference"] = {
                region: none_for_nan(
                    summarise_change(
                        [first[case][region] for case in row["cases"]],
                        [scores[region] for scores in row["cases"].values()],
                        seed=seed,
                    ).as_dict()
                )
                for region in row["scores"]
            }


def _csv(rows: Sequence[Mapping[str, Any]], measure: str) -> Iterator[list[Any]]:
    yield ["model", "channels", "region", measure, "low", "high", "cases"]
    for row in rows:
        for region, found in row["scores"].items():
            values = [found["mean"], found["low"], found["high"], found["cases"]]
            yield [row["model"], " ".join(row["channels"]), region, *values]


def subset_table(result: RunResult) -> str:
    """Return the scores as a Markdown table: a line per subset, the mean over regions of each model.

    Models after the first have the difference from it beside them.
    """
    rows, measure = result.extra["subsets"], result.extra["measure"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    by = {(row["model"], tuple(row["channels"])): row for row in rows}
    head = ["channels"]
    for name in models:
        head += [f"{measure}, {name}", *([f"{name} - {models[0]}"] if name != models[0] else [])]
    lines = [head, ["---"] * len(head)]
    for channels in dict.fromkeys(tuple(row["channels"]) for row in rows):
        line = [" ".join(channels)]
        for name in models:
            row = by[name, channels]
            found = [row["scores"], *([row["difference"]] if "difference" in row else [])]
            line += [interval_text(each[ALL_REGIONS]) for each in found]
        lines.append(line)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
