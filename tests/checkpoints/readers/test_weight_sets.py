"""Several sets of weights in a file, and prefixes in front of their names."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained, read_checkpoint
from bdfm_nnunet.errors import InputError
from tests.networks.zoo import network

PROJECTOR = {"0.weight": torch.ones(2, 2)}


def _encoder(seed: int, prefix: str = "") -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = network("resenc", 1).encoder.state_dict()
    return {f"{prefix}encoder.{name}": value for name, value in state.items()}


def _saved(tmp_path: Path, content: Mapping[str, Any]) -> Path:
    torch.save(dict(content), tmp_path / "a.pth")
    return tmp_path / "a.pth"


def _loads(path: Path, weights: Mapping[str, Tensor], **settings: Any) -> tuple[str, ...]:
    """Load a file and compare the encoder's features of a random image with those of the weights it should hold."""
    checkpoint = read_checkpoint(path, **settings)
    target, source = network("resenc", 1), network("resenc", 1)
    source.encoder.load_state_dict({name.partition("encoder.")[2]: value for name, value in weights.items()})
    target.load_state_dict(checkpoint.renamed.weights, strict=False)
    image = torch.randn(1, 1, 16, 16, 16)
    for ours, theirs in zip(target.encoder(image), source.encoder(image), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    return checkpoint.notes


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "architecture.", "student.", "model.module.",
     "module.student.backbone.", "_orig_mod.net.model."],
)  # fmt: skip
def test_prefixes_of_all_names_of_the_encoder_are_stripped(tmp_path: Path, prefix: str) -> None:
    weights = _encoder(0, prefix)
    assert _loads(_saved(tmp_path, {"state_dict": weights | {"criterion.weight": torch.ones(1)}}), weights) == ()
    report = load_pretrained(network("resenc", 1), tmp_path / "a.pth")
    assert report.encoder_share == 1


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    weights = _encoder(0)
    some = {f"net.{name}" if ".stages.1." in name else name: value for name, value in weights.items()}
    assert set(read_checkpoint(_saved(tmp_path, some)).weights) == set(some)


def test_a_container_without_an_encoder_is_passed_over(tmp_path: Path) -> None:
    weights = _encoder(1)
    notes = _loads(_saved(tmp_path, {"model": PROJECTOR, "model_ema": weights, "epoch": 3}), weights)
    assert notes == ("the weights are those of model_ema; model has no encoder",)


def test_of_several_sets_the_choice_is_told_and_can_be_made(tmp_path: Path) -> None:
    plain, averaged = _encoder(1), _encoder(2)
    path = _saved(tmp_path, {"model": plain, "model_ema": averaged, "projector": PROJECTOR})
    notes = _loads(path, plain)
    assert notes == ("the weights are those of model; model_ema could be chosen by weight_set",)
    notes = _loads(path, averaged, weight_set="model_ema")
    assert notes[0].startswith("the weights are those of model_ema; model could be chosen")
    with pytest.raises(InputError, match=r"a\.pth .* no weight set 'ema': choose one of model, model_ema"):
        read_checkpoint(path, weight_set="ema")


def test_student_and_teacher_in_one_table(tmp_path: Path) -> None:
    student, teacher = _encoder(1, "student.backbone."), _encoder(2, "teacher.backbone.")
    path = _saved(tmp_path, {"state_dict": student | teacher | {"dino_loss.center": torch.ones(1)}})
    notes = _loads(path, teacher)
    assert notes == ("the weights are those of state_dict.teacher; state_dict.student could be chosen by weight_set",)
    _loads(path, student, weight_set="student")


def test_a_model_and_its_average_in_one_table(tmp_path: Path) -> None:
    plain, averaged = _encoder(1, "model."), _encoder(2, "ema.")
    path = _saved(tmp_path, {"state_dict": {f"module.{name}": value for name, value in (plain | averaged).items()}})
    _loads(path, plain)
    _loads(path, averaged, weight_set="state_dict.ema")


def test_entries_beside_the_weights_stay(tmp_path: Path) -> None:
    content = {"network_weights": _encoder(1, "module."), "trainer_name": "nnUNetTrainer", "spark_weights": PROJECTOR}
    checkpoint = read_checkpoint(_saved(tmp_path, content))
    assert checkpoint.trainer == "nnUNetTrainer" and checkpoint.kind == "nnunet"


def test_checkpoints_of_lightning(tmp_path: Path) -> None:
    """The module's own parts and its hyper-parameters lie beside the network."""
    weights = _encoder(1, "model.")
    content = {"state_dict": weights | {"loss.weight": torch.ones(2)}, "pytorch-lightning_version": "2.1", "epoch": 4,
               "hyper_parameters": argparse.Namespace(lr=1e-3), "optimizer_states": [{"state": {}}]}  # fmt: skip
    path = _saved(tmp_path, content)
    assert _loads(path, weights) == ()
    assert load_pretrained(network("resenc", 1), path).encoder_share == 1
