"""`bdfm plan` and a training bring the targets of the raw data set beside the preprocessed data."""

from pathlib import Path

import numpy as np
import pytest

from bdfm_nnunet.patients import MANIFEST
from bdfm_nnunet.plans.prepared_files import copy_manifest
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, read_targets, write_targets
from bdfm_nnunet.training.raw_dataset import bring_manifest

AGE = TargetColumn("age", TargetType.CONTINUOUS, unit="years")


def test_planning_copies_and_a_training_fetches_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, preprocessed = (tmp_path / name / "Dataset501_Demo" for name in ("nnUNet_raw", "nnUNet_preprocessed"))
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True)
        monkeypatch.setenv(folder.parent.name, str(folder.parent))
    for name in (MANIFEST, "dataset.json"):
        (raw / name).write_text("{}")
    write_targets(raw, Targets({"age": AGE}, ("a",), {"a": "A"}, {}, {"age": np.array([[64.5]])}))
    bring_manifest(preprocessed, raw)
    assert read_targets(preprocessed).values("age", ["a"]) == 64.5 and (preprocessed / MANIFEST).exists()
    write_targets(raw, Targets({"age": AGE}, ("a",), {"a": "A"}, {}, {"age": np.array([[65.5]])}))
    bring_manifest(preprocessed, raw)
    assert read_targets(preprocessed).values("age", ["a"]) == 64.5
    copy_manifest(501)
    assert read_targets(preprocessed).values("age", ["a"]) == 65.5
