"""Subject-level trainings on the made-up cohort: what they learn from, leave behind, continue and predict."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.evaluation.subject_tables import read_predictions
from bdfm_nnunet.trainers import (
    nnUNetTrainerBDFMClassification,
    nnUNetTrainerBDFMRegression,
    nnUNetTrainerBDFMSurvival,
)
from tests.conftest import Prepared
from tests.subject_cohort import SHORT_TRAINING, own_subjects
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import curves, make_trainer


@pytest.fixture(scope="module")
def cohort(_prepared_once: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prepared]:
    with own_subjects(_prepared_once, tmp_path_factory.mktemp("subjects")) as own:
        yield own


def _make(cohort: Prepared, kind: type, variant: str, **settings: Any) -> Any:
    return make_trainer(kind, cohort, cohort.unlabelled, variant, SHORT_TRAINING | settings)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (nnUNetTrainerBDFMClassification, {"idh", "site", "site=A", "site=B", "site=C", "grade", "grade=4"}),
        (nnUNetTrainerBDFMRegression, {"age"}),
        (nnUNetTrainerBDFMSurvival, {"death", "death@600"}),
    ],
)
def test_it_learns_all_targets_of_its_kind(kind: type, columns: set[str], cohort: Prepared) -> None:
    trainer = _make(cohort, kind, f"all_{kind.__name__[14:]}")
    trainer.run_training()
    trainer.perform_actual_validation()
    found = curves(trainer)
    assert all(np.isfinite(values).all() for values in found.values())
    table = read_predictions(Path(trainer.output_folder) / "validation" / "subjects.csv")
    assert columns <= set(table.columns) and set(table.cases) == set(map(str, trainer.do_split()[1]))
    scores = json.loads((Path(trainer.output_folder) / "validation" / "subject_scores.json").read_text())
    assert set(scores) == {name for name in scores if name in columns}


def test_cox_keeps_the_baseline_of_its_training_cases(cohort: Prepared) -> None:
    settings = {"finetuning.survival_loss": "cox", "finetuning.most_crops": 1, "training.epochs": 1, "batch_size": 4}
    trainer = _make(cohort, nnUNetTrainerBDFMSurvival, "cox", **settings)
    trainer.run_training()
    folder = Path(trainer.output_folder)
    before = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    assert before["bdfm_task"]["targets"][0]["baseline"] == []
    trainer.perform_actual_validation()
    after = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    (told,) = after["bdfm_task"]["targets"]
    assert after.keys() == before.keys() and after["logging"] == before["logging"]
    assert all(torch.equal(after["network_weights"][name], value) for name, value in before["network_weights"].items())
    cases = [str(case) for case in trainer.do_split()[0]]
    rows, truth = (
        trainer.task.shown.predict(trainer.task.datasets[0], cases),
        trainer.task.targets.values("death", cases),
    )
    risks = np.array([float(rows[case].mean(0)[0]) for case in cases])
    for edge, hazard in zip(told["edges"], told["baseline"], strict=True):
        due = [time for time, event in truth.tolist() if event and time <= edge]
        assert hazard == pytest.approx(sum(1 / np.exp(risks[truth[:, 0] >= time]).sum() for time in due), rel=1e-6)
    table = read_predictions(folder / "validation" / "subjects.csv")
    assert [name for name in table.columns if "@" in name] == [f"death@{edge:g}" for edge in told["edges"]]
    again = _make(cohort, nnUNetTrainerBDFMSurvival, "cox", **settings)
    again.load_checkpoint(str(folder / "checkpoint_best.pth"))


def _record_keys(trainer: Any) -> list[list[str]]:
    """Lets the trainer note the cases of each step."""
    seen, train_step = [], trainer.train_step

    def stepping(batch: Any) -> Any:
        seen.append(list(batch["keys"]))
        return train_step(batch)

    trainer.train_step = stepping
    return seen


@pytest.mark.parametrize("batch", [2, 3, 5])
def test_every_training_case_is_seen_in_each_pass(batch: int, cohort: Prepared) -> None:
    """Batches that do not divide the number of cases, or are larger, leave no case out."""
    trainer = _make(
        cohort, nnUNetTrainerBDFMRegression, f"passes{batch}", batch_size=batch,
        **{"training.epochs": 1, "training.iterations_per_epoch": 4, "finetuning.most_crops": 1},
    )  # fmt: skip
    seen = _record_keys(trainer)
    trainer.run_training()
    cases = set(trainer.task._known(trainer.do_split()[0]))
    order = [key for keys in seen for key in keys]
    passes = [order[at : at + len(cases)] for at in range(0, len(order), len(cases))]
    assert len(cases) >= 3 and all(set(each) == cases for each in passes if len(each) == len(cases))
    assert all(len(keys) == batch for keys in seen)


def test_stopped_by_a_signal_it_goes_on_bit_for_bit(cohort: Prepared) -> None:
    settings = {"finetuning.targets": "idh", "finetuning.mirror_axes": [2]}
    whole = _make(cohort, nnUNetTrainerBDFMClassification, "whole", **settings)
    whole.run_training()
    make = lambda: _make(cohort, nnUNetTrainerBDFMClassification, "stopped", **settings)  # noqa: E731
    assert_same_run(stopped_and_continued(make, step=4), whole)


def test_another_table_of_targets_does_not_go_on_in_silence(cohort: Prepared) -> None:
    settings = {"finetuning.targets": "age", "finetuning.most_crops": 1, "training.epochs": 1}
    _make(cohort, nnUNetTrainerBDFMRegression, "other_table", **settings).run_training()
    again = _make(cohort, nnUNetTrainerBDFMRegression, "other_table", **settings)
    again.task.targets.numbers["age"][:] += 1  # as after a new `bdfm targets`
    path = Path(again.output_folder) / "checkpoint_final.pth"
    with pytest.raises(InputError, match="trained for other targets"):
        again.load_checkpoint(str(path))


def test_frozen_leaves_the_encoder_bit_identical(cohort: Prepared) -> None:
    trainer = _make(
        cohort, nnUNetTrainerBDFMClassification, "frozen",
        **{"finetuning.strategy": "frozen", "finetuning.most_crops": 1, "training.epochs": 1},
    )  # fmt: skip
    trainer.initialize()
    before = {name: value.clone() for name, value in trainer.network.state_dict().items()}
    trainer.run_training()
    changed = {name for name, value in trainer.network.state_dict().items() if not torch.equal(value, before[name])}
    assert "head.weight" in changed and not any(name.startswith("encoder.") for name in changed)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        (nnUNetTrainerBDFMRegression, {"finetuning.targets": "idh"}, "a binary target"),
        (nnUNetTrainerBDFMRegression, {"finetuning.targets": "weight"}, "no target of the data set"),
        (nnUNetTrainerBDFMRegression, {"finetuning.mirror_axes": [3]}, "axes from 0 to 2"),
        (nnUNetTrainerBDFMRegression, {"finetuning.augment": "strong"}, "settings of several tasks"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    kind: type, settings: dict[str, Any], expected: str, cohort: Prepared
) -> None:
    with pytest.raises(InputError, match=expected):
        _make(cohort, kind, f"refused_{len(expected)}", **settings).initialize()


def test_a_fold_without_validation_values_is_one_sentence(cohort: Prepared) -> None:
    trainer = _make(cohort, nnUNetTrainerBDFMRegression, "no_validation")
    targets = trainer.task.targets
    held_out = [targets.cases.index(str(case)) for case in trainer.do_split()[1]]
    targets.numbers["age"][held_out] = np.nan
    with pytest.raises(InputError, match="no validation case of fold 0 has a value of age"):
        trainer.initialize()


@pytest.mark.parametrize(("wanted", "numbers"), [(None, [0, 1, 0, 1]), (1, [0, 0, 0, 0])])
def test_an_epoch_validates_all_cases_or_as_many_as_are_wanted(
    wanted: int | None, numbers: list[int], cohort: Prepared
) -> None:
    trainer = _make(cohort, nnUNetTrainerBDFMRegression, f"validated{wanted}")
    cases = sorted(trainer.task._known(sorted(trainer.task.targets.cases)))
    trainer.do_split = lambda: (cases[:-2], cases[-2:])
    trainer.task.most_validated = wanted
    trainer.initialize()
    _, held_out = trainer.task.batch_sources()
    shown = [held_out.generate_numbered_batch(number)["keys"] for number in trainer.task.validation_numbers(range(4))]
    assert shown == [[cases[-2:][number]] for number in numbers]
    assert trainer.num_val_iterations_per_epoch == len(set(numbers))


def test_a_case_as_one_crop(cohort: Prepared) -> None:
    settings = {"finetuning.view": "whole", "training.epochs": 1}
    trainer = _make(cohort, nnUNetTrainerBDFMRegression, "one_crop", **settings)
    trainer.run_training()
    largest = np.max([*trainer.task.shown.shapes.values()], axis=0)
    assert (np.array(trainer.task.shown.crop) >= largest).all() and (np.array(trainer.task.shown.crop) % 8 == 0).all()
    assert "shown as 1 crop of" in Path(trainer.log_file).read_text()


def test_without_targets_one_sentence_names_the_command(cohort: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cohort.folder("nnUNet_preprocessed", cohort.unlabelled)
    trainer = _make(cohort, nnUNetTrainerBDFMSurvival, "without")
    monkeypatch.setattr("bdfm_nnunet.targets.target_files.TARGETS_TABLE", "elsewhere.csv")
    with pytest.raises(InputError, match=f"{folder.name}.*bdfm targets"):
        trainer.initialize()
