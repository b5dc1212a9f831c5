"""`bdfm ensemble`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import Add, command, dataset_id, fold, share, whole
from bdfm_nnunet.commands.predict import PRECISIONS
from bdfm_nnunet.commands.scores import VERSIONS, scored_target
from bdfm_nnunet.errors import InputError

if TYPE_CHECKING:
    from bdfm_nnunet.prediction.ensemble_command import PredictorSettings


def add_commands(commands: Any) -> None:
    """Add the parser."""
    purpose = "what each fold, model and mirroring brings to an ensemble, and how sure it may be, on held-out cases"
    add = command(commands, "ensemble", ensemble, purpose)
    models(add)
    add("-i", "--images", type=Path, metavar="FOLDER", help="held-out images; by default the training cases, each by "
        "the fold that has not seen it")  # fmt: skip
    add("--references", type=Path, metavar="FOLDER", help="their label maps")
    scoring(add)
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="results; a run that was stopped goes on there")
    prediction(add)


def models(add: Add) -> None:
    """Add the options that name models and folds."""
    add("-d", "--dataset", type=dataset_id, metavar="ID", help="nnU-Net data set number, 1 to 999")
    add("-c", "--configuration", default="3d_fullres", metavar="CONFIG", help="configuration (default: %(default)s)")
    add("-tr", "--trainer", default="nnUNetTrainerBDFM", metavar="TRAINER", help="trainer (default: %(default)s)")
    add("-p", "--plans", default="BDFMPlans", metavar="NAME", help="name of the plans (default: %(default)s)")
    add("--model", type=Path, action="append", default=[], metavar="FOLDER",
        help="a trained model in the place of -c, -tr and -p; several are an ensemble")  # fmt: skip
    add("-f", "--folds", nargs="+", type=fold, default=["0", "1", "2", "3", "4"], metavar="F",
        help="folds of each model (default: 0 1 2 3 4)")  # fmt: skip
    add("-chk", "--checkpoint", default="checkpoint_final.pth", metavar="NAME", help="default: %(default)s")


def scoring(add: Add) -> None:
    """Add the options that say what is scored."""
    add("--release", metavar="NAME", help="score the regions of this release (default: those of dataset.json)")
    add("--dataset-json", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    add("--metrics", choices=VERSIONS, default="whole", help="version of the metrics (default: %(default)s)")
    add("--task", metavar="TASK", help="take the rules of this task for the release's own")


def prediction(add: Add) -> None:
    """Add the options of prediction, as nnU-Net's command names them."""
    add("-device", choices=("cuda", "cpu", "mps"), default="cuda", help="where networks run (default: %(default)s)")
    add("-step_size", type=share, default=0.5, metavar="S", help="distance of windows (default: %(default)s)")
    add("-npp", type=whole, default=3, metavar="N", help="workers that preprocess (default: %(default)s)")
    add("-nps", type=whole, default=3, metavar="N", help="workers that export (default: %(default)s)")
    add("--disable_tta", action="store_true", help="predict no mirrored copies")
    add("--precision", choices=PRECISIONS, default="auto", help="type of the network's products (default: auto)")


def predictor_settings(settings: argparse.Namespace) -> "PredictorSettings":
    """Return the settings of each predictor, and set the threads."""
    import os

    from bdfm_nnunet.nnunet_folders import trainer_search_path

    os.environ["nnUNet_extTrainer"] = trainer_search_path()
    from bdfm_nnunet.prediction.ensemble_command import PredictorSettings
    from bdfm_nnunet.prediction.predictor import Options

    found = PredictorSettings(
        device=settings.device, step_size=settings.step_size, mirroring=not settings.disable_tta,
        options=Options(precision=settings.precision),
    )  # fmt: skip
    found.set_threads()
    return found


def named_models(settings: argparse.Namespace) -> list[Path]:
    """Return the folders of the models.

    Raises:
        InputError: none is named.
    """
    if settings.model:
        return list(settings.model)
    if settings.dataset is None:
        raise InputError("no model is named: give -d, -c, -tr and -p, or --model FOLDER once or several times")
    from bdfm_nnunet.nnunet_folders import dataset_name, nnunet_folder

    run = f"{settings.trainer}__{settings.plans}__{settings.configuration}"
    return [nnunet_folder("nnUNet_results") / dataset_name(settings.dataset) / run]


def target_of_models(settings: argparse.Namespace, folders: list[Path]) -> Any:
    """Return what is scored: the regions of a release, or of the models' dataset.json."""
    if settings.release is None and settings.dataset_json is None:
        return scored_target(argparse.Namespace(release=None, dataset=None, dataset_json=folders[0] / "dataset.json"))
    return scored_target(argparse.Namespace(**{**vars(settings), "dataset": None}))


def ensemble(settings: argparse.Namespace) -> int:
    """Try an ensemble on held-out cases and print its table."""
    if (settings.images is None) != (settings.references is None):
        raise InputError("-i and --references belong together: name the folders of images and of their label maps")
    if settings.images is None and settings.dataset is None:
        raise InputError("no cases are named: give -d for the training cases, or -i and --references")
    folders = named_models(settings)
    predictor = predictor_settings(settings)
    from bdfm_nnunet.prediction.argument_checks import check_model
    from bdfm_nnunet.studies.ensemble_trials import TrialOrder, try_on_folds, try_on_images

    for folder in folders:
        check_model(folder, settings.folds, settings.checkpoint)
    order = TrialOrder(
        models=folders, folds=settings.folds, checkpoint=settings.checkpoint, make=predictor.make, out=settings.out,
        target=target_of_models(settings, folders), metrics=settings.metrics, task=settings.task,
        mirroring=not settings.disable_tta, preprocessing=settings.npp, export=settings.nps,
    )  # fmt: skip
    if settings.images is not None:
        report = try_on_images(order, settings.images, settings.references)
    else:
        from bdfm_nnunet.nnunet_folders import dataset_name

        report = try_on_folds(order, dataset_name(settings.dataset))
    print(report.summary())
    print(f"table: {settings.out / 'parts.csv'}; for `bdfm predict --calibration`: {settings.out / 'calibration.json'}")
    return 0
