"""Networks of others are compared in the types that the processor has units for, and what is left out is said."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import peers
import pytest

from bdfm_nnunet import number_types
from harness import Times


@pytest.mark.parametrize("native", [False, True])
def test_a_row_for_each_network_and_type(native: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def compare(script: Path, names: list[str], settings: argparse.Namespace, batch: int) -> Any:
        times = Times({names[0]: [1.0, 2.0], names[1]: [3.0, 6.0]})
        return times, {name: {"memory": 1 << 30, "process": 2 << 30} for name in names}

    monkeypatch.setattr(number_types, "multiplies_bf16", lambda device="cpu": native)
    monkeypatch.setattr(peers.step, "compare", compare)
    monkeypatch.setattr(sys, "argv", ["peers.py", "--json", str(tmp_path / "result.json")])
    peers.main()
    (table,) = json.loads((tmp_path / "result.json").read_text())["tables"]
    types = ["fp32", "bf16"] if native else ["fp32"]
    assert [row[0] for row in table["rows"]] == [f"{kind} {name}" for kind in peers.PEERS for name in types]
    assert {row[3] for row in table["rows"]} == {"3"}
    assert ("left out" in table["note"]) is not native
