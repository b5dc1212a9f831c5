"""What both trainers share and neither changes."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain
from tests.conftest import Prepared
from tests.training.trainings import checkpoint, make_trainer


@pytest.fixture
def trainer(prepared: Prepared) -> Any:
    return make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "folds", {})


def _set(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        content[path[-1]] = value

    return change


_VARIANT = ("configurations", "folds")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_set(*_VARIANT, "training", value=[1]), "training"),
        (_set(*_VARIANT, "architecture", value={}), "architecture.network_class_name is missing"),
        (_set(*_VARIANT, "batch_size", value=10**9), "more than memory holds"),
        (_set(*_VARIANT, "patch_size", value=[10**5] * 3), "more than memory holds"),
        (
            _set(*_VARIANT, "previous_stage", value="3d_lowres"),
            "second stage of a cascade.*choose 3d_fullres or",
        ),
        (_set("plans_name", value="../../../escape"), "plans_name"),
        (_set("configurations", value=7), "configurations is 7"),
    ],
)
def test_hostile_plans_are_a_sentence_before_anything_is_built(
    prepared: Prepared, change: Callable[[dict[str, Any]], None], sentence: str
) -> None:
    make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "folds", {})
    kind: Any = nnUNetTrainerBDFMPretrain
    plans = json.loads((prepared.folder("nnUNet_preprocessed", prepared.unlabelled) / "BDFMPlans.json").read_text())
    change(plans)
    dataset = json.loads((prepared.folder("nnUNet_preprocessed", prepared.unlabelled) / "dataset.json").read_text())
    with pytest.raises(InputError, match=sentence):
        kind(plans | {"continue_training": False}, "folds", 0, dataset, torch.device("cpu"))
    for other in ([1], None):
        with pytest.raises(InputError, match="is no usable nnU-Net plans file"):
            kind(other, "folds", 0, dataset, torch.device("cpu"))


def test_folds_of_the_split_file(trainer: Any, prepared: Prepared) -> None:
    path = prepared.folder("nnUNet_preprocessed", prepared.unlabelled) / "splits_final.json"
    splits = json.loads(path.read_text())
    trainer.fold = len(splits) - 1
    assert trainer.do_split() == (splits[-1]["train"], splits[-1]["val"])
    trainer.fold = "all"
    training, validation = trainer.do_split()
    assert len(training) == len(validation) == len(splits[0]["train"]) + len(splits[0]["val"])


def test_fold_beyond_the_split_file_is_refused(trainer: Any) -> None:
    """nnU-Net would split at random, with the visits of one patient on both sides."""
    trainer.fold = 5
    with pytest.raises(InputError, match=r"splits_final\.json has 5 folds, so there is no fold 5: .*0 to 4"):
        trainer.run_training()
    trainer.fold = 77
    with pytest.raises(InputError, match="no fold 77"):
        trainer.do_split()


def test_without_a_split_file_that_of_the_raw_data_set_is_taken(
    trainer: Any, prepared: Prepared, tmp_path: Path
) -> None:
    """As where plans were moved, or the data preprocessed, by nnU-Net's own commands."""
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    raw = prepared.folder("nnUNet_raw", prepared.unlabelled)
    splits = json.loads((raw / "splits_final.json").read_text())
    assert trainer.do_split() == (splits[0]["train"], splits[0]["val"])
    for name in ("splits_final.json", "manifest.json"):
        assert (tmp_path / name).read_bytes() == (raw / name).read_bytes()


def test_a_random_split_that_would_tear_a_patient_apart_is_refused(
    trainer: Any, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = prepared.folder("nnUNet_raw", prepared.unlabelled)
    raw, preprocessed = tmp_path / "raw" / source.name, tmp_path / "preprocessed"
    for folder in (raw, preprocessed):
        folder.mkdir(parents=True)
    (raw / "manifest.json").write_bytes((source / "manifest.json").read_bytes())
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    trainer.preprocessed_dataset_folder_base = str(preprocessed)
    with pytest.raises(InputError, match=r"scans of one patient on both sides \(.* and .*\): .*`bdfm splits`"):
        trainer.do_split()
    assert not (preprocessed / "splits_final.json").exists()
    trainer.fold = "all"
    assert len(trainer.do_split()[0]) == 6


def test_where_nothing_is_known_of_patients_nnunet_makes_its_own_split(
    trainer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("nnUNet_raw")
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    training, validation = trainer.do_split()
    assert training and validation and (tmp_path / "splits_final.json").is_file()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[" * 9999, "splits_final.json is not usable JSON"),
        ('{"train": []}', "splits_final.json"),
        ('[{"train": ["nobody"], "val": ["x"]}]', r"names 2 cases that are not in .*\(nobody, x\): .*`bdfm plan`"),
        ('[{"train": [], "val": ["x"]}]', "has no train case"),
        (None, "splits_final.json is a folder"),
    ],
)
def test_damaged_splits_are_a_sentence(trainer: Any, tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is None:
        (tmp_path / "splits_final.json").mkdir()
    else:
        (tmp_path / "splits_final.json").write_text(content)
    trainer.preprocessed_dataset_folder_base = str(tmp_path)
    with pytest.raises(InputError, match=sentence):
        trainer.do_split()


def test_data_that_was_not_preprocessed_is_a_sentence(trainer: Any, tmp_path: Path) -> None:
    trainer.preprocessed_dataset_folder = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"nowhere does not exist: preprocess the data set with `bdfm plan`"):
        trainer.run_training()
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "case.b2nd").touch()
    trainer.preprocessed_dataset_folder = str(tmp_path)
    with pytest.raises(InputError, match=r"must hold preprocessed cases alone .*: remove other files"):
        trainer.run_training()


@pytest.fixture
def other_labels(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The raw labelled data set, copied, with the label of a case replaced after preprocessing; its name."""
    source = prepared.folder("nnUNet_raw", prepared.labelled)
    raw = Path(shutil.copytree(source, tmp_path / "raw" / source.name))
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))
    label = sorted((raw / "labelsTr").iterdir())[2]
    content = label.read_bytes()
    label.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return label.name.partition(".")[0]


def test_labels_replaced_after_preprocessing_end_fine_tuning(prepared: Prepared, other_labels: str) -> None:
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "replaced", {})
    with pytest.raises(
        InputError, match=rf"labels of 1 cases in .* have changed .*\({other_labels}\): run `bdfm plan`"
    ):
        trainer.run_training()
    trainer.resumed = True
    trainer.task.labels_changed("the labels have changed")
    assert "WARNING: the labels have changed" in Path(trainer.log_file).read_text()


def test_other_labels_do_not_end_pre_training(prepared: Prepared, other_labels: str) -> None:
    settings = {"training.epochs": 1, "training.iterations_per_epoch": 1}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.labelled, "steered", settings)
    trainer.run_training()
    assert (
        f"WARNING: the labels of 1 cases in {trainer.data.raw_folder} have changed"
        in Path(trainer.log_file).read_text()
    )


def test_the_latest_checkpoint_is_written_every_few_epochs(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, str]] = []
    monkeypatch.setattr(trainer, "save_checkpoint", lambda path: written.append((trainer.current_epoch, path)))
    trainer.num_epochs, trainer.save_every = 6, 2
    for trainer.current_epoch in range(6):
        trainer.save_if_due()
    assert written == [(epoch, str(checkpoint(trainer, "latest"))) for epoch in (1, 3)]


@pytest.mark.parametrize(("asked", "threads"), [("2", 2), ("many", 1), ("0", 1)])
def test_threads_asked_for_on_the_cpu(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, asked: str, threads: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    try:
        make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "threads", {})
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
