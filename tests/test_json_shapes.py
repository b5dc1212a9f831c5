"""Shapes of data from outside."""

from typing import Any

import pytest

from bdfm_nnunet.json_shapes import Anything, Shape, fault_of

TABLE = {"labels": {str: (int, [int])}, "channel_names": {str: str}, "overwrite?": (str, None)}


@pytest.mark.parametrize(
    ("content", "shape"),
    [
        ({"labels": {"a": 1, "b": [1, 2], "c": (1,)}, "channel_names": {}, "more": 1}, TABLE),
        ({"labels": {}, "channel_names": {"0": "T1"}, "overwrite": None}, TABLE),
        ([1, 2.5], [float]),
        ([], [str]),
        ({"a": object}, {str: Anything}),
    ],
)
def test_what_fits(content: Any, shape: Shape) -> None:
    assert fault_of(content, shape) == ""


@pytest.mark.parametrize(
    ("content", "shape", "fault"),
    [
        ([], TABLE, "it is [], expected a table of names"),
        ({"labels": {}}, TABLE, "channel_names is missing"),
        ({"labels": {"a": "x"}, "channel_names": {}}, TABLE, "labels.a is 'x', expected a whole number or a list"),
        ({"labels": {"a": [1, "x"]}, "channel_names": {}}, TABLE, "labels.a[1] is 'x', expected a whole number"),
        ({"labels": {1: 1}, "channel_names": {}}, TABLE, "labels has the name 1, expected a text"),
        ({"labels": {}, "channel_names": {}, "overwrite": 5}, TABLE, "overwrite is 5, expected a text or null"),
        (True, int, "it is True, expected a whole number"),
        (True, float, "it is True, expected a number"),
        (float("nan"), float, "it is nan, expected a number"),
        (1.0, int, "it is 1.0, expected a whole number"),
        (10**400, int, "it is a huge number, expected a whole number"),
        ([-(10**5000)], [float], "[0] is a huge number, expected a number"),
        ({"labels": {10**5000: 1}, "channel_names": {}}, TABLE, "labels has the name a huge number, expected a text"),
        ([10**5000], [[str]], "[0] is a huge number, expected a list"),
        ("abc", [str], "it is 'abc', expected a list"),
        (None, dict, "it is null, expected a table of names"),
        ("x" * 100, int, "it is a str, expected a whole number"),
    ],
)
def test_what_does_not_fit_is_named(content: Any, shape: Shape, fault: str) -> None:
    assert fault_of(content, shape) == fault
