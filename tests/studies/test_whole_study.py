"""A study with real trainings on made-up cases, from the command to the table."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet import cli
from bdfm_nnunet.results import read_result
from tests.conftest import Prepared

pytestmark = pytest.mark.slow
OPTIONS = (
    "--fractions 40,100 --seeds 1 --steps 2 --pretrain-steps 2 --rates 1e-3,1e-2 --validation 30 --device cpu "
    "--arm scratch --arm bdfm=pretrain:nnUNetTrainerBDFMPretrain"
)


def rows(out: Path) -> Any:
    return json.loads((out / "study.json").read_text())


def test_study_gives_the_same_table_whatever_ran_before_in_its_process(prepared: Prepared, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["study", "-d", str(prepared.labelled), "-o", str(out), "--hold-out", "30", *OPTIONS.split()]) == 0
    found = rows(out)
    assert {(row["arm"], row["fraction"]) for row in found} == {
        (arm, fraction) for arm in ("scratch", "bdfm") for fraction in (40.0, 100.0)
    }
    assert all(0 <= row["dice"] <= 1 for row in found) and len({row["dice"] for row in found}) > 4
    assert not list(out.rglob("trial_*/**/checkpoint_*.pth"))
    result = read_result(out / "result.json", kind="study")
    assert not result.extra["warnings"] and result.cost is not None and (result.cost.seconds or 0) > 0
    shutil.rmtree(out / "tasks" / "bdfm_100percent_seed0")
    command = [sys.executable, "-m", "bdfm_nnunet.cli", "study", "-o", str(out), "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--task", "bdfm_100percent_seed0"], check=True, env=environment, capture_output=True)
    assert rows(out) == found


def test_another_data_set_tests_and_what_it_shares_is_said(prepared: Prepared, tmp_path: Path) -> None:
    raw = prepared.folder("nnUNet_raw", prepared.labelled)
    other = raw.with_name(raw.name.replace("502", "509"))
    shutil.copytree(raw, other)
    options = OPTIONS.replace("40,100", "100").replace("1e-3,1e-2", "1e-3").split()
    try:
        command = ["study", "-d", str(prepared.labelled), "-o", str(tmp_path / "out"), "--test", "509", *options]
        assert cli.main([*command, "--pretrain-on", str(prepared.unlabelled)]) == 0
    finally:
        shutil.rmtree(other)
    result = read_result(tmp_path / "out" / "result.json", kind="study")
    assert any("bdfm: " in sentence and "test" in sentence for sentence in result.extra["warnings"])
    assert len({row["case"] for row in rows(tmp_path / "out")}) == 6
