"""Checkpoints of real pre-trainings in data sets that differ in spacing, patch, channels and labels.

Both data sets are planned and preprocessed for real, trained with the real command and predicted with nnU-Net's own.
"""

import json
import math
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point

from bdfm_nnunet import train
from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.nnunet_folders import trainer_search_path
from bdfm_nnunet.plans import add_variant, plan_dataset
from bdfm_nnunet.plans.plans_lookup import read_plans
from bdfm_nnunet.tasks.finetuning import Finetuning
from bdfm_nnunet.trainers import nnUNetTrainerFrepa, nnUNetTrainerSimCLR
from tests.conftest import Prepared, leave_out_figures, threads_for_spawn
from tests.small_datasets import REGIONS, SmallDataset
from tests.training.trainings import SHORT, checkpoint, make_trainer

pytestmark = pytest.mark.slow

CUBIC = SmallDataset(number=603, shape=(34, 32, 36), spacing=(1.0, 1.0, 1.0), channels=1)
SLICES = SmallDataset(number=604, shape=(44, 40, 11), spacing=(1.0, 1.0, 3.0), channels=3, labels=REGIONS)
TRAINERS = {"swin": nnUNetTrainerSimCLR, "plain": nnUNetTrainerFrepa}
"""Network -> what it is pre-trained with."""
LENGTH = {"training.epochs": 1, "training.iterations_per_epoch": 2, "training.val_iterations_per_epoch": 1}


@dataclass(frozen=True)
class Bench:
    """The pre-trained checkpoints by network, and where everything lies."""

    prepared: Prepared
    checkpoints: dict[str, Path]


