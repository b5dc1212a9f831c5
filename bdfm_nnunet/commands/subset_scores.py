"""`bdfm evaluate --channels all-subsets`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import fold
from bdfm_nnunet.errors import InputError

if TYPE_CHECKING:
    from bdfm_nnunet.evaluation.scored_regions import Target

ALL_SUBSETS = "all-subsets"
_OPTIONS = {
    "model": "--model",
    "folds": "-f",
    "checkpoint": "-chk",
    "device": "--device",
    "disable_tta": "--disable_tta",
}
_OF_FOLDERS = {
    "allow_missing": "--allow-missing", "only_predicted": "--only-predicted", "source_labels": "--source-labels",
    "check_with": "--check-with", "small_mm3": "--small-mm3",
}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options, in a group of the help."""
    add: Any = parser.add_argument_group(
        "missing channels",
        "`bdfm evaluate --channels all-subsets --model FOLDER -f 0 -o FILE.json` takes no folders: it predicts the "
        "validation cases of a fold with every subset of their channels, as if the others were not there, and prints a "
        "table of scores",
    ).add_argument
    add("--channels", choices=(ALL_SUBSETS,), help="score models on every subset of the channels")
    model = "a trained model, the folder with plans.json in nnUNet_results; repeated, models stand side by side"
    add("--model", type=Path, action="append", metavar="FOLDER", help=model)
    folds = "folds, each of which predicts its validation cases (default: 0)"
    add("-f", "--folds", nargs="+", type=fold, metavar="F", help=folds)
    add("-chk", "--checkpoint", metavar="NAME", help="checkpoint of each fold (default: checkpoint_final.pth)")
    add("--device", choices=("cpu", "cuda", "mps"), help="where networks run (default: cpu)")
    add("--disable_tta", action="store_true", help="do not average over mirrored copies, in a fraction of the time")


def check_options(settings: argparse.Namespace) -> None:
    """Check that the options belong together.

    Raises:
        InputError: they do not.
    """
    folders = settings.prediction is not None
    if settings.channels is None:
        if given := [option for name, option in _OPTIONS.items() if getattr(settings, name)]:
            raise InputError(f"{given[0]} is for --channels {ALL_SUBSETS}: add that, or leave it out")
        if not folders:
            raise InputError("the folders are missing: name those of the references and of the predictions")
        return
    if settings.reference is not None:
        raise InputError(f"--channels {ALL_SUBSETS} predicts what it scores: leave out {settings.reference}")
    if given := [option for name, option in _OF_FOLDERS.items() if getattr(settings, name)]:
        raise InputError(f"{given[0]} is for folders of predictions: leave it out with --channels {ALL_SUBSETS}")
    if not settings.model:
        raise InputError(f"--channels {ALL_SUBSETS} needs a model: name its folder with --model")
    if "all" in (settings.folds or ()):
        raise InputError("fold `all` has no validation cases: name folds that have with -f")


def evaluate_subsets(settings: argparse.Namespace, target: "Target") -> int:
    """Score models on every subset of the channels."""
    from bdfm_nnunet.studies.channel_subsets import SubsetSettings, score_subsets, subset_table

    chosen: dict[str, Any] = {name: getattr(settings, name) for name in ("checkpoint", "device")}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    folds = tuple(dict.fromkeys(int(number) for number in settings.folds or ("0",)))
    result = score_subsets(
        settings.model,
        target,
        SubsetSettings(
            folds=folds, mirroring=not settings.disable_tta, metrics=settings.metrics, task=settings.task,
            workers=settings.workers, **chosen,
        ),
        out=settings.out,
    )  # fmt: skip
    print(subset_table(result), end="")
    print(f"scores ({settings.metrics}), mean over regions: {settings.out} and {settings.out.with_suffix('.csv')}")
    return 0
