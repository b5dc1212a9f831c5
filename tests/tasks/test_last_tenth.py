import math
import random

import pytest

from bdfm_nnunet.tasks.last_tenth import last_tenth


def _curve(half_life: float, epochs: int = 100, noise: float = 0.0) -> list[float]:
    chance = random.Random(0)
    return [20 + 5 * (1 - 0.5 ** (epoch / half_life)) + chance.gauss(0, noise) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (_curve(60), "still improving"),
        (_curve(60, noise=0.01), "still improving"),
        (_curve(20), "nearly settled"),
        (_curve(5, noise=0.05), "has settled"),
        ([*_curve(10)[:90], *(value - 1 for value in _curve(10)[90:])], "got worse"),
        ([20.0] * 50, "has not improved"),
        (_curve(10, epochs=9), "9 epochs do not tell"),
        ([*_curve(10), math.nan], "not finite do not tell"),
    ],
)
def test_verdicts(curve: list[float], expected: str) -> None:
    assert expected in last_tenth(curve, "psnr", larger_is_better=True).verdict
    down = last_tenth([-value for value in curve], "loss", larger_is_better=False)
    assert expected in down.verdict and down.verdict.count("loss") == 1


def test_numbers() -> None:
    found = last_tenth([float(epoch) for epoch in range(40)], "psnr", larger_is_better=True)
    assert (found.gain, found.whole_gain, found.noise) == (4.0, 38.5, 0.0)
