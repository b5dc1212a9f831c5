"""`bdfm targets`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bdfm_nnunet.commands.arguments import Add, command, dataset, each_once, pair, whole
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.safe_names import printable_lines

RUNS = "runs.csv"


def add_commands(commands: Any) -> None:
    """Add the parser."""
    add = command(commands, "targets", targets, "check a table of classes, numbers or survival and install it")
    dataset(add)
    add("table", type=Path, nargs="?", metavar="FILE",
        help="the table: CSV, TSV or .xlsx, a case or patient in each row (default: runs.csv of runs)")  # fmt: skip
    add(
        "--column",
        action="append",
        default=[],
        metavar="NAME:TYPE[=COLUMN]",
        help="a target: binary, multi-class, ordinal, continuous, or survival=TIME/EVENT (two columns); may be "
        "repeated (default: those of a known table, or every column of clear type)",
    )
    add(
        "--group",
        action="append",
        default=[],
        metavar="NAME[=COLUMN]",
        help="a grouping for scores per group and for sites kept out: sex, site, scanner ...; may be repeated",
    )
    add("--id", dest="id_column", metavar="COLUMN", help="column of the ids (default: the one that names most cases)")
    add("--patients", metavar="REGEX", help="finds the patient in a case id (its group 1), without a manifest")
    _value_options(add)
    add("--known", metavar="NAME", help="the table is this known one, or `none` (default: recognised by its columns)")
    add("--balanced", metavar="NAME", help="as many patients of each class of this target keep their value")
    add("--seed", type=whole, default=0, metavar="N", help="seed of --balanced (default: %(default)s)")
    add("--strict", action="store_true", help="refuse rows that name no case, and cases without a row")
    add("--add", action="store_true", help="keep the targets that are there beside these")


def _value_options(add: Add) -> None:
    add(
        "--classes",
        action="append",
        default=[],
        metavar="NAME=LOW,...,HIGH",
        help="classes in order (binary: negative,positive), with spellings: idh=wildtype,mutant=IDH1*|IDH2*",
    )
    add("--positive", action="append", default=[], type=pair, metavar="NAME=CLASS", help="the positive class")
    add("--unit", action="append", default=[], type=pair, metavar="NAME=UNIT", help="unit of a number or time")
    add(
        "--bands",
        action="append",
        default=[],
        type=pair,
        metavar="GROUP=N,N",
        help="limits between the bands of a grouping by a number, for instance age=40,60,75",
    )
    add("--missing", action="append", default=[], metavar="TEXT", help="counts as missing too, for instance 999")
    add(
        "--per-scan",
        action="append",
        default=[],
        metavar="NAME",
        help="scans of one patient may be of different classes of this target",
    )


def targets(settings: argparse.Namespace) -> int:
    """Check and install targets."""
    from bdfm_nnunet.nnunet_folders import dataset_folders
    from bdfm_nnunet.patients import read_cases, with_patients
    from bdfm_nnunet.targets.column_requests import class_spellings, column_request
    from bdfm_nnunet.targets.target_installing import TableOptions, install_targets

    if "seed" in getattr(settings, "given", {}) and settings.balanced is None:
        raise InputError("--seed is for --balanced: leave it out, or name the target with --balanced")
    folders = dataset_folders(settings.dataset)
    options = TableOptions(
        columns=tuple(column_request(text) for text in settings.column),
        groups=_groups(settings),
        id_column=settings.id_column,
        missing=tuple(settings.missing),
        known=settings.known,
        classes=each_once([class_spellings(text) for text in settings.classes], "--classes", "target"),
        positive=each_once(settings.positive, "--positive", "target"),
        units=each_once(settings.unit, "--unit", "target"),
        per_scan=tuple(settings.per_scan),
        balanced=settings.balanced,
        seed=settings.seed,
        strict=settings.strict,
        add=settings.add,
    )
    cases = with_patients(read_cases(*folders), settings.patients)
    table = settings.table or _table_of_runs(folders)
    print(printable_lines(install_targets(cases, folders, table, options).summary()))
    return 0


def _table_of_runs(folders: Sequence[Path]) -> Path:
    """Return the table of runs that the conversion has written."""
    found = next((folder / RUNS for folder in folders if (folder / RUNS).is_file()), None)
    if found is None:
        raise InputError(f"no table is named, and {folders[0]} has no {RUNS}, which data sets of runs have: name one")
    return found


def _groups(settings: argparse.Namespace) -> tuple[Any, ...]:
    """Return the groupings with their bands; one of bands alone is a grouping too."""
    from dataclasses import replace

    from bdfm_nnunet.targets.column_requests import GroupRequest, group_request

    asked = {request.name: request for request in map(group_request, settings.group)}
    for name, text in each_once(settings.bands, "--bands", "grouping").items():
        asked[name] = replace(asked.get(name, GroupRequest(name=name)), bands=_limits(text))
    return tuple(asked.values())


def _limits(text: str) -> tuple[float, ...]:
    try:
        limits = tuple(float(part) for part in text.split(","))
    except ValueError:
        limits = ()
    if not limits or list(limits) != sorted(set(limits)):
        raise InputError(f"--bands has the limits {text}, expected rising numbers between commas such as 40,60,75")
    return limits
