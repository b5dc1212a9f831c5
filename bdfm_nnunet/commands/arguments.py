"""What the parsers of several subcommands share."""

import argparse
import json
import os
from collections.abc import Callable
from typing import Any

from bdfm_nnunet.errors import InputError

Add = Callable[..., Any]
"""The `add_argument` of a parser."""
EXIT_REFUSED = 3


def command(commands: Any, name: str, handler: Callable[[argparse.Namespace], int], purpose: str) -> Add:
    """Adds a subcommand and returns its `add_argument`."""
    parser = commands.add_parser(name, help=purpose, description=purpose)
    parser.set_defaults(handler=handler)
    add: Add = parser.add_argument
    return add


def dataset(add: Add) -> None:
    """Adds `-d ID`."""
    add("-d", "--dataset", required=True, type=dataset_id, metavar="ID", help="nnU-Net data set number, 1 to 999")


def workers(add: Add) -> None:
    """Adds `--workers N`."""
    add("--workers", type=count, default=_default_workers(), metavar="N", help="processes (default: %(default)s)")


def _default_workers() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, available)


def dataset_id(text: str) -> int:
    """A number of nnU-Net's data sets."""
    if not (text.isdigit() and 1 <= int(text) <= 999):
        raise argparse.ArgumentTypeError(f"a number from 1 to 999 was expected, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """A whole number from 1 up."""
    if not (text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"a whole number from 1 up was expected, not {text!r}")
    return int(text)


def positive(text: str) -> float:
    """A number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 was expected, not {text!r}")
    return value


def names(text: str) -> list[str]:
    """Names between commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"names between commas were expected, not {text!r}")
    return found


def percentages(text: str) -> list[float]:
    """Percentages between commas, as fractions of one."""
    try:
        values = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"percentages between commas such as 1,10,100 were expected, not {text!r}")
    return values


def pair(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"NAME=VALUE was expected, not {text!r}")
    return key, value


def assignment(text: str) -> tuple[str, Any]:
    """`KEY=VALUE` with a value that is JSON, or else a word.

    Raises:
        InputError: there is no value.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set {text} has no value: write it as --set training.epochs=2")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