@pytest.fixture(scope="module")
def bench(prepared_of_module: Prepared) -> Iterator[Bench]:
    prepared, found = prepared_of_module, {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
        leave_out_figures(monkeypatch)
        for dataset in (CUBIC, SLICES):
            dataset.write(prepared.root / "nnUNet_raw")
            for i, network in enumerate(TRAINERS):
                memory = 0.02 if network == "swin" else 0.3  # those of the widths that were pre-trained
                plan = {"network": network, "gpu_memory": memory, "plans_name": f"Small{network}", "workers": 1}
                plan_dataset(dataset.number, preprocess=i == 0, **plan)  # all networks share the images
                add_variant(dataset.number, plans_name=f"Small{network}", variant="short", settings=SHORT | LENGTH)
        settings = LENGTH | {"patch_size": [32, 32, 32], "batch_size": 2, "training.workers": 0}
        plan_dataset(prepared.unlabelled, network="plain", gpu_memory=0.3, plans_name="Small", preprocess=False)
        for network, kind in TRAINERS.items():
            plans = prepared.plans if network == "swin" else "Small"
            trainer = make_trainer(kind, prepared, prepared.unlabelled, "other_data", settings, plans_name=plans)
            trainer.run_training()
            found[network] = checkpoint(trainer)
        yield Bench(prepared, found)


def _configuration(dataset: SmallDataset, network: str) -> dict[str, Any]:
    plans = read_plans(dataset.number, f"Small{network}")
    configuration: dict[str, Any] = plans["configurations"]["3d_fullres"]
    return configuration


@pytest.mark.parametrize("network", TRAINERS)
def test_the_plans_really_differ(bench: Bench, network: str) -> None:
    cubic, slices = _configuration(CUBIC, network), _configuration(SLICES, network)
    source = read_checkpoint(bench.checkpoints[network])
    assert cubic["spacing"] == [1.0, 1.0, 1.0] and slices["spacing"] == [3.0, 1.0, 1.0]
    assert cubic["patch_size"] != slices["patch_size"] and len(set(slices["patch_size"])) > 1
    strides = [each["architecture"]["arch_kwargs"]["strides"] for each in (cubic, slices)]
    assert strides[0] != strides[1] and any(len(set(step)) > 1 for step in strides[1])
    if network == "plain":
        assert slices["architecture"]["arch_kwargs"]["kernel_sizes"][0] == [1, 3, 3]
    assert source.images is not None and list(source.images.spacing) not in (cubic["spacing"], slices["spacing"])


@pytest.mark.parametrize("dataset", [CUBIC, SLICES], ids=["cubic", "slices"])
@pytest.mark.parametrize("network", TRAINERS)
def test_one_checkpoint_fine_tunes_into_both(
    network: str, dataset: SmallDataset, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, started = bench.checkpoints[network], {}
    monkeypatch.setattr(multiprocessing, "get_context", threads_for_spawn)
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    monkeypatch.setenv("nnUNet_extTrainer", trainer_search_path())
    monkeypatch.setenv("BDFM_WEIGHTS", str(source))
    load = Finetuning.load_weights

    def loading(task: Finetuning) -> None:
        fresh = {name: value.clone() for name, value in task.trainer.network.state_dict().items()}
        load(task)
        started.update(fresh=fresh, network=task.trainer.network, task=task)
        started["loaded"] = {name: value.clone() for name, value in task.trainer.network.state_dict().items()}

    monkeypatch.setattr(Finetuning, "load_weights", loading)
    monkeypatch.setattr("bdfm_nnunet.tasks.segmentation.Segmentation.final_validation", lambda *_, **__: None)
    arguments = [str(dataset.number), "short", "0", "-tr", "nnUNetTrainerBDFM", "-p", f"Small{network}"]
    assert train.main([*arguments, "-device", "cpu"]) == 0
    _check_start(source, dataset, started)
    folder = next(tmp_path.glob("*/*/fold_0"))
    summary = json.loads((folder / "training_summary.json").read_text())
    assert math.isfinite(summary["curves"]["train_losses"][0])
    final = read_checkpoint(folder / "checkpoint_final.pth").weights
    moved = [name for name, value in final.items() if not torch.equal(value, started["loaded"][name])]
    encoder = [name for name in final if name.startswith("encoder.")]
    assert all(value.isfinite().all() for value in final.values()) and len({*moved} & {*encoder}) > len(encoder) / 2
    _check_prediction(dataset, arguments, tmp_path, bench.prepared)


def _check_start(source: Path, dataset: SmallDataset, started: dict[str, Any]) -> None:
    """The network starts with what the checkpoint holds, adapted where shapes differ; the rest is as it was."""
    report = load_pretrained(network := started["network"], source)
    saved, loaded = read_checkpoint(source).weights, started["loaded"]
    view = encoder_of(network)
    sizes = {f"encoder.{name}": parameter.numel() for name, parameter in view.module.named_parameters()}
    used = {name for name in sizes if name in report.loaded or name in report.adapted}
    assert report.encoder_share == pytest.approx(sum(sizes[name] for name in used) / sum(sizes.values()))
    assert report.encoder_share > 0.5 and view.in_channels == dataset.channels
    assert all(torch.equal(loaded[name], saved[name]) for name in report.loaded)
    changed = {name for name in report.adapted if not torch.equal(loaded[name], started["fresh"][name])}
    assert changed == set(report.adapted)
    assert all(torch.equal(network.get_parameter(name), loaded[name]) for name in report.adapted)
    assert all(torch.equal(loaded[name], started["fresh"][name]) for name in report.new)
    channels = [how for how in report.adapted.values() if "input channels" in how]
    assert bool(channels) == (dataset.channels > 1)


def _check_prediction(dataset: SmallDataset, arguments: list[str], tmp_path: Path, prepared: Prepared) -> None:
    """nnU-Net's own command predicts the held-out case, on the grid of its images."""
    images, raw = tmp_path / "images", prepared.root / "nnUNet_raw" / dataset.name
    images.mkdir()
    for path in (raw / "imagesTr").glob("case_2_*"):
        shutil.copy(path, images)
    command = ["-d", *arguments[:1], "-c", arguments[1], "-f", *arguments[2:], "-device", "cpu", "--disable_tta"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        files = ["-i", str(images), "-o", str(tmp_path / "out"), "-npp", "0", "-nps", "0"]
        monkeypatch.setattr(sys, "argv", ["nnUNetv2_predict", *command, *files])
        predict_entry_point()
    found, expected = nib.load(tmp_path / "out" / "case_2.nii.gz"), nib.load(raw / "labelsTr" / "case_2.nii.gz")
    assert found.shape == expected.shape and np.allclose(found.affine, expected.affine)
    assert set(np.unique(np.asarray(found.dataobj))) <= {0, 1, 2}
    assert os.listdir(tmp_path / "out")
