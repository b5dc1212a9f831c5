"""SimCLR as a training: batches, patients, resumption, processes, and weights for fine-tuning."""

import json
import math
import multiprocessing
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerSimCLR
from tests.conftest import Prepared
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer, stock_network

GOLDEN = Path(__file__).parents[1] / "golden" / "simclr_curve.json"
LENGTH = {"training.workers": 0, "training.initial_lr": 0.002, "pretraining.queue": 6, "pretraining.temperature": 0.2}


def _trainer(prepared: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerSimCLR, prepared, prepared.unlabelled, variant, LENGTH | settings)


@pytest.fixture(scope="module")
def trained(prepared_of_module: Prepared) -> Any:
    trainer = _trainer(prepared_of_module, "simclr", **{"training.iterations_per_epoch": 10})
    step, trainer.losses = trainer.train_step, []

    def stepping(batch: Any) -> Any:
        terms = step(batch)
        trainer.losses.append(terms["loss"].item())
        return terms

    trainer.train_step = stepping
    trainer.run_training()
    return trainer


def test_golden_curve_of_twenty_steps(trained: Any) -> None:
    """A change that should not alter results must not."""
    found = {"loss": trained.losses} | {name: curves(trained)[name] for name in ("val_losses", "effective_rank")}
    if os.environ.get("BDFM_WRITE_GOLDEN"):  # after a change that is meant to alter results
        GOLDEN.write_text(json.dumps(found, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert len(expected["loss"]) == 20
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=5e-3, abs=2e-3), name


def test_monitors_pictures_and_verdict_are_there(trained: Any) -> None:
    found = curves(trained)
    names = ("pair_loss", "chance", "pair_accuracy", "alignment", "uniformity", "feature_rank", "probe_error")
    assert all(len(found[name]) == 2 and all(map(math.isfinite, found[name])) for name in names)
    assert found["chance"] == found["pair_loss"] == [0.0] * 2  # crops of one patient, which are not compared
    assert found["pair_chance"] == [1.0] * 2
    assert len(set(found["probe_error_mean"])) == 1  # the same crops in every epoch
    trained.perform_actual_validation()
    assert "Held-out pairs: loss" in Path(trained.log_file).read_text()
    assert trained.optimizer_kind == "adamw"


@pytest.mark.usefixtures("figures")
def test_pictures_of_views(prepared: Prepared) -> None:
    trainer = _trainer(prepared, "pictures", **{"training.epochs": 1, "training.iterations_per_epoch": 1})
    trainer.run_training()
    folder = Path(trainer.output_folder)
    assert (folder / "views" / "epoch_0001.png").is_file() and (folder / "progress.png").is_file()


def test_stopped_within_an_epoch_it_goes_on_bit_for_bit_with_its_queue(prepared: Prepared) -> None:
    straight = _trainer(prepared, "straight")
    straight.run_training()
    run = stopped_and_continued(lambda: _trainer(prepared, "stopped"), step=4)
    assert_same_run(run, straight)
    assert "queue.kept" in read_checkpoint(checkpoint(run)).weights


def _steps(prepared: Prepared, variant: str, count: int, **settings: Any) -> list[dict[str, Any]]:
    """What a trainer's own loaders and draws give for its first steps, across epochs."""
    trainer = _trainer(prepared, variant, **{"training.iterations_per_epoch": 2} | settings)
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    found = []
    for number in range(count):
        trainer.run.iteration = number % 2
        trainer.current_epoch = number // 2
        found.append(trainer.task.prepare(next(batches)))
    return found


def _same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    drawn = all(torch.equal(one["drawn"][name], two["drawn"][name]) for name in one["drawn"])
    return torch.equal(one["data"], two["data"]) and drawn


class Spawning(multiprocessing.context.SpawnContext):
    """Starts loader processes anew, as on systems without fork."""

    @staticmethod
    def watched() -> Any:
        return nullcontext()


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_no_two_steps_are_alike_and_one_seed_repeats_all_whatever_the_workers(
    method: str, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "spawn":
        monkeypatch.setattr("bdfm_nnunet.data.batch_streams.loader_context", Spawning)
    alone = _steps(prepared, f"alone_{method}", 4)
    shared = _steps(prepared, f"shared_{method}", 4, **{"training.workers": 2})
    assert all(_same(one, two) for one, two in zip(alone, shared, strict=True))
    for name in ("matrix", "noise_keys", "bias"):
        kinds = {tuple(view.flatten().tolist()) for step in alone for views in step["drawn"][name] for view in views}
        samples = sum(len(step["data"]) for step in alone)
        drawn = sum(bool(view.any()) for step in alone for views in step["drawn"][name] for view in views)
        assert len(kinds - {tuple([0.0] * alone[0]["drawn"][name][0, 0].numel())}) == drawn <= 2 * samples
    other = _steps(prepared, f"other_{method}", 1, **{"training.seed": 3})
    assert not torch.equal(other[0]["drawn"]["noise_keys"], alone[0]["drawn"]["noise_keys"])


def test_crops_of_one_patient_have_one_key(prepared: Prepared) -> None:
    (step,) = _steps(prepared, "patients", 1)
    trainer = _trainer(prepared, "patients2")
    known = trainer.data.patients
    assert len(known) == 6 and len(set(known.values())) == 5  # one patient came twice
    assert step["drawn"]["patients"].tolist() == [known[key] for key in step["keys"]]
    trainer.initialize()
    unknown = trainer.task.prepare(step | {"keys": ["nobody"] * len(step["keys"])})
    assert set(unknown["drawn"]["patients"].tolist()) == {-1}


def test_validation_crops_come_with_their_labelled_share(prepared: Prepared) -> None:
    trainer = _trainer(prepared, "share")
    trainer.initialize()
    training, validation = trainer.task.batch_sources()
    batch = validation.generate_train_batch()
    assert "foreground" not in training.generate_train_batch()
    assert batch["foreground"].shape == (trainer.batch_size,) and (batch["foreground"] <= 1).all()
    assert batch["foreground"].max() > 0


def test_one_checkpoint_fine_tunes_into_other_data_sets(
    trained: Any, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(checkpoint(trained)))
    settings = {"training.epochs": 1, "training.iterations_per_epoch": 1, "training.val_iterations_per_epoch": 1}
    trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "tuned", settings)
    trainer.run_training()  # four channels in place of one
    assert math.isfinite(curves(trainer)["train_losses"][0])
    assert "checkpoint_final.pth" in Path(trainer.log_file).read_text()
    other = stock_network(prepared, channels=2)
    weights = read_checkpoint(checkpoint(trained)).weights
    report = load_pretrained(other, checkpoint(trained))
    assert report.encoder_share > 0.9
    name = next(key for key in weights if key.startswith("encoder.stages") and weights[key].ndim > 1)
    assert torch.equal(other.state_dict()[name], weights[name])
    assert other(torch.randn(1, 2, 48, 32, 32))[0].isfinite().all()  # of another size, that is, spacing or patch
