from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.trainers import nnUNetTrainerBDFM
from tests.conftest import Prepared
from tests.training.going_on import continued, killed
from tests.training.trainings import checkpoint, curves, make_trainer


def _make(prepared: Prepared, variant: str, **settings: Any) -> Any:
    return make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, variant, settings)


@pytest.fixture
def weights(prepared: Prepared, tmp_path: Path) -> Path:
    """A pre-trained encoder of one channel for the prepared plans."""
    trainer = _make(prepared, "source")
    trainer.initialize()
    arguments = trainer.configuration_manager.network_arch_init_kwargs
    torch.manual_seed(9)
    objective = MaskedImageModelling(encoder_of(type(trainer.network)(1, 2, **arguments)))
    torch.save({"network_weights": objective.state_dict()}, tmp_path / "pretrained.pth")
    return tmp_path / "pretrained.pth"


def _is_pretrained(trainer: Any, weights: Path) -> bool:
    source = read_checkpoint(weights).weights["encoder.norm.weight"]
    name = "encoder.stages.0.blocks.0.attn.qkv.weight"
    return torch.equal(trainer.network.state_dict()[name], read_checkpoint(weights).weights[name]) and len(source) > 0


def _start(trainer: Any) -> Any:
    trainer.initialize()
    trainer.task.load_weights()
    return trainer


