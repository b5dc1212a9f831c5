"""U-Net with a Swin encoder; plans files name it, and stock nnU-Net trainers train and predict with it too."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from bdfm_nnunet.networks.attention_windows import Legacy
from bdfm_nnunet.networks.patch_merging import MergingOrder
from bdfm_nnunet.networks.skip_decoder import ConvStage, SkipDecoder, on_padded
from bdfm_nnunet.networks.swin import SwinEncoder


class SwinUNet(nn.Module):
    """Full-resolution convolutions, a Swin encoder, and a convolutional decoder with skip connections at every stage.

    Args:
        input_channels: channels of the images.
        num_classes: channels of the output (logits).
        strides: strides per stage and axis, as in nnU-Net's plans. The first entry is all ones (the full-resolution
            convolutions), the second is the token patch, the others are the merging before each further Swin stage.
        features_per_stage: channels of each stage, including the convolutional one.
        depths: blocks of each Swin stage.
        num_heads: heads of each Swin stage.
        window_size: tokens per axis of a window.
        mlp_ratio: width of the perceptrons, relative to the channels.
        drop_path_rate: stochastic depth of the last block.
        n_conv_per_stage_decoder: convolutions of each decoder stage: one number, or one per stage, deepest first.
        deep_supervision: return the outputs of all decoder stages, finest first, instead of only the finest.
        gradient_checkpointing: recompute the Swin blocks in the backward pass.
        legacy: attention as in BDFM's code, or "reversed" as in MONAI's, see `SwinEncoder`.
        merging_order: neighbours that are merged, "swin" or "monai-1.4", see `PatchMerging`.

    Raises:
        ValueError: strides, features, depths and heads do not fit each other.

    Example:
        >>> import torch
        >>> network = SwinUNet(
        ...     4, 3, strides=((1, 1, 1), (4, 4, 4), (2, 2, 2)), features_per_stage=(8, 24, 48), depths=(2, 2),
        ...     num_heads=(2, 4), window_size=(4, 4, 4),
        ... )
        >>> network(torch.zeros(1, 4, 32, 32, 32)).shape
        torch.Size([1, 3, 32, 32, 32])
    """

    # where nnU-Net's tools for pre-trained networks look
    key_to_encoder = "encoder"
    key_to_stem = "encoder.patch_embed"
    keys_to_in_proj = ("encoder.patch_embed", "stem.convs.0.0")
    key_to_lpe = None

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        strides: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_size: Sequence[int],
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        n_conv_per_stage_decoder: int | Sequence[int] = 1,
        deep_supervision: bool = False,
        gradient_checkpointing: bool = False,
        legacy: Legacy = False,
        merging_order: MergingOrder = "swin",
    ) -> None:
        super().__init__()
        if len(strides) < 2 or any(step != 1 for step in strides[0]) or len(strides) != len(features_per_stage):
            raise ValueError(
                f"strides {strides} must start with ones and have one entry for each of the "
                f"{len(features_per_stage)} features_per_stage, at least two"
            )
        self.stem = ConvStage(input_channels, features_per_stage[0], 2, axes=len(strides[0]))
        self.encoder = SwinEncoder(
            input_channels,
            patch_size=strides[1],
            features=features_per_stage[1:],
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            merging=strides[2:],
            mlp_ratio=mlp_ratio,
            drop_path_rate=drop_path_rate,
            gradient_checkpointing=gradient_checkpointing,
            legacy=legacy,
            merging_order=merging_order,
        )
        self.decoder = SkipDecoder(
            features_per_stage,
            strides[1:],
            num_classes,
            convs=n_conv_per_stage_decoder,
            deep_supervision=deep_supervision,
        )
        self.total_stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map (B, C, *spatial) to logits (B, classes, *spatial), or with deep supervision a list of them, finest first.

        Sizes that are not multiples of the network's total stride are padded with zeros; the outputs are cut back.
        """
        outputs = on_padded(
            images, self.total_stride, lambda padded: self.decoder([self.stem(padded), *self.encoder(padded)])
        )
        return outputs if self.decoder.deep_supervision else outputs[0]
