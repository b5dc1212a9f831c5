"""ResNet-18 encoder in any number of axes, as 3D-Neuro-SimCLR and MONAI have it.

He et al. 2016, https://arxiv.org/abs/1512.03385; in 3-D with stride 1 in the first convolution: Kaczmarek et al. 2025,
https://arxiv.org/abs/2509.10620. Names of parameters, shortcut with bias ("type B") and padding are those of the
released weights, so that these give the same features.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_NORM: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL: dict[int, Any] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}

RELEASED_FEATURES = (64, 128, 256, 512)
"""Channels of the four stages of ResNet-18."""
RELEASED_STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
"""Strides of first convolution, max-pooling and the last three stages in 3D-Neuro-SimCLR."""


class ResNet18(nn.Module):
    """ResNet-18 that gives the features of all its stages.

    A convolution of size 7, batch norm and ReLU; max-pooling of size 3; four stages of two basic blocks. Each stage
    that changes stride or channels has a 1 x 1 shortcut convolution with a bias. A stride of 2 rounds sizes up.

    Args:
        in_channels: channels of the images.
        features: channels of the four stages; the first convolution has those of the first.
        strides: strides per axis of first convolution, max-pooling and the stages after the first, five entries; their
            length is the number of axes.

    Attributes:
        output_channels: channels of each feature, finest first.
        strides: stride of each feature relative to the one before, the first to the image.

    Raises:
        ValueError: not four stages, or strides that do not fit them.

    Example:
        >>> import torch
        >>> encoder = ResNet18(1, features=(8, 16, 32, 64))
        >>> [tuple(features.shape[1:]) for features in encoder(torch.zeros(1, 1, 32, 32, 24))]
        [(8, 32, 32, 24), (8, 16, 16, 12), (16, 8, 8, 6), (32, 4, 4, 3), (64, 2, 2, 2)]
    """

    def __init__(
        self,
        in_channels: int = 1,
        *,
        features: Sequence[int] = RELEASED_FEATURES,
        strides: Sequence[Sequence[int]] = RELEASED_STRIDES,
    ) -> None:
        super().__init__()
        steps = tuple(tuple(int(step) for step in stride) for stride in strides)
        axes = len(steps[0]) if steps else 0
        if len(features) != 4 or len(steps) != 5 or axes not in _CONV or any(len(step) != axes for step in steps):
            raise ValueError(
                f"a ResNet-18 has four stages and five strides of 1 to 3 axes, got features {tuple(features)} and "
                f"strides {steps}"
            )
        first = features[0]
        self.conv1 = _CONV[axes](in_channels, first, 7, stride=steps[0], padding=3, bias=False)
        self.bn1 = _NORM[axes](first)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _POOL[axes](3, stride=steps[1], padding=1)
        self.layer1 = _stage(first, first, (1,) * axes)
        self.layer2 = _stage(first, features[1], steps[2])
        self.layer3 = _stage(features[1], features[2], steps[3])
        self.layer4 = _stage(features[2], features[3], steps[4])
        self.output_channels = (first, *(int(channels) for channels in features))
        self.strides = steps
        self.apply(_initialise)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (B, C, *spatial) to the features before max-pooling and of the four stages, (B, C_i, *spatial_i) each."""
        finest = self.relu(self.bn1(self.conv1(images)))
        features = [finest, self.layer1(self.maxpool(finest))]
        for stage in (self.layer2, self.layer3, self.layer4):
            features.append(stage(features[-1]))
        return features


class BasicBlock(nn.Module):
    """Two convolutions of size 3 with batch norm, added to their input or to its projection.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        stride: stride of the first convolution, one number per axis.
    """

    def __init__(self, in_channels: int, channels: int, stride: tuple[int, ...]) -> None:
        super().__init__()
        conv, norm = _CONV[len(stride)], _NORM[len(stride)]
        self.conv1 = conv(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm(channels)
        self.downsample: nn.Module | None = None
        if in_channels != channels or any(step != 1 for step in stride):
            # the bias does nothing in training, but running means hold it: without it, features in evaluation differ
            self.downsample = nn.Sequential(conv(in_channels, channels, 1, stride=stride, bias=True), norm(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C_in, *spatial) to (B, C, *spatial / stride)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        found = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(features)))))
        added: Tensor = self.relu(found.add_(shortcut))
        return added


def _stage(in_channels: int, channels: int, stride: tuple[int, ...]) -> nn.Sequential:
    return nn.Sequential(BasicBlock(in_channels, channels, stride), BasicBlock(channels, channels, (1,) * len(stride)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
