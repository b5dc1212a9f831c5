"""Masked image modelling whose encoder computes only what is visible."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bdfm_nnunet.checkpoints import load_pretrained
from bdfm_nnunet.errors import InputError
from bdfm_nnunet.losses import focal_frequency_loss, masked_mse
from bdfm_nnunet.masking import upsample
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.objectives.mixture import Mixture
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import MixtureSettings, PretrainingSettings, WeightedObjective
from tests.networks.zoo import network

SIZE = (32, 32, 48)
IMAGES = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))


def _objective(channels: int = 1, **settings: Any) -> MaskedImageModelling:
    torch.manual_seed(0)
    swin = network("swin", channels, depths=(2, 1), drop_path_rate=0.0)
    chosen = {"encode": "visible", "decoder_channels": 8} | settings
    return MaskedImageModelling(encoder_of(swin), PretrainingSettings(**chosen))


def _drawn(objective: MaskedImageModelling, seed: int = 0) -> dict[str, Tensor]:
    return objective.draw(2, SIZE, generator=torch.Generator().manual_seed(seed))


def _blocks(objective: MaskedImageModelling, chosen: Tensor) -> Tensor:
    """Voxels of chosen blocks, (B, 1, *spatial)."""
    return upsample(chosen, objective.block_voxels).unsqueeze(1)


def test_blocks_are_positions_of_the_last_stage_by_default() -> None:
    assert _objective().block_voxels == (8, 8, 8) and _objective(patch_size=8).block_size == (1, 1, 1)
    assert _objective(block_size=(2, 4, 2)).block_voxels == (8, 16, 8)
    assert _drawn(_objective())["mask"].float().mean(dim=(1, 2, 3)).tolist() == [0.75, 0.75]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {}, {"rebuild": 0.3}, {"frequency_decoder": "serial", "mask_token": "image_mean"},
        {"frequency_decoder": "none"}, {"frequency_target": "patch_normalised"}, {"block_size": (4, 2, 4)},
        {"mask_token": "scalar_mean", "frequency_padding": "zero", "frequency_output": "magnitude"},
    ],
)  # fmt: skip
def test_every_parameter_learns(channels: int, settings: dict[str, Any]) -> None:
    objective = _objective(channels, **settings)
    terms = objective(torch.randn(2, channels, *SIZE), **_drawn(objective))
    terms["loss"].backward()
    assert [name for name, p in objective.named_parameters() if p.grad is None] == []
    assert all(torch.isfinite(term) for term in terms.values())


def test_terms_are_the_losses_of_whole_images() -> None:
    objective = _objective(alpha=2.0, frequency_weight=0.5).eval()
    mask = _drawn(objective)["mask"]
    rebuilt, terms = objective.reconstruct(IMAGES, mask=mask), objective(IMAGES, mask=mask)
    torch.testing.assert_close(terms["pixel"], masked_mse(rebuilt["pixel"], IMAGES, mask))
    torch.testing.assert_close(terms["frequency"], focal_frequency_loss(rebuilt["frequency"], IMAGES, mask, alpha=2.0))
    torch.testing.assert_close(terms["loss"], terms["pixel"] + 0.5 * terms["frequency"])
    monitored = objective.monitor(IMAGES, mask=mask)
    torch.testing.assert_close(monitored.values["loss"], terms["loss"])
    assert torch.isfinite(monitored.values["psnr"]) and monitored.pictures["reconstructions"].original.shape == SIZE


def test_a_share_of_the_hidden_blocks_is_rebuilt() -> None:
    objective = _objective(rebuild=0.25).eval()
    drawn = _drawn(objective)
    hidden, chosen = objective._of_blocks(drawn["mask"]), drawn["rebuild"]
    assert chosen.flatten(1).sum(1).tolist() == [round(0.25 * n) for n in hidden.flatten(1).sum(1).tolist()]
    assert not (chosen & ~hidden).any() and not torch.equal(chosen[0], chosen[1])
    assert torch.equal(drawn["mask"], _drawn(_objective())["mask"])  # the same mask as without
    assert not torch.equal(chosen, _drawn(objective, seed=1)["rebuild"])
    voxels = _blocks(objective, chosen)
    rebuilt = objective.reconstruct(IMAGES, mask=drawn["mask"])
    expected = (rebuilt["pixel"] - IMAGES)[voxels].square().mean()
    torch.testing.assert_close(objective(IMAGES, **drawn)["pixel"], expected)
    other = torch.where(voxels, IMAGES, torch.nan).nan_to_num(7) * _blocks(objective, hidden)
    other = torch.where(_blocks(objective, ~hidden), IMAGES, other)  # what is hidden and not rebuilt does not count
    torch.testing.assert_close(objective(other, **drawn), objective(IMAGES, **drawn))


def test_the_mean_over_shares_is_the_loss_of_all() -> None:
    objective = _objective(rebuild=0.34).eval()
    mask = _drawn(objective)["mask"]
    hidden = objective._of_blocks(mask).flatten(1)
    order = hidden.int().argsort(dim=1, descending=True, stable=True)[:, : int(hidden[0].sum())]
    losses = []
    for part in order.chunk(order.shape[1], 1):
        chosen = torch.zeros_like(hidden).scatter_(1, part, True).reshape(objective._of_blocks(mask).shape)
        losses.append(objective(IMAGES, mask=mask, rebuild=chosen)["loss"])
    torch.testing.assert_close(torch.stack(losses).mean(), objective(IMAGES, mask=mask)["loss"])


def test_hidden_voxels_reach_neither_encoder_nor_decoder() -> None:
    objective = _objective().eval()
    mask = _drawn(objective)["mask"]
    voxels = upsample(mask, 4).unsqueeze(1)
    images = torch.where(voxels, torch.nan, IMAGES).requires_grad_()
    rebuilt = objective.reconstruct(images, mask=mask)["pixel"]
    assert torch.equal(rebuilt, objective.reconstruct(IMAGES, mask=mask)["pixel"])
    rebuilt[voxels].square().sum().backward()
    assert images.grad is not None and not (images.grad != 0)[voxels].any()


def test_a_few_steps_beat_the_mean() -> None:
    objective = _objective(rebuild=0.5)
    axis = torch.linspace(0, 4 * math.pi, 48)
    images = (axis[:32, None, None].sin() + axis[:32, None].sin() + axis.cos()).expand(2, 1, *SIZE)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        objective(images, **objective.draw(2, SIZE, generator=generator))["loss"].backward()
        optimizer.step()
    assert objective(images, **_drawn(objective))["pixel"] < 0.5 * images.var()


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(InputError, match="no tokens to leave out: choose encode=all"):
        MaskedImageModelling(encoder_of(network("plain", 1)), PretrainingSettings(encode="visible"))
    with pytest.raises(InputError, match="legacy attention lets padding take part"):
        MaskedImageModelling(encoder_of(network("swin", 1, legacy=True)), PretrainingSettings(encode="visible"))
    with pytest.raises(InputError, match=r"blocks of \[8, 8, 4\] voxels .* choose multiples of \[2, 2, 2\]"):
        _objective(block_size=(2, 2, 1))
    with pytest.raises(InputError, match="no whole number of blocks"):
        _drawn(_objective(block_size=(6, 2, 2)))
    with pytest.raises(InputError, match="choose decoder=pyramid"):
        PretrainingSettings(**{**PRESETS["simmim"].settings, "encode": "visible"})
    with pytest.raises(InputError, match="choose encode=visible"):
        PretrainingSettings(rebuild=0.5)
    for share in (0.0, 1.1, math.nan):
        with pytest.raises(InputError, match="a share above 0"):
            PretrainingSettings(encode="visible", rebuild=share)
    objective = _objective()
    mask = _drawn(objective)["mask"]
    mask[0, 1, 1, 1] = ~mask[0, 1, 1, 1]
    with pytest.raises(ValueError, match="hides parts of positions"):
        objective(IMAGES, mask=mask)
    mask[0, 0, 0, 0] = ~mask[0, 0, 0, 0]
    with pytest.raises(ValueError, match="blocks to rebuild, expected equally many"):
        objective(IMAGES, mask=mask)


def test_its_checkpoint_is_loaded_by_a_network_to_fine_tune(tmp_path: Path) -> None:
    objective = _objective()
    torch.save({"network_weights": objective.state_dict()}, tmp_path / "checkpoint.pth")
    target = network("swin", 4, depths=(2, 1))
    report = load_pretrained(target, tmp_path / "checkpoint.pth")
    assert report.encoder_share == 1.0
    weights = target.encoder.state_dict()
    for name, value in objective.encoder.state_dict().items():
        if not name.startswith("patch_embed"):
            assert torch.equal(weights[name], value), name


def test_two_decoders_share_what_is_visible() -> None:
    parts = [
        WeightedObjective(name="masked", weight=1.0, settings=PretrainingSettings(encode="visible", rebuild=share))
        for share in (1.0, 0.5)
    ]
    torch.manual_seed(0)
    mixture = Mixture(encoder_of(network("swin", 1, drop_path_rate=0.0)), MixtureSettings(objectives=tuple(parts)))
    calls = []
    mixture.view.module.register_forward_hook(lambda *_: calls.append(1))
    terms = mixture(IMAGES, **mixture.draw(2, SIZE, generator=torch.Generator().manual_seed(0)))
    terms["loss"].backward()
    assert mixture.encoder_forwards == len(calls) == 1 and mixture.shapes_vary
    assert terms["masked_pixel"] != terms["masked2_pixel"]


def test_all_and_visible_share_nothing() -> None:
    settings = (PretrainingSettings(encode="visible"), PretrainingSettings(block_size=2))
    view = encoder_of(network("swin", 1))
    visible, everything = (MaskedImageModelling(view, each) for each in settings)
    assert not visible.share_encoding(everything) and not everything.share_encoding(visible)
