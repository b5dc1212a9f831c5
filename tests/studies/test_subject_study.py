"""Studies of targets of subjects: their parts, what is refused, and one with real trainings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet import cli
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import Predictions
from bdfm_nnunet.results import read_result
from bdfm_nnunet.studies.predicted_subjects import rows_of_target
from bdfm_nnunet.studies.scored_cases import targets_of
from bdfm_nnunet.studies.study_folder import StudyFolder, prepare
from bdfm_nnunet.studies.study_listing import list_tasks
from bdfm_nnunet.studies.study_tasks import TaskList
from bdfm_nnunet.targets import TargetColumn, Targets, TargetType, read_targets, write_targets
from tests.conftest import Prepared, point_to
from tests.studies.study_cohort import NAME, make_dataset, settings
from tests.subject_cohort import with_targets

COLUMNS = {
    "idh": TargetColumn("idh", TargetType.BINARY, ("wildtype", "mutant")),
    "age": TargetColumn("age", TargetType.CONTINUOUS, unit="years"),
}
CLASSES = {"trainer": "nnUNetTrainerBDFMClassification"}


def install(folder: Path, *, seed: int = 0) -> Targets:
    """Install targets of 20 cases; four are mutant, and of two nothing is known of the class."""
    rng = np.random.default_rng(seed)
    cases = tuple(f"case_{number:02d}" for number in range(20))
    idh = np.isin(np.arange(20), rng.permutation(20)[:4]).astype(float)
    idh[[6, 13]] = np.nan
    numbers = {"idh": idh[:, None], "age": rng.uniform(20, 80, (20, 1))}
    found = Targets(COLUMNS, cases, {case: f"p{case[5:]}" for case in cases}, {}, numbers)
    write_targets(folder, found)
    return found


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_dataset(tmp_path, monkeypatch)


def test_parts_and_fractions_are_stratified_by_the_target(dataset: Path, tmp_path: Path) -> None:
    for seed in range(3):
        targets = install(dataset, seed=seed)
        study = prepare(settings(**CLASSES), tmp_path / f"out{seed}")
        parts = study.parts
        assert study.target_names == ["idh"]
        sides = [parts.test, parts.train, *(subsets[0] for subsets in parts.subsets)]
        assert all(len(np.unique(targets.values("idh", side))) == 2 for side in sides), "both classes everywhere"
        known = [case for side in (parts.test, parts.validation, parts.train) for case in side]
        assert sorted(known) == sorted(targets.known("idh")) and len(known) == 18


def test_targets_are_those_of_the_day_it_began(dataset: Path, tmp_path: Path) -> None:
    before = install(dataset)
    tasks = TaskList(prepare(settings(**CLASSES), tmp_path / "out"))
    install(dataset, seed=5)
    study = StudyFolder.open(tmp_path / "out")
    np.testing.assert_array_equal(study.targets.values("idh", before.cases), before.numbers["idh"])
    assert [task.fingerprint for task in TaskList(study)] == [task.fingerprint for task in tasks]
    other = TaskList(prepare(settings(**CLASSES, targets=["idh"]), tmp_path / "named"))
    assert other.named("scratch_20percent_seed0").arm.set == {"finetuning.targets": ["idh"]}
    assert "finetuning.targets" not in tasks.named("scratch_20percent_seed0").arm.set


def test_arithmetic_of_networks_without_a_decoder_is_unknown_not_that_of_segmentation(
    dataset: Path, tmp_path: Path
) -> None:
    install(dataset)
    lines = list_tasks(TaskList(prepare(settings(**CLASSES), tmp_path / "out")))
    counted = {line.name.partition("_")[0]: line.tflop for line in lines}
    assert counted["pretraining"] and counted["scratch"] is None


def test_targets_beside_the_raw_data_are_found(dataset: Path, tmp_path: Path) -> None:
    raw = tmp_path / "nnUNet_raw" / NAME
    raw.mkdir()
    install(raw)
    assert prepare(settings(**CLASSES), tmp_path / "out").target_names == ["idh"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"targets": ["idh"]}, "names targets, which nnUNetTrainerBDFM does not learn"),
        ({**CLASSES, "targets": ["idh", "idh"]}, "expected different names"),
        ({**CLASSES, "mirroring": True}, "mirroring is of segmentations"),
        ({**CLASSES, "set": {"finetuning.targets": ["idh"]}}, "give it as targets"),
        ({"arms": {"a": CLASSES, "b": {}}}, "arm b is trained by nnUNetTrainerBDFM, arm a by nnUNetTrainerBDFMClassif"),
        ({**CLASSES, "targets": ["age"]}, "age, which is a continuous target: nnUNetTrainerBDFMClassification learns"),
        ({**CLASSES, "targets": ["grade"]}, "grade, which is no target of the data set"),
        ({"trainer": "nnUNetTrainerBDFMSurvival"}, "has no survival target, only idh (binary), age (continuous)"),
    ],
)
def test_what_cannot_be_is_refused(dataset: Path, tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    install(dataset)
    with pytest.raises(InputError) as refusal:
        prepare(settings(**changes), tmp_path / "out")
    assert sentence in str(refusal.value)


def test_a_data_set_without_targets_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="install the targets"):
        prepare(settings(**CLASSES), tmp_path / "out")


def test_another_test_data_set_has_the_same_targets(dataset: Path, tmp_path: Path) -> None:
    install(dataset)
    other = tmp_path / "nnUNet_raw" / "Dataset010_Other"
    other.mkdir()
    theirs = install(other, seed=3)
    study = prepare(settings(**CLASSES, test=10, hold_out=0), tmp_path / "out")
    np.testing.assert_array_equal(targets_of(study).values("idh", theirs.cases), theirs.numbers["idh"])
    turned = {**COLUMNS, "idh": TargetColumn("idh", TargetType.BINARY, ("mutant", "wildtype"))}
    for columns, what in ((turned, "the classes mutant, wildtype"), ({"age": COLUMNS["age"]}, "none of this name")):
        numbers = {name: theirs.numbers[name] for name in columns}
        write_targets(other, Targets(columns, theirs.cases, theirs.patients, {}, numbers))
        with pytest.raises(InputError, match=what):
            targets_of(study)


def test_rows_tell_truth_and_prediction_of_every_kind() -> None:
    columns = {
        "site": TargetColumn("site", TargetType.MULTICLASS, ("A", "B", "C")),
        "death": TargetColumn("death", TargetType.SURVIVAL),
    }
    numbers = {"site": np.array([[2.0], [np.nan], [0.0]]), "death": np.array([[50.0, 1], [70, 0], [np.nan, 1]])}
    cases = ("a", "b", "c")
    chances = {"A": [0.1, 0.9, 0.2], "B": [0.2, 0.0, 0.5], "C": [0.7, 0.1, 0.3]}
    found = {"site": np.array(["C", "A", "B"]), "death": np.array([0.5, 0.25, 1.0])}
    found |= {f"site={name}": np.array(values) for name, values in chances.items()}
    table = Predictions(cases, cases, found)
    targets = Targets(columns, cases, {case: case for case in cases}, {}, numbers)
    assert [*rows_of_target(columns["site"], table, targets)] == [
        {
            "case": "a",
            "target": "site",
            "truth": "C",
            "predicted": "C",
            "probabilities": {"A": 0.1, "B": 0.2, "C": 0.7},
        },
        {
            "case": "c",
            "target": "site",
            "truth": "A",
            "predicted": "B",
            "probabilities": {"A": 0.2, "B": 0.5, "C": 0.3},
        },
    ]
    assert [*rows_of_target(columns["death"], table, targets)] == [
        {"case": "a", "target": "death", "truth": [50.0, 1.0], "predicted": 0.5},
        {"case": "b", "target": "death", "truth": [70.0, 0.0], "predicted": 0.25},
    ]


def test_arms_are_scored_by_their_predictions_of_held_out_patients(
    _prepared_once: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = with_targets(_prepared_once, tmp_path)
    point_to(cohort.root, monkeypatch)
    out = tmp_path / "out"
    command = ["study", "-d", str(cohort.unlabelled), "-o", str(out), "--trainer", "nnUNetTrainerBDFMRegression"]
    command += "--target age --hold-out 40 --validation 30 --fractions 100 --seeds 1 --steps 2 --device cpu".split()
    command += "--rates 1e-3,1e-1 --set finetuning.most_crops=1 --pretrain-steps 1".split()
    assert (
        cli.main([*command, "--arm", "untrained=strategy:frozen", "--arm", "simmim=pretrain:nnUNetTrainerSimMIM"]) == 0
    )
    rows = json.loads((out / "study.json").read_text())
    targets = read_targets(cohort.folder("nnUNet_preprocessed", cohort.unlabelled))
    for row in rows:
        assert row["truth"] == targets.values("age", [row["case"]])[0, 0] and row["target"] == "age"
    by_arm = {arm: [row for row in rows if row["arm"] == arm] for arm in ("untrained", "simmim")}
    assert [row["case"] for row in by_arm["untrained"]] == [row["case"] for row in by_arm["simmim"]] != []
    assert not np.allclose(*([row["predicted"] for row in own] for own in by_arm.values()))
    table = {(each["arm"], each["measure"]): each for each in read_result(out / "result.json").extra["table"]}
    for arm, own in by_arm.items():
        error = np.mean([abs(row["truth"] - row["predicted"]) for row in own])
        assert table[arm, "mae"]["mae"]["mean"] == pytest.approx(error)
    _check_the_choice(out)


def _check_the_choice(out: Path) -> None:
    """The least validation loss has chosen, and what a task leaves is a table that `bdfm evaluate-subjects` reads."""
    folder = out / "tasks" / "untrained_100percent_seed0"
    result = read_result(folder / "result.json")
    losses = [-trial["score"] for trial in result.extra["trials"]]
    assert len(losses) == 2 and -result.extra["chosen"]["score"] == min(losses) and losses[0] != losses[1]
    assert (folder / "subjects.csv").is_file() and not [path for path in folder.glob("trial_*") if path.is_dir()]
    assert "MAE of age (years)" in (out / "study.md").read_text()
    for path in folder.glob("trial_*.json"):
        trial = read_result(path)
        found = trial.extra["predictions"]
        assert trial.extra["score"] == pytest.approx(-_smooth_l1(out, found))


def _smooth_l1(out: Path, found: list[dict[str, Any]]) -> float:
    """The loss of standardised values, with mean and deviation of the training cases."""
    study = StudyFolder.open(out)
    train = study.targets.values("age", study.parts.subsets[0][0])[:, 0]
    values = [[(row[name] - train.mean()) / train.std() for row in found] for name in ("predicted", "truth")]
    return float(torch.nn.functional.smooth_l1_loss(*map(torch.tensor, values)))