def test_weights_of_the_environment(prepared: Prepared, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    trainer = _start(_make(prepared, "environment"))
    assert _is_pretrained(trainer, weights)
    log = Path(trainer.log_file).read_text()
    assert "100.0% of the encoder" in log and "input channels 1 to 4" in log


def test_weights_of_the_plans_and_how_to_do_without(
    prepared: Prepared, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"finetuning.weights": str(weights)}
    assert _is_pretrained(_start(_make(prepared, "planned", **settings)), weights)
    monkeypatch.setenv("BDFM_WEIGHTS", "none")
    trainer = _start(_make(prepared, "planned", **settings))
    assert not _is_pretrained(trainer, weights)
    log = Path(trainer.log_file).read_text()
    assert "Training from scratch" in log


def test_scratch_and_pretrained_start_from_the_same_decoder(
    prepared: Prepared, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = _start(_make(prepared, "scratch"))
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    loaded = _start(_make(prepared, "loaded"))
    states = scratch.network.state_dict(), loaded.network.state_dict()
    rest = [name for name in states[0] if not name.startswith("encoder.")]
    assert rest and all(torch.equal(states[0][name], states[1][name]) for name in rest)


def test_planned_weights_that_changed_are_refused(prepared: Prepared, weights: Path) -> None:
    trainer = _make(prepared, "changed", **{"finetuning.weights": str(weights)})
    torch.save(torch.load(weights, weights_only=True) | {"more": 1}, weights)
    with pytest.raises(InputError, match="not the file that was planned for"):
        _start(trainer)


@pytest.mark.parametrize("content", ["nothing", {"encoder.a": torch.ones(3)}])
def test_useless_weights_are_refused(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    torch.save(content, tmp_path / "bad.pth")
    monkeypatch.setenv("BDFM_WEIGHTS", str(tmp_path / "bad.pth"))
    with pytest.raises(InputError, match=r"bad\.pth"):
        _start(_make(prepared, "useless"))


@pytest.mark.usefixtures("figures")
def test_run_with_nnunets_loss_augmentation_and_validation(
    prepared: Prepared, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    trainer = _make(prepared, "run")
    trainer.run_training()
    assert checkpoint(trainer).is_file()
    assert len(curves(trainer)["train_losses"]) == len(curves(trainer)["mean_fg_dice"]) == 2
    assert (Path(trainer.output_folder) / "progress.png").is_file()


def _chances(trainer: Any) -> torch.Tensor:
    """Mean probability of each region in the first training batch."""
    batch = next(trainer.get_dataloaders()[0])
    with torch.no_grad():
        outputs = trainer.network.eval()(batch["data"])
    return outputs[0].sigmoid().mean(dim=(0, 2, 3, 4))


def test_outputs_start_at_the_shares_of_their_regions(prepared: Prepared) -> None:
    common = {"training.workers": 0}
    plain = _start(_make(prepared, "no_prior", **common))
    trainer = _start(_make(prepared, "prior", **{"finetuning.output_prior": True}, **common))
    cases, _ = trainer.get_tr_and_val_datasets()
    labels = [np.asarray(cases.load_case(name)[1]) for name in cases.identifiers]
    voxels = sum(each.size for each in labels)
    shares = [sum(np.isin(each, region).sum() for each in labels) / voxels for region in ((1, 2, 3), (1, 3), (3,))]
    for layer in trainer.network.decoder.seg_layers:
        assert layer.bias.sigmoid().tolist() == pytest.approx(shares, rel=1e-4)
    assert _chances(plain).min() > 0.2  # nearly everywhere too much
    assert _chances(trainer).max() < 0.2
    others = [n for n, v in plain.network.state_dict().items() if not torch.equal(v, trainer.network.state_dict()[n])]
    assert sorted(others) == [f"decoder.seg_layers.{n}.bias" for n in range(len(trainer.network.decoder.seg_layers))]


def test_a_run_that_goes_on_keeps_its_outputs(prepared: Prepared) -> None:
    settings = {"finetuning.output_prior": True, "training.workers": 0}
    whole = _make(prepared, "prior_whole", **settings)
    whole.run_training()
    make = partial(_make, prepared, "prior_broken", **settings)
    killed(make, step=4)
    assert curves(continued(make, done=3)) == curves(whole)


def test_interrupted_run_continues_to_the_same_losses_without_its_weights(
    prepared: Prepared, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    whole = _make(prepared, "whole")
    whole.run_training()
    make = partial(_make, prepared, "broken")
    killed(make, step=4)  # the first of the second epoch
    weights.unlink()
    assert curves(continued(make, done=3)) == curves(whole)


def test_encoder_and_rest_have_rates_of_their_own(prepared: Prepared) -> None:
    settings = {"finetuning.encoder_lr_factor": 0.1, "training.initial_lr": 0.02}
    trainer = _make(prepared, "rates", **settings)
    trainer.initialize()
    rates = {group["name"]: group["peak_lr"] for group in trainer.optimizer.param_groups}
    assert rates["rest"] == 0.02 and rates["encoder"] == pytest.approx(0.002)
    frozen = _make(prepared, "frozen", **{"finetuning.encoder_lr_factor": 0.0, "training.epochs": 1})
    frozen.initialize()
    before = frozen.network.encoder.patch_embed.weight.detach().clone()
    frozen.run_training()
    assert torch.equal(frozen.network.encoder.patch_embed.weight, before)


@pytest.mark.parametrize(
    ("optimizer", "kind", "rates"),
    [("auto", torch.optim.AdamW, (3e-4, 1e-4)), ("sgd", torch.optim.SGD, (1e-2, 1e-3))],
)
def test_transformers_take_adamw_and_pretrained_weights_a_lower_rate(
    optimizer: str, kind: type, rates: Any, prepared: Prepared, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = _make(prepared, "optimizer", **{"training.optimizer": optimizer})
    trainer.initialize()
    assert type(trainer.optimizer) is kind and trainer.initial_lr == rates[0]
    monkeypatch.setenv("BDFM_WEIGHTS", str(weights))
    trainer.task.load_weights()
    trainer.strategy.start()
    assert type(trainer.optimizer) is kind and trainer.initial_lr == rates[1]
    assert {group["peak_lr"] for group in trainer.optimizer.param_groups} == {rates[1]}


def test_misspelt_setting_in_a_plans_file(prepared: Prepared) -> None:
    plans = _make(prepared, "misspelt").plans_manager.plans | {"continue_training": False}
    plans["configurations"]["misspelt"]["training"] = {"epoch": 3}
    dataset = {"labels": {"background": 0, "a": 1}, "channel_names": {"0": "a"}, "file_ending": ".nii.gz"}
    with pytest.raises(InputError, match=r"did you mean training\.epochs"):
        nnUNetTrainerBDFM(plans, "misspelt", 0, dataset, torch.device("cpu"))
