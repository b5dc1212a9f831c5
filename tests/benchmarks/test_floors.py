"""The floors are rates of this machine, measured in the time that they may take."""

import pytest
import torch

import floors
import harness
from bdfm_nnunet import number_types


def test_rates_of_this_machine_are_plausible() -> None:
    assert 1e8 < floors.matrix_rate(torch.float32, seconds=0.01, rounds=2) < 1e14
    assert 1e8 < floors.memory_rate(megabytes=8, rounds=2) < 1e13


@pytest.mark.parametrize(
    ("rate", "seconds", "sizes"),
    [
        (1e9, 0.1, [96, 192, 192]),  # the next would take 0.11 s
        (1e13, 0.1, [96, 192, 384, 768, 1536, 3072]),  # never larger, be it that fast
        (1e6, 0.1, [96, 96]),  # never smaller, be it that slow
    ],
)
def test_a_rate_is_measured_with_the_largest_size_that_fits_the_time(
    rate: float, seconds: float, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, used = [0.0], []
    monkeypatch.setattr(harness.time, "perf_counter", lambda: now[0])

    def multiply(left: torch.Tensor, right: torch.Tensor) -> None:
        used.append(len(left))
        now[0] += 2 * len(left) ** 3 / rate

    found = floors.matrix_rate(torch.float32, seconds=seconds, rounds=3, product=multiply)
    assert found == pytest.approx(rate, rel=1e-3)
    assert list(dict.fromkeys(used)) == list(dict.fromkeys(sizes))
    assert used.count(sizes[-1]) == 3 + 1 + 2 * (len(sizes) > len(set(sizes)))


@pytest.mark.parametrize("native", [False, True])
def test_bf16_arms_run_where_there_are_units_for_it_or_are_told_to_be_missing(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(number_types, "multiplies_bf16", lambda device="cpu": native)
    assert list(floors.types_for()) == (["fp32", "bf16"] if native else ["fp32"])
    assert floors.left_out() == ("" if native else "Arms in bf16 were left out: this cpu has no units for it.")
