"""The reference page of the `bdfm` command, made from its parsers."""

import argparse
import re
from collections.abc import Iterator, Mapping
from typing import Any

from bdfm_nnunet import train
from bdfm_nnunet.cli import build_parser
from bdfm_nnunet.commands import predict

HEAD = """# Commands

Made from the parsers, so this is what `bdfm COMMAND --help` prints. Exit codes: 0 done; 1 a check or a training has
failed; 2 the input cannot be used, and one line on stderr says why ([troubleshooting](../troubleshooting.md)); 3
something was refused or found (cases by a conversion, leaks by a check, weights by rules); 4 what rules say of weights
is unknown; 75 a training was paused, continue with `--c`; 130 interrupted.
"""


def parsers() -> dict[str, list[argparse.ArgumentParser]]:
    """Return the parsers behind every command, by its words after `bdfm`; some commands have several."""
    found = {" ".join(words): [parser] for words, parser in _leaves(build_parser(), ())}
    found["train"] = [train.build_parser()]
    found["predict"] = [predict.our_parser(), predict.nnunet_parser(False), predict.nnunet_parser(True)]
    return found


def page() -> str:
    """Return the page as Markdown, a section per command."""
    commands = parsers()
    index = [f"| [`bdfm {name}`](#{_anchor(name)}) | {_cell(_purpose(each[0]))} |" for name, each in commands.items()]
    sections = [_section(name, each) for name, each in commands.items()]
    return "\n".join([HEAD, "| command | what it does |", "|---|---|", *index, "", *sections])


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Return the arguments and options of a parser but its help and its subcommands."""
    skipped = (argparse._HelpAction, argparse._SubParsersAction)
    return [each for each in parser._actions if not isinstance(each, skipped) and each.help != argparse.SUPPRESS]


def subcommands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's subcommands, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            choices: Mapping[str, Any] = action.choices
            return choices
    return {}


def _leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    inner = subcommands(parser)
    for name, each in inner.items():
        yield from _leaves(each, (*words, name))
    if words and (not inner or options_of(parser)):
        yield words, parser


def _section(name: str, found: list[argparse.ArgumentParser]) -> str:
    parts = [f"## bdfm {name} {{ #{_anchor(name)} }}", "", _sentence(_purpose(found[0])), ""]
    parts += ["```", _usage(found[0]), "```", ""]
    seen: set[str] = set()
    rows = []
    for parser in found:
        for action in options_of(parser):
            label = _label(action)
            if label not in seen:
                seen.add(label)
                rows.append(f"| {label} | {_help(parser, action)} |")
    if rows:
        parts += ["| argument | meaning |", "|---|---|", *rows, ""]
    return "\n".join(parts)


def _purpose(parser: argparse.ArgumentParser) -> str:
    return parser.description or ""


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=84)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, prefix="")
    return formatter.format_help().strip()


def _label(action: argparse.Action) -> str:
    """`-d`, `--dataset` ID."""
    value = "" if action.nargs == 0 else " " + _value(action)
    if not action.option_strings:
        return f"`{value.strip()}`"
    return ", ".join(f"`{option}`" for option in action.option_strings) + (f" `{value.strip()}`" if value else "")


def _value(action: argparse.Action) -> str:
    name = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest if not action.option_strings
        else action.dest.upper()
    )  # fmt: skip
    return name if isinstance(name, str) else " ".join(name)


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = argparse.HelpFormatter(parser.prog)._expand_help(action) if action.help else "as nnU-Net's command has it"
    text = _cell(" ".join(text.split()))
    return f"{text} **(required)**" if action.required and action.option_strings else text


def _cell(text: str) -> str:
    """Text for a cell of a table: marks of Markdown and HTML stay what they are, code between backticks."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<>\[\]|])", r"\\\1", part) for part in parts)


def _anchor(name: str) -> str:
    return "bdfm-" + name.replace(" ", "-")
