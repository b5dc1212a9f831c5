"""NeuroSTORM's pre-training from converted and planned runs: what it learns, tells, and goes on from."""

import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.cli import main
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.trainers import (
    nnUNetTrainerBDFM,
    nnUNetTrainerBDFMPretrain,
    nnUNetTrainerFrepa,
    nnUNetTrainerNeuroSTORM,
    nnUNetTrainerPretrain,
    nnUNetTrainerSimCLR,
)
from bdfm_nnunet.training.gradients import micro_batches
from tests.conftest import Prepared
from tests.sequence_cohort import run_command
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, curves, make_trainer

FAST = {
    "training.workers": 0, "training.initial_lr": 0.01, "training.warmup_epochs": 0,
    "training.val_iterations_per_epoch": 1,
}  # fmt: skip
STORM = FAST | {"pretraining.mask_window": [2, 2, 2, 2]}


def _trainer(sequences: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerNeuroSTORM, sequences, sequences.labelled, variant, STORM | settings)


@pytest.fixture(scope="module")
def trained(sequences_of_module: Prepared) -> Any:
    trainer = _trainer(sequences_of_module, "storm", **{"training.iterations_per_epoch": 8})
    trainer.run_training()
    return trainer


def test_it_rebuilds_held_out_runs_better_than_a_constant(trained: Any) -> None:
    found = curves(trained)
    assert all(len(found[name]) == 2 and all(map(math.isfinite, found[name])) for name in found)
    assert len(set(found["error_constant"])) == len(set(found["error_previous"])) == 1  # the same clips in each epoch
    assert found["error"][-1] < 0.9 * found["error_constant"][-1]
    trained.perform_actual_validation()
    folder = Path(trained.output_folder)
    for name in ("reconstructions", "reconstructions_over_time"):
        assert (folder / name / "epoch_0002.png").is_file()
    assert (folder / "progress.png").is_file() and (folder / "pretraining_summary.json").is_file()
    log = Path(trained.log_file).read_text()
    assert "squared error" in log and "no better than a constant" not in log


def test_rates_groups_and_decay_are_those_of_the_method(trained: Any) -> None:
    task = trained.task
    assert (task.peak_rate("adamw"), task.weight_decays["adamw"], task.decay) == (5e-5, 0.01, "cosine")
    named = {id(parameter): name for name, parameter in trained.network.named_parameters()}
    groups = trained.optimizer.param_groups
    decays = {named[id(each)]: group["weight_decay"] for group in groups for each in group["params"]}
    free = {name for name, decay in decays.items() if decay == 0}
    endings = ("A_log", ".D", "bias", "norm1.weight", "norm2.weight", "norm.weight")
    tables = {name for name in decays if "positions" in name or "mask_tokens" in name}
    assert tables and any(name.endswith("A_log") for name in free) and any("dt_proj.bias" in name for name in free)
    assert free == {name for name in decays if name.endswith(endings)} | tables
    assert {decays[name] for name in decays.keys() - free} == {0.01}
    assert all(name in Path(trained.log_file).read_text() for name in ("weight decay", "encoder_no_decay"))


def test_the_checkpoint_says_what_it_is_and_what_it_has_seen(trained: Any, capsys: Any, sequences: Prepared) -> None:
    path = checkpoint(trained)
    content = torch.load(path, weights_only=True)
    entry = content["nnssl_adaptation_plan"]
    assert entry["key_to_encoder"] == "encoder" and entry["pretrain_num_input_channels"] == 1
    assert entry["recommended_downstream_patchsize"] == [16, 16, 16, 6]
    assert "NeuroSTORM" in [each["name"] for each in content["citations"]]
    (run,) = read_checkpoint(path).exposure["runs"]
    assert (len(run["train"]["case"]), len(run["val"]["case"])) == (6, 2) and run["dataset"] == "Dataset700_FMRIPrep"
    assert len(set(map(tuple, run["train"]["sha256"]))) == 6  # of the values of each run
    assert main(["info", str(path)]) == 0
    told = capsys.readouterr().out
    assert "NeuroSTORM" in told and "Dataset700_FMRIPrep" in told
    assert main(["exposure", str(path), "-d", "700"]) == 0
    assert "cases seen in pre-training (" in capsys.readouterr().out


