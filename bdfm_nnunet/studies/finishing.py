"""`bdfm finish`: from trained folds to predictions in one command that goes on after a stop.

Cross-validation chooses among the models and their ensemble by nnU-Net's rule (the largest mean Dice of the foreground,
the simpler of equals), and post-processing rules; then the images are predicted by all folds.
"""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder
from nnunetv2.postprocessing.remove_connected_components import (
    apply_postprocessing_to_folder,
    determine_postprocessing,
    remove_all_but_largest_component_from_segmentation,
)

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.ensemble_calibration import read_calibration
from bdfm_nnunet.evaluation.postprocessing import RuleSet, read_rules
from bdfm_nnunet.evaluation.tuning import tune
from bdfm_nnunet.files import read_json, read_regular, sweep, write_atomically, write_json
from bdfm_nnunet.json_shapes import Anything
from bdfm_nnunet.nnunet_folders import nnunet_folder
from bdfm_nnunet.prediction.ensemble_outputs import EnsembleOutputs, predict_cases
from bdfm_nnunet.prediction.ensemble_parts import ALL, ALONE, parts_of
from bdfm_nnunet.prediction.ensemble_prediction import Ensemble
from bdfm_nnunet.studies.ensemble_trials import (
    CALIBRATION,
    TrialOrder,
    cases_of_folds,
    references_of_dataset,
    try_on_folds,
)

logger = logging.getLogger(__name__)

POSTPROCESSINGS = ("tuned", "nnunet", "none")
CROSSVAL, REFERENCES, PREDICTIONS, POSTPROCESSED = "crossval", "references", "predictions", "predictions_postprocessed"
RULES, REPORT, SETTINGS, SUMMARY = "rules.json", "finish.json", "settings.json", "summary.json"
_SCORES = {"foreground_mean": {"Dice": float}}


@dataclass(frozen=True, kw_only=True)
class FinishOrder:
    """What is to be finished.

    Attributes:
        dataset: name of the data set that the folds were trained on.
        trial: the models and how they are scored; its `out` is the folder of everything.
        patient_of: function from a case id to its patient.
        postprocess: of `POSTPROCESSINGS`: rules for small components where they gain on held-out patients, nnU-Net's
            own choice, or nothing.
        images: folder to predict; None to end after the choice.
        average: of the final prediction, as in `Ensemble`.
        maps: whether maps of uncertainty are written.
        workers: processes for scores.
    """

    dataset: str
    trial: TrialOrder
    patient_of: Callable[[str], str] = str
    postprocess: str = "tuned"
    images: Path | None = None
    average: str = "logits"
    maps: bool = False
    workers: int = 1

    @property
    def out(self) -> Path:
        """The folder of everything."""
        return self.trial.out


