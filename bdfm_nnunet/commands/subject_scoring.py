"""`bdfm evaluate-subjects`."""

import argparse
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import command, count, dataset, whole
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.safe_names import printable_lines

AGGREGATIONS = ("mean", "median", "max", "none")


def add_commands(commands: Any) -> None:
    """Add the parsers."""
    add = command(commands, "evaluate-subjects", evaluate_subjects, "score tables of predictions for subjects")
    dataset(add)
    add("-i", "--input", nargs="+", required=True, type=Path, metavar="CSV",
        help="table of `bdfm predict-subjects`; several are the out-of-fold tables of the folds")  # fmt: skip
    add("--compare", nargs="+", default=[], type=Path, metavar="CSV", help="table of another model, for differences")
    add("--target", action="append", default=[], metavar="NAME", help="score this target (default: all predicted)")
    add("--group", action="append", default=[], metavar="COLUMN", help="give scores by this column of the targets, too")
    add("--threshold", type=threshold, default=0.5, metavar="P|CSV",
        help="probability from which on a case is positive, or a table of other patients to choose it on (default: "
        "%(default)s)")  # fmt: skip
    add("--aggregate", choices=AGGREGATIONS, default="mean",
        help="how several scans of a patient with one true value become one (default: %(default)s)")  # fmt: skip
    add(
        "--weights", metavar="CKPT", help="checkpoint whose record of training cases counts (default: what lies beside)"
    )
    add("--resamples", type=count, default=2000, metavar="N", help="of the intervals (default: %(default)s)")
    add("--seed", type=whole, default=0, metavar="S", help="of the resampling (default: %(default)s)")
    add("-o", "--out", required=True, type=Path, metavar="DIR", help="where scores and figures go")


def threshold(text: str) -> float | Path:
    """Read a probability, or the path of a table."""
    try:
        return float(text)
    except ValueError:
        return Path(text)


def evaluate_subjects(settings: argparse.Namespace) -> int:
    """Score the tables; print and write the scores."""
    chosen = settings.threshold
    if isinstance(chosen, float) and not 0 < chosen < 1:
        raise InputError(
            f"--threshold is {chosen:g}, expected a probability between 0 and 1, or a table to choose it on"
        )
    from bdfm_nnunet.studies.subject_evaluation import SubjectEvaluation, evaluate_subjects, report_text

    evaluation = SubjectEvaluation(
        dataset_id=settings.dataset,
        tables=settings.input,
        compare=settings.compare,
        targets=settings.target,
        groups=settings.group,
        threshold=settings.threshold,
        aggregate=settings.aggregate,
        weights=settings.weights,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    result = evaluate_subjects(evaluation, out=settings.out)
    print(printable_lines(report_text(result)), end="")
    print(f"scores and figures: {settings.out}")
    return 0
