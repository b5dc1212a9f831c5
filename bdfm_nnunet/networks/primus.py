"""Primus as plans name it: stock nnU-Net trainers train and predict with it too.

Primus: Wald et al. 2025, https://arxiv.org/abs/2503.01835.
"""

import math
from collections.abc import Sequence
from typing import Any

from dynamic_network_architectures.architectures import primus as published
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.networks.primus_encoder import PrimusEncoder

_KINDS = {1: "Primus", 2: "PrimusV2", 3: "PrimusV3"}


class PrimusDecoder(nn.Module):
    """The light decoder of Primus: transposed convolutions from tokens to voxels.

    nnU-Net's trainers ask every network for outputs at two resolutions at least, and give the last one no weight. Here
    that is the first one averaged over `pool` voxels, as Primus is published without deep supervision.

    Args:
        up_projection: maps tokens (B, C, *grid) to logits (B, classes, *spatial).
        pool: voxels per axis of the second output.
        deep_supervision: whether there is a second output.
    """

    def __init__(self, up_projection: nn.Module, pool: Sequence[int], *, deep_supervision: bool) -> None:
        super().__init__()
        self.up_projection = up_projection
        self.pool = tuple(pool)
        self.deep_supervision = deep_supervision

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features, finest first, to logits, finest first."""
        logits: Tensor = self.up_projection(features[-1])
        return [logits, functional.avg_pool3d(logits, self.pool)] if self.deep_supervision else [logits]


class PrimusNet(nn.Module):
    """A Primus whose encoder and decoder are where nnU-Net and this package look for them.

    Computes what the class of the same size in dynamic-network-architectures does; names of weights have "encoder." or
    "decoder." in front.

    Args:
        input_channels: channels of the images.
        num_classes: channels of the output (logits).
        input_shape: voxels per axis of the images, multiples of a token; the learned positions are for this size.
        embed_dim: channels of a token.
        eva_depth: attention blocks.
        eva_numheads: heads of each; embed_dim must be a multiple of 6 times as many.
        version: 1 embeds patches by one convolution, 2 and 3 by a stack of residual convolutions.
        strides: as in nnU-Net's plans, starting with ones; their product is the size of a token, (8, 8, 8) in versions
            2 and 3.
        drop_path_rate: probability of dropping the last block; it grows linearly from 0 at the first block.
        init_values: start of the layer scales; None for no layer scales.
        scale_attn_inner: whether attention has a norm before its projection.
        num_register_tokens: learned tokens beside those of the image.
        deep_supervision: return outputs at two resolutions, finest first, instead of only the finest.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.

    Raises:
        ValueError: sizes do not fit each other, or the installed version lacks this kind of Primus.

    Example:
        >>> import torch
        >>> network = PrimusNet(2, 3, input_shape=(16, 16, 24), embed_dim=24, eva_depth=1, eva_numheads=2)
        >>> network(torch.zeros(1, 2, 16, 16, 24)).shape
        torch.Size([1, 3, 16, 16, 24])
    """

    # where nnU-Net's tools for pre-trained networks look
    key_to_encoder = "encoder.eva"
    key_to_stem = "encoder.down_projection"
    keys_to_in_proj: Sequence[str]
    key_to_lpe = "encoder.eva.pos_embed"

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        input_shape: Sequence[int],
        embed_dim: int = 864,
        eva_depth: int = 16,
        eva_numheads: int = 12,
        version: int = 1,
        strides: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2), (4, 4, 4)),
        drop_path_rate: float = 0.2,
        init_values: float | None = 0.1,
        scale_attn_inner: bool = True,
        num_register_tokens: int = 0,
        deep_supervision: bool = False,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        patch = tuple(math.prod(axis) for axis in zip(*strides, strict=True))
        _check(input_shape, patch, strides, embed_dim, eva_numheads, version)
        built = _published(version)(
            input_channels,
            embed_dim,
            patch,
            num_classes,
            eva_depth,
            eva_numheads,
            tuple(input_shape),
            num_register_tokens=num_register_tokens,
            drop_path_rate=drop_path_rate,
            init_values=init_values,
            scale_attn_inner=scale_attn_inner,
        )
        self.keys_to_in_proj = tuple(f"encoder.{key}" for key in built.keys_to_in_proj)
        self.encoder = PrimusEncoder.of(built, gradient_checkpointing=gradient_checkpointing)
        self.decoder = PrimusDecoder(built.up_projection, strides[1], deep_supervision=deep_supervision)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map (B, C, *spatial) to logits (B, classes, *spatial), or with deep supervision a list of them, finest first.

        Raises:
            ValueError: the images are of another size than `input_shape`.
        """
        outputs: list[Tensor] = self.decoder(self.encoder(images))
        return outputs if self.decoder.deep_supervision else outputs[0]


def _published(version: int) -> Any:
    kind = getattr(published, _KINDS[version], None)
    if kind is None:
        raise ValueError(
            f"the installed dynamic-network-architectures has no {_KINDS[version]}: install a newer version of it"
        )
    return kind


def _check(
    shape: Sequence[int],
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    channels: int,
    heads: int,
    version: int,
) -> None:
    if version not in _KINDS:
        raise ValueError(f"version is {version}, expected one of {', '.join(map(str, _KINDS))}")
    if len(strides) < 3 or len(patch) != 3 or any(step != 1 for step in strides[0]):
        raise ValueError(f"strides {strides} must be three or more, of three axes, and start with ones")
    if version > 1 and patch != (8, 8, 8):
        raise ValueError(f"strides {strides} make tokens of {patch} voxels, expected (8, 8, 8) in version {version}")
    if len(shape) != 3 or any(size < step or size % step for size, step in zip(shape, patch)):
        raise ValueError(f"input_shape is {tuple(shape)}, expected multiples of a token's {patch} voxels")
    if channels % (6 * heads):
        raise ValueError(f"embed_dim is {channels}, expected a multiple of {6 * heads} for {heads} heads")
