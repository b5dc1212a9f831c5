"""Cohort and table of the study of missing channels: what channel dropout is worth on each subset.

    python benchmarks/missing_channels.py draw COHORT
    bdfm convert brats2023-gli COHORT -d 821
    bdfm splits -d 821 --folds 3 --overwrite
    bdfm plan -d 821 --network resenc --gpu-memory 1 -p ResEncPlans
    python benchmarks/narrow_plans.py 821 --plans ResEncPlans --name Narrow --patch 24 24 24
    ...
    python benchmarks/missing_channels.py table --without whole_?.json --dropout dropout_?.json

`draw` makes the cohort of `bdfm demo` with 24 cases of 6 mm. `table` joins files of `bdfm evaluate --channels
all-subsets` with one model each, without and with channel dropout, in the same order of seeds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.evaluation.crossed_bootstrap import CROSSED_INTERVAL, summarise_crossed
from bdfm_nnunet.results import read_result

CASES, SEED, SPACING = 24, 2023, 6.0
REGION = "mean"


def scores_by_subset(files: Sequence[Path]) -> dict[tuple[str, ...], Any]:
    """Return subset -> scores, (seeds, cases), of the mean over regions, in the order of the files and cases' names."""
    found: dict[tuple[str, ...], list[list[float]]] = {}
    for path in files:
        for row in read_result(path, kind="channel_subsets").extra["subsets"]:
            own = [scores[REGION] for _, scores in sorted(row["cases"].items())]
            found.setdefault(tuple(row["channels"]), []).append([np.nan if each is None else each for each in own])
    return {subset: np.array(table) for subset, table in found.items()}


def table(without: Sequence[Path], dropout: Sequence[Path]) -> str:
    """Return the mean score of both arms on each subset and their difference as Markdown tables."""
    arms = [scores_by_subset(files) for files in (without, dropout)]
    channels = max(arms[0], key=len)
    lines = [f"| {' | '.join(channels)} | without | with | difference |", "|---" * (len(channels) + 3) + "|"]
    groups: dict[str, list[list[Any]]] = {}
    for subset in arms[0]:
        both = [arm[subset] for arm in arms]
        marks = ["x" if name in subset else "" for name in channels]
        lines.append(f"| {' | '.join(marks)} | {_cells(both)} |")
        lacks = len(channels) - len(subset)
        for name in [f"{lacks} missing", *(["any missing"] if lacks else [])]:
            groups.setdefault(name, []).append(both)
    lines += ["", "| channels | subsets | without | with | difference |", "|---|---|---|---|---|"]
    for name, members in sorted(groups.items()):
        means = [np.mean([both[arm] for both in members], axis=0) for arm in (0, 1)]
        lines.append(f"| {name} | {len(members)} | {_cells(means)} |")
    return "\n".join([*lines, "", f"In brackets: {CROSSED_INTERVAL}."])


def _cells(both: Sequence[Any]) -> str:
    without, dropout = both
    change = summarise_crossed(dropout - without)
    interval = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
    return f"{np.nanmean(without):.3f} | {np.nanmean(dropout):.3f} | {interval}"


def main() -> None:
    """Draw the cohort, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("draw").add_argument("cohort", type=Path)
    add = commands.add_parser("table").add_argument
    add("--without", type=Path, nargs="+", required=True)
    add("--dropout", type=Path, nargs="+", required=True)
    chosen = parser.parse_args()
    if chosen.what == "draw":
        make_cohort(chosen.cohort, cases=CASES, seed=SEED, spacing=SPACING)
        return
    print(table(chosen.without, chosen.dropout))


if __name__ == "__main__":
    main()