def test_stopped_within_an_epoch_it_goes_on_bit_for_bit(sequences: Prepared) -> None:
    straight = _trainer(sequences, "straight")
    straight.run_training()
    run = stopped_and_continued(lambda: _trainer(sequences, "stopped"), step=4)
    assert_same_run(run, straight)


def _first_steps(trainer: Any, count: int) -> list[dict[str, Any]]:
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    found = []
    for number in range(count):
        trainer.run.iteration = number
        found.append(trainer.task.prepare(next(batches)))
    return found


def test_batches_do_not_hang_on_loader_processes(sequences: Prepared) -> None:
    alone, others = (_first_steps(_trainer(sequences, f"w{n}", **{"training.workers": n}), 3) for n in (0, 2))
    for one, two in zip(alone, others, strict=True):
        assert one["keys"] == two["keys"] and torch.equal(one["data"], two["data"])
        assert one["drawn"].keys() == two["drawn"].keys() >= {"brain", "mask_keys", "matrix"}
        assert all(torch.equal(value, two["drawn"][name]) for name, value in one["drawn"].items())


def test_micro_batches_give_the_gradient_of_the_batch(sequences: Prepared) -> None:
    gradients = []
    for parts in (1, 2):
        trainer = _trainer(sequences, f"parts{parts}", **{"training.accumulate": parts})
        (batch,) = _first_steps(trainer, 1)
        trainer.network.train()
        trainer._differentiate(micro_batches(batch, parts))
        gradients.append({name: each.grad for name, each in trainer.network.named_parameters() if each.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def test_gradient_checkpointing_is_a_setting_that_changes_no_gradient(sequences: Prepared) -> None:
    gradients = []
    for flag in (False, True):
        trainer = _trainer(sequences, f"checkpointing_{flag}", **{"architecture.gradient_checkpointing": flag})
        (batch,) = _first_steps(trainer, 1)
        assert {stage.checkpointing for stage in trainer.network.encoder.stages} == {flag}
        trainer.network.train()
        trainer._differentiate([batch])
        gradients.append([each.grad for each in trainer.network.parameters() if each.requires_grad])
    torch.testing.assert_close(*gradients)


def test_masks_of_an_atlas(sequences: Prepared, tmp_path: Path) -> None:
    """Of the same space, but with other voxels and axes than the runs."""
    labels = np.random.default_rng(0).integers(1, 9, (5, 6, 5)).repeat(8, 0).repeat(8, 1).repeat(8, 2).astype(np.int16)
    affine = np.array([[-5.0, 0, 0, 100], [0, 5, 0, -130], [0, 0, 5, -80], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "atlas.nii.gz")
    settings = {"pretraining.mask": "atlas", "pretraining.atlas": str(tmp_path / "atlas.nii.gz")}
    trainer = _trainer(sequences, "atlas", **settings)
    (batch,) = _first_steps(trainer, 1)
    regions = batch["drawn"]["regions"]
    assert regions.shape == (2, 16, 16, 16) and set(regions.unique().tolist()) >= set(range(1, 9))
    assert trainer.task.losses(batch)["loss"].isfinite()


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (nnUNetTrainerBDFMPretrain, {}, "MaskedImageModelling does not learn from 4-D images"),
        (nnUNetTrainerFrepa, {}, "FrequencyCorruption does not learn from 4-D images"),
        (nnUNetTrainerPretrain, {"pretraining.objectives": [{"name": "masked"}]}, "which are for 3-D images"),
        (
            nnUNetTrainerPretrain,
            {"pretraining.objectives": [{"name": "masked"}], "pretraining.augmentation": "none"},
            "MaskedImageModelling does not learn from 4-D",
        ),
        (nnUNetTrainerNeuroSTORM, {"pretraining.augmentation": "mirror"}, "which are for 3-D images"),
        (nnUNetTrainerNeuroSTORM, {"pretraining.random_contrast": 0.5}, "which are for 3-D images"),
        (nnUNetTrainerNeuroSTORM, {"pretraining.mask": "atlas"}, "masks of an atlas, and only they"),
        (nnUNetTrainerNeuroSTORM, {"pretraining.atlas": __file__}, "masks of an atlas, and only they"),
        (nnUNetTrainerSimCLR, {"pretraining.legacy_views": True}, "makes the published views of 3-D images"),
        (nnUNetTrainerBDFM, {}, "is of 4-D images, which have no labels to segment"),
    ],
)
def test_what_does_not_fit_clips_is_a_sentence(
    kind: type, settings: dict[str, Any], words: str, sequences: Prepared
) -> None:
    trainer = make_trainer(kind, sequences, sequences.labelled, "refused", FAST | settings)
    with pytest.raises(InputError, match=words):
        trainer.initialize()


def test_clips_need_4_d_images(prepared: Prepared) -> None:
    settings = {"pretraining.second_clip": "subject"}
    for kind, wrong, words in (
        (nnUNetTrainerNeuroSTORM, {}, "clips of 4-D images have 4"),
        (nnUNetTrainerSimCLR, settings, "only 4-D images have clips"),
    ):
        trainer = make_trainer(kind, prepared, prepared.unlabelled, "no_clips", FAST | wrong)
        with pytest.raises(InputError, match=words):
            trainer.initialize()


@pytest.mark.parametrize("second", ["run", "subject"])
def test_simclr_learns_from_two_clips(second: str, sequences: Prepared) -> None:
    settings = FAST | {"pretraining.second_clip": second, "pretraining.region": 1.25}
    length = {"training.epochs": 1, "training.iterations_per_epoch": 2}
    trainer = make_trainer(nnUNetTrainerSimCLR, sequences, sequences.labelled, f"pair_{second}", settings | length)
    shown: list[Any] = []
    step, trainer.train_step = trainer.train_step, lambda batch: shown.append(batch) or step(batch)  # type: ignore[func-returns-value]
    trainer.run_training()
    assert all(batch["data"].shape == (2, 2, 20, 20, 20, 6) for batch in shown)
    assert all(batch["data"][:, 0].ne(batch["data"][:, 1]).any() for batch in shown)
    known = trainer.data.patients
    assert len(known) == 8 and len(set(known.values())) == 6
    found = curves(trainer)
    assert math.isfinite(found["train_losses"][0]) and "probe_error" not in found and found["feature_rank"][0] > 0
    weights = read_checkpoint(checkpoint(trainer)).weights
    assert any(name.startswith("encoder.patch_embed.") for name in weights)


def test_neurostorm_and_simclr_learn_together(sequences: Prepared) -> None:
    parts = [{"name": "sequence", "mask_window": [2, 2, 2, 2]}, {"name": "contrastive", "second_clip": "subject"}]
    settings = FAST | {"pretraining.objectives": parts, "training.iterations_per_epoch": 8, "training.initial_lr": 3e-3}
    trainer = make_trainer(nnUNetTrainerPretrain, sequences, sequences.labelled, "both", settings)
    trainer.run_training()
    found = curves(trainer)
    assert all(math.isfinite(value) for values in found.values() for value in values)
    assert found["train_sequence"][-1] < found["train_sequence"][0] and len(found["train_contrastive"]) == 2
    assert found["sequence_error"][-1] < found["sequence_error"][0] < found["sequence_error_constant"][0]
    weights = read_checkpoint(checkpoint(trainer)).weights
    assert any(name.startswith("encoder.patch_embed.") for name in weights)


def test_a_real_scan_is_converted_planned_and_learnt_from(nnunet_dirs: Path, tmp_path: Path) -> None:
    """Two halves of the slab of EPI that nibabel ships, on its own grid, with the network that `bdfm plan` chooses."""
    scan = nib.load(Path(nib.__file__).parent / "tests" / "data" / "functional.nii")
    download = tmp_path / "download"
    download.mkdir()
    for name, frames in (("first", slice(0, 10)), ("second", slice(10, 20))):
        nib.save(scan.slicer[..., frames], download / f"{name}.nii.gz")
    options = ["--spacing", "8", "--size", "0", "--time-step", "2", "--min-frames", "4"]
    run_command("convert", "fmri-folder", download, "-d", 700, *options)
    run_command("plan", "-d", 700, "--gpu-memory", 0.05)
    cohort = Prepared(nnunet_dirs, labelled=700)
    settings = FAST | {"training.epochs": 1, "training.iterations_per_epoch": 2}
    trainer = make_trainer(nnUNetTrainerNeuroSTORM, cohort, 700, "real", settings)
    trainer.run_training()
    found = curves(trainer)
    assert math.isfinite(found["train_losses"][0]) and found["error_previous"][0] < found["error_constant"][0]
