"""The encoder of a Primus against dynamic-network-architectures' own forward pass and a slow one of visible tokens."""

from typing import Any

import pytest
import torch
from dynamic_network_architectures.architectures import primus as published
from torch import Tensor

from bdfm_nnunet.networks import encoder_of
from bdfm_nnunet.networks.encoders import image_kernels
from bdfm_nnunet.networks.primus_encoder import PrimusEncoder
from tests.networks.zoo import PRIMUS, network

SHAPE = (16, 24, 32)
KINDS: dict[str, Any] = {"Primus": published.Primus, "PrimusV2": published.PrimusV2, "PrimusV3": published.PrimusV3}


def _published(kind: str = "Primus", channels: int = 2, **settings: Any) -> Any:
    torch.manual_seed(0)
    built = KINDS[kind](channels, 24, (8, 8, 8), 3, 2, 2, SHAPE, **({"init_values": 0.1} | settings)).eval()
    with torch.no_grad():
        for parameter in built.parameters():  # layer scales and norms start at constants
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("registers", [0, 3])
def test_it_computes_what_the_published_network_does(kind: str, registers: int) -> None:
    built = _published(kind, num_register_tokens=registers, scale_attn_inner=kind != "Primus")
    images = torch.randn(2, 2, *SHAPE)
    view = encoder_of(built)
    assert (view.channels, view.strides, view.in_channels) == ((24,), ((8, 8, 8),), 2)
    with torch.no_grad():
        (features,) = view.module(images)
        torch.testing.assert_close(built.up_projection(features), built(images))
    named = dict(built.named_parameters())
    shared = dict(view.module.named_parameters())
    assert all(named[name] is parameter for name, parameter in shared.items())
    assert {name for name in named if name not in shared} == {n for n in named if n.startswith("up_projection.")}


def test_without_either_kind_of_position() -> None:
    images = torch.randn(1, 2, *SHAPE)
    for settings in ({"use_abs_pos_embed": False}, {"use_rot_pos_emb": False}):
        built = _published(**settings, num_register_tokens=2)
        torch.testing.assert_close(built.up_projection(encoder_of(built).module(images)[0]), built(images))


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_that_read_the_image(kind: str) -> None:
    encoder = PrimusEncoder.of(_published(kind, 3))
    kernels = image_kernels(encoder)
    assert len(kernels) == (1 if kind == "Primus" else 2)
    assert all(kernel.shape[1] == 3 for kernel in kernels)
    before = encoder(images := torch.randn(1, 3, *SHAPE))[0]
    with torch.no_grad():
        for kernel in kernels:
            kernel[:, 1] = 0
    after = encoder(images)[0]
    assert not torch.allclose(before, after)
    images[:, 1] += torch.randn(SHAPE)  # no other kernel sees the channel
    torch.testing.assert_close(encoder(images)[0], after)


def _attending_to(encoder: PrimusEncoder, images: Tensor, shown: Tensor) -> Tensor:
    """Slow: the whole encoder on one image, with attention restricted to the shown tokens, (T,)."""
    eva = encoder.eva
    tokens = encoder.down_projection(images).flatten(2).transpose(1, 2) + eva.pos_embed
    allowed = shown[None, :].expand(len(shown), -1)
    for block in eva.blocks:
        tokens = block(tokens, rope=eva.rope.get_embed(), attn_mask=allowed[None, None])
    return eva.norm(tokens)[:, shown]


def test_visible_tokens_alone_are_those_of_restricted_attention() -> None:
    view = encoder_of(_published(drop_path_rate=0.0))
    images = torch.randn(2, 2, *SHAPE)
    mask = torch.zeros(2, 24, dtype=torch.bool)
    for sample in range(2):
        mask[sample, torch.randperm(24)[:16]] = True
    (rows,), where = view.visible_features(images, mask.reshape(2, 2, 3, 4), patch_size=(8, 8, 8))
    assert rows.shape == (2, 8, 24) and where.stages[0].grid == (2, 3, 4)
    for sample in range(2):
        expected = _attending_to(view.module, images[sample : sample + 1], ~mask[sample])[0]
        torch.testing.assert_close(rows[sample], expected)


@pytest.mark.parametrize("kind", ["PrimusV2", "PrimusV3"])
def test_tokens_that_look_beyond_themselves_are_not_computed_alone(kind: str) -> None:
    view = encoder_of(_published(kind))
    assert view.is_transformer and not view.masks_tokens and view.mask_channels == 2
    mask = torch.arange(24).reshape(1, 2, 3, 4) < 12
    with pytest.raises(ValueError, match="version 1"):
        view.visible_features(torch.randn(1, 2, *SHAPE), mask, patch_size=(8, 8, 8))


@pytest.mark.parametrize("kind", PRIMUS)
def test_other_sizes_than_the_positions_are_refused(kind: str) -> None:
    with pytest.raises(ValueError, match=r"\(32, 32, 16\) voxels, but this Primus has positions for \(32, 32, 32\)"):
        network(kind, 1)(torch.zeros(1, 1, 32, 32, 16))
    turned = PrimusEncoder.of(_published())
    with pytest.raises(ValueError, match="has positions for"):  # as many tokens, but others
        turned(torch.zeros(1, 2, *SHAPE[::-1]))


def test_recomputing_changes_no_gradient() -> None:
    built = _published(drop_path_rate=0.5)
    images = torch.randn(1, 2, *SHAPE)
    gradients = []
    for checkpointing in (False, True):
        encoder = PrimusEncoder.of(built, gradient_checkpointing=checkpointing).train()
        torch.manual_seed(3)
        encoder(images)[0].square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in encoder.parameters()])
        encoder.zero_grad()
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
