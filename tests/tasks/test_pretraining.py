import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints.adaptation_plan import SHAPE
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.json_shapes import fault_of
from bdfm_nnunet.trainers import nnUNetTrainerBDFM, nnUNetTrainerBDFMPretrain, nnUNetTrainerSimMIM
from tests.conftest import Prepared
from tests.recording import RecordedTypes
from tests.training.going_on import assert_same_run, continued, killed
from tests.training.trainings import checkpoint, curves, make_trainer

GOLDEN = Path(__file__).parents[1] / "golden" / "pretraining_curve.json"


def _run(prepared: Prepared, variant: str, kind: type = nnUNetTrainerBDFMPretrain, **settings: Any) -> Any:
    trainer = make_trainer(kind, prepared, prepared.unlabelled, variant, settings)
    trainer.run_training()
    return trainer


@pytest.fixture(scope="module")
def undisturbed(prepared_of_module: Prepared) -> Any:
    return _run(prepared_of_module, "undisturbed", **{"training.epochs": 3})


def test_run_leaves_checkpoints_pictures_and_a_summary(undisturbed: Any) -> None:
    folder = Path(undisturbed.output_folder)
    assert checkpoint(undisturbed).is_file() and checkpoint(undisturbed, "best").is_file()
    assert not checkpoint(undisturbed, "latest").exists()
    assert (folder / "progress.png").stat().st_size > 10_000
    assert sorted(p.name for p in (folder / "reconstructions").iterdir()) == ["epoch_0001.png", "epoch_0003.png"]
    summary = json.loads((folder / "pretraining_summary.json").read_text())
    assert summary["epochs_done"] == 3 and summary["trainer"] == "nnUNetTrainerBDFMPretrain"
    assert all(math.isfinite(summary[key]) for key in ("psnr", "psnr_mean_fill", "ssim", "ssim_mean_fill"))
    assert len(summary["curves"]["train_pixel"]) == len(summary["curves"]["val_frequency"]) == 3
    assert summary["loss_last"] == summary["curves"]["train_losses"][-1]
    assert summary["curves"]["val_losses"][-1] < summary["curves"]["val_losses"][0]
    undisturbed.perform_actual_validation()
    log = Path(undisturbed.log_file).read_text()
    assert "val_frequency" in log and "Reconstruction of held-out crops: PSNR" in log
    # the same crops and masks in every epoch: filling with the mean does as well in all of them
    assert len(set(summary["curves"]["psnr_mean_fill"])) == 1


def test_checkpoints_say_how_to_reuse_them_and_what_to_cite(undisturbed: Any) -> None:
    content = torch.load(checkpoint(undisturbed), weights_only=True)  # as other tools load it
    entry = content["nnssl_adaptation_plan"]
    assert fault_of(entry, SHAPE) == ""
    assert entry["pretrain_num_input_channels"] == 1 and entry["keys_to_in_proj"] == ["encoder.patch_embed"]
    assert entry["recommended_downstream_patchsize"] == list(undisturbed.configuration_manager.patch_size)
    assert entry["architecture_plans"]["arch_class_name"] == "bdfm_nnunet.networks.swin_unet.SwinUNet"
    assert [each["name"] for each in content["citations"]] == ["nnU-Net", "SwinUNet", "BDFM"]
    state = torch.get_rng_state()
    del undisturbed.task._planned_network
    undisturbed.task.checkpoint_entries()
    assert torch.equal(torch.get_rng_state(), state)


def test_golden_curve(undisturbed: Any) -> None:
    """A change that should not alter results must not."""
    if os.environ.get("BDFM_WRITE_GOLDEN"):  # after a change that is meant to alter results
        names = ("train_pixel", "train_frequency", "val_pixel", "val_frequency", "psnr", "ssim")
        GOLDEN.write_text(json.dumps({name: curves(undisturbed)[name] for name in names}, indent=1) + "\n")
    expected = json.loads(GOLDEN.read_text())
    assert len(expected) == 6
    for name, values in expected.items():
        assert curves(undisturbed)[name] == pytest.approx(values, rel=2e-3), name


