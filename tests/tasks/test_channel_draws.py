"""Channels that trainings leave out: what networks see, what goes on, what checkpoints and refusals say."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.tasks.channel_draws import drawn_channels
from bdfm_nnunet.tasks.subject_level import SubjectTask
from bdfm_nnunet.tasks.task import Task
from bdfm_nnunet.trainers import (
    nnUNetTrainerBDFM,
    nnUNetTrainerBDFMPretrain,
    nnUNetTrainerSimCLR,
)
from tests.conftest import Prepared
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, make_trainer

TINY = {
    "training.iterations_per_epoch": 2,
    "training.val_iterations_per_epoch": 1,
    "training.workers": 0,
    "training.epochs": 2,
}


def _make(prepared: Prepared, variant: str, settings: dict[str, Any], *, kind: type = nnUNetTrainerBDFM) -> Any:
    dataset = prepared.labelled if kind is nnUNetTrainerBDFM else prepared.unlabelled
    return make_trainer(kind, prepared, dataset, variant, TINY | settings)


def _shown(trainer: Any, module: torch.nn.Module | None = None) -> dict[str, list[Tensor]]:
    """Lets the trainer note which channels its network sees, (B, C), in training and in validation."""
    seen: dict[str, list[Tensor]] = {"training": [], "validation": []}
    module = module or trainer.network

    def note(_: Any, inputs: tuple[Tensor, ...]) -> None:
        images = inputs[0]
        seen["training" if module.training else "validation"].append(images.flatten(2).abs().amax(2) > 0)

    module.register_forward_pre_hook(note)
    return seen


def test_segmentation_sees_subsets_in_training_and_all_in_validation_and_goes_on(prepared: Prepared) -> None:
    make = partial(_make, prepared, settings={"finetuning.channel_dropout": 0.5})
    whole = make("subsets")
    whole.initialize()
    seen = _shown(whole)
    whole.run_training()
    training = torch.cat(seen["training"])
    assert training.any(1).all() and not training.all(1).any() | (training.float().mean() > 0.8)
    assert len({tuple(row) for row in training.tolist()}) > 2
    assert torch.cat(seen["validation"]).all()
    assert read_checkpoint(checkpoint(whole)).channel_dropout == 0.5
    assert whole.plans_manager.plans["configurations"]["subsets"]["finetuning"] == {"channel_dropout": 0.5}
    assert_same_run(stopped_and_continued(lambda: make("subsets_stopped"), step=1), whole)


def test_without_dropout_nothing_is_drawn_or_recorded(prepared: Prepared) -> None:
    trainer = _make(prepared, "no_subsets", {"training.epochs": 1})
    trainer.initialize()
    batch = {"data": torch.zeros(2, 4, 1, 1, 1)}
    assert trainer.task.prepare(batch).keys() == batch.keys() and trainer.task.checkpoint_entries() == {}


def test_each_process_has_its_rows_of_the_same_draw() -> None:
    def drawn(processes: int, share: slice) -> Tensor:
        trainer = SimpleNamespace(
            dataset_json={"channel_names": {"0": "a", "1": "b", "2": "c"}},
            training=SimpleNamespace(seed=3),
            run=SimpleNamespace(step_number=5),
            processes=SimpleNamespace(count=processes),
            whole_batch=6,
            share=share,
        )
        samples = len(range(6)[share])
        return drawn_channels(Task(trainer), samples, 0.5, subsets=2)["channels"]

    alone = drawn(1, slice(0, 6))
    assert alone.shape == (6, 2, 3)
    assert torch.equal(alone, torch.cat([drawn(2, slice(0, 4)), drawn(2, slice(4, 6))]))


@pytest.mark.parametrize("block", ["finetuning", "pretraining"])
def test_a_single_channel_cannot_be_left_out(block: str, prepared: Prepared) -> None:
    kind = nnUNetTrainerBDFM if block == "finetuning" else nnUNetTrainerBDFMPretrain
    settings = {"pretraining.channels": "all"} if block == "pretraining" else {}
    trainer = _make(prepared, f"one_{block}", {f"{block}.channel_dropout": 0.2, **settings}, kind=kind)
    trainer.dataset_json = {**trainer.dataset_json, "channel_names": {"0": "t1"}}
    with pytest.raises(InputError, match=rf"{block}\.channel_dropout is 0\.2, but .* have one channel \(t1\)"):
        trainer.task.check()


@pytest.mark.parametrize("value", [1.0, -0.1])
def test_shares_that_would_leave_nothing(value: float, prepared: Prepared) -> None:
    with pytest.raises(InputError, match=r"channel_dropout is .*, expected a share of at least 0 and below 1"):
        _make(prepared, "all_left_out", {"finetuning.channel_dropout": value})


def test_samples_of_one_channel_lose_none(prepared: Prepared) -> None:
    with pytest.raises(
        InputError, match=r"with channels=single each sample has one channel: set pretraining\.channels"
    ):
        _make(prepared, "single_lost", {"pretraining.channel_dropout": 0.2}, kind=nnUNetTrainerBDFMPretrain)


def test_masked_pretraining_sees_and_rebuilds_what_is_left(prepared: Prepared) -> None:
    settings = {"pretraining.channels": "all", "pretraining.channel_dropout": 0.5}
    make = partial(_make, prepared, settings=settings, kind=nnUNetTrainerBDFMPretrain)
    whole = make("masked_subsets")
    whole.initialize()
    seen = _shown(whole)
    whole.run_training()
    training = torch.cat(seen["training"])
    assert training.any(1).all() and not training.all() and training.shape[1] == 4
    assert_same_run(stopped_and_continued(lambda: make("masked_stopped"), step=3), whole)


def test_views_of_a_pair_lack_different_channels(prepared: Prepared) -> None:
    settings = {"pretraining.channels": "all", "pretraining.channel_dropout": 0.5, "batch_size": 4}
    trainer = _make(prepared, "pair_subsets", settings | {"training.epochs": 1}, kind=nnUNetTrainerSimCLR)
    trainer.initialize()
    seen = _shown(trainer, trainer.network.encoder)
    trainer.run_training()
    first, second = torch.cat([each.unflatten(0, (2, -1)) for each in seen["training"]], 1)
    assert first.any(1).all() and second.any(1).all() and not torch.equal(first, second)
    assert not (first.all(1) & second.all(1)).all()


def test_all_crops_of_a_subject_lack_the_same_channels() -> None:
    batch = {"data": torch.ones(2, 3, 2, 4), "channels": torch.tensor([[[True, False]], [[True, True]]])}
    stand_in: Any = SimpleNamespace(
        shown=SimpleNamespace(changed=lambda given: given["data"]), trainer=SimpleNamespace(network=lambda bags: bags)
    )
    bags = SubjectTask._outputs_of(stand_in, batch)
    assert (bags[0, :, 1] == 0).all() and (bags[0, :, 0] == 1).all() and (bags[1] == 1).all()


def test_the_folder_is_told_what_was_left_out(prepared: Prepared) -> None:
    trainer = _make(prepared, "told", {"finetuning.channel_dropout": 0.25, "training.epochs": 1})
    trainer.run_training()
    plans = (Path(trainer.output_folder_base) / "plans.json").read_text()
    assert '"channel_dropout": 0.25' in plans
