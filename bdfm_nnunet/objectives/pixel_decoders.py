"""Light decoders from an encoder's features to voxels; a small decoder leaves the learning to the encoder."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bdfm_nnunet.frequency import unpatchify
from bdfm_nnunet.networks.encoders import EncoderView
from bdfm_nnunet.settings import DecoderKind
from bdfm_nnunet.step_checks import check_network_decoder

# the last layer starts near zero, so the first reconstruction is flat instead of noise
_QUIET = 0.02


class Expand(nn.Module):
    """Expansion of each position to a patch: a transposed convolution whose stride is its kernel size.

    Args:
        in_channels: channels of the features.
        out_channels: channels of the patches.
        stride: voxels per axis of a patch.
        std: standard deviation of the initial weights; by default it preserves the variance.

    Example:
        >>> Expand(16, 1, (4, 4, 4))(torch.rand(2, 16, 3, 3, 3)).shape
        torch.Size([2, 1, 12, 12, 12])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: Sequence[int], *, std: float | None = None) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels, *stride))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.trunc_normal_(self.weight, std=in_channels**-0.5 if std is None else std)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C_in, *grid) to (B, C_out, *grid times stride)."""
        batch, _, *grid = features.shape
        patches = functional.linear(features.movedim(1, -1), self.weight.flatten(1).T)
        voxels = unpatchify(patches.reshape(batch, -1, self.weight.shape[1], *self.stride), grid)
        return voxels + self.bias.reshape(-1, *(1,) * len(grid))


class StemRefinement(nn.Module):
    """Correction of a reconstruction by the features of a network's full-resolution stem, voxel by voxel.

    Args:
        channels: channels of the stem's features.
        outputs: channels of the reconstruction.
        axes: number of spatial axes.

    Example:
        >>> refine = StemRefinement(8, 1, axes=3)
        >>> refine(torch.rand(2, 1, 12, 12, 12), torch.rand(2, 8, 12, 12, 12)).shape
        torch.Size([2, 1, 12, 12, 12])
    """

    def __init__(self, channels: int, outputs: int, axes: int) -> None:
        super().__init__()
        self.lift = Expand(outputs, channels, (1,) * axes)
        self.correct = Expand(channels, outputs, (1,) * axes, std=_QUIET)

    def forward(self, rebuilt: Tensor, features: Tensor) -> Tensor:
        """Map a reconstruction (B, outputs, *spatial) and features (B, channels, *spatial) to a reconstruction."""
        corrected: Tensor = rebuilt + self.correct(functional.gelu(features + self.lift(rebuilt)))
        return corrected


class FinalDecoder(nn.Module):
    """The published pixel decoder: two expansions from the encoder's last features.

    Args:
        channels: channels of the last features.
        stride: stride of the last features in voxels per axis.
        hidden: channels between the two expansions.
        out_channels: channels of the output.

    Example:
        >>> decoder = FinalDecoder(64, (32, 32, 32), hidden=16, out_channels=1)
        >>> decoder([torch.rand(1, 32, 4, 4, 4), torch.rand(1, 64, 2, 2, 2)]).shape
        torch.Size([1, 1, 64, 64, 64])
    """

    def __init__(self, channels: int, stride: Sequence[int], hidden: int, out_channels: int) -> None:
        super().__init__()
        first = [math.gcd(step, 8) for step in stride]
        self.expand = Expand(channels, hidden, first)
        self.project = Expand(
            hidden, out_channels, [step // part for step, part in zip(stride, first, strict=True)], std=_QUIET
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features, finest first, to (B, out_channels, *spatial)."""
        return self.project(self.expand(features[-1]))


