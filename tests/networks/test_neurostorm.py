from typing import Any

import pytest
import torch

from bdfm_nnunet.masking import MaskToken
from bdfm_nnunet.networks import NeurostormEncoder, encoder_of
from bdfm_nnunet.networks.encoder_depth import encoder_layers
from bdfm_nnunet.networks.encoders import image_kernels, suited_optimizer
from bdfm_nnunet.networks.low_rank import kernels_of
from bdfm_nnunet.networks.mamba_stages import add_prompts
from bdfm_nnunet.networks.masked_neurostorm import MaskedNeurostorm

SMALL: dict[str, Any] = {
    "image_size": (8, 8, 8, 6), "patch_size": (2, 2, 2, 1), "features": (4, 8), "depths": (2, 1),
    "window_size": (2, 2, 2, 4), "merging": ((2, 2, 2, 1),),
}  # fmt: skip


def _encoder(**options: Any) -> NeurostormEncoder:
    torch.manual_seed(0)
    encoder = NeurostormEncoder(1, **(SMALL | options)).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder


def _images(frames: int = 6, batch: int = 1) -> torch.Tensor:
    return torch.randn(batch, 1, 8, 8, 8, frames, generator=torch.Generator().manual_seed(1))


def test_the_published_sizes() -> None:
    with torch.device("meta"):
        model = MaskedNeurostorm(NeurostormEncoder(1, legacy=True))
    parameters = list(model.parameters())
    assert (sum(each.numel() for each in parameters), len(parameters)) == (7_712_964, 409)
    encoder = list(model.encoder.parameters())
    assert (sum(each.numel() for each in encoder), len(encoder)) == (5_173_020, 223)
    model.encoder.to_empty(device="cpu")
    prompts = add_prompts(model.encoder, generator=torch.Generator())
    assert (len(prompts), sum(each.numel() for each in prompts)) == (12, 82_800)
    trained = (82_800 + 289) / (5_173_020 + 82_800 + 289)
    assert f"{trained:.2%}" == "1.58%"


def test_the_view_states_what_the_encoder_gives() -> None:
    view = encoder_of(_encoder())
    assert (view.in_channels, view.axes, view.is_transformer, view.masks_tokens) == (1, 4, True, True)
    assert (view.mask_channels, view.token_patch, view.ends_with_norm) == (4, (2, 2, 2, 1), False)
    features = view.module(_images(batch=2))
    assert [tuple(each.shape) for each in features] == [(2, 4, 4, 4, 4, 6), (2, 8, 2, 2, 2, 6)]
    assert view.channels == (4, 8) and view.strides == ((2, 2, 2, 1), (4, 4, 4, 1))
    assert suited_optimizer(view.module) == "adamw"
    assert image_kernels(view.module)[0] is view.module.patch_embed.weight


def test_masked_voxels_are_not_seen() -> None:
    view, images = encoder_of(_encoder()), _images()
    mask = torch.zeros(1, 4, 4, 4, 6, dtype=torch.bool)
    mask[:, 1:3, 2:, :, 2:4] = True
    hidden = mask.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)[:, None]
    token = MaskToken(view.mask_channels, "zero")
    other = torch.where(hidden, torch.randn_like(images), images)
    first, second = (view.features(each, mask, token, patch_size=(2, 2, 2, 1)) for each in (images, other))
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first[-1], view.module(images)[-1])
    with pytest.raises(ValueError, match="no tokens that can be computed without the others"):
        view.visible_features(images, mask, patch_size=(2, 2, 2, 1))


def test_every_parameter_is_in_one_layer_and_low_rank_additions_go_into_scans() -> None:
    encoder = _encoder()
    layers = encoder_layers(encoder_of(encoder))
    assert len(layers) == 1 + 3
    found = [id(parameter) for layer in layers for parameter in layer]
    assert sorted(found) == sorted(id(parameter) for parameter in encoder.parameters())
    assert id(encoder.get_parameter("stages.0.positions.time")) in {id(each) for each in layers[0]}
    names = kernels_of(encoder, [])
    assert len(names) == 3 * 4 and all(".mamba." in name and "conv" not in name for name in names)


