"""`bdfm predict-subjects` on the made-up cohort: images, cases that are kept out, maps, and what is refused."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet.cli import main
from bdfm_nnunet.data.subject_bags import whole_case
from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.files import write_json
from bdfm_nnunet.inputs.input_fingerprint import INPUT_FINGERPRINT
from bdfm_nnunet.networks.subject_network import build_subject_network
from bdfm_nnunet.prediction import subject_predictor
from bdfm_nnunet.split_files import SPLITS_TABLE
from bdfm_nnunet.trainers import nnUNetTrainerBDFMRegression
from tests.conftest import Prepared
from tests.subject_cohort import SHORT_TRAINING, own_subjects
from tests.training.trainings import make_trainer


@pytest.fixture(scope="module")
def cohort(_prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with own_subjects(_prepared_once, tmp_path_factory.mktemp("predicted_subjects")) as own:
        yield own


@pytest.fixture(scope="module")
def predicting(cohort: Prepared) -> Any:
    """A finished regression of one fold; what is called fold 1 has other weights and numbers."""
    settings = {"finetuning.targets": "age", "finetuning.pooling": "attention", "finetuning.channel_dropout": 0.3}
    settings = SHORT_TRAINING | settings | {"training.epochs": 1}
    trainer = make_trainer(nnUNetTrainerBDFMRegression, cohort, cohort.unlabelled, "predicted", settings)
    trainer.run_training()
    trainer.perform_actual_validation()
    folder = Path(trainer.output_folder)
    content = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    content["network_weights"] = {name: value * 1.1 for name, value in content["network_weights"].items()}
    content["bdfm_task"]["targets"][0] |= {"mean": 10.0, "deviation": 3.0}
    (folder.parent / "fold_1").mkdir()
    torch.save(content, folder.parent / "fold_1" / "checkpoint_best.pth")
    return trainer


def _predict(cohort: Prepared, out: Path, *options: object, folds: str = "0") -> int:
    words = ["predict-subjects", "-d", cohort.unlabelled, "-c", "predicted", "-p", cohort.plans, "-f", *folds.split()]
    return main([*map(str, words), "-tr", "nnUNetTrainerBDFMRegression", "-o", str(out), *map(str, options)])


def test_predictions_of_images_are_those_of_the_validation(cohort: Prepared, predicting: Any, tmp_path: Path) -> None:
    """The command on raw images; its maps add up to what the network says."""
    trainer = predicting
    table = read_predictions(Path(trainer.output_folder) / "validation" / "subjects.csv")
    images = tmp_path / "images"
    images.mkdir()
    for path in (cohort.folder("nnUNet_raw", cohort.unlabelled) / "imagesTr").glob(f"{table.cases[0]}_*"):
        shutil.copy(path, images)
    out, maps = tmp_path / "out" / "subjects.csv", tmp_path / "maps"
    assert _predict(cohort, out, "-i", images, "--saliency", maps) == 0
    found = read_predictions(out)
    assert found.cases == (table.cases[0],) and found.patients[0] == table.patients[0]
    assert found.columns["age"][0] == pytest.approx(table.columns["age"][0], rel=1e-3)
    image, saliency = nib.load(next(images.glob("*_0000*"))), nib.load(maps / f"{table.cases[0]}_age.nii.gz")
    assert saliency.shape == image.shape and np.allclose(saliency.affine, image.affine)
    output = trainer.task.outputs[0]
    bias = float(trainer.network.head.bias.detach()[0]) * output.deviation + output.mean
    inside = float(np.asarray(saliency.dataobj).sum())
    assert abs(inside) > 0
    # crops reach beyond the brain, so a part of the contributions has no voxel
    assert np.sign(inside) == np.sign(found.columns["age"][0] - bias)


def test_images_that_depart_from_the_training_are_named(
    cohort: Prepared, predicting: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    """One case as it was trained on, one with its first channel in place of the second; then without raw images."""
    raw = cohort.folder("nnUNet_raw", cohort.unlabelled) / "imagesTr"
    case, images, out = str(predicting.do_split()[0][0]), tmp_path / "images", tmp_path / "subjects.csv"
    assert (Path(predicting.output_folder).parent / INPUT_FINGERPRINT).is_file()
    images.mkdir()
    for path in raw.glob(f"{case}_*"):
        shutil.copy(path, images)
    assert _predict(cohort, out, "-i", images, "--strict-input") == 0
    assert "look" not in caplog.text and read_predictions(out).cases == (case,)
    for path in raw.glob(f"{case}_*"):
        first = path.name.replace("_0001.", "_0000.")
        shutil.copy(raw / first, images / path.name.replace(case, "doubled"))
    out.unlink()
    assert _predict(cohort, out, "-i", images) == 0
    assert "doubled_0001.nii.gz holds the same image as doubled_0000.nii.gz" in caplog.text
    assert "1 of 2 cases depart" in caplog.text and set(read_predictions(out).cases) == {case, "doubled"}
    assert _predict(cohort, tmp_path / "strict.csv", "-i", images, "--strict-input") == 2
    assert "1 of 2 cases depart from the training cases, nothing was predicted" in capsys.readouterr().err
    assert not (tmp_path / "strict.csv").exists()


def test_a_case_that_lacks_a_channel_is_predicted_where_all_folds_have_learnt_to_do_without(
    cohort: Prepared, predicting: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = str(predicting.do_split()[1][0])
    images = tmp_path / "images"
    images.mkdir()
    for path in (cohort.folder("nnUNet_raw", cohort.unlabelled) / "imagesTr").glob(f"{case}_*"):
        shutil.copy(path, images)
    assert _predict(cohort, tmp_path / "whole.csv", "-i", images) == 0
    (images / f"{case}_0000.nii.gz").unlink()
    assert _predict(cohort, tmp_path / "lacking.csv", "-i", images) == 0
    whole, lacking = (read_predictions(tmp_path / f"{name}.csv") for name in ("whole", "lacking"))
    assert lacking.cases == (case,) and lacking.columns["age"][0] != whole.columns["age"][0]
    other = Path(predicting.output_folder).parent / "fold_2"
    other.mkdir()
    content = torch.load(Path(predicting.output_folder) / "checkpoint_best.pth", weights_only=False)
    assert content.pop("bdfm_channel_dropout") == 0.3
    torch.save(content, other / "checkpoint_best.pth")
    assert _predict(cohort, tmp_path / "refused.csv", "-i", images, folds="0 2") == 2
    assert f"{case} lacks channel 0000" in capsys.readouterr().err
    shutil.rmtree(other)


def test_kept_out_cases_are_predicted_by_each_fold_and_by_all(
    cohort: Prepared,
    predicting: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By fold, together, from raw and preprocessed cases; each network is made once, and its numbers are its own."""
    training, held_out = predicting.do_split()
    raw, folder = (cohort.folder(each, cohort.unlabelled) for each in ("nnUNet_raw", "nnUNet_preprocessed"))
    for place in (raw, folder):
        write_json(place / SPLITS_TABLE, {"external": {"site=Ulm": [*held_out], "site=Bonn": [str(training[0])]}})
    assert _predict(cohort, tmp_path / "x.csv", "--external", "ulm") == 2
    said = capsys.readouterr().err
    assert "has trained on" in said and "cases that are kept out" in said and not (tmp_path / "x.csv").exists()
    monkeypatch.setattr("bdfm_nnunet.exposure.subject_exposure.check_untrained", lambda *_: None)
    built = []
    build = subject_predictor.build_subject_network
    monkeypatch.setattr(subject_predictor, "build_subject_network", lambda *a, **k: built.append(1) or build(*a, **k))
    found = {}
    for folds in ("0", "1", "0 1"):
        assert _predict(cohort, tmp_path / f"{folds}.csv", "--external", "Ulm", folds=folds) == 0
        found[folds] = read_predictions(tmp_path / f"{folds}.csv")
    assert len(built) == 4 and list(found["0"].cases) == sorted(held_out) and len(held_out) > 1
    ages = {folds: table.columns["age"] for folds, table in found.items()}
    assert np.array_equal(ages["0 1"], (ages["0"] + ages["1"]) / 2) and abs(ages["0"] - ages["1"]).min() > 10
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    assert _predict(cohort, tmp_path / "p.csv", "--external", folds="1") == 0
    everyone = read_predictions(tmp_path / "p.csv")
    assert everyone.cases == tuple(sorted(map(str, [*held_out, training[0]])))
    assert "unknown: " in caplog.text and "holds no raw images, set nnUNet_raw" in caplog.text
    again = everyone.taken(found["1"].cases).columns["age"]
    assert np.allclose(again, _one_by_one(cohort, predicting, found["1"].cases), rtol=0, atol=0)
    assert np.allclose(again, ages["1"], rtol=1e-3)
    assert _predict(cohort, tmp_path / "m.csv", "--external", "--saliency", tmp_path / "maps") == 2
    assert "--saliency writes on grids of raw images" in capsys.readouterr().err


