"""Arguments that the parsers of several subcommands share."""

import argparse
import os
import re
from collections.abc import Callable, Iterable
from typing import Any

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.files import parse_json

Add = Callable[..., Any]
"""The `add_argument` of a parser."""
EXIT_REFUSED = 3
EXIT_UNKNOWN = 4


def command(commands: Any, name: str, handler: Callable[[argparse.Namespace], int], purpose: str) -> Add:
    """Add a subcommand and return its `add_argument`."""
    add: Add = subcommand(commands, name, handler, purpose).add_argument
    return add


def subcommand(
    commands: Any, name: str, handler: Callable[[argparse.Namespace], int], purpose: str
) -> argparse.ArgumentParser:
    """Add a subcommand and return its parser."""
    parser = take_each_once(commands.add_parser(name, help=purpose, description=purpose))
    parser.set_defaults(handler=handler)
    return parser


def take_each_once(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Make a parser, still without options, refuse an option with a value that is given twice, and return it."""
    for kind in (None, "store"):
        parser.register("action", kind, StoreOnce)
    return parser


class StoreOnce(argparse.Action):
    """An action for an option that may be given once: of two values neither is taken in silence."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store the value."""
        if option is not None:
            note_given(self, namespace, option)
        setattr(namespace, self.dest, values)


class SwitchOnce(argparse.BooleanOptionalAction):
    """`--switch` or `--no-switch`, one of them once."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Store which of them it is."""
        note_given(self, namespace, str(option))
        super().__call__(parser, namespace, values, option)


def note_given(action: argparse.Action, namespace: argparse.Namespace, option: str) -> None:
    """Note that an option was given.

    Raises:
        argparse.ArgumentError: it was given before.
    """
    given = vars(namespace).setdefault("given", {})
    if action.dest in given:
        if given[action.dest] == option:
            raise argparse.ArgumentError(None, f"{option} was given twice: give it once")
        raise argparse.ArgumentError(None, f"{given[action.dest]} and {option} were given: give one of them")
    given[action.dest] = option


def options_given(settings: argparse.Namespace, names: Iterable[str]) -> list[str]:
    """Return those options, of the given names of settings, that stand on the command line."""
    given: dict[str, str] = getattr(settings, "given", {})
    return [given[name] for name in names if name in given]


def dataset(add: Add, *, required: bool = True) -> None:
    """Add `-d ID`."""
    add("-d", "--dataset", required=required, type=dataset_id, metavar="ID", help="nnU-Net data set number, 1 to 999")


def workers(add: Add) -> None:
    """Add `--workers N`."""
    add("--workers", type=count, default=_default_workers(), metavar="N", help="processes (default: %(default)s)")


def _default_workers() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, available)


def reading(add: Add) -> None:
    """Add the options for what a file of weights cannot tell."""
    add("--weight-set", metavar="KEY", help="which of several sets of weights in the file, like model_ema")
    add("--merging", choices=("monai-1.4", "monai-1.5", "mergingv2"), help="order of merging in weights of MONAI")
    add("--token-order", choices=("whd", "hwd"), help="order of tokens in weights of a Primus")


def reading_of(settings: argparse.Namespace) -> dict[str, str]:
    """Return those of the options of `reading` that were given."""
    found = {name: getattr(settings, name) for name in ("weight_set", "merging", "token_order")}
    return {name: value for name, value in found.items() if value is not None}


def dataset_id(text: str) -> int:
    """Read the number of a data set of nnU-Net."""
    if not (text.isdigit() and 1 <= int(text) <= 999):
        raise argparse.ArgumentTypeError(f"a number from 1 to 999 was expected, not {text!r}")
    return int(text)


def count(text: str) -> int:
    """Read a whole number from 1 up."""
    if not (text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"a whole number from 1 up was expected, not {text!r}")
    return int(text)


def whole(text: str) -> int:
    """Read a whole number from 0 up."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a whole number from 0 up was expected, not {text!r}")
    return int(text)


def fold(text: str) -> str:
    """Read a fold of nnU-Net: a number or `all`."""
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"a number or `all` was expected, not {text!r}")
    return text


def share(text: str) -> float:
    """Read a number above 0 and not above 1."""
    value = positive(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"a number above 0, at most 1, was expected, not {text!r}")
    return value


def positive(text: str) -> float:
    """Read a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 was expected, not {text!r}")
    return value


def not_negative(text: str) -> float:
    """Read a number from 0 on."""
    return 0.0 if text.strip() in ("0", "0.0") else positive(text)


def spacing(text: str) -> str | list[float]:
    """Read three numbers of millimetres between commas, or a word."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return text


def names(text: str) -> list[str]:
    """Read names between commas."""
    found = [name.strip() for name in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"names between commas were expected, not {text!r}")
    return found


def percentages(text: str) -> list[float]:
    """Read percentages between commas, as fractions of one."""
    try:
        values = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(0 < value <= 1 for value in values) or len(set(values)) < len(values):
        raise argparse.ArgumentTypeError(
            f"percentages between commas such as 1,10,100, each once, were expected, not {text!r}"
        )
    return values


def percentage(text: str) -> float:
    """Read one percentage below 100, as a fraction of one."""
    values = percentages(text)
    if len(values) > 1 or values[0] == 1:
        raise argparse.ArgumentTypeError(f"one percentage below 100 was expected, not {text!r}")
    return values[0]


def pair(text: str) -> tuple[str, str]:
    """Read `NAME=VALUE`."""
    key, equals, value = text.partition("=")
    if not (key and equals and value):
        raise argparse.ArgumentTypeError(f"NAME=VALUE was expected, not {text!r}")
    return key, value


def label_names(text: str) -> list[tuple[int, str]]:
    """Return label values and their names: `VALUE=NAME`, or several between commas.

    >>> label_names("1=anterior, 2=posterior")
    [(1, 'anterior'), (2, 'posterior')]

    Raises:
        InputError: it is something else.
    """
    found = []
    for item in text.split(","):
        value, equals, name = (part.strip() for part in item.partition("="))
        if not (re.fullmatch(r"-?[0-9]{1,18}", value) and equals and name) or "=" in name:
            raise InputError(
                f"--labels {text} cannot be read at {item.strip()!r}: give whole numbers and names without comma and "
                "equals sign, as in --labels 1=lesion,2=oedema"
            )
        found.append((int(value), name))
    return found


def assignment(text: str) -> tuple[str, Any]:
    """Read `KEY=VALUE` with a value that is JSON, or else a word.

    Raises:
        InputError: there is no value.
    """
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InputError(f"--set {text} has no value: write it as --set training.epochs=2")
    try:
        return key, parse_json(value, text)
    except InputError:
        return key, value


def each_once(pairs: Iterable[tuple[Any, Any]], option: str, what: str) -> dict[Any, Any]:
    """Return the table that a repeated option makes.

    Args:
        pairs: key and value of each time.
        option: for the message.
        what: what a key is, for the message.

    Raises:
        InputError: a key is there twice.
    """
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"{option} names {what} {key} twice, {found[key]} and {value}: name it once")
        found[key] = value
    return found
