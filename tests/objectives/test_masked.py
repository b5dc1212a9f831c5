import math

import pytest
import torch

from bdfm_nnunet.losses import focal_frequency_loss, masked_mse
from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.objectives.masked import MaskedImageModelling
from bdfm_nnunet.presets import PRESETS
from bdfm_nnunet.settings import PretrainingSettings
from tests.networks.zoo import NETWORKS, network

IMAGES = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def _objective(kind: str = "swin", channels: int = 1, **settings: object) -> MaskedImageModelling:
    torch.manual_seed(0)
    return MaskedImageModelling(encoder_of(network(kind, channels)), PretrainingSettings(**settings))  # type: ignore[arg-type]


def _mask(objective: MaskedImageModelling, seed: int = 0) -> torch.Tensor:
    return objective.draw_mask(2, (32, 32, 32), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_network_is_pretrained_and_every_parameter_learns(kind: str, channels: int) -> None:
    objective = _objective(kind, channels)
    images = torch.randn(2, channels, 32, 32, 32)
    terms = objective(images)
    assert set(terms) == {"loss", "pixel", "frequency"}
    torch.testing.assert_close(terms["loss"], terms["pixel"] + terms["frequency"])
    terms["loss"].backward()
    # the finest features of convolutional encoders are trained through the coarser ones
    assert [name for name, p in objective.named_parameters() if p.grad is None] == []
    assert objective.reconstruct(images, mask=_mask(objective))["frequency"].shape == images.shape


def test_a_few_steps_beat_the_mean() -> None:
    objective = _objective("swin")
    axis = torch.linspace(0, 4 * math.pi, 32)
    images = (axis[:, None, None].sin() + axis[:, None].sin() + axis.cos()).expand(2, 1, 32, 32, 32)
    mask = _mask(objective)
    optimizer = torch.optim.AdamW(objective.parameters(), 3e-3)
    first = objective(images, mask=mask)["loss"].item()
    for _ in range(40):
        optimizer.zero_grad()
        objective(images)["loss"].backward()
        optimizer.step()
    assert objective(images, mask=mask)["pixel"] < 0.5 * images.var()
    assert objective(images, mask=mask)["loss"] < 0.5 * first


def test_terms_are_the_losses_of_the_two_reconstructions() -> None:
    objective = _objective(pixel_weight=2.0, frequency_weight=0.5, alpha=2.0).eval()
    mask = _mask(objective)
    rebuilt, terms = objective.reconstruct(IMAGES, mask=mask), objective(IMAGES, mask=mask)
    torch.testing.assert_close(terms["pixel"], masked_mse(rebuilt["pixel"], IMAGES, mask))
    expected = focal_frequency_loss(rebuilt["frequency"], IMAGES, mask, alpha=2.0)
    torch.testing.assert_close(terms["frequency"], expected)
    torch.testing.assert_close(terms["loss"], 2 * terms["pixel"] + 0.5 * terms["frequency"])


def test_mask_settings_act() -> None:
    objective = _objective(mask_ratio=0.5, block_size=(4, 2, 2))
    mask = _mask(objective)
    assert mask.shape == (2, 8, 8, 8) and mask.float().mean() == 0.5
    assert torch.equal(mask[:, 0], mask[:, 3])
    assert _mask(_objective(patch_size=8)).shape == (2, 4, 4, 4)
    assert not torch.equal(mask, _mask(objective, seed=1))


def test_generator_decides_the_mask_of_a_call() -> None:
    objective = _objective().eval()
    losses = [objective(IMAGES, generator=torch.Generator().manual_seed(s))["loss"].item() for s in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_convolutional_encoders_hide_larger_blocks_by_default() -> None:
    assert _objective("swin").block_size == (1, 1, 1)
    assert _objective("plain").block_size == (4, 4, 4) and _objective("plain").patch_size == (4, 4, 4)


@pytest.mark.parametrize("mode", ["zero", "learned", "scalar_mean", "channel_mean", "image_mean"])
@pytest.mark.parametrize("kind", ["swin", "plain"])
def test_mask_token_modes(kind: str, mode: str) -> None:
    objective = _objective(kind, mask_token=mode)
    assert objective.mask_token.mode == mode
    assert len(objective.mask_token.value) == (16 if kind == "swin" else 1)
    assert torch.isfinite(objective(IMAGES)["loss"])


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"decoder": "final"}, "pixel_decoder.expand.weight"),
        ({"decoder": "pyramid", "decoder_channels": 12}, "pixel_decoder.laterals.0.weight"),
        ({"frequency_blocks": 3}, "frequency_decoder.blocks.2.kernels"),
        ({"frequency_output": "magnitude"}, "frequency_decoder.blocks.0.bias"),
        ({"frequency_norm": True}, "frequency_decoder.norm.weight"),
        ({"frequency_target": "patch_normalised"}, "frequency_decoder.norm.weight"),
    ],
)
def test_settings_shape_the_decoders(settings: dict[str, object], part: str) -> None:
    objective = _objective(**settings)
    assert part in objective.state_dict()
    if "decoder_channels" in settings:
        assert objective.state_dict()[part].shape == (12, 16)
    if "frequency_blocks" in settings:
        assert "frequency_decoder.blocks.3.kernels" not in objective.state_dict()
    assert torch.isfinite(objective(IMAGES)["loss"])


