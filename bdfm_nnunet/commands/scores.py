"""`bdfm evaluate` and `postprocess`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bdfm_nnunet.commands.arguments import command, workers

if TYPE_CHECKING:
    from bdfm_nnunet.dataset_conversion import Release

VERSIONS = ("whole", "lesionwise-2023", "lesionwise-2024", "panoptic-2026")


def add_commands(commands: Any) -> None:
    """Adds the parsers."""
    add = command(commands, "evaluate", evaluate, "score predictions per region and case, as a named metric version")
    _folders(add)
    add("--release", required=True, metavar="NAME", help="whose regions to score, see `bdfm releases`")
    add("--metrics", choices=VERSIONS, default="whole", help="version of the metrics (default: %(default)s)")
    add(
        "--task", metavar="TASK", help="take the rules of this task (GLI, MEN, MEN-RT, MET, PED, SSA) for the release's"
    )
    add("--allow-missing", action="store_true", help="score a case without a prediction, where the version says how")
    add("--source-labels", action="store_true", help="the files hold the release's own labels, not nnU-Net's")
    add("-o", "--out", required=True, type=Path, metavar="FILE.json", help="the table; a CSV of it lies beside it")
    workers(add)

    parser = commands.add_parser("postprocess", help="find rules for small components, or apply them")
    steps = parser.add_subparsers(title="steps", metavar="STEP", required=True)
    add = command(steps, "tune", tune, "search thresholds on cross-validation predictions for a metric version")
    _folders(add)
    add("--release", required=True, metavar="NAME", help="whose regions they are, see `bdfm releases`")
    add("--metrics", choices=VERSIONS, required=True, help="version of the metrics to improve")
    add("-o", "--out", required=True, type=Path, metavar="RULES.json", help="the rules and what they gain")
    workers(add)
    add = command(steps, "apply", apply, "apply rules to a folder of predictions")
    add("prediction", type=Path, metavar="PREDICTION", help="folder of predicted label maps")
    add("rules", type=Path, metavar="RULES.json", help="written by `bdfm postprocess tune`")
    add("-o", "--out", required=True, type=Path, metavar="FOLDER", help="where the results go")
    workers(add)


def _folders(add: Any) -> None:
    add("reference", type=Path, metavar="REFERENCE", help="folder of reference label maps")
    add("prediction", type=Path, metavar="PREDICTION", help="folder of predicted label maps of the same names")


def evaluate(settings: argparse.Namespace) -> int:
    """Scores a folder of predictions against a folder of references."""
    from bdfm_nnunet.dataset_conversion import find_release
    from bdfm_nnunet.evaluation import evaluate_folders

    release = find_release(settings.release)
    evaluate_folders(
        settings.reference,
        settings.prediction,
        regions=_on_disk(release) if settings.source_labels else release.evaluated_regions,
        release=release.name,
        metrics=settings.metrics,
        task=settings.task,
        allow_missing=settings.allow_missing,
        out=settings.out,
        workers=settings.workers,
    )
    print(f"scores ({settings.metrics}): {settings.out} and {settings.out.with_suffix('.csv')}")
    return 0


def _on_disk(release: "Release") -> dict[str, tuple[int, ...]]:
    """The scored regions in the values that the release's own files hold."""
    inverse = release.inverse_label_map()
    return {
        name: tuple(inverse.get(value, value) for value in values) for name, values in release.evaluated_regions.items()
    }


def tune(settings: argparse.Namespace) -> int:
    """Searches rules and writes them."""
    from bdfm_nnunet.dataset_conversion import find_release
    from bdfm_nnunet.evaluation.tuning import tune

    release = find_release(settings.release)
    rules = tune(
        settings.reference,
        settings.prediction,
        regions=release.evaluated_regions,
        release=release.name,
        metrics=settings.metrics,
        out=settings.out,
        patient_of=release.patient_of,
        workers=settings.workers,
    )
    print(rules.summary())
    return 0


def apply(settings: argparse.Namespace) -> int:
    """Applies rules to a folder."""
    from bdfm_nnunet.evaluation.postprocessing import apply_folder

    print(apply_folder(settings.prediction, settings.rules, settings.out, workers=settings.workers).summary())
    return 0
