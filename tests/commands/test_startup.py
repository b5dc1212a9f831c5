"""Which large libraries a command imports: those take seconds, and a command that needs none answers at once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.cost_records import FILE
from bdfm_nnunet.networks.network_building import build_network
from tests.test_nnunet_files import DATASET, PLANS, SETTINGS

LARGE = ("torch", "torch._dynamo", "sympy", "nnunetv2", "SimpleITK", "matplotlib", "scipy.sparse")
PROGRAM = """
import contextlib, io, json, sys
from bdfm_nnunet import cli
with contextlib.redirect_stdout(io.StringIO()):
    code = cli.main(sys.argv[2:])
print(json.dumps([code, sorted(name for name in json.loads(sys.argv[1]) if name in sys.modules)]))
"""
SWIN = {
    "network_class_name": "bdfm_nnunet.networks.swin_unet.SwinUNet", "_kw_requires_import": [],
    "arch_kwargs": {"strides": [[1, 1, 1], [4, 4, 4], [2, 2, 2]], "features_per_stage": [8, 16, 32], "depths": [1, 1],
                    "num_heads": [2, 4], "window_size": [4, 4, 4]},
}  # fmt: skip


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of preprocessed data with plans, dataset.json and a checkpoint of the planned network."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
        (tmp_path / variable / "Dataset501_A").mkdir(parents=True)
    folder = tmp_path / "nnUNet_preprocessed" / "Dataset501_A"
    settings = SETTINGS | {"architecture": SWIN}
    plans = PLANS | {"configurations": {"3d_fullres": settings}}
    dataset = DATASET | {"labels": {"background": 0, "x": 1}}
    (folder / "BDFMPlans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    cases = {"release": "own", "dataset_name": "A", "cases": [{"case": "case_1", "patient": "p"}]}
    (folder / "manifest.json").write_text(json.dumps(cases))
    network = build_network(settings, inputs=3, outputs=2, deep_supervision=True)
    torch.save({"network_weights": network.state_dict()}, tmp_path / "pretrained.pth")
    return folder


def imported(*arguments: str, code: int = 0) -> Any:
    """Run a command in a new process; the large libraries that it has imported."""
    program = [sys.executable, "-c", PROGRAM, json.dumps(LARGE), *arguments]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ)
    assert done.stdout, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found[0] == code, done.stderr
    return found[1]


@pytest.mark.parametrize("arguments", [("env",), ("releases",), ("releases", "brats2023-gli"), ("plan", "--help")])
def test_commands_that_only_tell_import_nothing_large(arguments: tuple[str, ...]) -> None:
    if "--help" in arguments:
        program = "import sys; from bdfm_nnunet import cli; cli.build_parser(); print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        assert not set(LARGE) & set(loaded.split())
    else:
        assert not set(imported(*arguments)) & {"torch", "torch._dynamo", "nnunetv2", "matplotlib"}


def test_a_variant_of_known_costs_needs_no_torch_and_others_no_nnunet(planned: Path) -> None:
    new = ("plan", "-d", "501", "--variant", "short", "--set", "training.epochs=2")
    found = set(imported(*new))
    assert "torch" in found and not found & {"nnunetv2", "torch._dynamo", "sympy", "matplotlib", "SimpleITK"}
    assert (planned / FILE).is_file()
    assert imported(*new) == []
    assert (
        imported("plan", "-d", "501", "--variant", "long", "--set", "training.epochs=9", "--set", "batch_size=8") == []
    )
    assert json.loads((planned / "BDFMPlans.json").read_text())["configurations"]["long"]["training"] == {"epochs": 9}


def test_weights_are_fitted_without_nnunet_and_the_compiler(planned: Path, tmp_path: Path) -> None:
    source, out = str(tmp_path / "pretrained.pth"), tmp_path / "full.pth"
    found = imported("weights", source, "-d", "501", "-p", "BDFMPlans", "-o", str(out))
    assert out.is_file() and "torch" in found
    assert not set(found) & {"nnunetv2", "torch._dynamo", "matplotlib"}


def test_exposure_is_told_without_nnunet_and_the_compiler(planned: Path, tmp_path: Path) -> None:
    found = imported("exposure", str(tmp_path / "pretrained.pth"), "-d", "501")
    assert not set(found) & {"nnunetv2", "torch._dynamo", "matplotlib", "SimpleITK"}


def test_weights_are_described_without_nnunet_and_the_compiler(planned: Path, tmp_path: Path) -> None:
    found = imported("info", str(tmp_path / "pretrained.pth"))
    assert not set(found) & {"nnunetv2", "torch._dynamo", "matplotlib", "SimpleITK"}


def test_messages_of_other_libraries_are_not_shown() -> None:
    program = (
        "import logging; from bdfm_nnunet.cli import _set_up_messages; _set_up_messages();"
        "logging.getLogger().info('copying'); logging.getLogger('bdfm_nnunet.plans').info('ours');"
        "logging.getLogger('distutils').info('copying'); logging.getLogger('other').warning('theirs')"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("", "ours\ntheirs\n")
