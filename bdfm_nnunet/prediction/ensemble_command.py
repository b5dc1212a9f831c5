"""`bdfm predict` with several models, or with what only an ensemble can tell."""

import multiprocessing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import get_output_folder

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.ensemble_calibration import read_calibration
from bdfm_nnunet.prediction.argument_checks import check_dataset
from bdfm_nnunet.prediction.ensemble_outputs import EnsembleOutputs, predict_cases
from bdfm_nnunet.prediction.ensemble_prediction import Ensemble
from bdfm_nnunet.prediction.predictor import Options, Predictor

ALL_FOLDS = (0, 1, 2, 3, 4)
CHECKPOINT = "checkpoint_final.pth"


@dataclass(frozen=True, kw_only=True)
class PredictorSettings:
    """Settings of nnU-Net's command that each predictor gets.

    Attributes:
        device: "cuda", "cpu" or "mps".
        step_size: distance of windows, as a part of their size.
        mirroring: whether to predict mirrored copies too.
        on_device: whether sums of windows lie on the device.
        verbose: whether nnU-Net tells more.
        progress: whether bars are shown.
        options: ours.
    """

    device: str = "cuda"
    step_size: float = 0.5
    mirroring: bool = True
    on_device: bool = True
    verbose: bool = False
    progress: bool = True
    options: Options = field(default_factory=Options)

    @classmethod
    def of(cls, given: Any, options: Options) -> "PredictorSettings":
        """Take them from the arguments of nnU-Net's command."""
        return cls(
            device=given.device or "cuda", step_size=given.step_size or 0.5, mirroring=not given.disable_tta,
            on_device=not given.not_on_device, verbose=given.verbose, progress=not given.disable_progress_bar,
            options=options,
        )  # fmt: skip

    def set_threads(self) -> None:
        """Set the threads as nnU-Net's command does."""
        torch.set_num_threads(multiprocessing.cpu_count() if self.device == "cpu" else 1)

    def make(self) -> Predictor:
        """Return a predictor without a model."""
        return Predictor(
            tile_step_size=self.step_size, use_gaussian=True, use_mirroring=self.mirroring,
            perform_everything_on_device=self.on_device, device=torch.device(self.device), verbose=self.verbose,
            verbose_preprocessing=self.verbose, allow_tqdm=self.progress, options=self.options,
        )  # fmt: skip


def model_folder(dataset: str, trainer: str | None, plans: str | None, configuration: str) -> Path:
    """Return the folder of a trained model in nnUNet_results.

    Raises:
        InputError: there is no such data set.
    """
    check_dataset(dataset)
    return Path(get_output_folder(dataset, trainer or "nnUNetTrainer", plans or "nnUNetPlans", configuration))


def predict_ensemble(
    given: Any,
    models: list[Path],
    options: Options,
    *,
    average: str | None,
    maps: bool,
    volumes: bool,
    calibration: Path | None = None,
) -> None:
    """Predict a folder of images with an ensemble.

    Args:
        given: arguments of nnU-Net's command.
        models: folders; by default the one that the arguments name.
        options: ours of each predictor.
        average: of `AVERAGES`; by default probabilities where the members of a single model are wanted one by one.
        maps: whether to write maps of entropy and disagreement.
        volumes: whether to write the table of volumes.
        calibration: file of `bdfm ensemble`, whose temperature and intervals are used.

    Raises:
        InputError: a model or an image cannot be used, or files cannot be written.
    """
    if given.i is None or given.o is None:
        raise InputError("-i and -o are missing: name the folder of the images and that of the results")
    folders = models or [named_model(given)]
    if average is None:
        average = "probabilities" if len(folders) == 1 and (maps or volumes) else "logits"
    settings, checkpoint, out = PredictorSettings.of(given, options), given.chk or CHECKPOINT, Path(given.o)
    settings.set_threads()
    ensemble = Ensemble(folders, given.f or ALL_FOLDS, make=settings.make, checkpoint=checkpoint, average=average)
    outputs = EnsembleOutputs(
        ensemble=ensemble, folder=out, probabilities=given.save_probabilities, maps=maps, volumes=volumes,
        rules=options.rules, calibration=None if calibration is None else read_calibration(calibration),
    )  # fmt: skip
    outputs.prepare(checkpoint, go_on=given.continue_prediction)
    previous = None if given.prev_stage_predictions is None else Path(given.prev_stage_predictions)
    part, parts = getattr(given, "part_id", None) or 0, getattr(given, "num_parts", None) or 1
    cases = ensemble.cases(given.i, out, previous=previous, part=part, parts=parts)
    wanted = outputs.left(cases) if given.continue_prediction else cases
    workers = [3 if number is None else number for number in (given.npp, given.nps)]
    predict_cases(outputs, wanted, preprocessing=workers[0], export=workers[1])


def named_model(given: Any) -> Path:
    """Return the folder of the model that the arguments of nnU-Net's command name.

    Raises:
        InputError: they name none.
    """
    if getattr(given, "m", None) is not None:
        return Path(given.m)
    if given.d is None or given.c is None:
        raise InputError("no model is named: name it with -d and -c (-tr, -p), with -m FOLDER, or several with --model")
    return model_folder(given.d, given.tr, given.p, given.c)
