"""Made-up converted data sets: dataset.json, manifest.json and, where asked for, tiny volumes; and nnU-Net's check."""

import hashlib
import json
import multiprocessing.dummy
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest

LABELS = {"background": 0, "whole_tumor": [1, 2, 3], "tumor_core": [1, 3], "enhancing_tumor": [3]}
AFFINE = np.diag([-1.0, -1, 1, 1])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(case: str, patient: str = "", **more: Any) -> dict[str, Any]:
    """A row of a manifest; its one image holds something of its own unless `sha256` says otherwise."""
    return {
        "case": case,
        "patient": patient or case,
        "part": "train",
        "status": "ok",
        "labels": {"0": 900, "1": 10, "2": 60, "4": 30},
        "sha256": {"t1c": digest(case), "label": digest("same label")},
        "spacing": [1.0, 1.0, 2.0],
        "shape": [4, 4, 4],
        "targets": {"t1c": f"imagesTr/{case}_0000.nii.gz", "label": f"labelsTr/{case}.nii.gz"},
    } | more


def dataset(folder: Path, rows: list[dict[str, Any]], *, channels: tuple[str, ...] = ("t1c",), **content: Any) -> Path:
    """Writes dataset.json and manifest.json of a release whose label 4 is nnU-Net's 3."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = [r for r in rows if r["part"] == "train" and r["status"] != "refused"]
    description = {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": LABELS,
        "numTraining": len(trained),
        "file_ending": ".nii.gz",
    }
    manifest = {
        "release": "brats2021", "licence": "CC BY", "overlaps": ["brats2023-gli"], "unlabelled": False,
        "inverse_labels": {"1": 1, "2": 2, "3": 4}, "cases": rows,
    } | content  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def write_files(folder: Path, rows: list[dict[str, Any]], *, seed: int = 0) -> None:
    """Writes the volumes that the rows name: a cube of noise in zeros, and a label."""
    generator = np.random.default_rng(seed)
    for entry in rows:
        for role, name in entry["targets"].items():
            values = np.zeros(entry["shape"], np.int16)
            inside = tuple(slice(1, size - 1) for size in entry["shape"])
            values[inside] = 1 if role == "label" else generator.integers(10, 99, values[inside].shape)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            nib.Nifti1Image(values, AFFINE).to_filename(folder / name)


def random_rows(cases: int, *, seed: int) -> list[dict[str, Any]]:
    """Rows of patients with one to five visits, three unlike regions, sizes over two decades and skewed sites."""
    draw, rows = random.Random(seed), []
    while len(rows) < cases:
        patient = f"BraTS2021-{len(rows):05d}"
        site = draw.choice(["Aarau"] * 6 + ["Basel"] * 3 + ["Chur"])
        for visit in range(draw.choice([1] * 7 + [2, 2, 5])):
            size = int(10 ** draw.uniform(1, 3))
            labels = {"0": 5000, "2": size}
            labels |= {"1": size // 4 + 1} if draw.random() < 0.9 else {}
            labels |= {"4": size // 2 + 1} if draw.random() < 0.15 else {}
            rows.append(row(f"{patient}-{visit:03d}", patient, labels=labels, site=site))
    return rows


def verify_with_nnunet(folder: Path) -> None:
    """nnU-Net's own check; a thread does what it would start a process for, which takes seconds."""
    from nnunetv2.experiment_planning import verify_dataset_integrity as check

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "multiprocessing", SimpleNamespace(get_context=lambda method: multiprocessing.dummy))
        check.verify_dataset_integrity(str(folder), num_processes=1)
