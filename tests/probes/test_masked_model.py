"""Objectives built from checkpoints, with all weights, and refusals of files that rebuild nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.errors import InputError
from bdfm_nnunet.objectives.mixture import SharedView
from bdfm_nnunet.presets import MIXTURE_TRAINER
from bdfm_nnunet.probes.masked_model import load_masked_model
from tests.conftest import Prepared
from tests.probes.masked_checkpoints import masked_checkpoint


@pytest.mark.parametrize(
    ("trainer", "pretraining", "mode"),
    [
        ("nnUNetTrainerBDFMPretrain", {"mask_ratio": 0.5}, "channel_mean"),
        ("nnUNetTrainerSimMIM", {}, "learned"),
        ("nnUNetTrainerBDFMPretrain", {"legacy": True}, "scalar_mean"),
        ("nnUNetTrainerBDFMPretrain", {"decoder": "network"}, "channel_mean"),
    ],
)
def test_the_objective_is_that_of_the_training(
    prepared: Prepared, tmp_path: Path, trainer: str, pretraining: dict[str, Any], mode: str
) -> None:
    path = masked_checkpoint(prepared, tmp_path / "a.pth", trainer=trainer, pretraining=pretraining)
    model = load_masked_model(path)
    weights = torch.load(path, weights_only=True)["network_weights"]
    assert weights.keys() == model.objective.state_dict().keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.objective.state_dict().items())
    assert not model.objective.training and model.objective.mask_token.mode == mode
    assert model.objective.settings.mask_ratio == pretraining.get("mask_ratio", 0.75)
    assert (model.seed, model.single_channel, model.spacing) == (9, True, (4.0, 4.0, 4.0))


def test_all_channels_together(prepared: Prepared, tmp_path: Path) -> None:
    path = masked_checkpoint(prepared, tmp_path / "a.pth", pretraining={"channels": "all"}, inputs=4)
    model = load_masked_model(path)
    assert not model.single_channel and model.objective.view.in_channels == 4


def test_the_masked_part_of_a_mixture(prepared: Prepared, tmp_path: Path) -> None:
    parts = [{"name": "contrastive"}, {"name": "masked", "mask_ratio": 0.6}]
    path = masked_checkpoint(prepared, tmp_path / "a.pth", trainer=MIXTURE_TRAINER, pretraining={"objectives": parts})
    model = load_masked_model(path)
    assert model.objective.settings.mask_ratio == 0.6 and isinstance(model.objective.view, SharedView)
    images, mask = torch.rand(1, 1, *model.crop), model.objective.draw_mask(1, model.crop)
    assert model.objective.reconstruct(images, mask=mask)["pixel"].shape == images.shape


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"trainer": "nnUNetTrainerSimCLR"}, "masks no patches"),
        ({"trainer": "nnUNetTrainerFrepa"}, "masks no patches"),
        ({"change": lambda content: content.update(trainer_name="nnUNetTrainer")}, "is of nnUNetTrainer, which"),
        ({"change": lambda content: content.pop("trainer_name")}, "does not name its trainer"),
        ({"change": lambda content: content.pop("init_args")}, "does not hold the plans"),
        (
            {"trainer": MIXTURE_TRAINER, "pretraining": {"objectives": [{"name": "contrastive"}]}},
            "a mixture without masked",
        ),
        (
            {"change": lambda content: content["network_weights"].pop("pixel_decoder.project.weight")},
            r"lacks parts of its training \(.*pixel_decoder\.project\.weight",
        ),
    ],
)
def test_what_rebuilds_nothing_is_one_sentence(
    prepared: Prepared, tmp_path: Path, options: dict[str, Any], fault: str
) -> None:
    path = masked_checkpoint(prepared, tmp_path / "a.pth", **options)
    with pytest.raises(InputError, match=rf"a\.pth .*{fault}.*nnUNetTrainerBDFMPretrain"):
        load_masked_model(path)