def test_interrupted_run_continues_to_the_same_losses(prepared: Prepared, undisturbed: Any) -> None:
    def make() -> Any:
        settings = {"training.epochs": 3}
        return make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "interrupted", settings)

    killed(make, step=5)  # in the middle of the second epoch
    assert_same_run(continued(make, done=3), undisturbed)


def test_a_run_that_encodes_what_is_visible_is_continued_and_fine_tuned(prepared: Prepared) -> None:
    settings = {"training.epochs": 2, "pretraining.encode": "visible", "pretraining.rebuild": 0.5}
    whole = _run(prepared, "visible", **settings)
    assert math.isfinite(curves(whole)["psnr"][-1])
    assert curves(whole)["psnr_mean_fill"][0] == curves(whole)["psnr_mean_fill"][1]

    def make() -> Any:
        return make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "halved", settings)

    killed(make, step=5)
    assert_same_run(continued(make, done=3), whole)
    weights = {"finetuning.weights": str(checkpoint(whole))}
    tuned = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "tuned", weights)
    tuned.initialize()
    tuned.task.load_weights()
    assert "100.0% of the encoder" in Path(tuned.log_file).read_text()


def test_seed_decides(prepared: Prepared, undisturbed: Any) -> None:
    other = _run(prepared, "seed", **{"training.seed": 7, "training.epochs": 3})
    assert curves(other)["train_losses"] != curves(undisturbed)["train_losses"]


def test_workers_change_nothing(prepared: Prepared) -> None:
    common = {"training.epochs": 1, "pretraining.random_contrast": 0.5}
    runs = [_run(prepared, f"workers{n}", **{"training.workers": n} | common) for n in (0, 2)]
    assert curves(runs[0]) == curves(runs[1])


def test_single_channel_by_default_all_channels_on_request(prepared: Prepared) -> None:
    single = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "single", {})
    every = make_trainer(
        nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "every", {"pretraining.channels": "all"}
    )
    for trainer, channels in ((single, 1), (every, 4)):
        trainer.initialize()
        assert trainer.task.objective.view.in_channels == channels
        training, _ = trainer.task.batch_sources()
        assert training.generate_train_batch()["data"].shape[1] == channels
    batch = every.task.batch_sources()[0].generate_train_batch()
    assert math.isfinite(every.train_step(batch)["loss"])


def test_crops_are_augmented_for_training_as_asked(prepared: Prepared) -> None:
    plain = make_trainer(
        nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "plain", {"pretraining.augmentation": "none"}
    )
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "mirrored", {})
    plain.initialize()
    trainer.initialize()
    training, validation = trainer.task.batch_sources()
    assert "flips" in training.generate_train_batch() and "flips" not in validation.generate_train_batch()
    assert all("flips" not in source.generate_train_batch() for source in plain.task.batch_sources())
    spatial = make_trainer(
        nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "spatial", {"pretraining.augmentation": "spatial"}
    )
    spatial.initialize()
    training, validation = spatial.task.batch_sources()
    assert training.mirror and list(training.affine.spacing) == spatial.configuration_manager.spacing
    assert not validation.mirror and validation.affine is None
    images = torch.randn(2, 1, *trainer.configuration_manager.patch_size)
    seen: list[torch.Tensor] = []
    trainer.network = lambda images, mask: seen.append(images)
    batch = {"data": images, "drawn": {"mask": torch.ones(2)}}
    trainer.task.losses(batch | {"flips": torch.tensor([[False, True, False], [True, False, False]])})
    trainer.task.losses(batch)
    assert torch.equal(seen[0], torch.stack([images[0].flip(2), images[1].flip(1)]))
    assert torch.equal(seen[1], images)