def test_raw_target_has_no_norm_unless_asked() -> None:
    assert _objective().frequency_decoder.norm is None
    assert _objective(frequency_target="patch_normalised", frequency_norm=False).frequency_decoder.norm is None


def test_patch_normalised_target() -> None:
    objective = _objective(frequency_target="patch_normalised")
    target = objective.frequency_target(IMAGES * 3 + 7)[1, 0, 4:8, :4, 8:12]
    assert target.mean().abs() < 1e-5 and abs(target.std(unbiased=False) - 1) < 1e-3


def test_serial_decoder_continues_from_the_pixels() -> None:
    serial, parallel = _objective(frequency_decoder="serial").eval(), _objective().eval()
    rebuilt = serial.reconstruct(IMAGES, mask=_mask(serial))
    assert torch.equal(rebuilt["pixel"], rebuilt["frequency"])  # a new frequency decoder changes nothing yet
    rebuilt = parallel.reconstruct(IMAGES, mask=_mask(parallel))
    assert not torch.equal(rebuilt["pixel"], rebuilt["frequency"])


def test_the_frequency_loss_without_its_decoder_scores_the_pixels() -> None:
    objective = _objective(frequency_decoder="loss_only").eval()
    assert not [name for name in objective.state_dict() if name.startswith("frequency_decoder")]
    mask = _mask(objective)
    rebuilt = objective.reconstruct(IMAGES, mask=mask)
    assert torch.equal(rebuilt["pixel"], rebuilt["frequency"])
    found = objective(IMAGES, mask=mask)
    expected = focal_frequency_loss(rebuilt["pixel"], IMAGES, mask, patch_size=(4, 4, 4))
    torch.testing.assert_close(found["frequency"], expected)
    torch.testing.assert_close(found["loss"], found["pixel"] + expected)
    assert objective.terms == ("pixel", "frequency") and _objective(frequency_decoder="none").terms == ("pixel",)


@pytest.mark.parametrize(
    "settings", [{}, {"frequency_decoder": "serial"}, {"frequency_decoder": "none"}, {"encode": "visible"}]
)
def test_the_pixels_alone_are_those_of_both_domains(settings: dict[str, object]) -> None:
    objective = _objective(**settings).eval()
    mask = _mask(objective)
    both, alone = (objective.reconstruct(IMAGES, mask=mask, only_pixel=only) for only in (False, True))
    assert list(alone) == ["pixel"] and torch.equal(alone["pixel"], both["pixel"])


def test_simmim_is_the_same_objective_with_other_settings() -> None:
    objective = _objective(**PRESETS["simmim"].settings)
    assert objective.frequency_decoder is None and objective.mask_token.mode == "learned"
    assert set(objective(IMAGES)) == {"loss", "pixel"}
    assert set(objective.reconstruct(IMAGES, mask=_mask(objective))) == {"pixel"}


def test_published_settings_act() -> None:
    torch.manual_seed(0)
    objective = MaskedImageModelling(encoder_of(network("swin", 1)), PretrainingSettings.published())
    decoder = objective.frequency_decoder
    assert decoder.norm is not None
    assert {(block.padding, block.output) for block in decoder.blocks} == {("zero", "magnitude")}
    assert objective.mask_token.mode == "scalar_mean" and objective.mask_token.noise == 0.02
    mask = _mask(objective)
    objective.eval()
    rebuilt = objective.reconstruct(IMAGES, mask=mask)
    expected = focal_frequency_loss(rebuilt["frequency"], IMAGES, mask, legacy=True)
    torch.testing.assert_close(objective(IMAGES, mask=mask)["frequency"], expected)


def test_images_that_are_no_whole_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        _objective()(torch.randn(1, 1, 32, 32, 30))


def test_autocast_keeps_losses_in_single_precision() -> None:
    objective = _objective()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = objective(IMAGES)
    assert all(term.dtype == torch.float32 for term in terms.values())
