"""Strategies of fine-tuning in whole trainings."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import read_checkpoint
from bdfm_nnunet.data.batch_streams import seeded
from bdfm_nnunet.data.random_contrast import ContrastTransform
from bdfm_nnunet.networks.low_rank import low_rank_state
from bdfm_nnunet.trainers import nnUNetTrainerBDFM
from tests.conftest import Prepared
from tests.training.going_on import assert_same_run, stopped_and_continued
from tests.training.trainings import checkpoint, make_trainer, pretrained_encoder, stock_network

TINY = {"training.iterations_per_epoch": 2, "training.val_iterations_per_epoch": 1, "training.workers": 0}


def _make(prepared: Prepared, variant: str, **settings: Any) -> Any:
    named = {f"finetuning.{name}": value for name, value in settings.items()}
    return make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, variant, TINY | named)


@pytest.fixture
def weights(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pre-trained encoder of one channel, for images of four."""
    path = pretrained_encoder(prepared, tmp_path / "pretrained.pth")
    monkeypatch.setenv("BDFM_WEIGHTS", str(path))
    return path


def test_a_run_stopped_in_the_first_tooth_goes_on_into_the_second(prepared: Prepared, weights: Path) -> None:
    make = partial(_make, prepared, strategy="sawtooth", encoder_lr_factor=0.5)
    whole = make("teeth")
    seen: dict[int, dict[str, torch.Tensor]] = {}
    reach = whole.strategy.reach

    def watched(epoch: int) -> None:
        seen[epoch] = {name: value.clone() for name, value in whole.network.state_dict().items()}
        reach(epoch)

    whole.strategy.reach = watched
    whole.run_training()
    first = {name for name, value in seen[1].items() if not torch.equal(value, seen[0][name])}
    # the images have other channels than those of the weights
    assert {name for name in first if name.startswith("encoder.")} == {"encoder.patch_embed.weight"}
    assert "stem.convs.0.0.weight" in first and any(name.startswith("decoder.") for name in first)
    last = read_checkpoint(checkpoint(whole)).weights
    assert not torch.equal(last["encoder.norm.weight"], seen[1]["encoder.norm.weight"])
    log = Path(whole.log_file).read_text()
    assert "Stage 1 of 2, epochs 0 to 0: all but the encoder" in log and "Stage 2 of 2, epochs 1 to 1" in log
    report = json.loads((Path(whole.output_folder) / "load_report.json").read_text())
    assert report["sentence"].startswith("Of this network's encoder 100% starts from pretrained.pth (trained by ")
    assert report["adapted"]["encoder.patch_embed.weight"] == "input channels 1 to 4" and report["sentence"] in log
    assert_same_run(stopped_and_continued(lambda: make("teeth_stopped"), step=1), whole)


def test_the_checkpoint_of_low_rank_additions_is_one_of_a_plain_network(prepared: Prepared, weights: Path) -> None:
    make = partial(_make, prepared, strategy="lora", lora_rank=2)
    whole = make("low_rank")
    whole.run_training()
    plain = stock_network(prepared, channels=4)
    plain.load_state_dict(torch.load(checkpoint(whole), weights_only=False)["network_weights"])
    images = torch.randn(1, 4, 32, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(whole.network.eval()(images), plain.eval()(images), strict=True):
            assert torch.equal(ours, theirs)
    parts = low_rank_state(whole.network)["encoder.stages.0.blocks.0.attn.qkv"]
    assert torch.equal(parts["kernel"], read_checkpoint(weights).weights["encoder.stages.0.blocks.0.attn.qkv.weight"])
    assert parts["up"].abs().max() > 0
    going_on = stopped_and_continued(lambda: make("low_rank_stopped"), step=3)
    assert_same_run(going_on, whole)
    for name, found in low_rank_state(going_on.network).items():
        assert all(torch.equal(found[key], low_rank_state(whole.network)[name][key]) for key in found)


def _batch(prepared: Prepared, variant: str, **settings: Any) -> Any:
    trainer = _make(prepared, variant, **settings)
    trainer.initialize()
    return next(trainer.get_dataloaders()[0])


def test_strong_augmentation_is_reproducible_and_another_one(prepared: Prepared) -> None:
    batches = [_batch(prepared, "strong", augment=augment)["data"] for augment in ("standard", "strong", "strong")]
    standard, strong, again = batches
    assert torch.equal(strong, again) and standard.shape == strong.shape and not torch.equal(standard, strong)


@pytest.mark.parametrize("augment", ["standard", "strong"])
def test_random_contrast_changes_images_alone_and_after_they_are_turned(prepared: Prepared, augment: str) -> None:
    trainer = _make(prepared, "contrasts", augment=augment, random_contrast=1.0)
    trainer.initialize()
    training, validation = trainer.task.batch_sources()
    chain = training.transforms.transforms
    place = next(number for number, each in enumerate(chain) if isinstance(each, ContrastTransform))
    assert [type(each).__name__ for each in chain[:place]] == ["SpatialTransform"]
    assert chain[place].labels == 4 and chain[place].spacing == tuple(trainer.configuration_manager.spacing)
    assert not any(isinstance(each, ContrastTransform) for each in validation.transforms.transforms)
    del chain[place + 1 :]
    batches = []
    for each in (chain[place], None):
        chain[place:] = [] if each is None else [each]
        with seeded(5):
            batches.append(training.generate_train_batch())
    new, old = batches
    assert torch.equal(new["target"], old["target"]) and torch.equal(new["data"] == 0, old["data"] == 0)
    assert not torch.allclose(new["data"], old["data"], atol=0.1)


def test_random_contrasts_do_not_depend_on_the_number_of_loaders(prepared: Prepared) -> None:
    settings = {"finetuning.random_contrast": 0.5}
    drawn = []
    for workers in (0, 2):
        chosen = TINY | settings | {"training.workers": workers}
        trainer = make_trainer(nnUNetTrainerBDFM, prepared, prepared.labelled, "loaders", chosen)
        trainer.initialize()
        batches = trainer.get_dataloaders()[0]
        drawn.append([next(batches)["data"] for _ in range(2)])
    assert all(torch.equal(first, second) for first, second in zip(*drawn, strict=True))
