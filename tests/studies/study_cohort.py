"""A data set for tests of studies that needs no image: what `prepare` reads of one."""

import json
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.results import Cost, RunResult
from bdfm_nnunet.studies.study_folder import StudyFolder
from bdfm_nnunet.studies.study_settings import StudySettings
from bdfm_nnunet.studies.study_tasks import KIND, Task

CONFIGURATION = {
    "data_identifier": "data", "preprocessor_name": "DefaultPreprocessor", "batch_size": 2, "patch_size": [32, 32, 32],
    "spacing": [1.0, 1.0, 1.0], "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
    "architecture": {"network_class_name": "a.B", "arch_kwargs": {"strides": [[1, 1, 1], [2, 2, 2]]},
                     "_kw_requires_import": []},
    "costs": {"forward_gflop_per_sample": 4.0},
    **dict.fromkeys(("resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"), "resample"),
}  # fmt: skip
NAME = "Dataset009_Small"
ARMS = {"scratch": {}, "bdfm": {"pretrain": "nnUNetTrainerBDFMPretrain"}}


def make_dataset(root: Path, monkeypatch: pytest.MonkeyPatch, *, cases: int = 20) -> Path:
    """Make the data set, let nnU-Net's variables name it, and return its preprocessed folder."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        (root / variable).mkdir()
        monkeypatch.setenv(variable, str(root / variable))
    folder = root / "nnUNet_preprocessed" / NAME
    (folder / "data").mkdir(parents=True)
    rows = [{"case": f"case_{i:02d}", "patient": f"p{i:02d}", "part": "train"} for i in range(cases)]
    content: dict[str, Any] = {
        "manifest.json": {"release": "small", "cases": rows},
        "dataset.json": {"channel_names": {"0": "T1"}, "labels": {"background": 0, "front": 1, "back": 2},
                         "numTraining": cases, "file_ending": ".nii.gz"},
        "BDFMPlans.json": {"plans_name": "BDFMPlans", "dataset_name": NAME, "transpose_forward": [0, 1, 2],
                           "transpose_backward": [0, 1, 2], "configurations": {"3d_fullres": CONFIGURATION}},
        "splits_final.json": [{"train": ["case_00"], "val": ["case_01"]}],
    }  # fmt: skip
    for name, each in content.items():
        (folder / name).write_text(json.dumps(each))
    return folder


def settings(**changes: Any) -> StudySettings:
    """Return a small study of the data set."""
    given = {"dataset": 9, "hold_out": 20, "fractions": [20, 100], "seeds": 2, "steps": 10, "rates": [1e-3, 3e-3]}
    return StudySettings.from_dict({**given, "arms": ARMS, **changes})


def result_of(study: StudyFolder, task: Task, *, gain: float = 0.02) -> RunResult:
    """Return a made-up result of a task, a function of the task alone."""
    about = {"fingerprint": task.fingerprint}
    if task.kind == "pretraining":
        extra = {"checkpoint": "x.pth", "monitors": {}, "wall_seconds": 20.0, "device": "cpu"}
        return RunResult(kind=KIND, settings=about, cost=Cost(seconds=18.0, steps=10), extra=extra)
    ahead = gain if task.arm.name == "bdfm" else 0.0
    cases = [
        {"case": case, "regions": {name: {"dice": 0.5 + ahead + 0.01 * task.seed + 0.001 * (7 * i % 5) + 0.01 * j}
                                   for j, name in enumerate(("front", "back"))}}
        for i, case in enumerate(study.parts.test)
    ]  # fmt: skip
    chosen = {"settings": {"training.initial_lr": 1e-3}, "score": 0.6}
    extra = {
        "chosen": chosen, "trials": [chosen], "patients": study.parts.patients, "train_cases": 3, "seen": "",
        "wall_seconds": 40.0, "device": "cpu",
    }  # fmt: skip
    scores = {"metrics": "whole", "summary": {"front": {}, "back": {}}, "cases": cases}
    return RunResult(kind=KIND, settings=about, scores=scores, cost=Cost(seconds=36.0, steps=20), extra=extra)
