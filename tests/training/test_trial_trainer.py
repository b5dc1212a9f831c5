"""What is counted before a training is what the training has."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet import trainers
from bdfm_nnunet.cost_records import Schedule
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.nnunet_files import resolve_configuration
from bdfm_nnunet.plans import add_variant
from bdfm_nnunet.plans.memory_targets import configuration_costs
from bdfm_nnunet.plans.plans_lookup import read_plans
from bdfm_nnunet.presets import MIXTURE_TRAINER, PRESETS, PRETRAINERS, TRAINER_PRESETS
from bdfm_nnunet.settings import OBJECTIVE_SETTINGS
from bdfm_nnunet.training.trial_trainer import count_training, schedule_of, trial_trainer
from bdfm_nnunet.training_costs import FINETUNINGS, OF_SUBJECTS, count_by_name
from tests.conftest import Prepared
from tests.training.trainings import SHORT


def what(prepared: Prepared, variant: str, **settings: Any) -> dict[str, Any]:
    """The arguments of `trial_trainer` for a variant of the labelled data set."""
    add_variant(prepared.labelled, plans_name=prepared.plans, variant=variant, settings=SHORT | settings)
    dataset = json.loads((prepared.folder("nnUNet_preprocessed", prepared.labelled) / "dataset.json").read_text())
    plans = read_plans(prepared.labelled, prepared.plans)
    return {"plans": plans, "configuration": variant, "dataset": dataset}


@pytest.mark.parametrize(
    ("name", "copies"), [("nnUNetTrainerBDFMPretrain", 4), ("nnUNetTrainerBDFM", 4), ("nnUNetTrainer", 3)]
)
def test_parameters_are_those_of_the_network_that_is_trained(prepared: Prepared, name: str, copies: int) -> None:
    with trial_trainer(name, **what(prepared, "count")) as trainer:
        costs = count_training(trainer)
    with trial_trainer(name, **what(prepared, "count")) as trainer:
        trainer.initialize()
        assert trainer.network is not None
        numbers = sum(p.numel() for p in trainer.network.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in trainer.network.parameters())
        kept = sum(len(trainer.optimizer.state[p]) for p in trainer.network.parameters())
    assert costs.parameters == numbers
    assert costs.state_bytes == copies * 4 * whole
    assert kept == 0
    assert costs.forward_flops is not None and costs.backward_flops is not None
    assert 1.5 * costs.forward_flops < costs.backward_flops < 2 * costs.forward_flops


MASKED = [name for name, preset in TRAINER_PRESETS.items() if PRESETS[preset].objective == "masked"]
OF_IMAGES = [name for name, preset in TRAINER_PRESETS.items() if PRESETS[preset].objective != "sequence"]
MIXTURE = [{"name": name} for name in OBJECTIVE_SETTINGS if name != "sequence"]  # which needs 4-D images
CASES = [
    *((name, {"pretraining.decoder": "final"}) for name in MASKED),
    *((name, {"pretraining.channels": "all", "training.optimizer": "sgd"}) for name in OF_IMAGES),
    *((name, {"batch_size": 3, "training.epochs": None}) for name in (*OF_IMAGES, *FINETUNINGS)),
    (MIXTURE_TRAINER, {"pretraining.objectives": MIXTURE}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_costs_from_the_plans_alone_are_those_of_the_trainer(
    prepared: Prepared, name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    arguments = what(prepared, "count", **settings)
    with trial_trainer(name, **arguments) as trainer:
        expected = count_training(trainer), schedule_of(trainer)
    configuration = resolve_configuration(arguments["plans"], "count")
    for _ in range(2):  # the second time from the file
        assert count_by_name(name, configuration, arguments["dataset"], plans=tmp_path / "a.json") == expected


def test_every_trainer_of_ours_can_be_counted_without_nnunet() -> None:
    assert {*PRETRAINERS, *FINETUNINGS, *OF_SUBJECTS} == set(trainers.__all__)


def test_costs_of_subjects_are_those_of_the_encoder_on_one_crop(prepared: Prepared, tmp_path: Path) -> None:
    arguments = what(prepared, "count_subjects")
    configuration = resolve_configuration(arguments["plans"], arguments["configuration"])
    options: dict[str, Any] = {"dataset": arguments["dataset"], "plans": tmp_path / "a.json"}
    segmentation, _ = count_by_name("nnUNetTrainerBDFM", configuration, **options)
    for name in OF_SUBJECTS:
        costs, schedule = count_by_name(name, configuration | {"training": {}}, **options)
        assert 0 < costs.parameters < segmentation.parameters
        assert costs.forward_flops and segmentation.forward_flops
        assert costs.forward_flops < 0.6 * segmentation.forward_flops
        assert schedule.epochs == getattr(trainers, name).task_class.epochs


def test_segmentation_costs_are_those_that_the_planner_counts(prepared: Prepared) -> None:
    arguments = what(prepared, "count")
    with trial_trainer("nnUNetTrainerBDFM", **arguments) as trainer:
        costs = count_training(trainer)
    configuration = arguments["plans"]["configurations"]["3d_fullres"]
    assert costs == configuration_costs(configuration, channels=4, classes=3, flops=True)


def test_optimiser_and_channels_change_the_count(prepared: Prepared) -> None:
    def counted(**settings: Any) -> Any:
        with trial_trainer("nnUNetTrainerBDFMPretrain", **what(prepared, "count", **settings)) as trainer:
            return count_training(trainer)

    single, joint = counted(), counted(**{"pretraining.channels": "all"})
    assert joint.parameters > single.parameters and joint.forward_flops > single.forward_flops
    sgd = counted(**{"training.optimizer": "sgd"})
    assert 4 * sgd.state_bytes == 3 * single.state_bytes
    published = counted(**{"pretraining.legacy": True})  # its loss looks at the content of the mask
    assert published.forward_flops > 0 and published.parameters != single.parameters


def test_schedule_is_read_from_the_plans_and_multiplied(prepared: Prepared) -> None:
    with trial_trainer("nnUNetTrainerBDFM", **what(prepared, "count", batch_size=3)) as trainer:
        schedule = schedule_of(trainer)
    assert schedule == Schedule(epochs=2, iterations=3, val_iterations=2, batch_size=3)
    assert (schedule.steps, schedule.samples_per_epoch, schedule.samples) == (6, 9, 18)
    assert schedule.hours(step=600, validation=0) == 1
    assert schedule.hours(step=0, validation=900) == 1


def test_a_borrowed_trainer_leaves_no_trace(
    prepared: Prepared, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = Path(os.environ["nnUNet_results"])
    monkeypatch.setenv("BDFM_WEIGHTS", "/nowhere.pth")
    arguments = what(prepared, "count")
    before = json.dumps(arguments)
    environment = dict(os.environ)
    with trial_trainer("nnUNetTrainerBDFM", **arguments) as trainer:
        folder = Path(trainer.output_folder)
        assert folder.is_dir() and results not in folder.parents
    assert not folder.exists()
    assert not list(results.iterdir())
    assert dict(os.environ) == environment
    assert json.dumps(arguments) == before
    assert capsys.readouterr().out == ""


def test_results_folder_need_not_be_set(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("nnUNet_results")
    monkeypatch.delenv("nnUNet_raw")
    with trial_trainer("nnUNetTrainerBDFM", **what(prepared, "count"), device=torch.device("cpu")) as trainer:
        assert trainer.device.type == "cpu"
    assert "nnUNet_results" not in os.environ


def test_an_unknown_trainer_is_named(prepared: Prepared) -> None:
    with (
        pytest.raises(InputError, match="-tr nnUNetTrainerNothing does not exist"),
        trial_trainer("nnUNetTrainerNothing", **what(prepared, "count")),
    ):
        pass


@pytest.mark.parametrize("name", ["nnUNetTrainerNeuroSTORM", "nnUNetTrainerSimCLR"])
def test_costs_of_clips_are_those_of_the_trainer(sequences: Prepared, name: str, tmp_path: Path) -> None:
    arguments = what(sequences, "count")
    with trial_trainer(name, **arguments) as trainer:
        expected = count_training(trainer), schedule_of(trainer)
    configuration = resolve_configuration(arguments["plans"], "count")
    assert count_by_name(name, configuration, arguments["dataset"], plans=tmp_path / "a.json") == expected
    assert expected[0].forward_flops
