"""Every script starts, and the fast ones run to the end on something tiny."""

import json
import os
import re
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import floors

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = [
    path.name
    for path in sorted(FOLDER.glob("*.py"))
    if path.name != "harness.py" and re.search(r"\bResult\b", path.read_text(encoding="utf-8"))
]


def run(script: str, *arguments: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(FOLDER / script), *arguments]
    subprocess.run(command, capture_output=True, text=True, check=True, env=environment)


def run_here(script: str, *arguments: str) -> None:
    """In this process, where what they import is there already."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", [str(FOLDER / script), *arguments])
        monkeypatch.setattr(floors, "memory_rate", partial(floors.memory_rate, megabytes=8))
        runpy.run_path(str(FOLDER / script), run_name="__main__")


LEAVE_THE_PROCESS_AS_IT_IS = {"frequency_loss.py", "metrics.py", "selective_scan.py"}
"""With the arguments below; the others start processes, or settle how this one keeps its memory."""


@pytest.mark.parametrize("script", [*SCRIPTS, "report.py"])
def test_help_starts(script: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_here(script, "--help")
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert f"python benchmarks/{script}" in shown
    assert "--quick" in shown
    assert script == "report.py" or {"--rounds", "--json"} <= set(re.findall(r"--\w+", shown))


@pytest.mark.parametrize(
    ("script", "arguments", "tables"),
    [
        ("frequency_loss.py", ["--size", "16"], 1),
        ("selective_scan.py", ["--shapes", "2x20x3,1x1x2", "--memory", "returned"], 2),
        pytest.param("neurostorm_step.py", ["--size", "36", "--frames", "4"], 1, marks=pytest.mark.slow),
        pytest.param(
            "step.py", ["--size", "32", "--batches", "1"], 1 + len(floors.types_for()), marks=pytest.mark.slow
        ),
        pytest.param(
            "peers.py", ["--size", "32", "--peers", "ResEnc-M", "--precisions", "fp32"], 1, marks=pytest.mark.slow
        ),
        pytest.param(
            "visible.py",
            ["--size", "64", "--batches", "1", "--encoders", "cubic", "--precisions", "fp32", "--packing"],
            2,
            marks=pytest.mark.slow,
        ),
        ("metrics.py", ["--lesions", "2", "--size", "60,60,40"], 1),
        pytest.param(
            "loader.py",
            ["--cases", "2", "--size", "60,60,40", "--patch", "24", "--seconds", "0.01", "--workers", "0,1"]
            + ["--crops", "200", "--links", "2,3", "--quick"],
            3,
            marks=pytest.mark.slow,
        ),
        pytest.param("layouts.py", ["--size", "60,60,40", "--patch", "24"], 1, marks=pytest.mark.slow),
        ("conversion.py", ["--cases", "2", "--drawn", "2", "--size", "60,60,40", "--workers", "1"], 2),
        pytest.param(
            "ranks.py", ["--size", "32", "--batch", "2", "--steps", "1", "--worlds", "1,2"], 1, marks=pytest.mark.slow
        ),
        pytest.param("scaling.py", ["--sizes", "32", "--batches", "1,2", "--size", "32"], 2, marks=pytest.mark.slow),
    ],
)
def test_tiny_run(script: str, arguments: list[str], tables: int, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    start = run_here if script in LEAVE_THE_PROCESS_AS_IT_IS else run
    start(script, "--rounds", "2", "--json", str(path), *arguments)
    content = json.loads(path.read_text())
    assert content["settings"]["rounds"] == 2
    assert content["command"] == " ".join(["python", f"benchmarks/{script}", "--rounds", "2", *arguments])
    assert len(content["tables"]) == tables
    assert all(len(row) == len(table["columns"]) for table in content["tables"] for row in table["rows"])
