"""What step.py tells of its arms: which ones run, which figure belongs to which, and what is compared with what."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import step

from bdfm_nnunet import number_types
from bdfm_nnunet.networks.network_costs import Costs
from harness import Table, Times

SECONDS = {"published": 10.0, "legacy": 2.5, "default": 1.25}
MEMORY = {"published": 10, "legacy": 9, "default": 6}


def measured(names: list[str]) -> tuple[Times, dict[str, Any]]:
    """Made-up times: bf16 takes half as long as fp32."""
    kinds = {name: name.split()[0] for name in names}
    seconds = {name: [SECONDS[kind] / (1 + ("bf16" in name))] * 2 for name, kind in kinds.items()}
    return Times(seconds), {name: {"memory": MEMORY[kind] << 30, "process": 11 << 30} for name, kind in kinds.items()}


@pytest.fixture
def without_work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Nothing is measured; gives the list of arms that would have been."""
    served: list[str] = []

    def compare(script: Path, names: list[str], settings: argparse.Namespace, batch: int) -> Any:
        served.extend(names)
        return measured(names)

    monkeypatch.setattr(step, "compare", compare)
    monkeypatch.setattr(step, "matrix_rate", lambda type_, device: 1e11)
    monkeypatch.setattr(step, "memory_rate", lambda device: 1e10)
    monkeypatch.setattr(step, "agreement", lambda: 1e-15)
    monkeypatch.setattr(step, "profile_of", lambda kind, precision, size: Table(precision, []))
    counted = Costs(parameters=0, activation_bytes=0, state_bytes=0, forward_flops=10**11, backward_flops=0)
    monkeypatch.setattr(step, "costs_of", lambda *arguments: counted)
    return served


@pytest.mark.parametrize("native", [False, True])
def test_bf16_is_multiplied_where_there_are_units_for_it(
    native: bool, without_work: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(number_types, "multiplies_bf16", lambda device="cpu": native)
    monkeypatch.setattr(sys, "argv", ["step.py", "--batches", "1", "2", "--json", str(tmp_path / "result.json")])
    step.main()
    content = json.loads((tmp_path / "result.json").read_text())
    arms = [row[0] for row in content["tables"][0]["rows"]]
    assert arms == without_work[: len(arms)] and step.REFERENCE in arms
    assert {name.split()[1] for name in without_work} == ({"fp32", "bf16"} if native else {"fp32"})
    assert ("bf16 were left out" in content["tables"][0]["note"]) is not native
    assert len(content["tables"]) == 2 + (2 if native else 1)


def test_arms_are_chosen_and_those_on_a_card_may_be_uncompiled(
    without_work: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(number_types, "multiplies_bf16", lambda device="cpu": True)
    given = ["step.py", "--device", "cuda", "--batches", "1", "--json", str(tmp_path / "result.json")]
    monkeypatch.setattr(sys, "argv", given)
    step.main()
    assert set(step.ON_CUDA) < set(without_work)
    del without_work[:]
    monkeypatch.setattr(sys, "argv", [*given, "--arms", "default bf16", "default bf16 uncompiled"])
    step.main()
    assert without_work == [step.REFERENCE, "default bf16", "default bf16 uncompiled"]
    content = json.loads((tmp_path / "result.json").read_text())
    assert not any(step.UNCOMPILED in goal for goal, _, _ in content["goals"])


def test_a_goal_names_its_arm_and_what_is_compared() -> None:
    times, ends = measured(["published fp32", "legacy fp32", "default fp32"])
    costs = {name: {"floor_seconds": 1.0} for name in ("legacy fp32", "default fp32")}
    goals = step.goals_of({"seconds": times.seconds, "ends": ends, "costs": costs}, "cpu")
    same, other = "legacy fp32 against published fp32 on cpu (same gradients)", "default fp32 against published fp32"
    assert goals[:3] == [
        (f"{same}: 6 times faster", "4", False),
        (f"{same}: at most 0.7 of the peak memory", "0.90", False),
        ("legacy fp32 on cpu: at most 2.5 times the floor", "2.5", True),
    ]
    assert goals[3:] == [
        (f"{other} on cpu (other mathematics): 6 times faster", "8", True),
        (f"{other} on cpu (other mathematics): at most 0.7 of the peak memory", "0.60", True),
        ("default fp32 on cpu: at most 2.5 times the floor", "1.25", True),
    ]


def test_what_the_reference_lacks_on_cuda_is_said() -> None:
    times, ends = measured(["published fp32", "legacy bf16"])
    raw = {"seconds": times.seconds, "ends": ends, "costs": {"legacy bf16": {"floor_seconds": 1.0}}}
    assert step.goals_of(raw, "cuda")[0][0] == (
        "legacy bf16 against published fp32 on cuda (same gradients; published is not compiled): 5 times faster"
    )
