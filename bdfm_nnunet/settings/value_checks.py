"""Types and ranges of settings."""

import math
import types
import typing
from typing import Any, Literal, Union

from bdfm_nnunet.errors import InputError


def checked(name: str, value: Any, hint: Any) -> Any:
    """Return a value of a plans file as the type `hint`, or raise InputError."""
    try:
        return _coerce(value, hint)
    except TypeError:
        raise InputError(f"{name} is {value!r}, expected {_describe(hint)}", entry="wrong-value") from None


def _coerce(value: Any, hint: Any) -> Any:
    """Convert `value` to the type `hint` (JSON lists to tuples, integers to floats), or raise TypeError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        for option in arguments:
            try:
                return _coerce(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if value in arguments:
            return value
        raise TypeError
    if origin is tuple:
        value = (value,) if isinstance(value, str) else value  # one name needs no brackets
        if isinstance(value, (list, tuple)):
            return tuple(_coerce(item, arguments[0]) for item in value)
        raise TypeError
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool):
        return value
    raise TypeError


def _describe(hint: Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(option) for option in arguments)
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in arguments)
    if origin is tuple:
        return f"a list of {_describe(arguments[0])} values"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, "null")


def positive(settings: Any, *names: str) -> None:
    """Raise InputError unless the settings of these names are finite and above 0, or None."""
    for name in names:
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if value == () or not all(0 < number < math.inf for number in numbers):
            raise InputError(f"{name} is {value}, expected a number above 0", entry="wrong-value")


def at_least_zero(settings: Any, *names: str) -> None:
    """Raise InputError unless the settings of these names are finite and at least 0, or None."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:
            raise InputError(f"{name} is {value}, expected 0 or more", entry="wrong-value")


def share(settings: Any, *names: str) -> None:
    """Raise InputError unless the settings of these names are between 0 and 1."""
    for name in names:
        if not 0 <= getattr(settings, name) <= 1:
            raise InputError(
                f"{name} is {getattr(settings, name)}, expected a share between 0 and 1", entry="wrong-value"
            )


def share_below_one(settings: Any, *names: str) -> None:
    """Raise InputError unless the settings of these names are at least 0 and below 1."""
    for name in names:
        if not 0 <= getattr(settings, name) < 1:
            raise InputError(
                f"{name} is {getattr(settings, name)}, expected a share of at least 0 and below 1", entry="wrong-value"
            )


def ordered(settings: Any, name: str, *, largest: float = math.inf) -> None:
    """Raise InputError unless a setting is two finite numbers, the first at least 0 and the second not below it."""
    value = getattr(settings, name)
    if len(value) != 2 or not 0 <= value[0] <= value[1] <= largest or value[1] == math.inf:
        limit = "" if largest == math.inf else f" and at most {largest:g}"
        raise InputError(f"{name} is {list(value)}, expected [least, largest], at least 0{limit}", entry="wrong-value")
