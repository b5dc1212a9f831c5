"""`bdfm predict`."""

import argparse
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import command, count, fold, share, take_each_once, whole
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_folders import nnunet_folder, trainer_search_path

if TYPE_CHECKING:
    from bdfm_nnunet.prediction.dicom_segmentations import DicomSources

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
AVERAGES = ("logits", "probabilities")
PURPOSE = (
    "nnUNetv2_predict, faster, with our trainers; takes its arguments (or -m FOLDER for -d, -c, -tr, -p) and these"
)
_SWITCHES = (
    "--disable_tta", "--verbose", "--save_probabilities", "--disable_progress_bar", "--not_on_device",
)  # fmt: skip


def add_commands(commands: Any) -> None:
    """Add the parser; what it shows under `--help` is made by `predict`."""
    commands.add_parser("predict", help=PURPOSE, description=PURPOSE, add_help=False)
    add = command(
        commands, "fingerprint", fingerprint, "let a model that has been trained without it know wrong images: look at "
        "its training images, and keep what they are like in its folder",
    )  # fmt: skip
    add("-m", dest="model", type=Path, required=True, metavar="FOLDER", help="the model, above its folds")
    add("-i", dest="images", type=Path, required=True, metavar="IMAGES", help="its training images, as in imagesTr")
    add("--workers", type=count, default=2, metavar="N", help="images that are read at once (default: %(default)s)")


def fingerprint(settings: argparse.Namespace) -> int:
    """Write the fingerprint of a model's inputs into its folder."""
    from bdfm_nnunet.inputs.input_fingerprint import FEWEST_CASES, INPUT_FINGERPRINT, cases_in, write_fingerprint
    from bdfm_nnunet.nnunet_files import read_dataset_json

    dataset = read_dataset_json(settings.model / "dataset.json")
    cases = cases_in(settings.images, dataset)
    path = settings.model / INPUT_FINGERPRINT
    if len(cases) < FEWEST_CASES or write_fingerprint(cases, dataset, path, workers=settings.workers) is None:
        raise InputError(
            f"{settings.images} has {len(cases)} whole cases; {len(cases)} cases are too few for a fingerprint where "
            f"{FEWEST_CASES} must be readable: name the folder of the model's training images"
        )
    print(path)
    return 0


def our_parser() -> argparse.ArgumentParser:
    """Return the parser of our own options, which leaves those of nnU-Net."""
    parser = argparse.ArgumentParser(
        prog="bdfm predict", description=PURPOSE, usage="%(prog)s [our options] [options of nnU-Net's command]",
        add_help=False, allow_abbrev=False,
    )  # fmt: skip
    add = take_each_once(parser).add_argument
    precision = "type of the network's products; auto: nnU-Net's fp16 on CUDA, bf16 on a CPU made for it, else fp32"
    windows = "windows in one pass, mirrored copies counted (default: 1 on a CPU, what fits on CUDA)"
    add("--precision", choices=PRECISIONS, default="auto", help=precision)
    add("--windows", type=count, metavar="N", help=windows)
    add("--compile", action="store_true", help="compile the network first, where it can be")
    add(
        "--postprocess",
        type=Path,
        metavar="RULES.json",
        help="apply the rules of `bdfm postprocess tune` to each case of this run",
    )
    add("--model", type=Path, action="append", metavar="FOLDER", default=[],
        help="a trained model, in the place of -d or -m; several are an ensemble")  # fmt: skip
    add("--average", choices=AVERAGES, help="logits: the folds of each model as nnUNetv2_predict averages them, "
        "then the models' probabilities; probabilities: every fold is a member (default: logits, or "
        "probabilities where one model's members are asked for by the next two)")  # fmt: skip
    add("--uncertainty", action="store_true", help="write maps of entropy and disagreement of the members")
    add("--volumes", action="store_true", help="write volumes.csv: the volume of each region with an interval")
    add("--calibration", type=Path, metavar="FILE", help="calibration.json of `bdfm ensemble`: its temperature for "
        "probabilities and maps, its intervals for volumes")  # fmt: skip
    seg = "folder for DICOM SEG objects of the segmentations, on the frames of the series that --key knows"
    add("--dicom-seg", type=Path, metavar="FOLDER", help=seg)
    add("--key", type=Path, metavar="KEY.json", help="for --dicom-seg: the key that `bdfm convert dicom` wrote")
    strict = "refuse all cases where one does not look like the training cases, instead of a warning"
    add("--strict-input", action="store_true", help=strict)
    return parser


def nnunet_parser(from_folder: bool) -> argparse.ArgumentParser:
    """Return a parser of the options of nnU-Net's command, by which they are checked before that is imported.

    Args:
        from_folder: whether it is the command that takes a model's folder.
    """
    parser = argparse.ArgumentParser(
        prog="bdfm predict", usage="%(prog)s [our options] [options of nnU-Net's command]", add_help=False
    )
    add = take_each_once(parser).add_argument
    for option in (
        "-i",
        "-o",
        "-chk",
        "-prev_stage_predictions",
        *(("-m",) if from_folder else ("-d", "-p", "-tr", "-c")),
    ):
        add(option)
    add("-f", nargs="+", type=fold)
    add("-step_size", type=share)
    add("-device", choices=("cuda", "cpu", "mps"))
    for option in ("-npp", "-nps", *(() if from_folder else ("-part_id",))):
        add(option, type=whole)
    if not from_folder:
        add("-num_parts", type=count)
    for switch in _SWITCHES:
        add(switch, action="store_true")
    add("--continue_prediction", *(("--c",) if from_folder else ()), action="store_true")
    return parser


