"""`bdfm predict-subjects`."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import command, count, dataset, fold
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import dataset_folders, dataset_name, nnunet_folder
from bdfm_nnunet.presets import SUBJECT_TRAINERS


def add_commands(commands: Any) -> None:
    """Add the parser."""
    purpose = "predict classes, values or risks of subjects from their images"
    add = command(commands, "predict-subjects", predict_subjects, purpose)
    dataset(add)
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("-tr", "--trainer", required=True, choices=SUBJECT_TRAINERS, metavar="TRAINER",
        help=f"trainer of the model: {', '.join(SUBJECT_TRAINERS)}")  # fmt: skip
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("-f", "--folds", nargs="+", type=fold, default=["0", "1", "2", "3", "4"], metavar="F",
        help="folds, whose predictions are averaged (default: 0 1 2 3 4)")  # fmt: skip
    add("-i", "--images", required=True, type=Path, metavar="IMAGES", help="folder of CASE_0000.nii.gz ...")
    add("-o", "--out", required=True, type=Path, metavar="FILE.csv", help="the table of predictions, a row per case")
    add("--per-patient", type=Path, metavar="FILE.csv", help="a second table, the mean over the cases of each patient")
    add("--saliency", type=Path, metavar="DIR", help="folder for maps of what each voxel adds to a prediction")
    add("-chk", "--checkpoint", default="checkpoint_best.pth", metavar="NAME",
        help="checkpoint of each fold (default: %(default)s, the epoch with the least validation loss)")  # fmt: skip
    add("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="where the network runs (default: %(default)s)")
    add("--workers", type=count, default=2, metavar="N", help="images that are checked at once (default: %(default)s)")


def predict_subjects(settings: argparse.Namespace) -> int:
    """Predict, and write the table."""
    for path in (settings.out, settings.per_patient):
        if path is not None and path.suffix.lower() != ".csv":
            raise InputError(f"{path} is where a table goes: name a file that ends in .csv")
    run = f"{settings.trainer}__{settings.plans}__{settings.configuration}"
    folder = nnunet_folder("nnUNet_results") / dataset_name(settings.dataset) / run
    from bdfm_nnunet.evaluation.subject_tables import per_patient, write_predictions
    from bdfm_nnunet.exposure import Exposure
    from bdfm_nnunet.exposure.subject_exposure import write_record
    from bdfm_nnunet.patients import groups, read_cases
    from bdfm_nnunet.prediction.subject_predictor import SubjectModel
    from bdfm_nnunet.prediction.subject_predictor import predict_subjects as predict

    model = SubjectModel.read(folder, settings.folds, settings.checkpoint)
    known = read_cases(*dataset_folders(settings.dataset))
    predictions = predict(
        model,
        settings.images,
        patients=groups(known.rows, known.scope),
        saliency=settings.saliency,
        device=settings.device,
        workers=settings.workers,
    )
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    write_predictions(settings.out, predictions)
    write_record(settings.out, [Exposure.of_checkpoint(each) for each in model.folds])
    print(f"{len(predictions.cases)} cases of {len(set(predictions.patients))} patients in {settings.out}")
    if settings.per_patient is not None:
        settings.per_patient.parent.mkdir(parents=True, exist_ok=True)
        write_predictions(settings.per_patient, per_patient(predictions))
    return 0