@dataclass
class Finished:
    """What was found.

    Attributes:
        scores: mean Dice of the foreground in cross-validation, of each model and of all together.
        chosen: title of the best.
        models: its folders.
        rules: for small components, where they are used.
        seconds: of each step.
        lines: for the terminal.
    """

    scores: dict[str, float] = field(default_factory=dict)
    chosen: str = ALL
    models: list[Path] = field(default_factory=list)
    rules: RuleSet | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write the report."""
        write_json(path, {
            "crossval_dice": self.scores, "chosen": self.chosen, "models": [str(folder) for folder in self.models],
            "rules": None if self.rules is None else self.rules.as_dict(), "seconds": self.seconds,
        })  # fmt: skip


def finish(order: FinishOrder) -> Finished:
    """Do all steps that are not done yet.

    Raises:
        InputError: a model, an image or a reference cannot be used, or files cannot be written.
    """
    _hold_settings(order)
    done = Finished()
    steps = {"cross-validation": _cross_validate, "choice": _choose, "post-processing": _postprocess}
    if order.images is not None:
        steps["prediction"] = _predict
    for name, step in steps.items():
        logger.info("%s", name)
        start = time.monotonic()
        step(order, done)
        done.seconds[name] = round(time.monotonic() - start, 1)
        done.write(order.out / REPORT)
    return done


def _hold_settings(order: FinishOrder) -> None:
    """Note what `TrialOrder` does not, or refuse what was different in an earlier run."""
    images = None if order.images is None else str(order.images.resolve())
    settings = {"images": images, "postprocess": order.postprocess, "average": order.average}
    path = order.out / SETTINGS
    before = read_json(path, dict) if path.is_file() else {}
    unlike = [name for name in settings if before.get(name) not in (None, settings[name])]
    if unlike:
        raise InputError(
            f"{path} says that {order.out} was made with other {', '.join(unlike)}: name another folder with -o, or "
            "the same settings"
        )
    write_json(path, settings)


# ---------------------------------------------------------------------------------------------------- cross-validation


def _cross_validate(order: FinishOrder, done: Finished) -> None:
    folder = order.out / CROSSVAL
    titles = [part.title for part in _models_alone(order)]
    keep = {title: folder / _folder_name(number) for number, title in enumerate([*titles, ALL])}
    trial = replace(order.trial, out=folder, keep=keep, mirroring=False)
    report = try_on_folds(trial, order.dataset)
    done.lines.append(report.summary())


def _models_alone(order: FinishOrder) -> list[Any]:
    """Return the parts that are one model, none where there is only one."""
    ensemble = order.trial.ensemble(order.trial.folds[:1])
    return [part for part in parts_of(ensemble, mirrored=False) if part.kind == ALONE]


def _folder_name(number: int) -> str:
    return f"candidate_{number}"


def _choose(order: FinishOrder, done: Finished) -> None:
    """Choose as nnUNetv2_find_best_configuration does, by nnU-Net's own scores."""
    folder, ensemble = order.out / CROSSVAL, order.trial.ensemble(order.trial.folds[:1])
    _copy_references(order, folder / REFERENCES)
    titles = [*(part.title for part in _models_alone(order)), ALL]
    for number, title in enumerate(titles):
        own = folder / _folder_name(number)
        if not (own / SUMMARY).is_file():
            _write_scores(own, folder / REFERENCES, ensemble, order.workers)
        done.scores[title] = float(read_json(own / SUMMARY, _SCORES)["foreground_mean"]["Dice"])
    best = max(done.scores.values())
    done.chosen = next(title for title, score in done.scores.items() if score == best)  # single models come first
    alone = titles.index(done.chosen) < len(titles) - 1
    done.models = [order.trial.models[titles.index(done.chosen)]] if alone else list(order.trial.models)
    done.lines += [f"mean Dice of the foreground in cross-validation, {title}: {score:.4f}"
                   for title, score in done.scores.items()]  # fmt: skip
    done.lines.append(f"chosen: {done.chosen}")


def _copy_references(order: FinishOrder, folder: Path) -> None:
    """Copy the label maps of the cases that were held out: nnU-Net compares folders."""
    cases = [case for own in cases_of_folds(order.dataset, order.trial.folds).values() for case in own]
    sweep(folder)
    for path in references_of_dataset(nnunet_folder("nnUNet_raw") / order.dataset, cases).values():
        if not (folder / path.name).is_file():
            with write_atomically(folder / path.name) as temporary:
                temporary.write_bytes(read_regular(path))


def _write_scores(folder: Path, references: Path, ensemble: Ensemble, workers: int) -> None:
    """Write nnU-Net's scores of a folder of predictions, and what its post-processing looks for beside them."""
    model, labels = ensemble.first, ensemble.first.label_manager
    sweep(folder)  # nnU-Net takes every file
    write_json(folder / "dataset.json", model.dataset_json)
    write_json(folder / "plans.json", model.plans_manager.plans)
    regions = labels.foreground_regions if labels.has_regions else labels.foreground_labels
    reader, ending = model.plans_manager.image_reader_writer_class(), model.dataset_json["file_ending"]
    with write_atomically(folder / SUMMARY) as temporary:
        compute_metrics_on_folder(
            str(references), str(folder), str(temporary), reader, ending, regions, labels.ignore_label, workers
        )


