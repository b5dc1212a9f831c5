import pytest
import torch
from torch import nn

from bdfm_nnunet.masking import MaskToken
from bdfm_nnunet.networks import SwinEncoder, encoder_of
from tests.networks.zoo import NETWORKS, PRIMUS, network


@pytest.mark.parametrize("kind", NETWORKS + PRIMUS)
def test_view_states_what_the_encoder_gives(kind: str) -> None:
    view = encoder_of(network(kind, 2))
    assert view.in_channels == 2 and view.axes == 3
    features = view.module(torch.randn(1, 2, 32, 32, 32))
    assert [feature.shape[1] for feature in features] == list(view.channels)
    for feature, stride in zip(features, view.strides, strict=True):
        assert tuple(feature.shape[2:]) == tuple(32 // step for step in stride)


@pytest.mark.parametrize("kind", NETWORKS + PRIMUS)
def test_masked_voxels_are_not_seen(kind: str) -> None:
    torch.manual_seed(0)
    view = encoder_of(network(kind, 1))
    view.module.eval()
    mask = torch.zeros(1, 8, 8, 8, dtype=torch.bool)
    mask[:, 2:6, 4:, :4] = True
    voxels = mask.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3).unsqueeze(1)
    patch = (8, 8, 8) if kind in PRIMUS else (4, 4, 4)
    mask = voxels[0, :, :: patch[0], :: patch[1], :: patch[2]]
    token = MaskToken(view.mask_channels, "zero")
    images = torch.randn(1, 1, 32, 32, 32)
    other = torch.where(voxels, torch.randn_like(images), images)
    first, second = (view.features(x, mask, token, patch_size=patch) for x in (images, other))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b)
    whole = view.module(images)
    assert not torch.allclose(whole[-1], first[-1])


def test_transformers_mask_tokens_and_convolutions_voxels() -> None:
    swin, conv = encoder_of(network("swin", 2)), encoder_of(network("resenc", 2))
    assert (swin.is_transformer, swin.mask_channels, swin.token_patch) == (True, 16, (4, 4, 4))
    assert (conv.is_transformer, conv.mask_channels, conv.token_patch) == (False, 2, (4, 4, 4))
    tokens, stems = encoder_of(network("primus", 2)), encoder_of(network("primus_v3", 2))
    assert (tokens.is_transformer, tokens.mask_channels, tokens.token_patch) == (True, 24, (8, 8, 8))
    assert (stems.is_transformer, stems.mask_channels, stems.token_patch) == (True, 2, (8, 8, 8))


def test_patches_may_hold_several_tokens_but_no_part_of_one() -> None:
    view = encoder_of(network("swin", 1))
    token = MaskToken(view.mask_channels, "zero")
    images = torch.randn(1, 1, 32, 32, 32)
    coarse = view.features(images, torch.ones(1, 4, 4, 4).bool(), token, patch_size=(8, 8, 8))
    fine = view.features(images, torch.ones(1, 8, 8, 8).bool(), token, patch_size=(4, 4, 4))
    torch.testing.assert_close(coarse[-1], fine[-1])
    with pytest.raises(ValueError, match="no whole tokens"):
        view.features(images, torch.ones(1, 16, 16, 16).bool(), token, patch_size=(2, 2, 2))


def test_a_bare_encoder_is_its_own_view() -> None:
    encoder = network("swin", 1).encoder
    assert isinstance(encoder, SwinEncoder) and encoder_of(encoder).module is encoder


def test_wrappers_are_looked_through() -> None:
    net = network("plain", 1)
    assert encoder_of(torch.compile(net)).module is net.encoder


def test_other_networks_are_refused() -> None:
    with pytest.raises(ValueError, match="use SwinUNet"):
        encoder_of(nn.Sequential(nn.Conv3d(1, 1, 3)))
