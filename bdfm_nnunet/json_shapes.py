"""The expected shape of data from outside, checked once before the data is used.

A shape is a type (`str`, `int`, `float`, `bool`, `dict`, `list`), `None`, a tuple of shapes of which one must fit,
`[shape]` for a list of any length, `{"name": shape, "name?": shape}` for a table with these entries (those with a
question mark may be missing; further entries are allowed), `{str: shape}` for a table with any names, or `Anything`.
`float` accepts whole numbers too; `int` and `float` accept neither NaN nor infinity nor truth values, and no whole
number beyond all floating ones.
"""

import math
from collections.abc import Mapping
from typing import Any

Shape = Any
Anything = object
_NAMES = {dict: "a table of names", list: "a list", str: "a text", int: "a whole number", float: "a number",
          bool: "true or false", None: "null"}  # fmt: skip


def fault_of(content: Any, shape: Shape, where: str = "") -> str:
    """Return the first fault in the shape of some content, in words; empty if there is none.

    >>> fault_of({"labels": ["a", 1]}, {"labels": [str]})
    'labels[1] is 1, expected a text'
    """
    if isinstance(shape, tuple):
        faults = [fault_of(content, each, where) for each in shape]
        if "" in faults:
            return ""
        inside = [fault for each, fault in zip(shape, faults) if _of_kind(each) and _fits(content, _kind(each))]
        return inside[0] if len(inside) == 1 else _expected(content, " or ".join(map(_described, shape)), where)
    if not _fits(content, _kind(shape)):
        return _expected(content, _described(shape), where)
    if isinstance(shape, list):
        return next(filter(None, (fault_of(item, shape[0], f"{where}[{at}]") for at, item in enumerate(content))), "")
    return _fault_of_table(content, shape, where) if isinstance(shape, Mapping) else ""


def _fault_of_table(content: Mapping[Any, Any], shape: Mapping[Any, Shape], where: str) -> str:
    if str in shape:
        wrong = next((key for key in content if not isinstance(key, str)), None)
        if wrong is not None:
            return f"{where or 'it'} has the name {_shown(wrong)}, expected a text"
        return next(filter(None, (fault_of(content[key], shape[str], _at(where, key)) for key in content)), "")
    for key, each in shape.items():
        name = key.removesuffix("?")
        if name in content:
            if fault := fault_of(content[name], each, _at(where, name)):
                return fault
        elif name == key:
            return f"{_at(where, name)} is missing"
    return ""


def _at(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _kind(shape: Shape) -> Any:
    return dict if isinstance(shape, Mapping) else list if isinstance(shape, list) else shape


def _of_kind(shape: Shape) -> bool:
    return isinstance(shape, (Mapping, list))


def _described(shape: Shape) -> str:
    return _NAMES.get(_kind(shape), str(shape))


def _expected(content: Any, wanted: str, where: str) -> str:
    return f"{where or 'it'} is {_shown(content)}, expected {wanted}"


def _shown(content: Any) -> str:
    found = "a huge number" if _is_huge(content) else "null" if content is None else repr(content)
    return found if len(found) <= 60 else f"a {type(content).__name__}"


def _fits(content: Any, kind: Any) -> bool:
    if kind is Anything:
        return True
    if kind is None:
        return content is None
    if kind is dict:
        return isinstance(content, Mapping)
    if kind is list:
        return isinstance(content, (list, tuple))
    if kind in (int, float):
        allowed = (int,) if kind is int else (int, float)
        if not isinstance(content, allowed) or isinstance(content, bool) or _is_huge(content):
            return False
        return math.isfinite(content)
    return isinstance(content, kind)


def _is_huge(content: Any) -> bool:
    """Whether this is a whole number beyond all floating numbers, which Python may not even print."""
    return isinstance(content, int) and content.bit_length() > 1023