def test_contrasts_are_drawn_anew_in_each_step_and_reach_the_network(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"pretraining.random_contrast": 0.7, "pretraining.channels": "all"}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "contrasts", settings)
    trainer.initialize()
    batch = trainer.task.batch_sources()[0].generate_train_batch()
    first = trainer.task.prepare(batch)
    assert {name: len(values) for name, values in first["contrasts"].items()} == dict.fromkeys(
        ("chosen", "means", "gains", "bias"), len(batch["data"])
    )
    with monkeypatch.context() as alone:  # the second of two processes
        alone.setattr(trainer, "processes", SimpleNamespace(count=2, share=lambda whole: slice(1, whole)))
        second = trainer.task.prepare({**batch, "data": batch["data"][1:]})["contrasts"]
    assert all(torch.equal(second[name], values[1:]) for name, values in first["contrasts"].items())
    trainer.run.iteration += 1
    assert not torch.equal(first["contrasts"]["means"], trainer.task.prepare(batch)["contrasts"]["means"])
    seen: list[torch.Tensor] = []
    trainer.network = lambda images, **drawn: seen.append(images)
    first["contrasts"]["chosen"][:] = torch.arange(len(batch["data"])) == 0
    trainer.task.losses(first)
    mirrored_alone = {name: value for name, value in first.items() if name != "contrasts"}
    trainer.task.losses(mirrored_alone)
    assert torch.equal(seen[0][1:], seen[1][1:]) and torch.equal(seen[0] == 0, seen[1] == 0)
    correlation = torch.corrcoef(torch.stack([each[0][seen[1][0] != 0] for each in seen]))[0, 1]
    assert abs(correlation) < 0.999


def test_settings_of_the_plans_reach_the_objective(prepared: Prepared) -> None:
    settings = {"pretraining.mask_ratio": 0.5, "pretraining.frequency_decoder": "serial", "training.initial_lr": 0.01}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "settings", settings)
    trainer.initialize()
    assert (
        trainer.task.objective.settings.mask_ratio == 0.5
        and trainer.task.objective.settings.frequency_decoder == "serial"
    )
    assert trainer.num_epochs == 2 and trainer.num_iterations_per_epoch == 3
    assert {group["peak_lr"] for group in trainer.optimizer.param_groups} == {0.01}
    legacy = make_trainer(
        nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "legacy", {"pretraining.legacy": True}
    )
    legacy.initialize()
    assert legacy.task.objective.settings.legacy_frequency_loss


@pytest.mark.usefixtures("figures")
def test_simmim_is_a_trainer_of_its_own(prepared: Prepared) -> None:
    trainer = _run(prepared, "simmim", nnUNetTrainerSimMIM, **{"training.epochs": 1})
    assert trainer.task.objective.frequency_decoder is None
    assert "train_frequency" not in curves(trainer)
    assert (Path(trainer.output_folder) / "progress.png").is_file()


@pytest.mark.parametrize("kind", [nnUNetTrainerBDFMPretrain, nnUNetTrainerBDFM])
def test_a_cpu_without_units_for_bf16_trains_in_single_precision(
    kind: type, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bdfm_nnunet.training.precision.multiplies_bf16", lambda device="cpu": False)
    settings = {"training.epochs": 1, "training.iterations_per_epoch": 1}
    trainer = make_trainer(kind, prepared, prepared.labelled, "type", settings)
    with RecordedTypes() as types:
        trainer.run_training()
    assert torch.float32 in types.seen and torch.bfloat16 not in types.seen


def test_half_precision(prepared: Prepared) -> None:
    trainer = _run(prepared, "bf16", **{"training.epochs": 1, "training.precision": "bf16"})
    assert trainer.grad_scaler is None
    assert math.isfinite(curves(trainer)["train_losses"][0])


def test_labelled_data_can_be_pretrained_on(prepared: Prepared) -> None:
    settings = {"training.epochs": 1}
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.labelled, "labelled", settings)
    trainer.run_training()
    assert checkpoint(trainer).is_file()


def test_full_disk_keeps_the_checkpoint_before(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "full", {})
    trainer.initialize()
    path = checkpoint(trainer, "latest")
    for key in ("epoch_start_timestamps", "epoch_end_timestamps"):
        trainer.logger.log(key, 0.0, 0)
    trainer.save_checkpoint(str(path))
    before = path.read_bytes()

    def full(content: object, target: str) -> None:
        Path(target).write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match="free some space there and continue with --c"):
        trainer.save_checkpoint(str(path))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.glob(".*")] == []


def test_disabled_checkpointing_writes_none(prepared: Prepared) -> None:
    trainer = make_trainer(nnUNetTrainerBDFMPretrain, prepared, prepared.unlabelled, "none", {"training.epochs": 1})
    trainer.disable_checkpointing = True
    trainer.run_training()
    assert not list(Path(trainer.output_folder).glob("*.pth"))