class PyramidDecoder(nn.Module):
    """Decoder that joins the features of all stages from the coarsest up, then expands them to voxels.

    It leaves out stages finer than 32 voxels per position, which convolutional encoders have: at full resolution a
    decoder would cost more than the encoder.

    Args:
        channels: channels of the features, finest first.
        strides: stride of each feature in voxels per axis.
        hidden: channels of the joined features.
        out_channels: channels of the output.

    Example:
        >>> decoder = PyramidDecoder((32, 64), ((4, 4, 4), (8, 8, 8)), hidden=16, out_channels=1)
        >>> decoder([torch.rand(1, 32, 4, 4, 4), torch.rand(1, 64, 2, 2, 2)]).shape
        torch.Size([1, 1, 16, 16, 16])
    """

    def __init__(
        self, channels: Sequence[int], strides: Sequence[Sequence[int]], hidden: int, out_channels: int
    ) -> None:
        super().__init__()
        volumes = [math.prod(stride) for stride in strides]
        self.finest = next((i for i, volume in enumerate(volumes) if volume >= 32), len(volumes) - 1)
        used = range(self.finest, len(channels))
        self.laterals = nn.ModuleList(nn.Linear(channels[i], hidden) for i in used)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in used)
        self.expands = nn.ModuleList(
            Expand(hidden, hidden, [coarse // fine for coarse, fine in zip(strides[i + 1], strides[i], strict=True)])
            for i in used[:-1]
        )
        self.project = Expand(hidden, out_channels, strides[self.finest], std=_QUIET)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features (B, C_i, *spatial_i), finest first, to (B, out_channels, *spatial)."""
        joined: Tensor | None = None
        for level in reversed(range(len(self.laterals))):
            lateral = self.laterals[level](features[self.finest + level].movedim(1, -1))
            if joined is not None:
                lateral = lateral + self.expands[level](joined).movedim(1, -1)
            joined = functional.gelu(self.norms[level](lateral)).movedim(-1, 1)
        assert joined is not None
        return self.project(joined)


class NetworkDecoder(nn.Module):
    """The decoder of the planned network itself, with one head for voxels in place of its segmentation heads.

    What it learns can be fine-tuned with the encoder (`finetuning.decoder`), so that no part of the network but the
    segmentation heads starts anew.

    Args:
        decoder: maps features, finest first, to the output of its heads, the modules `seg_layers`, which are removed.
        out_channels: channels of the output.

    Example:
        >>> from bdfm_nnunet.networks import SwinUNet, encoder_of
        >>> network = SwinUNet(
        ...     1, 2, strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2]], features_per_stage=[4, 8, 16], depths=[1, 1],
        ...     num_heads=[1, 2], window_size=[2, 2, 2],
        ... )
        >>> view, images = encoder_of(network), torch.rand(1, 1, 16, 16, 16)

        >>> decoder = NetworkDecoder(view.decoder, out_channels=1)
        >>> decoder([view.stem(images), *view.module(images)]).shape
        torch.Size([1, 1, 16, 16, 16])
    """

    decoder: nn.Module

    def __init__(self, decoder: nn.Module, out_channels: int) -> None:
        super().__init__()
        parts: Any = decoder
        kernel = next(each for each in parts.stages[-1].parameters() if each.ndim > 2)
        parts.seg_layers = nn.ModuleList(nn.Identity() for _ in parts.seg_layers)
        decoder._modules.pop("encoder", None)  # a second name that nnU-Net's decoders have for it, and do not use
        # no second name of its weights: the objective has it as `decoder`, where fine-tuning looks for it
        object.__setattr__(self, "decoder", decoder)
        self.project = Expand(kernel.shape[0], out_channels, (1,) * (kernel.ndim - 2), std=_QUIET)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Map features, finest first and with those of a stem, to (B, out_channels, *spatial)."""
        found = self.decoder(list(features))
        return self.project(found[0] if isinstance(found, list) else found)


def pixel_decoder(view: EncoderView, kind: DecoderKind, hidden: int, out_channels: int) -> nn.Module:
    """Return the decoder of an encoder's features that a setting names.

    Args:
        view: the encoder.
        kind: "pyramid" joins all stages, "final" reads the last one, "network" is the network's own.
        hidden: channels of the decoder, where it is not the network's own.
        out_channels: channels of the output.

    Raises:
        InputError: the network's own is asked for, and it has none.

    Example:
        >>> from bdfm_nnunet.networks import SwinUNet, encoder_of
        >>> network = SwinUNet(
        ...     1, 2, strides=[[1, 1, 1], [4, 4, 4], [2, 2, 2]], features_per_stage=[4, 8, 16], depths=[1, 1],
        ...     num_heads=[1, 2], window_size=[2, 2, 2],
        ... )
        >>> view, images = encoder_of(network), torch.rand(1, 1, 16, 16, 16)

        >>> for kind in ("pyramid", "final"):
        ...     print(type(pixel_decoder(view, kind, 8, 1)).__name__)
        PyramidDecoder
        FinalDecoder
    """
    if kind == "network":
        check_network_decoder(has_decoder=view.decoder is not None)
        assert view.decoder is not None
        return NetworkDecoder(view.decoder, out_channels)
    if kind == "final":
        return FinalDecoder(view.channels[-1], view.strides[-1], hidden, out_channels)
    return PyramidDecoder(view.channels, view.strides, hidden, out_channels)
