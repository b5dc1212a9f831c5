"""Training, prediction and scoring of an arm in this process: nnU-Net is imported once for any number of them."""

import contextlib
import gc
import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

from bdfm_nnunet import trainers
from bdfm_nnunet.allocator import keep_freed_memory
from bdfm_nnunet.checkpoints.nnunet_loading import loading_as_data
from bdfm_nnunet.data.plain_cases import as_data
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import changed_environment, trainer_search_path
from bdfm_nnunet.prediction.predictor import Predictor
from bdfm_nnunet.settings import LOGGERS_VARIABLE, WEIGHTS_VARIABLE
from bdfm_nnunet.tasks.subject_level import SubjectTask
from bdfm_nnunet.train import last_checkpoint
from bdfm_nnunet.training.trainer import Trainer

FINAL = "checkpoint_final.pth"
_DIVERGED = "nonfinite_batch.json"
_LOG = "log.txt"


class DivergedError(InputError):
    """A training whose loss is not finite."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training to do.

    Attributes:
        preprocessed: folder that is nnUNet_preprocessed for it.
        dataset: name of the data set.
        plans: content of the plans.
        configuration: one of their configurations.
        dataset_json: content of dataset.json.
        trainer: name of the class.
        fold: of splits_final.json.
        weights: checkpoint to start from, or "none".
        folder: that is nnUNet_results for it.
        device: where it runs.
    """

    preprocessed: Path
    dataset: str
    plans: Mapping[str, Any]
    configuration: str
    dataset_json: Mapping[str, Any]
    trainer: str
    fold: int
    weights: str
    folder: Path
    device: torch.device


def train(training: Training) -> Path:
    """Train, or go on where a killed process has left it, and return the folder of the fold with its final checkpoint.

    What nnU-Net prints goes to log.txt in the training's folder.

    Raises:
        DivergedError: its loss is not finite.
        InputError: the settings, the data or the weights cannot be used.
    """
    if training.device.type == "cpu":
        keep_freed_memory()
    with changed_environment(_variables(training)), told_to(training.folder / _LOG):
        trainer = _trainer(training)
        folder = Path(trainer.output_folder)
        if not (folder / FINAL).is_file():
            try:
                _run(trainer, last_checkpoint(folder))
            except InputError as error:
                if (folder / _DIVERGED).is_file():
                    raise DivergedError(str(error)) from error
                raise
    for path in folder.glob("checkpoint_*.pth"):
        if path.name != FINAL:
            path.unlink()
    del trainer
    _free(training.device)
    return folder


def _variables(training: Training) -> dict[str, str]:
    return {
        "nnUNet_preprocessed": str(training.preprocessed),
        "nnUNet_results": str(training.folder),
        "nnUNet_extTrainer": trainer_search_path(),
        WEIGHTS_VARIABLE: training.weights,
        LOGGERS_VARIABLE: "none",
    }


def _trainer(training: Training) -> Trainer:
    plans = {**training.plans, "continue_training": False}
    dataset, place = dict(training.dataset_json), (training.configuration, training.fold)
    trainer: Trainer = find_trainer(training.trainer)(plans, *place, dataset, training.device)
    # once an epoch they take longer than the steps of a small one, and nobody looks at them: figures, best checkpoints
    trainer.logger.local_logger.plot_progress_png = lambda folder: None
    trainer.save_if_best = lambda score: None  # type: ignore[method-assign]
    if isinstance(trainer.task, SubjectTask):
        trainer.task.most_validated = 1
    return trainer


@cache
def find_trainer(name: str) -> type[Trainer]:
    """Return one of our trainers, or one that is built on them.

    Raises:
        InputError: there is none of this name.
    """
    kind = getattr(trainers, name, None)
    if kind is None:
        try:
            kind = recursive_find_trainer_class_by_name(name)
        except (RuntimeError, AssertionError):
            raise InputError(f"trainer {name} does not exist: name one of {', '.join(trainers.__all__)}") from None
    if not issubclass(kind, Trainer):
        raise InputError(f"trainer {name} does not take rates and steps from the plans: name nnUNetTrainerBDFM")
    return kind


def _run(trainer: Trainer, checkpoint: Path | None) -> None:
    if checkpoint is not None:
        with loading_as_data():
            trainer.load_checkpoint(str(checkpoint))
    if not trainer.was_initialized:
        trainer.initialize()
    trainer.dataset_class = as_data(trainer.dataset_class)
    trainer.run_training()


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def told_to(path: Path) -> Iterator[None]:
    """Let what is printed go to the end of a file, and of what this package logs only warnings to the console."""
    path.parent.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("bdfm_nnunet")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream, contextlib.redirect_stdout(stream):
            yield
    finally:
        logger.setLevel(before)


# ------------------------------------------------------------------------------------------------------ prediction


def predict(
    fold: Path, cases: Sequence[str], *, data: Path, out: Path, device: torch.device, mirroring: bool = False
) -> None:
    """Predict preprocessed cases with the final checkpoint of a fold, as segmentations on the grid of their images.

    Args:
        fold: folder of the fold.
        cases: their ids.
        data: folder with the preprocessed cases.
        out: folder of the segmentations; what it held is removed.
        device: where the network runs.
        mirroring: whether to take the mean over mirrored images.

    Raises:
        InputError: the model or a case cannot be used.
    """
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with told_to(out.parent / _LOG):
        predictor = Predictor(
            use_mirroring=mirroring,
            perform_everything_on_device=device.type != "cpu",
            device=device,
            verbose=False,
            allow_tqdm=False,
        )
        predictor.only_threads = True
        name = fold.name.removeprefix("fold_")
        predictor.initialize_from_trained_model_folder(str(fold.parent), (int(name),), FINAL)
        predictor.predict_from_data_iterator(_items(data, cases, out), num_processes_segmentation_export=1)
    del predictor
    _free(device)


def _items(data: Path, cases: Sequence[str], out: Path) -> Iterable[dict[str, Any]]:
    read = as_data(infer_dataset_class(str(data)))(str(data), list(cases))
    for case in cases:
        images, _, _, properties = read.load_case(case)
        tensor = torch.from_numpy(np.asarray(images[:], dtype=np.float32))
        yield {"data": tensor, "ofile": str(out / case), "data_properties": properties}


def preprocess_test_cases(
    cases: Mapping[str, Mapping[str, Any]],
    *,
    plans: Any,
    configuration: Any,
    dataset_json: Mapping[str, Any],
    out: Path,
) -> None:
    """Preprocess labelled cases of another data set as those of the training were; the folder is whole or not there.

    Args:
        cases: case id -> its "images" and "label".
        plans: nnU-Net's view of the plans.
        configuration: nnU-Net's view of the configuration.
        dataset_json: of the training.
        out: the folder.
    """
    if out.is_dir():
        return
    unfinished = out.with_name(f".{out.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    preprocessor = configuration.preprocessor_class(verbose=False)
    for case, files in cases.items():
        names = [str(image) for image in files["images"]]
        place = str(unfinished / case)
        preprocessor.run_case_save(place, names, str(files["label"]), plans, configuration, dict(dataset_json))
    unfinished.rename(out)
