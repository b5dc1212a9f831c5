"""U-Net with a ResNet-18 encoder; plans files name it, and stock nnU-Net trainers train and predict with it too."""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from bdfm_nnunet.networks.resnet import ResNet18
from bdfm_nnunet.networks.skip_decoder import SkipDecoder, on_padded


class ResNet18UNet(nn.Module):
    """A ResNet-18 encoder, and a convolutional decoder with skip connections at every stage.

    The finest skip is the encoder's first convolution at full resolution, so that all of what the decoder gets can be
    pre-trained. Without changes to strides and features, weights of 3D-Neuro-SimCLR fit the encoder.

    Args:
        input_channels: channels of the images.
        num_classes: channels of the output (logits).
        strides: strides per stage and axis, as in nnU-Net's plans: of the first convolution (ones), the max-pooling and
            the three stages after the first.
        features_per_stage: channels of the first convolution and of the four stages; the first two are the same.
        decoder_features: channels of each decoder stage, finest first; by default those of the encoder's features.
        n_conv_per_stage_decoder: convolutions of each decoder stage: one number, or one per stage, deepest first.
        deep_supervision: return the outputs of all decoder stages, finest first, instead of only the finest.

    Raises:
        ValueError: strides and features do not fit each other.

    Example:
        >>> import torch
        >>> network = ResNet18UNet(4, 3, features_per_stage=(8, 8, 16, 32, 64), decoder_features=(8, 8, 16, 32))
        >>> network(torch.zeros(1, 4, 33, 30, 16)).shape
        torch.Size([1, 3, 33, 30, 16])
    """

    # where nnU-Net's tools for pre-trained networks look
    key_to_encoder = "encoder"
    key_to_stem = "encoder.conv1"
    keys_to_in_proj = ("encoder.conv1",)
    key_to_lpe = None

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        *,
        strides: Sequence[Sequence[int]] = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2)),
        features_per_stage: Sequence[int] = (64, 64, 128, 256, 512),
        decoder_features: Sequence[int] | None = None,
        n_conv_per_stage_decoder: int | Sequence[int] = 1,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if any(step != 1 for step in strides[0]) or list(features_per_stage[:1]) != list(features_per_stage[1:2]):
            raise ValueError(
                f"strides {strides} must start with ones, and features_per_stage {features_per_stage} with the same "
                "number twice"
            )
        self.encoder = ResNet18(input_channels, features=features_per_stage[1:], strides=strides)
        self.decoder = SkipDecoder(
            features_per_stage,
            strides[1:],
            num_classes,
            convs=n_conv_per_stage_decoder,
            deep_supervision=deep_supervision,
            widths=decoder_features,
        )
        self.total_stride = tuple(math.prod(axis) for axis in zip(*strides, strict=True))

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Map (B, C, *spatial) to logits (B, classes, *spatial), or with deep supervision a list of them, finest first.

        Sizes that are not multiples of the network's total stride are padded with zeros; the outputs are cut back.
        """
        outputs = on_padded(images, self.total_stride, lambda padded: self.decoder(self.encoder(padded)))
        return outputs if self.decoder.deep_supervision else outputs[0]