# ------------------------------------------------------------------------------------------------------ post-processing


def _chosen_folder(order: FinishOrder, done: Finished) -> Path:
    return order.out / CROSSVAL / _folder_name(list(done.scores).index(done.chosen))


def _postprocess(order: FinishOrder, done: Finished) -> None:
    """Find rules on the cross-validation of what was chosen."""
    folder, references = _chosen_folder(order, done), order.out / CROSSVAL / REFERENCES
    if order.postprocess == "nnunet":
        found = _of_nnunet(folder, references, order.workers)
        done.lines.append(f"nnU-Net's post-processing: {len(found)} steps")
    if order.postprocess != "tuned":
        return
    path, target = order.out / RULES, order.trial.target
    if not path.is_file():
        tune(
            references, _segmentations_alone(folder, order.out / CROSSVAL / "tuned"), regions=target.regions,
            release=target.name, ignore=target.ignore, metrics=order.trial.metrics, task=order.trial.task, out=path,
            patient_of=order.patient_of, workers=order.workers,
        )  # fmt: skip
    rules = read_rules(path)
    done.lines.append(rules.summary())
    if rules.evidence.get("recommended") and rules.rules:
        done.rules = rules


def _segmentations_alone(folder: Path, alone: Path) -> Path:
    """Copy segmentations to a folder without the tables that lie beside them."""
    sweep(alone)
    ending = read_json(folder / "dataset.json", {"file_ending": str})["file_ending"]
    for path in sorted(folder.glob(f"*{ending}")):
        if not path.name.startswith(".") and not (alone / path.name).is_file():
            with write_atomically(alone / path.name) as temporary:
                temporary.write_bytes(read_regular(path))
    return alone


def _of_nnunet(folder: Path, references: Path, workers: int) -> list[dict[str, Any]]:
    """Let nnU-Net choose its post-processing, and return the arguments of each step."""
    path = folder / "postprocessing.json"
    if not path.is_file():
        shutil.rmtree(folder / "postprocessed", ignore_errors=True)
        determine_postprocessing(
            str(folder), str(references), str(folder / "plans.json"), str(folder / "dataset.json"), workers, True
        )
    found: list[dict[str, Any]] = read_json(path, {"postprocessing_kwargs": [{"labels_or_regions": Anything}]})[
        "postprocessing_kwargs"
    ]
    return found


# ----------------------------------------------------------------------------------------------------------- prediction


def _predict(order: FinishOrder, done: Finished) -> None:
    """Predict the images by all folds of what was chosen."""
    assert order.images is not None
    whole = done.chosen == ALL
    calibration = read_calibration(order.out / CROSSVAL / CALIBRATION) if whole else None
    if not whole:
        done.lines.append("volumes have no calibrated interval: the calibration is that of all models together")
    ensemble = Ensemble(
        done.models, order.trial.folds, make=order.trial.make, checkpoint=order.trial.checkpoint, average=order.average
    )
    folder = order.out / PREDICTIONS
    outputs = EnsembleOutputs(
        ensemble=ensemble, folder=folder, maps=order.maps, volumes=True, rules=done.rules, calibration=calibration
    )
    outputs.prepare(order.trial.checkpoint, go_on=True)
    cases = outputs.left(ensemble.cases(str(order.images), folder))
    predict_cases(outputs, cases, preprocessing=order.trial.preprocessing, export=order.trial.export)
    if order.postprocess == "nnunet":
        steps = _of_nnunet(_chosen_folder(order, done), order.out / CROSSVAL / REFERENCES, order.workers)
        apply_postprocessing_to_folder(
            str(folder), str(order.out / POSTPROCESSED),
            [remove_all_but_largest_component_from_segmentation] * len(steps), steps,
            num_processes=order.workers,
        )  # fmt: skip
    done.lines.append(f"predictions: {predictions_of(order)}")


def predictions_of(order: FinishOrder) -> Path:
    """Return the folder of the final segmentations."""
    return order.out / (POSTPROCESSED if order.postprocess == "nnunet" else PREDICTIONS)
