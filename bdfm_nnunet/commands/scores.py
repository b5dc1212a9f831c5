"""`bdfm evaluate` and `postprocess`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet import api
from bdfm_nnunet.commands import subset_scores
from bdfm_nnunet.commands.arguments import EXIT_REFUSED, command, dataset_id, positive, subcommand, workers
from bdfm_nnunet.errors import InputError

if TYPE_CHECKING:
    from bdfm_nnunet.evaluation.scored_regions import Target

MOST_DIFFERENCES = 20
WITH_BOARDS = "brats-2026"
"""The metrics that tell leaderboards, and that the organisers' command computes."""
VERSIONS = ("whole", "lesionwise-2023", "lesionwise-2024", "panoptic-2026", "brats-2026", "small-lesions", "vessels")


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    purpose = "score predictions per region and case, as a named metric version"
    parser = subcommand(commands, "evaluate", evaluate, purpose)
    add: Any = parser.add_argument
    _folders(add, nargs="?")
    scored_set(add)
    add("--metrics", choices=VERSIONS, default="whole", help="version of the metrics (default: %(default)s)")
    _task(add)
    add("--small-mm3", type=positive, metavar="V", help="small-lesions: their largest volume in mm3 (default: 100)")
    add("--allow-missing", action="store_true", help="score a case without a prediction, where the version says how")
    add("--only-predicted", action="store_true", help="score the cases that are there, and name the others")
    add("--source-labels", action="store_true", help="the files hold the source's own labels, not nnU-Net's")
    add("-o", "--out", required=True, type=Path, metavar="FILE.json", help="the table; a CSV of it lies beside it")
    add(
        "--check-with",
        metavar="COMMAND",
        help="brats-2026: also run the organisers' brats-evaluate, where you have installed it, and name every "
        "difference (exit code 3)",
    )
    workers(add)
    subset_scores.add_options(parser)

    parser = commands.add_parser("postprocess", help="find rules for small components, or apply them")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    add = command(steps, "tune", tune, "search thresholds on cross-validation predictions for a metric version")
    _folders(add)
    scored_set(add)
    add("--metrics", choices=VERSIONS, required=True, help="version of the metrics to improve")
    _task(add)
    add("-o", "--out", required=True, type=Path, metavar="RULES.json", help="the rules and what they gain")
    workers(add)
    add = command(steps, "apply", apply, "apply rules to a folder of predictions")
    add("prediction", type=Path, metavar="PREDICTION", help="folder of predicted label maps")
    add("rules", type=Path, metavar="RULES.json", help="written by `bdfm postprocess tune`")
    add("-o", "--out", required=True, type=Path, metavar="FOLDER", help="where the results go")
    workers(add)


def _folders(add: Any, **settings: Any) -> None:
    add("reference", type=Path, metavar="REFERENCE", help="folder of reference label maps", **settings)
    names = "folder of predicted label maps of the same names"
    add("prediction", type=Path, metavar="PREDICTION", help=names, **settings)


def _task(add: Any) -> None:
    add("--task", metavar="TASK", help="take the rules of this task (GLI, MEN, MEN-RT, MET, PED, SSA ...) for its own")


# -------------------------------------------------------------------------------------------------- what is scored


def scored_set(add: Any) -> None:
    """Add the three ways to say whose labels and regions are meant."""
    add("--release", metavar="NAME", help="a release, see `bdfm releases`")
    add("-d", "--dataset", type=dataset_id, metavar="ID", help="a data set of nnU-Net, by its dataset.json")
    add("--dataset-json", type=Path, metavar="FILE", help="any data set, by this dataset.json")


def scored_target(settings: argparse.Namespace) -> "Target":
    """Return what is scored, said in exactly one of the three ways.

    Raises:
        InputError: none or several of them are given, or the data set cannot be scored.
    """
    named = {"dataset_id": settings.dataset, "dataset_json": settings.dataset_json}
    return api.scored_target(release=settings.release, **named)


