"""Every way in which a Swin encoder may come: with and without the name of the encoder, Microsoft's MLP or ours."""

import pytest
import torch

from bdfm_nnunet.checkpoints.readers.plain_reader import PlainReader
from bdfm_nnunet.checkpoints.readers.swin_names import has_swin_names

THEIRS = {
    "patch_embed.proj.weight": "encoder.patch_embed.weight",
    "layers.0.blocks.1.attn.qkv.weight": "encoder.stages.0.blocks.1.attn.qkv.weight",
    "layers.0.blocks.1.mlp.fc1.bias": "encoder.stages.0.blocks.1.mlp.0.bias",
    "layers.1.blocks.0.mlp.fc2.weight": "encoder.stages.1.blocks.0.mlp.2.weight",
    "layers.9.downsample.norm.weight": "encoder.stages.10.merging.norm.weight",
}
DERIVED = ("layers.0.blocks.1.attn.relative_position_index", "layers.0.attn_mask")


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_names_become_ours(prefix: str) -> None:
    weights = {prefix + name: torch.full((1,), float(at)) for at, name in enumerate([*THEIRS, *DERIVED])}
    renamed = PlainReader().rename(weights)
    assert list(renamed.weights) == list(THEIRS.values())
    assert [value.item() for value in renamed.weights.values()] == [0, 1, 2, 3, 4]
    assert renamed.dropped == dict.fromkeys((prefix + name for name in DERIVED), "derived from other entries")


def test_parts_around_the_encoder() -> None:
    names = ["layers.0.blocks.0.attn.qkv.weight", "mask_token", "conv3d_transpose.bias", "conv3d_transpose_1.bias"]
    renamed = PlainReader().rename({name: torch.ones(1) for name in names}).weights
    assert [*renamed][1:] == ["mask_token.value", "pixel_decoder.expand.bias", "pixel_decoder.project.bias"]


def test_names_of_other_networks_stay() -> None:
    """MONAI's stages are called layers1 and so on; a decoder's copy of the encoder is dropped everywhere."""
    names = ["layers1.0.blocks.0.attn.qkv.weight", "mask_token", "layers.0.weight", "decoder.encoder.a"]
    assert not has_swin_names(names)
    renamed = PlainReader().rename({name: torch.ones(1) for name in names})
    assert list(renamed.weights) == names[:3] and list(renamed.dropped) == names[3:]
