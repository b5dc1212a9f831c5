"""The run sheet of a table of predictions for subjects."""

from pathlib import Path

import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.prediction.subject_record import write_subject_record
from bdfm_nnunet.results import Session, read_result
from bdfm_nnunet.results.verification import verify_result


def _checkpoint(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    run = {"dataset": "Dataset900_A", "releases": {"ixi": {"licence": "CC BY-SA 3.0", "overlaps": []}}}
    content = {"network_weights": {"weight": torch.ones(2)}, "trainer_name": "nnUNetTrainerBDFMClassification",
               "bdfm_exposure": {"format": 1, "runs": [run]}}  # fmt: skip
    torch.save(content, path)
    return path


def test_models_images_and_tables_are_named(tmp_path: Path) -> None:
    checkpoint = _checkpoint(tmp_path / "model/fold_0/checkpoint_best.pth")
    images, table = tmp_path / "images", tmp_path / "out" / "subjects.csv"
    (images / "sequencesTs").mkdir(parents=True)
    table.parent.mkdir()
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "ab_0000.nii.gz", "sequencesTs/b.nii.gz", "sequencesTs/b.json"):
        (images / name).write_text(name)
    table.write_text("case,value\n")
    path = write_subject_record(
        [table],
        [read_checkpoint(checkpoint)],
        images=images,
        cases=["a", "b"],
        settings={"dataset": "Dataset900_A", "folds": ["0"]},
        session=Session(versions={}),
    )
    result = read_result(path, kind="subject_prediction")
    found = result.provenance
    assert path.name == "subjects.run.json" and path.with_suffix(".md").is_file() and found is not None
    assert [(each.role, each.place) for each in (*found.inputs, *found.outputs)] == [
        ("model", "../model/fold_0/checkpoint_best.pth"), ("images", "../images"), ("predictions", "subjects.csv")
    ]  # fmt: skip
    assert found.inputs[1].files is not None
    assert sorted(found.inputs[1].files) == [
        "a_0000.nii.gz", "a_0001.nii.gz", "sequencesTs/b.json", "sequencesTs/b.nii.gz"
    ]  # fmt: skip
    assert found.licences["ixi"] == "CC BY-SA 3.0" and verify_result(path).answer == "unchanged"
    table.write_text("case,value2\n")
    assert verify_result(path).faults.changed == ("subjects.csv",)
