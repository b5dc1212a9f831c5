"""The tasks of FOMO26 whose results are numbers and vectors, called by flags as the challenge does."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.containers import entry
from bdfm_nnunet.containers.build_context import MODEL
from bdfm_nnunet.prediction.subject_images import ImageFiles
from bdfm_nnunet.prediction.subject_predictor import SubjectModel, predict_subjects
from bdfm_nnunet.probes.subject_features import file_features
from bdfm_nnunet.targets import TargetColumn, TargetType
from tests.containers.made_models import make_case, make_pretraining, make_subject_model, noise, save

AGE = TargetColumn("age", TargetType.CONTINUOUS, unit="years")
INFARCT = TargetColumn("infarct", TargetType.BINARY, ("no", "yes"))
OTHER = TargetColumn("site", TargetType.BINARY, ("A", "B"))


def write(trainer: str, challenge: str, out: Path, *more: str) -> int:
    given = ["container", "-d", "501", "-tr", trainer, "--challenge", challenge, "-o", str(out), *more]
    return cli.main([*given, "-f", "0", *(() if "task6" in challenge else ("1",))])


@pytest.fixture
def image(tmp_path: Path) -> Path:
    save(noise(7), path := tmp_path / "sub 1" / "scan.nii.gz")
    return path


def test_brain_age(nnunet_dirs: Path, tmp_path: Path, image: Path) -> None:
    folder = make_subject_model(nnunet_dirs, AGE)
    assert write(folder.name.partition("__")[0], "fomo26-task3", tmp_path / "c") == 0
    output = tmp_path / "out" / "sub-1.txt"
    assert entry.main(tmp_path / "c", ["--t1", str(image), "--output", str(output)]) == 0
    model = SubjectModel.read(folder, [0, 1])
    images = ImageFiles(model.plans, model.configuration, model.dataset, {"a": [str(image)]})
    assert float(output.read_text()) == pytest.approx(predict_subjects(model, images).columns["age"][0], abs=1e-5)
    content = torch.load(tmp_path / "c" / MODEL / "fold_0" / "checkpoint_best.pth")
    assert "optimizer_state" not in content and str(nnunet_dirs) not in str(content["init_args"])


def test_an_infarct(nnunet_dirs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_subject_model(nnunet_dirs, INFARCT, OTHER, channels=("dwi", "FLAIR", "swi")).name.partition("__")[0]
    assert write(trainer, "fomo26-task1", tmp_path / "c") == 2  # of two targets
    assert write(trainer, "fomo26-task1", tmp_path / "c", "--target", "infarct") == 0
    given = []
    for number, flag in enumerate(("flair", "adc", "dwi", "t2s")):
        save(noise(number), path := tmp_path / f"{flag}.nii.gz")
        given += [f"--{flag}", str(path)]
    output = tmp_path / "p.txt"
    assert entry.main(tmp_path / "c", [*given, "--output", str(output)]) == 0
    assert 0 <= float(output.read_text()) <= 1 and "--t2s takes the place of swi" in caplog.text
    source = tmp_path / "in"
    for case in ("sub-1", "sub-2"):  # the same by folders
        for number, channel in enumerate(("flair", "adc", "dwi_b1000", "t2s")):
            save(noise(number), source / case / "ses-1" / f"{channel}.nii.gz")
    assert entry.main(tmp_path / "c", [str(source), str(tmp_path / "all")]) == 0
    assert {path.name: path.read_text() for path in (tmp_path / "all").iterdir()} == {
        f"sub-{n}_ses-1.txt": output.read_text() for n in (1, 2)
    }


@pytest.mark.parametrize("channels", [("image",), ("t1n", "t1c")])
def test_an_embedding(channels: Any, nnunet_dirs: Path, tmp_path: Path, image: Path) -> None:
    folder = make_pretraining(nnunet_dirs, channels)
    assert write("nnUNetTrainerSimCLR", "fomo26-task6", tmp_path / "c") == 0
    assert "optimizer_state" not in torch.load(tmp_path / "c" / MODEL / "fold_0" / "checkpoint_final.pth")
    output = tmp_path / "out.npy"
    assert entry.main(tmp_path / "c", ["--input", str(image), "--output", str(output)]) == 0
    vector = np.load(output)
    for number in range(len(channels)):  # an encoder of several channels is shown the image in each
        save(noise(7), tmp_path / "images" / f"a_{number:04d}.nii.gz")
    weights = folder / "fold_0" / "checkpoint_final.pth"
    table = file_features([tmp_path / "images"], weights, tmp_path / "t.npz")
    assert vector.dtype == np.float32 and vector.shape == table.features[0].shape
    assert vector == pytest.approx(table.features[0], rel=1e-5)


def test_models_of_another_kind(nnunet_dirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_subject_model(nnunet_dirs, AGE).name.partition("__")[0]
    assert write(trainer, "fomo26-task5", tmp_path / "c") == 2
    assert "has 0 binary targets" in capsys.readouterr().err
    assert write(trainer, "brats2026-goat", tmp_path / "c", "-chk", "checkpoint_best.pth") == 2
    assert "takes a model of a segmentation" in capsys.readouterr().err
    make_case(tmp_path / "in" / "A")
    assert not (tmp_path / "c").exists()
