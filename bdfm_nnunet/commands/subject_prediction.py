"""`bdfm predict-subjects`."""

import argparse
from collections.abc import Mapping
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
    add("-i", "--images", type=Path, metavar="IMAGES",
        help="folder of CASE_0000.nii.gz ...; of runs a data set that `bdfm convert fmri-...` wrote")  # fmt: skip
    add("--external", nargs="*", metavar="SITE",
        help="in place of -i: the cases that `bdfm splits --external` keeps out, of these sites or of all")  # fmt: skip
    add("-o", "--out", required=True, type=Path, metavar="FILE.csv", help="the table of predictions, a row per case")
    add("--per-patient", type=Path, metavar="FILE.csv",
        help="a second table, the mean over the cases of each patient, of runs over all their clips")  # fmt: skip
    add("--saliency", type=Path, metavar="DIR", help="folder for maps of what each voxel adds to a prediction")
    add("--saliency-frames", action="store_true", help="of runs: a map for each frame (4-D) in place of their sum")
    add("--strict-input", action="store_true",
        help="refuse all cases where one does not look like the training cases, instead of a warning")
    add("-chk", "--checkpoint", default="checkpoint_best.pth", metavar="NAME",
        help="checkpoint of each fold (default: %(default)s, the epoch with the least validation loss)")  # fmt: skip
    add("--device", choices=("cpu", "cuda", "mps"), default="cpu", help="where the network runs (default: %(default)s)")
    add("--workers", type=count, default=2, metavar="N", help="images that are checked at once (default: %(default)s)")


def predict_subjects(settings: argparse.Namespace) -> int:
    """Predict, and write the table."""
    _check(settings)
    name = dataset_name(settings.dataset)
    run = f"{settings.trainer}__{settings.plans}__{settings.configuration}"
    from bdfm_nnunet.evaluation.subject_tables import write_predictions
    from bdfm_nnunet.exposure import Exposure
    from bdfm_nnunet.exposure.subject_exposure import write_record
    from bdfm_nnunet.prediction.subject_predictor import SubjectModel
    from bdfm_nnunet.prediction.subject_record import begin_session, write_subject_record

    session = begin_session(settings.device)
    kept_out = None if settings.external is None else _kept_out(settings)
    model = SubjectModel.read(nnunet_folder("nnUNet_results") / name / run, settings.folds, settings.checkpoint)
    _check_meaning(model, settings.dataset)
    if settings.saliency_frames and (settings.saliency is None or not model.reads_runs):
        raise InputError("--saliency-frames is for --saliency of runs: leave it out")
    if settings.strict_input and model.reads_runs:
        raise InputError("--strict-input is for images, of 4-D runs no fingerprint is kept: leave it out")
    saliency = None if settings.saliency is None else settings.saliency / "map.nii.gz"
    for path in filter(None, (settings.out, settings.per_patient, saliency)):
        check_writable(path)
    for each in model.folds if kept_out is not None else ():
        _check_untrained(each.checkpoint, name, kept_out or [])
    predictions, subjects = (_of_runs if model.reads_runs else _of_images)(settings, model, name, kept_out)
    write_predictions(settings.out, predictions)
    exposures = [Exposure.of_checkpoint(each.checkpoint) for each in model.folds]
    write_record(settings.out, exposures, targets=[asdict(column) for column in model.targets])
    print(f"{len(predictions.cases)} cases of {len(set(predictions.patients))} patients in {settings.out}")
    if settings.per_patient is not None:
        write_predictions(settings.per_patient, subjects)
    write_subject_record(
        [table for table in (settings.out, settings.per_patient) if table is not None],
        [each.checkpoint for each in model.folds],
        images=settings.images,
        cases=predictions.cases,
        settings={"dataset": name, "model": run, "folds": settings.folds, "checkpoint": settings.checkpoint,
                  "external": settings.external, "device": settings.device, "strict_input": settings.strict_input},
        session=session,
    )  # fmt: skip
    return 0


def _of_images(settings: argparse.Namespace, model: Any, name: str, kept_out: Any) -> tuple[Any, Any]:
    """Return the predictions for images, and for their patients."""
    from bdfm_nnunet.evaluation.subject_tables import per_patient
    from bdfm_nnunet.prediction.subject_images import images_of_cases
    from bdfm_nnunet.prediction.subject_predictor import predict_subjects as predict

    images = settings.images if kept_out is None else images_of_cases(model, name, kept_out)
    predictions = predict(
        model,
        images,
        patients=_patients(settings),
        saliency=settings.saliency,
        device=settings.device,
        workers=settings.workers,
        strict_input=settings.strict_input,
    )
    return predictions, per_patient(predictions)


def _of_runs(settings: argparse.Namespace, model: Any, name: str, kept_out: Any) -> tuple[Any, Any]:
    """Return the predictions for runs, and for their subjects."""
    from bdfm_nnunet.prediction.predicted_runs import RunFiles, runs_of_cases
    from bdfm_nnunet.prediction.run_predictor import RunMaps, predict_runs

    configuration = model.configuration
    runs = (
        RunFiles(settings.images, configuration) if kept_out is None else runs_of_cases(configuration, name, kept_out)
    )
    maps = None if settings.saliency is None else RunMaps(folder=settings.saliency, frames=settings.saliency_frames)
    patients = patients_of_runs(runs, _patients(settings))
    found = predict_runs(model, runs, patients=patients, maps=maps, device=settings.device)
    return found.runs, found.subjects


def patients_of_runs(runs: Any, known: Mapping[str, str]) -> dict[str, str]:
    """Return run -> subject: as the data set of the model knows it, else as the manifest beside the runs does.

    Args:
        runs: a `RunFiles`.
        known: of the data set of the model.
    """
    from bdfm_nnunet.patients import MANIFEST, groups, read_cases

    beside = next((each for each in (runs.folder, runs.folder.parent) if (each / MANIFEST).is_file()), None)
    listed = None if beside is None else read_cases(beside)
    told = {} if listed is None else groups(listed.rows, listed.scope)
    return {case: known.get(case, told.get(case, case)) for case in runs.names}


def _patients(settings: argparse.Namespace) -> Any:
    """Return case -> patient of the data set."""
    from bdfm_nnunet.patients import groups, read_cases

    known = read_cases(*dataset_folders(settings.dataset))
    return groups(known.rows, known.scope)


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


def _check_untrained(checkpoint: Any, name: str, cases: list[str]) -> None:
    """Refuse a model that has trained on one of the cases that were kept out."""
    from bdfm_nnunet.exposure import Exposure
    from bdfm_nnunet.exposure.subject_exposure import check_untrained

    check_untrained(Exposure.of_checkpoint(checkpoint), name, cases, str(checkpoint.path))
