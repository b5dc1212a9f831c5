"""The quickstart as a script and as a notebook: they are the same, and both run from scans to scores."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def _notebook_of(script: str) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("to_notebook", EXAMPLES / "to_notebook.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    content: dict[str, Any] = module.notebook_of(script)
    return content


def _notebook() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))
    return content


def test_the_notebook_is_the_script() -> None:
    assert _notebook() == _notebook_of((EXAMPLES / "quickstart.py").read_text(encoding="utf-8")), "run `make notebook`"
    kinds = [cell["cell_type"] for cell in _notebook()["cells"]]
    assert kinds == ["markdown", "code"] * 6


@pytest.mark.slow
@pytest.mark.parametrize("form", ["script", "notebook"])
def test_from_scans_to_scores(tmp_path: Path, form: str) -> None:
    cells = "\n".join("".join(cell["source"]) for cell in _notebook()["cells"] if cell["cell_type"] == "code")
    command = [str(EXAMPLES / "quickstart.py")] if form == "script" else ["-c", cells]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("nnUNet_", "BDFM_"))}
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment | {"QUICKSTART": str(tmp_path / "work"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    dice = {line.partition(":")[0]: float(line.split()[-1]) for line in ran.stdout.splitlines() if ": Dice " in line}
    assert set(dice) == {"necrosis", "oedema", "enhancing"} and dice["oedema"] > 0.5, dice
    assert len(list((tmp_path / "work" / "predicted").glob("*.nii.gz"))) == 2
