"""Paired comparison of pre-trainings by what `bdfm probe reconstruction` has written: `bdfm probe compare`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.crossed_bootstrap import CROSSED_INTERVAL, summarise_crossed
from bdfm_nnunet.evaluation.score_summary import none_for_nan
from bdfm_nnunet.probes.labelled_cases import HEALTHY
from bdfm_nnunet.probes.reconstruction_scoring import KIND
from bdfm_nnunet.probes.region_scores import MEASURES
from bdfm_nnunet.results import RunResult, read_result

COMPARISON = "reconstruction_comparison"
_SAME = ("dataset", "channels", "labels", "draws", "seed")


@dataclass(frozen=True)
class Arm:
    """The results of one kind of pre-training.

    Attributes:
        name: for the table.
        settings: of the probes, as far as they must be those of the other arms.
        rows: repetition -> case -> region -> scores.
        patients: patient of each case.
    """

    name: str
    settings: Mapping[str, Any]
    rows: Mapping[int, Mapping[str, Mapping[str, Mapping[str, float | None]]]]
    patients: Mapping[str, str]


def compare_arms(arms: Mapping[str, Sequence[Path]]) -> RunResult:
    """Compare pre-trainings by the regions that they rebuild, by pairs of the same case and seed.

    The results of an arm are of several seeds, and may be of several folds: those of one seed are taken together, so
    that each seed scores every case once.

    Args:
        arms: name -> files of `bdfm probe reconstruction`; the first arm is the one that the others are compared with.

    Returns:
        A result of kind "reconstruction_comparison" with "table" in `extra`: a row for each arm, region and measure,
        with its "mean" and the "difference" from the first arm, with intervals over patients and seeds.

    Raises:
        InputError: a file is no such result, or the arms were not scored alike.
    """
    if len(arms) < 2:
        raise InputError(f"only one arm is named ({', '.join(arms)}): name two or more with --arm NAME FILE FILE ...")
    found = [_read_arm(name, files) for name, files in arms.items()]
    for arm in found[1:]:
        _check_alike(found[0], arm)
    regions = [*found[0].settings["labels"], HEALTHY]
    rows = [_row(found[0], arm, region, measure) for arm in found for region in regions for measure in MEASURES]
    cases = sorted(found[0].patients)
    settings = {**found[0].settings, "arms": {name: [str(file) for file in files] for name, files in arms.items()}}
    counted = {"seeds": len(found[0].rows), "cases": cases, "interval_of_differences": CROSSED_INTERVAL}
    return RunResult(kind=COMPARISON, settings=settings | counted, extra={"table": none_for_nan(rows)})


def _read_arm(name: str, files: Sequence[Path]) -> Arm:
    if not files:
        raise InputError(f"--arm {name} names no files: give those that `bdfm probe reconstruction` wrote with -o")
    rows: dict[int, dict[str, Any]] = {}
    patients: dict[str, str] = {}
    settings: dict[str, Any] = {}
    for file in files:
        result = read_result(file, kind=KIND)
        own = {key: (result.settings or {}).get(key) for key in _SAME}
        if settings not in ({}, own):
            raise InputError(f"{file} was not scored as {files[0]} ({_differences(settings, own)}): score it alike")
        settings = own
        seed = result.extra.get("seed_of_training")
        for row in (result.scores or {})["cases"]:
            repetition = seed if isinstance(seed, int) else _first_without(rows, row["case"])
            if row["case"] in rows.setdefault(repetition, {}):
                raise InputError(
                    f"{file} scores case {row['case']} with seed {repetition}, and another file of arm {name} does "
                    "too: give one of them"
                )
            rows[repetition][row["case"]] = row["regions"]
        patients |= result.extra.get("patients") or {}
    return Arm(name, settings, rows, patients)


def _first_without(rows: Mapping[int, Mapping[str, Any]], case: str) -> int:
    """Return the first number of a repetition that lacks a case, where the files do not tell their seeds."""
    number = 0
    while case in rows.get(number, {}):
        number += 1
    return number


def _check_alike(first: Arm, other: Arm) -> None:
    if first.settings != other.settings:
        raise InputError(
            f"the arms {first.name} and {other.name} were not scored alike "
            f"({_differences(first.settings, other.settings)}): score both with the same options"
        )
    pairs = [{(seed, case) for seed, cases in arm.rows.items() for case in cases} for arm in (first, other)]
    if alone := sorted(pairs[0] ^ pairs[1]):
        seed, case = alone[0]
        where = first.name if alone[0] in pairs[0] else other.name
        raise InputError(f"only the arm {where} has case {case} with seed {seed}: score it with both arms")


def _differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {one[key]} and {other[key]}" for key in one if one[key] != other[key])


def _row(first: Arm, arm: Arm, region: str, measure: str) -> dict[str, Any]:
    """Return mean and difference of an arm for a region and measure, over cases and seeds."""
    cases, seeds = sorted(arm.patients), sorted(arm.rows)
    patients = [arm.patients[case] for case in cases]
    own, theirs = (_scores(each, cases, seeds, region, measure) for each in (arm, first))
    changes = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(own, theirs, strict=True)]
    mean = summarise_crossed(own, patients=patients)
    difference = None if arm is first else summarise_crossed(changes, patients=patients).as_dict()
    return {
        "arm": arm.name, "region": region, "measure": measure, "mean": mean.as_dict(), "difference": difference
    }  # fmt: skip


def _scores(arm: Arm, cases: Sequence[str], seeds: Sequence[int], region: str, measure: str) -> list[list[float]]:
    """Return the scores (seeds, cases), NaN where there is none."""
    found = [[arm.rows[seed].get(case, {}).get(region, {}).get(measure) for case in cases] for seed in seeds]
    return [[math.nan if value is None else value for value in row] for row in found]