def patient_of(settings: argparse.Namespace) -> Callable[[str], str]:
    """Map case ids to patients, as the release or the data set's manifest tells them."""
    if settings.release is not None:
        from bdfm_nnunet.dataset_conversion import find_release

        return find_release(settings.release).patient_of
    from bdfm_nnunet.patients import groups, read_cases

    folder = (settings.dataset_json or api.dataset_json_of(settings.dataset)).parent
    if not (folder / "manifest.json").is_file():
        return str
    cases = read_cases(folder)
    known = groups(cases.rows, cases.scope)
    return lambda case: known.get(case, case)


# ------------------------------------------------------------------------------------------------------- the commands


def evaluate(settings: argparse.Namespace) -> int:
    """Score a folder of predictions against a folder of references, or models on every subset of the channels."""
    subset_scores.check_options(settings)
    if settings.channels is not None:
        return _of_subsets(settings)
    if settings.check_with and settings.metrics != WITH_BOARDS:
        raise InputError(f"--check-with compares the scores of {WITH_BOARDS}: take --metrics {WITH_BOARDS}")
    result = api.evaluate(
        settings.reference,
        settings.prediction,
        release=settings.release,
        dataset_id=settings.dataset,
        dataset_json=settings.dataset_json,
        source_labels=settings.source_labels,
        metrics=settings.metrics,
        task=settings.task,
        allow_missing=settings.allow_missing,
        only_predicted=settings.only_predicted,
        small_mm3=settings.small_mm3,
        out=settings.out,
        workers=settings.workers,
    )
    print(f"scores ({settings.metrics}): {settings.out} and {settings.out.with_suffix('.csv')}")
    if settings.only_predicted:
        left = result["not_scored"]
        print(
            f"{len(result['cases'])} cases scored; {len(left['without_prediction'])} have no prediction and "
            f"{len(left['without_reference'])} no reference, see not_scored in the table"
        )
    if settings.metrics == WITH_BOARDS:
        for board, figures in result.get("leaderboards", {}).items():
            shown = ", ".join(f"{name} {'-' if value is None else f'{value:.4f}'}" for name, value in figures.items())
            print(f"leaderboard {board}: {shown}")
    return _checked(settings, result) if settings.check_with else 0


def _of_subsets(settings: argparse.Namespace) -> int:
    """Score models on every subset of the channels, by default the regions of their dataset.json."""
    if not settings.release and not settings.dataset and not settings.dataset_json:
        settings.dataset_json = settings.model[0] / "dataset.json"
    return subset_scores.evaluate_subsets(settings, scored_target(settings))


def _checked(settings: argparse.Namespace, result: dict[str, Any]) -> int:
    """Compare the scores with those of the organisers' command."""
    from bdfm_nnunet.evaluation.organisers_command import differences, organisers_scores
    from bdfm_nnunet.evaluation.pairing import pair_cases

    found = pair_cases(settings.reference, settings.prediction)
    theirs = organisers_scores(found.both, result["parameters"]["task"], command=settings.check_with)
    unlike = differences(result["cases"], theirs)
    print(f"{settings.check_with}: {len(theirs)} cases compared, {len(unlike)} scores differ")
    for line in unlike[:MOST_DIFFERENCES]:
        print(f"  {line}")
    return EXIT_REFUSED if unlike else 0


def tune(settings: argparse.Namespace) -> int:
    """Search rules and write them."""
    from bdfm_nnunet.evaluation.tuning import tune

    target = scored_target(settings)
    rules = tune(
        settings.reference,
        settings.prediction,
        regions=target.regions,
        release=target.name,
        ignore=target.ignore,
        metrics=settings.metrics,
        task=settings.task,
        out=settings.out,
        patient_of=patient_of(settings),
        workers=settings.workers,
    )
    print(rules.summary())
    return 0


def apply(settings: argparse.Namespace) -> int:
    """Apply rules to a folder."""
    from bdfm_nnunet.evaluation.postprocessing import apply_folder

    print(apply_folder(settings.prediction, settings.rules, settings.out, workers=settings.workers).summary())
    return 0
