"""Small untrained models of several folds, and images for them, made in a fraction of a second."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from bdfm_nnunet.networks.network_building import build_network
from tests.prediction.test_whole_command import CHECKPOINT, model

SIZE = (15, 10, 8)
AFFINE = np.diag([1.0, 1.5, 2.0, 1.0])
CLASSES: dict[str, Any] = {"labels": {"background": 0, "a": 1, "b": 2}}
REGIONS: dict[str, Any] = {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}


def model_of_folds(folder: Path, *, seed: int, folds: int = 2, labels: dict[str, Any] = CLASSES) -> Path:
    """An untrained model of two channels whose folds differ, with mirroring along one axis."""
    model(folder, axes=3, channels=2, ending=".nii.gz", reader=SimpleITKIO)
    dataset = json.loads((folder / "dataset.json").read_text()) | labels
    (folder / "dataset.json").write_text(json.dumps(dataset))
    plans = json.loads((folder / "plans.json").read_text())
    (settings,) = plans["configurations"].values()
    outputs = 2 if labels is REGIONS else 3
    for fold in range(folds):
        torch.manual_seed(100 * seed + fold)
        network = build_network(settings, inputs=2, outputs=outputs, deep_supervision=True)
        with torch.no_grad():
            for name, value in network.named_parameters():
                if "seg_layers" in name:
                    value.mul_(8)  # sure answers, which differ
        content = {"network_weights": network.state_dict(), "trainer_name": "nnUNetTrainer",
                   "init_args": {"configuration": "3d_fullres"}, "inference_allowed_mirroring_axes": (2,)}  # fmt: skip
        (folder / f"fold_{fold}").mkdir(exist_ok=True)
        torch.save(content, folder / f"fold_{fold}" / CHECKPOINT)
    return folder


def write_images(folder: Path, cases: int = 2, seed: int = 5) -> Path:
    """Cases of two channels of smooth noise."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for case in range(cases):
        for channel in range(2):
            values = rng.normal(size=SIZE).astype(np.float32)
            values += np.roll(values, 1, 0) + np.roll(values, 1, 1) + np.roll(values, 1, 2)
            nib.save(nib.Nifti1Image(values, AFFINE), folder / f"case{case}_{channel:04d}.nii.gz")
    return folder
