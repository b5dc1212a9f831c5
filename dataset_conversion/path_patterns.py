"""Regular expressions of paths: compiled once, and turned into examples for people to read."""

import re
import sys
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from bdfm_nnunet.errors import InputError

# The standard library's own parser of expressions has no public name.
if sys.version_info >= (3, 11):
    from re import _constants as codes  # type: ignore[attr-defined]
    from re import _parser as parser  # type: ignore[attr-defined]
else:
    import sre_constants as codes
    import sre_parse as parser

CASE = "{case}"


@lru_cache(maxsize=4096)
def path_pattern(path: str, case_pattern: str) -> re.Pattern[str]:
    """Compile a path in which `{case}` stands for a case id, the same one wherever it stands.

    Raises:
        InputError: it is no regular expression.
    """
    text = path.replace(CASE, f"(?P<case>{case_pattern})", 1).replace(CASE, "(?P=case)")
    try:
        return re.compile(text)
    except re.error as error:
        raise InputError(
            f"the path {path!r} (with case_pattern {case_pattern!r}) is no regular expression ({error}): correct it in "
            "the entry of the release"
        ) from None


@lru_cache(maxsize=4096)
def literal_end(pattern: str) -> str:
    """Return the letters that every match ends with: a cheap test before the expression itself is tried."""
    letters = ""
    for code, value in reversed(list(parser.parse(pattern))):
        if code is not codes.LITERAL:
            break
        letters = chr(value) + letters
    return letters


@lru_cache(maxsize=4096)
def literal_letters(pattern: str) -> int:
    """Count the letters that the expression asks for as they are: of two that fit a path, the one with more wins."""
    return len(_literals(parser.parse(pattern)))


def _literals(items: Iterable[tuple[Any, Any]]) -> str:
    letters = ""
    for code, value in items:
        if code is codes.LITERAL:
            letters += chr(value)
        elif code is codes.SUBPATTERN:
            letters += _literals(value[3])
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT) and value[0]:
            letters += _literals(value[2])
    return letters


def example_of(pattern: str) -> str:
    """Return the shortest string that a regular expression matches, with 0 for digits."""
    return _example(parser.parse(pattern), {})


def _example(items: Iterable[tuple[Any, Any]], groups: dict[int, str]) -> str:
    return "".join(_piece(code, value, groups) for code, value in items)


def _piece(code: Any, value: Any, groups: dict[int, str]) -> str:
    if code is codes.LITERAL:
        return chr(value)
    if code is codes.IN:
        return _one_of(value)
    if code in (codes.MAX_REPEAT, codes.MIN_REPEAT):
        return "".join(_example(value[2], groups) for _ in range(value[0]))
    if code is codes.SUBPATTERN:
        groups[value[0]] = _example(value[3], groups)
        return groups[value[0]]
    if code is codes.BRANCH:
        return _example(value[1][0], groups)
    if code is codes.GROUPREF:
        return groups.get(value, "")
    return "x" if code in (codes.ANY, codes.NOT_LITERAL) else ""


def _one_of(choices: list[tuple[Any, Any]]) -> str:
    code, value = choices[0]
    if code is codes.LITERAL:
        return chr(value)
    if code is codes.RANGE:
        return chr(value[0])
    return "0" if value is codes.CATEGORY_DIGIT else "x"
