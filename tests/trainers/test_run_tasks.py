"""Subject-level trainings on runs: from pre-trained weights to predictions, resuming, task states, who is who."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.files import write_json
from bdfm_nnunet.images.sequence_files import read_header
from bdfm_nnunet.probes.feature_tables import read_features
from bdfm_nnunet.split_files import SPLITS_TABLE
from bdfm_nnunet.trainers import (
    nnUNetTrainerBDFMClassification,
    nnUNetTrainerBDFMRegression,
    nnUNetTrainerBDFMSurvival,
    nnUNetTrainerNeuroSTORM,
    nnUNetTrainerReidentification,
)
from tests.conftest import Prepared, point_to
from tests.run_targets import AGES, SURVIVAL, with_run_targets
from tests.sequence_cohort import NETWORK
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer

LENGTH = {
    "batch_size": 2, "training.epochs": 2, "training.iterations_per_epoch": 2, "training.initial_lr": 3e-3,
    "training.workers": 0, "finetuning.rotation": 10.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def cohort(_sequences_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    """The tiny cohort of runs, with targets."""
    root = tmp_path_factory.mktemp("run_tasks")
    with pytest.MonkeyPatch.context() as monkeypatch:
        point_to(root, monkeypatch)
        yield with_run_targets(_sequences_once, root)


def _make(cohort: Prepared, kind: type, variant: str, **settings: Any) -> Any:
    return make_trainer(kind, cohort, cohort.labelled, variant, LENGTH | settings)


def _patient_of(cohort: Prepared, case: str) -> str:
    manifest = json.loads((cohort.folder("nnUNet_raw", cohort.labelled) / "manifest.json").read_text())
    (found,) = (str(row["patient"]) for row in manifest["cases"] if row["case"] == case)
    return found


@pytest.fixture(scope="module")
def weights(cohort: Prepared) -> Path:
    """A pre-training of a few steps."""
    settings = {"training.epochs": 1, "pretraining.mask_window": [2, 2, 2, 2]}
    trainer = _make(cohort, nnUNetTrainerNeuroSTORM, "pretrained", **settings)
    trainer.run_training()
    return checkpoint(trainer)


@pytest.fixture(scope="module")
def tuned(cohort: Prepared, weights: Path) -> Any:
    """A fine-tuning of prompts and norms with the first head, validated."""
    settings = {
        "finetuning.weights": str(weights), "finetuning.strategy": "prompts and norms", "finetuning.prompts": 3,
        "finetuning.head": "v1", "finetuning.clips": 2, "finetuning.targets": "age", "finetuning.p_intensity": 0.5,
    }  # fmt: skip
    trainer = _make(cohort, nnUNetTrainerBDFMRegression, "tuned", **settings)
    trainer.run_training()
    trainer.perform_actual_validation()
    return trainer


def test_fine_tuning_starts_from_the_pre_training_and_trains_what_it_says(tuned: Any, weights: Path) -> None:
    said = Path(tuned.log_file).read_text()
    frames = NETWORK["input_shape"][3]
    assert f"2 clips of 16 x 16 x 16 voxels and {frames} frames" in said and "parameters train (" in said
    report = json.loads((Path(tuned.output_folder) / "load_report.json").read_text())
    assert report["encoder_share"] == 1
    before = torch.load(weights, weights_only=False)["network_weights"]
    after = tuned.network.state_dict()
    names = [name for name in after if name.startswith("encoder.") and not name.endswith(".prompt")]
    source = {name.partition("encoder.")[2]: value for name, value in before.items() if "encoder." in name}
    still = {name for name in names if torch.equal(after[name], source[name.removeprefix("encoder.")])}
    assert still == {name for name in names if "norm" not in name}
    assert all(np.isfinite(values).all() for values in curves(tuned).values())


def test_values_are_standardised_by_subjects_and_predicted_in_their_unit(tuned: Any, cohort: Prepared) -> None:
    (told,) = torch.load(checkpoint(tuned, "best"), weights_only=False)["bdfm_task"]["targets"]
    subjects = {_patient_of(cohort, case) for case in tuned.do_split()[0]}
    ages = [AGES[subject[-2:]] for subject in sorted(subjects)]
    assert len(tuned.do_split()[0]) > len(subjects)  # some have two runs
    assert (told["mean"], told["deviation"]) == (pytest.approx(np.mean(ages)), pytest.approx(np.std(ages)))
    table = read_predictions(Path(tuned.output_folder) / "validation" / "subjects.csv")
    assert set(table.cases) == set(tuned.do_split()[1]) and abs(table.columns["age"] - 30).max() < 100
    of_subjects = read_predictions(Path(tuned.output_folder) / "validation" / "patients.csv")
    assert len(set(of_subjects.patients)) == len(of_subjects.cases) == len(set(table.patients))
    for patient, value in zip(of_subjects.patients, of_subjects.columns["age"], strict=True):
        own = table.columns["age"][[at for at, each in enumerate(table.patients) if each == patient]]
        assert value == pytest.approx(own.mean())  # all runs have equally many clips


def _predict(cohort: Prepared, out: Path, *options: object) -> int:
    words = ["predict-subjects", "-d", cohort.labelled, "-c", "tuned", "-p", cohort.plans, "-f", 0]
    return main([*map(str, words), "-tr", "nnUNetTrainerBDFMRegression", "-o", str(out), *map(str, options)])


def test_predictions_of_a_converted_data_set_are_those_of_the_validation(
    tuned: Any, cohort: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, validation = cohort.folder("nnUNet_raw", cohort.labelled), Path(tuned.output_folder) / "validation"
    maps, people = tmp_path / "maps", tmp_path / "people.csv"
    options = ("--saliency", maps, "--saliency-frames", "--per-patient", people)
    assert _predict(cohort, tmp_path / "runs.csv", "-i", raw, *options) == 0
    found, known = read_predictions(tmp_path / "runs.csv"), read_predictions(validation / "subjects.csv")
    assert len(found.cases) == 8 and found.taken(known.cases).columns["age"] == pytest.approx(known.columns["age"])
    of_subjects, scored = read_predictions(people), read_predictions(validation / "patients.csv")
    both = dict(zip(of_subjects.cases, of_subjects.columns["age"], strict=True))
    assert len(both) == 6 and [both[each] for each in scored.patients] == pytest.approx(scored.columns["age"])
    case = found.cases[0]
    image, header = nib.load(maps / f"{case}_age.nii.gz"), read_header(raw / "sequencesTr" / f"{case}.json")
    assert image.shape == header.shape and np.allclose(image.affine, header.affine)
    output = tuned.task.outputs[0]
    bias = float(tuned.network.head.bias.detach()[0]) * output.deviation + output.mean
    assert np.asarray(image.dataobj).sum() + bias == pytest.approx(found.columns["age"][0], rel=1e-3)
    assert _predict(cohort, tmp_path / "again.csv", "-i", raw / "sequencesTr") == 0
    assert read_predictions(tmp_path / "again.csv").columns["age"].tolist() == found.columns["age"].tolist()
    words = ["evaluate-subjects", "-d", str(cohort.labelled), "-i", str(tmp_path / "runs.csv")]
    assert main([*words, "-o", str(tmp_path / "scores"), "--resamples", "20"]) == 0
    capsys.readouterr()
    assert _predict(cohort, tmp_path / "x.csv", "-i", tmp_path / "maps") == 2
    assert "name a data set that `bdfm convert fmri-...` has written" in capsys.readouterr().err


def test_kept_out_sites_are_predicted_from_raw_and_preprocessed_runs(
    tuned: Any, cohort: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = sorted(map(str, tuned.do_split()[1]))
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        folder = cohort.folder(variable, cohort.labelled)
        monkeypatch.setattr("bdfm_nnunet.exposure.subject_exposure.check_untrained", lambda *_: None)
        write_json(folder / SPLITS_TABLE, {"external": {"site=Ulm": held_out}})
    try:
        assert _predict(cohort, tmp_path / "raw.csv", "--external", "Ulm") == 0
        monkeypatch.setenv("nnUNet_raw", str(tmp_path))
        assert _predict(cohort, tmp_path / "preprocessed.csv", "--external") == 0
    finally:
        for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
            (cohort.folder(variable, cohort.labelled) / SPLITS_TABLE).unlink()
    tables = [read_predictions(tmp_path / f"{name}.csv") for name in ("raw", "preprocessed")]
    assert tables[0].cases == tables[1].cases == tuple(held_out)
    assert tables[0].columns["age"].tolist() == tables[1].columns["age"].tolist()


def test_features_of_runs_and_what_they_tell(
    weights: Path, tuned: Any, cohort: Prepared, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "features.npz"
    words = ["features", "-d", str(cohort.labelled), "--weights", str(weights), "-p", cohort.plans]
    assert main([*words, "-o", str(out)]) == 0
    table = read_features(out)
    assert table.features.shape == (8, 24) and table.features.std(0).min() > 0
    assert main([*words, "-o", str(tmp_path / "brain.npz"), "--foreground"]) == 0
    assert not np.allclose(read_features(tmp_path / "brain.npz").features, table.features)
    prompted = ["features", "-d", str(cohort.labelled), "--weights", str(checkpoint(tuned, "best")), "-p", cohort.plans]
    assert main([*prompted, "-o", str(tmp_path / "tuned.npz")]) == 0  # with the prompts of its fine-tuning
    assert not np.allclose(read_features(tmp_path / "tuned.npz").features, table.features)
    capsys.readouterr()
    assert main([*words, "-o", str(tmp_path / "whole.npz"), "--window", "whole"]) == 2
    assert "a run is shown as clips" in capsys.readouterr().err


def test_states_of_runs_are_learnt_run_by_run_and_bit_for_bit_after_a_signal(cohort: Prepared) -> None:
    settings = {"finetuning.targets": "task", "finetuning.mirror_axes": [0], "finetuning.pooling": "attention"}
    whole = _make(cohort, nnUNetTrainerBDFMClassification, "whole", **settings)
    whole.run_training()
    make = lambda: _make(cohort, nnUNetTrainerBDFMClassification, "stopped", **settings)  # noqa: E731
    assert_same_run(stopped_and_continued(make, step=3), whole)
    units = whole.task._units(sorted(map(str, whole.do_split()[0])))
    assert len(units) == len(whole.do_split()[0])  # runs of one subject in two states are two
    trainer = _make(cohort, nnUNetTrainerBDFMClassification, "groups", **{"finetuning.targets": "group"})
    subjects = {_patient_of(cohort, case) for case in trainer.do_split()[0]}
    assert len(trainer.task._units(sorted(map(str, trainer.do_split()[0])))) == len(subjects)


def _tuned_by(cohort: Prepared, weights: Path, strategy: str, **settings: Any) -> Any:
    """Two steps of a strategy, from the pre-trained weights; the rate of the second one is 0."""
    length = {"training.epochs": 1, "training.iterations_per_epoch": 2, "finetuning.weights": str(weights)}
    named = {"finetuning.strategy": strategy, "finetuning.targets": "group", "finetuning.prompts": 2}
    trainer = _make(
        cohort, nnUNetTrainerBDFMClassification, f"by_{strategy.replace(' ', '_')}", **length, **named, **settings
    )
    trainer.run_training()
    return trainer


@pytest.mark.parametrize(
    ("strategy", "moving"),
    [
        ("full", ""),
        ("frozen", "nothing"),
        ("norms", r"norm"),
        ("embeddings", r"^patch_embed|^stages\.0\.positions"),
        ("lora", r"\.mamba\.(in_proj|x_proj|dt_proj|out_proj)\.weight$"),
        ("prompts", r"\.prompt$"),
        ("prompts and norms", r"\.prompt$|norm"),
    ],
)
def test_each_strategy_moves_its_parameters_and_leaves_every_bit_of_the_others(
    strategy: str, moving: str, cohort: Prepared, weights: Path
) -> None:
    trainer = _tuned_by(cohort, weights, strategy, **{"finetuning.head": "v1"} if strategy == "frozen" else {})
    before = {name: value for name, value in _encoder_of(weights).items() if "mask_tokens" not in name}
    after = _encoder_of(checkpoint(trainer))
    assert before.keys() == {name for name in after if not name.endswith(".prompt")}
    moved = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
    assert moved == {name for name in after if re.search(moving, name)}
    report = json.loads((Path(trainer.output_folder) / "load_report.json").read_text())
    assert report["encoder_share"] == 1
    if strategy != "full":
        modes = {name: module.training for name, module in trainer.network.encoder.named_modules()}
        assert modes["stages.0.blocks.0.mlp"] is False  # what is held does not train


def _encoder_of(path: Path) -> dict[str, torch.Tensor]:
    weights = torch.load(path, weights_only=False)["network_weights"]
    return {name.partition("encoder.")[2]: value for name, value in weights.items() if name.startswith("encoder.")}


def test_rates_fall_from_the_head_to_the_embedding(cohort: Prepared, weights: Path) -> None:
    settings = {"finetuning.weights": str(weights), "finetuning.layer_decay": 0.5, "finetuning.targets": "group"}
    trainer = _make(cohort, nnUNetTrainerBDFMClassification, "decay", **settings)
    trainer.initialize()
    names = {id(each): name for name, each in trainer.network.named_parameters()}
    peaks = {names[id(each)]: group["peak_lr"] for group in trainer.optimizer.param_groups for each in group["params"]}
    layers = {
        r"^encoder\.patch_embed|^encoder\.stages\.0\.positions": 3,
        r"^encoder\.stages\.0\.blocks|^encoder\.stages\.1\.(merging|positions)": 2,
        r"^encoder\.stages\.1\.blocks": 1,
        r"^head": 0,
    }
    expected = {name: 3e-3 * 0.5**depth for name in peaks for part, depth in layers.items() if re.search(part, name)}
    assert peaks == pytest.approx(expected) and len(set(peaks.values())) == 4


@pytest.mark.parametrize("loss", ["cox", "discrete"])
def test_survival_is_learnt_of_subjects(loss: str, cohort: Prepared, weights: Path, tmp_path: Path) -> None:
    settings = {"finetuning.weights": str(weights), "finetuning.survival_loss": loss, "batch_size": 4}
    trainer = _make(cohort, nnUNetTrainerBDFMSurvival, loss, **settings, **{"training.epochs": 1})
    trainer.run_training()
    trainer.perform_actual_validation()
    assert all(np.isfinite(values).all() for values in curves(trainer).values())
    (told,) = torch.load(checkpoint(trainer, "best"), weights_only=False)["bdfm_task"]["targets"]
    cases = sorted(map(str, trainer.do_split()[0]))
    units = trainer.task._units(cases)
    of_subjects = np.array([SURVIVAL[_patient_of(cohort, unit[0])[-2:]] for unit in units])
    assert len(units) < len(cases)  # some have two runs
    deaths = sorted(of_subjects[of_subjects[:, 1] > 0, 0])
    assert told["edges"] == deaths[1:]  # the ends of intervals, of which the first holds two deaths
    if loss == "cox":
        rows = trainer.task.shown.predict(trainer.task.datasets[0], cases)
        risks = np.array([float(torch.cat([rows[case] for case in unit]).mean()) for unit in units])
        at_risk = [np.exp(risks[of_subjects[:, 0] >= time]).sum() for time in deaths]
        assert told["baseline"] == pytest.approx(np.cumsum(1 / np.array(at_risk))[1:], rel=1e-5)
    raw = cohort.folder("nnUNet_raw", cohort.labelled)
    words = ["predict-subjects", "-d", cohort.labelled, "-c", loss, "-tr", "nnUNetTrainerBDFMSurvival", "-f", 0]
    assert main([*map(str, words), "-i", str(raw), "-o", str(tmp_path / "runs.csv")]) == 0
    found = read_predictions(tmp_path / "runs.csv")
    known = read_predictions(Path(trainer.output_folder) / "validation" / "subjects.csv")
    for name, values in known.columns.items():
        assert found.taken(known.cases).columns[name] == pytest.approx(values), name
    assert [name for name in found.columns if "@" in name] == [f"os@{edge:g}" for edge in deaths[1:]]
    words = ["evaluate-subjects", "-d", cohort.labelled, "-i", tmp_path / "runs.csv", "-o", tmp_path, "--resamples", 20]
    assert main([*map(str, words)]) == 0
    scores = json.loads((tmp_path / "result.json").read_text())["targets"]["os"]["scores"]
    assert scores["c_index"]["n"] == len(SURVIVAL) and scores["integrated_brier"]["value"] is not None


def test_who_is_who(cohort: Prepared) -> None:
    trainer = _make(cohort, nnUNetTrainerReidentification, "who", **{"training.epochs": 2})
    cases = sorted(map(str, [*trainer.do_split()[0], *trainer.do_split()[1]]))
    twice = [case for case in cases if _patient_of(cohort, case)[-2:] in ("01", "02")]
    folder = cohort.folder("nnUNet_preprocessed", cohort.labelled)
    trainer.do_split = lambda: ([case for case in cases if case not in twice], twice)
    trainer.task._kept_out = lambda: twice[:3]
    trainer.run_training()
    trainer.perform_actual_validation()
    assert len(trainer.task.outputs[0].column.classes) == 4 and trainer.network.head.out_features == 4
    told = json.loads((Path(trainer.output_folder) / "validation" / "reidentification.json").read_text())
    assert (told["queries"], told["left_out"]) == (4, 0) and 0 < told["scores"]["rank_1"]["chance"] < 1
    found = curves(trainer)
    assert found["val_losses"] == pytest.approx([1 - each for each in found["mean_average_precision"]])
    best = int(np.argmin(found["val_losses"]))
    assert told["scores"]["mean_average_precision"]["value"] == pytest.approx(found["mean_average_precision"][best])
    tested = json.loads((Path(trainer.output_folder) / "test" / "reidentification.json").read_text())
    assert (tested["queries"], tested["left_out"]) == (2, 1) and folder.is_dir()
    alone = _make(cohort, nnUNetTrainerReidentification, "alone")
    alone.do_split = lambda: (twice, [case for case in cases if case not in twice])
    with pytest.raises(InputError, match="no subject of the validation cases of fold 0 has a second run"):
        alone.initialize()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"finetuning.view": "whole"}, "finetuning.view is 'whole', which has no meaning"),
        ({"finetuning.mirror_axes": [3]}, "axes from 0 to 2"),
    ],
)
def test_settings_of_images_are_refused(settings: dict[str, Any], expected: str, cohort: Prepared) -> None:
    with pytest.raises(InputError, match=expected):
        _make(cohort, nnUNetTrainerBDFMRegression, f"refused_{len(expected)}", **settings).initialize()
