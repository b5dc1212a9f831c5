"""NeuroSTORM as plans files name it: its encoder, and its decoder with outputs for every voxel and frame.

NeuroSTORM: Wang et al. 2025, https://arxiv.org/abs/2506.11167.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from bdfm_nnunet.networks.neurostorm import NeurostormEncoder
from bdfm_nnunet.networks.neurostorm_decoder import NeurostormDecoder


class NeuroSTORM(nn.Module):
    """An encoder of 4-D images and a decoder of its last features; time is the last axis.

    Pre-training and tasks of whole subjects take the encoder alone, see `encoder_of`.

    Args:
        input_channels: channels of the images.
        num_classes: channels of the output.
        deep_supervision: return the output as a list of one, as nnU-Net's trainers expect it; there are no others.
        input_shape: voxels per axis and frames of an image, whole multiples of the product of all strides. Images may
            have other numbers of frames, see `NeurostormEncoder`.
        strides: strides per stage and axis, as in nnU-Net's plans. The first entry is all ones, the second is the
            token patch, the others are the merging before each further stage.
        features_per_stage: channels of each stage, from that of the tokens on.
        depths: blocks of each of them.
        window_size: tokens per axis of a window.
        mlp_ratio: width of the perceptrons, relative to the channels.
        full_last_window: windows of the last stage hold its whole grid in space and are not shifted.
        both_directions: also scan each window from its end.
        frame_seconds: seconds from a frame to the next, for positions in seconds; by default frames are counted.
        table_seconds: seconds between the frames that the positions in time stand for.
        gradient_checkpointing: recompute each block in the backward pass instead of keeping its activations.
        legacy: compute what the published code does, see `NeurostormEncoder`.

    Raises:
        ValueError: strides, features and depths do not fit each other, or the shape is no multiple of the strides.

    Example:
        >>> import torch
        >>> network = NeuroSTORM(
        ...     1, 2, input_shape=(8, 8, 8, 4), strides=((1, 1, 1, 1), (2, 2, 2, 1), (2, 2, 2, 1)),
        ...     features_per_stage=(4, 8), depths=(2, 1), window_size=(2, 2, 2, 2),
        ... )
        >>> network(torch.zeros(1, 1, 8, 8, 8, 3)).shape
        torch.Size([1, 2, 8, 8, 8, 3])
    """

    # where nnU-Net's tools for pre-trained networks look
    key_to_encoder = "encoder"
    key_to_stem = "encoder.patch_embed"
    keys_to_in_proj = ("encoder.patch_embed",)
    key_to_lpe = None

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        deep_supervision: bool = False,
        *,
        input_shape: Sequence[int],
        strides: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        depths: Sequence[int],
        window_size: Sequence[int],
        mlp_ratio: float = 4.0,
        full_last_window: bool = True,
        both_directions: bool = False,
        frame_seconds: float | None = None,
        table_seconds: float = 0.8,
        gradient_checkpointing: bool = False,
        legacy: bool = False,
    ) -> None:
        super().__init__()
        _check_strides(strides, input_shape, features_per_stage)
        self.encoder = NeurostormEncoder(
            input_channels,
            image_size=input_shape,
            patch_size=strides[1],
            features=features_per_stage,
            depths=depths,
            window_size=window_size,
            merging=strides[2:],
            mlp_ratio=mlp_ratio,
            full_last_window=full_last_window,
            both_directions=both_directions,
            frame_seconds=frame_seconds,
            table_seconds=table_seconds,
            gradient_checkpointing=gradient_checkpointing,
            legacy=legacy,
        )
        self.decoder = NeurostormDecoder(self.encoder, num_classes)
        self.deep_supervision = deep_supervision

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map (B, C, *spatial, T) to (B, classes, *spatial, T), or with deep supervision to a list of it."""
        output: Tensor = self.decoder(self.encoder(images)[-1])
        return [output] if self.deep_supervision else output


def _check_strides(
    strides: Sequence[Sequence[int]], input_shape: Sequence[int], features_per_stage: Sequence[int]
) -> None:
    if len(strides) != len(features_per_stage) + 1 or len(strides) < 2 or any(step != 1 for step in strides[0]):
        raise ValueError(
            f"strides {strides} must start with ones and have one entry more than the {len(features_per_stage)} "
            "features_per_stage"
        )
    left = list(input_shape)
    for stride in strides:
        if len(stride) != len(left) or any(size % step for size, step in zip(left, stride)):
            raise ValueError(f"input_shape {list(input_shape)} is no multiple of all strides {strides}")
        left = [size // step for size, step in zip(left, stride)]
