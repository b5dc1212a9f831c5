"""Ranges and advice for the tables of docs/settings.md."""

import dataclasses
import json
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, Union

from bdfm_nnunet import settings
from bdfm_nnunet.errors import InputError

SECTIONS: dict[str, type] = {
    "`training`": settings.TrainingSettings,
    "`pretraining`": settings.CropSettings,
    **{f"`pretraining` of `{name}`": kind for name, kind in settings.OBJECTIVE_SETTINGS.items()},
    "`finetuning`": settings.FinetuningSettings,
    "`finetuning` of subject-level tasks": settings.SubjectSettings,
}
"""Heading of docs/settings.md -> class of the settings below it."""

ADVICE: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).parent / "setting_advice.json").read_text(encoding="utf-8")
)
"""Heading -> setting -> when to change it, and to what."""

NOTE = "*Advice* says where to begin. It is experience and literature, no measurement, unless a page says so."
ROW = re.compile(r"\| `(\w+)` \| ([^|]+?) \| (.+) \|")
_IMPOSSIBLE = (-1, (-1.0, -1.0), (-1, -1, -1, -1), 2, "")


def with_ranges_and_advice(page: str) -> str:
    """Return docs/settings.md with a column for what is allowed, and advice after each meaning."""
    section = ""
    lines = []
    for line in page.splitlines():
        if line.startswith("## "):
            lines += [] if section else [NOTE, ""]
            section = line[3:]
        row = ROW.fullmatch(line)
        if section in SECTIONS and row is not None:
            name, default, meaning = row.groups()
            advice = ADVICE[section].get(name)
            told = f"{meaning} *{advice}*" if advice else meaning
            line = f"| `{name}` | {default} | {allowed(SECTIONS[section], name)} | {told} |"
        elif section in SECTIONS and line == "| setting | default | meaning |":
            line = "| setting | default | allowed | meaning, and *advice* |"
        elif section in SECTIONS and line == "|---|---|---|":
            line = "|---|---|---|---|"
        lines.append(line)
    return "\n".join(lines) + "\n"


def allowed(kind: type, name: str) -> str:
    """Return the values that a setting may have, in the words of the error that another one gets.

    Example:
        >>> allowed(settings.TrainingSettings, "oversample_foreground")
        'a share between 0 and 1'
    """
    if name not in {field.name for field in dataclasses.fields(kind)}:
        return "see there"
    hint = typing.get_type_hints(kind)[name]
    optional = type(None) in typing.get_args(hint)
    told = _range(kind, name) or _described(hint)
    if int in (hint, *typing.get_args(hint)) and float not in typing.get_args(hint):
        told = re.sub(r"^a number", "a whole number", told)
    return told + (", or null" if optional else "")


def _range(kind: type, name: str) -> str:
    for value in _IMPOSSIBLE:
        try:
            kind(**{name: value})
        except InputError as error:
            told = re.match(rf"{name} is .*?, expected (.*?)(?: \[[a-z-]+\])?$", str(error))
            if told:
                return told[1]
        except TypeError:
            continue
    return ""


def _described(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(each) for each in arguments if each is not type(None))
    if origin is Literal:
        return ", ".join(f"`{each}`" for each in arguments)
    if origin is tuple:
        return f"a list of {_described(arguments[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]
