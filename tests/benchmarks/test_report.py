"""docs/benchmarks.md is what the committed results give."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import report

from harness import FIGURES, RESULTS, ROOT

CONTENT: dict[str, Any] = {
    "title": "One step",
    "about": "What was done.",
    "command": "python benchmarks/step.py --size 8",
    "date": "2026-01-02",
    "settings": {"size": [8, 8], "compile": True, "folder": None, "quick": False, "json": "x"},
    "machine": {"processor": "P", "processors": 1, "threads": 2, "memory_gib": 3.5, "system": "S", "accelerator": "A"},
    "versions": {"python": "3.12", "torch": "2.9"},
    "tables": [{"title": "Times", "columns": ["arm", "s"], "rows": [["ours", "1"]], "note": "A note."}],
    "goals": [["3 times as fast", "2.9", False], ["half the memory", "0.4", True]],
    "figures": [["step.png", "How it grows."]],
}


def test_page_is_made_from_the_committed_results() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page == report.render(report.read_results(RESULTS)), "run `python benchmarks/report.py`"


def test_figures_of_the_committed_results_exist() -> None:
    for content in report.read_results(RESULTS).values():
        for file, _ in content["figures"]:
            assert (FIGURES / file).exists()


def test_goals_come_first_and_those_missed_are_told() -> None:
    page = report.render({"step": CONTENT, "other": {**CONTENT, "title": "Other", "goals": []}})
    goals, sections = page.split('<a id="step">')
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in goals.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        ["3 times as fast", "2.9", "no", "P", "[One step](#step)"],
        ["half the memory", "0.4", "yes", "P", "[One step](#step)"],
    ]
    assert "made by `make bench`" in goals
    assert sections.index("## One step") < sections.index("## Other")


def test_a_section_tells_all() -> None:
    page = report.render({"step": CONTENT})
    for part in (
        "What was done.",
        "- Command: `python benchmarks/step.py --size 8`, 2026-01-02\n",
        "- Machine: P, 1 processor, 2 threads, 3.5 GiB, S, A\n",
        "- Versions: python 3.12, torch 2.9\n",
        "- Settings: size 8 8, compile yes\n",
        "**Times**\n\n| arm  | s |\n|------|---|\n| ours | 1 |\n\nA note.\n",
        "![How it grows.](figures/step.png)",
    ):
        assert part in page


def test_no_goals_no_summary() -> None:
    assert "## Goals" not in report.render({"step": {**CONTENT, "goals": []}})


@pytest.mark.parametrize("quick", [False, True])
def test_make_goes_on_after_a_failure_and_ends_with_it(quick: bool, tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "env" / "bin").mkdir(parents=True)
    python = tmp_path / "env" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    for stamp in (".installed", ".installed-bench"):
        (tmp_path / "env" / stamp).touch()
    scripts = tmp_path / "benchmarks"
    scripts.mkdir()
    for name in ("harness.py", "report.py"):
        shutil.copy(ROOT / "benchmarks" / name, scripts)
    (scripts / "a_broken.py").write_text("from harness import Result\nResult()\n")
    (scripts / "works.py").write_text(
        "from harness import Result, options, parse\n"
        "settings = parse(options('', rounds=1), quick={})\nResult('It works', '', vars(settings)).write()\n"
    )
    done = subprocess.run(
        ["make", "VENV=env", "bench-quick" if quick else "bench"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert done.returncode != 0
    assert "failed: benchmarks/a_broken.py\n" in done.stderr
    assert "== benchmarks/works.py" in done.stdout
    folder = tmp_path / ("build/benchmarks" if quick else "benchmarks/results")
    page = tmp_path / ("build/benchmarks" if quick else "docs") / "benchmarks.md"
    assert [path.name for path in folder.glob("*.json")] == ["works.json"]
    assert "## It works" in page.read_text()
