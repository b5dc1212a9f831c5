"""The decoder of the planned network takes part in pre-training, and fine-tuning takes it over."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.base import Objective
from bdfm_nnunet.objectives.frequency_corruption import FrequencyCorruption
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.settings import FrequencyCorruptionSettings, MixtureSettings, PretrainingSettings, WeightedObjective
from bdfm_nnunet.step_checks import check_steps
from tests.networks.zoo import network

IMAGES = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def _objective(kind: str, frepa: bool = False) -> Any:
    torch.manual_seed(0)
    view = encoder_of(network(kind, 1))
    if frepa:
        return FrequencyCorruption(view, FrequencyCorruptionSettings(decoder="network"))
    return MaskedImageModelling(view, PretrainingSettings(decoder="network"))


def _step(objective: Objective) -> None:
    drawn = objective.draw(2, IMAGES.shape[2:], generator=torch.Generator().manual_seed(0))
    objective(IMAGES, **drawn)["loss"].backward()


@pytest.mark.parametrize("frepa", [False, True], ids=["masked", "frepa"])
@pytest.mark.parametrize("kind", ["swin", "resenc", "resnet18"])
def test_every_parameter_learns_and_fine_tuning_finds_it(kind: str, frepa: bool, tmp_path: Path) -> None:
    objective = _objective(kind, frepa)
    _step(objective)
    assert [name for name, each in objective.named_parameters() if each.grad is None] == []
    torch.save({"network_weights": objective.state_dict()}, tmp_path / "checkpoint.pth")
    target = network(kind, 1)
    report = load_pretrained(target, tmp_path / "checkpoint.pth", decoder="all")
    assert report.encoder_share == 1 and set(report.new) == {name for name in report.new if ".seg_layers." in name}
    features = objective.eval().view.module(IMAGES)
    if objective.view.stem is not None:
        assert report.stem_share == 1
        features = [objective.view.stem(IMAGES), *features]
    target.decoder.seg_layers = objective.decoder.seg_layers
    found = target.eval()(IMAGES)
    expected = objective.decoder(features)
    torch.testing.assert_close(found, expected[0] if isinstance(expected, list) else expected)


def test_by_default_fine_tuning_starts_with_a_new_decoder(tmp_path: Path) -> None:
    torch.save({"network_weights": _objective("swin").state_dict()}, tmp_path / "checkpoint.pth")
    report = load_pretrained(network("swin", 1), tmp_path / "checkpoint.pth")
    assert report.encoder_share == report.stem_share == 1
    assert not [name for name in report.loaded if name.startswith("decoder.")]


def test_it_sees_no_masked_voxel() -> None:
    objective = _objective("swin").eval()
    mask = objective.draw_mask(2, (32, 32, 32), generator=torch.Generator().manual_seed(0))
    hidden = upsample(mask, 4).unsqueeze(1)
    rebuilt = objective.reconstruct(IMAGES, mask=mask)["pixel"]
    assert torch.equal(rebuilt, objective.reconstruct(torch.where(hidden, 7.0, IMAGES), mask=mask)["pixel"])
    assert not torch.allclose(rebuilt, objective.reconstruct(torch.where(hidden, IMAGES, 7.0), mask=mask)["pixel"])


def test_objectives_of_a_mixture_share_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    parts = (
        WeightedObjective(name="masked", weight=1.0, settings=PretrainingSettings(decoder="network")),
        WeightedObjective(
            name="frequency_corruption", weight=1.0, settings=FrequencyCorruptionSettings(decoder="network")
        ),
    )
    mixture = Mixture(encoder_of(network("swin", 1)), MixtureSettings(objectives=parts))
    _step(mixture)
    names = list(mixture.state_dict())
    assert len([name for name in names if name.endswith("decoder.stages.0.convs.0.0.weight")]) == 1
    torch.save({"network_weights": mixture.state_dict()}, tmp_path / "checkpoint.pth")
    report = load_pretrained(network("swin", 1), tmp_path / "checkpoint.pth", decoder="all")
    assert "decoder.stages.0.convs.0.0.weight" in report.loaded and report.stem_share == 1


def test_what_has_no_such_decoder_is_refused() -> None:
    with pytest.raises(InputError, match="no decoder with skip connections"):
        _objective("primus")
    configuration = {
        "batch_size": 2, "patch_size": [32, 32, 32], "pretraining": {"decoder": "network"},
        "architecture": {"arch_kwargs": {"strides": [[8, 8, 8]], "version": 1}},
    }  # fmt: skip
    with pytest.raises(InputError, match="no decoder with skip connections"):
        check_steps(configuration)
    with pytest.raises(InputError, match="no decoder with skip connections"):
        FrequencyCorruption.check(configuration, FrequencyCorruptionSettings(decoder="network"))
    with pytest.raises(InputError, match="decoder is network, which finds no features in hidden positions"):
        PretrainingSettings(decoder="network", encode="visible")