def test_what_cannot_be_predicted_is_one_sentence(
    cohort: Prepared, predicting: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = cohort.folder("nnUNet_preprocessed", cohort.unlabelled), tmp_path / "m.csv"
    types = folder / "targets.json"
    before = types.read_text()
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        (cohort.folder(variable, cohort.unlabelled) / SPLITS_TABLE).unlink(missing_ok=True)

    def refused(*options: object, folds: str = "0") -> str:
        assert _predict(cohort, out, *options, folds=folds) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and not out.exists(), error
        return error

    assert "give either -i IMAGES or --external" in refused("--external", "Ulm", "-i", tmp_path)
    assert "give either -i IMAGES or --external" in refused()
    assert "no site is kept out" in refused("--external")
    assert "fold 0 is named twice" in refused("-i", tmp_path, folds="0 1 0")
    assert "-o and --per-patient are both" in refused("-i", tmp_path, "--per-patient", out)
    (tmp_path / "taken").write_text("")
    assert "taken" in refused("-i", tmp_path, "--per-patient", tmp_path / "taken" / "p.csv")
    assert "taken" in refused("-i", tmp_path, "--saliency", tmp_path / "taken")
    types.write_text(before.replace("years", "months"))
    assert "learned age as continuous (years), but targets.json now" in refused("-i", tmp_path)
    types.write_text(before)
    assert "has no file that ends in .nii.gz" in refused("-i", tmp_path)
    model = Path(predicting.output_folder).parent
    told = torch.load(model / "fold_1" / "checkpoint_best.pth", weights_only=False)["bdfm_task"]
    months = [{**told["targets"][0], "unit": "months"}]
    for number, (changes, expected) in enumerate(
        [
            *(({"bdfm_task": {**told, **each}}, "does not tell its targets") for each in IMPOSSIBLE),
            ({"trainer_name": "nnUNetTrainerBDFM"}, "was trained by nnUNetTrainerBDFM, which predicts no targets of"),
            ({"bdfm_task": {**told, "targets": months}}, "learned different targets: name folds of one training"),
        ],
        start=2,
    ):
        content = torch.load(model / "fold_1" / "checkpoint_best.pth", weights_only=False)
        (model / f"fold_{number}").mkdir()
        torch.save({**content, **changes}, model / f"fold_{number}" / "checkpoint_best.pth")
        together = "1 " if "different" in expected else ""
        assert expected in refused("-i", tmp_path, folds=f"{together}{number}")


IMPOSSIBLE: list[dict[str, Any]] = [
    {"targets": []}, {"crop": [8, 0, 8]}, {"crop": [8, 8]}, {"crop": [9**6] * 3}, {"overlap": 1.0},
]  # fmt: skip


def _one_by_one(cohort: Prepared, trainer: Any, cases: Sequence[str]) -> list[float]:
    """What fold 1 says, its weights loaded anew for each case."""
    content = torch.load(Path(trainer.output_folder).parent / "fold_1" / "checkpoint_best.pth", weights_only=False)
    task, said = content["bdfm_task"], []
    for case in cases:
        network = build_subject_network(
            trainer.configuration_manager.configuration,
            inputs=trainer.num_input_channels,
            outputs=1,
            pooling="attention",
        )
        network.load_state_dict(content["network_weights"])
        crops, _ = whole_case(trainer.task.datasets[1], case, task["crop"], overlap=task["overlap"])
        with torch.no_grad():
            output = network.eval()(crops[None])[0]
        said.append(float(output.double()[0] * 3.0 + 10.0))
    return said
