"""The whole way with nnU-Net's own console scripts, as a user types them."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.plans import add_variant
from tests.conftest import Prepared
from tests.console_scripts import Bench, kill_once_there_is

pytestmark = pytest.mark.slow

LENGTH = {
    "training.epochs": 2,
    "training.iterations_per_epoch": 3,
    "training.val_iterations_per_epoch": 2,
    "training.save_every": 1,
}
TERMS = ("train_losses", "train_pixel", "train_frequency", "val_losses", "psnr", "ssim", "lrs")
FIRST_BLOCK = "encoder.stages.0.blocks.0.attn.qkv.weight"


@pytest.fixture(scope="module")
def bench(prepared_of_module: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    for dataset_id in (501, 502):
        for variant in ("whole", "killed"):
            epochs = {"training.epochs": 3 if dataset_id == 501 else 2}
            add_variant(dataset_id, variant=variant, settings=LENGTH | epochs)
    return Bench(prepared_of_module, tmp_path_factory.mktemp("stock_results"))


@pytest.fixture(scope="module")
def pretrained(bench: Bench) -> Path:
    """A finished, undisturbed pre-training."""
    arguments = bench.training(501, "whole", "nnUNetTrainerBDFMPretrain")
    bench.run("nnUNetv2_train", *arguments)
    return bench.folder(501, "whole", "nnUNetTrainerBDFMPretrain") / "checkpoint_final.pth"


@pytest.fixture(scope="module")
def tuned(bench: Bench, pretrained: Path) -> Path:
    """The folder of a fine-tuning from it."""
    arguments = bench.training(502, "whole", "nnUNetTrainerBDFM")
    output = bench.run("nnUNetv2_train", *arguments, BDFM_WEIGHTS=str(pretrained))
    assert "100.0% of the encoder" in output and "input channels 1 to 4" in output
    return bench.folder(502, "whole", "nnUNetTrainerBDFM")


def _curves(folder: Path) -> dict[str, Any]:
    curves = json.loads((folder / "pretraining_summary.json").read_text())["curves"]
    return {name: curves[name] for name in TERMS}


def test_killed_pretraining_continues_to_the_same_losses(bench: Bench, pretrained: Path) -> None:
    trainer = "nnUNetTrainerBDFMPretrain"
    folder = bench.folder(501, "killed", trainer)
    with bench.start("nnUNetv2_train", *bench.training(501, "killed", trainer)) as process:
        kill_once_there_is(folder / "checkpoint_latest.pth", process)
    assert not (folder / "checkpoint_final.pth").exists()
    bench.run("nnUNetv2_train", *bench.training(501, "killed", trainer), "--c")
    assert (folder / "checkpoint_final.pth").is_file()
    continued, undisturbed = _curves(folder), _curves(pretrained.parent)
    assert {len(values) for values in continued.values()} == {3}
    for name, values in undisturbed.items():  # the command uses all cores, so sums may differ in the last bit
        assert continued[name] == pytest.approx(values, rel=1e-5), name


def test_killed_fine_tuning_continues_without_its_weights(bench: Bench, pretrained: Path, tuned: Path) -> None:
    arguments = bench.training(502, "killed", "nnUNetTrainerBDFM")
    folder = bench.folder(502, "killed", "nnUNetTrainerBDFM")
    with bench.start("nnUNetv2_train", *arguments, BDFM_WEIGHTS=str(pretrained)) as process:
        kill_once_there_is(folder / "checkpoint_latest.pth", process)
    bench.run("nnUNetv2_train", *arguments, "--c", BDFM_WEIGHTS="/nowhere.pth")
    ours, theirs = (read_checkpoint(path / "checkpoint_final.pth").weights for path in (folder, tuned))
    for name, tensor in theirs.items():
        assert ours[name].numpy() == pytest.approx(tensor.numpy(), rel=1e-3, abs=1e-4), name


def test_prediction_and_evaluation_of_what_was_fine_tuned(bench: Bench, tuned: Path, tmp_path: Path) -> None:
    raw = bench.prepared.folder("nnUNet_raw", 502)
    splits = json.loads((bench.prepared.folder("nnUNet_preprocessed", 502) / "splits_final.json").read_text())
    cases = splits[0]["val"]
    for part, pattern in (("imagesTr", "{}_*.nii.gz"), ("labelsTr", "{}.nii.gz")):
        (tmp_path / part).mkdir()
        for path in (found for case in cases for found in (raw / part).glob(pattern.format(case))):
            shutil.copy(path, tmp_path / part)
    bench.run(
        "nnUNetv2_predict", "-d", 502, "-c", "whole", "-f", 0, "-tr", "nnUNetTrainerBDFM", "-p", "BDFMPlans",
        "-device", "cpu", "-i", tmp_path / "imagesTr", "-o", tmp_path / "predicted", "--disable_tta",
        "-npp", 1, "-nps", 1,
    )  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "predicted").glob("*.nii.gz")) == [f"{c}.nii.gz" for c in cases]
    scores = tmp_path / "scores.json"
    folders = tmp_path / "labelsTr", tmp_path / "predicted"
    bench.run("bdfm", "evaluate", *folders, "--release", "brats2023-gli", "-o", scores)
    result = json.loads(scores.read_text())
    assert [row["case"] for row in result["cases"]] == cases
    assert all(0 <= region["dice"]["mean"] <= 1 for region in result["summary"].values())
    assert scores.with_suffix(".csv").is_file()


def test_an_exported_model_segments_the_same_without_our_trainers(bench: Bench, tuned: Path, tmp_path: Path) -> None:
    images = bench.prepared.folder("nnUNet_raw", 502) / "imagesTr"
    case = sorted(path.name[:-12] for path in images.iterdir())[0]
    (tmp_path / "images").mkdir()
    for path in images.glob(f"{case}_*.nii.gz"):
        shutil.copy(path, tmp_path / "images")
    bench.run("bdfm", "export", tuned.parent, "--as", "nnUNetTrainer", "-o", tmp_path / "stock")
    for model, trainers in ((tuned.parent, bench.environ["nnUNet_extTrainer"]), (tmp_path / "stock", "")):
        bench.run(
            "nnUNetv2_predict_from_modelfolder", "-m", model, "-i", tmp_path / "images", "-o", tmp_path / model.name,
            "-f", 0, "-device", "cpu", "-npp", 1, "-nps", 1, nnUNet_extTrainer=trainers,
        )  # fmt: skip
    ours, theirs = ((tmp_path / name / f"{case}.nii.gz").read_bytes() for name in (tuned.parent.name, "stock"))
    assert gzip.decompress(ours) == gzip.decompress(theirs)


def test_exported_weights_are_fine_tuned_from(bench: Bench, pretrained: Path, tmp_path: Path) -> None:
    bench.run("bdfm", "export", pretrained, "-o", tmp_path / "shared", "--licence", "CC BY 4.0")
    assert "SwinUNet" in bench.run("bdfm", "info", tmp_path / "shared")
    bench.run("bdfm", "plan", "-d", 502, "--weights", tmp_path / "shared", "-p", "FromHub", "--workers", 1)
    out = tmp_path / "full.pth"
    output = bench.run("bdfm", "weights", tmp_path / "shared", "-d", 502, "-p", "FromHub", "-o", out)
    assert "100.0% of the encoder" in output
    full, source = (read_checkpoint(path).weights[FIRST_BLOCK] for path in (out, pretrained))
    assert full.equal(source)


def test_plans_that_match_a_checkpoint_bring_its_weights(bench: Bench, pretrained: Path) -> None:
    bench.run("bdfm", "plan", "-d", 502, "--weights", pretrained, "-p", "Matched", "--workers", 1)
    settings = [part for name, value in LENGTH.items() for part in ("--set", f"{name}={value}")]
    settings += ["--set", "batch_size=2", "--set", "training.initial_lr=1e-12", "--set", "training.weight_decay=0"]
    bench.run("bdfm", "plan", "-d", 502, "-p", "Matched", "--variant", "short", *settings)
    output = bench.run("nnUNetv2_train", *bench.training(502, "short", "nnUNetTrainerBDFM", "Matched"))
    assert f"weights from {pretrained}" in output and "100.0% of the encoder" in output
    final = bench.folder(502, "short", "nnUNetTrainerBDFM", "Matched") / "checkpoint_final.pth"
    trained, source = (read_checkpoint(path).weights[FIRST_BLOCK] for path in (final, pretrained))
    assert trained.numpy() == pytest.approx(source.numpy(), abs=1e-6)  # the rate is next to nothing


@pytest.mark.parametrize(
    ("variables", "fold", "sentence"),
    [
        ({"BDFM_WEIGHTS": "nowhere.pth"}, 0, "nowhere.pth does not exist"),
        ({"BDFM_WEIGHTS": __file__}, 0, "test_stock_commands.py is no plain checkpoint"),
        ({}, 9, "splits_final.json has 5 folds, so there is no fold 9"),
    ],
)
def test_bad_input_ends_in_one_sentence(bench: Bench, variables: dict[str, str], fold: int, sentence: str) -> None:
    arguments = bench.training(502, "whole", "nnUNetTrainerBDFM")
    arguments[2] = fold
    output = bench.run("nnUNetv2_train", *arguments, code=1, **variables)
    (line,) = (line for line in output.splitlines() if line.startswith("bdfm: error:"))
    assert sentence in line and "Traceback" not in output
    assert not list((bench.folder(502, "whole", "nnUNetTrainerBDFM").parent / f"fold_{fold}").glob("*.partial.*"))
