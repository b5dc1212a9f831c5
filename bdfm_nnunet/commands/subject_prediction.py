"""`bdfm predict-subjects`."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import command, count, dataset, fold
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import check_writable
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
    add("-i", "--images", type=Path, metavar="IMAGES", help="folder of CASE_0000.nii.gz ...")
    add("--external", nargs="*", metavar="SITE",
        help="in place of -i: the cases that `bdfm splits --external` keeps out, of these sites or of all")  # fmt: skip
    add("-o", "--out", required=True, type=Path, metavar="FILE.csv", help="the table of predictions, a row per case")
    add("--per-patient", type=Path, metavar="FILE.csv", help="a second table, the mean over the cases of each patient")
    add("--saliency", type=Path, metavar="DIR", help="folder for maps of what each voxel adds to a prediction")
    add("-chk", "--checkpoint", default="checkpoint_best.pth", metavar="NAME",
        help="checkpoint of each fold (default: %(default)s, the epoch with the least validation loss)")  # fmt: skip
    add("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="where the network runs (default: %(default)s)")
    add("--workers", type=count, default=2, metavar="N", help="images that are checked at once (default: %(default)s)")


def predict_subjects(settings: argparse.Namespace) -> int:
    """Predict, and write the table."""
    _check(settings)
    name = dataset_name(settings.dataset)
    run = f"{settings.trainer}__{settings.plans}__{settings.configuration}"
    from bdfm_nnunet.evaluation.subject_tables import per_patient, write_predictions
    from bdfm_nnunet.exposure import Exposure
    from bdfm_nnunet.exposure.subject_exposure import write_record
    from bdfm_nnunet.patients import groups, read_cases
    from bdfm_nnunet.prediction.subject_predictor import SubjectModel
    from bdfm_nnunet.prediction.subject_predictor import predict_subjects as predict

    kept_out = None if settings.external is None else _kept_out(settings)
    model = SubjectModel.read(nnunet_folder("nnUNet_results") / name / run, settings.folds, settings.checkpoint)
    _check_meaning(model, settings.dataset)
    saliency = None if settings.saliency is None else settings.saliency / "map.nii.gz"
    for path in filter(None, (settings.out, settings.per_patient, saliency)):
        check_writable(path)
    known = read_cases(*dataset_folders(settings.dataset))
    predictions = predict(
        model,
        settings.images if kept_out is None else _images_of(model, name, kept_out),
        patients=groups(known.rows, known.scope),
        saliency=settings.saliency,
        device=settings.device,
        workers=settings.workers,
    )
    write_predictions(settings.out, predictions)
    exposures = [Exposure.of_checkpoint(each.checkpoint) for each in model.folds]
    write_record(settings.out, exposures, targets=[asdict(column) for column in model.targets])
    print(f"{len(predictions.cases)} cases of {len(set(predictions.patients))} patients in {settings.out}")
    if settings.per_patient is not None:
        write_predictions(settings.per_patient, per_patient(predictions))
    return 0


def _check(settings: argparse.Namespace) -> None:
    """Check the options before anything is read."""
    if (settings.images is None) == (settings.external is None):
        raise InputError("give either -i IMAGES or --external, whose cases are to be predicted")
    for path in (settings.out, settings.per_patient):
        if path is not None and path.suffix.lower() != ".csv":
            raise InputError(f"{path} is where a table goes: name a file that ends in .csv")
    if settings.per_patient is not None and settings.per_patient.absolute() == settings.out.absolute():
        raise InputError(f"-o and --per-patient are both {settings.out}: name two files")


def _check_meaning(model: Any, dataset_id: int) -> None:
    """Refuse a model that means something else by a target than the data set does now; none may be installed."""
    from bdfm_nnunet.targets import TARGETS_TYPES, read_targets
    from bdfm_nnunet.targets.target_agreement import check_agreement

    folders = dataset_folders(dataset_id)
    if any((folder / TARGETS_TYPES).is_file() for folder in folders):
        check_agreement(read_targets(*folders).columns, model.targets, str(model.folder))


def _kept_out(settings: argparse.Namespace) -> list[str]:
    """Return the cases that were kept out of the folds that trainers read."""
    from bdfm_nnunet.split_files import read_kept_out

    return read_kept_out(*reversed(dataset_folders(settings.dataset))).of_sites(settings.external)


def _images_of(model: Any, name: str, cases: list[str]) -> Any:
    """Return the images of cases that were kept out; a model that has trained on one of them is refused."""
    from bdfm_nnunet.exposure import Exposure
    from bdfm_nnunet.exposure.subject_exposure import check_untrained
    from bdfm_nnunet.prediction.subject_images import images_of_cases

    for each in model.folds:
        check_untrained(Exposure.of_checkpoint(each.checkpoint), name, cases, str(each.checkpoint.path))
    return images_of_cases(model, name, cases)
