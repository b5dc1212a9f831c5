"""Cohort and table of the study of missing channels: what channel dropout is worth on each subset.

    python benchmarks/missing_channels.py draw COHORT
    bdfm convert brats2023-gli COHORT -d 821
    bdfm splits -d 821 --folds 3 --overwrite
    bdfm plan -d 821 --network resenc --gpu-memory 1 -p ResEncPlans
    python benchmarks/narrow_plans.py 821 --plans ResEncPlans --name Narrow
    ...
    python benchmarks/missing_channels.py table subsets_1.json subsets_2.json

`draw` makes the cohort of `bdfm demo` with 24 cases of 4 mm. `table` joins files of `bdfm evaluate --channels
all-subsets`, one for each seed, of models in the same order: the first without, the second with channel dropout.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bdfm_nnunet.data.demo import make_cohort
from bdfm_nnunet.evaluation.crossed_bootstrap import CROSSED_INTERVAL, summarise_crossed
from bdfm_nnunet.results import read_result

CASES, SEED, SPACING = 24, 2023, 4.0
REGION = "mean"


def scores_by_subset(files: Sequence[Path]) -> dict[tuple[str, ...], list[Any]]:
    """Return subset -> scores of the first and the second model, (seeds, cases), in the order of the cases' names."""
    found: dict[tuple[str, ...], list[list[list[float]]]] = {}
    for path in files:
        rows = read_result(path, kind="channel_subsets").extra["subsets"]
        models = list(dict.fromkeys(row["model"] for row in rows))
        for row in rows:
            tables = found.setdefault(tuple(row["channels"]), [[], []])
            own = sorted(row["cases"].items())
            tables[models.index(row["model"])].append([np.nan if c[REGION] is None else c[REGION] for _, c in own])
    return {subset: [np.array(table) for table in tables] for subset, tables in found.items()}


def table(files: Sequence[Path]) -> str:
    """Return the mean score of both models on each subset and their difference as a Markdown table."""
    scores = scores_by_subset(files)
    channels = max(scores, key=len)
    lines = [f"| {' | '.join(channels)} | without | with | difference |", "|---" * (len(channels) + 3) + "|"]
    groups: dict[str, list[list[Any]]] = {}
    for subset, tables in scores.items():
        marks = ["x" if name in subset else "" for name in channels]
        lines.append(f"| {' | '.join(marks)} | {_cells(tables)} |")
        lacks = len(channels) - len(subset)
        for name in [f"{lacks} missing", *(["any missing"] if lacks else [])]:
            groups.setdefault(name, []).append(tables)
    lines += ["", "| channels | subsets | without | with | difference |", "|---|---|---|---|---|"]
    for name, members in sorted(groups.items()):
        means = [np.mean([tables[model] for tables in members], axis=0) for model in (0, 1)]
        lines.append(f"| {name} | {len(members)} | {_cells(means)} |")
    return "\n".join([*lines, "", f"In brackets: {CROSSED_INTERVAL}."])


def _cells(tables: Sequence[Any]) -> str:
    without, given = tables
    change = summarise_crossed(given - without)
    return (
        f"{np.nanmean(without):.3f} | {np.nanmean(given):.3f} | {change.mean:+.3f} [{change.low:+.3f}, "
        f"{change.high:+.3f}]"
    )


def main() -> None:
    """Draw the cohort, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("draw").add_argument("cohort", type=Path)
    commands.add_parser("table").add_argument("files", type=Path, nargs="+")
    chosen = parser.parse_args()
    if chosen.what == "draw":
        make_cohort(chosen.cohort, cases=CASES, seed=SEED, spacing=SPACING)
        return
    print(table(chosen.files))


if __name__ == "__main__":
    main()
