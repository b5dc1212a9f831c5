"""The full-resolution stem of a Swin U-Net takes part in masked image modelling."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.settings import MixtureSettings, PretrainingSettings, WeightedObjective
from bdfm_nnunet.step_checks import check_steps
from tests.networks.zoo import network

IMAGES = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def _objective(channels: int = 1, **settings: Any) -> MaskedImageModelling:
    torch.manual_seed(0)
    return MaskedImageModelling(encoder_of(network("swin", channels)), PretrainingSettings(stem=True, **settings))


@pytest.mark.parametrize("settings", [{}, {"decoder": "final", "frequency_decoder": "none", "mask_token": "learned"}])
def test_gradient_reaches_the_stem(settings: dict[str, Any]) -> None:
    objective = _objective(**settings)
    objective(IMAGES)["loss"].backward()
    stem = {name: p.grad for name, p in objective.named_parameters() if name.startswith("stem.")}
    assert len(stem) == 8 and all(grad is not None for grad in stem.values())
    moved = [name for name, grad in stem.items() if grad.abs().max() > 1e-7]
    # an instance norm takes out the bias before it
    assert moved == [name for name in stem if not name.endswith(".0.bias")]
    assert all(p.grad is not None for p in objective.parameters())


def test_the_stem_sees_no_masked_voxel_and_changes_the_image() -> None:
    objective = _objective().eval()
    mask = objective.draw_mask(2, (32, 32, 32), generator=torch.Generator().manual_seed(0))
    voxels = upsample(mask, 4).unsqueeze(1)
    rebuilt = objective.reconstruct(IMAGES, mask=mask)
    other = objective.reconstruct(torch.where(voxels, 7.0, IMAGES), mask=mask)
    assert torch.equal(rebuilt["pixel"], other["pixel"]) and torch.equal(rebuilt["frequency"], other["frequency"])
    torch.nn.init.normal_(objective.stem.convs[1][1].bias)
    assert not torch.allclose(rebuilt["pixel"], objective.reconstruct(IMAGES, mask=mask)["pixel"])


def test_its_token_starts_as_the_mean_of_the_images() -> None:
    objective = _objective(2)
    images = torch.randn(2, 2, 32, 32, 32) + torch.tensor([3.0, -1.0])[:, None, None, None]
    objective(images)
    torch.testing.assert_close(objective.stem_token.value.data, images.mean((0, 2, 3, 4)))


def test_without_the_setting_nothing_is_added() -> None:
    objective = MaskedImageModelling(encoder_of(network("swin", 1)))
    assert not [name for name in objective.state_dict() if "stem" in name]


@pytest.mark.parametrize("mixed", [False, True])
def test_fine_tuning_loads_it_and_the_report_counts_it(mixed: bool, tmp_path: Path) -> None:
    if mixed:
        torch.manual_seed(0)
        parts = [WeightedObjective(name="masked", weight=1.0, settings=PretrainingSettings(stem=s)) for s in (0, 1, 1)]
        objective: Any = Mixture(encoder_of(network("swin", 1)), MixtureSettings(objectives=tuple(parts)))
    else:
        objective = _objective()
    assert sum("stem.convs.0.0.weight" in name for name in objective.state_dict()) == 1
    torch.save({"network_weights": objective.state_dict()}, tmp_path / "checkpoint.pth")
    target = network("swin", 4)
    report = load_pretrained(target, tmp_path / "checkpoint.pth")
    assert report.encoder_share == report.stem_share == 1.0
    assert "100.0% of the encoder and 100.0% of the stem;" in str(report)
    assert report.adapted["stem.convs.0.0.weight"] == "input channels 1 to 4"
    source = objective.stem.convs
    assert torch.equal(target.stem.convs[1][0].weight, source[1][0].weight)
    images = torch.randn(1, 1, 8, 8, 8)
    torch.testing.assert_close(target.stem(images.expand(1, 4, 8, 8, 8)), objective.stem(images), atol=1e-5, rtol=1e-4)


def test_a_checkpoint_without_stem_is_reported_as_before(tmp_path: Path) -> None:
    objective = MaskedImageModelling(encoder_of(network("swin", 1)))
    torch.save({"network_weights": objective.state_dict()}, tmp_path / "checkpoint.pth")
    report = load_pretrained(network("swin", 4), tmp_path / "checkpoint.pth")
    assert report.stem_share == 0 and "of the stem" not in str(report)
    assert report.new["stem.convs.0.0.weight"] == "not in the checkpoint"


def test_what_has_no_stem_is_refused() -> None:
    with pytest.raises(InputError, match="no full-resolution stem beside its encoder"):
        MaskedImageModelling(encoder_of(network("plain", 1)), PretrainingSettings(stem=True))
    configuration = {
        "batch_size": 2, "patch_size": [32, 32, 32], "pretraining": {"stem": True},
        "architecture": {"arch_kwargs": {"strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}},
    }  # fmt: skip
    with pytest.raises(InputError, match="no full-resolution stem beside its encoder"):
        check_steps(configuration)
    with pytest.raises(InputError, match="nothing is computed at hidden voxels"):
        PretrainingSettings(stem=True, encode="visible")
