"""`bdfm ensemble` and `bdfm finish`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import EXIT_REFUSED, Add, command, dataset_id, fold, share, whole, workers
from bdfm_nnunet.commands.predict import AVERAGES, PRECISIONS
from bdfm_nnunet.commands.scores import VERSIONS, patient_of, scored_target
from bdfm_nnunet.errors import InputError

POSTPROCESSINGS = ("tuned", "nnunet", "none")

if TYPE_CHECKING:
    from bdfm_nnunet.prediction.ensemble_command import PredictorSettings
    from bdfm_nnunet.studies.ensemble_trials import TrialOrder
    from bdfm_nnunet.studies.finishing import Finished


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    purpose = "what each fold, model and mirroring brings to an ensemble, and how sure it may be, on held-out cases"
    add = command(commands, "ensemble", ensemble, purpose)
    models(add)
    add("-i", "--images", type=Path, metavar="FOLDER", help="held-out images; by default the training cases, each by "
        "the fold that has not seen it")  # fmt: skip
    add("--references", type=Path, metavar="FOLDER", help="their label maps")
    scoring(add)
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="results; a run that was stopped goes on there")
    prediction(add)

    purpose = "from trained folds to predictions, an archive or a container: cross-validation, choice, rules, ensemble"
    add = command(commands, "finish", finish, purpose)
    models(add)
    add("-i", "--images", type=Path, metavar="FOLDER", help="images to predict by all folds")
    scoring(add)
    add("--postprocess", choices=POSTPROCESSINGS, default="tuned", help="tuned: rules for small components where they "
        "gain on held-out patients; nnunet: nnU-Net's own choice (default: %(default)s)")  # fmt: skip
    add("--average", choices=AVERAGES, default="logits", help="how folds are averaged (default: %(default)s)")
    add("--uncertainty", action="store_true", help="write maps of entropy and disagreement")
    add("--submission", type=Path, metavar="ZIP", help="pack the predictions for --release, which is a challenge")
    add("--container", metavar="CHALLENGE", help="write a container for this challenge to DIR/container")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="results; a run that was stopped goes on there")
    prediction(add)
    workers(add)


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


def trial_order(settings: argparse.Namespace) -> "TrialOrder":
    """Return what is tried.

    Raises:
        InputError: no model is named, or one is not there.
    """
    folders = named_models(settings)
    predictor = predictor_settings(settings)
    from bdfm_nnunet.prediction.argument_checks import check_model
    from bdfm_nnunet.studies.ensemble_trials import TrialOrder

    for folder in folders:
        check_model(folder, settings.folds, settings.checkpoint)
    return TrialOrder(
        models=folders, folds=settings.folds, checkpoint=settings.checkpoint, make=predictor.make, out=settings.out,
        target=target_of_models(settings, folders), metrics=settings.metrics, task=settings.task,
        mirroring=not settings.disable_tta, preprocessing=settings.npp, export=settings.nps,
        predictor={"disable_tta": settings.disable_tta, "step_size": settings.step_size},
    )  # fmt: skip


def ensemble(settings: argparse.Namespace) -> int:
    """Try an ensemble on held-out cases and print its table."""
    if (settings.images is None) != (settings.references is None):
        raise InputError("-i and --references belong together: name the folders of images and of their label maps")
    if settings.images is None and settings.dataset is None:
        raise InputError("no cases are named: give -d for the training cases, or -i and --references")
    order = trial_order(settings)
    from bdfm_nnunet.studies.ensemble_trials import try_on_folds, try_on_images

    if settings.images is not None:
        report = try_on_images(order, settings.images, settings.references)
    else:
        from bdfm_nnunet.nnunet_folders import dataset_name

        report = try_on_folds(order, dataset_name(settings.dataset))
    print(report.summary())
    print(f"table: {settings.out / 'parts.csv'}; for `bdfm predict --calibration`: {settings.out / 'calibration.json'}")
    return 0


def finish(settings: argparse.Namespace) -> int:
    """Choose by cross-validation, predict, and pack what is wanted."""
    _check_finish(settings)
    from bdfm_nnunet.nnunet_folders import dataset_name

    name = dataset_name(settings.dataset)
    trial = trial_order(settings)
    from bdfm_nnunet.studies.finishing import FinishOrder, finish, predictions_of

    order = FinishOrder(
        dataset=name, trial=trial, patient_of=patient_of(settings),
        postprocess=settings.postprocess, images=settings.images, average=settings.average, maps=settings.uncertainty,
        workers=settings.workers,
    )  # fmt: skip
    done = finish(order)
    print("\n".join(done.lines))
    if settings.submission is not None:
        from bdfm_nnunet.dataset_conversion import find_release
        from bdfm_nnunet.dataset_conversion.submission import make_submission

        report = make_submission(
            predictions_of(order), release=find_release(settings.release), out=settings.submission,
            images=settings.images, workers=settings.workers,
        )  # fmt: skip
        print(report.summary())
    if settings.container is not None:
        return _contain(settings, done)
    return 0


def _check_finish(settings: argparse.Namespace) -> None:
    """Refuse what could not end, before hours of prediction."""
    if settings.dataset is None:
        raise InputError("-d is missing: name the data set whose folds were trained")
    if settings.submission is not None and (settings.images is None or settings.release is None):
        raise InputError("--submission needs the images with -i and the challenge with --release")
    if settings.container is not None:
        from bdfm_nnunet.containers.challenge_forms import find_form

        find_form(settings.container)
        if settings.postprocess == "nnunet":
            raise InputError(
                "a container applies rules of `bdfm postprocess tune` only: take --postprocess tuned or none"
            )


def _contain(settings: argparse.Namespace, done: "Finished") -> int:
    """Write the container of the model that was chosen."""
    from bdfm_nnunet.containers.build_context import ContainerOrder, judge_weights, write_container
    from bdfm_nnunet.containers.challenge_forms import find_form
    from bdfm_nnunet.nnunet_folders import dataset_folders

    out = settings.out / "container"
    if len(done.models) > 1:
        raise InputError(
            f"{out} was not written: a container holds one model, and cross-validation chose {len(done.models)} "
            "together; name the one to pack with `bdfm container`"
        )
    if out.is_dir() and any(out.iterdir()):
        print(f"{out} is there already and stays; move it away to write it anew")
        return 0
    order = ContainerOrder(
        model=done.models[0], folds=tuple(str(fold) for fold in settings.folds), form=find_form(settings.container),
        checkpoint=settings.checkpoint, rules=None if done.rules is None else settings.out / "rules.json",
        mirroring=not settings.disable_tta, dataset=tuple(dataset_folders(settings.dataset)),
    )  # fmt: skip
    verdicts = judge_weights(order)
    for each in verdicts[:1]:
        print(each.summary(done.models[0].name))
    if any(each.answer == "forbidden" for each in verdicts):
        print(f"no container was written: {order.form.rules} forbids these weights")
        return EXIT_REFUSED
    write_container(order, out, verdicts=verdicts)
    print(f"{out} holds a container for {order.form.title}: `bdfm container check {out}` attacks it")
    return 0
