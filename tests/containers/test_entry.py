"""`bdfm container` and its entry point on whole folders: one bad case costs that case alone."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.checkpoints.readers.nnunet_reader import EXPOSURE
from bdfm_nnunet.containers import entry
from bdfm_nnunet.containers.build_context import LOCAL_PYTHON, MODEL
from bdfm_nnunet.exposure import Exposure
from tests.conftest import point_to
from tests.containers.made_models import make_case, make_model, noise, save
from tests.inputs import heads
from tests.prediction.test_whole_command import arguments

WRITE = ["container", "-d", "501", "-tr", "nnUNetTrainer", "--challenge"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Containers of one untrained model of two folds for several challenges."""
    root = tmp_path_factory.mktemp("containers")
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(root, monkeypatch)
        make_model(root, folds=2)
        for name in ("brats2026-met", "brats2026-goat", "plain"):
            assert cli.main([*WRITE, name, "-f", "0", "1", "-o", str(root / name), "--disable_tta"]) == 0
        yield root


def test_what_is_written(made: Path) -> None:
    folder = made / "brats2026-met"
    there = {path.name for path in folder.iterdir()}
    assert there >= {"Dockerfile", "Apptainer.def", ".dockerignore", "entrypoint", "predict.py", "README.md"}
    assert there >= {"LICENCES.md", "package", "requirements.txt", "requirements-torch.txt", "container.json"}
    assert LOCAL_PYTHON in (folder / ".dockerignore").read_text().splitlines()
    content = torch.load(folder / MODEL / "fold_1" / "checkpoint_final.pth")
    assert set(content) == {"network_weights", "init_args", "trainer_name", "inference_allowed_mirroring_axes"}
    lines = (folder / "requirements.txt").read_text().split()
    assert all(line.partition("==")[2] for line in lines) and any(line.startswith("nnunetv2==") for line in lines)
    assert not {"matplotlib", "seaborn", "scikit-learn", "nilearn"} & {line.partition("=")[0] for line in lines}
    for path in folder.rglob("*"):  # nothing of this machine goes into an image
        if path.is_file() and path.name != LOCAL_PYTHON and path.suffix in (".md", ".json", ".def", "", ".py", ".txt"):
            assert str(made) not in path.read_text(), path
    assert os.access(folder / "entrypoint", os.X_OK)
    assert sum(path.stat().st_size for path in (folder / "package").rglob("*.py")) < 4 << 20
    assert "unknown" in (folder / "README.md").read_text()


def test_one_bad_case_costs_that_case_alone(made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    values = noise(1)
    values[:2, :2, :2] = np.nan
    make_case(source / "BraTS-MET-00001-000")
    make_case(source / "-two words é", values={"t2f": values})
    make_case(source / "no T2", values={"t2w": None})
    make_case(source / "no T1c", values={"t1c": None})
    make_case(source / "cut", values={"t1c": noise(5)})
    (source / "cut" / "cut-t1c.nii.gz").write_bytes((source / "cut" / "cut-t1c.nii.gz").read_bytes()[:3000])
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "BraTS-MET-00001-000.nii.gz").write_text("old")
    with caplog.at_level(logging.INFO):
        assert entry.main(made / "brats2026-met", [str(source), str(out)]) == 0
    results = ["-two words é.nii.gz", "BraTS-MET-00001-000.nii.gz", "no T2.nii.gz"]
    assert sorted(os.listdir(out)) == [*results, "notes.txt"]
    for name in results:
        case = name.removesuffix(".nii.gz")
        image, label = nib.load(source / case / f"{case}-t1n.nii.gz"), nib.load(out / name)
        assert label.shape == image.shape and np.array_equal(label.affine, image.affine)
        assert label.get_data_dtype() == np.uint8 and set(np.unique(label.get_fdata())) <= {0, 1, 2}
    told = [record.getMessage() for record in caplog.records]
    assert "3 of 5 cases predicted" in told and "not predicted: no T1c (it has no t1c)" in told
    assert any(text.startswith("not predicted: cut (cut-t1c.nii.gz") for text in told)
    assert any("8 voxels that are NaN" in text for text in told)


def test_the_result_is_that_of_bdfm_predict(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["bdfm"])
    case = make_case(tmp_path / "in" / "A")
    images = tmp_path / "images"
    images.mkdir()
    for number, channel in enumerate(("t1n", "t1c", "t2w", "t2f")):
        shutil.copy(case / f"A-{channel}.nii.gz", images / f"A_{number:04d}.nii.gz")
    given = ["-d", "501", "-c", "3d_fullres", "-tr", "nnUNetTrainer", "-p", "BDFMPlans", "-f", "0", "1"]
    more = ["-i", str(images), "-o", str(tmp_path / "there"), "-device", "cpu", "--disable_tta"]
    assert cli.main(["predict", *given, *more]) == 0
    assert entry.main(made / "plain", [str(tmp_path / "in"), str(tmp_path / "here")]) == 0
    theirs, ours = (nib.load(tmp_path / where / "A.nii.gz").get_fdata() for where in ("there", "here"))
    assert np.array_equal(theirs, ours) and len(np.unique(ours)) > 1


