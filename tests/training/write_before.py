"""Writes tests/golden/before with the code that is installed, which should be that of an earlier commit.

    cd A_WORKTREE_OF_THAT_COMMIT
    PYTHONPATH=. .venv/bin/python .../tests/training/write_before.py .../tests/golden/before

It uses only names that stay, so the same file runs with the code of any commit. Each trainer runs twice on the cohort
of tests/conftest.py: undisturbed, which gives the curves, and stopped by a signal in its second epoch, which gives the
checkpoint. test_before.py goes on from there with today's code.
"""

import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import signal
import sys
import tempfile
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import blosc2
import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from tests.conftest import SHAPE, SPACING, make_cohort, point_to, threads_for_spawn

PLANS = "BeforePlans"
PRETRAINERS = ("nnUNetTrainerBDFMPretrain", "nnUNetTrainerSimMIM")
RUNS = dict.fromkeys(PRETRAINERS, 501) | {"nnUNetTrainerBDFM": 502}
"""Trainer to the number of its data set."""

NETWORK = {"features_per_stage": [4, 8, 16], "depths": [1, 1], "num_heads": [2, 2], "window_size": [4, 4, 4]}
BLOCKS = {
    "training": {
        "epochs": 2,
        "iterations_per_epoch": 4,
        "val_iterations_per_epoch": 2,
        "save_every": 5,
        "initial_lr": 0.003,
        "workers": 0,
    },
    "pretraining": {"decoder_channels": 1, "picture_every": 100},
}
STOPPED_AFTER = 6


def add_tiny(plans: dict[str, Any]) -> dict[str, Any]:
    """Plans with a configuration of few weights, so that checkpoints are small, and few steps."""
    plans = deepcopy(plans) | {"plans_name": PLANS}
    network = deepcopy(plans["configurations"]["3d_fullres"]["architecture"])
    strides = network["arch_kwargs"]["strides"][: len(NETWORK["features_per_stage"])]
    network["arch_kwargs"] |= {**NETWORK, "strides": strides}
    tiny = {"inherits_from": "3d_fullres", "architecture": network, "costs": None, **BLOCKS}
    plans["configurations"]["tiny"] = tiny
    return plans


def make_trainer(name: str, folder: Path) -> Any:
    """A trainer of the tiny configuration as nnU-Net makes it, from a folder's plans."""
    from bdfm_nnunet import trainers

    plans, dataset = (json.loads((folder / f"{file}.json").read_text()) for file in (PLANS, "dataset"))
    plans["continue_training"] = False
    return getattr(trainers, name)(plans, "tiny", 0, dataset, torch.device("cpu"))


def stop_after(trainer: Any, steps: int) -> None:
    """Lets a trainer's run be ended by a signal."""
    inner, done = trainer.train_step, []

    def stepping(batch: Any) -> Any:
        done.append(inner(batch))
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return done[-1]

    trainer.train_step = stepping


def curves(trainer: Any) -> dict[str, Any]:
    """What was logged, without the times."""
    log = trainer.logger.local_logger.my_fantastic_logging
    found = {name: torch.tensor(values, dtype=torch.float64).tolist() for name, values in log.items() if len(values)}
    return {name: values for name, values in found.items() if "timestamps" not in name}


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    """The same for the same names, shapes and bits."""
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        found.update(value.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def case_of(path: Path) -> dict[str, Any]:
    """A preprocessed image or segmentation."""
    voxels = torch.from_numpy(blosc2.open(str(path), mode="r")[:])
    return {
        "digest": digest_of({"": voxels}),
        "mean": float(voxels.double().mean()),
        "std": float(voxels.double().std()),
    }


def cases_of(folder: Path) -> dict[str, Any]:
    """All preprocessed cases of a data set."""
    return {path.name: case_of(path) for path in sorted(folder.glob("*/*.b2nd"))}


def network_of(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """The network that plans give: its tensors, its first weights and its answer to noise."""
    manager = PlansManager(plans)
    chosen = manager.get_configuration(configuration)
    torch.manual_seed(5)
    network = nnUNetTrainer.build_network_architecture(manager, chosen, 4, 3, False).eval()
    with torch.no_grad():
        output = network(torch.randn(1, 4, *chosen.patch_size))
    tensors = network.state_dict()
    return {
        "tensors": {name: list(value.shape) for name, value in tensors.items()},
        "weights": digest_of(tensors),
        "output": [float(output.mean()), float(output.std())],
    }


def machine() -> str:
    """What the last bits depend on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {model} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__}"


def report_of(folder: Path, weights: Path) -> dict[str, Any]:
    """What became of the tensors of a pre-trained checkpoint in the network of fine-tuning."""
    from bdfm_nnunet.checkpoints import load_pretrained

    trainer = make_trainer("nnUNetTrainerBDFM", folder)
    trainer.initialize()
    report = asdict(load_pretrained(trainer.network, weights))
    return {name: report[name] for name in ("loaded", "adapted", "new", "ignored", "encoder_share", "buffers")}


def _prepare(root: Path, dataset_id: int, *, unlabelled: bool) -> Path:
    from bdfm_nnunet.dataset_conversion import convert
    from bdfm_nnunet.plans import plan_dataset

    convert("brats2023-gli", root / "tree", dataset_id=dataset_id, unlabelled=unlabelled)
    path = plan_dataset(dataset_id, network="swin", gpu_memory=0.05, plans_name="BDFMPlans", workers=1)
    plans = add_tiny(json.loads(path.read_text()))
    path.with_name(f"{PLANS}.json").write_text(json.dumps(plans, indent=1) + "\n")
    return path.parent


def _train(name: str, folder: Path, out: Path) -> dict[str, Any]:
    """Writes the checkpoint of a stopped run; returns the curves of an undisturbed one."""
    trainer = make_trainer(name, folder)
    trainer.run_training()
    found = curves(trainer)
    shutil.rmtree(trainer.output_folder)
    trainer = make_trainer(name, folder)
    stop_after(trainer, STOPPED_AFTER)
    with pytest.raises(SystemExit):
        trainer.run_training()
    shutil.copy(Path(trainer.output_folder) / "checkpoint_latest.pth", out / f"{name}.pth")
    return found


def write_all(root: Path, out: Path) -> None:
    """Prepares the cohort under `root`, trains, and writes the files."""
    make_cohort(root / "tree", cases=6, seed=11, spacing=SPACING, shape=SHAPE, second_visits=1)
    found: dict[str, Any] = {"machine": machine(), "cases": {}, "networks": {}, "curves": {}}
    folders = {number: _prepare(root, number, unlabelled=number == 501) for number in (501, 502)}
    for number, folder in folders.items():
        plans = json.loads((folder / f"{PLANS}.json").read_text())
        (out / str(number)).mkdir(parents=True, exist_ok=True)
        for name in (f"{PLANS}.json", "dataset.json"):
            shutil.copy(folder / name, out / str(number) / name)
        found["cases"][number] = cases_of(folder)
        found["networks"][number] = {name: network_of(plans, name) for name in ("3d_fullres", "tiny")}
    for name, number in RUNS.items():
        found["curves"][name] = _train(name, folders[number], out)
    found["report"] = report_of(folders[502], out / "nnUNetTrainerBDFMPretrain.pth")
    (out / "found.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> None:
    """Writes into the folder that the command names."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as monkeypatch:
        point_to(Path(root), monkeypatch)
        monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
        write_all(Path(root), Path(sys.argv[1]).resolve())


if __name__ == "__main__":
    main()
