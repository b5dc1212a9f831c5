"""Untrained models in nnUNet_results, as `bdfm container` takes them, and folders of cases."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from bdfm_nnunet.checkpoints.readers.nnunet_reader import TASK
from bdfm_nnunet.networks.subject_network import build_subject_network
from bdfm_nnunet.targets import TargetColumn, TargetType
from bdfm_nnunet.tasks.subject_outputs import TargetOutput
from tests.prediction.test_whole_command import model

BRATS = ("t1n", "t1c", "t2w", "t2f")
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
DATASET = "Dataset501_Made"


def make_model(
    root: Path, channels: tuple[str, ...] = BRATS, *, trainer: str = "nnUNetTrainer", labels: Any = None, folds: int = 1
) -> Path:
    """An untrained model of patches of 16 voxels in the folders of nnU-Net under `root`."""
    folder = root / "nnUNet_results" / DATASET / f"{trainer}__BDFMPlans__3d_fullres"
    model(folder, axes=3, channels=len(channels), ending=".nii.gz", reader=SimpleITKIO)
    content = json.loads((folder / "dataset.json").read_text())
    content["channel_names"] = {str(number): name for number, name in enumerate(channels)}
    content["labels"] = labels or content["labels"]
    (folder / "dataset.json").write_text(json.dumps(content))
    raw = root / "nnUNet_raw" / DATASET
    raw.mkdir(parents=True, exist_ok=True)
    (raw / "dataset.json").write_text(json.dumps(content))
    (raw / "manifest.json").unlink(missing_ok=True)
    first = torch.load(folder / "fold_0" / "checkpoint_final.pth")
    for fold in range(1, folds):
        (folder / f"fold_{fold}").mkdir()
        torch.save(first, folder / f"fold_{fold}" / "checkpoint_final.pth")
    return folder


def noise(seed: int, shape: tuple[int, ...] = (20, 22, 18)) -> Any:
    return np.random.default_rng(seed).normal(100, 20, shape).astype(np.float32)


def save(values: Any, path: Path, affine: Any = LPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(values, affine), path)


def make_case(folder: Path, name: str | None = None, *, values: Mapping[str, Any] | None = None) -> Path:
    """A case of four channels in the layout of BraTS."""
    for number, channel in enumerate(BRATS):
        content = (values or {}).get(channel, noise(number))
        if content is not None:
            save(content, folder / f"{name or folder.name}-{channel}.nii.gz")
    return folder


def make_subject_model(root: Path, *columns: TargetColumn, channels: tuple[str, ...] = ("t1",)) -> Path:
    """An untrained model of two folds for targets of subjects; it gives other numbers for other images."""
    binary = columns[0].type is TargetType.BINARY
    trainer = f"nnUNetTrainerBDFM{'Classification' if binary else 'Regression'}"
    folder = make_model(root, channels, trainer=trainer, folds=2)
    plans = json.loads((folder / "plans.json").read_text())
    settings = plans["configurations"]["3d_fullres"]
    outputs = [TargetOutput(column=column, known=1.0, mean=60.0, deviation=10.0) for column in columns]
    for fold in (0, 1):
        torch.manual_seed(fold)
        network = build_subject_network(
            settings, inputs=len(channels), outputs=len(outputs), pooling="mean", head="linear", name="made"
        )
        task = {"targets": [each.as_dict() for each in outputs], "crop": [16, 16, 16], "overlap": 0.0,
                "pooling": "mean", "head": "linear"}  # fmt: skip
        content = {"network_weights": network.state_dict(), "trainer_name": trainer, TASK: task, "optimizer_state": {},
                   "init_args": {"configuration": "3d_fullres", "plans": plans}}  # fmt: skip
        torch.save(content, folder / f"fold_{fold}" / "checkpoint_best.pth")
    return folder


def make_pretraining(root: Path, channels: tuple[str, ...] = ("image",)) -> Path:
    """A checkpoint of a pre-training whose encoder was not trained."""
    folder = make_model(root, channels, trainer="nnUNetTrainerSimCLR")
    path = folder / "fold_0" / "checkpoint_final.pth"
    plans = json.loads((folder / "plans.json").read_text())
    content = torch.load(path) | {"trainer_name": "nnUNetTrainerSimCLR", "optimizer_state": {"state": [1, 2, 3]}}
    content["init_args"] = {"configuration": "3d_fullres", "plans": plans,
                            "dataset_json": json.loads((folder / "dataset.json").read_text())}  # fmt: skip
    torch.save(content, path)
    return folder