def test_exit_codes_of_folders(made: Path, tmp_path: Path) -> None:
    make_case(tmp_path / "bad" / "no T1c", values={"t1c": None})
    shutil.copytree(tmp_path / "bad", tmp_path / "half")
    make_case(tmp_path / "half" / "good")
    (tmp_path / "none").mkdir()
    (tmp_path / "file").touch()
    for name, source, out, code in (
        ("plain", "half", "a", 3), ("brats2026-goat", "half", "b", 0), ("brats2026-goat", "bad", "c", 2),
        ("plain", "none", "d", 2), ("plain", "nowhere", "e", 2), ("plain", "half", "file", 2),
    ):  # fmt: skip
        assert entry.main(made / name, [str(tmp_path / source), str(tmp_path / out)]) == code, (name, source, out)
    assert sorted(os.listdir(tmp_path / "a")) == ["good.nii.gz"]


def test_a_channel_that_a_case_must_have(made: Path, tmp_path: Path) -> None:
    make_case(tmp_path / "in" / "no T2", values={"t2w": None})  # only MET may lack it
    assert entry.main(made / "brats2026-goat", [str(tmp_path / "in"), str(tmp_path / "out")]) == 2


def test_a_model_that_has_learnt_to_do_without_channels(nnunet_dirs: Path, tmp_path: Path) -> None:
    model = make_model(nnunet_dirs)
    checkpoint = model / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(checkpoint) | {"bdfm_channel_dropout": 0.5}, checkpoint)
    assert cli.main([*WRITE, "plain", "-f", "0", "-o", str(tmp_path / "c"), "--disable_tta"]) == 0
    make_case(tmp_path / "in" / "A", values={"t1c": None, "t2w": None})
    assert entry.main(tmp_path / "c", [str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    for number, channel in ((0, "t1n"), (3, "t2f")):
        (tmp_path / "images").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "in" / "A" / f"A-{channel}.nii.gz", tmp_path / "images" / f"A_{number:04d}.nii.gz")
    assert cli.main(arguments(model, tmp_path / "images", tmp_path / "predicted")) == 0
    found, expected = (nib.load(tmp_path / where / "A.nii.gz").get_fdata() for where in ("out", "predicted"))
    assert np.array_equal(found, expected) and len(np.unique(found)) > 1


def test_a_system_without_a_place_for_temporary_files(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = entry.tempfile.TemporaryDirectory

    def only_there(**settings: Any) -> Any:
        if settings.get("dir") is None:
            raise FileNotFoundError("No usable temporary directory found")
        return real(**settings)

    monkeypatch.setattr(entry.tempfile, "TemporaryDirectory", only_there)
    make_case(tmp_path / "in" / "A")
    assert entry.main(made / "plain", [str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert os.listdir(tmp_path / "out") == ["A.nii.gz"]


def test_weights_that_are_damaged_end_the_run_at_once(
    made: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(made / "plain", tmp_path / "c", ignore=shutil.ignore_patterns("package"))
    (tmp_path / "c" / MODEL / "fold_1" / "checkpoint_final.pth").write_bytes(b"none")
    for name in ("A", "B"):
        make_case(tmp_path / "in" / name)
    assert entry.main(tmp_path / "c", [str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and "fold_1/checkpoint_final.pth" in errors[0]


def test_what_is_no_container(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert entry.main(tmp_path, ["a", "b"]) == 2
    assert "it has no container.json" in caplog.text


@pytest.mark.parametrize(
    ("settings", "challenge", "sentence"),
    [
        ({"channels": ("t1n", "CT")}, "brats2026-goat", "reads the channel CT, which brats2026-goat does not give"),
        ({"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}}, "brats2026-goat", "has [1, 2, 3]"),
        ({"channels": ("flair",)}, "fomo26-task2", "gives the labels [1, 2], and fomo26-task2 takes [1]"),
        ({"channels": ("t1",)}, "fomo26-task3", "takes a model of one of nnUNetTrainerBDFMClassification"),
        ({}, "fomo26-task9", "invalid choice"),
    ],
)  # fmt: skip
def test_models_that_do_not_suit_a_challenge(
    settings: Any, challenge: str, sentence: str, nnunet_dirs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = settings.pop("labels", None)
    channels = settings.pop("channels", ("t1n", "t1c", "t2w", "t2f"))
    folder = make_model(nnunet_dirs, channels)
    if labels:
        content = json.loads((folder / "dataset.json").read_text()) | {"labels": labels}
        (folder / "dataset.json").write_text(json.dumps(content))
    arguments = [*WRITE, challenge, "-f", "0", "-o", str(nnunet_dirs / "out"), "-chk", "checkpoint_final.pth"]
    if challenge == "fomo26-task9":
        with pytest.raises(SystemExit):
            cli.main(arguments)
    else:
        assert cli.main(arguments) == 2
    assert sentence in capsys.readouterr().err
    assert not (nnunet_dirs / "out").exists()


def test_forbidden_weights_are_for_rehearsal_alone(nnunet_dirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model(nnunet_dirs)
    path = folder / "fold_0" / "checkpoint_final.pth"
    run = {"dataset": "Dataset501_Made", "releases": {"brats2021": {"licence": "", "overlaps": []}},
           "trainer": "nnUNetTrainerBDFMPretrain"}  # fmt: skip
    torch.save(torch.load(path) | {EXPOSURE: Exposure((run,)).as_dict()}, path)
    arguments = [*WRITE, "brats2026-goat", "-f", "0", "-o", str(nnunet_dirs / "out")]
    assert cli.main([*arguments, "--strict-rules"]) == 3 and not (nnunet_dirs / "out").exists()
    assert "nothing was written: brats2026-goat forbids these weights" in capsys.readouterr().out
    assert cli.main(arguments) == 0
    assert "WARNING: brats2026-goat forbids these weights" in capsys.readouterr().out
    assert "brats2026-goat: forbidden" in (nnunet_dirs / "out" / "README.md").read_text()
    page = (nnunet_dirs / "out" / "LICENCES.md").read_text()
    assert "training data brats2021: not stated" in page and "Baid et al., arXiv:2107.02314" in page
    assert "SimMIM: A simple framework" in page  # of the pre-training behind it


def test_options_that_are_missing(nnunet_dirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["container", "-d", "501"]) == 2
    assert "-tr is missing" in capsys.readouterr().err


def test_a_segmentation_by_flags(nnunet_dirs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_model(nnunet_dirs, ("T2",), labels={"background": 0, "nerve": 1, "vessel": 2})
    assert cli.main([*WRITE, "fomo26-task4", "-f", "0", "-o", str(tmp_path / "c")]) == 0
    save(noise(3).astype(np.int16), image := tmp_path / "in put" / "-x.nii")
    output = tmp_path / "new" / "sub-01.nii.gz"
    assert entry.main(tmp_path / "c", ["--t2", str(image), "--output", str(output), "--t9", "x"]) == 0
    label = nib.load(output)
    assert label.shape == noise(3).shape and np.array_equal(label.affine, nib.load(image).affine)
    assert "left aside: --t9 x" in caplog.text
    assert entry.main(tmp_path / "c", ["--output", str(output)]) == 2 and "it has no T2" in caplog.text
    assert entry.main(tmp_path / "c", ["--t2", "/nowhere.nii.gz", "--output", str(tmp_path / "other.nii.gz")]) == 2
    assert not (tmp_path / "other.nii.gz").exists() and "nowhere.nii.gz does not exist" in caplog.text


def test_cases_that_depart_from_training_are_told(
    nnunet_dirs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_model(nnunet_dirs, ("t1n", "t2w"))
    for number in range(8):
        heads.save(tmp_path / "imagesTr", f"case_{number}", list(heads.head(number).values()))
    assert cli.main(["fingerprint", "-m", str(folder), "-i", str(tmp_path / "imagesTr")]) == 0
    assert cli.main([*WRITE, "plain", "-f", "0", "-o", str(tmp_path / "made"), "--disable_tta"]) == 0
    for case, (first, second) in {"good": ("t1", "t2"), "swapped": ("t2", "t1")}.items():
        images = heads.head(20)
        save(images[first], tmp_path / "in" / case / f"{case}-t1n.nii.gz", np.eye(4))
        save(images[second], tmp_path / "in" / case / f"{case}-t2w.nii.gz", np.eye(4))
    assert entry.main(tmp_path / "made", [str(tmp_path / "in"), str(tmp_path / "out")]) == 0
    assert sorted(os.listdir(tmp_path / "out")) == ["good.nii.gz", "swapped.nii.gz"]
    (told,) = (text for record in caplog.records if "training" in (text := record.getMessage()) or "swapped," in text)
    assert "the channels are swapped" in told