def predict(arguments: Sequence[str]) -> int:
    """Run nnU-Net's prediction command with our predictor."""
    parser = our_parser()
    ours, rest = parser.parse_known_args(list(arguments))
    if {"-h", "--help"} & set(rest):
        parser.print_help()
        _run(rest, ours)
        return 0
    several = bool(ours.model or ours.average or ours.uncertainty or ours.volumes or ours.calibration)
    if not several:
        _check(rest)
    sources = _dicom_sources(rest, ours)
    with _recorded(_given(rest), ours):
        (_predict_ensemble if several else _run)(rest, ours)
    if sources is not None:
        given = _given(rest)
        sources.write(Path(given.o), model=getattr(given, "tr", None) or "")
    return 0


def _predict_ensemble(arguments: Sequence[str], ours: argparse.Namespace) -> None:
    """Predict with our own command, which knows all options of nnU-Net's."""
    if ours.model and {"-m", "-d", "-c", "-tr", "-p"} & set(arguments):
        raise InputError("models are named with --model or with -d, -c, -tr, -p (or -m), not with both")
    given = nnunet_parser("-m" in arguments).parse_args(list(arguments))
    if not ours.model:
        _check(arguments)
    os.environ["nnUNet_extTrainer"] = trainer_search_path()
    options = _options(ours)
    from bdfm_nnunet.prediction.ensemble_command import predict_ensemble

    predict_ensemble(
        given, ours.model, options, average=ours.average, maps=ours.uncertainty, volumes=ours.volumes,
        calibration=ours.calibration,
    )  # fmt: skip


def _check(arguments: Sequence[str]) -> None:
    """Check that nnU-Net's command can take its options; those that it alone knows are left to it."""
    from_folder = "-m" in arguments
    given = _given(arguments)
    if from_folder:
        return
    parts, part = given.num_parts or 1, given.part_id or 0
    if part >= parts:
        raise InputError(f"-part_id {part} is not one of -num_parts {parts}: give 0 to {parts - 1}")
    nnunet_folder("nnUNet_results")


def _run(arguments: Sequence[str], ours: argparse.Namespace) -> None:
    os.environ["nnUNet_extTrainer"] = trainer_search_path()
    options = _options(ours)
    from bdfm_nnunet.prediction.stock_commands import run_command

    run_command(arguments, options)


def _recorded(given: argparse.Namespace, ours: argparse.Namespace) -> AbstractContextManager[None]:
    """Return a context in which the run sheet of the predictions is written; arguments that lack are told later."""
    if given.i is None or given.o is None:
        return nullcontext()
    from bdfm_nnunet.prediction.prediction_record import PredictionRun, recorded

    named = {name: getattr(given, name, None) for name in ("m", "d", "c", "tr", "p")}
    settings = {
        "folds": given.f,
        "checkpoint": given.chk,
        "step_size": given.step_size or 0.5,
        "mirroring": not given.disable_tta,
        "average": ours.average,
        "precision": ours.precision,
    }
    files = {"rules of post-processing": ours.postprocess, "calibration": ours.calibration}
    return recorded(
        PredictionRun(
            images=Path(given.i),
            out=Path(given.o),
            models=ours.model,
            named=named,
            device=given.device or "cuda",
            files={role: path for role, path in files.items() if path is not None},
            parts=getattr(given, "num_parts", None) or 1,
            settings=settings,
        )
    )


def _options(ours: argparse.Namespace) -> Any:
    from bdfm_nnunet.evaluation.postprocessing import read_rules

    rules = read_rules(ours.postprocess) if ours.postprocess is not None else None  # before hours of prediction
    from bdfm_nnunet.prediction.stock_commands import Options

    return Options(
        precision=ours.precision, windows=ours.windows, compile=ours.compile, rules=rules,
        strict_input=ours.strict_input,
    )  # fmt: skip


def _given(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of nnU-Net's command that we know."""
    return nnunet_parser("-m" in arguments).parse_known_args(list(arguments))[0]


def _dicom_sources(arguments: Sequence[str], ours: argparse.Namespace) -> "DicomSources | None":
    """Return the series on which segmentations are to be written, checked before hours of prediction."""
    if (ours.dicom_seg is None) != (ours.key is None):
        raise InputError("--dicom-seg FOLDER and --key KEY.json go together: give both, or neither")
    if ours.dicom_seg is None:
        return None
    given = _given(arguments)
    if given.i is None or given.o is None:
        raise InputError("--dicom-seg needs the folders -i and -o of nnU-Net's command: give both")
    if ours.dicom_seg.resolve() == Path(given.o).resolve():
        raise InputError(f"--dicom-seg and -o are both {given.o}: objects that name patients need another folder")
    from bdfm_nnunet.prediction.dicom_segmentations import DicomSources

    return DicomSources(ours.key, Path(given.i), ours.dicom_seg)
