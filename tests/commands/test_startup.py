"""Which large libraries a command imports: those take seconds, and a command that needs none answers at once."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from bdfm_nnunet.cost_records import FILE
from bdfm_nnunet.networks.network_building import build_network
from tests.test_nnunet_files import DATASET, PLANS, SETTINGS

LARGE = ("torch", "torch._dynamo", "sympy", "nnunetv2", "SimpleITK", "matplotlib", "scipy.sparse")
PROGRAM = """
import contextlib, io, json, os, sys
large, first, commands = (json.loads(text) for text in sys.argv[1:])
for name in first:
    __import__(name)
from bdfm_nnunet import cli
for command in commands:
    if os.fork():
        os.wait()
        continue
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(command)
    print(json.dumps([code, sorted(name for name in large if name in sys.modules)]), flush=True)
    break
"""
"""Runs each command as if it were the only one since some modules were imported, which takes seconds for torch."""
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


def imported(*commands: Sequence[object], first: Sequence[str] = ()) -> list[set[str]]:
    """Run commands in new processes, where nothing but `first` is imported; the large libraries that each imports."""
    texts = [json.dumps(each) for each in (LARGE, first, [[*map(str, words)] for words in commands])]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *texts], capture_output=True, text=True, env=os.environ)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for code, _ in found] == [0] * len(commands), done.stderr
    return [set(names) - set(first) for _, names in found]


def test_commands_that_only_tell_import_nothing_large() -> None:
    for found in imported(["env"], ["releases"], ["releases", "brats2023-gli"]):
        assert not found & {"torch", "torch._dynamo", "nnunetv2", "matplotlib"}
    program = "import sys; from bdfm_nnunet import cli; cli.build_parser(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not set(LARGE) & set(loaded.split())


def test_commands_on_plans_and_weights_import_little_more_than_torch(planned: Path, tmp_path: Path) -> None:
    plan, weights, out = "plan -d 501 --variant".split(), tmp_path / "pretrained.pth", tmp_path / "full.pth"
    new = [*plan, *"short --set training.epochs=2".split()]
    measured, fitted, exposed, described = imported(
        new, ["weights", weights, *"-d 501 -p BDFMPlans -o".split(), out], ["exposure", weights, "-d", 501],
        ["info", weights], first=["torch"],
    )  # fmt: skip
    assert not measured & {"nnunetv2", "torch._dynamo", "matplotlib", "SimpleITK"}
    if Version(torch.__version__) >= Version("2.15"):  # checks of arguments on the meta device imported it before
        assert "sympy" not in measured
    assert (planned / FILE).is_file()
    assert out.is_file() and not fitted & {"nnunetv2", "torch._dynamo", "matplotlib"}
    for found in (exposed, described):
        assert not found & {"nnunetv2", "torch._dynamo", "matplotlib", "SimpleITK"}
    # now the costs of the network are known, for which the first had to build it
    assert imported(new, [*plan, *"long --set training.epochs=9 --set batch_size=8".split()]) == [set(), set()]
    assert json.loads((planned / "BDFMPlans.json").read_text())["configurations"]["long"]["training"] == {"epochs": 9}


def test_messages_of_other_libraries_are_not_shown() -> None:
    program = (
        "import logging; from bdfm_nnunet.cli import _set_up_messages; _set_up_messages();"
        "logging.getLogger().info('copying'); logging.getLogger('bdfm_nnunet.plans').info('ours');"
        "logging.getLogger('distutils').info('copying'); logging.getLogger('other').warning('theirs')"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == ("", "ours\ntheirs\n")
