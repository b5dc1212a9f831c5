"""A target that the site or the order of the cases tells gets a warning; others do not."""

import random

import numpy as np
import pytest

from bdfm_nnunet.targets import TargetColumn, Targets, TargetType
from bdfm_nnunet.targets.leak_warnings import leak_warnings


def of(values: list[float], kind: TargetType, names: list[str] | None = None, site: str = "") -> list[str]:
    names = names or [f"case_{number:03d}" for number in range(len(values))]
    column = TargetColumn("x", kind, ("a", "b", "c") if kind.has_classes else ())
    groups = {"site": dict(zip(names, site))} if site else {}
    numbers = {"x": np.array(values, dtype=float)[:, None]}
    return leak_warnings(Targets({"x": column}, tuple(names), dict(zip(names, names)), groups, numbers))


@pytest.mark.parametrize("seed", range(5))
def test_a_target_without_a_leak_gets_no_warning(seed: int) -> None:
    draw = random.Random(seed)
    assert of([float(draw.random() < 0.5) for _ in range(40)], TargetType.BINARY, site="AB" * 20) == []
    assert of([draw.gauss(0, 1) for _ in range(12)], TargetType.CONTINUOUS, site="ABC" * 4) == []
    assert of([float(number == 30) for number in range(31)], TargetType.BINARY) == []


def test_constant_within_site() -> None:
    found = of([0, 1, 0, 1, 0, 1, 0, 1], TargetType.BINARY, site="UVUVUVUV")
    assert len(found) == 1 and found[0].startswith("x is the same in all cases of a site (2 of them)")
    assert of([0, 1, 0, 1, 0, 1, 0, 0], TargetType.BINARY, site="UVUVUVUV") == []


def test_constant_within_the_beginning_of_the_id() -> None:
    names = [f"{'AD' if number % 3 else 'CN'}_{number}" for number in range(9)]
    found = of([float(bool(number % 3)) for number in range(9)], TargetType.BINARY, names)
    assert found and "all cases of a beginning of the case id" in found[0]


def test_equal_to_the_number_of_the_case() -> None:
    assert "equals the number in the case id of all 9 cases" in of(list(range(9)), TargetType.CONTINUOUS)[0]


@pytest.mark.parametrize(("values", "kind"), [
    ([n**2 + 5 for n in range(10)], TargetType.CONTINUOUS), ([0] * 5 + [1] * 5, TargetType.BINARY),
    ([2, 2, 2, 1, 1, 1, 0, 0, 0], TargetType.ORDINAL),
])  # fmt: skip
def test_in_the_order_of_the_cases(values: list[float], kind: TargetType) -> None:
    found = of(values, kind)
    assert found and ("rises" if values[0] < values[-1] else "falls") + " with the order of the case ids" in found[0]