@pytest.mark.parametrize("legacy", [False, True])
def test_clips_of_other_lengths(legacy: bool) -> None:
    encoder = _encoder(legacy=legacy)
    for frames in (1, 4, 6, 9):
        assert encoder(_images(frames))[-1].shape == (1, 8, 2, 2, 2, frames)
    with torch.no_grad():
        longer, shorter = encoder(_images(4)), encoder(_images(4)[..., :3])
    # of a first block, where windows are not shifted, no later frame counts; afterwards the windows differ
    assert not torch.allclose(longer[0][..., :3], shorter[0])


def test_frames_in_another_rhythm_have_other_positions() -> None:
    plain, same, slow = (_encoder(frame_seconds=seconds) for seconds in (None, 0.8, 1.6))
    images = _images()
    torch.testing.assert_close(same(images)[-1], plain(images)[-1])
    assert not torch.allclose(slow(images)[-1], plain(images)[-1])
    other = _encoder(frame_seconds=1.6, table_seconds=1.6)
    torch.testing.assert_close(other(images)[-1], plain(images)[-1])


def test_windows_of_the_last_stage() -> None:
    whole, cut = (
        _encoder(depths=(1, 2), merging=((1, 2, 2, 1),)),
        _encoder(depths=(1, 2), merging=((1, 2, 2, 1),), full_last_window=False),
    )
    blocks = [each.stages[1].blocks[1] for each in (whole, cut)]
    assert [(each.window_size, each.shifted) for each in blocks] == [((4, 2, 2, 4), False), ((2, 2, 2, 4), True)]
    assert not torch.allclose(whole(_images())[-1], cut(_images())[-1])


def test_both_directions_start_as_one() -> None:
    one, both = _encoder(), _encoder(both_directions=True)
    for name, parameter in both.named_parameters():
        parameter.data = torch.zeros_like(parameter) if "gate" in name else one.get_parameter(name).data
    torch.testing.assert_close(both(_images())[-1], one(_images())[-1])
    assert sum("gate" in name for name, _ in both.named_parameters()) == 3


def test_the_first_frame_of_the_default_waits_for_no_far_one() -> None:
    """Through two blocks of windows of four frames, the second shifted: what is further away has no effect."""
    images = _images(12)
    other = images.clone()
    other[..., -1] += 3 * torch.randn(8, 8, 8)
    for legacy, reached in ((False, False), (True, True)):
        encoder = _encoder(legacy=legacy, image_size=(8, 8, 8, 12))
        with torch.no_grad():
            first, second = encoder(images)[0], encoder(other)[0]
        assert torch.equal(first[..., 0], second[..., 0]) is not reached


@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_of_it_learns(checkpointing: bool) -> None:
    encoder = _encoder(gradient_checkpointing=checkpointing).train()
    assert encoder.stages[0].checkpointing is checkpointing
    encoder(_images())[-1].square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": (2,)}, "2 stages needs as many depths"),
        ({"window_size": (2, 2, 2)}, "must have the same axes"),
        ({"patch_size": (2, 2, 2, 2)}, "a token is one frame"),
        ({"merging": ((2, 2, 2, 2),)}, "a token is one frame"),
    ],
)
def test_sizes_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _encoder(**options)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 1, 8, 8, 8), "expected a batch of 1 channel"),
        ((1, 2, 8, 8, 8, 6), "expected a batch of 1 channel"),
        ((1, 1, 8, 8, 8, 0), "expected a batch of 1 channel"),
        ((1, 1, 8, 8, 10, 6), r"images of \(8, 8, 10\) voxels, this network reads \(8, 8, 8\)"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _encoder()(torch.zeros(shape))


def test_costs_can_be_counted_without_memory() -> None:
    with torch.device("meta"):
        encoder = NeurostormEncoder(1, **SMALL, both_directions=True)
    features = encoder(torch.zeros(2, 1, 8, 8, 8, 5, device="meta"))
    assert [tuple(each.shape) for each in features] == [(2, 4, 4, 4, 4, 5), (2, 8, 2, 2, 2, 5)]
    features[-1].sum().backward()
    assert all(each.grad is not None for each in encoder.parameters() if each.numel() > 1)


def test_half_precision_leaves_the_steps_of_the_scan_alone() -> None:
    encoder = _encoder(both_directions=True, gradient_checkpointing=True).train()
    expected = encoder(_images(3))[-1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(_images(3))[-1]
    assert 0 < ((found - expected).norm() / expected.norm()).item() < 0.03
    found.float().square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32, name
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0, name
